import numpy as np
import pytest

from dermalert.clinic import net_benefit, own_shortcuts, without_labels
from dermalert.evaluation.intervals import Intervals


def test_the_worth_of_an_alert_is_what_it_finds_less_the_needless_looks():
    positive = np.repeat([True, False], [10, 90])
    flagged = np.zeros(100, bool)
    flagged[:9] = flagged[10:28] = True  # nine of ten, and eighteen of the others
    worth = net_benefit.measure(positive, flagged, Intervals(np.arange(100)))
    assert worth.beats_none_from.value == pytest.approx(18 / 9)
    assert worth.beats_all_up_to.value == pytest.approx(72 / 1)
    at = {each.threshold: each for each in worth.at}[0.10]
    assert at.alert.value == pytest.approx(9 - 18 / 9)
    assert at.flag_all.value == pytest.approx(10 - 90 / 9)
    assert at.over_flag_all.low < at.over_flag_all.value < at.over_flag_all.high


def test_an_alert_that_misses_nothing_has_no_limit_up_to_which_it_beats_flagging_all():
    positive = np.repeat([True, False], 20)
    worth = net_benefit.measure(positive, positive.copy(), Intervals(np.arange(40)))
    assert worth.beats_all_up_to.value is None


def samples(rng, n, shift):
    logits = rng.normal(size=(n, 9)) + shift * np.eye(9)[0]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), np.arange(n).astype(str)


def test_images_of_one_source_are_not_told_apart_and_others_are():
    rng = np.random.default_rng(0)
    alike = without_labels.compare(samples(rng, 300, 0), samples(rng, 600, 0), "one")
    other = without_labels.compare(samples(rng, 300, 3), samples(rng, 600, 0), "another")
    assert alike.auroc.low < 0.5 < alike.auroc.high
    assert other.auroc.low > 0.9


def test_two_samples_are_told_apart_no_better_for_several_photos_a_lesion():
    rng = np.random.default_rng(1)
    (probabilities, groups), other = samples(rng, 30, 0), samples(rng, 200, 0)
    photos = (np.repeat(probabilities, 10, axis=0), np.repeat(groups, 10))
    assert without_labels.compare(photos, other, "one").auroc.low < 0.5


def test_too_few_lesions_are_not_compared():
    rng = np.random.default_rng(0)
    assert without_labels.compare(samples(rng, 19, 0), samples(rng, 100, 0), "one") is None


def test_a_shortcut_is_scored_on_lesions_that_it_has_not_learnt_from():
    rng = np.random.default_rng(0)
    positive, groups = np.tile([True, False], 60), np.repeat(np.arange(40), 3)
    positive = np.repeat(positive[:40], 3)
    folds = own_shortcuts.folds_of(positive, groups)
    by_lesion = np.repeat(rng.normal(size=(40, 50)), 3, axis=0)  # tells each lesion, and nothing of melanoma
    scores = own_shortcuts.cross_fitted(by_lesion, positive, folds)
    assert (scores[positive].mean() - scores[~positive].mean()) < scores.std()
    telling = positive[:, None] + 0.1 * rng.normal(size=(120, 1))
    scores = own_shortcuts.cross_fitted(telling, positive, folds)
    assert scores[positive].min() > scores[~positive].max()
