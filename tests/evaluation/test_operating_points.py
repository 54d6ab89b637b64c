import json

import numpy as np
import pytest
from datasets import Dataset
from dermalert_space.release import Release
from scipy import stats
from support.releases import LABELS, make_image, make_release

from dermalert.evaluation import operating_points
from dermalert.release import fit_abstention


def point(scores, lesions=None, abstained=None):
    scores = np.asarray(scores, float)
    lesions = np.arange(len(scores)) if lesions is None else np.asarray(lesions)
    abstained = np.zeros(len(scores), bool) if abstained is None else abstained
    return operating_points.operating_point(scores, lesions, abstained)


@pytest.mark.parametrize(
    ("lesions", "missed", "bound_met"), [(58, 0, False), (59, 0, True), (92, 0, True), (93, 1, True), (124, 2, True)]
)
def test_as_many_lesions_may_be_missed_as_the_exact_bound_allows(lesions, missed, bound_met):
    scores = np.linspace(0.1, 0.9, lesions)
    chosen = point(scores)
    assert (chosen["missed"], chosen["bound_met"], chosen["lesions"]) == (missed, bound_met, lesions)
    assert (scores < chosen["threshold"]).sum() == missed
    assert chosen["lesions_needed"] == 59
    assert (chosen["lower_bound"] >= 0.95) == bound_met
    assert chosen["raw"] == {key: chosen[key] for key in ("missed", "lower_bound", "bound_met")}


def test_a_lesion_counts_once_with_its_lowest_photo():
    chosen = point([0.9, 0.3, 0.8], ["a", "a", "b"])
    assert chosen["lesions"] == 2
    assert 0.3 > chosen["threshold"] == pytest.approx(0.3, rel=1e-3)


def test_tied_scores_are_never_counted_as_missed():
    assert point(np.full(100, 0.25))["missed"] == 0


def test_without_a_lesion_there_is_no_threshold():
    chosen = point([])
    assert (chosen["threshold"], chosen["lesions"], chosen["missed"], chosen["bound_met"]) == (None, 0, None, False)


def test_a_score_of_nothing_still_gives_a_threshold_that_can_be_served():
    chosen = point([0.0, *np.linspace(0.5, 0.9, 58)])
    assert 0 < chosen["threshold"] < 1e-30
    assert (chosen["missed"], chosen["bound_met"]) == (1, False)  # 58 of 59 do not show 0.95


@pytest.mark.parametrize(("lesions", "abstained"), [(59, 0), (93, 1), (169, 2), (169, 3), (169, 9), (60, 1), (400, 5)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_larger_threshold_keeps_the_bound_as_served(lesions, abstained, seed):
    rng = np.random.default_rng(seed)
    scores = rng.random(lesions)
    without = np.zeros(lesions, bool)
    without[rng.choice(lesions, abstained, replace=False)] = True
    chosen = point(scores, abstained=without)

    def bound(threshold):
        missed = ((scores < threshold) | without).sum()
        return stats.beta.ppf(0.05, lesions - missed, missed + 1) if missed < lesions else 0

    assert chosen["missed"] == ((scores < chosen["threshold"]) | without).sum()
    assert chosen["lower_bound"] == pytest.approx(bound(chosen["threshold"]))
    assert chosen["bound_met"] == (bound(0) >= 0.95)
    assert chosen["abstained"] == abstained
    assert chosen["raw"]["missed"] == (scores < chosen["threshold"]).sum()
    higher = scores[scores > chosen["threshold"] * 1.001]
    assert all(bound(score * 1.0001) < 0.95 for score in higher)


def test_three_melanomas_abstained_on_lower_the_threshold_that_three_low_ones_set():
    scores = np.linspace(0.01, 0.99, 169)
    without = np.arange(169) >= 166  # the highest three
    raw, as_served = point(scores), point(scores, abstained=without)
    assert (raw["missed"], as_served["missed"], as_served["abstained"]) == (3, 3, 3)
    assert as_served["threshold"] < raw["threshold"]
    assert as_served["raw"]["missed"] == 0


def test_a_lesion_is_missed_if_any_of_its_photos_is_abstained_on():
    scores, lesions = np.full(120, 0.5), np.repeat(np.arange(60), 2)
    chosen = point(scores, lesions, np.arange(120) == 7)
    assert (chosen["missed"], chosen["abstained"], chosen["bound_met"]) == (1, 1, False)


def test_where_all_are_abstained_on_there_is_a_threshold_and_no_promise():
    chosen = point(np.linspace(0.2, 0.9, 80), abstained=np.ones(80, bool))
    assert chosen["threshold"] == pytest.approx(0.2, rel=1e-3)
    assert (chosen["missed"], chosen["lower_bound"], chosen["bound_met"]) == (80, 0.0, False)
    assert chosen["raw"]["bound_met"]


def test_the_points_of_a_release_are_those_of_what_it_serves(tmp_path):
    folder = make_release(tmp_path / "release", groups=True)
    images = [make_image(seed=seed) for seed in range(180)]
    calibration = Dataset.from_dict(
        {"image": images, "label": [seed % 9 for seed in range(180)], "group": [str(seed // 2) for seed in range(180)]}
    )
    release, predictions = fit_abstention.add(folder, Release.load(folder), calibration, calibration)
    release = operating_points.add(folder, release, predictions)
    config = json.loads((folder / "config.json").read_text())
    answers = release.predict_arrays(images)
    abstained = np.array([reason is not None for reason in answers.abstained])
    assert np.array_equal(predictions.probabilities, answers.probabilities)
    assert np.array_equal(predictions.abstained, abstained)
    truth = np.array(calibration["label"])
    for name, labels in (("alert", ["melanoma"]), ("attention", config["attention"]["labels"])):
        columns = [LABELS.index(label) for label in labels]
        positive = np.isin(truth, columns)
        flagged = answers.probabilities[:, columns].sum(1) >= config[name]["threshold"]
        served = [
            all((flagged & ~abstained)[i] for i in np.flatnonzero(positive) if i // 2 == lesion)
            for lesion in sorted({i // 2 for i in np.flatnonzero(positive)})
        ]
        assert config[name]["lesions"] == len(served)
        assert config[name]["missed"] == served.count(False)
    carcinomas = ["basal cell carcinoma", "melanoma", "squamous cell carcinoma"]
    assert config["attention"]["labels"] == ["actinic keratosis", *carcinomas]
    assert release.threshold == config["alert"]["threshold"]
    attention = answers.probabilities[:, columns].astype(float).sum(1) >= config["attention"]["threshold"]
    assert np.array_equal(release.attentions(answers.probabilities), attention)
