"""One schema for the images of any source: columns, what an image belongs to, when two rows are one image."""

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from datasets import ClassLabel, Dataset, Features, Image, Value
from dermalert_space.contract import Json

from dermalert.data import provenance
from dermalert.data.identifiers import archive_number
from dermalert.taxonomy import DIAGNOSES, MALIGNANCIES

logger = logging.getLogger(__name__)

FEATURES = Features(
    {
        "image": Image(),
        "label": ClassLabel(names=list(DIAGNOSES)),
        "image_id": Value("string"),
        "lesion_id": Value("string"),
        "patient_id": Value("string"),
        "source": Value("string"),  # where the pictures were made; if nothing tells, the name of what holds them
        "age": Value("float32"),  # years
        "sex": Value("string"),
        "site": Value("string"),
        "skin_type": Value("string"),  # Fitzpatrick, I to VI
        "confirmation": Value("string"),  # of the diagnosis, the reference standard: one of CONFIRMATIONS
        "group": Value("string"),  # what must stay in one split, as `groups.group_keys` finds it
        "shipped_split": Value("string"),  # "train" or "test" where the source ships one
        "content": Value("string"),  # SHA-256 of the file
    }
)


CONFIRMATIONS = ("histopathology", "confocal microscopy", "follow-up", "expert consensus", "clinical assessment")
"""How a diagnosis was confirmed, the surest first."""

METADATA = ("lesion_id", "patient_id", "age", "sex", "site", "skin_type", "confirmation")
"""The columns that a copy of an image may know where another does not."""


def features_of(labels: Iterable[str]) -> Features:
    """The same under other labels."""
    return Features(FEATURES | {"label": ClassLabel(names=list(labels))})


BINARY_FEATURES = features_of(MALIGNANCIES)
"""The same where it is known of an image only whether what it shows is malignant."""


class Description(TypedDict):
    """What a data set is made of."""

    sources: list[str]
    generated: bool
    images: int
    different_images: int
    contradictions: int
    groups: int
    fingerprint: str
    """Changes with any image or label, not with their order."""


def describe(dataset: Dataset) -> Description:
    """Describe a data set."""
    pairs = sorted(zip(dataset["content"][:], dataset["label"][:], strict=True))
    sources = sorted(set(dataset["source"][:]))
    return {
        "sources": sources,
        "generated": sources == [provenance.GENERATED],
        "images": len(dataset),
        "different_images": len(set(dataset["content"][:])),
        "contradictions": len(_contradictions(dataset)),
        "groups": len(set(dataset["group"][:])),
        "fingerprint": hashlib.sha256(repr(pairs).encode()).hexdigest()[:16],
    }


def confirmations(dataset: Dataset) -> dict[str, dict[str, int]]:
    """How many images of each diagnosis are confirmed in which way, those of which nothing is recorded included."""
    names = dataset.features["label"].names
    counts = Counter(zip(dataset["label"][:], dataset["confirmation"][:], strict=True))
    return {
        name: {how or "not recorded": counts[label, how] for how in (*CONFIRMATIONS, None) if counts[label, how]}
        for label, name in enumerate(names)
    }


def belongings(row: Mapping[str, Any]) -> tuple[str | None, ...]:
    """What an image belongs to, the most telling first, as `groups.group_keys` wants it."""
    return row.get("lesion_id"), row.get("patient_id"), archive_number(row["image_id"]), row["content"][:16]


def same_image(row: Mapping[str, Any]) -> tuple[str | None, ...]:
    """What makes two rows one image, as `groups.group_keys` wants it: the archive's number, or the bytes.

    The bytes alone would not do: each source has scaled the archive's images in its own way.
    """
    return archive_number(row["image_id"]), row["content"]


def fill(row: Json, other: Mapping[str, Any]) -> None:
    """Add to a row what is known of its image otherwise and not there yet, of `METADATA`, and its clinic."""
    for name in METADATA:
        if row.get(name) is None and other.get(name) is not None:
            row[name] = other[name]
    if "source" in row:
        row["source"] = provenance.finer(row["source"], other.get("source"))


def _contradictions(dataset: Dataset) -> dict[str, set[int]]:
    """The labels of each image that stands, byte for byte, under more than one."""
    first: dict[str, int] = {}
    labels: dict[str, set[int]] = defaultdict(set)
    for content, label in zip(dataset["content"][:], dataset["label"][:], strict=True):
        if first.setdefault(content, label) != label:
            labels[content] |= {first[content], label}
    return labels


def warn_of_contradictions(dataset: Dataset) -> None:
    """Say which images stand, byte for byte, under two labels."""
    label = dataset.features["label"].int2str
    pairs = Counter(" / ".join(label(i) for i in sorted(labels)) for labels in _contradictions(dataset).values())
    if pairs:
        logger.warning(
            "%d files hold %d different images; %d images stand under two labels: %s",
            len(dataset),
            len(set(dataset["content"][:])),
            pairs.total(),
            ", ".join(f"{n} {pair}" for pair, n in pairs.most_common()),
        )


def with_columns(dataset: Dataset, columns: dict[str, list[Any]]) -> Dataset:
    """A data set in which the columns hold these values; their order and features stay."""
    if not len(dataset):
        return dataset  # `datasets` 5.2 cannot add a column to a selection of nothing
    order, features = dataset.column_names, dataset.features
    dataset = dataset.remove_columns(list(columns))
    for name, values in columns.items():
        dataset = dataset.add_column(name, values, feature=features[name])
    return dataset.select_columns(order)
