import numpy as np
import pytest
from scipy import stats

from dermalert.clinic.verdict import DOES_NOT_HOLD, HOLDS, UNDECIDED, decide, lesions_needed, outcome_of

PROMISED = 0.95


def outcomes(n):
    """The verdict for each number of missed lesions."""
    return np.array([outcome_of(n, missed, PROMISED) for missed in range(n + 1)])


@pytest.mark.parametrize("n", [1, 2, 3, 10, 40, 58, 59, 60, 92, 93, 150, 400])
def test_each_verdict_is_wrong_in_at_most_five_percent_of_clinics(n):
    missed, verdicts = np.arange(n + 1), outcomes(n)
    # The worst that a clinic can be without the promise, and with it.
    just_below = stats.binom.pmf(missed, n, 1 - PROMISED + 1e-9)
    just_kept = stats.binom.pmf(missed, n, 1 - PROMISED)
    assert just_below[verdicts == HOLDS].sum() <= 0.05
    assert just_kept[verdicts == DOES_NOT_HOLD].sum() <= 0.05


def test_simulated_clinics_are_judged_wrongly_in_at_most_five_percent():
    rng = np.random.default_rng(0)
    for n in (30, 80, 300):
        verdicts = outcomes(n)
        for sensitivity, wrong in ((0.949, HOLDS), (0.90, HOLDS), (0.95, DOES_NOT_HOLD), (0.99, DOES_NOT_HOLD)):
            drawn = verdicts[rng.binomial(n, 1 - sensitivity, 20_000)]
            assert (drawn == wrong).mean() <= 0.055  # 0.05, and three standard errors


def test_enough_lesions_show_a_promise_and_its_breach():
    assert decide(59, 0, PROMISED).outcome == HOLDS
    assert decide(58, 0, PROMISED).outcome == UNDECIDED
    assert decide(40, 10, PROMISED).outcome == DOES_NOT_HOLD


def test_the_verdict_names_the_lesions_and_what_would_show_the_promise():
    verdict = decide(40, 1, PROMISED)
    assert verdict.outcome == UNDECIDED
    assert verdict.evidence == (
        "39 of 40 melanomas flagged (n = 40): at least 0.886. 59 without a miss, or 93 with one, would show 0.95."
    )
    assert verdict.more == 53


def test_without_lesions_nothing_can_be_told():
    assert decide(0, 0, PROMISED).outcome == UNDECIDED


@pytest.mark.parametrize(("missed", "needed"), [(0, 59), (1, 93), (2, 124)])
def test_the_fewest_lesions_that_show_a_promise(missed, needed):
    assert lesions_needed(PROMISED, missed) == needed
    assert decide(needed, missed, PROMISED).outcome == HOLDS
    assert decide(needed - 1, missed, PROMISED).outcome == UNDECIDED
