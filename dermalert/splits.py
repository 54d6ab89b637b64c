"""Four sides with one job each; a group's own key decides on which side it stands."""

import hashlib
from collections import defaultdict

from datasets import Dataset

from dermalert.diagnoses import DIAGNOSES
from dermalert.errors import UsageError

SHARES = {
    "train": 0.60,  # weights
    "validation": 0.10,  # early stopping, choice of recipe
    "calibration": 0.15,  # temperature, alert threshold; used once
    "held_out": 0.15,  # reported; chooses nothing
}


def side(group: str, *, seed: int = 0) -> str:
    """Return the side of a group: by a hash of its key, so that no other image can move it."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    position = int.from_bytes(digest[:8]) / 2**64
    for name, share in SHARES.items():
        position -= share
        if position < 0:
            return name
    return "held_out"  # the shares' sum may be a rounding error below 1


def split(dataset: Dataset, *, seed: int = 0) -> dict[str, Dataset]:
    """Split a data set by group into the four sides, and its shipped test split.

    `official_test` is the test split as shipped. A group that has an image there is trained, validated and calibrated
    on nowhere: its other images are set aside.

    Raises:
        UsageError: a diagnosis has so few groups that a side has none of it.
    """
    tested = {g for g, s in zip(dataset["group"], dataset["shipped_split"], strict=True) if s == "test"}
    rows = defaultdict(list)
    for i, (group, shipped) in enumerate(zip(dataset["group"], dataset["shipped_split"], strict=True)):
        if shipped == "test":
            rows["official_test"].append(i)
        else:
            rows["set_aside" if group in tested else side(group, seed=seed)].append(i)
    sides = {name: dataset.select(rows[name]) for name in [*SHARES, "official_test", "set_aside"]}
    _check_classes({name: sides[name] for name in SHARES})
    return sides


def describe(sides: dict[str, Dataset], seed: int) -> dict:
    """Return how many images stand where."""
    return {"split_seed": seed, "sides": {name: len(rows) for name, rows in sides.items()}}


def _check_classes(sides: dict[str, Dataset]) -> None:
    if not any(map(len, sides.values())):
        raise UsageError("there is nothing to train on: all images stand in Test/, or are copies of what stands there.")
    groups = {name: defaultdict(set) for name in sides}
    for name, rows in sides.items():
        for label, group in zip(rows["label"], rows["group"], strict=True):
            groups[name][label].add(group)
    for label in sorted({label for found in groups.values() for label in found}):
        empty = [name for name, found in groups.items() if label not in found]
        if empty:
            count = len(set().union(*(found[label] for found in groups.values())))
            raise UsageError(
                f"'{DIAGNOSES[label]}' has {count} groups (lesions, or different images where no lesion is known), and "
                f"none of them falls on the side {' or '.join(empty)}: add images of it (with about 60 groups no side "
                "stays empty), or leave its folder out."
            )
