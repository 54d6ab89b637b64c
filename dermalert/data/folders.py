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
    folder_layout,
    folder_tables,
    id_spaces,
    identifiers,
    matching,
    metadata_tables,
    shipped_splits,
    table_cells,
    table_columns,
)
from dermalert.data.records import DERMOSCOPIC, Record, Selection, leave_out_kinds
from dermalert.data.unused import Unused
from dermalert.errors import UsageError

logger = logging.getLogger(__name__)

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
    unused, below = Unused(str(root)), folder_files.sort_files(root)
    near = folder_layout.official_tables(root)
    tables = metadata_tables.read(below.tables, columns, unused)
    beside = metadata_tables.read(near, table_columns.Columns())
    if labels:
        beside = [table for table in (*tables, *beside) if table.path.resolve() != labels.resolve()]
        tables = _label_table(labels, columns)
    folder = folder_tables.FolderTables(root, below.images, tables, beside, unused, selection or Selection())
    source = identifiers.clean(root.resolve().name) or "unknown"
    space = space or identifiers.clean(id_spaces.home(root).name)
    duplicates = _duplicates([*below.tables, *near])
    records = [
        dataclasses.replace(
            record, row=i, source=source, space=space, duplicates=tuple(duplicates.get(record.image_id, ()))
        )
        for i, record in enumerate(_records(folder, columns, labels) if labelled else _without_labels(folder))
    ]
    _add_unread(unused, below, {record.path for record in records})
    unused.report()
    return records


def _label_table(labels: Path, columns: table_columns.Columns) -> list[metadata_tables.Table]:
    """What a table of labels holds; UsageError where it has none."""
    tables = metadata_tables.read([labels], columns)
    if not any(table.names_a_diagnosis for table in tables):
        raise UsageError(
            f"'{labels}' is no table of labels: it needs a header with a column that names the image and one that "
            "names the diagnosis (--columns FIELD=COLUMN says which)."
        )
    return tables


def _add_unread(unused: Unused, below: folder_files.FolderFiles, read: set[str]) -> None:
    """Collect the files of a folder that are neither read nor expected to lie there."""
    others = [path for path in below.others if path not in read]
    texts = [path for path in others if folder_files.suffix(path) in folder_files.TEXTS]
    of_images = "{n} texts in '{where}' hold a table or a list of images, and are not read (a table is called .csv)"
    unused.add(of_images, map(os.path.basename, folder_files.tables_among(texts, below.images)))
    mask = "left out {n} images of '{where}' because their names end as those of masks do"
    unused.add(mask, map(os.path.basename, folder_files.masks_without_photo(below.masks, below.images)))
    strange = [path for path in others if not folder_files.is_harmless(path)]
    unused.add("{n} files in '{where}' are neither images nor tables", map(os.path.basename, strange))


def _without_labels(folder: folder_tables.FolderTables) -> list[Record]:
    """All images, with what the tables know of them but what they show."""
    _forget_namesakes(folder)
    metadata = folder.metadata()
    records = [
        Record(image_id=folder_files.image_id_of(path), name="", path=path, metadata=metadata.get(path, _NO_METADATA))
        for path in folder.images
    ]
    return _without_other_kinds(records, folder.selection, folder.root)


def _records(folder: folder_tables.FolderTables, columns: table_columns.Columns, labels: Path | None) -> list[Record]:
    root = folder.root
    folder.report()
    if labels:
        if not folder.labelling:
            raise UsageError(
                f"'{labels}' names none of the {len(folder.images):,} images in '{root}': are these the labels of "
                "other files? Its column of names must hold the names of the files, with or without their ending."
            )
        return _from_tables(folder)
    if folder_layout.has_class_folders(root):
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


def _class_folders(folder: folder_tables.FolderTables) -> list[Record]:
    root, splits = folder.root, folder_layout.split_folders(folder.root)
    _forget_namesakes(folder)
    metadata, shipped = folder.metadata(), folder.splits()
    parts: list[tuple[str | None, Path]] = [*splits] if splits else [(None, root)]
    records = [
        dataclasses.replace(record, shipped_split=shipped_splits.merge(record.shipped_split, shipped.get(record.path)))
        for split, place in parts
        for class_folder in folder_layout.subfolders(place)
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
    aside = [p for p in folder_layout.subfolders(root) if p not in [place for _, place in splits]]
    if splits and aside:
        folder.unused.add("left out {n} folders that stand beside the folders of a shipped split", aside)
    places = {str(place) for place in (root, *(place for _, place in splits))}
    loose = [os.path.relpath(path, root) for path in folder.images if os.path.dirname(path) in places]
    folder.unused.add("left out {n} images of '{where}' that lie in no folder of a diagnosis", loose)
    _say_test(records, shipped, root)
    return _without_other_kinds(records, folder.selection, root)


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
            if finer is None and folder_layout.is_name(label):
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


def _from_tables(folder: folder_tables.FolderTables) -> list[Record]:
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
        split = shipped_splits.merge(shipped_splits.merge(split, table.shipped_split), shipped.get(path))
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


def _forget_namesakes(folder: folder_tables.FolderTables) -> None:
    """Say which names, but for the archive's numbers, different images bear that a row may mean."""
    names = sorted({name for _, match in folder.matches for name, _, _ in match.ambiguous})
    reason = "{n} names are borne by different images, so that no table's row is taken for them"
    folder.unused.add(reason, names)
