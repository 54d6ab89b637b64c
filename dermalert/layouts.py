"""Which images a folder holds and what it says of each; the layout is recognised from what lies there.

- class folders: one folder a diagnosis, alone or under `Train/` and `Test/` (the nine-class Kaggle set, HAM10000 by
  `dx`, any `imagefolder`), with a table of facts beside them or none
- images and tables: HAM10000 (`HAM10000_metadata.csv`), the ISIC challenges of 2017 to 2020 (ground truth, and their
  metadata and lesion tables), a download of the ISIC archive by isic-cli and PAD-UFES-20 (both `metadata.csv`)

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """An image that a source holds, before anybody has looked at it."""

    image_id: str
    name: str
    """The diagnosis in the source's words."""
    path: Path | None = None
    """Where the image lies, if it is a file of its own."""
    row: int | None = None
    """Which of the source's images it is, if they are no files."""
    source: str = "unknown"
    """Where the picture was made, if its number does not tell."""
    shipped_split: str | None = None
    facts: dict = dataclasses.field(default_factory=dict)
    """Lesion, patient, age, sex and site, of those that the source knows."""


def records(root: Path, columns: Mapping[str, str] | None = None) -> list[Record]:
    """Return what a folder holds, of the images that show one of the nine diagnoses.

    Args:
        root: the folder.
        columns: fields with the columns of its tables, where a person has named them.

    Raises:
        UsageError: the layout is none of those above, or a name is no diagnosis that anybody knows.
    """
    # Not `rglob`, which passes by a linked folder.
    files = sorted(Path(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names)
    files = [path for path in files if not _hidden(path.relative_to(root))]
    found = tables.read(files, columns or {})
    near = [*root.parent.iterdir(), *(root.parent / "metadata").glob("*")]
    beside = tables.read((p for p in sorted(near) if _OFFICIAL.match(p.name)), {})
    if _has_class_folders(root):
        return _class_folders(root, _facts_by_image([*found, *beside]))
    pictures = _pictures(files)
    labelling = [t for t in found if t.names_a_diagnosis] or [
        t for t in beside if t.names_a_diagnosis and not pictures.keys().isdisjoint(t.rows)
    ]
    if labelling and pictures:
        return _from_tables(root, pictures, labelling, _facts_by_image([*found, *beside]))
    if any(p.parent == root for paths in pictures.values() for p in paths):
        raise UsageError(
            f"'{root}' has images and nothing that says what they show: put them into one folder a diagnosis, or the "
            "source's own table beside them (HAM10000_metadata.csv, an ISIC ground truth, metadata.csv)."
        )
    return _class_folders(root, {})


def one_of_the_nine(found: list[Record], where: str) -> list[Record]:
    """Return the records whose name stands for one of the nine diagnoses, with that; say what is left out.

    Raises:
        UsageError: names that nobody knows, nothing but benign and malignant, or none of the nine at all.
    """
    kept, left_out, unknown = [], Counter(), []
    for record in found:
        try:
            label = diagnoses.find(record.name, known=facts.diagnosis(record.image_id))
        except KeyError:
            unknown.append(record.name)
            continue
        if label is None:
            left_out[record.name.split(":")[-1]] += 1
        else:
            kept.append(dataclasses.replace(record, name=label))
    if unknown:
        raise UsageError(f"'{where}': {diagnoses.none_of_the_nine(list(dict.fromkeys(unknown))[:5])}")
    if left_out and {name.lower() for name in left_out if name} <= diagnoses.BINARY and not kept:
        raise UsageError(f"'{where}' says of its images only whether they are malignant: training needs a diagnosis.")
    if left_out and not kept:
        raise UsageError(f"'{where}' has no image of the nine diagnoses: {_in_words(left_out)}.")
    if left_out:
        total, words = left_out.total(), _in_words(left_out)
        logger.warning("left out %d images of '%s' that are none of the nine diagnoses: %s", total, where, words)
    return kept


def _in_words(left_out: Counter) -> str:
    names = ", ".join(f"{n} {name or 'without a diagnosis'}" for name, n in left_out.most_common())
    mixed = " and ".join(repr(name) for name in left_out if diagnoses.plain(name) in diagnoses.MIXED)
    why = f" ({mixed} stands for actinic keratosis or squamous cell carcinoma)" if mixed else ""
    return names + why


def _has_class_folders(root: Path) -> bool:
    for folder in [*_split_folders(root).values(), root]:
        for class_folder in _folders(folder):
            if _meaning(class_folder.name) in diagnoses.DIAGNOSES and any(p.is_file() for p in class_folder.iterdir()):
                return True
    return False


def _class_folders(root: Path, known: Mapping[str, dict]) -> list[Record]:
    splits = _split_folders(root)
    found = [
        record
        for split, folder in splits.items() or [(None, root)]
        for class_folder in _folders(folder)
        for record in _class_folder(class_folder, split, known)
    ]
    beside = [p for p in _folders(root) if p not in splits.values()]
    if splits and beside:
        logger.warning("left out what stands beside Train and Test: %s", first_few(beside))
    return one_of_the_nine(found, str(root))


def _class_folder(folder: Path, split: str | None, known: Mapping[str, dict]) -> Iterator[Record]:
    nested = [p for p in folder.rglob("*") if p.is_file() and p.parent != folder]
    if nested:
        logger.warning("left out %d files below '%s', such as '%s'", len(nested), folder, nested[0])
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and not _NO_PHOTO.search(path.stem):
            yield Record(
                image_id=path.stem, name=folder.name, path=path, shipped_split=split, facts=known.get(path.stem, {})
            )


def _from_tables(root: Path, pictures: dict[str, list[Path]], labelling: list[tables.Table], known: dict[str, dict]):
    named = {image_id: (table, row) for table in labelling for image_id, row in table.rows.items()}
    _refuse_namesakes(paths for image_id, paths in pictures.items() if image_id in named)
    _refuse_disagreement(labelling)
    without_image = [image_id for image_id in named if image_id not in pictures]
    if without_image:
        logger.warning("%d rows of '%s' have no image: %s", len(without_image), root, first_few(without_image))
    without_row = [path.name for image_id, (path, *_) in pictures.items() if image_id not in named]
    if without_row:
        logger.warning("%d images in '%s' have no row: %s", len(without_row), root, first_few(without_row))
    found, other = [], Counter()
    for image_id, (path, *_) in pictures.items():
        table, row = named.get(image_id, (None, {}))
        kind = row.get("image_type") or "dermoscopic"
        if kind != "dermoscopic":
            other[kind] += 1
        elif table is not None:
            label, split = tables.label_of(row, table.columns), _split(path.relative_to(root)) or table.shipped_split
            found.append(Record(image_id=image_id, name=label, path=path, shipped_split=split, facts=known[image_id]))
    if other:
        kinds = ", ".join(f"{n} {kind}" for kind, n in other.most_common())
        logger.warning("left out %d images of '%s' that are no dermoscopy: %s", other.total(), root, kinds)
    return one_of_the_nine(found, str(root))


def _refuse_disagreement(labelling: list[tables.Table]) -> None:
    said: dict[str, tuple[str, tables.Table]] = {}
    for table in labelling:
        for image_id, row in table.entries:
            label, (before, other) = tables.label_of(row, table.columns), said.get(image_id, (None, None))
            if before is not None and _meaning(before) != _meaning(label):
                if other is table:
                    raise UsageError(f"'{table.path}' lists {image_id} as '{before}' and as '{label}': keep one row.")
                raise UsageError(
                    f"two tables disagree about {image_id}: '{before}' in '{other.path}', '{label}' in "
                    f"'{table.path}'. Keep the one that is meant."
                )
            said[image_id] = (label, table)


def _refuse_namesakes(pictures: Iterable[list[Path]]) -> None:
    """Refuse different images of one name, of which a row may mean either."""
    for first, *others in pictures:
        for other in others:
            if not filecmp.cmp(first, other, shallow=False):
                raise UsageError(
                    f"'{first}' and '{other}' are different images of one name, so that a table's '{first.stem}' may "
                    "mean either: rename one, in its table too."
                )


def _split(path: Path) -> str | None:
    folders = {part.lower() for part in path.parts[:-1]}
    return "test" if "test" in folders else "train" if "train" in folders else None


def _meaning(name: str) -> str:
    try:
        return diagnoses.find(name) or name
    except KeyError:
        return name


def _facts_by_image(found: Iterable[tables.Table]) -> dict[str, dict]:
    known: dict[str, dict] = {}
    for table in found:
        for image_id, row in table.rows.items():
            known[image_id] = tables.facts_of(row, table.columns) | known.get(image_id, {})
    return known


def _pictures(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Return the images by name: Kaggle's HAM10000 holds its two folders twice, in capitals and in small letters."""
    found: dict[str, list[Path]] = {}
    for path in files:
        if path.suffix.lower() in tables.IMAGE_SUFFIXES and not _NO_PHOTO.search(path.stem):
            found.setdefault(path.stem, []).append(path)
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _split_folders(root: Path) -> dict[str, Path]:
    return {p.name.lower(): p for p in _folders(root) if p.name.lower() in ("train", "test")}


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
