"""A release and its splits in; metrics.json, predictions.parquet and figures out."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from dermalert_space import files
from dermalert_space.contract import ABSTAINED, FIGURES, METRICS, PREDICTIONS, Json
from dermalert_space.release import Release
from safetensors.torch import save_file

from dermalert.data import contamination
from dermalert.evaluation import plots, prediction_sets, subgroups
from dermalert.evaluation.intervals import Intervals
from dermalert.evaluation.predict import SplitPredictions, predict_splits
from dermalert.evaluation.report import Failure, Failures, SplitReport, calibration, report
from dermalert.evaluation.stress_test import ArtefactReport
from dermalert.imaging import synthetic_lesions
from dermalert.taxonomy import DIAGNOSES

_GALLERY = 12  # images a list of failures

Undo = Callable[[np.ndarray], np.ndarray]
"""Gives the probabilities (n, 9) before the calibration from those after it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A release's predictions of a split, and their figures."""

    predictions: SplitPredictions
    report: SplitReport

    def with_artefacts(self, artefacts: dict[str, ArtefactReport]) -> "Evaluation":
        """Add what `stress_test.stress` has measured."""
        return dataclasses.replace(self, report=dataclasses.replace(self.report, artefacts=artefacts))


def evaluate(
    release: Release,
    splits: Mapping[str, Dataset],
    *,
    undone: Undo | None = None,
    prior: np.ndarray | None = None,
    keep: bool = False,
) -> dict[str, Evaluation]:
    """Predict and measure each split that has images.

    Args:
        release: what predicts.
        splits: by name, in the schema of `schema.FEATURES`.
        undone: gives the probabilities before the calibration from those after it.
        prior: (9,) the mix of diagnoses that the probabilities hold for.
        keep: see `predict.inputs`.
    """
    return {
        name: measure(predictions, undone=undone, prior=prior)
        for name, predictions in predict_splits(release, splits, keep=keep).items()
    }


def measure(
    predictions: SplitPredictions, *, undone: Undo | None = None, prior: np.ndarray | None = None
) -> Evaluation:
    """Measure all figures of a split that need no further look at its images; for the arguments see `evaluate`."""
    dataset, probabilities = predictions.dataset, predictions.probabilities
    truth, groups = (np.array(dataset[column]) for column in ("label", "group"))
    figures = report(
        truth,
        probabilities,
        groups,
        alert=predictions.alert,
        attention=predictions.attention,
        abstained=predictions.abstained,
        sources=dataset["source"][:],
        prior=prior,
    )
    before = None if undone is None else calibration(truth, undone(probabilities), Intervals(groups))
    figures = dataclasses.replace(
        figures,
        calibration=dataclasses.replace(figures.calibration, before=before),
        subgroups=subgroups.subgroups(dataset, probabilities, predictions.alert),
        subgroup_sensitivity=subgroups.sensitivity_by_subgroup(dataset, predictions.alert_as_served),
        failures=failures(predictions),
        prediction_sets=prediction_sets.measure(predictions, Intervals(groups)),
    )
    return Evaluation(predictions=predictions, report=figures)


def failures(predictions: SplitPredictions) -> Failures:
    """Name the melanomas with the lowest scores and the other images with the highest, the worst first."""
    ids, truth = predictions.dataset["image_id"][:], np.array(predictions.dataset["label"][:])
    melanoma, score = predictions.melanoma, predictions.melanoma_probabilities
    alert, abstained = predictions.alert, predictions.abstains
    order = np.argsort(score, kind="stable")

    def first(rows: np.ndarray) -> list[Failure]:
        return [
            Failure(
                image_id=ids[i],
                truth=DIAGNOSES[truth[i]],
                score=float(score[i]),
                alert=None if alert is None else bool(alert[i]),
                refused=bool(abstained[i]),
            )
            for i in rows[:_GALLERY]
        ]

    return Failures(
        lowest_melanomas=first(order[melanoma[order]]),
        highest_others=first(order[::-1][~melanoma[order[::-1]]]),
    )


def write_reference(path: Path, release: Release) -> None:
    """Write generated lesions, one a diagnosis, with what a release answers to them, for a serving side to check."""
    images = [synthetic_lesions.lesion(diagnosis, lesion_seed=0) for diagnosis in DIAGNOSES]
    tensors = {
        "images": torch.stack([torch.from_numpy(np.array(image)) for image in images]),
        "probabilities": torch.from_numpy(release.probabilities(images)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"backend": "pil"})


def as_table(predictions: Mapping[str, SplitPredictions]) -> pa.Table:
    """A row an image with its probabilities, as `predictions.parquet` holds them."""
    return pa.concat_tables([_rows(name, split) for name, split in predictions.items()])


def _rows(name: str, predictions: SplitPredictions) -> pa.Table:
    dataset = predictions.dataset
    columns = {column: list(dataset[column]) for column in ("image_id", "source")}
    columns |= {"group": [contamination.hash_name(group) for group in dataset["group"][:]]}  # of a patient, perhaps
    columns |= {"split": [name] * len(dataset), "truth": [DIAGNOSES[label] for label in dataset["label"][:]]}
    columns |= {ABSTAINED: predictions.abstains.tolist()}
    return pa.table(columns | {label: predictions.probabilities[:, i] for i, label in enumerate(DIAGNOSES)})


def write(folder: Path, metrics: Json, predictions: Mapping[str, SplitPredictions], history: Sequence[Json]) -> None:
    """Write the metrics, predictions and figures of a release into its folder."""
    (folder / FIGURES).mkdir(parents=True)
    files.write_json(folder / METRICS, metrics)
    table = as_table(predictions)
    pq.write_table(table, folder / PREDICTIONS, compression="zstd")
    plots.draw(folder / FIGURES, metrics, table, history)
