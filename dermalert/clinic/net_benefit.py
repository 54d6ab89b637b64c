"""What acting on an alert is worth, against looking at every lesion and at none (Vickers 2006, net benefit)."""

import dataclasses

import numpy as np
from dermalert_space.estimate import UNDEFINED, Estimate

from dermalert.evaluation import metrics
from dermalert.evaluation.intervals import Intervals

THRESHOLDS = (0.02, 0.05, 0.10, 0.20)
"""Probabilities of melanoma from which a lesion would be looked at more closely: 0.02 weighs one missed melanoma as 49
needless looks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetBenefit:
    """At one such probability, the melanomas found less the needless looks, weighed, per 100 images."""

    threshold: float
    alert: Estimate
    flag_all: Estimate
    over_flag_all: Estimate
    """By how much the alert exceeds flagging all; `alert` itself is that over flagging none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Worth:
    """What an alert is worth, by what a missed melanoma weighs in needless looks."""

    at: list[NetBenefit]
    beats_none_from: Estimate = UNDEFINED
    """Needless looks that the alert costs for each melanoma it finds: it beats flagging none where one weighs more."""
    beats_all_up_to: Estimate = UNDEFINED
    """Needless looks that the alert saves for each melanoma it misses: it beats flagging all where one weighs less;
    undefined where it misses none."""
    youden: Estimate = UNDEFINED
    """Sensitivity + specificity - 1, as served: 0 is an alert by chance."""


def measure(positive: np.ndarray, flagged: np.ndarray, intervals: Intervals) -> Worth:
    """The worth of an alert, (n,) as served, on images of which some are positive (n,)."""
    if not positive.any() or positive.all():
        return Worth(at=[])
    hits, misses = positive & flagged, positive & ~flagged
    false_alarms, saved = ~positive & flagged, ~positive & ~flagged

    def count(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return (weights * rows).sum(-1)

    def ratio(above: np.ndarray, below: np.ndarray) -> Estimate:
        return intervals.of(lambda w: metrics.ratio(count(above, w), count(below, w)))

    def youden(weights: np.ndarray) -> np.ndarray:
        specificity = metrics.proportion(~flagged, ~positive, weights)
        return metrics.proportion(flagged, positive, weights) + specificity - 1

    return Worth(
        at=[_at(threshold, positive, flagged, intervals) for threshold in THRESHOLDS],
        beats_none_from=ratio(false_alarms, hits),
        beats_all_up_to=ratio(saved, misses),
        youden=intervals.of(youden),
    )


def _at(threshold: float, positive: np.ndarray, flagged: np.ndarray, intervals: Intervals) -> NetBenefit:
    value = 100 * np.where(positive, 1.0, -threshold / (1 - threshold))  # of looking at an image
    return NetBenefit(
        threshold=threshold,
        alert=intervals.of_mean(value * flagged),
        flag_all=intervals.of_mean(value),
        over_flag_all=intervals.of_mean(value * flagged - value),
    )
