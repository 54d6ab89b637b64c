"""Arrays in, figures with intervals out; and the one `evaluate.Metric` over them, which the Trainer calls.

Every metric is a free function that takes the weight of each image, (n,) or (draws, n): one row a bootstrap draw, so
that a figure and its interval come from the same lines. What is undefined (no melanoma, one class only) is NaN here
and null in a report, never 1.0. Otherwise the conventions are those of the ISIC challenges' own scorer
(isic-challenge-scoring 5.6.0), which the tests hold these functions against.
"""

from collections.abc import Callable
from functools import partial

import datasets
import evaluate
import numpy as np
from scipy import special, stats

from dermalert.taxonomy import ALERT, DIAGNOSES, MALIGNANT, PRECURSOR

_MELANOMA = DIAGNOSES.index(ALERT)
_MALIGNANT = [label for label, name in enumerate(DIAGNOSES) if name in MALIGNANT or name == PRECURSOR]
_NEVUS = DIAGNOSES.index("nevus")
_BENIGN_KERATOSES = [DIAGNOSES.index("pigmented benign keratosis"), DIAGNOSES.index("seborrheic keratosis")]
_BINS = 15  # equal-width bins of the expected calibration error (Guo 2017, arXiv 1706.04599)
_SURE = 1e-7  # a probability of float32 this close to 0 or 1 is told from none by rounding alone
_NEWTON_STEPS = 100
_TINY = 1e-12  # keeps the logarithm of a probability that float32 rounded to 0 finite
_CHUNK = 100  # bootstrap draws at a time: their weights stay in the cache, or in memory where images are many
_SIMULATIONS = 200  # of a calibrated model, for the calibration error that is but chance
_FEWEST_MISSED = 3  # groups of melanomas below the threshold of a specificity that gets an interval
_REFERENCES = ("0.866", "0.90", "0.95")  # sensitivities: 58 dermatologists (Haenssle 2018), and two usual targets
_PREVALENCES = ("0.01", "0.05", "0.20")  # of melanoma: guesses, from primary care to a clinic that others refer to

FEWEST_LOGISTIC = 5
"""Groups with and without a diagnosis below which nothing is said of the calibration of its probability."""


def decide(probabilities: np.ndarray) -> np.ndarray:
    """Return the label of the highest probability, (n,); -1, undecided and so never right, where two share it."""
    tied = (probabilities == probabilities.max(1, keepdims=True)).sum(1) > 1
    return np.where(tied, -1, probabilities.argmax(1))


def proportion(hits: np.ndarray, among: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted share of `hits` (n,) among the images where `among` (n,) is true."""
    return _ratio((weights * (hits & among)).sum(-1), (weights * among).sum(-1))


def balanced_accuracy(truth: np.ndarray, prediction: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean sensitivity over the classes that occur (in a draw that misses a class: over the others)."""
    recalls = [proportion(prediction == label, truth == label, weights) for label in np.unique(truth)]
    return _mean_of_defined(np.stack(recalls))


def auroc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve; ties count one half (Mann-Whitney)."""
    ups, downs, _, below = _climb(positive, score, weights)
    return _ratio((ups * (below + downs / 2)).sum(-1), ups.sum(-1) * downs.sum(-1))


def partial_auc_80(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the area below the ROC curve and above a sensitivity of 80 %: 0 to 0.2 (ISIC 2024), 0.02 by chance.

    Ties are straight pieces of the curve. The `auc_sens_80` of the ISIC scorer is another area, of the same piece of
    the curve but down to a sensitivity of 0.
    """
    ups, downs, missed, below = _climb(positive, score, weights)
    positives = ups.sum(-1, keepdims=True)
    within = np.clip(0.2 * positives - missed, 0, ups)  # of each tied block, what the most missed fifth has of it
    share = within / np.maximum(ups, _TINY)
    return _ratio((within * (below + downs * share / 2)).sum(-1), positives[..., 0] * downs.sum(-1))


def average_precision(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean precision over the positives as the threshold falls; a step, not a line, between thresholds."""
    ups, downs, missed, below = _climb(positive, score, weights)
    caught = ups.sum(-1, keepdims=True) - missed
    called = caught + downs.sum(-1, keepdims=True) - below
    return _ratio((ups * caught / np.maximum(called, _TINY)).sum(-1), ups.sum(-1))


def specificity_at_sensitivity(
    positive: np.ndarray, score: np.ndarray, weights: np.ndarray, sensitivity: float
) -> np.ndarray:
    """Return the best specificity of a threshold whose sensitivity is at least the one given.

    The threshold is chosen on these very images, to stand a model beside a published point of the ROC curve; no
    threshold that was fixed before promises as much.
    """
    ups, downs, missed, below = _climb(positive, score, weights)
    positives, negatives = ups.sum(-1), downs.sum(-1)
    # The margin is for rounding: of 1000 positives 50 may be missed at 0.95.
    allowed = missed <= ((1 - sensitivity) * positives + 1e-9)[..., None]
    return _ratio((below * allowed).max(-1) * positives, negatives * positives)


def predictive_values(sensitivity: np.ndarray, specificity: np.ndarray, prevalence: float) -> dict[str, np.ndarray]:
    """Return what the alert means at a prevalence of melanoma (Bayes): ppv, npv; alerts and missed melanomas per 100.

    Args:
        sensitivity: 0 to 1, any shape.
        specificity: the same.
        prevalence: share of images that show a melanoma, 0 to 1.
    """
    caught, missed = prevalence * sensitivity, prevalence * (1 - sensitivity)
    false_alerts, cleared = (1 - prevalence) * (1 - specificity), (1 - prevalence) * specificity
    return {
        "ppv": _ratio(caught, caught + false_alerts),
        "npv": _ratio(cleared, cleared + missed),
        "alerts_per_100": 100 * (caught + false_alerts),
        "missed_per_100": 100 * missed,
    }


def macro_auroc(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean one-against-the-rest AUROC over the classes for which it is defined."""
    areas = [auroc(truth == label, probabilities[:, label], weights) for label in np.unique(truth)]
    return _mean_of_defined(np.stack(areas))


def calibration_error(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the expected calibration error of the top label, in 15 equal-width bins (Guo 2017)."""
    top = probabilities.max(1)
    right = probabilities.argmax(1) == truth
    return _ratio(np.abs(weights @ (_in_bins(top) * (right - top)[:, None])).sum(-1), weights.sum(-1))


def brier(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the Brier score over all classes: 0 (perfect) to 2 (Brier 1950)."""
    loss = ((probabilities - np.eye(probabilities.shape[1])[truth]) ** 2).sum(1)
    return _ratio(weights @ loss, weights.sum(-1))


def negative_log_likelihood(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean negative log-likelihood, in nats."""
    loss = -np.log(np.maximum(probabilities[np.arange(len(truth)), truth], _TINY))
    return _ratio(weights @ loss, weights.sum(-1))


def clopper_pearson(hits: float, n: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact two-sided interval of a proportion (Clopper & Pearson 1934); counts may be fractions."""
    tail = (1 - confidence) / 2
    low = stats.beta.ppf(tail, hits, n - hits + 1) if hits > 0 else 0.0
    high = stats.beta.ppf(1 - tail, hits + 1, n - hits) if hits < n else 1.0
    return float(low), float(high)


def exact_proportion(hits: int, n: int) -> dict:
    """Return the share of n independent trials that are hits, with its exact interval; undefined where n is 0."""
    return _figure(hits / n, *clopper_pearson(hits, n)) if n else _figure(np.nan, np.nan, np.nan)


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
        self._counts = rng.multinomial(self.groups, np.full(self.groups, 1 / max(self.groups, 1)), size=draws)

    def of(self, metric: Callable[[np.ndarray], np.ndarray]) -> dict:
        """Return value, low and high of a metric of the weights, by the percentiles of the bootstrap.

        Where every draw gives the same (a loss of two equal images) there is no interval rather than one of no width.

        Args:
            metric: takes weights, (n,) or (draws, n).
        """
        value, draws = self._sample(metric)
        return _figure(value, *(np.percentile(draws, [2.5, 97.5]) if len(draws) else (np.nan, np.nan)))

    def of_calibration_error(self, truth: np.ndarray, probabilities: np.ndarray) -> dict:
        """Return the expected calibration error with an interval that holds whatever the true error is.

        The error is the sum of the sizes of 15 gaps, each a mean over images. Chance adds to that sum, so no percentile
        of it will do. By the triangle inequality the value is above the true error by at most the sum of the sizes of
        the gaps' own errors: the interval begins at the value less the 97.5th percentile of that sum, and at 0 where
        nothing is left. A sum with the signs of the true gaps is unbiased and at most the value: so the interval ends
        at the value plus 1.96 standard errors of a signed sum. Both errors are the larger of those of these images and
        of those of a model that is calibrated, for a bin of which all images are right says nothing of its variance.
        The interval is wider than need be where images are few, above all downwards.
        """
        top = probabilities.max(1)
        bins, misses = _in_bins(top), (probabilities.argmax(1) == truth) - top
        value, n = float(calibration_error(truth, probabilities, np.ones(len(top)))), max(len(top), 1)
        gaps = (bins * misses[:, None]).sum(0)
        moved = self._per_draw(bins * misses[:, None]) - gaps / n
        above = max(np.percentile(np.abs(moved).sum(1), 97.5), np.percentile(self._errors_by_chance(top), 97.5))
        signed = self._per_group((bins @ np.sign(gaps)) * misses)
        below = stats.norm.ppf(0.975) * max((signed**2).sum(), (top * (1 - top)).sum()) ** 0.5 / n
        return _figure(value, max(value - above, 0), min(value + below, 1))

    def of_logistic(self, positive: np.ndarray, score: np.ndarray) -> dict[str, dict]:
        """Return how well the probability (n,) of a diagnosis fits what is (n,), as three figures with intervals.

        `observed_over_expected`: images that show it over the sum of the probabilities. `intercept`: of a logistic
        regression on the logit of the probability with a slope fixed at 1 (calibration in the large). `slope`: of that
        with both free. 1, 0 and 1 are right; a slope below 1 means probabilities too extreme (Cox 1958; Van Calster
        2019, doi 10.1186/s12916-019-1466-7). Standard errors are those of groups (the sandwich), times Student's t of
        the side with fewer of them. All are undefined where either side has fewer than `FEWEST_LOGISTIC` groups, and
        the slope where a threshold separates the two sides or all probabilities are the same.
        """
        nothing = _figure(np.nan, np.nan, np.nan)
        fewest = min(self.groups_of(positive), self.groups_of(~positive))
        if fewest < FEWEST_LOGISTIC:
            return dict.fromkeys(("observed_over_expected", "slope", "intercept"), nothing)
        quantile = stats.t.ppf(0.975, fewest - 1)
        score = np.clip(score.astype(np.float64), _SURE, 1 - _SURE)
        logit, ratio = special.logit(score), positive.sum() / score.sum()
        margin = quantile * (self._per_group(positive - ratio * score) ** 2).sum() ** 0.5 / positive.sum()
        once = np.ones((len(score), 1))
        (intercept,), (margin_of_intercept,) = self._regression(positive, once, logit)
        low, high = (score[side] for side in (~positive, positive))
        separated = low.max() < high.min() or high.max() < low.min() or score.min() == score.max()
        (_, slope), (_, margin_of_slope) = (
            ((0, np.nan), (0, np.nan)) if separated else self._regression(positive, np.column_stack([once, logit]), 0)
        )
        return {
            "observed_over_expected": _figure(ratio, ratio * np.exp(-margin), ratio * np.exp(margin)),
            "slope": _figure(slope, slope - quantile * margin_of_slope, slope + quantile * margin_of_slope),
            "intercept": _figure(
                intercept, intercept - quantile * margin_of_intercept, intercept + quantile * margin_of_intercept
            ),
        }

    def _regression(
        self, positive: np.ndarray, columns: np.ndarray, offset: np.ndarray | float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return coefficients and standard errors of a logistic regression, by Newton's method with halved steps."""

        def loss(coefficients: np.ndarray) -> float:
            return np.logaddexp(0, np.where(positive, -1, 1) * (columns @ coefficients + offset)).sum()

        coefficients = np.zeros(columns.shape[1])
        for _ in range(_NEWTON_STEPS):
            fitted = special.expit(columns @ coefficients + offset)
            curvature = (columns * (fitted * (1 - fitted))[:, None]).T @ columns
            step = np.linalg.solve(curvature + _TINY * np.eye(len(curvature)), columns.T @ (positive - fitted))
            while loss(coefficients + step) > loss(coefficients) and np.abs(step).max() > _TINY:
                step = step / 2
            coefficients = coefficients + step
            if np.abs(step).max() < 1e-9:
                break
        pulls = self._per_group(columns * (positive - fitted)[:, None])
        covariance = np.linalg.solve(curvature, np.linalg.solve(curvature, pulls.T @ pulls).T)
        return coefficients, np.diag(covariance) ** 0.5

    def _per_group(self, values: np.ndarray) -> np.ndarray:
        """Return the sum over the images of each group of values (n,) or (n, columns)."""
        sums = np.zeros((self.groups, *values.shape[1:]))
        np.add.at(sums, self._member, values)
        return sums

    def _per_draw(self, values: np.ndarray) -> np.ndarray:
        """Return the mean over the images of each bootstrap draw of values (n, columns)."""
        images = self._counts @ self._per_group(np.ones(len(values)))
        return (self._counts @ self._per_group(values)) / np.maximum(images, 1)[:, None]

    def of_area(
        self,
        area: Callable,
        positive: np.ndarray,
        score: np.ndarray,
        *,
        among: np.ndarray | None = None,
        full: float = 1,
    ) -> dict:
        """Return an area under a curve, with the bootstrap's standard error on the logit scale times Student's t.

        Percentiles miss the true area too often, the more so the better the model and the fewer the melanomas (in 12 %
        of data sets with 20 of them and an AUROC of 0.92). So the scale is the logit (Pepe 2003), and t has the degrees
        of freedom of the side with fewer groups. There is no interval where that is one group, or the area is perfect.

        Args:
            area: `auroc`, `partial_auc_80` or `average_precision`.
            positive: (n,) which images show the diagnosis.
            score: (n,) its probability.
            among: (n,) the images to look at; None for all.
            full: the largest value that the area can have.
        """
        among = np.ones(len(positive), bool) if among is None else among
        value, draws = self._sample(lambda w: area(positive, score, w * among) / full)
        fewest = min(self.groups_of(side & among) for side in (positive, ~positive))
        slope = value * (1 - value)  # of the area over its logit
        if not slope > _TINY or fewest < 2:
            return _figure(value * full, np.nan, np.nan)
        margin = stats.t.ppf(0.975, fewest - 1) * draws.std() / slope
        return _figure(value * full, *(full * special.expit(special.logit(value) + [-margin, margin])))

    def of_proportion(self, hits: np.ndarray, among: np.ndarray) -> dict:
        """Return a proportion with the exact interval of as many independent images as its photos are worth.

        That is all of them where each photo is a group of its own; else the number of which a share would vary as much
        as it does in the bootstrap (Korn & Graubard 1998), or the groups where it does not vary at all (all are hits).
        """
        n = int(among.sum())
        if n == 0:
            return _figure(np.nan, np.nan, np.nan)
        share, worth = (hits & among).sum() / n, self.groups_of(among)
        if worth < n:
            found, looked_at = (np.bincount(self._member, images) for images in (hits & among, among))
            variance = np.nanvar(_ratio(self._counts @ found, self._counts @ looked_at))
            worth = min(n, share * (1 - share) / variance) if variance > 0 else worth
        return _figure(share, *clopper_pearson(share * worth, worth))

    def of_lesions(self, hits: np.ndarray, among: np.ndarray) -> dict:
        """Return the share, with its exact interval, of the groups of which each image where `among` is is a hit."""
        n = self.groups_of(among)
        return exact_proportion(n - self.groups_of(among & ~hits), n)

    def among(self, rows: np.ndarray) -> "Intervals":
        """Return the same for some of the images, (n,)."""
        return Intervals(self._member[rows], draws=len(self._counts))

    def groups_of(self, among: np.ndarray) -> int:
        """Return how many groups the images (n,) come from."""
        return len(np.unique(self._member[among]))

    def _errors_by_chance(self, top: np.ndarray) -> np.ndarray:
        """Return what the calibration error of these images comes to, (200,), if a top label is as right as it says.

        Photos of a group are right or wrong together as far as their probabilities allow, which chance can add most to;
        so groups need not be resampled.
        """
        luck = np.random.default_rng(0).random((_SIMULATIONS, self.groups))
        gaps = (luck[:, self._member] < top) - top
        return _ratio(np.abs(gaps @ _in_bins(top)).sum(1), np.full(_SIMULATIONS, len(top)))

    def _sample(self, metric: Callable[[np.ndarray], np.ndarray]) -> tuple[float, np.ndarray]:
        """Return a metric of the images as they are, and of those draws where it is defined."""
        chunks = np.array_split(self._counts, max(len(self._counts) // _CHUNK, 1))
        draws = np.concatenate([metric(counts[:, self._member].astype(float)) for counts in chunks])
        return float(metric(np.ones(len(self._member)))), draws[np.isfinite(draws)]


def report(
    truth: np.ndarray,
    probabilities: np.ndarray,
    groups: np.ndarray,
    *,
    alert: np.ndarray | None,
    sources: np.ndarray | None = None,
    abstained: np.ndarray | None = None,
    prior: np.ndarray | None = None,
    attention: np.ndarray | None = None,
) -> dict:
    """Return the figures of one split, each with a 95 % interval.

    What is "as served" takes an image on which the release abstains to raise no alert, whatever its probability. A
    lesion is what a group holds of a diagnosis: it is found if each of its photos raises the alert.

    Args:
        truth: (n,) label ids.
        probabilities: (n, 9) calibrated probabilities.
        groups: (n,) the group of each image.
        alert: (n,) which images raise the melanoma alert; None where the release has no threshold.
        sources: (n,) where each image was made; None for no figures by source.
        abstained: (n,) which images the release declines to judge; None where it declines none.
        prior: (9,) the mix of diagnoses that the probabilities hold for; with it `balanced_accuracy_equal_priors` tells
            how the likeliest diagnosis would do if all were equally common: what balanced accuracy asks for.
        attention: (n,) which images reach the operating point of what is malignant or a precursor, by the sum of those
            probabilities; None where the release has none.
    """
    intervals = Intervals(groups)
    prediction = decide(probabilities)
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
        "melanoma": _melanoma(truth, probabilities[:, _MELANOMA], alert, sources, abstained, intervals),
        "malignant": _malignant(truth, probabilities, attention, abstained, intervals),
        "per_class": {
            name: _one_class(truth == label, prediction == label, probabilities[:, label], intervals)
            for label, name in enumerate(DIAGNOSES)
        },
        "calibration": calibration(truth, probabilities, intervals, sources),
        "confusion": confusion(truth, prediction).tolist(),
    } | (
        {}
        if prior is None
        else {"balanced_accuracy_equal_priors": _at_equal_priors(truth, probabilities / prior, intervals)}
    )


def calibration(
    truth: np.ndarray, probabilities: np.ndarray, intervals: Intervals, sources: np.ndarray | None = None
) -> dict:
    """Return how far probabilities can be taken at their word: ece, brier and nll, each with an interval.

    `melanoma` has the figures of `Intervals.of_logistic` of the probability of melanoma with `n` and `melanomas`
    (images), and the same `by_source` where the sources (n,) are given.
    """
    melanoma, score = truth == _MELANOMA, probabilities[:, _MELANOMA]
    sources = _named_sources(sources)
    return {
        "ece": intervals.of_calibration_error(truth, probabilities),
        "brier": intervals.of(lambda w: brier(truth, probabilities, w)),
        "nll": intervals.of(lambda w: negative_log_likelihood(truth, probabilities, w)),
        "melanoma": _of_melanoma(melanoma, score, intervals)
        | {
            "by_source": {
                str(source): _of_melanoma(
                    melanoma[sources == source], score[sources == source], intervals.among(sources == source)
                )
                for source in np.unique(sources)
            }
        },
    }


def _of_melanoma(melanoma: np.ndarray, score: np.ndarray, intervals: Intervals) -> dict:
    return {"n": len(melanoma), "melanomas": int(melanoma.sum())} | intervals.of_logistic(melanoma, score)


def _named_sources(sources: np.ndarray | None) -> np.ndarray:
    return np.array([] if sources is None else [source or "not known" for source in sources], str)


def _at_equal_priors(truth: np.ndarray, odds: np.ndarray, intervals: Intervals) -> dict:
    prediction = decide(odds)
    return intervals.of(lambda w: balanced_accuracy(truth, prediction, w))


def confusion(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return the counts: truth down, prediction across; what is undecided (-1) is in no column."""
    table, decided = np.zeros((len(DIAGNOSES), len(DIAGNOSES)), int), prediction >= 0
    np.add.at(table, (truth[decided], prediction[decided]), 1)
    return table


def _melanoma(
    truth: np.ndarray,
    score: np.ndarray,
    alert: np.ndarray | None,
    sources: np.ndarray | None,
    abstained: np.ndarray | None,
    intervals: Intervals,
) -> dict:
    melanoma, nevus, everywhere = truth == _MELANOMA, truth == _NEVUS, np.ones(len(truth), bool)
    point = _at_point(melanoma, alert, abstained, intervals)
    # Without a threshold no image is judged, and a share among none is undefined.
    judged = everywhere if alert is not None else ~everywhere
    alert = ~everywhere if alert is None else alert
    served = alert if abstained is None else alert & ~abstained
    sources = _named_sources(sources)

    def sensitivity(caught: np.ndarray, among: np.ndarray) -> dict:
        return intervals.of_proportion(caught, melanoma & judged & among)

    def specificity(flagged: np.ndarray, among: np.ndarray) -> dict:
        return intervals.of_proportion(~flagged, ~melanoma & judged & among)

    return {
        "n": int(melanoma.sum()),
        "auroc": intervals.of_area(auroc, melanoma, score),
        "auroc_nevi": intervals.of_area(auroc, melanoma, score, among=melanoma | nevus),
        "partial_auc_80": intervals.of_area(partial_auc_80, melanoma, score, full=0.2),
        "average_precision": intervals.of_area(average_precision, melanoma, score),
        "sensitivity": point["sensitivity"],
        "specificity": point["specificity"],
        "specificity_as_served": point["specificity_as_served"],
        "specificity_nevi": specificity(alert, nevus),
        "sensitivity_refusals_missed": point["sensitivity_as_served"],
        "lesions": point["lesions"],
        "refused": _abstained(abstained, melanoma, intervals),
        "predictive_values": _at_prevalences(point["sensitivity_as_served"], point["specificity_as_served"]),
        "specificity_at_sensitivity": _at_references(melanoma, score, everywhere, intervals),
        "specificity_nevi_at_sensitivity": _at_references(melanoma, score, melanoma | nevus, intervals),
        "by_source": {
            str(source): {
                "n": int((melanoma & (sources == source)).sum()),
                "others": int((~melanoma & (sources == source)).sum()),
                "auroc": intervals.of_area(auroc, melanoma, score, among=sources == source),
                "sensitivity": sensitivity(alert, sources == source),
                "sensitivity_as_served": sensitivity(served, sources == source),
                "specificity": specificity(alert, sources == source),
                "specificity_as_served": specificity(served, sources == source),
            }
            for source in np.unique(sources)
        },
    }


def _malignant(
    truth: np.ndarray,
    probabilities: np.ndarray,
    attention: np.ndarray | None,
    abstained: np.ndarray | None,
    intervals: Intervals,
) -> dict:
    positive, score = np.isin(truth, _MALIGNANT), probabilities[:, _MALIGNANT].astype(np.float64).sum(1)
    return {
        "n": int(positive.sum()),
        "others": int((~positive).sum()),
        "auroc": intervals.of_area(auroc, positive, score),
    } | _at_point(positive, attention, abstained, intervals)


def _at_point(
    positive: np.ndarray, flagged: np.ndarray | None, abstained: np.ndarray | None, intervals: Intervals
) -> dict:
    """Return sensitivity and specificity at an operating point, of images and of lesions, also as served.

    All are undefined where there is no point (`flagged` is None): a share among no images.
    """
    judged = np.full(len(positive), flagged is not None)
    flagged = ~judged if flagged is None else flagged
    served = flagged if abstained is None else flagged & ~abstained
    lesions = intervals.groups_of(positive)
    return {
        "sensitivity": intervals.of_proportion(flagged, positive & judged),
        "sensitivity_as_served": intervals.of_proportion(served, positive & judged),
        "specificity": intervals.of_proportion(~flagged, ~positive & judged),
        "specificity_as_served": intervals.of_proportion(~served, ~positive & judged),
        "lesions": {
            "n": lesions,
            "sensitivity": intervals.of_lesions(flagged, positive & judged),
            "sensitivity_as_served": intervals.of_lesions(served, positive & judged),
        },
    }


def _abstained(abstained: np.ndarray | None, melanoma: np.ndarray, intervals: Intervals) -> dict:
    """Return the share of the melanomas that are refused: for certain 0 where the release cannot refuse."""
    if abstained is None:
        return _figure(0.0 if melanoma.any() else np.nan, np.nan, np.nan)
    return intervals.of_proportion(abstained, melanoma)


def _at_references(melanoma: np.ndarray, score: np.ndarray, among: np.ndarray, intervals: Intervals) -> dict:
    """Return `specificity_at_sensitivity` at each reference, over the images where `among` (n,) is true.

    There is no interval where fewer than three groups of melanomas may be missed: the threshold is then that of one of
    the very lowest scores, and the bootstrap covers the truth too seldom (67 % at 0.95 with 16 melanomas).
    """
    groups = intervals.groups_of(melanoma & among)

    def specificity(weights: np.ndarray, reference: str) -> np.ndarray:
        return specificity_at_sensitivity(melanoma, score, weights * among, float(reference))

    figures = {reference: intervals.of(partial(specificity, reference=reference)) for reference in _REFERENCES}
    too_few = [reference for reference in _REFERENCES if (1 - float(reference)) * groups < _FEWEST_MISSED - _TINY]
    return figures | {reference: figures[reference] | {"low": None, "high": None} for reference in too_few}


def _at_prevalences(sensitivity: dict, specificity: dict) -> dict:
    """Return `predictive_values` at each prevalence, from the figures of sensitivity and specificity.

    Each interval spans what the four pairs of their limits give: about a fifth wider than the bootstrap's, which covers
    the truth too seldom, and hardly ever where few are missed (a share of 1 is the same in every draw).
    """
    # The value, then the four corners; None becomes NaN.
    pairs = (
        np.array([sensitivity[key] for key in ("value", "low", "low", "high", "high")], float),
        np.array([specificity[key] for key in ("value", "low", "high", "low", "high")], float),
    )
    figures = {}
    for prevalence in _PREVALENCES:
        values = predictive_values(*pairs, float(prevalence))
        figures[prevalence] = {name: _figure(v[0], v[1:].min(), v[1:].max()) for name, v in values.items()}
    return figures


def _one_class(truth: np.ndarray, prediction: np.ndarray, score: np.ndarray, intervals: Intervals) -> dict:
    return {
        "n": int(truth.sum()),
        "sensitivity": intervals.of_proportion(prediction, truth),
        "specificity": intervals.of_proportion(~prediction, ~truth),
        "auroc": intervals.of_area(auroc, truth, score),
    }


def _figure(value: float, low: float, high: float) -> dict:
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None}
    if not low < high:  # NaN included
        return {"value": float(value), "low": None, "high": None}
    return {"value": float(value), "low": float(low), "high": float(high)}


def _in_bins(top: np.ndarray) -> np.ndarray:
    """Return 1 in the column of the bin of each top probability, else 0, (n, 15)."""
    return np.eye(_BINS)[np.minimum((top * _BINS).astype(int), _BINS - 1)]


def _climb(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the ROC curve as the threshold rises over the k different scores, each (..., k).

    They are the weights of the positives and of the others that have a score, and of those that score less: what the
    threshold misses of the positives, and what it clears of the others.
    """
    order = np.argsort(score, kind="stable")
    lasts = np.flatnonzero(np.r_[np.diff(score[order]) > 0, True])
    passed = [np.cumsum((weights * side)[..., order], axis=-1)[..., lasts] for side in (positive, ~positive)]
    ups, downs = (np.diff(side, prepend=0, axis=-1) for side in passed)
    return ups, downs, passed[0] - ups, passed[1] - downs


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
            "accuracy": (decide(probabilities) == truth).mean(),
            "balanced_accuracy": balanced_accuracy(truth, decide(probabilities), once),
            "macro_auroc": macro_auroc(truth, probabilities, once),
            "melanoma_auroc": auroc(truth == _MELANOMA, probabilities[:, _MELANOMA], once),
        }
        return {name: float(value) if np.isfinite(value) else None for name, value in figures.items()}
