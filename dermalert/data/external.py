"""Data sets that a run only reports: no image that the model has learnt from, nor a kin of one."""

import dataclasses
import logging
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from datasets import Dataset, concatenate_datasets
from dermalert_space.contract import Json

from dermalert.data import contamination, copies, label_repair, loading, near_duplicates, schema
from dermalert.data.loading import Reading
from dermalert.errors import UsageError

logger = logging.getLogger(__name__)


def check(asked: Sequence[str]) -> dict[str, str]:
    """Return each data set by its name.

    Raises:
        UsageError: one is not written as NAME=DATASET, or a name is used twice.
    """
    datasets = {}
    for one in asked:
        name, _, dataset = one.partition("=")
        if not dataset or not re.fullmatch(r"[\w.-]+", name):
            raise UsageError(f"--external '{one}' must be NAME=DATASET, such as clinic=photos/.")
        if name in datasets:
            raise UsageError(f"--external names two data sets '{name}'.")
        datasets[name] = dataset
    return datasets


def load(
    asked: Sequence[str],
    reading: Reading | None = None,
    *,
    sides: dict[str, Dataset],
    learnt: Mapping[str, str],
    policy: str,
    beside: Iterable[str] = (),
) -> tuple[dict[str, Dataset], Json]:
    """Load what is only reported, as `external/NAME`, without what has kin among the images that were learnt from.

    Args:
        asked: NAME=DATASET.
        reading: see `loading.load`.
        sides: of the split.
        learnt: what those sides, and the base model, have learnt from, by `contamination.of`.
        policy: of the repair, as for the images that are learnt from.
        beside: see `loading.load`.

    Returns:
        The data sets by `external/NAME`, and by NAME what each is made of, the images left out, and the repair.

    Raises:
        UsageError: see `check` and `loading.load`; or nothing is left of a data set.
    """
    reading = dataclasses.replace(reading or Reading(), shortcuts=False, squares=True)
    taught = concatenate_datasets([sides[side] for side in contamination.SPLITS])
    datasets, reports = {}, {}
    for name, dataset in check(asked).items():
        both = _link(taught, loading.load([dataset], reading, beside=beside).dataset)
        repaired, report = label_repair.repair(both.select(range(len(taught), len(both))), policy)
        exposure = set().union(*contamination.names(both.select(range(len(taught)))))
        unseen = contamination.are_unseen(repaired, dict.fromkeys(exposure, "train") | dict(learnt))
        fresh = repaired.select(np.flatnonzero(unseen))
        left_out = len(repaired) - len(fresh)
        if left_out:
            logger.warning("left out of %s: %d images with kin among those learnt from", name, left_out)
        if not len(fresh):
            raise UsageError(f"nothing is left of --external {name}: all its images have kin among those learnt from.")
        datasets[f"external/{name}"] = fresh
        reports[name] = schema.describe(fresh) | {"left_out": left_out, "repair": report.to_json()}
    return datasets, reports


def _link(taught: Dataset, loaded: Dataset) -> Dataset:
    """Link both, one after the other, so that a near copy of an image that was learnt from is in its group."""
    both = concatenate_datasets([taught, loaded])
    # Those among the images that are learnt from are in one group already.
    start = len(taught)
    return near_duplicates.link(both, near_duplicates.search(both, start=start), copies.search(both, start=start))
