import itertools
import sys

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from support.paths import REPOSITORY

from dermalert.evaluation import metrics, noninferiority

sys.path.insert(0, str(REPOSITORY / "benchmarks" / "evaluation"))
from gate import failure_rates


@pytest.mark.parametrize("seed", range(6))
def test_the_exact_p_is_that_of_all_swaps_by_lesion(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 8, 20)
    old, new = rng.random((2, 20)) < [[0.8], [0.6]]
    changes = np.bincount(groups, new.astype(int) - old.astype(int), minlength=8)
    sums = [np.dot(signs, changes) for signs in itertools.product([-1, 1], repeat=8)]
    assert noninferiority.p_of_lower_sensitivity(old, new, groups) == pytest.approx(
        np.mean(np.array(sums) <= changes.sum())
    )


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (0, 6), (2, 9), (7, 3)])
def test_of_single_photos_it_is_mcnemars_test_of_one_side(won, lost):
    old, new = np.ones(40, bool), np.ones(40, bool)
    old[:won], new[won : won + lost] = False, False
    expected = stats.binom.cdf(won, won + lost, 0.5)
    assert noninferiority.p_of_lower_sensitivity(old, new, np.arange(40)) == pytest.approx(expected)


@pytest.mark.parametrize(("lesions", "discordance"), [(50, 0.05), (100, 0.08), (200, 0.12)])
def test_the_power_is_that_of_drawn_losses(lesions, discordance):
    rng = np.random.default_rng(lesions)
    lost, won, _ = rng.multinomial(
        lesions, [(discordance + 0.05) / 2, (discordance - 0.05) / 2, 1 - discordance], size=20_000
    ).T
    power = (stats.binom.cdf(won, won + lost, 0.5) <= 0.05 / 3).mean()
    assert noninferiority.power_of_lower_sensitivity(lesions, discordance, 0.05 / 3) == pytest.approx(power, abs=0.012)


@pytest.mark.parametrize("seed", range(2))
def test_the_change_of_the_area_is_that_of_scikit_learn_and_its_error_that_of_the_bootstrap(seed):
    rng = np.random.default_rng(seed)
    positive = np.arange(300) < 80
    groups = np.arange(300) // 2
    shared = rng.normal(size=300) + 1.5 * positive
    old, new = (np.round(shared + 0.6 * rng.normal(size=300), 1) for _ in range(2))
    change, error, freedom = noninferiority.area_change(positive, old, new, groups)
    assert change == pytest.approx(roc_auc_score(positive, new) - roc_auc_score(positive, old))
    assert freedom == 39
    draws = []
    for _ in range(400):
        weights = np.repeat(np.bincount(rng.integers(0, 150, 150), minlength=150), 2).astype(float)
        draws.append(metrics.auroc(positive, new, weights) - metrics.auroc(positive, old, weights))
    assert error == pytest.approx(np.std(draws), rel=0.2)


def test_equal_answers_show_no_loss():
    positive, score = np.arange(100) < 40, np.linspace(1, 0, 100)
    change = noninferiority.area_change(positive, score, score, np.arange(100))
    assert noninferiority.p_of_lower_area(*change) == 1
    assert noninferiority.p_of_lower_sensitivity(positive, positive, np.arange(100)) == 1


@pytest.mark.integration
@pytest.mark.parametrize("melanomas", [50, 200])
def test_equal_releases_are_refused_in_one_of_twenty_at_most(melanomas):
    pairs = 100
    shares = failure_rates(melanomas, "equal", pairs, seed=1)
    assert shares["any"] <= 0.05 + 3 * (0.05 * 0.95 / pairs) ** 0.5


@pytest.mark.long
@pytest.mark.parametrize("melanomas", [50, 100, 200])
def test_equal_releases_are_refused_in_one_of_twenty_of_many_pairs(melanomas):
    assert failure_rates(melanomas, "equal", 1000, seed=2)["any"] <= 0.05


def test_photos_that_change_together_are_worth_one():
    old, new = np.ones(12, bool), np.arange(12) >= 6
    assert noninferiority.worth(old, new, np.arange(12)) == (12, 0.5)
    assert noninferiority.worth(old, new, np.arange(12) // 3) == (4, 0.5)
    assert noninferiority.worth(old, old, np.arange(12) // 3) == (4, 0.05)


@pytest.mark.integration
def test_a_loss_is_found_the_more_often_the_more_melanomas_there_are():
    few, many = (failure_rates(melanomas, "sensitivity", 100) for melanomas in (50, 200))
    assert few["sensitivity"] < many["sensitivity"]
    assert many["sensitivity"] > 0.5
