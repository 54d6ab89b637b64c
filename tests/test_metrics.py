import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sklearn_metrics

from dermalert import metrics
from dermalert.diagnoses import DIAGNOSES

ONCE = np.ones(60)


def random_case(seed, n=60, classes=9, ties=False):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, 9)) + 1.5 * np.eye(9)[truth]
    if ties:
        logits = logits.round()
    return truth, special.softmax(logits, axis=1)


@pytest.mark.parametrize("seed", range(20))
def test_metrics_equal_scikit_learns_with_and_without_ties(seed):
    truth, probabilities = random_case(seed, ties=seed % 2 == 0)
    prediction = probabilities.argmax(1)
    assert metrics.balanced_accuracy(truth, prediction, ONCE) == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(truth, prediction)
    )
    assert metrics.auroc(truth == 3, probabilities[:, 3], ONCE) == pytest.approx(
        sklearn_metrics.roc_auc_score(truth == 3, probabilities[:, 3])
    )
    assert metrics.macro_auroc(truth, probabilities, ONCE) == pytest.approx(
        sklearn_metrics.roc_auc_score(truth, probabilities, multi_class="ovr")
    )
    assert metrics.negative_log_likelihood(truth, probabilities, ONCE) == pytest.approx(
        sklearn_metrics.log_loss(truth, probabilities, labels=range(9))
    )
    assert np.array_equal(
        metrics.confusion(truth, prediction), sklearn_metrics.confusion_matrix(truth, prediction, labels=range(9))
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_weight_counts_an_image_as_often_as_a_copy_of_it_would(seed):
    truth, probabilities = random_case(seed)
    weights = np.random.default_rng(seed).integers(0, 4, 60).astype(float)
    copies = np.repeat(np.arange(60), weights.astype(int))
    once = np.ones(len(copies))
    for metric in (metrics.macro_auroc, metrics.calibration_error, metrics.brier, metrics.negative_log_likelihood):
        assert metric(truth, probabilities, weights) == pytest.approx(
            metric(truth[copies], probabilities[copies], once)
        )


def test_calibration_error_of_two_bins_by_hand():
    # Two images at 0.9 of which one is right, two at 0.6 of which both are: (2 * 0.4 + 2 * 0.4) / 4.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert metrics.calibration_error(np.array([0, 1, 0, 0]), probabilities, np.ones(4)) == pytest.approx(0.4)


def test_what_is_undefined_is_null_and_never_one():
    truth, probabilities = np.full(10, 4), special.softmax(np.random.default_rng(0).normal(size=(10, 9)), axis=1)
    figures = metrics.report(truth, probabilities, np.arange(10), alert=None)
    nothing = {"value": None, "low": None, "high": None}
    assert figures["melanoma"]["auroc"] == nothing
    assert figures["melanoma"]["sensitivity"] == nothing
    assert figures["macro_auroc"] == nothing
    assert figures["per_class"]["melanoma"]["sensitivity"] == nothing
    assert figures["per_class"]["melanoma"]["n"] == 0


def test_exact_interval_of_sixteen_out_of_sixteen():
    assert metrics.clopper_pearson(16, 16) == pytest.approx((0.794, 1.0), abs=5e-4)


def test_photos_of_one_lesion_widen_the_interval():
    truth, probabilities = random_case(1, n=400)
    alone = metrics.report(truth, probabilities, np.arange(400), alert=None)
    twice = [np.repeat(x, 2, axis=0) for x in (truth, probabilities)]
    doubled = metrics.report(*twice, np.arange(800), alert=None)
    grouped = metrics.report(*twice, np.repeat(np.arange(400), 2), alert=None)

    def width(figures, name):
        return figures[name]["high"] - figures[name]["low"]

    for name in ("accuracy", "balanced_accuracy", "macro_auroc"):
        assert width(grouped, name) == pytest.approx(width(alone, name), rel=0.15)
        assert width(doubled, name) < 0.85 * width(grouped, name)


def test_all_hits_among_photos_of_few_lesions_do_not_give_a_certain_interval():
    groups = np.repeat(np.arange(4), 5)
    intervals = metrics.Intervals(groups)
    figure = intervals.of_proportion(np.ones(20, bool), np.ones(20, bool))
    assert (figure["value"], figure["low"]) == (1.0, pytest.approx(metrics.clopper_pearson(4, 4)[0]))


def test_no_interval_has_no_width():
    groups, half = np.repeat(np.arange(3), 2), np.array([True, False] * 3)
    figure = metrics.Intervals(groups).of_proportion(half, np.ones(6, bool))
    assert figure["low"] < figure["value"] == 0.5 < figure["high"]
    truth = np.arange(6) % 2 == 0
    perfect = metrics.Intervals(np.arange(6)).of(lambda weights: metrics.auroc(truth, truth.astype(float), weights))
    assert perfect == {"value": 1.0, "low": None, "high": None}


def test_melanoma_figures_are_those_at_the_threshold():
    truth = np.array([3, 3, 3, 4, 4, 0])
    probabilities = np.zeros((6, 9))
    probabilities[:, 3] = [0.9, 0.2, 0.19, 0.2, 0.1, 0.3]
    alert = probabilities[:, 3] >= 0.2
    melanoma = metrics.report(truth, probabilities, np.arange(6), alert=alert)["melanoma"]
    values = {name: figure["value"] for name, figure in melanoma.items() if name != "n"}
    assert values == pytest.approx(
        {"auroc": 5.5 / 9, "sensitivity": 2 / 3, "specificity": 1 / 3, "specificity_nevi": 1 / 2}
    )


def test_the_trainers_metric_gives_the_same_figures_as_the_functions():
    truth, probabilities = random_case(3)
    metric = metrics.SkinLesionMetric(keep_in_memory=True)
    found = metric.compute(predictions=np.log(probabilities), references=truth)
    assert found["balanced_accuracy"] == pytest.approx(
        float(metrics.balanced_accuracy(truth, probabilities.argmax(1), ONCE))
    )
    assert found["macro_auroc"] == pytest.approx(float(metrics.macro_auroc(truth, probabilities, ONCE)), abs=1e-6)
    assert set(metrics.report(truth, probabilities, np.arange(60), alert=None)["per_class"]) == set(DIAGNOSES)
