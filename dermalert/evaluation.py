"""A release and the sides of a split in; metrics.json, predictions.parquet and figures out.

The probabilities come from `space/triage.py`, which serves the release: what is measured is what is served.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from dermalert import metrics
from dermalert.diagnoses import DIAGNOSES
from dermalert.release import dump_metrics
from space.triage import Release, read_image

_CHUNK = 256  # images in memory at once
_BLUE, _ORANGE = "#0072b2", "#d55e00"  # told apart by the colour-blind (Okabe & Ito 2008)


def predict(release: Release, dataset: Dataset, *, name: str) -> np.ndarray:
    """Return the release's probabilities of a data set's images: float32 (n, 9), with a progress bar."""
    rows = [np.empty((0, len(DIAGNOSES)), np.float32)]
    with tqdm(total=len(dataset), desc=f"Judging {name}", unit=" images") as bar:
        for start in range(0, len(dataset), _CHUNK):
            images = dataset[start : start + _CHUNK]["image"]
            rows.append(release.probabilities([read_image(image) for image in images]))
            bar.update(len(images))
    return np.concatenate(rows)


def evaluate(release: Release, sides: dict[str, Dataset]) -> tuple[dict, pa.Table]:
    """Return the figures of each side that has images, and a row an image with its probabilities."""
    splits, tables = {}, []
    for name, dataset in sides.items():
        if not len(dataset):
            continue
        probabilities = predict(release, dataset, name=name)
        truth, groups = np.array(dataset["label"]), np.array(dataset["group"])
        splits[name] = metrics.report(truth, probabilities, groups, alert=release.alerts(probabilities))
        tables.append(_predictions(name, dataset, probabilities))
    return splits, pa.concat_tables(tables)


def _predictions(name: str, dataset: Dataset, probabilities: np.ndarray) -> pa.Table:
    columns = {column: list(dataset[column]) for column in ("image_id", "group", "source")}
    columns |= {"split": [name] * len(dataset), "truth": [DIAGNOSES[label] for label in dataset["label"]]}
    columns |= {"refused": [False] * len(dataset)}  # no release declines an image yet
    return pa.table(columns | {label: probabilities[:, i] for i, label in enumerate(DIAGNOSES)})


def write(folder: Path, figures: dict, predictions: pa.Table, history: Sequence[dict]) -> None:
    """Write `evaluation/` of a release: metrics.json, predictions.parquet, figures/learning_curves.png."""
    (folder / "figures").mkdir(parents=True)
    (folder / "metrics.json").write_text(dump_metrics(figures))
    pq.write_table(predictions, folder / "predictions.parquet")
    _learning_curves(history, folder / "figures" / "learning_curves.png")


def _learning_curves(history: Sequence[dict], path: Path) -> None:
    """Draw loss and balanced accuracy by epoch, of the validation side and of as many training images, not augmented.

    Args:
        history: `log_history` of the Trainer's state.
        path: of the PNG.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, metric in zip(axes, ("loss", "balanced_accuracy"), strict=True):
        for part, colour, style in (("train", _BLUE, "--"), ("validation", _ORANGE, "-")):
            points = [(row["epoch"], row[f"eval_{part}_{metric}"]) for row in history if f"eval_{part}_{metric}" in row]
            name = "training images" if part == "train" else part
            axis.plot(*zip(*points, strict=True), style, color=colour, marker="o", markersize=3, label=name)
        axis.set(xlabel="epoch", ylabel=metric.replace("_", " "))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(bottom=0)
    axes[1].set_ylim(0, 1)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=150)
