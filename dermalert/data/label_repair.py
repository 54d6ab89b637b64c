"""What is done about labels that are known to be wrong, and about images that stand under two: by a named policy."""

import dataclasses
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from datasets import Dataset

from dermalert.data import groups, isic9, schema
from dermalert.data.schema import METADATA, fill, same_image
from dermalert.errors import UsageError, did_you_mean

logger = logging.getLogger(__name__)

POLICIES = {
    "archive": "the archive's diagnosis for each image of the nine-class set; an image then still under two leaves",
    "drop-conflicts": "an image under two labels leaves",
    "none": "everything stays as it is",
}

# The source that has what a class lost.
_REFILL = {"seborrheic keratosis": "ISIC 2017 (its training and validation images)"}

# No contradiction: ISIC writes the first for any benign keratosis, the second is a kind of it.
_COARSE_AND_FINE = ["pigmented benign keratosis", "seborrheic keratosis"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RepairReport:
    """What a repair has done; images are counted, not files, unless a field says otherwise."""

    policy: str
    images_before: int
    """Files."""
    relabelled: dict[str, dict[str, int]]
    """Files, by the label before and the label after."""
    dropped: dict[str, int]
    """By the labels under which an image stood, joined by ` / `."""
    copies: int
    """Rows that became part of another."""
    images: int
    classes: dict[str, int]
    """What is left, by diagnosis."""
    emptied: dict[str, str]
    """A sentence for each diagnosis of which nothing is left."""

    def to_json(self) -> dict[str, Any]:
        """The `repair` of `metrics.json`."""
        return dataclasses.asdict(self)


def repair(dataset: Dataset, policy: str = "archive") -> tuple[Dataset, RepairReport]:
    """Repair a data set as a policy says, and report what was done.

    Copies of an image become one row; of those that ship a split, the one for testing stays. Groups are not changed.

    Args:
        dataset: in the schema of `schema.FEATURES` or `schema.BINARY_FEATURES`.
        policy: one of `POLICIES`.

    Raises:
        UsageError: no such policy, or nothing is left.
    """
    if policy not in POLICIES:
        raise UsageError(f"label repair '{policy}' is none of {', '.join(POLICIES)}.{did_you_mean(policy, POLICIES)}")
    names, labels = dataset.features["label"].names, dataset["label"][:]
    corrected = isic9.archive_labels(dataset) if policy == "archive" else labels
    repaired, dropped, copies = (dataset, {}, 0) if policy == "none" else _one_row_an_image(dataset, corrected)
    if not len(repaired):
        raise UsageError(f"label repair '{policy}' leaves no image: every one stands under two labels.")
    before, after = Counter(labels), Counter(repaired["label"][:])
    emptied = {names[i]: _advice(names[i], before[i], len(after)) for i in sorted(before) if not after[i]}
    for sentence in emptied.values():
        logger.warning("%s", sentence)
    return repaired, RepairReport(
        policy=policy,
        images_before=len(dataset),
        relabelled=_changes(labels, corrected, names),
        dropped=dropped,
        copies=copies,
        images=len(repaired),
        classes={name: after[i] for i, name in enumerate(names)},
        emptied=emptied,
    )


def _changes(before: Iterable[int], after: Iterable[int], names: list[str]) -> dict[str, dict[str, int]]:
    changes: dict[str, dict[str, int]] = defaultdict(dict)
    for (a, b), n in Counter(zip(before, after, strict=True)).items():
        if a != b:
            changes[names[a]][names[b]] = n
    return dict(changes)


def _one_row_an_image(dataset: Dataset, labels: list[int]) -> tuple[Dataset, dict[str, int], int]:
    """Merge the copies of each image under these labels; return what was dropped, and how many rows were merged."""
    names = dataset.features["label"].names
    rows = dataset.select_columns(["image_id", "content", "shipped_split", *METADATA]).to_list()
    copies = defaultdict(list)
    for i, image in enumerate(groups.group_keys(map(same_image, rows))):
        copies[image].append(i)
    labels, kept, merged = list(labels), [], 0
    dropped: Counter[str] = Counter()
    for same in copies.values():
        under = sorted({labels[i] for i in same})
        if [names[label] for label in under] == _COARSE_AND_FINE:
            under = under[1:]
        if len(under) > 1:
            dropped[" / ".join(names[label] for label in under)] += 1
            continue
        kept.append(max(same, key=lambda i: rows[i]["shipped_split"] == "test"))
        labels[kept[-1]] = under[0]
        for i in same:
            fill(rows[kept[-1]], rows[i])
        merged += len(same) - 1
    columns = {"label": labels, **{name: [row[name] for row in rows] for name in METADATA}}
    return schema.with_columns(dataset, columns).select(sorted(kept)), dict(dropped), merged


def _advice(name: str, before: int, left: int) -> str:
    source = _REFILL.get(name, "a source that has it")
    more = f"add {source} with --dataset_name, or training goes on with {left} diagnoses."
    return f"no image of {name} is left of {before}: {more}"
