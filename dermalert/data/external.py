"""Data sets that a run only reports, without images related to those that the model was developed on."""

import dataclasses
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from datasets import Dataset, concatenate_datasets
from dermalert_space.contract import Json

from dermalert.data import contamination, copies, label_repair, loading, near_duplicates, schema
from dermalert.data.loading import Reading
from dermalert.errors import UsageError

logger = logging.getLogger(__name__)


class External(NamedTuple):
    """What is only reported."""

    splits: dict[str, Dataset]
    """By `external/NAME`."""
    report: dict[str, Json]
    """By NAME what each is made of, the images left out, and the repair."""


def check(arguments: Sequence[str]) -> dict[str, str]:
    """Each data set by its name, of arguments NAME=DATASET.

    Raises:
        UsageError: one is not written as NAME=DATASET, or a name is used twice.
    """
    datasets = {}
    for argument in arguments:
        name, _, dataset = argument.partition("=")
        if not dataset or not re.fullmatch(r"[\w.-]+", name):
            raise UsageError(f"--external '{argument}' must be NAME=DATASET, such as clinic=photos/.")
        if name in datasets:
            raise UsageError(f"--external names two data sets '{name}'.")
        datasets[name] = dataset
    return datasets


def load(
    arguments: Sequence[str],
    reading: Reading | None = None,
    *,
    splits: dict[str, Dataset],
    exposure: Mapping[str, str],
    policy: str,
    beside: Iterable[str] = (),
) -> External:
    """Load what is only reported, without images related to those of the training, validation and calibration splits.

    Args:
        arguments: NAME=DATASET.
        reading: see `loading.load`.
        splits: of the data set that the model is developed on.
        exposure: of that model, and of its base; see `contamination.of`.
        policy: of the repair, as for the splits.
        beside: see `loading.load`.

    Raises:
        UsageError: see `check` and `loading.load`; or nothing is left of a data set.
    """
    reading = dataclasses.replace(reading or Reading(), shortcuts=False, squares=True)
    own = concatenate_datasets([splits[name] for name in contamination.SPLITS])
    datasets, reports = {}, {}
    for name, dataset in check(arguments).items():
        both = _link(own, loading.load([dataset], reading, beside=beside).dataset)
        repaired, report = label_repair.repair(both.select(range(len(own), len(both))), policy)
        linked = set().union(*contamination.names(both.select(range(len(own)))))
        unseen = contamination.are_unseen(repaired, dict.fromkeys(linked, "train") | dict(exposure))
        fresh = repaired.select(np.flatnonzero(unseen))
        left_out = len(repaired) - len(fresh)
        if left_out:
            logger.warning("left out of %s: %d images related to those learnt from", name, left_out)
        if not len(fresh):
            raise UsageError(f"nothing is left of --external {name}: all its images are related to those learnt from.")
        datasets[f"external/{name}"] = fresh
        reports[name] = schema.describe(fresh) | {"left_out": left_out, "repair": report.to_json()}
    return External(datasets, reports)


def _link(own: Dataset, loaded: Dataset) -> Dataset:
    """Link both, one after the other, so that a near copy of an image of the own ones is in its group."""
    both = concatenate_datasets([own, loaded])
    # The own near duplicates are in one group already.
    start = len(own)
    return near_duplicates.link(both, near_duplicates.search(both, start=start), copies.search(both, start=start))
