import numpy as np
import pytest
from dermalert_space.estimate import Estimate
from scipy import optimize, special
from sklearn.linear_model import LogisticRegression
from support.predictions import approx

from dermalert.evaluation import metrics
from dermalert.evaluation.intervals import Intervals, clopper_pearson

NOTHING = Estimate()


def test_exact_interval_of_sixteen_out_of_sixteen():
    assert clopper_pearson(16, 16) == pytest.approx((0.794, 1.0), abs=5e-4)


def test_all_hits_among_photos_of_few_lesions_do_not_give_a_certain_interval():
    groups = np.repeat(np.arange(4), 5)
    intervals = Intervals(groups)
    figure = intervals.of_proportion(np.ones(20, bool), np.ones(20, bool))
    assert (figure.value, figure.low) == (1.0, pytest.approx(clopper_pearson(4, 4)[0]))


def test_no_interval_has_no_width():
    groups, half = np.repeat(np.arange(3), 2), np.array([True, False] * 3)
    figure = Intervals(groups).of_proportion(half, np.ones(6, bool))
    assert figure.low < figure.value == 0.5 < figure.high
    truth = np.arange(6) % 2 == 0
    intervals = Intervals(np.arange(6))
    assert intervals.of_area(metrics.auroc, truth, truth.astype(float)) == Estimate(1.0)
    assert intervals.of_area(metrics.partial_auc_80, truth, truth.astype(float), full=0.2).low is None
    assert intervals.of(lambda weights: metrics.auroc(truth, truth.astype(float), weights)) == Estimate(1.0)


@pytest.mark.parametrize("seed", range(4))
def test_the_calibration_of_melanoma_is_that_of_an_independent_fit(seed):
    rng = np.random.default_rng(seed)
    logit = rng.normal(-1, 2, 500)
    positive = rng.random(500) < special.expit(0.3 + 0.8 * logit)
    score = special.expit(logit)
    figures = Intervals(np.arange(500)).of_logistic(positive, score)
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit[:, None], positive)
    assert figures.slope.value == pytest.approx(fit.coef_[0, 0], abs=1e-5)
    large = optimize.brentq(lambda a: (special.expit(a + logit) - positive).sum(), -5, 5)
    assert figures.intercept.value == pytest.approx(large, abs=1e-6)
    assert figures.observed_over_expected.value == pytest.approx(positive.mean() / score.mean())
    # Of images that are all independent the sandwich is close to what the likelihood says.
    fitted, columns = fit.predict_proba(logit[:, None])[:, 1], np.column_stack([np.ones(500), logit])
    error = np.linalg.inv((columns * (fitted * (1 - fitted))[:, None]).T @ columns)[1, 1] ** 0.5
    assert (figures.slope.high - figures.slope.low) / 2 == pytest.approx(1.97 * error, rel=0.15)


def test_copies_of_photos_do_not_narrow_the_calibration_of_melanoma():
    rng = np.random.default_rng(0)
    logit = rng.normal(-1, 2, 200)
    positive, score = rng.random(200) < special.expit(logit), special.expit(logit)
    once = Intervals(np.arange(200)).of_logistic(positive, score)
    thrice = Intervals(np.repeat(np.arange(200), 3)).of_logistic(np.repeat(positive, 3), np.repeat(score, 3))
    for name, figure in once._asdict().items():
        assert getattr(thrice, name) == approx(figure), name


@pytest.mark.parametrize(
    ("positive", "undefined"),
    [
        (np.zeros(40, bool), {"observed_over_expected", "slope", "intercept"}),
        (np.ones(40, bool), {"observed_over_expected", "slope", "intercept"}),
        (np.arange(40) < 4, {"observed_over_expected", "slope", "intercept"}),
        (np.arange(40) >= 30, {"slope"}),
        (np.arange(40) % 2 == 0, set()),
    ],
)
def test_the_calibration_of_melanoma_is_null_where_it_is_undefined(positive, undefined):
    score = np.linspace(0.05, 0.95, 40)
    figures = Intervals(np.arange(40)).of_logistic(positive, score)
    assert {name for name, figure in figures._asdict().items() if figure == NOTHING} == undefined
    assert all(figure.low < figure.value < figure.high for figure in figures if figure != NOTHING)


def test_a_probability_of_exactly_nothing_leaves_the_calibration_defined():
    score = np.r_[np.zeros(5), np.linspace(0.1, 0.9, 50), np.ones(5)].astype(np.float32)
    figures = Intervals(np.arange(60)).of_logistic(np.arange(60) % 3 == 0, score)
    assert all(np.isfinite([figure.value, figure.low, figure.high]).all() for figure in figures)
