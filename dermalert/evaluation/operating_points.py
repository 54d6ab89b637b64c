"""Where a release raises the melanoma alert and asks for attention: thresholds set once abstention is, as served."""

import json
from pathlib import Path
from typing import TypedDict

import numpy as np
from dermalert_space.contract import ALERT_POINT, ATTENTION_POINT, CONFIG, PREDICTION_SETS
from dermalert_space.release import Release
from scipy import stats

from dermalert.evaluation import prediction_sets
from dermalert.evaluation.predict import SplitPredictions
from dermalert.taxonomy import ALERT, CLINICAL_GROUPS, DIAGNOSES

TARGET_SENSITIVITY = 0.95
CONFIDENCE = 0.95  # one-sided

ATTENTION = tuple(sorted(CLINICAL_GROUPS["malignant"] + CLINICAL_GROUPS["precursor"]))
"""The diagnoses that ask for attention, by the sum of their probabilities."""


class Bound(TypedDict):
    """How many lesions are missed, and what that shows of the sensitivity; None without a lesion."""

    missed: int | None
    lower_bound: float | None
    bound_met: bool


class OperatingPoint(Bound):
    """A threshold, and its bound as served."""

    threshold: float | None
    target_sensitivity: float
    confidence: float
    lesions: int
    abstained: int
    """Of those missed."""
    raw: Bound
    """Without regard to abstention."""
    lesions_needed: int


class AlertPoint(OperatingPoint):
    """That of melanoma."""

    label: str


class AttentionPoint(OperatingPoint):
    """That of the summed probability of several diagnoses."""

    labels: list[str]


class OperatingPoints(TypedDict):
    """Both, by their keys of a release's config."""

    alert: AlertPoint
    attention: AttentionPoint


def add(folder: Path, release: Release, calibration: SplitPredictions) -> Release:
    """Set `alert`, `attention` and `prediction_sets` in the config of the release in a folder; load it anew.

    Args:
        folder: of the release, which holds its abstention already.
        release: what is loaded from it.
        calibration: its predictions of the calibration split.
    """
    path = folder / CONFIG
    sets = {PREDICTION_SETS: prediction_sets.fit(calibration).to_json()}
    config = json.loads(path.read_text()) | fit(release, calibration) | sets
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return Release.load(folder)


def fit(release: Release, calibration: SplitPredictions) -> OperatingPoints:
    """The operating points of a release by the calibration split as served."""
    truth, lesions = (np.array(calibration.dataset[column]) for column in ("label", "group"))

    def of(labels: tuple[str, ...]) -> OperatingPoint:
        positive = np.isin(truth, [DIAGNOSES.index(label) for label in labels])
        scores = score(calibration.probabilities, release.labels, labels)
        return operating_point(scores[positive], lesions[positive], calibration.abstains[positive])

    return {
        ALERT_POINT: {"label": ALERT, **of((ALERT,))},
        ATTENTION_POINT: {"labels": list(ATTENTION), **of(ATTENTION)},
    }


def score(probabilities: np.ndarray, names: list[str], labels: list[str] | tuple[str, ...]) -> np.ndarray:
    """The summed probability (n,) of some labels, in double precision as a serving side sums it.

    Args:
        probabilities: (n, classes).
        names: of the classes.
        labels: those to sum.
    """
    return probabilities[:, [names.index(label) for label in labels]].astype(np.float64).sum(1)


def operating_point(scores: np.ndarray, lesions: np.ndarray, abstained: np.ndarray) -> OperatingPoint:
    """The largest threshold whose bound on the sensitivity meets the target as served.

    Each lesion counts once, with the lowest score of its photos, and is missed if the release abstains on any of them.
    The bound is the exact one-sided lower limit (Clopper & Pearson 1934) of the share of lesions that are flagged. It
    holds for lesions drawn like those of the calibration split. Where no threshold meets the target, it is the one that
    misses no lesion but those of the abstention.

    Args:
        scores: (n,) probabilities of the photos that are to be flagged.
        lesions: (n,) the lesion of each.
        abstained: (n,) on which photos the release abstains.
    """
    names, lesion = np.unique(lesions, return_inverse=True)
    raw, without = np.full(len(names), np.inf), np.zeros(len(names), bool)
    np.minimum.at(raw, lesion, scores)
    np.logical_or.at(without, lesion, abstained)
    threshold = _threshold(raw, without)
    below = np.zeros(0, bool) if threshold is None else raw < threshold
    return {
        "threshold": threshold,
        "target_sensitivity": TARGET_SENSITIVITY,
        "confidence": CONFIDENCE,
        "lesions": len(names),
        **_bound(below | without),
        "abstained": int(without.sum()),
        "raw": _bound(below),
        "lesions_needed": int(np.ceil(np.log(1 - CONFIDENCE) / np.log(TARGET_SENSITIVITY))),
    }


def _threshold(scores: np.ndarray, without: np.ndarray) -> float | None:
    """The threshold for lesions by their lowest scores (n,), given which (n,) the release abstains on."""
    n, abstained = len(scores), int(without.sum())
    if not n:
        return None
    if abstained == n:  # nothing is served, whatever the threshold
        without, abstained = np.zeros(n, bool), 0
    served = np.sort(np.where(without, -np.inf, scores))
    lowest = float(served[max(_most_missed(n), abstained)])
    # A hair below the lowest score that must be caught, so that rounding in another batch cannot lose it.
    return max(lowest * (1 - 1e-4), float(np.finfo(np.float32).tiny))


def _most_missed(n: int) -> int:
    """How many of n lesions may be missed, so that the bound meets the target; -1 where not even none may be."""
    return next((missed - 1 for missed in range(n) if lower_bound(n, missed) < TARGET_SENSITIVITY), n - 1)


def _bound(missed: np.ndarray) -> Bound:
    """How many lesions (n,) are missed, and what that shows."""
    if not len(missed):
        return {"missed": None, "lower_bound": None, "bound_met": False}
    count = int(missed.sum())
    bound = lower_bound(len(missed), count)
    return {"missed": count, "lower_bound": bound, "bound_met": bound >= TARGET_SENSITIVITY}


def lower_bound(n: int, missed: int) -> float:
    """The one-sided exact lower confidence limit of a sensitivity of (n - missed) of n."""
    return float(stats.beta.ppf(1 - CONFIDENCE, n - missed, missed + 1)) if missed < n else 0.0
