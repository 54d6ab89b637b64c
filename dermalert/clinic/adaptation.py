"""What a clinic's labels support to change in a release: an intercept, a temperature, a threshold.

The intercept is a bias of the melanoma logit, for another mix: it moves the log-odds of melanoma of each image by the
same amount, so that the threshold moves along and the same images raise the alert. A temperature changes which images
do, so that it is taken only together with a new threshold. A new threshold takes melanoma lesions enough for the exact
bound, and is set on lesions from which nothing else was learnt. Batch-norm statistics stay: those of a clinic brought
the AUROC from 0.91 to 0.75 and from 0.83 to 0.76 on two sets.
"""

import dataclasses

import numpy as np
from dermalert_space.contract import Json
from dermalert_space.estimate import UNDEFINED, Estimate
from scipy import optimize, special
from sklearn.model_selection import StratifiedGroupKFold

from dermalert.clinic.own_shortcuts import folds_of
from dermalert.clinic.verdict import lesions_needed
from dermalert.evaluation import operating_points
from dermalert.evaluation.intervals import FEWEST_LOGISTIC, Intervals, Logistic
from dermalert.evaluation.operating_points import TARGET_SENSITIVITY
from dermalert.taxonomy import MELANOMA

FEWEST = FEWEST_LOGISTIC
"""Lesions with and without melanoma below which no intercept is fitted: `benchmarks/evaluation/clinic.py` chose it."""

FEWEST_TEMPERATURE = 50
"""The same for a temperature, beside those on which the threshold is set."""

_TINY = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """What is folded into the last layer: logits / temperature, and the intercept added to that of melanoma."""

    temperature: float = 1.0
    intercept: float = 0.0

    def of(self, probabilities: np.ndarray) -> np.ndarray:
        """The probabilities (n, 9) that the changed model gives."""
        logits = np.log(np.maximum(probabilities.astype(np.float64), _TINY)) / self.temperature
        logits[:, MELANOMA] += self.intercept
        return special.softmax(logits, axis=1)

    def moved(self, threshold: float) -> float:
        """The threshold at which the same images raise the alert, where there is no temperature."""
        return float(special.expit(special.logit(threshold) + self.intercept))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adaptation:
    """What the labels of a clinic support, and why; a change of nothing where they support nothing."""

    change: Change
    point: Json | None
    """A new `alert` of the release's config, without its label; None: the old threshold is kept, moved along."""
    lesions: int
    positives: int
    """Of the lesions."""
    images: int
    before: Logistic
    after: Logistic
    """Calibration of the melanoma probability, cross-fitted: no image is measured by what it set."""
    gain: Estimate
    """Of log-likelihood an image by the change, cross-fitted, in nats."""
    sentences: list[str]

    @property
    def changes_anything(self) -> bool:
        """Whether a release adapted to it would differ from its parent."""
        return self.change != Change() or self.point is not None

    def to_json(self) -> Json:
        """All of it, for machines."""
        plain = dataclasses.asdict(self)
        return plain | {"before": _plain(self.before), "after": _plain(self.after)}


def _plain(figures: Logistic) -> Json:
    return {name: estimate.to_json() for name, estimate in figures._asdict().items()}


def adapt(probabilities: np.ndarray, positive: np.ndarray, groups: np.ndarray, abstained: np.ndarray) -> Adaptation:
    """What labelled images support.

    Args:
        probabilities: (n, 9) of the release.
        positive: (n,) which images show melanoma.
        groups: (n,) the lesion or patient of each.
        abstained: (n,) on which the release abstains.
    """
    intervals = Intervals(groups)
    n = intervals.groups_of(positive)
    before = intervals.of_logistic(positive, probabilities[:, MELANOMA])
    tempered = _with_temperature(probabilities, positive, groups, abstained, before)
    point: Json | None
    if tempered:
        (change, point), sentences = tempered, [_say_temperature(tempered[0])]
    else:
        change, of_intercept = _intercept(probabilities, positive, groups, before)
        point, of_threshold = _threshold(change.of(probabilities), positive, groups, abstained)
        sentences = [of_intercept, _no_temperature(before, n), of_threshold]
    after, gain = before, UNDEFINED
    if change != Change():
        fitted = cross_fitted(probabilities, positive, groups, temperature=change.temperature != 1)
        after = intervals.of_logistic(positive, fitted[:, MELANOMA])
        gain = _gain(probabilities, fitted, positive, intervals)
    return Adaptation(
        change=change,
        point=point,
        lesions=intervals.groups,
        positives=n,
        images=len(positive),
        before=before,
        after=after,
        gain=gain,
        sentences=sentences,
    )


def _say_temperature(change: Change) -> str:
    return (
        f"A temperature of {change.temperature:.2f} and an intercept of {change.intercept:+.2f}: the probabilities are "
        "too extreme or too timid beyond chance. The threshold is new too, from lesions that these were not fitted on."
    )


def _intercept(
    probabilities: np.ndarray, positive: np.ndarray, groups: np.ndarray, before: Logistic
) -> tuple[Change, str]:
    intervals = Intervals(groups)
    fewest = min(intervals.groups_of(positive), intervals.groups_of(~positive))
    if fewest < FEWEST:
        return Change(), (
            f"No intercept: it takes {FEWEST} lesions with melanoma and {FEWEST} without, and of one kind there are "
            f"{fewest}."
        )
    if not _excludes(before.intercept, 0):
        return Change(), "No intercept: melanoma is not shown to be more or less common than it says."
    change = fit(probabilities, positive, groups, temperature=False)
    return change, (
        f"An intercept of {change.intercept:+.2f} in the log-odds of melanoma, for your mix. The threshold moves "
        "along, so that the same images raise the alert."
    )


def _no_temperature(before: Logistic, n: int) -> str:
    if n < FEWEST_TEMPERATURE:
        return f"No temperature: it takes {FEWEST_TEMPERATURE} melanoma lesions, and there are {n}."
    if not _excludes(before.slope, 1):
        return "No temperature: the probabilities are not shown to be too extreme or too timid."
    return (
        "No temperature: it changes which images raise the alert, and so takes a new threshold, for which the lesions "
        "do not suffice."
    )


def _threshold(
    probabilities: np.ndarray, positive: np.ndarray, groups: np.ndarray, abstained: np.ndarray
) -> tuple[Json | None, str]:
    """The operating point of a clinic's own lesions, where it meets the exact bound."""
    needed, n = lesions_needed(TARGET_SENSITIVITY, 0), len(np.unique(groups[positive]))
    if n < needed:
        return None, f"The old threshold is kept: a new one takes {needed} melanoma lesions, and there are {n}."
    point = _point(probabilities, positive, groups, abstained)
    if not point["bound_met"]:
        return None, (
            f"The old threshold is kept: with {point['abstained']} of {n} melanoma lesions that cannot be assessed, no "
            f"threshold shows {TARGET_SENSITIVITY:g}."
        )
    return point, (
        f"A new threshold of {point['threshold']:.3g}: {point['lesions'] - point['missed']} of {point['lesions']} "
        f"melanoma lesions reach it, which shows {TARGET_SENSITIVITY:g}."
    )


def _point(probabilities: np.ndarray, positive: np.ndarray, groups: np.ndarray, abstained: np.ndarray) -> Json:
    scores = probabilities[positive, MELANOMA]
    return {**operating_points.operating_point(scores, groups[positive], abstained[positive])}


def _with_temperature(
    probabilities: np.ndarray, positive: np.ndarray, groups: np.ndarray, abstained: np.ndarray, before: Logistic
) -> tuple[Change, Json] | None:
    """Temperature and intercept of one half of the lesions with a threshold of the other; None where they do not do."""
    if not _excludes(before.slope, 1):
        return None
    halves = StratifiedGroupKFold(2, shuffle=True, random_state=0).split(probabilities, positive, groups)
    fitted_on, scored = next(iter(halves))
    if len(np.unique(groups[fitted_on][positive[fitted_on]])) < FEWEST_TEMPERATURE:
        return None
    change = fit(probabilities[fitted_on], positive[fitted_on], groups[fitted_on], temperature=True)
    point = _point(change.of(probabilities[scored]), positive[scored], groups[scored], abstained[scored])
    return (change, point) if point["bound_met"] else None


def _excludes(estimate: Estimate, value: float) -> bool:
    return estimate.low is not None and estimate.high is not None and not estimate.low <= value <= estimate.high


def fit(probabilities: np.ndarray, positive: np.ndarray, groups: np.ndarray, *, temperature: bool) -> Change:
    """The most likely change by the melanoma probability alone, each lesion counted once; held near none by one nat."""
    _, member, photos = np.unique(groups, return_inverse=True, return_counts=True)
    weights = 1 / photos[member]

    def loss(parameters: np.ndarray) -> float:
        change = Change(intercept=parameters[0], temperature=float(np.exp(parameters[1])) if temperature else 1.0)
        return weights @ _loss(change.of(probabilities), positive) + (parameters**2).sum() / 2

    best = optimize.minimize(loss, np.zeros(1 + temperature), method="Nelder-Mead", options={"xatol": 1e-4}).x
    return Change(intercept=float(best[0]), temperature=float(np.exp(best[1])) if temperature else 1.0)


def cross_fitted(
    probabilities: np.ndarray, positive: np.ndarray, groups: np.ndarray, *, temperature: bool
) -> np.ndarray:
    """The probabilities (n, 9) of each image after a change that was fitted without its lesion."""
    changed = np.array(probabilities, np.float64)
    for fitted_on, scored in folds_of(positive, groups):
        change = fit(probabilities[fitted_on], positive[fitted_on], groups[fitted_on], temperature=temperature)
        changed[scored] = change.of(probabilities[scored])
    return changed


def _gain(before: np.ndarray, after: np.ndarray, positive: np.ndarray, intervals: Intervals) -> Estimate:
    return intervals.of_mean(_loss(before, positive) - _loss(after, positive))


def _loss(probabilities: np.ndarray, positive: np.ndarray) -> np.ndarray:
    score = np.clip(probabilities[:, MELANOMA], _TINY, 1 - _TINY)
    return -np.log(np.where(positive, score, 1 - score))
