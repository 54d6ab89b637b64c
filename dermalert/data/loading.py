"""Images and labels of any source, in one schema; of several sources, each image once.

A source is `demo` (generated lesions), a folder in one of the layouts of `folders.py`, or a data set of the Hub.
`datasets.load_dataset("imagefolder")` is not used for folders: it merges the nine-class Kaggle set's Test into its
Train without a word, shifts the label ids where a class is missing, loses the labels over a left-over folder, and
finds a truncated file only when the training reads it.
"""

import dataclasses
import io
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Image, Value, concatenate_datasets
from datasets.table import InMemoryTable
from dermalert_space.contract import is_hub_name

from dermalert import progress
from dermalert.data import (
    folder_files,
    folders,
    groups,
    hub_datasets,
    isic9,
    merging,
    patients,
    plain_copies,
    provenance,
    schema,
)
from dermalert.data.id_spaces import spaces_of
from dermalert.data.identifiers import archive_number, clean, is_archive_id, pad_ufes
from dermalert.data.records import Record, Selection, names_a_diagnosis, with_labels
from dermalert.data.table_columns import Columns
from dermalert.errors import UsageError, did_you_mean, first_few
from dermalert.imaging import synthetic_lesions, thumbnail
from dermalert.taxonomy import DIAGNOSES, ISIC_2025, MALIGNANCIES, are_isic_2025

logger = logging.getLogger(__name__)

_NAMED = {"named": Value("string")}
"""Under which of the names a row was loaded, where copies are not merged."""

_IDS = ("lesion_id", "other_lesion_id", "patient_id")

_IMAGES = Features({"image": Image(decode=False)})

_ROWS = pa.schema(
    [
        *(field for field in schema.FEATURES.arrow_schema if field.name not in ("image", "group")),
        pa.field("duplicates", pa.list_(pa.string())),
        pa.field("other_lesion_id", pa.string()),
        pa.field("named", pa.string()),
        pa.field("number", pa.int64()),  # of the image among those of its source
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """How data sets are read.

    Raises:
        UsageError: there is no such image type.
    """

    columns: Mapping[str, str] | Columns | None = None
    """Fields of `table_columns.FIELDS` with the columns that hold them, where a source names them in its own way.

    A pair counts in each data set that has such a column. One that none of them has is an error, which is left to the
    caller who gives `Columns` for several loadings.
    """
    image_types: Sequence[str] | None = None
    """Which kinds of pictures are taken, some of `records.IMAGE_TYPES`; by default dermoscopy alone."""
    streaming: bool = False
    """Read data sets of the Hub row by row instead of downloading their files first."""
    strict: bool = False
    """Refuse a file that cannot be read as an image, instead of naming and skipping it."""
    shortcuts: bool = False
    """See `thumbnail.row_type`."""
    squares: bool = False
    """The same, although there is one source: it will be compared with others. Of several they are always kept."""
    label_file: Path | None = None
    """Of folders, the one table whose diagnoses count; by default what each folder itself says."""
    stand_ins: bool = False
    """See `records.with_labels`."""

    def __post_init__(self) -> None:
        Selection(self.image_types)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Images in the schema `FEATURES`, and what of their sources is not among them."""

    dataset: Dataset
    unreadable: Sequence[str] = ()
    """The files that are no images, each by its place in its data set."""
    left_out: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """The images that were not taken: see `records.Selection.left_out`."""


class _Source(NamedTuple):
    name: str
    short: str
    """The name of a folder without those above it."""
    records: list[Record]
    images: Dataset


def load(
    names: Iterable[str],
    reading: Reading | None = None,
    *,
    labels: tuple[str, ...] | None = DIAGNOSES,
    merge: bool = True,
    beside: Iterable[str] = (),
) -> Loaded:
    """Load one or more data sets into the schema `FEATURES`.

    An image that several of them hold under one label becomes one row, with what any of them knows of it. Copies within
    one data set stay, and so do copies under different labels: `repair` is for those. What the table of the
    nine-class set has of an image, and its source does not, is filled in.

    Args:
        names: `demo`, folders, or `USER/NAME[@REVISION]` of data sets on the Hub.
        reading: how; by default a `Reading` without options.
        labels: `DIAGNOSES`; `MALIGNANCIES`, for `BINARY_FEATURES`; `ISIC_2025`; or None, for `ISIC_2025` if all names
            are its own, for diagnoses if each of the data sets names them, else for malignancies. What a source says in
            the words benign and malignant counts (ISIC 2020's `benign_malignant` or `target`, folders of these names),
            else what `taxonomy.malignancy` says of its diagnosis. An image of which neither tells is left out with a
            count.
        merge: without it the copies that several data sets hold stay too, and a column `named` tells under which of the
            names each row was loaded.
        beside: names of what is loaded apart and compared with these, whose patients must not be taken for theirs.

    Raises:
        UsageError: no such data set, no images in it, a name that is no diagnosis, or (strict) a bad file.
        RunError: the Hub cannot be reached.
    """
    names, reading = list(names), reading or Reading()
    selection = Selection(reading.image_types)
    labels, sources = _open_all(names, reading, labels, selection, spaces_of(names, beside))
    images = {source.short: source.images for source in sources}
    kind = _row_type(reading, sources)
    parts, unreadable = zip(*(_read(source, labels, kind, strict=reading.strict) for source in sources), strict=True)
    del sources  # the records take more room than their rows
    rows = groups.with_groups(pa.concat_tables(parts))
    if merge and len(images) > 1:
        rows = merging.merge_copies(rows)
    features = Features(schema.features_of(labels) | ({} if merge else _NAMED))
    dataset = _join(rows, images, features)
    pa.default_memory_pool().release_unused()  # what making the table took on the way; else it stays for good
    schema.warn_of_contradictions(dataset)
    return Loaded(dataset, list(chain.from_iterable(unreadable)), selection.left_out)


def _row_type(reading: Reading, sources: Iterable[_Source]) -> np.dtype:
    """What the first look at each image keeps of it."""
    several = len({_source_of(record) for source in sources for record in source.records}) > 1
    return thumbnail.row_type(shortcuts=reading.shortcuts, square=reading.squares or several)


def _open_all(
    names: list[str],
    reading: Reading,
    labels: tuple[str, ...] | None,
    selection: Selection,
    spaces: Mapping[str, str],
) -> tuple[tuple[str, ...], list[_Source]]:
    """The labels, and what each source holds under them."""
    columns = reading.columns if isinstance(reading.columns, Columns) else Columns(reading.columns)
    opened = [_open(name, columns, spaces.get(name), selection, reading) for name in names]
    if columns is not reading.columns:
        columns.check()
    labels = labels or _common_labels(records for records, _ in opened)
    return labels, [
        _Source(name, short, with_labels(records, name, labels, selection, stand_ins=reading.stand_ins), images)
        for name, short, (records, images) in zip(names, _short_names(names), opened, strict=True)
    ]


def load_unlabelled(folder: Path, reading: Reading) -> Loaded:
    """All images of a folder, in the schema `FEATURES` without the label.

    Raises:
        UsageError: there is no image in it.
    """
    columns = reading.columns if isinstance(reading.columns, Columns) else Columns(reading.columns)
    selection = Selection(reading.image_types)
    records = folders.records(folder, columns, selection=selection, labelled=False)
    if not records:
        raise UsageError(f"'{folder}' has no images.")
    patients.settle(records, str(folder))
    images = _pictures(_file(os.path.realpath(record.path)) for record in records)
    source = _Source(str(folder), _short_names([str(folder)])[0], records, images)
    rows, unreadable = _read(source, ("",), thumbnail.ROW, strict=reading.strict)
    dataset = _with_images(groups.with_groups(rows), images, schema.FEATURES).remove_columns("label")
    return Loaded(dataset, unreadable, selection.left_out)


def _join(rows: pa.Table, images: Mapping[str, Dataset], features: Features) -> Dataset:
    """The rows of several sources with their images, which are given by the sources' short names."""
    of_each = ((rows.filter(pc.equal(rows["named"], named)), own) for named, own in images.items())
    return concatenate_datasets([_with_images(some, own, features) for some, own in of_each if len(some)])


def _with_images(rows: pa.Table, images: Dataset, features: Features) -> Dataset:
    """The rows of one source with their images."""
    numbers = rows["number"].to_numpy()
    places = np.full(len(images), -1)
    places[numbers] = np.arange(len(numbers))
    features = Features({name: feature for name, feature in features.items() if name != "image"})
    beside = rows.select(list(features)).cast(features.arrow_schema).take(pa.array(places, mask=places < 0))
    # Selected at last, because side by side with other columns a selection would be copied, images and all.
    joined = concatenate_datasets([images, Dataset(InMemoryTable(beside))], axis=1).select(numbers)
    return joined.cast_column("image", Image())


def _short_names(names: list[str]) -> list[str]:
    """The names with folders by their last part, because where they lie is nobody's business."""
    short = [clean(Path(name).resolve().name) if Path(name).is_dir() else name for name in names]
    again = [short[:i].count(name) for i, name in enumerate(short)]
    return [f"{name} ({n + 1})" if n else name for name, n in zip(short, again, strict=True)]


def _common_labels(sources: Iterable[list[Record]]) -> tuple[str, ...]:
    """The labels that every source can tell."""
    sources = list(sources)
    if all(are_isic_2025(record.name for record in records) for records in sources):
        return tuple(ISIC_2025)
    return DIAGNOSES if all(any(map(names_a_diagnosis, records)) for records in sources) else MALIGNANCIES


def _open(
    name: str, columns: Columns, space: str | None, selection: Selection, reading: Reading
) -> tuple[list[Record], Dataset]:
    """What a source holds, under its own names, and its images; no image is decoded yet."""
    if name == "demo":
        return _demo()
    if Path(name).is_dir():
        records = folders.records(Path(name), columns, space, selection, labels=reading.label_file)
        if not records:
            raise UsageError(
                f"'{name}' has no images: it must hold one folder a diagnosis, alone or under Train/ and Test/, or "
                "images with their table (HAM10000, an ISIC challenge, the ISIC archive, PAD-UFES-20)."
            )
        patients.settle(records, name)
        return records, _pictures(_file(os.path.realpath(record.path)) for record in records)
    if is_hub_name(name):
        records, images = hub_datasets.load(name, columns, selection, streaming=reading.streaming)
        patients.settle(records, name)
        return records, images
    root = Path(name)
    near = [str(p) for p in root.parent.iterdir() if p.is_dir()] if root.parent.is_dir() else []
    hint = did_you_mean(name, ["demo", *near])
    raise UsageError(f"the data set '{name}' is neither 'demo' nor a folder.{hint} A data set of the Hub is USER/NAME.")


def _demo() -> tuple[list[Record], Dataset]:
    records, pictures = [], []
    for i, photo in enumerate(progress.track(synthetic_lesions.demo_set(), 0, "Drawing lesions")):
        buffer = io.BytesIO()
        photo.image.save(buffer, "PNG")
        metadata = {name: getattr(photo, name) for name in ("lesion_id", "age", "sex", "site")}
        records.append(
            Record(image_id=photo.image_id, name=photo.diagnosis, row=i, source=provenance.GENERATED, metadata=metadata)
        )
        pictures.append({"path": None, "bytes": buffer.getvalue()})
    return records, _pictures(pictures)


def _file(path: str) -> dict[str, Any]:
    """An image's file as `datasets` takes it: by its path, or what it holds where the path is no UTF-8."""
    path = plain_copies.of(path)
    try:
        path.encode()
    except UnicodeEncodeError:
        return {"path": None, "bytes": Path(path).read_bytes()}
    return {"path": path, "bytes": None}


def _pictures(images: Iterable[dict[str, Any]]) -> Dataset:
    return Dataset(InMemoryTable(_table(({"image": image} for image in images), _IMAGES.arrow_schema)))


def _table(rows: Iterable[dict[str, Any]], columns: pa.Schema) -> pa.Table:
    """A table of rows, made a part at a time: a column takes half the room of what it is made of."""
    rows = iter(rows)
    parts = iter(lambda: list(islice(rows, groups.PART)), [])
    return pa.concat_tables([columns.empty_table(), *(pa.Table.from_pylist(part, columns) for part in parts)])


def _read(source: _Source, labels: tuple[str, ...], kind: np.dtype, *, strict: bool) -> tuple[pa.Table, list[str]]:
    """Look at every image: the rows of those that are one, and the places of the other files."""
    name, _, records, images = source
    count, of_archive, bad, places = len(records), _has_archive_ids(name, records), [], []
    files = (images[record.row]["image"] for record in records)
    looks = progress.track(thumbnail.look(files, kind), count, f"Reading {name}")

    def rows() -> Iterator[dict[str, Any]]:
        for record, look in zip(records, looks, strict=True):
            if look.fault:
                bad.append(_fault_text(record, look.fault))
                places.append(_place(name, record))
            else:
                row = _row(record, labels.index(record.name), look.content, of_archive=of_archive)
                yield row | {"named": source.short}

    table = _table(rows(), _ROWS)
    if bad and strict:
        raise UsageError(f"{len(bad)} of {count} files in '{name}' are no images: {first_few(bad)} (--strict).")
    if bad:
        logger.warning("skipped %d of %d files in '%s': %s", len(bad), count, name, first_few(bad, 20))
    if not len(table):
        raise UsageError(f"none of the {count} files in '{name}' can be read as an image: {first_few(bad)}.")
    return table, places


def _fault_text(record: Record, fault: Exception) -> str:
    why = re.sub(r" ?<_io\.BytesIO object at 0x\w+>", "", str(fault.__cause__ or fault))
    return f"'{clean(record.path) or record.image_id}' ({why[:60]})"


def _place(name: str, record: Record) -> str:
    """Where in its data set an image is: a report is published, and where a folder lies is nobody's business."""
    if record.path:
        return clean(f"{Path(name).resolve().name}/{Path(os.path.relpath(record.path, name)).as_posix()}")
    return record.image_id if record.image_id.startswith(f"{name}/") else f"{name}/{record.image_id}"


def _has_archive_ids(name: str, records: list[Record]) -> bool:
    """Tell whether ids of the archive's form are the archive's: it has numbered an image, or its own table lies there.

    A clinic that numbers its patients from IP_1000000 on has others.
    """
    return any(archive_number(record.image_id) for record in records) or (
        Path(name).is_dir() and folder_files.has_official_table(Path(name))
    )


def _row(record: Record, label: int, content: str | None, *, of_archive: bool) -> dict[str, Any]:
    row = {
        "label": label,
        "image_id": record.image_id,
        "source": _source_of(record),
        "content": content,
        "shipped_split": record.shipped_split,
        "duplicates": record.duplicates,
        "number": record.row,
    }
    row = record.metadata | _own_ids(record, of_archive=of_archive) | row
    schema.fill(row, isic9.metadata_of(record.image_id))
    return row


def _source_of(record: Record) -> str:
    attribution, image_type = record.metadata.get("source"), record.metadata.get("image_type")
    return provenance.source(record.image_id, record.source, attribution=attribution, image_type=image_type)


def _own_ids(record: Record, *, of_archive: bool) -> dict[str, str]:
    """The lesion and patient under names that no other source uses.

    Only the archive's ids, `HAM_0000118`, `IP_0001234` and the like in a source of its images, and those of
    PAD-UFES-20's images are the same everywhere; another source's `patient_1` is another patient.
    """
    of_pad = pad_ufes(record.image_id)
    ids = dict(zip(("patient_id", "lesion_id"), of_pad, strict=True)) if of_pad else {}
    ids |= {name: record.metadata[name] for name in _IDS if record.metadata.get(name)}
    return {
        name: value if of_pad or (of_archive and is_archive_id(value)) else f"{record.space or record.source}: {value}"
        for name, value in ids.items()
    }
