import numpy as np
import pytest
from scipy import special

from dermalert.clinic import adaptation
from dermalert.clinic.adaptation import Change
from dermalert.evaluation import operating_points

MELANOMA = 3


def clinic(rng, lesions, *, shift=0.0, photos=1, sharpness=1.0):
    """Probabilities of melanoma and the rest, lesions that show it as often as they say but for a shift in log-odds."""
    score = rng.normal(-1, 1.5, lesions)
    positive = rng.random(lesions) < special.expit(score * sharpness + shift)
    logits = np.zeros((lesions, 9))
    logits[:, MELANOMA] = score + np.log(8)
    probabilities = special.softmax(logits, axis=1)
    rows = np.repeat(np.arange(lesions), photos)
    return probabilities[rows], positive[rows], rows, np.zeros(len(rows), bool)


def test_an_intercept_moves_the_log_odds_and_the_threshold_alike():
    probabilities, *_ = clinic(np.random.default_rng(0), 200)
    change = Change(intercept=-1.3)
    odds = special.logit(change.of(probabilities)[:, MELANOMA]) - special.logit(probabilities[:, MELANOMA])
    assert odds == pytest.approx(np.full(200, -1.3))
    before = probabilities[:, MELANOMA] >= 0.1
    assert (before == (change.of(probabilities)[:, MELANOMA] >= change.moved(0.1))).all()


def test_another_mix_gives_an_intercept_and_the_same_mix_none():
    rng = np.random.default_rng(0)
    other = adaptation.adapt(*clinic(rng, 400, shift=-1.5))
    assert other.change.intercept == pytest.approx(-1.5, abs=0.4)
    assert other.after.intercept.low < 0 < other.after.intercept.high
    assert other.gain.value > 0
    same = adaptation.adapt(*clinic(rng, 300))
    assert same.change == Change()


def test_with_few_melanomas_nothing_changes_and_the_threshold_is_kept():
    few = adaptation.adapt(*clinic(np.random.default_rng(0), 20, shift=-2))
    assert not few.changes_anything
    assert "The old threshold is kept: a new one takes 59 melanoma lesions" in few.sentences[-1]


def test_a_new_threshold_meets_the_exact_bound_on_the_lesions():
    probabilities, positive, groups, abstained = clinic(np.random.default_rng(0), 400, photos=2)
    point = adaptation.adapt(probabilities, positive, groups, abstained).point
    caught = probabilities[:, MELANOMA] >= point["threshold"]
    lesions = len(np.unique(groups[positive]))
    missed = len(np.unique(groups[positive & ~caught]))
    assert (point["lesions"], point["missed"]) == (lesions, missed)
    assert operating_points.lower_bound(lesions, missed) >= 0.95


def test_melanomas_that_cannot_be_assessed_keep_the_old_threshold():
    probabilities, positive, groups, abstained = clinic(np.random.default_rng(0), 400)
    abstained[np.flatnonzero(positive)[:20]] = True
    kept = adaptation.adapt(probabilities, positive, groups, abstained)
    assert kept.point is None
    assert "The old threshold is kept: with 20 of" in kept.sentences[-1]


def test_a_temperature_comes_with_a_threshold_from_other_lesions():
    rng = np.random.default_rng(0)
    probabilities, positive, groups, abstained = clinic(rng, 1000, sharpness=0.3)
    adapted = adaptation.adapt(probabilities, positive, groups, abstained)
    assert adapted.change.temperature > 1.5
    assert adapted.point["lesions"] <= len(np.unique(groups[positive])) // 2 + 1
    assert adapted.point["bound_met"]


def test_no_image_is_judged_by_what_it_set(monkeypatch):
    probabilities, positive, groups, _ = clinic(np.random.default_rng(0), 100, photos=3)
    learnt = []
    monkeypatch.setattr(adaptation, "fit", lambda *given, **_: learnt.append(given[2]) or Change())
    adaptation.cross_fitted(probabilities, positive, groups, temperature=False)
    assert len(learnt) == 5
    for each in np.unique(groups):
        assert sum(each not in fold for fold in learnt) == 1
