"""What the intervals and the alert promise, held against worlds whose truth is known: draw, measure, count.

Lesions have one to four photos, whose scores resemble each other (correlation 0.7): independent photos would flatter
every interval.
"""

import functools
import itertools
import sys

import numpy as np
import pytest
from scipy import special, stats
from support.paths import REPOSITORY

from dermalert.evaluation import metrics, operating_points
from dermalert.evaluation.intervals import Intervals, clopper_pearson
from dermalert.evaluation.report import at_prevalences, calibration

sys.path.insert(0, str(REPOSITORY / "benchmarks" / "evaluation"))
from calibration_intervals import ERRORS, SHAPES, SIZES, coverage_of_error, coverage_of_logistic

LONG = functools.partial(pytest.param, marks=pytest.mark.long)
DRAWS = 250
MANY_DRAWS = 1000
CORRELATION = 0.7  # of the scores of two photos of one lesion
CUT = 0.8  # fixed threshold of the alert, on the scale where the scores of harmless lesions are standard normal


def chance(share, draws):
    """By how much a share of so many draws strays by chance: three standard errors."""
    return 3 * (share * (1 - share) / draws) ** 0.5


def photos(rng, lesions, separation=0.0):
    """A score a photo and its lesion; a melanoma's photos score `separation` (n lesions) higher on average."""
    lesion = np.repeat(np.arange(lesions), rng.integers(1, 5, lesions))
    shared, own = rng.normal(size=lesions), rng.normal(size=len(lesion))
    score = (shared * CORRELATION**0.5 + separation)[lesion] + own * (1 - CORRELATION) ** 0.5
    return score, lesion


def served(rng, lesions, share):
    """A score a photo, its lesion, and whether the release abstains on it, whatever it scores."""
    score, lesion = photos(rng, lesions)
    return score, lesion, rng.random(len(score)) < share


def lowest_of_lesions(rng, lesions, share):
    score, lesion, abstained = served(rng, lesions, share)
    lowest = np.full(lesions, np.inf)
    np.minimum.at(lowest, lesion, np.where(abstained, -np.inf, score))
    return np.sort(lowest)


@pytest.mark.parametrize(
    ("lesions", "share"), [(59, 0), (124, 0), (169, 0.01), *map(LONG, [120, 59, 400], [0, 0.004, 0.004])]
)
def test_the_alert_as_served_misses_its_target_in_at_most_one_of_twenty_draws(lesions, share, monkeypatch):
    # 59 and 124 are the fewest lesions of which none and two may be missed: the rule has nothing to spare there.
    monkeypatch.setattr(operating_points, "lower_bound", functools.cache(operating_points.lower_bound))
    rng = np.random.default_rng(lesions)
    everyone = lowest_of_lesions(rng, 200_000, share)  # their 5th percentile is known within 0.15%
    failures = 0
    for _ in range(MANY_DRAWS):
        score, lesion, abstained = served(rng, lesions, share)
        alert = operating_points.operating_point(special.expit(score), lesion, abstained)
        assert alert["bound_met"] or share
        missed = np.searchsorted(everyone, special.logit(alert["threshold"])) / len(everyone)
        failures += alert["bound_met"] and 1 - missed < alert["target_sensitivity"]
    allowed = 1 - operating_points.CONFIDENCE
    assert failures / MANY_DRAWS <= allowed + chance(allowed, MANY_DRAWS)


@pytest.mark.parametrize("n", [1, 2, 5, 16, 29, 59, 100, 400])
def test_exact_intervals_cover_whatever_the_truth_is(n):
    # No draws here: the probability of each count is known.
    limits = np.array([clopper_pearson(hits, n) for hits in range(n + 1)])
    truths = np.linspace(0.001, 0.999, 999)[:, None]
    covers = (limits[:, 0] <= truths) & (truths <= limits[:, 1])
    coverage = (stats.binom.pmf(np.arange(n + 1), n, truths) * covers).sum(1)
    assert coverage.min() >= 0.95


def coverage_of_intervals(rng, lesions, melanomas, separation, draws):
    """By figure the share of the draws whose interval holds the truth."""
    positive_lesion = np.arange(lesions) < melanomas
    sensitivity, specificity = stats.norm.cdf(separation - CUT), stats.norm.cdf(CUT)
    truth = {"auroc": stats.norm.cdf(separation / 2**0.5), "sensitivity": sensitivity, "specificity": specificity}
    truth |= metrics.predictive_values(sensitivity, specificity, 0.05)
    covered = dict.fromkeys(truth, 0)
    for _ in range(draws):
        score, lesion = photos(rng, lesions, separation * positive_lesion)
        positive, alert = positive_lesion[lesion], score >= CUT
        intervals = Intervals(lesion)
        figures = {
            "auroc": intervals.of_area(metrics.auroc, positive, score),
            "sensitivity": intervals.of_proportion(alert, positive),
            "specificity": intervals.of_proportion(~alert, ~positive),
        }
        figures |= at_prevalences(figures["sensitivity"], figures["specificity"])["0.05"]
        for name, figure in figures.items():
            covered[name] += figure.low <= truth[name] <= figure.high
    return {name: count / draws for name, count in covered.items()}


def assert_honest(shares, draws):
    """AUROC covers 95%; the others, made to cover at least that, 94% of clusters; both up to chance."""
    assert shares.pop("auroc") == pytest.approx(0.95, abs=chance(0.95, draws))
    assert min(shares.values()) >= 0.94 - chance(0.95, draws)


@pytest.mark.integration
def test_intervals_of_clustered_photos_cover():
    assert_honest(coverage_of_intervals(np.random.default_rng(0), 100, 20, 2.0, DRAWS), DRAWS)


def ece_intervals(rng, lesions, overconfidence, draws):
    """The lower ends, values and upper ends, (3, draws), where top labels are right less often than they say."""
    ends = []
    for _ in range(draws):
        (confidence, lesion), luck = photos(rng, lesions), rng.normal(size=lesions)
        top = 0.4 + 0.6 * stats.norm.cdf(confidence)
        shared = luck[lesion] * CORRELATION**0.5 + rng.normal(size=len(lesion)) * (1 - CORRELATION) ** 0.5
        truth = (stats.norm.cdf(shared) >= top - overconfidence).astype(int)  # 0 is the top label
        probabilities = np.column_stack([top, *[(1 - top) / 8] * 8])
        error = calibration(truth, probabilities, Intervals(lesion, draws=200)).ece
        ends.append([error.low, error.value, error.high])
    return np.array(ends).T


@pytest.mark.integration
def test_the_calibration_error_of_a_calibrated_model_may_be_none():
    low, value, high = ece_intervals(np.random.default_rng(0), 150, 0, 60)
    assert np.mean(low == 0) >= 0.95
    assert ((low < value) & (value <= high)).all()


@pytest.mark.integration
def test_the_calibration_error_of_an_overconfident_model_is_above_none():
    low, value, high = ece_intervals(np.random.default_rng(0), 300, 0.2, 20)
    assert np.mean(low > 0) >= 0.95
    assert ((low < value) & (value <= high)).all()


@pytest.mark.integration
@pytest.mark.parametrize(("error", "alone"), list(zip(ERRORS, itertools.cycle([True, False]))))
def test_the_interval_of_the_calibration_error_holds_it_whatever_it_is(error, alone):
    for shape in ("all too sure", "a quarter alone"):
        row = coverage_of_error(118, shape, error, alone=alone, draws=60)
        assert row["held"] >= 0.95 - chance(0.95, 60), shape


@pytest.mark.long
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("error", ERRORS)
def test_the_interval_of_the_calibration_error_holds_it_in_many_worlds(error, n):
    for alone in (True, False):
        for shape in SHAPES:
            row = coverage_of_error(n, shape, error, alone=alone, draws=400, seed=1)
            assert row["held"] >= 0.94, (shape, alone)


@pytest.mark.integration
@pytest.mark.parametrize(("slope", "intercept"), [(0.7, -0.5), LONG(1.0, 0.0), LONG(1.3, 0.4)])
def test_the_intervals_of_logistic_recalibration_hold(slope, intercept):
    row = coverage_of_logistic(311, 0.15, slope, intercept, alone=False, draws=DRAWS)
    assert row["defined"] == 1
    for name in ("observed_over_expected", "slope", "intercept"):
        assert row[name] >= 0.95 - chance(0.95, DRAWS), name


@pytest.mark.long
@pytest.mark.parametrize(
    ("lesions", "melanomas", "separation"), [(100, 50, 1.2), (100, 10, 1.5), (300, 30, 1.5), (300, 60, 2.5)]
)
def test_intervals_of_clustered_photos_cover_in_many_worlds(lesions, melanomas, separation):
    rng = np.random.default_rng([lesions, melanomas])
    assert_honest(coverage_of_intervals(rng, lesions, melanomas, separation, MANY_DRAWS), MANY_DRAWS)
