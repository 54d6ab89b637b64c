"""Images and labels of any source, in one schema.

Read here: `demo` (generated lesions) and folders with one folder a class, alone or under `Train/` and `Test/` as the
nine-class Kaggle set has them. `datasets.load_dataset("imagefolder")` is not used for these: it merges that set's
Test into Train without a word, shifts the label ids where a class is missing, loses the labels over a left-over
folder, and finds a truncated file only when the training reads it.
"""

import dataclasses
import hashlib
import io
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image, Value
from tqdm.auto import tqdm

from dermalert import synthetic
from dermalert.diagnoses import DIAGNOSES, diagnosis
from dermalert.errors import UsageError, did_you_mean, first_few
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
        "group": Value(
            "string"
        ),  # what must stay on one side of the split: the lesion, else the patient, else the bytes
        "shipped_split": Value("string"),  # "train" or "test" where the source ships one
        "content": Value("string"),  # SHA-256 of the file
    }
)


def load(names: Iterable[str], *, strict: bool = False) -> Dataset:
    """Load one or more data sets into the schema `FEATURES`.

    Args:
        names: `demo`, or folders.
        strict: refuse a file that cannot be read as an image, instead of naming and skipping it.

    Raises:
        UsageError: no such data set, no images in it, a folder that names no diagnosis, or (strict) a bad file.
    """
    rows = [row for name in names for row in (_demo() if name == "demo" else _folder(Path(name), strict=strict))]
    dataset = Dataset.from_list(rows, features=FEATURES)
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


def _row(*, image: dict, content: bytes, label: str, image_id: str, source: str, **known) -> dict:
    digest = hashlib.sha256(content).hexdigest()
    row = dict.fromkeys(FEATURES) | known
    row |= {"image": image, "label": label, "image_id": image_id, "source": source, "content": digest}
    row["group"] = row["lesion_id"] or row["patient_id"] or digest[:16]
    return row


def _demo() -> Iterator[dict]:
    for photo in tqdm(synthetic.demo_set(), desc="Drawing lesions", unit=" images"):
        buffer = io.BytesIO()
        photo.image.save(buffer, "PNG")
        known = {name: getattr(photo, name) for name in ("lesion_id", "age", "sex", "site")}
        yield _row(
            image={"bytes": buffer.getvalue(), "path": None},
            content=buffer.getvalue(),
            label=photo.diagnosis,
            image_id=photo.image_id,
            source=GENERATED,
            **known,
        )


@dataclasses.dataclass(frozen=True)
class _File:
    path: Path
    label: str
    shipped_split: str | None


def _folder(root: Path, *, strict: bool) -> list[dict]:
    if not root.is_dir():
        near = [str(p) for p in root.parent.iterdir() if p.is_dir()] if root.parent.is_dir() else []
        hint = did_you_mean(str(root), ["demo", *near])
        raise UsageError(f"--dataset '{root}' is neither 'demo' nor a folder.{hint}")
    files = list(_files(root))
    if not files:
        raise UsageError(
            f"'{root}' has no images: it must hold one folder a diagnosis, alone or under Train/ and Test/."
        )
    with ThreadPoolExecutor() as pool:
        read = tqdm(pool.map(_read, files), total=len(files), desc=f"Reading {root}", unit=" images")
        results = list(read)
    bad = [result for result in results if isinstance(result, str)]
    if bad and strict:
        raise UsageError(f"{len(bad)} of {len(files)} files in '{root}' are no images: {first_few(bad)} (--strict).")
    if bad:
        logger.warning("skipped %d of %d files in '%s': %s", len(bad), len(files), root, first_few(bad, 20))
    rows = [result for result in results if isinstance(result, dict)]
    if not rows:
        raise UsageError(f"none of the {len(files)} files in '{root}' can be read as an image: {first_few(bad)}.")
    return rows


def _files(root: Path) -> Iterator[_File]:
    splits = {p.name.lower(): p for p in _folders(root) if p.name.lower() in ("train", "test")}
    for split, folder in splits.items() or [(None, root)]:
        for class_folder in _folders(folder):
            try:
                label = diagnosis(class_folder.name)
            except UsageError as error:
                raise UsageError(f"folder '{class_folder}': {error}") from None
            nested = [p for p in class_folder.rglob("*") if p.is_file() and p.parent != class_folder]
            if nested:
                logger.warning("left out %d files below '%s', such as '%s'", len(nested), class_folder, nested[0])
            for path in sorted(class_folder.iterdir()):
                if path.is_file() and not path.name.startswith("."):
                    yield _File(path, label, split)
    if splits:
        beside = [p for p in _folders(root) if p not in splits.values()]
        if beside:
            logger.warning("left out what stands beside Train and Test: %s", first_few(beside))


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _read(file: _File) -> dict | str:
    """Return the row of a file, or why there is none."""
    try:
        content = file.path.read_bytes()
        read_image(content)
    except (UnreadableImage, OSError) as error:
        return f"'{file.path}' ({str(error.__cause__ or error)[:60]})"
    return _row(
        image={"path": str(file.path.resolve()), "bytes": None},
        content=content,
        label=file.label,
        image_id=file.path.stem,
        source=_source(file),
        shipped_split=file.shipped_split,
    )


def _source(file: _File) -> str:
    """Tell an ISIC image's origin from its number: HAM10000 came in as one block, ISIC_0024306 to ISIC_0034320."""
    number = re.fullmatch(r"ISIC_(\d{7})(_downsampled)?", file.path.stem)
    if number is None:
        return "unknown"
    if 24306 <= int(number[1]) <= 34320:
        return "HAM10000"
    return "older ISIC archive" if int(number[1]) < 24306 else "newer ISIC archive"


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
