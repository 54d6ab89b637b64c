"""What is done about labels that are known to be wrong, and about images that stand under two: by a named policy."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable

from datasets import Dataset

from dermalert.data import isic9, schema, splits
from dermalert.data.schema import FACTS, fill, same_image
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


def repair(dataset: Dataset, policy: str = "archive") -> tuple[Dataset, dict]:
    """Return the data set as a policy repairs it, and a report of what was done.

    Copies of an image become one row; of those that ship a split, the one for testing stays. Groups are not changed.

    Args:
        dataset: in the schema of `schema.FEATURES` or `schema.BINARY_FEATURES`.
        policy: one of `POLICIES`.

    Returns:
        The repaired data set, and `{"policy", "images_before", "images", "relabelled": {from: {to: files}},
        "dropped": {labels: images}, "copies": rows that became part of another, "emptied": {diagnosis: sentence},
        "classes": {diagnosis: images}}`.

    Raises:
        UsageError: no such policy, or nothing is left.
    """
    if policy not in POLICIES:
        raise UsageError(f"--repair '{policy}' is none of {', '.join(POLICIES)}.{did_you_mean(policy, POLICIES)}")
    report: dict = {"policy": policy, "images_before": len(dataset), "relabelled": {}, "dropped": {}, "copies": 0}
    repaired = dataset if policy == "none" else _repair_rows(dataset, report, from_archive=policy == "archive")
    if not len(repaired):
        raise UsageError(f"--repair {policy} leaves no image: every one stands under two labels.")
    names = dataset.features["label"].names
    before, after = Counter(dataset["label"]), Counter(repaired["label"])
    report |= {"images": len(repaired), "classes": {name: after[i] for i, name in enumerate(names)}}
    report["emptied"] = {names[i]: _advice(names[i], before[i], len(after)) for i in sorted(before) if not after[i]}
    for sentence in report["emptied"].values():
        logger.warning("%s", sentence)
    return repaired, report


def _repair_rows(dataset: Dataset, report: dict, *, from_archive: bool) -> Dataset:
    rows = dataset.select_columns(["label", "image_id", "content", "shipped_split", *FACTS]).to_list()
    if from_archive:
        labels = isic9.archive_labels(dataset)
        report["relabelled"] = _changes(dataset["label"], labels, dataset.features["label"].names)
        for row, label in zip(rows, labels, strict=True):
            row["label"] = label
    kept = _one_row_an_image(rows, report, dataset.features["label"].names)
    columns = {name: [row[name] for row in rows] for name in ("label", *FACTS)}
    return schema.with_columns(dataset, columns).select(kept)


def _changes(before: Iterable[int], after: Iterable[int], names: list[str]) -> dict[str, dict[str, int]]:
    changes: dict[str, dict[str, int]] = defaultdict(dict)
    for (a, b), n in Counter(zip(before, after, strict=True)).items():
        if a != b:
            changes[names[a]][names[b]] = n
    return dict(changes)


def _one_row_an_image(rows: list[dict], report: dict, names: list[str]) -> list[int]:
    """Return which rows stay, one an image, with what their copies know filled in."""
    copies = defaultdict(list)
    for i, image in enumerate(splits.groups(map(same_image, rows))):
        copies[image].append(i)
    kept: list[int] = []
    dropped: Counter[str] = Counter()
    for same in copies.values():
        labels = sorted({rows[i]["label"] for i in same})
        if [names[label] for label in labels] == _COARSE_AND_FINE:
            labels = labels[1:]
        if len(labels) > 1:
            dropped[" / ".join(names[label] for label in labels)] += 1
            continue
        kept.append(max(same, key=lambda i: rows[i]["shipped_split"] == "test"))
        rows[kept[-1]]["label"] = labels[0]
        for i in same:
            fill(rows[kept[-1]], rows[i])
        report["copies"] += len(same) - 1
    report["dropped"] = dict(dropped)
    return sorted(kept)


def _advice(name: str, before: int, left: int) -> str:
    source = _REFILL.get(name, "a source that has it")
    more = f"add {source} with --dataset, or training goes on with {left} diagnoses."
    return f"no image of {name} is left of {before}: {more}"
