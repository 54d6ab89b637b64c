"""Which images a folder holds and what it says of each; the layout is recognised from what lies there.

- class folders: one folder a diagnosis, alone or under `Train/`, `Val/` and `Test/` (the nine-class Kaggle set,
  HAM10000 by `dx`, any `imagefolder`), with a table of metadata beside them or none
- images and tables: HAM10000 (`HAM10000_metadata.csv`), the ISIC challenges of 2017 to 2020 (ground truth, and their
  metadata and lesion tables), a download of the ISIC archive by isic-cli and PAD-UFES-20 (both `metadata.csv`)

Where a folder and a table, or two tables, name one image differently, the word that says more counts: that it is a
squamous cell carcinoma, beside `akiec`. Of words that contradict each other the folder's counts and the difference is
counted; two tables that contradict each other are refused. A shipped validation split counts as training images.

No image is opened here.
"""

import dataclasses
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dermalert_space.contract import Json

from dermalert import taxonomy
from dermalert.data import (
    folder_files,
    id_spaces,
    identifiers,
    matching,
    metadata_tables,
    shipped_splits,
    table_cells,
    table_columns,
)
from dermalert.data.records import DERMOSCOPIC, Record, Selection, leave_out_kinds, warn_of_nobody
from dermalert.data.unused import Unused
from dermalert.errors import UsageError

logger = logging.getLogger(__name__)

_WHOSE = ("lesion_id", "patient_id")
_NO_METADATA: dict[str, Any] = {}  # one for all images


def records(
    root: Path,
    columns: table_columns.Columns,
    space: str | None = None,
    selection: Selection | None = None,
    *,
    labels: Path | None = None,
    labelled: bool = True,
) -> list[Record]:
    """What a folder holds, under the source's own names.

    Args:
        root: the folder.
        columns: the fields' columns.
        space: see `Record.space`; by default the name of `home`.
        selection: which kinds of pictures are taken; by default dermoscopy alone.
        labels: the one table whose diagnoses count, wherever it lies; by default what the folder itself says.
        labelled: without it no image has a diagnosis, and each is taken.

    Raises:
        UsageError: the layout is none of those above, its tables contradict each other, or columns that were named are
            not there.
    """
    root = root.absolute() if str(root) == "." else root  # so that all paths begin alike
    unused = Unused(str(root))
    images, others, masks = folder_files.sort_files(root)
    near = _official_tables(root)
    files = sorted(Path(path) for path in others if metadata_tables.is_table(Path(path)))
    tables, beside = metadata_tables.read(files, columns, unused), metadata_tables.read(near, table_columns.Columns())
    if labels:
        own = metadata_tables.read([labels], columns)
        if not any(table.names_a_diagnosis for table in own):
            raise UsageError(
                f"'{labels}' is no table of labels: it needs a header with a column that names the image and one that "
                "names the diagnosis (--columns FIELD=COLUMN says which)."
            )
        tables, beside = own, [table for table in (*tables, *beside) if table.path.resolve() != labels.resolve()]
    source, space = (
        identifiers.clean(root.resolve().name) or "unknown",
        space or identifiers.clean(id_spaces.home(root).name),
    )
    duplicates = _duplicates([*files, *near])
    folder = _Folder(root, images, tables, beside, unused, selection or Selection())
    records = [
        dataclasses.replace(
            record, row=i, source=source, space=space, duplicates=tuple(duplicates.get(record.image_id, ()))
        )
        for i, record in enumerate(_records(folder, columns, labels) if labelled else _without_labels(folder))
    ]
    read = {record.path for record in records}
    texts = [path for path in others if path not in read and folder_files.suffix(path) in folder_files.TEXTS]
    of_images = "{n} texts in '{where}' hold a table or a list of images, and are not read (a table is called .csv)"
    unused.add(of_images, map(os.path.basename, folder_files.tables_among(texts, images)))
    mask = "left out {n} images of '{where}' because their names end as those of masks do"
    unused.add(mask, map(os.path.basename, folder_files.masks_without_photo(masks, images)))
    strange = [path for path in others if path not in read and not folder_files.is_harmless(path)]
    unused.add("{n} files in '{where}' are neither images nor tables", map(os.path.basename, strange))
    unused.report()
    return records


class _Folder:
    """A folder's images and tables, and which row of which table means which image."""

    def __init__(
        self,
        root: Path,
        images: list[str],
        tables: list[metadata_tables.Table],
        beside: list[metadata_tables.Table],
        unused: Unused,
        selection: Selection,
    ):
        self.root, self.images, self.unused, self.selection = root, images, unused, selection
        self.matches: list[tuple[metadata_tables.Table, matching.Match]] = []
        if tables or beside:
            base = len(str(root)) + 1
            files = matching.Files(images, lambda path: path[base:])
            inside = (table.path.parent if table.path.is_relative_to(root) else root for table in tables)
            own = [(t, identifiers.parts(place.relative_to(root))) for t, place in zip(tables, inside, strict=True)]
            for table, folder in [*own, *((table, ()) for table in beside)]:
                table = table.of_files(files.has)
                self.matches.append((table, matching.match(table, files, folder)))
        self.own = self.matches[: len(tables)]
        self.labelling = [(t, m) for t, m in self.own if t.names_a_diagnosis and (m.rows or m.ambiguous)] or [
            (t, m) for t, m in self.matches[len(tables) :] if t.names_a_diagnosis and (m.rows or m.ambiguous)
        ]

    def metadata(self) -> dict[str, dict[str, Any]]:
        """What the tables know of each image, by path; say what stands for nobody, and what contradicts."""
        by_path: dict[str, dict[str, Any]] = {}
        nobody: Counter[str] = Counter()
        against = []
        for path, row, table in self._rows():
            metadata, before = table_cells.metadata_of(row, table.columns, nobody), by_path.get(path)
            other = _other_archive_id(before.get("lesion_id"), metadata.get("lesion_id")) if before else None
            if before and other:
                before, metadata = before | {"other_lesion_id": other}, metadata | {"lesion_id": before["lesion_id"]}
            if before and not all(map(_agree, map(metadata.get, _WHOSE), map(before.get, _WHOSE))):
                against.append(os.path.relpath(path, self.root))
            by_path[path] = metadata | before if before else metadata
        self.unused.add(
            "{n} images in '{where}' have several lesions or patients by their rows, of which the first counts", against
        )
        warn_of_nobody(nobody, str(self.root))
        return by_path

    def splits(self) -> dict[str, str]:
        """The shipped split of each image by the tables' own columns: `test` where any row says so."""
        by_path: dict[str, str | None] = {}
        for path, row, table in self._rows("split"):
            by_path[path] = _merge_splits(by_path.get(path), shipped_splits.split_of(row, table.columns))
        return {path: split for path, split in by_path.items() if split}

    def _rows(self, field: str | None = None) -> Iterator[tuple[str, dict[str, Any], metadata_tables.Table]]:
        """Yield each image's path with each row that means it, and its table, of the tables with that field."""
        for table, match in self.matches:
            if field is None or field in table.columns:
                yield from ((path, row, table) for path, rows in match.rows.items() for row in rows)

    def report(self) -> None:
        """Collect what the folder's own tables hold and nothing uses."""
        for table, match in self.own:
            name = table.path.name
            if table.path.is_relative_to(self.root):
                name = table.path.relative_to(self.root).as_posix()
            self.unused.add(f"{{n}} rows of '{name}' name no image", table.nameless)
            if not table.entries and not table.nameless:
                self.unused.add("{n} tables in '{where}' have a header and no rows", [name])
            if not match.rows:
                kept = f"'{name}' in '{{where}}' means no image that is there, so that its {{n}} rows are not used"
                self.unused.add(kept, match.without_file or [row for _, row in match.contested])
            elif match.without_file:
                self.unused.add("{n} rows of '{where}' have no image", match.without_file)
            if match.contested:
                files = dict.fromkeys(path for path, _ in match.contested)
                self.unused.add("{n} images are meant by several rows each, so that none is taken", files)
            shifted = f"{{n}} rows of '{name}' have more cells than it has columns, and may be shifted"
            self.unused.add(shifted, table.overlong)
            unread = table.unused_columns if match.rows else ()
            self.unused.add(f"{{n}} columns of '{name}' are not used (--columns FIELD=COLUMN reads one)", unread)

    def without_row(self) -> list[str]:
        """The images that no table means, each name once."""
        matched = {path for _, match in self.matches for path in match.rows}
        return list(
            {folder_files.stem(path): os.path.basename(path) for path in self.images if path not in matched}.values()
        )


def _other_archive_id(one: str | None, other: str | None) -> str | None:
    """The second id of a lesion where both are the archive's, such as `HAM_0000897` beside `IL_5004938`."""
    if not (one and other and identifiers.is_archive_id(one) and identifiers.is_archive_id(other)):
        return None
    return other if one.partition("_")[0] != other.partition("_")[0] else None


def _agree(one: str | None, other: str | None) -> bool:
    """Tell whether two ids may be one: in another spelling, or a lesion's number with and without its patient."""
    a, b = identifiers.key(one or ""), identifiers.key(other or "")
    return not a or not b or a == b or f"_{one}".endswith(f"_{other}") or f"_{other}".endswith(f"_{one}")


def _official_tables(root: Path) -> list[Path]:
    """The tables of the archive and the challenges beside a folder."""
    near = sorted([*root.parent.iterdir(), *(root.parent / "metadata").glob("*")])
    return [path for path in near if folder_files.OFFICIAL_TABLE.match(path.name)]


def say_diagnoses(root: Path, columns: table_columns.Columns) -> bool:
    """Whether folders of classes, or tables in a folder or beside it, say what its images show."""
    classes = [
        *(path.name for path in _folders(root)),
        *(p.name for _, each in _split_folders(root) for p in _folders(each)),
    ]
    if any(_meaning(name) in taxonomy.DIAGNOSES or taxonomy.plain(name) in taxonomy.MALIGNANCIES for name in classes):
        return True
    _, others, _ = folder_files.sort_files(root)
    files = sorted(Path(path) for path in others if metadata_tables.is_table(Path(path)))
    tables = metadata_tables.read(files, columns) + metadata_tables.read(
        _official_tables(root), table_columns.Columns()
    )
    return any(table.names_a_diagnosis for table in tables)


def _without_labels(folder: _Folder) -> list[Record]:
    """All images, with what the tables know of them but what they show."""
    _forget_namesakes(folder)
    metadata = folder.metadata()
    records = [
        Record(image_id=folder_files.image_id_of(path), name="", path=path, metadata=metadata.get(path, _NO_METADATA))
        for path in folder.images
    ]
    return _without_other_kinds(records, folder.selection, folder.root)


def _records(folder: _Folder, columns: table_columns.Columns, labels: Path | None) -> list[Record]:
    root = folder.root
    folder.report()
    if labels:
        if not folder.labelling:
            raise UsageError(
                f"'{labels}' names none of the {len(folder.images):,} images in '{root}': are these the labels of "
                "other files? Its column of names must hold the names of the files, with or without their ending."
            )
        return _from_tables(folder)
    if _has_class_folders(root):
        return _class_folders(folder)
    if folder.labelling:
        return _from_tables(folder)
    if any(os.path.dirname(path) == str(root) for path in folder.images):
        columns.check()  # which may be why
        folder.unused.report()
        raise UsageError(
            f"'{root}' has images and nothing that says what they show: put them into one folder a diagnosis, or the "
            "source's own table beside them (HAM10000_metadata.csv, an ISIC ground truth, metadata.csv)."
        )
    return _class_folders(folder)


def _duplicates(files: Iterable[Path]) -> dict[str, list[str]]:
    duplicates: dict[str, list[str]] = {}
    for first, second in metadata_tables.listed_duplicates(files):
        duplicates.setdefault(first, []).append(second)
    return duplicates


def _has_class_folders(root: Path) -> bool:
    for folder in [*(folder for _, folder in _split_folders(root)), root]:
        for class_folder in _folders(folder):
            if _meaning(class_folder.name) in taxonomy.DIAGNOSES and any(p.is_file() for p in class_folder.iterdir()):
                return True
    return False


def _class_folders(folder: _Folder) -> list[Record]:
    root, splits = folder.root, _split_folders(folder.root)
    _forget_namesakes(folder)
    metadata, shipped = folder.metadata(), folder.splits()
    parts: list[tuple[str | None, Path]] = [*splits] if splits else [(None, root)]
    records = [
        dataclasses.replace(record, shipped_split=_merge_splits(record.shipped_split, shipped.get(record.path)))
        for split, place in parts
        for class_folder in _folders(place)
        for record in _class_folder(class_folder, split, metadata, folder.unused)
    ]
    against: Counter[str] = Counter()
    labelling = [(table, match) for table, match in folder.matches if table.names_a_diagnosis]
    records = [_refine(record, labelling, against) for record in records]
    if against:
        words = ", ".join(f"{n} {pair}" for pair, n in against.most_common())
        logger.warning(
            "%d images in '%s' are something else by a table, and keep their folder's name: %s",
            against.total(),
            root,
            words,
        )
    if any(match.rows for _, match in folder.own):
        folder.unused.add("{n} images in '{where}' have no row", folder.without_row())
    aside = [p for p in _folders(root) if p not in [place for _, place in splits]]
    if splits and aside:
        folder.unused.add("left out {n} folders that stand beside the folders of a shipped split", aside)
    places = {str(place) for place in (root, *(place for _, place in splits))}
    loose = [os.path.relpath(path, root) for path in folder.images if os.path.dirname(path) in places]
    folder.unused.add("left out {n} images of '{where}' that lie in no folder of a diagnosis", loose)
    _say_test(records, shipped, root)
    return _without_other_kinds(records, folder.selection, root)


def _merge_splits(one: str | None, other: str | None) -> str | None:
    """The shipped split by two that tell: what either calls the test is never trained on."""
    return "test" if "test" in (one, other) else one or other


def _say_test(records: list[Record], shipped: Mapping[str, str], root: Path) -> None:
    tested = sum(shipped.get(record.path) == "test" for record in records)
    if tested:
        logger.warning("%d images of '%s' are the test by its table's split, and not trained on", tested, root)


def _without_other_kinds(records: list[Record], selection: Selection, root: Path) -> list[Record]:
    """The records of the kinds of pictures that are taken; what no table says to be another kind is dermoscopy."""
    kinds = [record.metadata.get("image_type", DERMOSCOPIC) for record in records]
    leave_out_kinds(Counter(kind for kind in kinds if not selection.admits(kind)), str(root), selection)
    return [record for record, kind in zip(records, kinds, strict=True) if selection.admits(kind)]


def _refine(
    record: Record, labelling: Iterable[tuple[metadata_tables.Table, matching.Match]], against: Counter[str]
) -> Record:
    """The record with what tables say beyond its folder's name; count where one of them contradicts it."""
    for table, match in labelling:
        for row in match.rows.get(record.path, ()):
            label = table_cells.label_of(row, table.columns)
            finer = taxonomy.finer(record.name, label)
            if finer is None and _is_name(label):
                against[f"{record.name} ({label})"] += 1
                return record
            malignancy = record.malignancy or table_cells.malignancy_of(row, table.columns)
            record = dataclasses.replace(record, name=finer or record.name, malignancy=malignancy)
    return record


def _class_folder(
    folder: Path, split: str | None, metadata: Mapping[str, dict[str, Any]], unused: Unused
) -> Iterator[Record]:
    walk = ((below, files) for below, _, files in os.walk(folder) if below != str(folder))
    nested = [os.path.join(below, name) for below, files in walk for name in files]
    unused.add(f"left out {{n}} files below '{folder}'", nested)
    malignancy = folder.name if taxonomy.plain(folder.name) in taxonomy.MALIGNANCIES else ""
    with os.scandir(folder) as entries:
        files = sorted(entry.name for entry in entries if entry.is_file() and not entry.name.startswith("."))
    for name in files:
        path = os.path.join(folder, name)
        if not folder_files.MASK.search(folder_files.stem(path)) and name.lower() not in folder_files.FILES_OF_SYSTEMS:
            yield Record(
                image_id=folder_files.image_id_of(path),
                name=identifiers.clean(folder.name),
                malignancy=malignancy,
                path=path,
                shipped_split=split,
                metadata=metadata.get(path, _NO_METADATA),
            )


def _from_tables(folder: _Folder) -> list[Record]:
    root = folder.root
    for _, match in folder.labelling:
        _refuse_namesakes(match)
    labels = _labels_by_path(folder.labelling)
    matched = {folder_files.stem(path) for path in labels}
    without_row = {
        folder_files.stem(p): os.path.basename(p)
        for p in folder.images
        if p not in labels and folder_files.stem(p) not in matched
    }
    folder.unused.add("{n} images in '{where}' have no row", without_row.values())
    if folder.labelling[0] not in folder.own:
        lacking = dict.fromkeys(name for _, match in folder.labelling for name in match.without_file)
        folder.unused.add("{n} rows of '{where}' have no image", lacking)
    _forget_namesakes(folder)
    metadata, shipped = folder.metadata(), folder.splits()
    records = []
    for path in filter(labels.__contains__, folder.images):
        label, table, row = labels[path]
        malignancy = table_cells.malignancy_of(row, table.columns)
        split = shipped_splits.shipped_as(os.path.relpath(path, root).split(os.sep)[:-1])
        split = _merge_splits(_merge_splits(split, table.shipped_split), shipped.get(path))
        record = Record(
            image_id=folder_files.image_id_of(path), name=label, malignancy=malignancy, path=path, shipped_split=split
        )
        records.append(dataclasses.replace(record, metadata=metadata.get(path, _NO_METADATA)))
    _say_test(records, shipped, root)
    return _without_other_kinds(records, folder.selection, root)


def _labels_by_path(
    labelling: Iterable[tuple[metadata_tables.Table, matching.Match]],
) -> dict[str, tuple[str, metadata_tables.Table, dict[str, Any]]]:
    """The diagnosis of each image in the words of the table that says most, that table and its row.

    Of copies under one name that one row means, the first path stands for all.
    """
    labels: dict[str, tuple[str, metadata_tables.Table, dict[str, Any]]] = {}
    copies: dict[tuple[str, int], str] = {}
    for table, match in labelling:
        for path, rows in match.rows.items():
            if copies.setdefault((folder_files.stem(path), id(rows)), path) == path:
                for row in rows:
                    _add(labels, path, table, row)
    return labels


def _add(
    labels: dict[str, tuple[str, metadata_tables.Table, dict[str, Any]]],
    path: str,
    table: metadata_tables.Table,
    row: Json,
) -> None:
    image_id, label = folder_files.image_id_of(path), table_cells.label_of(row, table.columns)
    before, other, _ = labels.setdefault(path, (label, table, row))
    finer = taxonomy.finer(before, label)
    if finer is None and other is table:
        raise UsageError(f"'{table.path}' lists {image_id} as '{before}' and as '{label}': keep one row.")
    if finer is None:
        raise UsageError(
            f"two tables disagree about {image_id}: '{before}' in '{other.path}', '{label}' in "
            f"'{table.path}'. Keep the one that is meant."
        )
    if finer != before:
        labels[path] = (label, table, row)


def _refuse_namesakes(match: matching.Match) -> None:
    """Refuse different images of one name, of which a row may mean either."""
    same: dict[tuple[str, int], list[str]] = {}
    for path, rows in match.rows.items():
        same.setdefault((folder_files.stem(path), id(rows)), []).append(path)
    pairs = [(name, paths[0], matching.other_than_first(paths)) for (name, _), paths in same.items()]
    for name, path, other in [*match.ambiguous, *pairs]:
        if other:
            raise UsageError(
                f"'{path}' and '{other}' are different images of one name, so that a table's '{name}' may "
                "mean either: rename one, in its table too."
            )


def _forget_namesakes(folder: _Folder) -> None:
    """Say which names, but for the archive's numbers, different images bear that a row may mean."""
    names = sorted({name for _, match in folder.matches for name, _, _ in match.ambiguous})
    reason = "{n} names are borne by different images, so that no table's row is taken for them"
    folder.unused.add(reason, names)


def _is_name(word: str) -> bool:
    try:
        taxonomy.find(word)
    except KeyError:
        return False
    return True


def _meaning(name: str) -> str:
    return taxonomy.find(name) or name if _is_name(name) else name


def _split_folders(root: Path) -> list[tuple[str, Path]]:
    splits = [(shipped_splits.shipped_as([folder.name]), folder) for folder in _folders(root)]
    # One without folders of classes is left to a table, or is a class.
    return [(split, folder) for split, folder in splits if split and _has_classes(folder)]


def _has_classes(folder: Path) -> bool:
    """Tell whether a folder that is called like a split is one: `evaluation/figures/` beside the classes is none."""
    below = [path.name for path in folder.iterdir() if path.is_dir()]
    usual = folder.name.lower() in id_spaces.PARTS_OF_A_SPLIT
    return bool(below) and (
        usual or any(_is_name(name) or taxonomy.plain(name) in taxonomy.MALIGNANCIES for name in below)
    )


def _folders(root: Path) -> list[Path]:
    """The folders that can be a split or a class: one that holds nothing but tables is neither."""
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".") and not _of_tables(p))


def _of_tables(folder: Path) -> bool:
    entries = list(folder.iterdir())
    return bool(entries) and all(
        p.is_file() and (metadata_tables.is_table(p) or p.suffix.lower() == ".txt") for p in entries
    )
