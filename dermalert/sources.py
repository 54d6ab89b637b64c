"""Images and labels of any source, in one schema; of several sources, each image once.

A source is `demo` (generated lesions), a folder in one of the layouts of `layouts.py`, or a data set of the Hub.
`datasets.load_dataset("imagefolder")` is not used for folders: it merges the nine-class Kaggle set's Test into its
Train without a word, shifts the label ids where a class is missing, loses the labels over a left-over folder, and
finds a truncated file only when the training reads it.
"""

import dataclasses
import hashlib
import io
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image, Value, concatenate_datasets
from tqdm.auto import tqdm

from dermalert import facts, hub, layouts, splits, synthetic
from dermalert.diagnoses import DIAGNOSES
from dermalert.errors import UsageError, did_you_mean, first_few
from dermalert.layouts import Record
from dermalert.tables import FACTS
from space.triage import UnreadableImage, read_image

logger = logging.getLogger(__name__)

GENERATED = "generated"

FEATURES = Features(
    {
        "image": Image(),
        "label": ClassLabel(names=list(DIAGNOSES)),
        "image_id": Value("string"),
        "lesion_id": Value("string"),
        "patient_id": Value("string"),
        "source": Value("string"),  # where the pictures were made, never which folder they came in
        "age": Value("float32"),  # years
        "sex": Value("string"),
        "site": Value("string"),
        "group": Value("string"),  # what must stay on one side of the split, as `splits.groups` finds it
        "shipped_split": Value("string"),  # "train" or "test" where the source ships one
        "content": Value("string"),  # SHA-256 of the file
    }
)


@dataclasses.dataclass
class _Source:
    """The rows of one source, without their images, and the images with the number of each row's."""

    rows: list[dict]
    images: Dataset
    numbers: list[int]

    def dataset(self) -> Dataset:
        """Return the rows with their images, in the schema."""
        blank = dict.fromkeys(FEATURES)
        table = [blank] * len(self.images)
        for number, row in zip(self.numbers, self.rows, strict=True):
            table[number] = blank | row
        features = Features({name: feature for name, feature in FEATURES.items() if name != "image"})
        known = Dataset.from_list([{name: row[name] for name in features} for row in table], features=features)
        # Selected at last, because side by side with other columns a selection would be copied, images and all.
        joined = concatenate_datasets([self.images, known], axis=1).select(self.numbers)
        return joined.cast_column("image", Image())


def load(names: Iterable[str], *, strict: bool = False, columns: Mapping[str, str] | None = None) -> Dataset:
    """Load one or more data sets into the schema `FEATURES`.

    An image that several of them hold under one label becomes one row, with what any of them knows of it. Copies within
    one data set stay, and so do copies under different labels: `repair` is for those. What the facts about the
    nine-class set know of an image, and its source does not, is filled in.

    Args:
        names: `demo`, folders, or `USER/NAME[@REVISION]` of data sets on the Hub.
        strict: refuse a file that cannot be read as an image, instead of naming and skipping it.
        columns: fields of the schema with the columns that hold them, where a source names them in its own way.

    Raises:
        UsageError: no such data set, no images in it, a name that is no diagnosis, or (strict) a bad file.
        RunError: the Hub cannot be reached.
    """
    found = [_read_source(name, strict=strict, columns=columns) for name in names]
    rows = [row for source in found for row in source.rows]
    for row in rows:
        fill(row, facts.known().get(facts.isic_id(row["image_id"]), {}))
    for row, group in zip(rows, splits.groups(map(belongings, rows)), strict=True):
        row["group"] = group
    strangers = sum(row["source"] == "HAM10000" and not row.get("lesion_id") for row in rows)
    if strangers:
        logger.warning(
            "%d images of HAM10000 have no lesion id, so that photos of one lesion may stand on two sides: put "
            "HAM10000_metadata.csv beside them",
            strangers,
        )
    if len(found) > 1:
        _merge_copies(found)
    dataset = concatenate_datasets([source.dataset() for source in found if source.rows])
    _warn_of_contradictions(dataset)
    return dataset


def describe(dataset: Dataset) -> dict:
    """Return what a data set is made of; the fingerprint changes with any image or label, not with their order."""
    pairs = sorted(zip(dataset["content"], dataset["label"], strict=True))
    sources = sorted(set(dataset["source"]))
    return {
        "sources": sources,
        "generated": sources == [GENERATED],
        "images": len(dataset),
        "different_images": len(set(dataset["content"])),
        "contradictions": len(_contradictions(dataset)),
        "groups": len(set(dataset["group"])),
        "fingerprint": hashlib.sha256(repr(pairs).encode()).hexdigest()[:16],
    }


def belongings(row: Mapping) -> tuple[str | None, ...]:
    """Return what an image belongs to, the most telling first, as `splits.groups` wants it."""
    return row.get("lesion_id"), row.get("patient_id"), facts.isic_id(row["image_id"]), row["content"][:16]


def same_image(row: Mapping) -> tuple[str | None, ...]:
    """Return what makes two rows one image, as `splits.groups` wants it: the archive's number, or the bytes.

    The bytes alone would not do: each source has scaled the archive's images in its own way.
    """
    return facts.isic_id(row["image_id"]), row["content"]


def fill(row: dict, known: Mapping) -> None:
    """Add to a row what is known of its image otherwise and not there yet: lesion, patient, age, sex, site."""
    for name in FACTS:
        if row.get(name) is None:
            row[name] = known.get(name)


def _merge_copies(found: list[_Source]) -> None:
    """Keep one row of an image that several sources hold under one label, the one shipped for testing or the first."""
    rows = [(source, i) for source in found for i in range(len(source.rows))]
    images = splits.groups(same_image(source.rows[i]) for source, i in rows)
    copies = defaultdict(list)
    for image, (source, i) in zip(images, rows, strict=True):
        copies[image, source.rows[i]["label"]].append((source, i))
    gone = defaultdict(set)
    for same in copies.values():
        kept = max(same, key=lambda copy: copy[0].rows[copy[1]].get("shipped_split") == "test")
        # Whether an image has kin in a shipped training split must not depend on the order of the sources.
        if any(source.rows[i].get("shipped_split") == "train" for source, i in same):
            row = kept[0].rows[kept[1]]
            row["shipped_split"] = row.get("shipped_split") or "train"
        for source, i in same:
            if source is not kept[0]:
                fill(kept[0].rows[kept[1]], source.rows[i])
                gone[id(source)].add(i)
    for source in found:
        left = [i for i in range(len(source.rows)) if i not in gone[id(source)]]
        source.rows, source.numbers = [source.rows[i] for i in left], [source.numbers[i] for i in left]


def _read_source(name: str, *, strict: bool, columns: Mapping[str, str] | None) -> _Source:
    if name == "demo":
        return _demo()
    if Path(name).is_dir():
        records = layouts.records(Path(name), columns)
        if not records:
            raise UsageError(
                f"'{name}' has no images: it must hold one folder a diagnosis, alone or under Train/ and Test/, or "
                "images with their table (HAM10000, an ISIC challenge, the ISIC archive, PAD-UFES-20)."
            )
        records = [dataclasses.replace(record, row=i) for i, record in enumerate(records)]
        return _read(
            records, _pictures([{"path": str(r.path.resolve()), "bytes": None} for r in records]), name, strict
        )
    if hub.is_name(name):
        return _read(*hub.load(name, columns), name, strict)
    root = Path(name)
    near = [str(p) for p in root.parent.iterdir() if p.is_dir()] if root.parent.is_dir() else []
    hint = did_you_mean(name, ["demo", *near])
    raise UsageError(f"--dataset '{name}' is neither 'demo' nor a folder.{hint} A data set of the Hub is USER/NAME.")


def _demo() -> _Source:
    rows, pictures = [], []
    for photo in tqdm(synthetic.demo_set(), desc="Drawing lesions", unit=" images"):
        buffer = io.BytesIO()
        photo.image.save(buffer, "PNG")
        known = {name: getattr(photo, name) for name in ("lesion_id", "age", "sex", "site")}
        record = Record(image_id=photo.image_id, name=photo.diagnosis, source=GENERATED, facts=known)
        rows.append(_row(record, buffer.getvalue()))
        pictures.append({"path": None, "bytes": buffer.getvalue()})
    return _Source(rows, _pictures(pictures), list(range(len(rows))))


def _pictures(images: list[dict]) -> Dataset:
    return Dataset.from_dict({"image": images}, features=Features({"image": Image(decode=False)}))


def _read(records: list[Record], images: Dataset, name: str, strict: bool) -> _Source:
    """Read every image once: whether it is one, and what its bytes are."""
    with ThreadPoolExecutor() as pool:
        read = pool.map(lambda record: _row_or_fault(record, images[record.row]["image"]), records)
        results = list(tqdm(read, total=len(records), desc=f"Reading {name}", unit=" images"))
    bad = [result for result in results if isinstance(result, str)]
    if bad and strict:
        raise UsageError(f"{len(bad)} of {len(records)} files in '{name}' are no images: {first_few(bad)} (--strict).")
    if bad:
        logger.warning("skipped %d of %d files in '%s': %s", len(bad), len(records), name, first_few(bad, 20))
    rows = [result for result in results if isinstance(result, dict)]
    if not rows:
        raise UsageError(f"none of the {len(records)} files in '{name}' can be read as an image: {first_few(bad)}.")
    numbers = [record.row for record, result in zip(records, results, strict=True) if isinstance(result, dict)]
    return _Source(rows, images, numbers)


def _row_or_fault(record: Record, image: dict) -> dict | str:
    """Return the row of an image, or why there is none."""
    try:
        content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
        read_image(content)
    except (UnreadableImage, OSError) as error:
        return f"'{record.path or record.image_id}' ({str(error.__cause__ or error)[:60]})"
    return _row(record, content)


def _row(record: Record, content: bytes) -> dict:
    return record.facts | {
        "label": DIAGNOSES.index(record.name),
        "image_id": record.image_id,
        "source": _origin(record),
        "shipped_split": record.shipped_split,
        "content": hashlib.sha256(content).hexdigest(),
    }


def _origin(record: Record) -> str:
    """Tell an image's origin from its number: HAM10000 came into the archive as one block, to ISIC_0034320."""
    if re.fullmatch(r"PAT_\d+_\d+_\d+", record.image_id):
        return "PAD-UFES-20"
    number = facts.isic_id(record.image_id)
    if number is None:
        return record.source
    if "ISIC_0024306" <= number <= "ISIC_0034320":
        return "HAM10000"
    return "older ISIC archive" if number < "ISIC_0024306" else "newer ISIC archive"


def _contradictions(dataset: Dataset) -> dict[str, set[int]]:
    """Return the labels of each image that stands, byte for byte, under more than one."""
    labels = defaultdict(set)
    for content, label in zip(dataset["content"], dataset["label"], strict=True):
        labels[content].add(label)
    return {content: found for content, found in labels.items() if len(found) > 1}


def _warn_of_contradictions(dataset: Dataset) -> None:
    pairs = Counter(" / ".join(DIAGNOSES[i] for i in sorted(found)) for found in _contradictions(dataset).values())
    if pairs:
        logger.warning(
            "%d files hold %d different images; %d images stand under two labels: %s",
            len(dataset),
            len(set(dataset["content"])),
            pairs.total(),
            ", ".join(f"{n} {pair}" for pair, n in pairs.most_common()),
        )
