"""Metrics of arrays, as free functions.

Each function takes the weight of each image, (n,) or (draws, n): one row a bootstrap draw, so that a figure and its
interval come from the same lines. An undefined metric (no melanoma, one class only) is NaN, never 1.0. Otherwise the
conventions are those of the ISIC challenges' own scorer (isic-challenge-scoring 5.6.0), which the tests hold these
functions against.
"""

import numpy as np
from sklearn.metrics import confusion_matrix

from dermalert.taxonomy import DIAGNOSES

_BINS = 15  # equal-width bins of the expected calibration error (Guo 2017, arXiv 1706.04599)
_TINY = 1e-12  # keeps the logarithm of a probability that float32 rounded to 0 finite


def proportion(hits: np.ndarray, among: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted share of `hits` (n,) among the images where `among` (n,) is true."""
    return ratio((weights * (hits & among)).sum(-1), (weights * among).sum(-1))


def balanced_accuracy(truth: np.ndarray, prediction: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean sensitivity over the classes that occur (in a draw that misses a class: over the others)."""
    recalls = [proportion(prediction == label, truth == label, weights) for label in np.unique(truth)]
    return _mean_of_defined(np.stack(recalls))


def auroc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The area under the ROC curve; ties count one half (Mann-Whitney)."""
    ups, downs, _, below = roc_steps(positive, score, weights)
    return ratio((ups * (below + downs / 2)).sum(-1), ups.sum(-1) * downs.sum(-1))


def partial_auc_80(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The area below the ROC curve and above a sensitivity of 80%: 0 to 0.2 (ISIC 2024), 0.02 by chance.

    Ties are straight pieces of the curve. The `auc_sens_80` of the ISIC scorer is another area, of the same piece of
    the curve but down to a sensitivity of 0.
    """
    ups, downs, missed, below = roc_steps(positive, score, weights)
    positives = ups.sum(-1, keepdims=True)
    within = np.clip(0.2 * positives - missed, 0, ups)  # of each tied block, what the most missed fifth has of it
    share = within / np.maximum(ups, _TINY)
    return ratio((within * (below + downs * share / 2)).sum(-1), positives[..., 0] * downs.sum(-1))


def average_precision(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean precision over the positives as the threshold falls; a step, not a line, between thresholds."""
    ups, downs, missed, below = roc_steps(positive, score, weights)
    caught = ups.sum(-1, keepdims=True) - missed
    called = caught + downs.sum(-1, keepdims=True) - below
    return ratio((ups * caught / np.maximum(called, _TINY)).sum(-1), ups.sum(-1))


def specificity_at_sensitivity(
    positive: np.ndarray, score: np.ndarray, weights: np.ndarray, sensitivity: float
) -> np.ndarray:
    """The best specificity of a threshold whose sensitivity is at least the one given.

    The threshold is chosen on these very images, to stand a model beside a published point of the ROC curve; no
    threshold that was fixed before promises as much.
    """
    ups, downs, missed, below = roc_steps(positive, score, weights)
    positives, negatives = ups.sum(-1), downs.sum(-1)
    # The margin is for rounding: of 1000 positives 50 may be missed at 0.95.
    allowed = missed <= ((1 - sensitivity) * positives + 1e-9)[..., None]
    return ratio((below * allowed).max(-1) * positives, negatives * positives)


def predictive_values(sensitivity: np.ndarray, specificity: np.ndarray, prevalence: float) -> dict[str, np.ndarray]:
    """What the alert means at a prevalence of melanoma (Bayes): ppv, npv; alerts and missed melanomas per 100.

    Args:
        sensitivity: 0 to 1, any shape.
        specificity: the same.
        prevalence: share of images that show a melanoma, 0 to 1.
    """
    caught, missed = prevalence * sensitivity, prevalence * (1 - sensitivity)
    false_alerts, cleared = (1 - prevalence) * (1 - specificity), (1 - prevalence) * specificity
    return {
        "ppv": ratio(caught, caught + false_alerts),
        "npv": ratio(cleared, cleared + missed),
        "alerts_per_100": 100 * (caught + false_alerts),
        "missed_per_100": 100 * missed,
    }


def macro_auroc(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean one-against-the-rest AUROC over the classes for which it is defined."""
    areas = [auroc(truth == label, probabilities[:, label], weights) for label in np.unique(truth)]
    return _mean_of_defined(np.stack(areas))


def calibration_error(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The expected calibration error of the top label, in 15 equal-width bins (Guo 2017)."""
    top = probabilities.max(1)
    right = probabilities.argmax(1) == truth
    return ratio(np.abs(weights @ (top_label_bins(top) * (right - top)[:, None])).sum(-1), weights.sum(-1))


def brier(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The Brier score over all classes: 0 (perfect) to 2 (Brier 1950)."""
    loss = ((probabilities - np.eye(probabilities.shape[1])[truth]) ** 2).sum(1)
    return ratio(weights @ loss, weights.sum(-1))


def negative_log_likelihood(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean negative log-likelihood, in nats."""
    loss = -np.log(np.maximum(probabilities[np.arange(len(truth)), truth], _TINY))
    return ratio(weights @ loss, weights.sum(-1))


def confusion(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The counts: truth down, prediction across; what is undecided (-1) is in no column."""
    return confusion_matrix(truth, prediction, labels=range(len(DIAGNOSES)))


def top_label_bins(top: np.ndarray) -> np.ndarray:
    """The bin of each top probability as a 1 among zeros, (n, 15)."""
    return np.eye(_BINS)[np.minimum((top * _BINS).astype(int), _BINS - 1)]


def roc_steps(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, ...]:
    """The ROC curve as the threshold rises over the k different scores, each (..., k).

    They are the weights of the positives and of the others that have a score, and of those that score less: what the
    threshold misses of the positives, and what it clears of the others.
    """
    order = np.argsort(score, kind="stable")
    lasts = np.flatnonzero(np.r_[np.diff(score[order]) > 0, True])
    passed = [np.cumsum((weights * side)[..., order], axis=-1)[..., lasts] for side in (positive, ~positive)]
    ups, downs = (np.diff(side, prepend=0, axis=-1) for side in passed)
    return ups, downs, passed[0] - ups, passed[1] - downs


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide; NaN where the denominator is 0."""
    undefined = np.full_like(np.asarray(numerator, float), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=np.asarray(denominator) > 0)


def _mean_of_defined(rows: np.ndarray) -> np.ndarray:
    """The mean over the first axis, of what is not NaN."""
    defined = np.isfinite(rows)
    return ratio(np.where(defined, rows, 0).sum(0), defined.sum(0))
