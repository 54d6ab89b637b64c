"""How many of the held-out lesions with a like probability were what was looked for: what a probability means.

Each lesion counts once, by its first photo, so that the intervals are exact. What the release abstains from does not
count.
"""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow.parquet as pq

from dermalert_space import checks
from dermalert_space.contract import ABSTAINED, PREDICTIONS
from dermalert_space.estimate import Estimate
from dermalert_space.prediction import Attention

EDGES = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
"""Where bands begin, beside the threshold; bands of few lesions are joined."""

LEAST = 25
"""Lesions of a band, at least."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Band:
    """The held-out lesions whose probability lies in [low, high)."""

    low: float
    high: float
    """Of the highest band 1, which belongs to it."""
    lesions: int
    rate: Estimate
    """The share of them that were what was looked for, with the exact 95% interval."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bands:
    """The bands of one probability, the lowest first; none where too few lesions were held out."""

    bands: tuple[Band, ...] = ()
    lesions: int = 0
    """All of them."""
    share: float = 0.0
    """Of all lesions, how many were what was looked for."""

    def find(self, probability: float) -> Band | None:
        """The band of a probability; None where too few lesions have one like it."""
        score = np.array([probability])
        return next((band for band in self.bands if _between(score, band.low, band.high).all()), None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frequencies:
    """Of what the release alerts to, and of what it asks for attention to."""

    alert: Bands = Bands()
    attention: Bands = Bands()


class Measured(Protocol):
    """What is needed of a release."""

    labels: list[str]
    alert_label: str
    threshold: float | None
    attention: Attention | None

    def file(self, name: str) -> Path | None:
        """The path of one of its files; None where it lacks it."""


def read_frequencies(release: Measured) -> Frequencies:
    """The frequencies of a release; without bands where it has no table of predictions that can be read."""
    try:
        path = release.file(PREDICTIONS)
        if path is None:
            return Frequencies()
        checks.table(path)
        columns = ["image_id", "group", "truth", ABSTAINED, *release.labels]
        rows = pq.read_table(path, columns=columns, filters=[("split", "==", "held_out"), (ABSTAINED, "==", False)])
        rows = rows.sort_by("image_id")
        _, first = np.unique(rows["group"].to_numpy().astype(str), return_index=True)
        probabilities = np.stack([rows[label].to_numpy()[first] for label in release.labels], axis=1)
        return _frequencies(release, probabilities.astype(np.float64), rows["truth"].to_numpy().astype(str)[first])
    except (OSError, ValueError):  # it explains an answer, and decides on none: what is wrong with it is no fault
        return Frequencies()


def _frequencies(release: Measured, probabilities: np.ndarray, truth: np.ndarray) -> Frequencies:
    def bands_of(labels: tuple[str, ...], threshold: float | None) -> Bands:
        scores = probabilities[:, [release.labels.index(label) for label in labels]].sum(1)
        return bands(scores, np.isin(truth, labels), threshold)

    point = release.attention
    return Frequencies(
        alert=bands_of((release.alert_label,), release.threshold),
        attention=Bands() if point is None else bands_of(point.labels, point.threshold),
    )


def bands(scores: np.ndarray, hits: np.ndarray, threshold: float | None) -> Bands:
    """The bands of lesions' probabilities (n,), of which none lies on both sides of the threshold.

    Args:
        scores: a probability each lesion.
        hits: whether it was what was looked for, (n,) bool.
        threshold: of the alert; None where there is none.
    """
    if not len(scores):
        return Bands()
    sides = itertools.pairwise(sorted({0.0, *([] if threshold is None else [threshold]), 1.0}))
    parts = [pair for low, high in sides for pair in itertools.pairwise(_edges(scores, low, high))]
    bands = tuple(_band(scores, hits, low, high) for low, high in parts)
    return Bands(bands=bands, lesions=len(scores), share=float(hits.mean()))


def _edges(scores: np.ndarray, low: float, high: float) -> list[float]:
    """The edges between low and high, the lowest first, so that each band has enough lesions; none if all have not."""
    kept = [high]
    for edge in (*(edge for edge in reversed(EDGES) if low < edge < high), low):
        above, below = _between(scores, edge, kept[-1]).sum(), _between(scores, low, edge).sum()
        if above >= LEAST and (edge == low or below >= LEAST):
            kept.append(edge)
    return sorted(kept)


def _between(scores: np.ndarray, low: float, high: float) -> np.ndarray:
    return (scores >= low) & ((scores < high) | (high == 1.0))


def _band(scores: np.ndarray, hits: np.ndarray, low: float, high: float) -> Band:
    inside = hits[_between(scores, low, high)]
    n, k = len(inside), int(inside.sum())
    return Band(low=low, high=high, lesions=n, rate=Estimate(k / n, *exact_interval(k, n)))


def exact_interval(k: int, n: int) -> tuple[float, float]:
    """The 95% interval of a share of k in n: Clopper and Pearson 1934; by hand, as the Space installs no scipy."""
    low = 0.0 if k == 0 else _solve(lambda p: 1 - _at_most(k - 1, n, p), 0.025)
    high = 1.0 if k == n else _solve(lambda p: 1 - _at_most(k, n, p), 0.975)
    return low, high


def _at_most(k: int, n: int, p: float) -> float:
    """How probable at most k hits in n are."""
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    i = np.arange(k + 1)
    logs = factorials[n] - factorials[i] - factorials[n - i] + i * np.log(p) + (n - i) * np.log1p(-p)
    return float(np.exp(logs).sum())


def _solve(rising: Callable[[float], float], value: float) -> float:
    """Where a function that rises on (0, 1) has a value, by halving."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return (low + high) / 2
