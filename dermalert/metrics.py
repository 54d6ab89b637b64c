"""Arrays in, figures with intervals out; and the one `evaluate.Metric` over them, which the Trainer calls.

Every metric is a free function that takes the weight of each image, (n,) or (draws, n): one row a bootstrap draw, so
that a figure and its interval come from the same lines. What is undefined (no melanoma, one class only) is NaN here
and null in a report, never 1.0.
"""

from collections.abc import Callable

import datasets
import evaluate
import numpy as np
from scipy import special, stats

from dermalert.diagnoses import ALERT, DIAGNOSES

_MELANOMA = DIAGNOSES.index(ALERT)
_NEVUS = DIAGNOSES.index("nevus")
_BENIGN_KERATOSES = [DIAGNOSES.index("pigmented benign keratosis"), DIAGNOSES.index("seborrheic keratosis")]
_BINS = 15  # equal-width bins of the expected calibration error (Guo 2017, arXiv 1706.04599)
_TINY = 1e-12  # keeps the logarithm of a probability that float32 rounded to 0 finite


def proportion(hits: np.ndarray, among: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted share of `hits` (n,) among the images where `among` (n,) is true."""
    return _ratio((weights * (hits & among)).sum(-1), (weights * among).sum(-1))


def balanced_accuracy(truth: np.ndarray, prediction: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean sensitivity over the classes that occur (in a draw that misses a class: over the others)."""
    recalls = [proportion(prediction == label, truth == label, weights) for label in np.unique(truth)]
    return _mean_of_defined(np.stack(recalls))


def auroc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve; ties count one half (Mann-Whitney)."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
    sorted_weights, sorted_positive = weights[..., order], positive[order]
    ups = np.add.reduceat(sorted_weights * sorted_positive, starts, axis=-1)
    downs = np.add.reduceat(sorted_weights * ~sorted_positive, starts, axis=-1)
    below = np.cumsum(downs, axis=-1) - downs
    return _ratio((ups * (below + downs / 2)).sum(-1), ups.sum(-1) * downs.sum(-1))


def macro_auroc(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean one-against-the-rest AUROC over the classes for which it is defined."""
    areas = [auroc(truth == label, probabilities[:, label], weights) for label in np.unique(truth)]
    return _mean_of_defined(np.stack(areas))


def calibration_error(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the expected calibration error of the top label, in 15 equal-width bins (Guo 2017)."""
    top = probabilities.max(1)
    right = probabilities.argmax(1) == truth
    bins = np.eye(_BINS)[np.minimum((top * _BINS).astype(int), _BINS - 1)]
    return _ratio(np.abs(weights @ (bins * (right - top)[:, None])).sum(-1), weights.sum(-1))


def brier(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the Brier score over all classes: 0 (perfect) to 2 (Brier 1950)."""
    loss = ((probabilities - np.eye(probabilities.shape[1])[truth]) ** 2).sum(1)
    return _ratio(weights @ loss, weights.sum(-1))


def negative_log_likelihood(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean negative log-likelihood, in nats."""
    loss = -np.log(np.maximum(probabilities[np.arange(len(truth)), truth], _TINY))
    return _ratio(weights @ loss, weights.sum(-1))


def clopper_pearson(hits: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact two-sided interval of a proportion (Clopper & Pearson 1934)."""
    tail = (1 - confidence) / 2
    low = stats.beta.ppf(tail, hits, n - hits + 1) if hits > 0 else 0.0
    high = stats.beta.ppf(1 - tail, hits + 1, n - hits) if hits < n else 1.0
    return float(low), float(high)


class Intervals:
    """Figures with 95 % intervals for images that come in groups (several photos of one lesion).

    Args:
        groups: (n,) the group of each image.
        draws: bootstrap samples; groups are resampled, not photos.
        seed: of the resampling.
    """

    def __init__(self, groups: np.ndarray, *, draws: int = 1000, seed: int = 0):
        _, self._member = np.unique(groups, return_inverse=True)
        self.groups = int(self._member.max(initial=-1)) + 1
        rng = np.random.default_rng(seed)
        counts = rng.multinomial(self.groups, np.full(self.groups, 1 / max(self.groups, 1)), size=draws)
        self._draws = counts[:, self._member].astype(float)

    def of(self, metric: Callable[[np.ndarray], np.ndarray]) -> dict:
        """Return value, low and high of a metric of the weights, by the percentiles of the bootstrap.

        Where every draw gives the same (a perfect AUROC of few images) there is no interval rather than one of no
        width.
        """
        return _figure(float(metric(np.ones(len(self._member)))), *_percentiles(metric(self._draws)))

    def of_proportion(self, hits: np.ndarray, among: np.ndarray) -> dict:
        """Return a proportion: exact where each photo is a group of its own, else by the bootstrap.

        Where every draw is the same (all are hits, or half of each group) the exact interval over the groups is taken.
        """
        n, k = int(among.sum()), int((hits & among).sum())
        groups = len(np.unique(self._member[among]))
        if n == 0:
            return _figure(np.nan, np.nan, np.nan)
        figure = self.of(lambda weights: proportion(hits, among, weights))
        if groups == n or figure["low"] is None:
            return _figure(k / n, *clopper_pearson(round(k / n * groups), groups))
        return figure


def report(truth: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, *, alert: np.ndarray | None) -> dict:
    """Return the figures of one split, each with a 95 % interval.

    Args:
        truth: (n,) label ids.
        probabilities: (n, 9) calibrated probabilities.
        groups: (n,) the group of each image.
        alert: (n,) which images raise the melanoma alert; None where the release has no threshold.
    """
    intervals = Intervals(groups)
    prediction = probabilities.argmax(1)
    merged_truth, merged_prediction = (np.where(np.isin(x, _BENIGN_KERATOSES), 5, x) for x in (truth, prediction))
    everywhere = np.ones(len(truth), bool)
    return {
        "n": len(truth),
        "groups": intervals.groups,
        "accuracy": intervals.of_proportion(prediction == truth, everywhere),
        "balanced_accuracy": intervals.of(lambda w: balanced_accuracy(truth, prediction, w)),
        "balanced_accuracy_benign_keratosis_merged": intervals.of(
            lambda w: balanced_accuracy(merged_truth, merged_prediction, w)
        ),
        "macro_auroc": intervals.of(lambda w: macro_auroc(truth, probabilities, w)),
        "melanoma": _melanoma(truth, probabilities[:, _MELANOMA], alert, intervals),
        "per_class": {
            name: _one_class(truth == label, prediction == label, probabilities[:, label], intervals)
            for label, name in enumerate(DIAGNOSES)
        },
        "calibration": {
            "ece": intervals.of(lambda w: calibration_error(truth, probabilities, w)),
            "brier": intervals.of(lambda w: brier(truth, probabilities, w)),
            "nll": intervals.of(lambda w: negative_log_likelihood(truth, probabilities, w)),
        },
        "confusion": confusion(truth, prediction).tolist(),
    }


def confusion(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return the counts: truth down, prediction across."""
    table = np.zeros((len(DIAGNOSES), len(DIAGNOSES)), int)
    np.add.at(table, (truth, prediction), 1)
    return table


def _melanoma(truth: np.ndarray, score: np.ndarray, alert: np.ndarray | None, intervals: Intervals) -> dict:
    melanoma, nevus = truth == _MELANOMA, truth == _NEVUS
    nothing = _figure(np.nan, np.nan, np.nan)
    figures = {"n": int(melanoma.sum()), "auroc": intervals.of(lambda w: auroc(melanoma, score, w))}
    if alert is None:
        return figures | {"sensitivity": nothing, "specificity": nothing, "specificity_nevi": nothing}
    return figures | {
        "sensitivity": intervals.of_proportion(alert, melanoma),
        "specificity": intervals.of_proportion(~alert, ~melanoma),
        "specificity_nevi": intervals.of_proportion(~alert, nevus),
    }


def _one_class(truth: np.ndarray, prediction: np.ndarray, score: np.ndarray, intervals: Intervals) -> dict:
    return {
        "n": int(truth.sum()),
        "sensitivity": intervals.of_proportion(prediction, truth),
        "specificity": intervals.of_proportion(~prediction, ~truth),
        "auroc": intervals.of(lambda w: auroc(truth, score, w)),
    }


def _figure(value: float, low: float, high: float) -> dict:
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None}
    if not low < high:  # NaN included
        low = high = None
    return {"value": value, "low": low, "high": high}


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    defined = values[np.isfinite(values)]
    return tuple(np.percentile(defined, [2.5, 97.5]).tolist()) if len(defined) else (np.nan, np.nan)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    undefined = np.full_like(np.asarray(numerator, float), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=np.asarray(denominator) > 0)


def _mean_of_defined(rows: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis, of what is not NaN."""
    defined = np.isfinite(rows)
    return _ratio(np.where(defined, rows, 0).sum(0), defined.sum(0))


class SkinLesionMetric(evaluate.Metric):
    """Accuracy, balanced accuracy, macro and melanoma AUROC of nine logits an image."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions, references) -> dict[str, float | None]:
        probabilities, truth = special.softmax(np.asarray(predictions), axis=1), np.asarray(references)
        once = np.ones(len(truth))
        figures = {
            "accuracy": (probabilities.argmax(1) == truth).mean(),
            "balanced_accuracy": balanced_accuracy(truth, probabilities.argmax(1), once),
            "macro_auroc": macro_auroc(truth, probabilities, once),
            "melanoma_auroc": auroc(truth == _MELANOMA, probabilities[:, _MELANOMA], once),
        }
        return {name: float(value) if np.isfinite(value) else None for name, value in figures.items()}
