"""Data sets that a run only reports: no image that the model has learnt from, nor a kin of one."""

import logging
import re
from collections.abc import Sequence

import numpy as np
from datasets import Dataset, concatenate_datasets

from dermalert import duplicates, repair, seen, sources
from dermalert.errors import UsageError

logger = logging.getLogger(__name__)


def check(asked: Sequence[str]) -> dict[str, str]:
    """Return each data set by its name.

    Raises:
        UsageError: one is not written as NAME=DATASET, or a name is used twice.
    """
    found = {}
    for one in asked:
        name, _, dataset = one.partition("=")
        if not dataset or not re.fullmatch(r"[\w.-]+", name):
            raise UsageError(f"--external '{one}' must be NAME=DATASET, such as clinic=photos/.")
        if name in found:
            raise UsageError(f"--external names two data sets '{name}'.")
        found[name] = dataset
    return found


def load(asked: Sequence[str], *, learnt: dict[str, Dataset], policy: str) -> dict[str, Dataset]:
    """Load what is only reported, as `external/NAME`, without what has kin on the sides that are learnt from.

    Args:
        asked: NAME=DATASET.
        learnt: the sides of the split.
        policy: of the repair, as for the images that are learnt from.

    Raises:
        UsageError: see `check` and `sources.load`; or nothing is left of a data set.
    """
    return {f"external/{name}": _apart(name, dataset, learnt, policy) for name, dataset in check(asked).items()}


def _apart(name: str, dataset: str, learnt: dict[str, Dataset], policy: str) -> Dataset:
    loaded, _ = repair.repair(sources.load([dataset]), policy)
    taught = concatenate_datasets([learnt[side] for side in seen.SIDES])
    # Near copies join groups, so that one that shows a picture learnt from is in a group that is seen.
    both = duplicates.linked(concatenate_datasets([taught, loaded]))
    known = dict.fromkeys(set().union(*seen.names(both.select(range(len(taught))))), "train")
    loaded = both.select(range(len(taught), len(both)))
    fresh = loaded.select(np.flatnonzero(seen.are_unseen(loaded, known)))
    if len(fresh) < len(loaded):
        logger.warning("left out of %s: %d images with kin among those learnt from", name, len(loaded) - len(fresh))
    if not len(fresh):
        raise UsageError(f"nothing is left of --external {name}: all its images have kin among those learnt from.")
    return fresh
