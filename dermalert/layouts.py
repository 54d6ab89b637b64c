"""Which images a folder holds and what it says of each; the layout is recognised from what lies there.

- class folders: one folder a diagnosis, alone or under `Train/`, `Val/` and `Test/` (the nine-class Kaggle set,
  HAM10000 by `dx`, any `imagefolder`), with a table of facts beside them or none
- images and tables: HAM10000 (`HAM10000_metadata.csv`), the ISIC challenges of 2017 to 2020 (ground truth, and their
  metadata and lesion tables), a download of the ISIC archive by isic-cli and PAD-UFES-20 (both `metadata.csv`)

Where a folder and a table, or two tables, name one image differently, the word that says more counts: that it is a
squamous cell carcinoma, beside `akiec`. Of words that contradict each other the folder's counts and the difference is
counted; two tables that contradict each other are refused. A shipped validation split counts as training images.

No image is opened here.
"""

import dataclasses
import filecmp
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dermalert import diagnoses, facts, tables
from dermalert.errors import UsageError, first_few

logger = logging.getLogger(__name__)

# What the ISIC archives put between the images, and is none.
_NO_PHOTO = re.compile(r"_(superpixels|segmentation|mask)$", re.IGNORECASE)
# Tables that may lie beside the folder, or in a `metadata/` there: by these names they can only be meant for it.
_OFFICIAL = re.compile(r"(HAM10000_metadata|ISIC[-_]?20\d\d)", re.IGNORECASE)


_NO_FACTS: dict = {}  # one for all images


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """An image that a source holds, before anybody has looked at it."""

    image_id: str
    name: str
    """The diagnosis in the source's words."""
    path: str | None = None
    """Where the image lies, if it is a file of its own."""
    row: int | None = None
    """Which of the source's images it is."""
    source: str = "unknown"
    """Where the picture was made, if its number does not tell: the name of what holds it."""
    shipped_split: str | None = None
    malignancy: str = ""
    """What the source says of just that, if it has a column or folder for it."""
    twins: tuple[str, ...] = ()
    """Images that the source calls copies of this one."""
    facts: dict = dataclasses.field(default_factory=dict)
    """Lesion, patient, age, sex and site, of those that the source knows."""


def records(root: Path, columns: tables.Columns) -> list[Record]:
    """Return what a folder holds, under the source's own names.

    Raises:
        UsageError: the layout is none of those above, its tables contradict each other, or columns that were named are
            not there.
    """
    files = sorted(Path(path) for path in _files(root) if not _is_image(path))
    near = sorted([*root.parent.iterdir(), *(root.parent / "metadata").glob("*")])
    near = [path for path in near if _OFFICIAL.match(path.name)]
    found, beside = tables.read(files, columns), tables.read(near, tables.Columns())
    source = root.resolve().name or "unknown"
    twins = _twins([*files, *near])
    return [
        dataclasses.replace(record, row=i, source=source, twins=tuple(twins.get(record.image_id, ())))
        for i, record in enumerate(_records(root, found, beside, columns))
    ]


def _files(root: Path) -> Iterator[str]:
    """Yield the files below a folder, those below linked folders too, but no hidden ones.

    They are strings, because a path takes four times the room, and the table of the names that pathlib has interned
    never shrinks.
    """
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not _hidden(name)]
        yield from (os.path.join(folder, name) for name in names if not _hidden(name))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in tables.IMAGE_SUFFIXES


def _records(
    root: Path, found: list[tables.Table], beside: list[tables.Table], columns: tables.Columns
) -> list[Record]:
    if _has_class_folders(root):
        return _class_folders(root, [*found, *beside])
    pictures = _pictures(root)
    labelling = [t for t in found if t.names_a_diagnosis] or [
        t for t in beside if t.names_a_diagnosis and not pictures.keys().isdisjoint(t.rows)
    ]
    if labelling and pictures:
        return _from_tables(root, pictures, labelling, _facts_by_image([*found, *beside]))
    if any(Path(p).parent == root for paths in pictures.values() for p in paths):
        columns.check()  # which may be why
        raise UsageError(
            f"'{root}' has images and nothing that says what they show: put them into one folder a diagnosis, or the "
            "source's own table beside them (HAM10000_metadata.csv, an ISIC ground truth, metadata.csv)."
        )
    return _class_folders(root, [*found, *beside])


def _twins(files: Iterable[Path]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for first, second in tables.twins(files):
        found.setdefault(first, []).append(second)
    return found


def labelled(found: list[Record], where: str, labels: tuple[str, ...] = diagnoses.DIAGNOSES) -> list[Record]:
    """Return the records whose name stands for one of the labels, with that; say what is left out.

    Args:
        found: under the source's own names.
        where: the source.
        labels: `DIAGNOSES` or `MALIGNANCIES`.

    Raises:
        UsageError: names that nobody knows, only benign and malignant where a diagnosis is asked, or no label at all.
    """
    binary = labels == diagnoses.MALIGNANCIES
    kept, left_out, unknown = [], Counter(), []
    for record in found:
        try:
            label = _malignancy(record) if binary else diagnoses.find(record.name, known=_known(record))
        except KeyError as error:
            unknown.append(error.args[0])
            continue
        if label is None:
            left_out[record.name.split(":")[-1]] += 1
        else:
            kept.append(dataclasses.replace(record, name=label))
    if unknown:
        names = list(dict.fromkeys(unknown))
        more = f" And {len(names) - 5} more such names." if len(names) > 5 else ""
        raise UsageError(f"'{where}': {diagnoses.none_of_the_nine(names[:5], binary=binary)}{more}")
    if left_out and not kept:
        raise _nothing_left(left_out, where, binary=binary)
    if left_out:
        total, words = left_out.total(), _in_words(left_out)
        which = (
            "of which it does not say whether they are malignant" if binary else "that are none of the nine diagnoses"
        )
        logger.warning("left out %d images of '%s' %s: %s", total, where, which, words)
    return kept


def names_a_diagnosis(record: Record) -> bool:
    """Tell whether the source has a name for what an image shows that is more than benign or malignant."""
    return diagnoses.plain(record.name) not in diagnoses.SILENT


def _malignancy(record: Record) -> str | None:
    said = diagnoses.malignancy(record.malignancy)
    return said or diagnoses.malignancy(record.name, known=_known(record))


def _known(record: Record) -> str | None:
    return facts.diagnosis(record.image_id)


def _nothing_left(left_out: Counter, where: str, *, binary: bool) -> UsageError:
    if binary:
        return UsageError(f"'{where}' says of no image whether it is malignant: {_in_words(left_out)}.")
    if {name.lower() for name in left_out if name} <= diagnoses.BINARY:
        return UsageError(
            f"'{where}' says of its images only whether they are malignant: training needs a diagnosis. Such a set can "
            "be evaluated on."
        )
    return UsageError(f"'{where}' has no image of the nine diagnoses: {_in_words(left_out)}.")


def _in_words(left_out: Counter) -> str:
    names = ", ".join(f"{n} {name or 'without a diagnosis'}" for name, n in left_out.most_common())
    mixed = " and ".join(repr(name) for name in left_out if diagnoses.plain(name) in diagnoses.MIXED)
    why = f" ({mixed} stands for actinic keratosis or squamous cell carcinoma)" if mixed else ""
    return names + why


def _has_class_folders(root: Path) -> bool:
    for _, folder in [*_split_folders(root), (None, root)]:
        for class_folder in _folders(folder):
            if _meaning(class_folder.name) in diagnoses.DIAGNOSES and any(p.is_file() for p in class_folder.iterdir()):
                return True
    return False


def _class_folders(root: Path, beside: list[tables.Table]) -> list[Record]:
    splits = _split_folders(root)
    unsure = _namesakes(root, beside)
    known = {name: facts for name, facts in _facts_by_image(beside).items() if name not in unsure}
    found = [
        record
        for split, folder in splits or [(None, root)]
        for class_folder in _folders(folder)
        for record in _class_folder(class_folder, split, known)
    ]
    against: Counter[str] = Counter()
    labelling = [table for table in beside if table.names_a_diagnosis]
    found = [r if r.image_id in unsure else _refined(r, labelling, against) for r in found]
    if against:
        words = ", ".join(f"{n} {pair}" for pair, n in against.most_common())
        logger.warning(
            "%d images in '%s' are something else by a table, and keep their folder's name: %s",
            against.total(),
            root,
            words,
        )
    aside = [p for p in _folders(root) if p not in [folder for _, folder in splits]]
    if splits and aside:
        logger.warning("left out what stands beside the folders of a shipped split: %s", first_few(aside))
    return found


def _refined(record: Record, labelling: Iterable[tables.Table], against: Counter[str]) -> Record:
    """Return the record with what tables say beyond its folder's name; count where one of them contradicts it."""
    for table in labelling:
        row = table.rows.get(record.image_id)
        if row is not None:
            label = tables.label_of(row, table.columns)
            finer = diagnoses.finer(record.name, label)
            if finer is None and _is_name(label):
                against[f"{record.name} ({label})"] += 1
                break
            malignancy = record.malignancy or tables.malignancy_of(row, table.columns)
            record = dataclasses.replace(record, name=finer or record.name, malignancy=malignancy)
    return record


def _class_folder(folder: Path, split: str | None, known: Mapping[str, dict]) -> Iterator[Record]:
    walk = ((below, names) for below, _, names in os.walk(folder) if below != str(folder))
    nested = [os.path.join(below, name) for below, names in walk for name in names]
    if nested:
        logger.warning("left out %d files below '%s', such as '%s'", len(nested), folder, nested[0])
    malignancy = folder.name if diagnoses.plain(folder.name) in diagnoses.MALIGNANCIES else ""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_file() and not entry.name.startswith("."))
    for name in names:
        path, stem = os.path.join(folder, name), _stem(name)
        if not _NO_PHOTO.search(stem):
            yield Record(
                image_id=stem,
                name=folder.name,
                malignancy=malignancy,
                path=path,
                shipped_split=split,
                facts=known.get(stem, _NO_FACTS),
            )


def _from_tables(root: Path, pictures: dict[str, list[str]], labelling: list[tables.Table], known: dict[str, dict]):
    listed = {image_id for table in labelling for image_id in table.rows}
    _refuse_namesakes({image_id: paths for image_id, paths in pictures.items() if image_id in listed})
    said = _said(labelling)
    without_image = [image_id for image_id in said if image_id not in pictures]
    if without_image:
        logger.warning("%d rows of '%s' have no image: %s", len(without_image), root, first_few(without_image))
    without_row = [os.path.basename(path) for image_id, (path, *_) in pictures.items() if image_id not in said]
    if without_row:
        logger.warning("%d images in '%s' have no row: %s", len(without_row), root, first_few(without_row))
    found, other = [], Counter()
    for image_id, (path, *_) in pictures.items():
        label, table, row = said.get(image_id, ("", None, {}))
        kind = row.get("image_type") or "dermoscopic"
        if kind != "dermoscopic":
            other[kind] += 1
        elif table is not None:
            malignancy = tables.malignancy_of(row, table.columns)
            split = tables.shipped_as(os.path.relpath(path, root).split(os.sep)[:-1]) or table.shipped_split
            record = Record(image_id=image_id, name=label, malignancy=malignancy, path=path, shipped_split=split)
            found.append(dataclasses.replace(record, facts=known[image_id]))
    if other:
        kinds = ", ".join(f"{n} {kind}" for kind, n in other.most_common())
        logger.warning("left out %d images of '%s' that are no dermoscopy: %s", other.total(), root, kinds)
    return found


def _said(labelling: Iterable[tables.Table]) -> dict[str, tuple[str, tables.Table, dict]]:
    """Return the diagnosis of each image in the words of the table that says most, that table and its row."""
    said: dict[str, tuple[str, tables.Table, dict]] = {}
    for table in labelling:
        for image_id, row in table.entries:
            label = tables.label_of(row, table.columns)
            before, other, _ = said.setdefault(image_id, (label, table, row))
            finer = diagnoses.finer(before, label)
            if finer is None and other is table:
                raise UsageError(f"'{table.path}' lists {image_id} as '{before}' and as '{label}': keep one row.")
            if finer is None:
                raise UsageError(
                    f"two tables disagree about {image_id}: '{before}' in '{other.path}', '{label}' in "
                    f"'{table.path}'. Keep the one that is meant."
                )
            if finer != before:
                said[image_id] = (label, table, row)
    return said


def _refuse_namesakes(pictures: dict[str, list[str]]) -> None:
    """Refuse different images of one name, of which a row may mean either."""
    for name, paths in pictures.items():
        other = _other_than_first(paths)
        if other:
            raise UsageError(
                f"'{paths[0]}' and '{other}' are different images of one name, so that a table's '{name}' may "
                "mean either: rename one, in its table too."
            )


def _namesakes(root: Path, beside: list[tables.Table]) -> set[str]:
    """Return the names, but for the archive's numbers, that different images bear and a table has, and say so."""
    listed = {image_id for table in beside for image_id in table.rows if not facts.isic_id(image_id)}
    pictures = _pictures(root) if listed else {}
    found = {name for name, paths in pictures.items() if name in listed and _other_than_first(paths)}
    if found:
        logger.warning(
            "%d names are borne by different images, so that no table's row is taken for them: %s",
            len(found),
            first_few(sorted(found)),
        )
    return found


def _other_than_first(paths: list[str]) -> str | None:
    """Return the first of the files that differs from the first."""
    return next((path for path in paths[1:] if not filecmp.cmp(paths[0], path, shallow=False)), None)


def _is_name(word: str) -> bool:
    try:
        diagnoses.find(word)
    except KeyError:
        return False
    return True


def _meaning(name: str) -> str:
    return diagnoses.find(name) or name if _is_name(name) else name


def _facts_by_image(found: Iterable[tables.Table]) -> dict[str, dict]:
    known: dict[str, dict] = {}
    for table in found:
        for image_id, row in table.rows.items():
            known[image_id] = tables.facts_of(row, table.columns) | known.get(image_id, {})
    return known


def _pictures(root: Path) -> dict[str, list[str]]:
    """Return the images by name: Kaggle's HAM10000 holds its two folders twice, in capitals and in small letters."""
    found: dict[str, list[str]] = {}
    # Sorted as paths are, a folder after the other.
    for path in sorted(_files(root), key=lambda path: path.replace(os.sep, "\0")):
        if _is_image(path) and not _NO_PHOTO.search(_stem(path)):
            found.setdefault(_stem(path), []).append(path)
    return found


def _split_folders(root: Path) -> list[tuple[str, Path]]:
    splits = [(tables.shipped_as([folder.name]), folder) for folder in _folders(root)]
    return [(split, folder) for split, folder in splits if split]


def _folders(root: Path) -> list[Path]:
    """Return the folders that can be a split or a class: one that holds nothing but tables is neither."""
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".") and not _of_tables(p))


def _of_tables(folder: Path) -> bool:
    found = list(folder.iterdir())
    return bool(found) and all(p.is_file() and p.suffix.lower() in (".csv", ".tsv", ".tab", ".txt") for p in found)
