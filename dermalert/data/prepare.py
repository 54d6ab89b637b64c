"""The way from the names of data sets to splits, in one order: load, link related images, repair, split.

Near duplicates, and copies across sources, are linked before the repair, because an image that the repair drops may
join two others. They are searched once: whoever audits the data set takes the same pairs.
"""

import dataclasses
from collections.abc import Iterable, Mapping

from datasets import Dataset

from dermalert.data import audit, contamination, copies, label_repair, loading, near_duplicates, splits
from dermalert.data.loading import Loaded, Reading
from dermalert.taxonomy import DIAGNOSES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """A data set before and after its repair."""

    shipped: Dataset
    """As loaded, with near duplicates and copies across sources in one group."""
    dataset: Dataset
    """As the repair leaves it."""
    repair: label_repair.RepairReport
    pairs: near_duplicates.Pairs
    """The near duplicates, by their rows in `shipped`."""
    copies: copies.Copies
    """The copies across sources, likewise."""
    loaded: Loaded
    """As loaded, with what was left out."""

    def split(self, *, seed: int = 0, exposure: Mapping[str, str] | None = None) -> dict[str, Dataset]:
        """Split by group, without what a base model has learnt from (`exposure`); see `splits.split`.

        Raises:
            UsageError: a split has no group of a diagnosis, or nothing is left of it.
        """
        parts = splits.split(self.dataset, shipped=self.shipped, seed=seed)
        return contamination.exclude_exposed(parts, exposure or {})

    def audit(self) -> audit.Report:
        """Audit the data set as it was shipped; see `audit.audit`."""
        unreadable, left_out = self.loaded.unreadable, self.loaded.left_out
        return audit.audit(self.shipped, self.pairs, self.copies, unreadable=unreadable, left_out=left_out)


def prepare(
    names: Iterable[str],
    policy: str = "archive",
    reading: Reading | None = None,
    *,
    labels: tuple[str, ...] | None = DIAGNOSES,
) -> Prepared:
    """Load, link and repair data sets.

    Args:
        names: see `loading.load`.
        policy: one of `label_repair.POLICIES`.
        reading: see `loading.load`.
        labels: the same.

    Raises:
        UsageError: see `loading.load` and `label_repair.repair`.
        RunError: the Hub cannot be reached, or there is no room for the thumbnails or features.
    """
    return link_and_repair(loading.load(names, reading, labels=labels), policy)


def link_and_repair(loaded: Loaded, policy: str = "archive") -> Prepared:
    """Link and repair what is loaded."""
    pairs = near_duplicates.search(loaded.dataset)
    across = copies.search(loaded.dataset)
    shipped = near_duplicates.link(loaded.dataset, pairs, across)
    dataset, report = label_repair.repair(shipped, policy)
    return Prepared(shipped=shipped, dataset=dataset, repair=report, pairs=pairs, copies=across, loaded=loaded)
