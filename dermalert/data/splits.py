"""Four splits with one job each; a group's own key decides on its split."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TypedDict

from datasets import Dataset, concatenate_datasets

from dermalert.data import isic9, schema, space_examples
from dermalert.errors import UsageError
from dermalert.taxonomy import DIAGNOSES

SHARES = {
    "train": 0.60,  # weights
    "validation": 0.10,  # early stopping, choice of recipe
    "calibration": 0.15,  # temperature and prior, abstention, operating points
    "held_out": 0.15,  # reported; the gate compares releases on it
}

_DEVELOPMENT = {name: share for name, share in SHARES.items() if name != "held_out"}


def split_of(group: str, *, seed: int = 0) -> str:
    """The split of a group: by a hash of its key, so that no other image can move it."""
    return _split_of(_position(group, str(seed)), SHARES)


def _position(group: str, salt: str) -> float:
    """A number in [0, 1) that only the group's key and the salt decide on."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{group}".encode()).digest()[:8]) / 2**64


def _split_of(position: float, shares: Mapping[str, float]) -> str:
    total = sum(shares.values())
    for name, share in shares.items():
        position -= share / total
        if position < 0:
            return name
    return name  # the shares' sum may be a rounding error below 1


def split(dataset: Dataset, *, shipped: Dataset | None = None, seed: int = 0) -> dict[str, Dataset]:
    """Split a data set by group into the four splits, and return its shipped test split beside them.

    `official_test` is the test split as shipped, `clean_test` the part of it that `clean_test` returns. A group that
    has an image there is trained, validated and calibrated on nowhere: its other images are `set_aside`. A group with
    one of `space_examples` is held out, whatever its hash.

    Args:
        dataset: what the four splits are made of.
        shipped: the same as it was before a repair changed it; without it, `dataset`.
        seed: of the split.

    Raises:
        UsageError: a diagnosis has so few groups that a split has none of it.
    """
    shipped = dataset if shipped is None else shipped
    official = _shipped_as(shipped, "test")
    reserved = dict.fromkeys(space_examples.groups_of(dataset), "held_out")
    reserved |= dict.fromkeys(official["group"][:], "set_aside")
    rows = defaultdict(list)
    for i, (group, part) in enumerate(zip(dataset["group"][:], dataset["shipped_split"][:], strict=True)):
        if part != "test":
            rows[reserved.get(group) or split_of(group, seed=seed)].append(i)
    splits = {name: dataset.select(rows[name]) for name in [*SHARES, "set_aside"]}
    check_classes({name: splits[name] for name in SHARES})
    return splits | {"official_test": official, "clean_test": clean_test(shipped)}


def fold(splits: dict[str, Dataset], number: int, folds: int, *, seed: int = 0) -> dict[str, Dataset]:
    """The splits of a fold: one part of the images of the four is held out, the others are learnt from.

    A group's fold, and its split among the others, follow from hashes of its key, as in `split`. The groups of
    `space_examples` are learnt from in no fold: where they are not held out they are `set_aside`.

    Args:
        splits: of `split`.
        number: of the fold, from 0.
        folds: how many there are.
        seed: of the split.

    Raises:
        UsageError: see `split`.
    """
    everything = concatenate_datasets([splits[name] for name in SHARES])
    examples, rows = space_examples.groups_of(everything), defaultdict(list)
    for i, group in enumerate(everything["group"][:]):
        out = int(_position(group, f"{seed}:fold") * folds) == number
        split = "set_aside" if group in examples else _split_of(_position(group, f"{seed}:fold {number}"), _DEVELOPMENT)
        rows["held_out" if out else split].append(i)
    parts = {name: everything.select(rows[name]) for name in SHARES}
    check_classes(parts)
    aside = concatenate_datasets([splits["set_aside"], everything.select(rows["set_aside"])])
    return splits | parts | {"set_aside": aside}


def clean_test(shipped: Dataset) -> Dataset:
    """The shipped test images that are related to none of the shipped training split, under the archive's labels.

    Kin is what stands in one group: a photo of the same lesion, of the same patient, or the very same picture.
    """
    test, train = _shipped_as(shipped, "test"), _shipped_as(shipped, "train")
    trained = set(train["group"][:])
    clean = test.select([i for i, group in enumerate(test["group"][:]) if group not in trained])
    return schema.with_columns(clean, {"label": isic9.archive_labels(clean)})


def _shipped_as(dataset: Dataset, part: str) -> Dataset:
    return dataset.select([i for i, shipped in enumerate(dataset["shipped_split"][:]) if shipped == part])


class Sizes(TypedDict):
    """How many images stand where."""

    split_seed: int
    sides: dict[str, int]
    """In each split but `clean_test`, which is part of another."""
    clean_test: int
    classes: dict[str, dict[str, int]]
    """By diagnosis and split."""


def describe(splits: dict[str, Dataset], seed: int) -> Sizes:
    """Count the images of each split."""
    counts = {name: Counter(rows["label"][:]) for name, rows in splits.items()}
    return {
        "split_seed": seed,
        "sides": {name: len(rows) for name, rows in splits.items() if name != "clean_test"},
        "clean_test": len(splits["clean_test"]),
        "classes": {label: {n: c[i] for n, c in counts.items() if c[i]} for i, label in enumerate(DIAGNOSES)},
    }


def fingerprint(splits: dict[str, Dataset]) -> str:
    """What changes with the images of a split, their labels and their order, all of which a training hangs on."""
    contents = [(name, rows["content"][:], rows["label"][:]) for name, rows in splits.items()]
    return hashlib.sha256(repr(contents).encode()).hexdigest()[:16]


def check_classes(splits: dict[str, Dataset]) -> None:
    """Refuse splits of which one has no group of a diagnosis that another has."""
    if not any(map(len, splits.values())):
        raise UsageError("there is nothing to train on: all images stand in Test/, or are copies of what stands there.")
    groups: dict[str, dict[int, set[str]]] = {name: defaultdict(set) for name in splits}
    for name, rows in splits.items():
        for label, group in zip(rows["label"][:], rows["group"][:], strict=True):
            groups[name][label].add(group)
    for label in sorted({label for by_label in groups.values() for label in by_label}):
        empty = [name for name, by_label in groups.items() if label not in by_label]
        if empty:
            count = len(set().union(*(by_label[label] for by_label in groups.values())))
            raise UsageError(
                f"'{DIAGNOSES[label]}' has {count} groups (lesions, or different images where no lesion is known), and "
                f"none of them falls into the split {' or '.join(empty)}: add images of it (with about 60 groups none "
                "stays empty), or leave its folder out."
            )
