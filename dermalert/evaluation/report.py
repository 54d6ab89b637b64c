"""The figures of one split, typed; `to_json` gives them as `metrics.json` has them."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from dermalert_space.contract import Json
from dermalert_space.estimate import UNDEFINED, Estimate
from dermalert_space.prediction import likeliest

from dermalert.evaluation import metrics
from dermalert.evaluation.intervals import Intervals
from dermalert.evaluation.prediction_sets import SetReport
from dermalert.evaluation.stress_test import ArtefactReport
from dermalert.evaluation.subgroups import NotMeasured, Subgroups, SubgroupSensitivity
from dermalert.taxonomy import DIAGNOSES, MALIGNANT, MELANOMA, PRECURSOR

_MALIGNANT = [label for label, name in enumerate(DIAGNOSES) if name in MALIGNANT or name == PRECURSOR]
_NEVUS = DIAGNOSES.index("nevus")
_BENIGN_KERATOSES = [DIAGNOSES.index("pigmented benign keratosis"), DIAGNOSES.index("seborrheic keratosis")]
_FEWEST_MISSED = 3  # groups of melanomas below the threshold of a specificity that gets an interval
_REFERENCES = ("0.866", "0.90", "0.95")  # sensitivities: 58 dermatologists (Haenssle 2018), and two usual targets
_PREVALENCES = ("0.01", "0.05", "0.20")  # of melanoma: guesses, from primary care to a clinic that others refer to


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lesions:
    """Groups of images of a diagnosis; a lesion is found if each of its photos is flagged."""

    n: int
    sensitivity: Estimate
    sensitivity_as_served: Estimate


class OperatingPoint(NamedTuple):
    """Sensitivity and specificity at a threshold; as served, no image is flagged on which the release abstains."""

    sensitivity: Estimate
    sensitivity_as_served: Estimate
    specificity: Estimate
    specificity_as_served: Estimate
    lesions: Lesions


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceReport:
    """Melanoma among the images of one source: `n` melanomas, and the others."""

    n: int
    others: int
    auroc: Estimate
    sensitivity: Estimate
    sensitivity_as_served: Estimate
    specificity: Estimate
    specificity_as_served: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class MelanomaReport:
    """Melanoma against the rest, at the threshold of the alert where there is one."""

    n: int
    auroc: Estimate
    auroc_nevi: Estimate
    partial_auc_80: Estimate
    average_precision: Estimate
    sensitivity: Estimate
    specificity: Estimate
    specificity_as_served: Estimate
    specificity_nevi: Estimate
    sensitivity_refusals_missed: Estimate
    lesions: Lesions
    refused: Estimate
    predictive_values: dict[str, dict[str, Estimate]]
    """By prevalence."""
    specificity_at_sensitivity: dict[str, Estimate]
    specificity_nevi_at_sensitivity: dict[str, Estimate]
    by_source: dict[str, SourceReport]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MalignantReport(SourceReport):
    """Malignant or precursor against the rest, at the threshold of attention where there is one."""

    lesions: Lesions


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassReport:
    """One diagnosis against the rest; sensitivity and specificity of the likeliest diagnosis."""

    n: int
    sensitivity: Estimate
    specificity: Estimate
    auroc: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class MelanomaCalibration:
    """How well the melanoma probability fits, see `Intervals.of_logistic`; `melanomas` of `n` images."""

    n: int
    melanomas: int
    observed_over_expected: Estimate
    slope: Estimate
    intercept: Estimate
    by_source: "dict[str, MelanomaCalibration] | None" = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Report:
    def to_json(self) -> Json:
        """The content of `metrics.json`; what was not measured is not in it."""
        return dataclasses.asdict(self, dict_factory=_without_unmeasured)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationReport(_Report):
    """How far the probabilities can be taken at their word."""

    ece: Estimate
    brier: Estimate
    nll: Estimate
    melanoma: MelanomaCalibration
    before: "CalibrationReport | None" = None
    """The same without the calibration."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """An image with a melanoma probability on the wrong side."""

    image_id: str
    truth: str
    score: float
    alert: bool | None
    refused: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failures:
    """The melanomas with the lowest scores and the other images with the highest, the worst first."""

    lowest_melanomas: list[Failure]
    highest_others: list[Failure]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitReport(_Report):
    """All figures of one split, each with a 95% interval."""

    n: int
    groups: int
    accuracy: Estimate
    balanced_accuracy: Estimate
    balanced_accuracy_benign_keratosis_merged: Estimate
    macro_auroc: Estimate
    melanoma: MelanomaReport
    malignant: MalignantReport
    per_class: dict[str, ClassReport]
    calibration: CalibrationReport
    confusion: list[list[int]]
    """Counts of images, truth down, prediction across."""
    balanced_accuracy_equal_priors: Estimate | None = None
    """Of the likeliest diagnosis if all were equally common, which is what balanced accuracy asks for."""
    subgroups: dict[str, Subgroups | NotMeasured] | None = None
    subgroup_sensitivity: SubgroupSensitivity | None = None
    failures: Failures | None = None
    artefacts: dict[str, ArtefactReport] | None = None
    prediction_sets: SetReport | None = None


_OPTIONAL = {"before", "by_source"} | {field.name for field in dataclasses.fields(SplitReport) if field.default is None}


def _without_unmeasured(pairs: list[tuple[str, object]]) -> dict[str, object]:
    return {name: value for name, value in pairs if value is not None or name not in _OPTIONAL}


def report(
    truth: np.ndarray,
    probabilities: np.ndarray,
    groups: np.ndarray,
    *,
    alert: np.ndarray | None,
    sources: Sequence[str | None] | None = None,
    abstained: np.ndarray | None = None,
    prior: np.ndarray | None = None,
    attention: np.ndarray | None = None,
) -> SplitReport:
    """Measure one split.

    What is "as served" takes an image on which the release abstains to raise no alert, whatever its probability. A
    lesion is what a group holds of a diagnosis.

    Args:
        truth: (n,) label ids.
        probabilities: (n, 9) calibrated probabilities.
        groups: (n,) the group of each image.
        alert: (n,) which images raise the melanoma alert; None where the release has no threshold.
        sources: (n,) where each image was made; None for no figures by source.
        abstained: (n,) on which images the release abstains; None where it never does.
        prior: (9,) the mix of diagnoses that the probabilities hold for; None for no balanced accuracy at equal priors.
        attention: (n,) which images reach the operating point of what is malignant or a precursor, by the sum of those
            probabilities; None where the release has none.
    """
    intervals = Intervals(groups)
    prediction = likeliest(probabilities)
    balanced = functools.partial(_balanced_accuracy, intervals)
    melanoma = _Task(truth == MELANOMA, probabilities[:, MELANOMA], alert, abstained, intervals)
    return SplitReport(
        n=len(truth),
        groups=intervals.groups,
        accuracy=intervals.of_proportion(prediction == truth, np.ones(len(truth), bool)),
        balanced_accuracy=balanced(truth, prediction),
        balanced_accuracy_benign_keratosis_merged=balanced(_merged(truth), _merged(prediction)),
        macro_auroc=intervals.of(lambda w: metrics.macro_auroc(truth, probabilities, w)),
        melanoma=_melanoma(melanoma, truth == _NEVUS, _source_names(sources)),
        malignant=_malignant(truth, probabilities, attention, abstained, intervals),
        per_class=_per_class(truth, prediction, probabilities, intervals),
        calibration=calibration(truth, probabilities, intervals, sources),
        confusion=metrics.confusion(truth, prediction).tolist(),
        balanced_accuracy_equal_priors=None if prior is None else balanced(truth, likeliest(probabilities / prior)),
    )


def _merged(labels: np.ndarray) -> np.ndarray:
    """The labels with both benign keratoses as one."""
    return np.where(np.isin(labels, _BENIGN_KERATOSES), _BENIGN_KERATOSES[0], labels)


def _balanced_accuracy(intervals: Intervals, truth: np.ndarray, prediction: np.ndarray) -> Estimate:
    return intervals.of(lambda w: metrics.balanced_accuracy(truth, prediction, w))


def calibration(
    truth: np.ndarray,
    probabilities: np.ndarray,
    intervals: Intervals,
    sources: Sequence[str | None] | None = None,
    *,
    before: CalibrationReport | None = None,
) -> CalibrationReport:
    """Measure how far probabilities (n, 9) can be taken at their word, for melanoma also by source (n,)."""
    melanoma, score, named = truth == MELANOMA, probabilities[:, MELANOMA], _source_names(sources)

    def fit(rows: np.ndarray, intervals: Intervals) -> MelanomaCalibration:
        logistic = intervals.of_logistic(melanoma[rows], score[rows])
        return MelanomaCalibration(n=int(rows.sum()), melanomas=int(melanoma[rows].sum()), **logistic._asdict())

    by_source = {str(name): fit(named == name, intervals.among(named == name)) for name in np.unique(named)}
    return CalibrationReport(
        ece=intervals.of_calibration_error(truth, probabilities),
        brier=intervals.of(lambda w: metrics.brier(truth, probabilities, w)),
        nll=intervals.of(lambda w: metrics.negative_log_likelihood(truth, probabilities, w)),
        melanoma=dataclasses.replace(fit(np.ones(len(truth), bool), intervals), by_source=by_source),
        before=before,
    )


def _source_names(sources: Sequence[str | None] | None) -> np.ndarray:
    return np.array([] if sources is None else [source or "not known" for source in sources], str)


class _Task(NamedTuple):
    """One diagnosis, or several, against the rest: truth, score, and what a release does at its threshold."""

    positive: np.ndarray
    score: np.ndarray
    flagged: np.ndarray | None
    abstained: np.ndarray | None
    intervals: Intervals

    def auroc(self, among: np.ndarray) -> Estimate:
        return self.intervals.of_area(metrics.auroc, self.positive, self.score, among=among)

    def at_point(self, among: np.ndarray) -> OperatingPoint:
        """The operating point; all is undefined where there is none (`flagged` is None): a share among no images."""
        ups, downs, flagged, intervals = self.positive & among, ~self.positive & among, self.flagged, self.intervals
        lesions = intervals.groups_of(ups)
        if flagged is None:
            flagged = ups = downs = np.zeros(len(among), bool)
        served = flagged if self.abstained is None else flagged & ~self.abstained
        return OperatingPoint(
            sensitivity=intervals.of_proportion(flagged, ups),
            sensitivity_as_served=intervals.of_proportion(served, ups),
            specificity=intervals.of_proportion(~flagged, downs),
            specificity_as_served=intervals.of_proportion(~served, downs),
            lesions=Lesions(
                n=lesions,
                sensitivity=intervals.of_lesions(flagged, ups),
                sensitivity_as_served=intervals.of_lesions(served, ups),
            ),
        )

    def share_abstained(self) -> Estimate:
        """The share of the positives on which the release abstains: 0 where it never does."""
        if self.abstained is None:
            return Estimate(0.0) if self.positive.any() else UNDEFINED
        return self.intervals.of_proportion(self.abstained, self.positive)

    def specificity_at(self, sensitivity: float, among: np.ndarray) -> Estimate:
        """The specificity at a sensitivity, over the images where `among` (n,) is true.

        There is no interval where fewer than three groups of positives may be missed: the threshold is then that of one
        of the very lowest scores, and the bootstrap covers the truth too seldom (67% at 0.95 with 16 melanomas).
        """
        estimate = self.intervals.of(
            lambda w: metrics.specificity_at_sensitivity(self.positive, self.score, w * among, sensitivity)
        )
        # The margin is for rounding: of 30 groups 3 may be missed at 0.90.
        missed = (1 - sensitivity) * self.intervals.groups_of(self.positive & among)
        return Estimate(estimate.value) if missed < _FEWEST_MISSED - 1e-12 else estimate


def _against_the_rest(task: _Task, among: np.ndarray) -> Json:
    counts = {"n": int((task.positive & among).sum()), "others": int((~task.positive & among).sum())}
    return counts | {"auroc": task.auroc(among)} | task.at_point(among)._asdict()


def _one_source(task: _Task, among: np.ndarray) -> SourceReport:
    figures = _against_the_rest(task, among)
    del figures["lesions"]
    return SourceReport(**figures)


def _malignant(
    truth: np.ndarray,
    probabilities: np.ndarray,
    attention: np.ndarray | None,
    abstained: np.ndarray | None,
    intervals: Intervals,
) -> MalignantReport:
    score = probabilities[:, _MALIGNANT].astype(np.float64).sum(1)
    task = _Task(np.isin(truth, _MALIGNANT), score, attention, abstained, intervals)
    return MalignantReport(**_against_the_rest(task, np.ones(len(truth), bool)))


def _melanoma(task: _Task, nevus: np.ndarray, sources: np.ndarray) -> MelanomaReport:
    everywhere, among_nevi = np.ones(len(nevus), bool), task.positive | nevus
    point = task.at_point(everywhere)
    return MelanomaReport(
        n=int(task.positive.sum()),
        auroc=task.auroc(everywhere),
        auroc_nevi=task.auroc(among_nevi),
        partial_auc_80=task.intervals.of_area(metrics.partial_auc_80, task.positive, task.score, full=0.2),
        average_precision=task.intervals.of_area(metrics.average_precision, task.positive, task.score),
        sensitivity=point.sensitivity,
        specificity=point.specificity,
        specificity_as_served=point.specificity_as_served,
        specificity_nevi=task.at_point(nevus).specificity,
        sensitivity_refusals_missed=point.sensitivity_as_served,
        lesions=point.lesions,
        refused=task.share_abstained(),
        predictive_values=at_prevalences(point.sensitivity_as_served, point.specificity_as_served),
        specificity_at_sensitivity={name: task.specificity_at(float(name), everywhere) for name in _REFERENCES},
        specificity_nevi_at_sensitivity={name: task.specificity_at(float(name), among_nevi) for name in _REFERENCES},
        by_source={str(source): _one_source(task, sources == source) for source in np.unique(sources)},
    )


def at_prevalences(sensitivity: Estimate, specificity: Estimate) -> dict[str, dict[str, Estimate]]:
    """Measure `at_prevalence` at each usual prevalence."""
    return {prevalence: at_prevalence(sensitivity, specificity, float(prevalence)) for prevalence in _PREVALENCES}


def at_prevalence(sensitivity: Estimate, specificity: Estimate, prevalence: float) -> dict[str, Estimate]:
    """Measure `metrics.predictive_values` at a prevalence.

    Each interval spans what the four pairs of their limits give: about a fifth wider than the bootstrap's, which covers
    the truth too seldom, and hardly ever where few are missed (a share of 1 is the same in every draw).
    """
    # The value, then the four corners; None becomes NaN.
    pairs = (
        np.array([sensitivity.value, *[sensitivity.low] * 2, *[sensitivity.high] * 2], float),
        np.array([specificity.value, *[specificity.low, specificity.high] * 2], float),
    )
    return {
        name: Estimate.of(v[0], v[1:].min(), v[1:].max())
        for name, v in metrics.predictive_values(*pairs, prevalence).items()
    }


def _per_class(
    truth: np.ndarray, prediction: np.ndarray, probabilities: np.ndarray, intervals: Intervals
) -> dict[str, ClassReport]:
    def one_class(truth: np.ndarray, prediction: np.ndarray, score: np.ndarray) -> ClassReport:
        return ClassReport(
            n=int(truth.sum()),
            sensitivity=intervals.of_proportion(prediction, truth),
            specificity=intervals.of_proportion(~prediction, ~truth),
            auroc=intervals.of_area(metrics.auroc, truth, score),
        )

    classes = enumerate(DIAGNOSES)
    return {name: one_class(truth == i, prediction == i, probabilities[:, i]) for i, name in classes}
