"""How a model would do at a clinic: its images in, a report with a verdict out. Nothing leaves the machine."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset
from dermalert_space.contract import Json
from dermalert_space.release import Release

from dermalert.clinic import adaptation as adapting
from dermalert.clinic import advice, figures, findings, images, look, with_labels, without_labels
from dermalert.clinic.adaptation import Adaptation
from dermalert.clinic.findings import STOP, Finding
from dermalert.clinic.images import ClinicImages
from dermalert.clinic.verdict import CLAIMS, UNDECIDED
from dermalert.clinic.with_labels import WithLabels
from dermalert.clinic.without_labels import WithoutLabels
from dermalert.data import contamination
from dermalert.data.table_columns import Columns
from dermalert.errors import UsageError
from dermalert.evaluation import any_checkpoint
from dermalert.evaluation.label_map import Classes, classes
from dermalert.evaluation.predict import SplitPredictions
from dermalert.release.archive_triage import identity
from dermalert.taxonomy import ALERT, DIAGNOSES

MOST_UNLABELLED = 5000
"""Images without labels that are looked at: shares are then known within 0.014."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelName:
    """Which model was asked."""

    name: str
    tag: str | None
    hash: str
    """Of all its files that its answers depend on."""
    is_release: bool
    """Whether dermalert made it, so that it promises something."""
    threshold: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClinicReport:
    """All that a clinic is told."""

    model: ModelName
    folder: str
    images: ClinicImages
    exposed: list[str]
    exposure_recorded: bool
    assessed: int
    """Images that the model was asked about."""
    no_class_for: dict[str, int]
    """Labelled images left out, for want of a class of the model's, by diagnosis."""
    findings: list[Finding]
    without_labels: WithoutLabels
    with_labels: WithLabels | None
    adaptation: Adaptation | None
    """None where there are no labels of melanoma, or the model is none of dermalert's releases."""
    figures: dict[str, str]
    """SVG by name."""

    @property
    def outcome(self) -> str:
        """`holds`, `does not hold` or `cannot be told`."""
        return self.with_labels.verdict.outcome if self.with_labels else UNDECIDED

    @property
    def evidence(self) -> str:
        """What the verdict follows from, in words."""
        if self.with_labels:
            return self.with_labels.verdict.evidence
        return "there are no labels (n = 0), and only they show whether the alert finds the melanomas here."

    @property
    def headline(self) -> str:
        """The verdict, in a sentence or two."""
        return f"{CLAIMS[self.outcome]}: {self.evidence}"

    @property
    def what_to_do(self) -> list[str]:
        """What the clinic does next, in sentences, the first first."""
        return advice.advice([finding for finding in self.findings if finding.level == STOP], self.with_labels)

    def to_json(self) -> Json:
        """All of it, for machines."""
        counts = {f.name: getattr(self.images, f.name) for f in dataclasses.fields(self.images) if f.name != "dataset"}
        return {
            "schema": 1,
            "model": dataclasses.asdict(self.model),
            "folder": self.folder,
            "verdict": {"outcome": self.outcome, "sentence": self.headline, "what_to_do": self.what_to_do},
            "images": counts | {"assessed": self.assessed},
            "learnt_from": {"known": self.exposure_recorded, "left_out": len(self.exposed)},
            "no_class_for": self.no_class_for,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "without_labels": self.without_labels.to_json(),
            "with_labels": self.with_labels and self.with_labels.to_json(),
            "adaptation": self.adaptation and self.adaptation.to_json(),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examination:
    """A model that was asked about a clinic's images."""

    release: Release
    labelled: Dataset
    """The images with a label that were measured."""
    report: ClinicReport


def examine(
    release: Release,
    folder: Path,
    labels: Path | None = None,
    *,
    label_map: Mapping[str, str | None] | None = None,
    columns: Columns | None = None,
) -> Examination:
    """The report of a model on a folder of images.

    Args:
        release: of `any_checkpoint.load`.
        folder: the clinic's images.
        labels: a table with a row an image; by default what the folder itself says, or none.
        label_map: see `label_map.classes`.
        columns: of the tables.

    Raises:
        UsageError: the images or the labels cannot be used, or no image is left.
    """
    classes(release.labels, label_map)  # refused before the images are read
    unseen = _unseen(release, folder, images.load(folder, labels, columns))
    read, dataset = unseen.read, unseen.dataset
    covering, truth = _truth(release, dataset, label_map, labelled=read.labelled)
    examined = look.look(release, dataset, name=f"images of {folder.resolve().name}")
    predictions = any_checkpoint.under_classes(examined.predictions, covering, np.maximum(truth, 0))
    predictions, promise = _promise(release, predictions, covering)
    unlabelled = without_labels.examine(release, examined, predictions.flagged)
    labelled = predictions.select(rows := np.flatnonzero(truth >= 0))
    shown = with_labels.examine(labelled, covering, promise) if len(rows) else None
    report = ClinicReport(
        model=_model_name(release),
        folder=folder.resolve().name,
        images=read,
        exposed=unseen.exposed,
        exposure_recorded=unseen.is_recorded,
        assessed=len(dataset),
        no_class_for=_no_class_for(dataset, truth) if read.labelled else {},
        findings=findings.findings(read, unlabelled, exposed=unseen.exposed, exposure_recorded=unseen.is_recorded),
        without_labels=unlabelled,
        with_labels=shown,
        adaptation=_adaptation(release, labelled, covering) if shown else None,
        figures=figures.figures(shown, unlabelled, labelled.melanoma, labelled.melanoma_probabilities),
    )
    return Examination(release=release, labelled=dataset.select(rows), report=report)


class _Unseen(NamedTuple):
    """The images that a model is asked about."""

    read: ClinicImages
    dataset: Dataset
    exposed: list[str]
    is_recorded: bool
    """Whether the model's training images are on record."""


def _unseen(release: Release, folder: Path, read: ClinicImages) -> _Unseen:
    """The images without those that a model has learnt from; UsageError where none is left."""
    exposure = contamination.read(release.name, release.revision)
    fresh = contamination.are_unseen(read.dataset, exposure)
    if not fresh.any():
        raise UsageError(
            f"{release} has learnt from all {len(fresh)} images of '{folder}', or from copies of them: what it does on "
            "these says nothing. Take images that it has not seen."
        )
    return _Unseen(
        read=read,
        dataset=read.dataset.select(_drawn(np.flatnonzero(fresh), read)),
        exposed=np.array(list(read.dataset["image_id"]), object)[~fresh].tolist(),
        is_recorded=bool(exposure),
    )


def _adaptation(release: Release, labelled: SplitPredictions, covering: Classes) -> Adaptation | None:
    """What labels of melanoma support to change in a release of the nine diagnoses that alerts and abstains."""
    if covering.positive != ALERT or release.threshold is None or list(release.labels) != list(DIAGNOSES):
        return None
    groups = np.array(labelled.dataset["group"])
    return adapting.adapt(labelled.probabilities, labelled.melanoma, groups, labelled.abstains)


def _drawn(rows: np.ndarray, read: ClinicImages) -> np.ndarray:
    """The rows that are looked at: all where there are labels, else `MOST_UNLABELLED` at random."""
    if read.labelled or len(rows) <= MOST_UNLABELLED:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, MOST_UNLABELLED, replace=False))


def _truth(
    release: Release, dataset: Dataset, label_map: Mapping[str, str | None] | None, *, labelled: bool
) -> tuple[Classes, np.ndarray]:
    if labelled:
        return any_checkpoint.cover(release, dataset, label_map)
    return classes(release.labels, label_map), np.full(len(dataset), -1)


def _promise(release: Release, predictions: SplitPredictions, covering: Classes) -> tuple[SplitPredictions, float]:
    """The predictions with the alert that the labels can test, and the sensitivity that it promises.

    Labels that say no more than malignant test a release's point for what is malignant or a precursor.
    """
    config = release.model.config
    if covering.positive != ALERT and ALERT in release.labels and predictions.attention is not None:
        return dataclasses.replace(predictions, alert=predictions.attention), float(
            config.attention["target_sensitivity"]
        )
    return predictions, with_labels.promised(release)


def _no_class_for(dataset: Dataset, truth: np.ndarray) -> dict[str, int]:
    names = dataset.features["label"].names
    labels = list(dataset["label"])
    left_out = [names[labels[i]] for i in np.flatnonzero(truth < 0)]
    return {name: left_out.count(name) for name in dict.fromkeys(left_out)}


def _hash(release: Release) -> str:
    """The hash of a model; of its weights alone where the Hub is out of reach and its cache lacks optional files."""
    try:
        return identity(release)
    except OSError:
        digest = hashlib.sha256()
        for name, tensor in sorted(release.model.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def _model_name(release: Release) -> ModelName:
    return ModelName(
        name=any_checkpoint.public_name_of(release).partition("@")[0],
        tag=release.revision,
        hash=_hash(release),
        is_release=release.threshold is not None,
        threshold=release.threshold,
    )
