"""Prediction sets of a release: their thresholds, and how often the sets hold the right diagnosis."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from dermalert_space.contract import ABSTAINED, PREDICTIONS
from dermalert_space.estimate import Estimate, format_estimate
from dermalert_space.prediction_sets import PredictionSets
from dermalert_space.release import Release
from dermalert_space.release_loading import NoRelease

from dermalert.data import contamination
from dermalert.errors import UsageError
from dermalert.evaluation.intervals import Intervals
from dermalert.evaluation.predict import SplitPredictions
from dermalert.formatting import percent
from dermalert.taxonomy import DIAGNOSES

ALPHA = 0.1
"""The share of lesions of each diagnosis that may have a photo whose set lacks it."""

_ROUNDING = 1e-4  # of a threshold, so that rounding in another batch costs no lesion that set it


def fit(calibration: SplitPredictions, *, alpha: float = ALPHA) -> PredictionSets:
    """The sets by the calibration split; images on which the release abstains have none, and set none."""
    truth, lesions = (np.array(calibration.dataset[column]) for column in ("label", "group"))
    return fit_arrays(
        truth, calibration.probabilities, lesions, abstained=calibration.abstains, alpha=alpha, split="calibration"
    )


def fit_arrays(
    truth: np.ndarray,
    probabilities: np.ndarray,
    lesions: np.ndarray,
    *,
    abstained: np.ndarray | None = None,
    alpha: float = ALPHA,
    split: str,
) -> PredictionSets:
    """The sets by labels (n,), probabilities (n, 9) and lesions (n,) of a split.

    Each lesion counts once, with the lowest probability among its photos: so the promise is of all photos of a lesion.
    Of n lesions and one more like them, at most floor(alpha (n + 1)) are below the threshold.
    """
    assessed = np.ones(len(truth), bool) if abstained is None else ~abstained
    thresholds, counts = dict[str, float | None](), dict[str, int]()
    for label, name in enumerate(DIAGNOSES):
        rows = assessed & (truth == label)
        _, lesion = np.unique(lesions[rows], return_inverse=True)
        lowest = np.full(lesion.max(initial=-1) + 1, np.inf)
        np.minimum.at(lowest, lesion, probabilities[rows, label].astype(np.float64))
        thresholds[name], counts[name] = _threshold(lowest, alpha), len(lowest)
    return PredictionSets(alpha=alpha, split=split, thresholds=thresholds, lesions=counts)


def _threshold(lowest: np.ndarray, alpha: float) -> float | None:
    """The threshold for lesions (n,); None where they are too few to leave one out."""
    rank = int(alpha * (len(lowest) + 1) + 1e-9)
    if rank < 1:
        return None
    return max(float(np.sort(lowest)[rank - 1]) * (1 - _ROUNDING), float(np.finfo(np.float32).tiny))


def of_release(release: Release) -> tuple[PredictionSets, frozenset[str]]:
    """The sets of a release: its own, or else by its held-out images; and the hashed groups of these.

    Raises:
        UsageError: it has neither.
    """
    if release.prediction_sets:
        return release.prediction_sets, frozenset()
    try:
        path = release.file(PREDICTIONS)
        if path is not None:
            return _of_predictions(pq.read_table(path, filters=[("split", "=", "held_out")]))
    except (NoRelease, OSError, KeyError, ValueError) as error:
        raise UsageError(f"cannot read {PREDICTIONS} of {release}: damaged, or of another kind.") from error
    raise UsageError(f"{release} has no prediction sets, nor {PREDICTIONS} to make them of.")


def _of_predictions(held_out: pa.Table) -> tuple[PredictionSets, frozenset[str]]:
    truth = np.array([DIAGNOSES.index(name) for name in held_out["truth"].to_pylist()], int)
    groups, abstained = (np.array(held_out[column].to_pylist()) for column in ("group", ABSTAINED))
    probabilities = np.column_stack([held_out[name].to_numpy() for name in DIAGNOSES])
    return fit_arrays(truth, probabilities, groups, abstained=abstained, split="held_out"), frozenset(groups)


def check_unused(release: Release, groups: frozenset[str], of_images: Sequence[str]) -> None:
    """Refuse images whose groups set the thresholds: how often such sets are right would mean nothing.

    Raises:
        UsageError: some did.
    """
    used = sum(contamination.hash_name(group) in groups for group in of_images)
    if used:
        raise UsageError(
            f"{release} was made before releases had prediction sets, so they are made of its held-out images, and "
            f"{used} of these images are among those: leave out --prediction-sets, or name other images."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassCoverage:
    """The images of a diagnosis that are assessed, and those whose set holds it."""

    n: int
    lesions: int
    coverage: Estimate
    coverage_lesions: Estimate
    """Of lesions, by their worst photo, as it was promised."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetReport:
    """How often the sets of a split are right, and how large they are; of images that are assessed."""

    alpha: float
    n: int
    coverage: Estimate
    """Of images of diagnoses that something is promised of."""
    without_promise: int
    """Images of the others, which no set can be right about."""
    size: Estimate
    """The mean number of diagnoses in a set."""
    single: Estimate
    """The share of sets of one diagnosis."""
    empty: Estimate
    """The share of sets of none."""
    per_class: dict[str, ClassCoverage]
    """Of diagnoses that something is promised of."""


def measure(predictions: SplitPredictions, intervals: Intervals) -> SetReport | None:
    """The coverage of the sets of a split; None where it has none."""
    sets = predictions.sets
    if sets is None:
        return None
    truth = np.array(predictions.dataset["label"])
    members = sets.members(predictions.probabilities, DIAGNOSES)
    assessed = ~predictions.abstains
    promised = np.isin(truth, [DIAGNOSES.index(name) for name in DIAGNOSES if name not in sets.without_promise])
    hits, size = members[np.arange(len(truth)), truth], members.sum(1)

    def one_class(label: int) -> ClassCoverage:
        rows = assessed & (truth == label)
        return ClassCoverage(
            n=int(rows.sum()),
            lesions=intervals.groups_of(rows),
            coverage=intervals.of_proportion(hits, rows),
            coverage_lesions=intervals.of_lesions(hits, rows),
        )

    return SetReport(
        alpha=sets.alpha,
        n=int(assessed.sum()),
        coverage=intervals.of_proportion(hits, assessed & promised),
        without_promise=int((assessed & ~promised).sum()),
        size=intervals.among(assessed).of_mean(size[assessed].astype(float)) if assessed.any() else Estimate(),
        single=intervals.of_proportion(size == 1, assessed),
        empty=intervals.of_proportion(size == 0, assessed),
        per_class={name: one_class(i) for i, name in enumerate(DIAGNOSES) if name not in sets.without_promise},
    )


def remarks(report: SetReport, sets: PredictionSets) -> list[str]:
    """The coverage in sentences, and what is not promised."""
    each = [f"{name} {format_estimate(c.coverage)} (n = {c.n})" for name, c in report.per_class.items() if c.n]
    sentences = [
        f"Prediction sets at {percent(1 - sets.alpha)}, set on the {sets.split} split, hold the right diagnosis of "
        f"{format_estimate(report.coverage)} of {report.n - report.without_promise} images; a set has "
        f"{format_estimate(report.size)} diagnoses, {format_estimate(report.empty)} of the sets have none.",
        f"By diagnosis: {', '.join(each)}." if each else "None of these images shows a diagnosis of the sets.",
    ]
    few = [f"{name} ({sets.lesions[name]} lesions)" for name in sets.without_promise]
    if few:
        sentences.append(
            f"Nothing is promised of {', '.join(few)}, of which {report.without_promise} images are here: "
            f"{sets.lesions_needed} lesions are needed."
        )
    return sentences
