"""Data sets that a run only reports: no image that the model has learnt from, nor a kin of one."""

import logging
import re
from collections.abc import Mapping, Sequence

import numpy as np
from datasets import Dataset, concatenate_datasets

from dermalert.data import contamination, loading, near_duplicates, repair, schema
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


def load(
    asked: Sequence[str], *, sides: dict[str, Dataset], learnt: Mapping[str, str], policy: str, **options
) -> tuple[dict[str, Dataset], dict]:
    """Load what is only reported, as `external/NAME`, without what has kin among the images that were learnt from.

    Args:
        asked: NAME=DATASET.
        sides: of the split.
        learnt: what those sides, and the base model, have learnt from, by `contamination.of`.
        policy: of the repair, as for the images that are learnt from.
        options: of `loading.load`.

    Returns:
        The data sets by `external/NAME`, and by NAME what each is made of, the images left out, and the repair.

    Raises:
        UsageError: see `check` and `loading.load`; or nothing is left of a data set.
    """
    taught = concatenate_datasets([sides[side] for side in contamination.SIDES])
    found, told = {}, {}
    for name, dataset in check(asked).items():
        loaded, repaired = repair.repair(loading.load([dataset], **options), policy)
        fresh = _apart(loaded, taught, learnt)
        left_out = len(loaded) - len(fresh)
        if left_out:
            logger.warning("left out of %s: %d images with kin among those learnt from", name, left_out)
        if not len(fresh):
            raise UsageError(f"nothing is left of --external {name}: all its images have kin among those learnt from.")
        found[f"external/{name}"] = fresh
        told[name] = schema.describe(fresh) | {"left_out": left_out, "repair": repaired}
    return found, told


def _apart(loaded: Dataset, taught: Dataset, learnt: Mapping[str, str]) -> Dataset:
    # Near copies join groups, so that one that shows a picture learnt from here is in a group that is seen.
    both = near_duplicates.linked(concatenate_datasets([taught, loaded]))
    known = dict.fromkeys(set().union(*contamination.names(both.select(range(len(taught))))), "train") | learnt
    loaded = both.select(range(len(taught), len(both)))
    return loaded.select(np.flatnonzero(contamination.are_unseen(loaded, known)))
