from functools import partial

import numpy as np
import pandas as pd
import pytest
from dermalert_space.prediction import likeliest
from scipy import special
from sklearn import metrics as sklearn_metrics
from support.predictions import random_case

from dermalert.evaluation import metrics
from dermalert.taxonomy import DIAGNOSES

ONCE = np.ones(60)


@pytest.mark.parametrize("seed", range(10))
def test_metrics_equal_scikit_learns_with_and_without_ties(seed):
    truth, probabilities = random_case(seed, ties=seed % 2 == 0)
    prediction = probabilities.argmax(1)
    ours = [
        metrics.balanced_accuracy(truth, prediction, ONCE),
        metrics.auroc(truth == 3, probabilities[:, 3], ONCE),
        metrics.macro_auroc(truth, probabilities, ONCE),
        metrics.negative_log_likelihood(truth, probabilities, ONCE),
    ]
    theirs = [
        sklearn_metrics.balanced_accuracy_score(truth, prediction),
        sklearn_metrics.roc_auc_score(truth == 3, probabilities[:, 3]),
        sklearn_metrics.roc_auc_score(truth, probabilities, multi_class="ovr"),
        sklearn_metrics.log_loss(truth, probabilities, labels=range(9)),
    ]
    assert ours == pytest.approx(theirs)
    confusion = sklearn_metrics.confusion_matrix(truth, prediction, labels=range(9))
    assert np.array_equal(metrics.confusion(truth, prediction), confusion)


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
        copied = metric(truth[copies] == 3, probabilities[copies, 3], once)
        assert metric(truth == 3, probabilities[:, 3], weights) == pytest.approx(copied)
    for metric in (metrics.macro_auroc, metrics.calibration_error, metrics.brier, metrics.negative_log_likelihood):
        copied = metric(truth[copies], probabilities[copies], once)
        assert metric(truth, probabilities, weights) == pytest.approx(copied)


@pytest.mark.parametrize("seed", range(12))
def test_the_partial_area_is_the_one_of_the_isic_2024_challenge(seed):
    rng = np.random.default_rng(seed)
    truth, weights = np.arange(60) < rng.integers(1, 59), rng.integers(1, 4, 60)
    score = (rng.normal(size=60) + truth).round(seed % 3)
    # Turned over, the part above a sensitivity of 0.8 is the one below a false positive rate of 0.2, which
    # scikit-learn stretches from (chance, 0.2) to (0.5, 1) (McClish 1989).
    stretched = sklearn_metrics.roc_auc_score(~truth, -score, max_fpr=0.2, sample_weight=weights)
    expected = 0.02 + (stretched - 0.5) / 0.5 * (0.2 - 0.02)
    assert metrics.partial_auc_80(truth, score, weights) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(9))
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
    figures = metrics.predictive_values(0.9, 0.8, 0.05)
    assert figures == pytest.approx(
        {"ppv": 4.5 / 23.5, "npv": 76 / 76.5, "alerts_per_100": 23.5, "missed_per_100": 0.5}
    )


def test_a_shared_highest_probability_is_undecided_and_never_right():
    probabilities = np.zeros((3, 9))
    probabilities[:, :2] = [[0.5, 0.5], [0.6, 0.4], [0.4, 0.6]]
    prediction = likeliest(probabilities)
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
    """Truth, probabilities and weights: by the seed with ties, empty classes, one class, unequal weights."""
    rng = np.random.default_rng(seed)
    n, classes = rng.integers(3, 90), rng.integers(2, 10)
    occurring = rng.permutation(classes)[: 1 if seed % 5 == 0 else rng.integers(2, classes + 1)]
    truth = rng.choice(occurring, n)
    logits = rng.normal(size=(n, classes)) + rng.uniform(0, 4) * np.eye(classes)[truth]
    weights = rng.integers(0, 4, n) if seed % 3 == 0 else np.ones(n)
    weights[0] = 1
    return truth, special.softmax(logits.round() if seed % 2 == 0 else logits, axis=1), weights.astype(float)


def where_eighty_percent_are_caught(positive, score, weights):
    """The lowest false positive rate at which the ROC curve comes to a sensitivity of 0.8."""
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
    ours = metrics.balanced_accuracy(truth, likeliest(probabilities), weights)
    frames = [pd.DataFrame(table, columns=names) for table in (np.eye(len(names))[truth], probabilities)]
    yield "balanced_accuracy", ours, True, partial(scorer[1].balanced_multiclass_accuracy, *frames, pd.Series(weights))


def test_figures_equal_the_isic_scorers_and_stay_undefined_where_it_gives_one(scorer):
    table = {}
    for seed in range(60):
        for name, ours, defined, theirs in beside_the_oracle(scorer, *oracle_case(seed)):
            row = table.setdefault(name, {"cases": 0, "largest difference": 0.0, "undefined": 0})
            assert np.isnan(ours) == (not defined), (name, seed)
            if not defined:
                row["undefined"] += 1
                assert name not in ("sensitivity", "specificity", "ppv", "npv") or theirs() == 1
                continue
            row["cases"] += 1
            row["largest difference"] = max(row["largest difference"], abs(float(ours) - theirs()))
    assert min(row["cases"] for row in table.values()) >= 50
    assert max(row["largest difference"] for row in table.values()) < 1e-6


def test_calibration_error_of_two_bins_by_hand():
    # Two images at 0.9 of which one is right, two at 0.6 of which both are: (2 * 0.4 + 2 * 0.4) / 4.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert metrics.calibration_error(np.array([0, 1, 0, 0]), probabilities, np.ones(4)) == pytest.approx(0.4)
