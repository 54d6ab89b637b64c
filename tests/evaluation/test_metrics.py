from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, special
from sklearn import metrics as sklearn_metrics
from sklearn.linear_model import LogisticRegression

from dermalert.evaluation import metrics
from dermalert.taxonomy import DIAGNOSES

ONCE = np.ones(60)
NOTHING = {"value": None, "low": None, "high": None}


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


def at_ninety(positive, score, weights):
    return metrics.specificity_at_sensitivity(positive, score, weights, 0.9)


BINARY = (metrics.auroc, metrics.partial_auc_80, metrics.average_precision, at_ninety)


@pytest.mark.parametrize("seed", range(5))
def test_a_weight_counts_an_image_as_often_as_a_copy_of_it_would(seed):
    truth, probabilities = random_case(seed)
    weights = np.random.default_rng(seed).integers(0, 4, 60).astype(float)
    copies = np.repeat(np.arange(60), weights.astype(int))
    once = np.ones(len(copies))
    for metric in BINARY:
        assert metric(truth == 3, probabilities[:, 3], weights) == pytest.approx(
            metric(truth[copies] == 3, probabilities[copies, 3], once)
        )
    for metric in (metrics.macro_auroc, metrics.calibration_error, metrics.brier, metrics.negative_log_likelihood):
        assert metric(truth, probabilities, weights) == pytest.approx(
            metric(truth[copies], probabilities[copies], once)
        )


@pytest.mark.parametrize("seed", range(40))
def test_the_partial_area_is_the_one_of_the_isic_2024_challenge(seed):
    rng = np.random.default_rng(seed)
    truth, weights = np.arange(60) < rng.integers(1, 59), rng.integers(1, 4, 60)
    score = (rng.normal(size=60) + truth).round(seed % 3)
    # Turned over, the part above a sensitivity of 0.8 is the one below a false positive rate of 0.2, which
    # scikit-learn stretches from (chance, 0.2) to (0.5, 1) (McClish 1989).
    stretched = sklearn_metrics.roc_auc_score(~truth, -score, max_fpr=0.2, sample_weight=weights)
    expected = 0.02 + (stretched - 0.5) / 0.5 * (0.2 - 0.02)
    assert metrics.partial_auc_80(truth, score, weights) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_the_specificity_at_a_sensitivity_is_the_best_of_all_thresholds(seed):
    rng = np.random.default_rng(seed)
    truth = np.arange(60) < 20
    score = (rng.normal(size=60) + truth).round(seed % 3)
    for sensitivity in (0.866, 0.9, 0.95):
        reached = [t for t in score if (score[truth] >= t).mean() >= sensitivity]
        best = max((score[~truth] < t).mean() for t in reached)
        assert metrics.specificity_at_sensitivity(truth, score, ONCE, sensitivity) == pytest.approx(best)


def test_what_an_alert_means_at_a_prevalence_by_hand():
    # Of 100 images 5 melanomas: 4.5 are caught, and 19 of the 95 others raise an alert.
    found = metrics.predictive_values(0.9, 0.8, 0.05)
    assert found == pytest.approx({"ppv": 4.5 / 23.5, "npv": 76 / 76.5, "alerts_per_100": 23.5, "missed_per_100": 0.5})


def test_a_shared_highest_probability_is_undecided_and_never_right():
    probabilities = np.zeros((3, 9))
    probabilities[:, :2] = [[0.5, 0.5], [0.6, 0.4], [0.4, 0.6]]
    prediction = metrics.decide(probabilities)
    assert prediction.tolist() == [-1, 0, 1]
    assert metrics.balanced_accuracy(np.array([0, 0, 1]), prediction, np.ones(3)) == 0.75
    assert metrics.confusion(np.array([0, 0, 1]), prediction).sum() == 2


@pytest.fixture
def scorer():
    reason = "needs the oracle, the ISIC challenges' own scorer: pip install -e '.[oracle]'"
    pytest.importorskip("isic_challenge_scoring", reason=reason)
    from isic_challenge_scoring import confusion, metrics

    return confusion, metrics


def oracle_case(seed):
    """Return truth, probabilities and weights: by the seed with ties, empty classes, one class, unequal weights."""
    rng = np.random.default_rng(seed)
    n, classes = rng.integers(3, 90), rng.integers(2, 10)
    occurring = rng.permutation(classes)[: 1 if seed % 5 == 0 else rng.integers(2, classes + 1)]
    truth = rng.choice(occurring, n)
    logits = rng.normal(size=(n, classes)) + rng.uniform(0, 4) * np.eye(classes)[truth]
    weights = rng.integers(0, 4, n) if seed % 3 == 0 else np.ones(n)
    weights[0] = 1
    return truth, special.softmax(logits.round() if seed % 2 == 0 else logits, axis=1), weights.astype(float)


def where_eighty_percent_are_caught(positive, score, weights):
    """Return the lowest false positive rate at which the ROC curve comes to a sensitivity of 0.8."""
    false_alarms, caught, _ = sklearn_metrics.roc_curve(
        positive[weights > 0], score[weights > 0], sample_weight=weights[weights > 0], drop_intermediate=False
    )
    above = np.argmax(caught >= 0.8)
    return np.interp(0.8, caught[above - 1 : above + 1], false_alarms[above - 1 : above + 1])


def shares_beside_the_oracles(scorer, positive, called, weights):
    """Yield a name, this project's figure, whether it is defined, and the scorer's (called later: it can fail)."""
    confusion, theirs = scorer
    counts = confusion.create_binary_confusion_matrix(positive, called, weights)
    shares = {
        "sensitivity": (called, positive),
        "specificity": (~called, ~positive),
        "ppv": (positive, called),
        "npv": (~positive, ~called),
        "accuracy": (called == positive, np.full(len(positive), True)),
    }
    ours = {name: metrics.proportion(*share, weights) for name, share in shares.items()}
    defined = {name: weights[among].sum() > 0 for name, (_, among) in shares.items()}
    for name in shares:
        yield name, ours[name], defined[name], partial(getattr(theirs, f"binary_{name}"), counts)
    prevalence = weights[positive].sum() / weights.sum()
    bayes = metrics.predictive_values(ours["sensitivity"], ours["specificity"], prevalence)
    both = defined["sensitivity"] and defined["specificity"]
    for name in ("ppv", "npv"):
        function = partial(getattr(theirs, f"binary_{name}"), counts)
        yield f"{name} by Bayes", bayes[name], both and defined[name], function


def areas_beside_the_oracles(scorer, positive, score, weights):
    """Yield the same of the areas under curves."""
    _, theirs = scorer
    ours, one = (positive, score, weights), [pd.Series(column) for column in (positive.astype(float), score, weights)]
    some = weights[positive].sum() > 0
    both = some and weights[~positive].sum() > 0
    yield "auc", metrics.auroc(*ours), both, partial(theirs.auc, *one)
    yield "ap", metrics.average_precision(*ours), some, partial(theirs.average_precision, *one)
    area = metrics.partial_auc_80(*ours)
    if both:  # the scorer's area goes down to a sensitivity of 0, this project's to 0.8
        area += 0.8 * (1 - where_eighty_percent_are_caught(*ours))
    yield "auc_sens_80", area, both, partial(theirs.auc_above_sensitivity, *one, 0.8)


def beside_the_oracle(scorer, truth, probabilities, weights):
    """Yield the same of all figures: of each class against the others, and of all classes."""
    names = list(DIAGNOSES[: probabilities.shape[1]])
    for label, score in enumerate(probabilities.T):
        yield from shares_beside_the_oracles(scorer, truth == label, score > 0.5, weights)
        yield from areas_beside_the_oracles(scorer, truth == label, score, weights)
    ours = metrics.balanced_accuracy(truth, metrics.decide(probabilities), weights)
    frames = [pd.DataFrame(table, columns=names) for table in (np.eye(len(names))[truth], probabilities)]
    yield "balanced_accuracy", ours, True, partial(scorer[1].balanced_multiclass_accuracy, *frames, pd.Series(weights))


def test_figures_equal_the_isic_scorers_and_stay_undefined_where_it_gives_one(scorer):
    table = {}
    for seed in range(210):
        for name, ours, defined, theirs in beside_the_oracle(scorer, *oracle_case(seed)):
            row = table.setdefault(name, {"cases": 0, "largest difference": 0.0, "undefined": 0})
            assert np.isnan(ours) == (not defined), (name, seed)
            if not defined:
                row["undefined"] += 1
                assert name not in ("sensitivity", "specificity", "ppv", "npv") or theirs() == 1
                continue
            row["cases"] += 1
            row["largest difference"] = max(row["largest difference"], abs(float(ours) - theirs()))
    print(f"\n{pd.DataFrame(table).T}")
    assert min(row["cases"] for row in table.values()) >= 200
    assert max(row["largest difference"] for row in table.values()) < 1e-6


def test_calibration_error_of_two_bins_by_hand():
    # Two images at 0.9 of which one is right, two at 0.6 of which both are: (2 * 0.4 + 2 * 0.4) / 4.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert metrics.calibration_error(np.array([0, 1, 0, 0]), probabilities, np.ones(4)) == pytest.approx(0.4)


def test_what_is_undefined_is_null_and_never_one():
    truth, probabilities = np.full(10, 4), special.softmax(np.random.default_rng(0).normal(size=(10, 9)), axis=1)
    figures = metrics.report(truth, probabilities, np.arange(10), alert=None)
    melanoma = figures["melanoma"]
    for name in (
        "auroc",
        "auroc_nevi",
        "partial_auc_80",
        "average_precision",
        "sensitivity",
        "sensitivity_refusals_missed",
        "refused",
    ):
        assert melanoma[name] == NOTHING, name
    for name in ("specificity_at_sensitivity", "specificity_nevi_at_sensitivity"):
        assert melanoma[name] == {"0.866": NOTHING, "0.90": NOTHING, "0.95": NOTHING}
    for at_prevalence in melanoma["predictive_values"].values():
        assert all(figure == NOTHING for figure in at_prevalence.values())
    assert melanoma["by_source"] == {}
    assert figures["macro_auroc"] == NOTHING
    assert figures["per_class"]["melanoma"]["sensitivity"] == NOTHING
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
    intervals = metrics.Intervals(np.arange(6))
    assert intervals.of_area(metrics.auroc, truth, truth.astype(float)) == NOTHING | {"value": 1.0}
    assert intervals.of_area(metrics.partial_auc_80, truth, truth.astype(float), full=0.2)["low"] is None
    assert intervals.of(lambda weights: metrics.auroc(truth, truth.astype(float), weights)) == NOTHING | {"value": 1.0}


def test_melanoma_figures_are_those_at_the_threshold():
    truth = np.array([3, 3, 3, 4, 4, 0])
    probabilities = np.zeros((6, 9))
    probabilities[:, 3] = [0.9, 0.2, 0.19, 0.2, 0.1, 0.3]
    alert = probabilities[:, 3] >= 0.2
    melanoma = metrics.report(truth, probabilities, np.arange(6), alert=alert)["melanoma"]
    expected = {
        "auroc": 5.5 / 9,
        "auroc_nevi": 4.5 / 6,
        "sensitivity": 2 / 3,
        "specificity": 1 / 3,
        "specificity_nevi": 1 / 2,
    }
    assert {name: melanoma[name]["value"] for name in expected} == pytest.approx(expected)
    assert melanoma["predictive_values"]["0.05"]["missed_per_100"]["value"] == pytest.approx(5 / 3)
    # All three melanomas score 0.19 or more, and so do a nevus and the actinic keratosis.
    assert melanoma["specificity_at_sensitivity"]["0.95"]["value"] == pytest.approx(1 / 3)
    assert melanoma["specificity_nevi_at_sensitivity"]["0.95"]["value"] == 1 / 2


@pytest.mark.parametrize(
    ("melanomas", "missing"),
    [(16, ["0.866", "0.90", "0.95"]), (23, ["0.90", "0.95"]), (29, ["0.90", "0.95"]), (30, ["0.95"]), (60, [])],
)
def test_no_interval_at_a_sensitivity_that_fewer_than_three_lesions_may_miss(melanomas, missing):
    lesions = np.arange(melanomas + 40)
    truth = np.repeat(np.where(lesions < melanomas, 3, 4), 2)  # two photos each: it is lesions that count
    logits = np.random.default_rng(0).normal(size=(len(truth), 9)) + np.eye(9)[truth]
    probabilities = special.softmax(logits, axis=1)
    found = metrics.report(truth, probabilities, np.repeat(lesions, 2), alert=None)["melanoma"]
    for name in ("specificity_at_sensitivity", "specificity_nevi_at_sensitivity"):
        assert [at for at, figure in found[name].items() if figure["low"] is None] == missing
        assert all(figure["value"] is not None for figure in found[name].values())


def test_a_refused_melanoma_counts_as_missed():
    truth, probabilities = random_case(2)
    alert, abstained = np.ones(60, bool), np.arange(60) % 2 == 0
    can, cannot = (
        metrics.report(truth, probabilities, np.arange(60), alert=alert, abstained=which)["melanoma"]
        for which in (abstained, None)
    )
    share = abstained[truth == 3].mean()
    assert (can["refused"]["value"], can["sensitivity_refusals_missed"]["value"]) == pytest.approx((share, 1 - share))
    assert can["sensitivity"] == cannot["sensitivity"] == cannot["sensitivity_refusals_missed"]
    assert cannot["refused"] == NOTHING | {"value": 0.0}


def malignant_side():
    """Return a split of four lesions with two photos each (melanoma, carcinoma, precursor, nevus) and a lone nevus."""
    truth = np.array([3, 3, 1, 1, 0, 0, 4, 4, 4])
    groups = np.array(["a", "a", "b", "b", "c", "c", "d", "d", "e"])
    probabilities = np.full((9, 9), 0.01)
    probabilities[np.arange(9), [3, 4, 1, 7, 4, 0, 4, 4, 3]] = 0.92
    return truth, groups, probabilities


def values(figures, *names):
    return [figures[name]["value"] for name in names]


@pytest.mark.parametrize(
    ("abstained", "images", "lesions"),
    [
        ([], 4 / 6, 1 / 3),
        ([0], 3 / 6, 1 / 3),
        ([2], 3 / 6, 0),
        ([2, 3, 0], 1 / 6, 0),
        ([1, 4], 4 / 6, 1 / 3),
        ([6], 4 / 6, 1 / 3),
    ],
)
def test_a_malignant_lesion_is_found_as_served_if_every_photo_of_it_is(abstained, images, lesions):
    truth, groups, probabilities = malignant_side()
    attention = probabilities[:, [0, 1, 3, 7]].sum(1) >= 0.5
    side = metrics.report(
        truth, probabilities, groups, alert=None, attention=attention, abstained=np.isin(np.arange(9), abstained)
    )["malignant"]
    assert (side["n"], side["others"], side["lesions"]["n"]) == (6, 3, 3)
    assert values(side, "sensitivity", "sensitivity_as_served") == pytest.approx([4 / 6, images])
    assert values(side["lesions"], "sensitivity", "sensitivity_as_served") == pytest.approx([1 / 3, lesions])
    assert side["lesions"]["sensitivity"]["high"] == pytest.approx(metrics.clopper_pearson(1, 3)[1])
    assert values(side, "specificity", "specificity_as_served") == pytest.approx([2 / 3, 2 / 3])
    assert side["auroc"]["value"] == pytest.approx((4 * 2 + 4 * 0.5 + 2 * 1) / 18)


def test_an_alert_that_is_not_served_is_no_false_alert():
    truth, groups, probabilities = malignant_side()
    alert = probabilities[:, 3] >= 0.5
    side = metrics.report(truth, probabilities, groups, alert=alert, abstained=np.arange(9) == 8)["melanoma"]
    assert values(side, "specificity", "specificity_as_served") == pytest.approx([6 / 7, 1])
    assert (side["lesions"]["n"], *values(side["lesions"], "sensitivity", "sensitivity_as_served")) == (1, 0, 0)


def test_without_an_operating_point_its_figures_are_null_and_the_area_is_not():
    truth, groups, probabilities = malignant_side()
    side = metrics.report(truth, probabilities, groups, alert=None)
    for name in ("sensitivity", "sensitivity_as_served", "specificity", "specificity_as_served"):
        assert side["malignant"][name] == NOTHING
    for name in ("malignant", "melanoma"):
        assert side[name]["lesions"]["sensitivity"] == side[name]["lesions"]["sensitivity_as_served"] == NOTHING
        assert side[name]["auroc"]["value"] is not None


def test_each_source_has_the_figures_of_its_own_images():
    truth, probabilities = random_case(4, n=200)
    groups, alert, sources = np.arange(200), probabilities[:, 3] >= 0.2, np.array(["HAM10000", None] * 100)
    found = metrics.report(truth, probabilities, groups, alert=alert, sources=sources)["melanoma"]["by_source"]
    assert list(found) == ["HAM10000", "not known"]
    for source, figures in zip((0, 1), found.values(), strict=True):
        alone = metrics.report(truth[source::2], probabilities[source::2], groups[source::2], alert=alert[source::2])
        assert (figures["n"], figures["others"]) == (alone["melanoma"]["n"], 100 - alone["melanoma"]["n"])
        assert figures["auroc"]["value"] == pytest.approx(alone["melanoma"]["auroc"]["value"])
        for name in ("sensitivity", "specificity"):
            assert figures[name] == pytest.approx(alone["melanoma"][name])


def test_a_sensitivity_of_one_does_not_make_the_alert_certain():
    truth, probabilities = np.repeat([3, 4], [16, 44]), np.full((60, 9), 1 / 9)
    alert = np.arange(60) < 20
    melanoma = metrics.report(truth, probabilities, np.arange(60), alert=alert)["melanoma"]
    at_five_percent = melanoma["predictive_values"]["0.05"]
    assert at_five_percent["npv"]["value"] == 1 > at_five_percent["npv"]["low"]
    assert at_five_percent["missed_per_100"] == pytest.approx({"value": 0, "low": 0, "high": 5 * (1 - 0.794)}, abs=5e-3)


def test_the_calibration_error_lies_in_its_own_interval():
    for seed in range(5):
        truth, probabilities = random_case(seed, n=150)
        error = metrics.report(truth, probabilities, np.arange(150), alert=None)["calibration"]["ece"]
        assert 0 <= error["low"] < error["value"] < error["high"]


@pytest.mark.parametrize("seed", range(4))
def test_the_calibration_of_melanoma_is_that_of_an_independent_fit(seed):
    rng = np.random.default_rng(seed)
    logit = rng.normal(-1, 2, 500)
    positive = rng.random(500) < special.expit(0.3 + 0.8 * logit)
    score = special.expit(logit)
    found = metrics.Intervals(np.arange(500)).of_logistic(positive, score)
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit[:, None], positive)
    assert found["slope"]["value"] == pytest.approx(fit.coef_[0, 0], abs=1e-5)
    large = optimize.brentq(lambda a: (special.expit(a + logit) - positive).sum(), -5, 5)
    assert found["intercept"]["value"] == pytest.approx(large, abs=1e-6)
    assert found["observed_over_expected"]["value"] == pytest.approx(positive.mean() / score.mean())
    # Of images that are all independent the sandwich is close to what the likelihood says.
    fitted, columns = fit.predict_proba(logit[:, None])[:, 1], np.column_stack([np.ones(500), logit])
    error = np.linalg.inv((columns * (fitted * (1 - fitted))[:, None]).T @ columns)[1, 1] ** 0.5
    assert (found["slope"]["high"] - found["slope"]["low"]) / 2 == pytest.approx(1.97 * error, rel=0.15)


def test_copies_of_photos_do_not_narrow_the_calibration_of_melanoma():
    rng = np.random.default_rng(0)
    logit = rng.normal(-1, 2, 200)
    positive, score = rng.random(200) < special.expit(logit), special.expit(logit)
    once = metrics.Intervals(np.arange(200)).of_logistic(positive, score)
    thrice = metrics.Intervals(np.repeat(np.arange(200), 3)).of_logistic(np.repeat(positive, 3), np.repeat(score, 3))
    for name, figure in once.items():
        assert thrice[name] == pytest.approx(figure), name


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
    found = metrics.Intervals(np.arange(40)).of_logistic(positive, score)
    assert {name for name, figure in found.items() if figure == NOTHING} == undefined
    assert all(found[name]["low"] < found[name]["value"] < found[name]["high"] for name in found.keys() - undefined)


def test_each_source_has_its_own_calibration_of_melanoma():
    truth, probabilities = random_case(4, n=400)
    sources = np.array(["HAM10000", None] * 200)
    whole = metrics.report(truth, probabilities, np.arange(400), alert=None, sources=sources)["calibration"]["melanoma"]
    assert list(whole["by_source"]) == ["HAM10000", "not known"]
    for start, figures in enumerate(whole["by_source"].values()):
        alone = metrics.report(truth[start::2], probabilities[start::2], np.arange(200), alert=None)["calibration"]
        assert figures == {key: value for key, value in alone["melanoma"].items() if key != "by_source"}
    assert whole["melanomas"] == (truth == 3).sum()


def test_a_probability_of_exactly_nothing_leaves_the_calibration_defined():
    score = np.r_[np.zeros(5), np.linspace(0.1, 0.9, 50), np.ones(5)].astype(np.float32)
    found = metrics.Intervals(np.arange(60)).of_logistic(np.arange(60) % 3 == 0, score)
    assert all(np.isfinite(list(figure.values())).all() for figure in found.values())


def test_the_trainers_metric_gives_the_same_figures_as_the_functions():
    truth, probabilities = random_case(3)
    metric = metrics.SkinLesionMetric(keep_in_memory=True)
    found = metric.compute(predictions=np.log(probabilities), references=truth)
    assert found["balanced_accuracy"] == pytest.approx(
        float(metrics.balanced_accuracy(truth, probabilities.argmax(1), ONCE))
    )
    assert found["macro_auroc"] == pytest.approx(float(metrics.macro_auroc(truth, probabilities, ONCE)), abs=1e-6)
    assert set(metrics.report(truth, probabilities, np.arange(60), alert=None)["per_class"]) == set(DIAGNOSES)


def test_at_equal_priors_a_rare_diagnosis_wins_where_it_is_likelier_than_its_share():
    prior = np.full(9, 0.01)
    prior[4] = 0.92  # nevi
    truth = np.array([3] * 20 + [4] * 20)
    probabilities = np.full((40, 9), 1e-3)
    probabilities[:, 4] = 0.8
    probabilities[:20, 3] = 0.1  # ten times its share, and never the likeliest
    groups = np.arange(40)
    plain = metrics.report(truth, probabilities, groups, alert=None)
    asked = metrics.report(truth, probabilities, groups, alert=None, prior=prior)
    assert plain["balanced_accuracy"]["value"] == asked["balanced_accuracy"]["value"] == 0.5
    assert asked["balanced_accuracy_equal_priors"]["value"] == 1
    assert "balanced_accuracy_equal_priors" not in plain
