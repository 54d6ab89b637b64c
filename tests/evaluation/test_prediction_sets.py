import json
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from dermalert_space.prediction_sets import PredictionSets
from dermalert_space.release import Release
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin
from support.releases import make_release, measured_release

from dermalert.data import contamination
from dermalert.errors import UsageError
from dermalert.evaluation import operating_points, prediction_sets
from dermalert.evaluation.intervals import Intervals
from dermalert.evaluation.predict import SplitPredictions
from dermalert.taxonomy import DIAGNOSES

MELANOMA = DIAGNOSES.index("melanoma")


def simulated(n: int, seed: int, share: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The labels of n lesions and probabilities that know something of them."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(9, n, p=share)
    logits = rng.normal(size=(n, 9)) + 2 * np.eye(9)[truth]
    return truth, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def fit(truth, probabilities, lesions=None, **settings) -> PredictionSets:
    lesions = np.arange(len(truth)) if lesions is None else np.asarray(lesions)
    return prediction_sets.fit_arrays(np.asarray(truth), probabilities, lesions, split="calibration", **settings)


def of_melanomas(values) -> np.ndarray:
    probabilities = np.zeros((len(values), 9))
    probabilities[:, MELANOMA] = values
    return probabilities


def predictions(truth, probabilities, lesions=None, abstained=None, sets=None) -> SplitPredictions:
    groups = [str(i) for i in (range(len(truth)) if lesions is None else lesions)]
    dataset = Dataset.from_dict({"label": truth.tolist(), "group": groups})
    return SplitPredictions(dataset=dataset, probabilities=probabilities, alert=None, abstained=abstained, sets=sets)


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose probabilities are its inputs."""

    classes_ = np.arange(9)

    def fit(self, X, y):  # noqa: ARG002 - the signature is scikit-learn's
        return self

    def predict_proba(self, X):
        return X

    def predict(self, X):
        return X.argmax(1)

    def __sklearn_is_fitted__(self):
        return True


@pytest.mark.filterwarnings("ignore:WARNING. your conformalization dataset has less labels")
def test_the_sets_are_those_of_mapie_for_each_diagnosis():
    truth, probabilities = simulated(600, 0)
    _, new = simulated(400, 1)
    members = fit(truth, probabilities).members(new, DIAGNOSES)
    for label in range(9):
        of_it = truth == label
        reference = SplitConformalClassifier(Given(), confidence_level=0.9, conformity_score="lac", prefit=True)
        _, sets = reference.conformalize(probabilities[of_it], truth[of_it]).predict_set(new)
        assert 0 < members[:, label].mean() < 1
        assert np.mean(sets[:, label, 0] != members[:, label]) <= 0.01  # what the hair of rounding adds


def test_of_nineteen_lesions_one_less_than_two_may_be_left_out():
    values = np.linspace(0.1, 0.9, 19)
    threshold = fit(np.full(19, MELANOMA), of_melanomas(values)).thresholds["melanoma"]
    assert values[0] < threshold < values[1] and threshold == pytest.approx(values[1], rel=1e-3)


def test_eight_lesions_promise_nothing_and_are_in_no_set():
    for lesions, is_promise in ((8, False), (9, True)):
        sets = fit(np.full(lesions, MELANOMA), of_melanomas(np.linspace(0.1, 0.9, lesions)))
        assert (sets.thresholds["melanoma"] is not None) == is_promise == ("melanoma" not in sets.without_promise)
        assert ("melanoma" in sets.of({"melanoma": 1.0, "nevus": 0.0})) == is_promise
    assert sets.lesions_needed == 9 and sets.lesions["melanoma"] == 9


def test_a_lesion_counts_once_with_its_lowest_photo():
    values = [*np.linspace(0.5, 0.9, 9), 0.2]
    sets = fit(np.full(10, MELANOMA), of_melanomas(values), [*range(9), 8])
    assert sets.lesions["melanoma"] == 9
    assert sets.thresholds["melanoma"] == pytest.approx(0.2, rel=1e-3)


def test_images_without_an_assessment_set_no_threshold():
    values = [*np.linspace(0.5, 0.9, 9), 0.2]
    sets = fit(np.full(10, MELANOMA), of_melanomas(values), abstained=np.arange(10) == 9)
    assert sets.thresholds["melanoma"] == pytest.approx(0.5, rel=1e-3)


def test_each_diagnosis_is_covered_as_it_is_promised_however_rare():
    share = np.array([0.3, 0.2, 0.02, 0.05, 0.3, 0.05, 0.03, 0.02, 0.03])
    coverage = []
    for seed in range(60):
        truth, probabilities = simulated(1000, seed, share)
        members = fit(truth, probabilities).members((new := simulated(2000, 1000 + seed))[1], DIAGNOSES)
        coverage.append([members[new[0] == label, label].mean() for label in range(9)])
    mean = np.mean(coverage, 0)
    assert (mean > 0.89).all() and (mean < 0.97).all()


def test_coverage_counts_what_is_assessed_and_promised():
    truth = np.array([MELANOMA, MELANOMA, MELANOMA, DIAGNOSES.index("nevus"), MELANOMA])
    sets = PredictionSets(
        alpha=0.1,
        split="calibration",
        thresholds={name: 0.5 if name == "melanoma" else None for name in DIAGNOSES},
        lesions={name: 9 if name == "melanoma" else 2 for name in DIAGNOSES},
    )
    given = predictions(truth, of_melanomas([0.9, 0.1, 0.8, 0.0, 0.1]), [0, 0, 1, 2, 3], np.arange(5) == 4, sets)
    report = prediction_sets.measure(given, Intervals(np.array([0, 0, 1, 2, 3])))
    assert (report.n, report.without_promise) == (4, 1)
    assert report.coverage.value == pytest.approx(2 / 3)
    assert (report.single.value, report.empty.value, report.size.value) == (0.5, 0.5, 0.5)
    of_melanoma = report.per_class["melanoma"]
    assert (of_melanoma.n, of_melanoma.lesions, of_melanoma.coverage_lesions.value) == (3, 2, 0.5)
    assert list(report.per_class) == ["melanoma"]
    text = " ".join(prediction_sets.remarks(report, sets))
    assert "of 3 images" in text and "nevus (2 lesions)" in text and "9 lesions are needed" in text


@pytest.mark.integration
def test_training_writes_them_into_the_config_of_its_release(tmp_path):
    folder = make_release(tmp_path / "release")
    truth, probabilities = simulated(300, 0)
    release = operating_points.add(folder, Release.load(folder), predictions(truth, probabilities))
    assert release.prediction_sets == fit(truth, probabilities, [str(i) for i in range(300)])
    assert json.loads((folder / "config.json").read_text())["prediction_sets"]["lesions_needed"] == 9


@pytest.mark.integration
def test_an_older_release_has_them_by_its_held_out_images_but_not_of_them(tmp_path):
    release = Release.load(measured_release(tmp_path / "release"))
    sets, used = prediction_sets.of_release(release)
    assert sets.split == "held_out" and sum(sets.lesions.values()) > 0
    hashes = SimpleNamespace(**{name: contamination.hash_name(name) for name in ("here", "there")})
    prediction_sets.check_unused(release, used, ["here"])
    with pytest.raises(UsageError, match="1 of these images are among those: leave out --prediction-sets"):
        prediction_sets.check_unused(release, frozenset({hashes.there}), ["here", "there"])


@pytest.mark.integration
def test_a_release_without_predictions_has_none(tmp_path):
    with pytest.raises(UsageError, match=r"has no prediction sets, nor evaluation/predictions\.parquet"):
        prediction_sets.of_release(Release.load(make_release(tmp_path)))
