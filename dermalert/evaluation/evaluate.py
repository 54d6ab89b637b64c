"""A release and the sides of a split in; metrics.json, predictions.parquet and figures out.

The probabilities come from `dermalert_space.release`, which serves the release: what is measured is what is served.
"""

import dataclasses
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset, concatenate_datasets
from dermalert_space import files
from dermalert_space.images import read_image
from dermalert_space.release import Predictions, Release
from safetensors.torch import save_file
from tqdm.auto import tqdm

from dermalert.data import contamination
from dermalert.evaluation import metrics, plots, subgroups
from dermalert.imaging import synthetic_lesions
from dermalert.taxonomy import ALERT, DIAGNOSES

_CHUNK = 256  # images in memory at once
_GALLERY = 12  # images a list of failures


def predict_arrays(release: Release, dataset: Dataset, *, name: str) -> Predictions:
    """Return a release's answers to a data set's images, with a progress bar."""
    rows, abstained = [np.empty((0, len(release.labels)), np.float32)], []
    with tqdm(total=len(dataset), desc=f"Judging {name}", unit=" images") as bar:
        for start in range(0, len(dataset), _CHUNK):
            images = dataset[start : start + _CHUNK]["image"]
            told = release.predict_arrays([read_image(image) for image in images])
            rows.append(told.probabilities)
            abstained += told.abstained
            bar.update(len(images))
    return Predictions(probabilities=np.concatenate(rows), abstained=abstained)


def predict(release: Release, dataset: Dataset, *, name: str) -> np.ndarray:
    """Return the release's probabilities of a data set's images: float32 (n, its labels), with a progress bar."""
    return predict_arrays(release, dataset, name=name).probabilities


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """A side of the split, what a release answered to its images, and the figures of that."""

    dataset: Dataset
    probabilities: np.ndarray
    """(n, 9), calibrated."""
    alert: np.ndarray | None
    """(n,) which images raised the melanoma alert; None where the release has no threshold."""
    attention: np.ndarray | None = None
    """(n,) which images asked for attention; None where the release has no threshold for it."""
    abstained: np.ndarray | None = None
    """(n,) on which images it abstained; None where it abstains on none."""
    figures: dict = dataclasses.field(default_factory=dict)


def ask(release: Release, dataset: Dataset, *, name: str) -> Side:
    """Return a release's answers to a side, without figures."""
    told = predict_arrays(release, dataset, name=name)
    return Side(
        dataset=dataset,
        probabilities=told.probabilities,
        alert=release.alerts(told.probabilities),
        attention=release.attentions(told.probabilities),
        abstained=abstentions(release, told),
    )


def abstentions(release: Release, told: Predictions) -> np.ndarray | None:
    """Return which images a release declined, (n,); None where it declines none."""
    return None if release.abstention is None else np.array([reason is not None for reason in told.abstained], bool)


def evaluate(
    release: Release,
    sides: dict[str, Dataset],
    *,
    undone: Callable[[np.ndarray], np.ndarray] | None = None,
    prior: np.ndarray | None = None,
) -> dict[str, Side]:
    """Return answers and figures of each side that has images.

    Args:
        release: what answers.
        sides: by name, in the schema of `schema.FEATURES`.
        undone: gives the probabilities before the calibration from those after it.
        prior: (9,) the mix of diagnoses that the probabilities hold for.
    """
    measured = {name: ask(release, dataset, name=name) for name, dataset in sides.items() if len(dataset)}
    return {name: _with_figures(side, undone=undone, prior=prior) for name, side in measured.items()}


def _with_figures(side: Side, **known) -> Side:
    points = {"attention": side.attention, "abstained": side.abstained}
    figures = figures_of(side.dataset, side.probabilities, side.alert, **points, **known)
    return dataclasses.replace(side, figures=figures)


def pooled(folds: Sequence[Side]) -> dict[str, Side]:
    """Return the side `out_of_fold`: each image answered by the one model that has not learnt from it; {} of no folds.

    Each model has its own operating points; where one has none, nothing is said of them.
    """
    if not folds:
        return {}

    def joined(flags: list[np.ndarray | None]) -> np.ndarray | None:
        return None if any(flag is None for flag in flags) else np.concatenate(flags)

    return {
        "out_of_fold": _with_figures(
            Side(
                dataset=concatenate_datasets([fold.dataset for fold in folds]),
                probabilities=np.concatenate([fold.probabilities for fold in folds]),
                alert=joined([fold.alert for fold in folds]),
                attention=joined([fold.attention for fold in folds]),
            )
        )
    }


def write_predictions(path: Path, side: Side) -> None:
    """Keep the answers to a side, whole or not at all, for a run that goes on after a stop."""
    flags = {"alert": side.alert, "attention": side.attention}
    flags = {name: flag for name, flag in flags.items() if flag is not None}
    with files.atomic_write(
        path, partial=path.with_suffix(".partial.npz")
    ) as partial:  # the name tells numpy the format
        np.savez(partial, content=list(side.dataset["content"]), probabilities=side.probabilities, **flags)


def read_predictions(path: Path, dataset: Dataset) -> Side | None:
    """Return the answers that were kept of a side, or None where they were not, or of other images."""
    if not path.is_file() or not zipfile.is_zipfile(path):  # damaged
        return None
    with np.load(path) as kept:
        if kept["content"].tolist() != list(dataset["content"]):
            return None
        flags = {name: kept.get(name) for name in ("alert", "attention")}
        return Side(dataset=dataset, probabilities=kept["probabilities"], **flags)


def figures_of(
    dataset: Dataset,
    probabilities: np.ndarray,
    alert: np.ndarray | None,
    *,
    attention: np.ndarray | None = None,
    abstained: np.ndarray | None = None,
    undone: Callable[[np.ndarray], np.ndarray] | None = None,
    prior: np.ndarray | None = None,
) -> dict:
    """Return all figures of one side that need no further look at its images.

    Args:
        dataset: in the schema of `schema.FEATURES`.
        probabilities: (n, 9), calibrated.
        alert: (n,) which images raise the melanoma alert; None where there is no threshold.
        attention: (n,) which images ask for attention; None where there is no threshold for it.
        abstained: (n,) which images are abstained on; None where none can be.
        undone: gives the probabilities before the calibration from those after it.
        prior: (9,) the mix of diagnoses that the probabilities hold for.
    """
    truth, groups, sources = (np.array(dataset[column]) for column in ("label", "group", "source"))
    points = {"alert": alert, "attention": attention, "abstained": abstained}
    figures = metrics.report(truth, probabilities, groups, **points, sources=sources, prior=prior)
    if undone is not None:
        figures["calibration"]["before"] = metrics.calibration(truth, undone(probabilities), metrics.Intervals(groups))
    figures["subgroups"] = subgroups.subgroups(dataset, probabilities, alert)
    served = alert if alert is None or abstained is None else alert & ~abstained
    figures["subgroup_sensitivity"] = subgroups.sensitivity_by_subgroup(dataset, served)
    return figures | {"failures": failures(dataset, probabilities[:, DIAGNOSES.index(ALERT)], alert, abstained)}


def failures(dataset: Dataset, score: np.ndarray, alert: np.ndarray | None, abstained: np.ndarray | None) -> dict:
    """Return the melanomas with the lowest scores and the other images with the highest, the worst first.

    Args:
        dataset: the split, of which `image_id` and `label` are asked for.
        score: (n,) probabilities of melanoma.
        alert: (n,) which of them reach the threshold; None where there is none.
        abstained: (n,) which images are abstained on, so that they raise no alert; None where none can be.
    """
    ids, truth = list(dataset["image_id"]), np.array(dataset["label"])
    melanoma = truth == DIAGNOSES.index(ALERT)
    order = np.argsort(score, kind="stable")

    def told(rows: np.ndarray) -> list[dict]:
        return [
            {
                "image_id": ids[i],
                "truth": DIAGNOSES[truth[i]],
                "score": float(score[i]),
                "alert": None if alert is None else bool(alert[i]),
                "refused": abstained is not None and bool(abstained[i]),
            }
            for i in rows[:_GALLERY]
        ]

    return {
        "lowest_melanomas": told(order[melanoma[order]]),
        "highest_others": told(order[::-1][~melanoma[order[::-1]]]),
    }


def write_reference(path: Path, release: Release) -> None:
    """Write generated lesions, one a diagnosis, with what a release answers to them, for a serving side to check."""
    images = [synthetic_lesions.lesion(diagnosis, lesion_seed=0) for diagnosis in DIAGNOSES]
    tensors = {
        "images": torch.stack([torch.from_numpy(np.array(image)) for image in images]),
        "probabilities": torch.from_numpy(release.probabilities(images)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"backend": "pil"})


def predictions(measured: dict[str, Side]) -> pa.Table:
    """Return a row an image with its probabilities, as `predictions.parquet` holds them."""
    return pa.concat_tables([_predictions(name, side) for name, side in measured.items()])


def _predictions(name: str, side: Side) -> pa.Table:
    dataset = side.dataset
    columns = {column: list(dataset[column]) for column in ("image_id", "source")}
    columns |= {"group": [contamination.hashed(group) for group in dataset["group"]]}  # of a patient, perhaps
    columns |= {"split": [name] * len(dataset), "truth": [DIAGNOSES[label] for label in dataset["label"]]}
    columns |= {"refused": [False] * len(dataset) if side.abstained is None else side.abstained.tolist()}
    return pa.table(columns | {label: side.probabilities[:, i] for i, label in enumerate(DIAGNOSES)})


def write(folder: Path, report: dict, measured: dict[str, Side], history: Sequence[dict]) -> None:
    """Write `evaluation/` of a release: metrics.json, predictions.parquet and figures/."""
    (folder / "figures").mkdir(parents=True)
    files.write_json(folder / "metrics.json", report)
    table = predictions(measured)
    pq.write_table(table, folder / "predictions.parquet")
    plots.draw(folder / "figures", report, table, history)
