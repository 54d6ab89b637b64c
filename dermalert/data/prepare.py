"""The way from the names of data sets to splits, in one order: load, link related images, repair, split.

Near duplicates, and copies across sources, are linked before the repair, because an image that the repair drops may
join two others. They are searched once: whoever audits the data set takes the same pairs.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets import Dataset
from dermalert_space.contract import Json

from dermalert.data import audit, contamination, copies, label_repair, loading, near_duplicates, splits
from dermalert.data.records import Selection


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
    unreadable: Sequence[str] = ()
    """The files that are no images, each by its place in its data set."""
    left_out: Mapping[str, Mapping[str, Any]]
    """The images that were not taken: see `records.Selection.left_out`."""

    def split(self, *, seed: int = 0, exposure: Mapping[str, str] | None = None) -> dict[str, Dataset]:
        """Split by group, without what a base model has learnt from (`exposure`); see `splits.split`.

        Raises:
            UsageError: a split has no group of a diagnosis, or nothing is left of it.
        """
        parts = splits.split(self.dataset, shipped=self.shipped, seed=seed)
        return contamination.set_apart(parts, exposure or {})

    def audit(self) -> Json:
        """Audit the data set as it was shipped; see `audit.audit`."""
        return audit.audit(self.shipped, self.pairs, self.copies, unreadable=self.unreadable, left_out=self.left_out)


def prepare(names: Iterable[str], policy: str = "archive", **options: Any) -> Prepared:
    """Load, link and repair data sets.

    Args:
        names: see `loading.load`.
        policy: one of `label_repair.POLICIES`.
        **options: of `loading.load`.

    Raises:
        UsageError: see `loading.load` and `label_repair.repair`.
        RunError: the Hub cannot be reached, or there is no room for the thumbnails or features.
    """
    unreadable: list[str] = []
    selection = options.pop("selection", None) or Selection()
    loaded = loading.load(names, faults=unreadable, selection=selection, **options)
    return link_and_repair(loaded, policy, unreadable=unreadable, left_out=selection.left_out)


def link_and_repair(
    loaded: Dataset,
    policy: str = "archive",
    *,
    unreadable: Sequence[str] = (),
    left_out: Mapping[str, Mapping[str, Any]] = {},
) -> Prepared:
    """Link and repair what `loading.load` returns; `unreadable` are its `faults`, `left_out` its selection's."""
    pairs = near_duplicates.search(loaded)
    across = copies.search(loaded)
    shipped = near_duplicates.link(loaded, pairs, across)
    dataset, report = label_repair.repair(shipped, policy)
    return Prepared(
        shipped=shipped,
        dataset=dataset,
        repair=report,
        pairs=pairs,
        copies=across,
        unreadable=unreadable,
        left_out=left_out,
    )
