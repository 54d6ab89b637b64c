"""Anyone's checkpoint on anyone's data: `dermalert evaluate MODEL[@TAG] DATASET`.

A checkpoint's classes need not be the nine. Each of them covers some of the nine diagnoses (`bkl` of a seven-class
model covers both benign keratoses, `malignant` of a two-class model three diagnoses), and the truth of an image is the
class that covers its diagnosis. Images of diagnoses that no class covers are left out, with their count.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import ClassLabel, Dataset
from dermalert_space import checks
from dermalert_space.contract import ALERT_POINT, PREDICTION_SETS, Json, find, locate, public_name
from dermalert_space.estimate import Estimate, format_estimate
from dermalert_space.prediction import threshold_share
from dermalert_space.prediction_sets import PredictionSets
from dermalert_space.pretrained import UNLOADABLE, load_processor, missing_from_cache
from dermalert_space.release import Release
from dermalert_space.release_loading import NoRelease
from rich.markup import escape
from rich.table import Table
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    ImageProcessingMixin,
    PreTrainedConfig,
    PreTrainedModel,
)

from dermalert.data import contamination
from dermalert.errors import UsageError, first_few, first_line
from dermalert.evaluation import predict, prediction_sets
from dermalert.evaluation.evaluate import measure
from dermalert.evaluation.label_map import Classes, classes
from dermalert.evaluation.operating_points import TARGET_SENSITIVITY, lower_bound
from dermalert.evaluation.report import Failure, Failures, SplitReport
from dermalert.formatting import percent, percent_at_least
from dermalert.hub import client
from dermalert.taxonomy import ALERT, DIAGNOSES, ISIC_2025, MALIGNANCIES, MELANOMA

_OTHER_PROBLEMS = {
    "multi_label_classification": "each class has a probability of its own, whatever the others'",
    "regression": "it answers amounts and no probabilities",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointReport:
    """The figures of a checkpoint on a data set, each split under the diagnoses that its classes stand for."""

    model: str
    covering: Classes
    threshold: float | None
    """Of the alert; None: it alerts where the positive class is the likeliest."""
    abstained: int | None
    """Images on which it abstains; None: it never does."""
    exposure_recorded: bool
    """Whether its training images are on record; then `left_out` of these are among them."""
    left_out: int
    without_class: dict[str, int]
    """Images left out by diagnosis, for want of a class."""
    sources: list[str]
    splits: dict[str, SplitReport]
    sets: PredictionSets | None = None
    """What makes its prediction sets, where they are measured."""

    def to_json(self) -> Json:
        """All of it under the checkpoint's own names, for machines."""
        covers = zip(self.covering.names, self.covering.covers, strict=True)
        rule = "likeliest class" if self.threshold is None else "threshold"
        return {
            "schema": 1,
            "model": self.model,
            "classes": {name: sorted(covered) for name, covered in covers},
            "positive": self.covering.positive,
            "alert": {"rule": rule, "threshold": self.threshold},
            "abstained": self.abstained,
            "learnt_from": {"known": self.exposure_recorded, "left_out": self.left_out},
            "no_class_for": self.without_class,
            "sources": self.sources,
            **({PREDICTION_SETS: self.sets.to_json()} if self.sets else {}),
            "splits": {name: self.covering.rename(split.to_json()) for name, split in self.splits.items()},
        }


def load(name: str) -> Release:
    """Load a dermalert release, or any other image classifier, of a folder or the Hub.

    Raises:
        UsageError: it is not there, cannot be reached, or is no trained image classifier of several classes.
    """
    name = str(find(name))
    repo, revision = locate(name)
    if not Path(repo).exists() and not client.is_name(repo):
        raise UsageError(f"'{name}' is neither a folder nor USER/REPO of the Hub.")
    try:
        _refuse_code(repo, revision)
        config = AutoConfig.from_pretrained(repo, revision=revision, trust_remote_code=False)
        _check_problem(name, config)
        if isinstance(getattr(config, ALERT_POINT, None), dict):
            return Release.load(repo, revision)
        model, loaded = AutoModelForImageClassification.from_pretrained(
            repo,
            revision=revision,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # `_check_weights` refuses them, and says which
            output_loading_info=True,
            trust_remote_code=False,
        )
        processor = load_processor(repo, revision)
    except NoRelease as error:
        raise UsageError(str(error)) from error
    except UNLOADABLE as error:
        reason = missing_from_cache(repo, revision) or first_line(error)
        raise UsageError(f"'{name}' is no image classifier that can be loaded: {reason}.") from error
    _check_weights(name, model, loaded)
    if model.config.num_labels < 2:
        raise UsageError(f"'{name}' has a single class: nothing says what the others would be.")
    model.config.alert = {"label": ALERT, "threshold": None}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Release(model.eval().to(device), processor, name=repo, revision=revision)


def _refuse_code(repo: str, revision: str | None) -> None:
    """Refuse a checkpoint that wants code of its own run, which transformers would otherwise ask about.

    Raises:
        ValueError: it does.
    """
    for get_config in (PreTrainedConfig.get_config_dict, ImageProcessingMixin.get_image_processor_dict):
        checks.no_code(get_config(repo, revision=revision)[0])


def _check_problem(name: str, config: PreTrainedConfig) -> None:
    """Refuse a model whose answers are no probabilities of which one holds: `pipeline` takes no softmax of them."""
    problem = getattr(config, "problem_type", None)
    meaning = _OTHER_PROBLEMS.get(str(problem))
    if meaning:
        raise UsageError(
            f"'{name}' cannot be measured: by its config.json (problem_type {problem}) {meaning}, and what is measured "
            "here are models whose probabilities add up to 1."
        )


def _check_weights(name: str, model: PreTrainedModel, loaded: Json) -> None:
    """Refuse a model of which transformers had to make up parameters."""
    lacking = sorted(loaded["missing_keys"] & dict(model.named_parameters()).keys())
    if lacking:
        raise UsageError(f"'{name}' is no trained image classifier: its weights lack {first_few(lacking)}.")
    unfit = sorted(key for key, *_ in loaded["mismatched_keys"])
    if unfit:
        raise UsageError(
            f"'{name}' is no trained image classifier: its weights and its configuration give different sizes to "
            f"{first_few(unfit)}."
        )


def evaluate(
    release: Release,
    dataset: Dataset,
    *,
    shipped: Dataset | None = None,
    label_map: Mapping[str, str | None] | None = None,
    with_sets: bool = False,
) -> CheckpointReport:
    """The figures of a checkpoint on a data set.

    A dermalert release alerts by its threshold, and is measured on no image that it was trained on. Any other alerts
    where its class for melanoma is the likeliest; its training images are unknown.

    Args:
        release: of `load`.
        dataset: in the schema of `schema.FEATURES`, under the nine diagnoses, `MALIGNANCIES` or `ISIC_2025`.
        shipped: the same before a repair, which may have left out one of two copies; without it, `dataset`.
        label_map: see `classes`.
        with_sets: whether its prediction sets are measured too.

    Raises:
        UsageError: see `classes`; no image is left, a class of the model is none that the data set has, or it has no
            prediction sets of these diagnoses.
    """
    sets, used = _sets(release, dataset, label_map) if with_sets else (None, frozenset[str]())
    covering, truth = cover(release, dataset, label_map)
    measurable = _measurable(release, dataset, truth)
    dataset = dataset.select(measurable.rows)
    prediction_sets.check_unused(release, used, dataset["group"])
    predictions = predict.predict(release, dataset, name=f"images with {public_name_of(release)}")
    predictions = dataclasses.replace(under_classes(predictions, covering, truth[measurable.rows]), sets=sets)
    parts = _parts(dataset, dataset if shipped is None else shipped)
    return CheckpointReport(
        model=public_name_of(release),
        covering=covering,
        threshold=release.threshold,
        abstained=None if predictions.abstained is None else int(predictions.abstained.sum()),
        exposure_recorded=measurable.exposure_recorded,
        left_out=measurable.exposed,
        without_class=dict(measurable.without_class),
        sources=sorted(set(dataset["source"])),
        splits={name: _with_images(measure(predictions.select(rows)).report, dataset) for name, rows in parts.items()},
        sets=sets,
    )


class _Measurable(NamedTuple):
    """The rows of a data set that a checkpoint can be measured on, and what is left out."""

    rows: np.ndarray
    exposure_recorded: bool
    exposed: int
    without_class: Counter[str]


def _measurable(release: Release, dataset: Dataset, truth: np.ndarray) -> _Measurable:
    """The images that a checkpoint was not trained on and has a class (n,) for; UsageError where there is none."""
    names = [dataset.features["label"].names[label] for label in dataset["label"]]
    exposure = contamination.read(release.name, release.revision)
    unseen = contamination.are_unseen(dataset, exposure)
    rows, exposed = np.flatnonzero(unseen & (truth >= 0)), int((~unseen).sum())
    without_class = Counter(names[i] for i in np.flatnonzero(unseen & (truth < 0)))
    if not len(rows):
        raise UsageError(
            f"nothing is left to measure {release} on: of {len(dataset)} images it has learnt from {exposed}, "
            f"and {without_class.total()} show what none of its classes stands for."
        )
    return _Measurable(rows, bool(exposure), exposed, without_class)


def cover(
    release: Release, dataset: Dataset, label_map: Mapping[str, str | None] | None = None
) -> tuple[Classes, np.ndarray]:
    """What the classes of a checkpoint cover, and the label id (n,) of the class of each image, -1 where none is."""
    names = dataset.features["label"].names
    covering, diagnosis = _common_classes(classes(release.labels, label_map), names)
    return covering, covering.truth(diagnosis[names[label]] for label in dataset["label"])


def _sets(
    release: Release, dataset: Dataset, label_map: Mapping[str, str | None] | None
) -> tuple[PredictionSets, frozenset[str]]:
    """What makes the prediction sets of a release, and the hashed groups that it was set on, see `of_release`."""
    if classes(release.labels, label_map).covers != tuple(frozenset({name}) for name in DIAGNOSES):
        raise UsageError(f"--prediction-sets: the classes of {public_name_of(release)} are not the nine diagnoses.")
    labels = dataset.features["label"].names
    if labels != list(DIAGNOSES):
        raise UsageError(f"--prediction-sets: these images are not under the nine diagnoses, but {', '.join(labels)}.")
    return prediction_sets.of_release(release)


def _common_classes(covering: Classes, labels: list[str]) -> tuple[Classes, dict[str, str | None]]:
    """The classes under which a data set's labels are measured, and a diagnosis that stands for each of the labels."""
    if labels == list(MALIGNANCIES):
        return covering.as_malignancies(), {"benign": "nevus", "malignant": ALERT}
    if labels == list(ISIC_2025):
        return covering.as_isic_2025(), {name: min(covered, default=None) for name, covered in ISIC_2025.items()}
    return covering, {name: name for name in labels}


def under_classes(
    predictions: predict.SplitPredictions, covering: Classes, truth: np.ndarray
) -> predict.SplitPredictions:
    """Predictions under the nine diagnoses, each class in the column that stands for it, of images by their rows.

    A checkpoint without a threshold alerts where its class for melanoma is the likeliest.
    """
    spread, alert = covering.spread(predictions.probabilities), predictions.alert
    if alert is None:
        alert = spread.argmax(1) == MELANOMA
    numbered = _relabel(predictions.dataset, truth)
    return dataclasses.replace(predictions, dataset=numbered, probabilities=spread, alert=alert, sets=None)


def _relabel(dataset: Dataset, truth: np.ndarray) -> Dataset:
    """A data set under the label ids of the classes that cover its diagnoses, its images under their numbers."""
    rest = dataset.remove_columns([name for name in ("label", "image_id") if name in dataset.column_names])
    rest = rest.add_column("image_id", [str(row) for row in range(len(rest))])
    return rest.add_column("label", truth.tolist()).cast_column("label", ClassLabel(names=list(DIAGNOSES)))


def _with_images(report: SplitReport, dataset: Dataset) -> SplitReport:
    """The report of numbered images with the ids and the diagnoses that the data set itself gives the failures.

    A class may cover several diagnoses, and two folders may hold images of one name, so neither tells the other.
    """
    ids, labels, names = list(dataset["image_id"]), list(dataset["label"]), dataset.features["label"].names

    def rename(failures: list[Failure]) -> list[Failure]:
        rows = [int(failure.image_id) for failure in failures]
        return [
            dataclasses.replace(failure, image_id=ids[row], truth=names[labels[row]])
            for failure, row in zip(failures, rows, strict=True)
        ]

    failures = report.failures
    assert failures is not None  # `measure` gives them
    failures = Failures(
        lowest_melanomas=rename(failures.lowest_melanomas), highest_others=rename(failures.highest_others)
    )
    return dataclasses.replace(report, failures=failures)


def _parts(dataset: Dataset, shipped: Dataset) -> dict[str, np.ndarray]:
    """The rows of the whole and, where a test split is shipped, its rows and those with no related image outside it."""
    test = np.array(dataset["shipped_split"]) == "test"
    rest = {group for group, part in zip(shipped["group"], shipped["shipped_split"], strict=True) if part != "test"}
    parts = {"all": np.arange(len(dataset))}
    if test.any() and rest:
        clean = np.array([group not in rest for group in dataset["group"]])
        parts |= {"test": np.flatnonzero(test), "clean_test": np.flatnonzero(test & clean)}
    return {name: rows for name, rows in parts.items() if len(rows)}


def public_name_of(release: Release) -> str:
    """A release's name without the folders of the machine it lies on."""
    path = Path(release.name)
    return public_name(path) if path.exists() else str(release)


def as_table(report: CheckpointReport) -> Table:
    """The figures as a table that a person can read."""
    table = Table(title=f"{report.model}: {report.covering.positive} against the rest, and all classes")
    table.add_column("figure")
    for name, split in report.splits.items():
        table.add_column(f"{name} (n = {split.n}, {split.groups} groups)", justify="right")
    table.add_row("images of the positive class", *(str(split.melanoma.n) for split in report.splits.values()))
    for name, figure in _LINES.items():
        # Escaped, or `[no interval]` would be taken for a style.
        table.add_row(name, *(escape(format_estimate(figure(split))) for split in report.splits.values()))
    return table


_LINES: dict[str, Callable[[SplitReport], Estimate]] = {
    "accuracy": lambda split: split.accuracy,
    "balanced accuracy": lambda split: split.balanced_accuracy,
    "macro AUROC": lambda split: split.macro_auroc,
    "AUROC": lambda split: split.melanoma.auroc,
    "sensitivity, without abstention": lambda split: split.melanoma.sensitivity,
    "sensitivity, as served": lambda split: split.melanoma.sensitivity_refusals_missed,
    "specificity, without abstention": lambda split: split.melanoma.specificity,
    "specificity at sensitivity 0.95": lambda split: split.melanoma.specificity_at_sensitivity["0.95"],
    "expected calibration error": lambda split: split.calibration.ece,
}


def remarks(report: CheckpointReport) -> list[str]:
    """Remarks without which the figures cannot be read, in sentences."""
    positive = report.covering.positive
    sentences = [f"It counts as an alert where {positive} is its likeliest class."]
    if report.threshold is not None:
        sentences = [f"It alerts from a melanoma probability of {threshold_share(report.threshold)}."]
    if "test" in report.splits:
        sentences.append(
            "test is the shipped test split under the labels that --label-repair leaves, clean_test the part of it "
            "without related images in the rest; the official_test of a release's card has the labels as they were "
            "shipped."
        )
    sentences += _as_served(report, positive)
    if report.exposure_recorded:
        sentences.append(
            f"{report.left_out} images that it has learnt from were left out: known by number, lesion, "
            "patient, bytes or, where its list has them, perceptual hashes."
        )
    else:
        sentences.append("Which images it has learnt from is not known: those of them among these flatter it.")
    if report.sets and (measured := report.splits["all"].prediction_sets):
        sentences += prediction_sets.remarks(measured, report.sets)
    if report.covering.note:
        sentences.append(report.covering.note)
    if report.without_class:
        each = ", ".join(f"{n} of {name}" for name, n in report.without_class.items())
        sentences.append(f"It has no class for these, which were left out: {each}.")
    return sentences


def _as_served(report: CheckpointReport, positive: str) -> list[str]:
    """The number of images on which a release abstains, and the sensitivity of its alert on the lesions."""
    if report.abstained is None:
        return []
    split = report.splits["all"]
    sentences = [f"It abstains on {report.abstained} of {split.n} images, which raise no alert."]
    lesions = split.melanoma.lesions
    share = lesions.sensitivity_as_served.value
    if report.threshold is not None and share is not None:
        flagged = round(share * lesions.n)
        bound = lower_bound(lesions.n, lesions.n - flagged)
        sentences.append(
            f"As served it flags {flagged} of {lesions.n} {positive} lesions in each of their photos: at "
            f"least {percent_at_least(bound)} (exact, one-sided 95% limit), of {percent(TARGET_SENSITIVITY)} wanted."
        )
    return sentences
