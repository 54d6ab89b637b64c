"""A release adapted to a clinic: its parent with the change folded in, whole and loadable like any other."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset
from dermalert_space import files, onnx_graph
from dermalert_space.contract import (
    ABSTAINED,
    ALERT_POINT,
    ATTENTION_POINT,
    AUDIT,
    CONFIG,
    FIGURES,
    GRAPH,
    METRICS,
    PREDICTION_SETS,
    PREDICTIONS,
    PROCESSORS,
    REFERENCE,
    STATISTICS,
    Json,
)
from dermalert_space.release import Release

from dermalert.clinic.adaptation import Adaptation, Change
from dermalert.clinic.report import Examination
from dermalert.data import contamination
from dermalert.errors import RunError, UsageError
from dermalert.evaluation import evaluate, plots
from dermalert.evaluation.report import SplitReport, report
from dermalert.release import release_comparison, release_folder
from dermalert.taxonomy import DIAGNOSES, MELANOMA
from dermalert.training import head

_KEPT = (*PROCESSORS, STATISTICS, GRAPH, AUDIT, f"{FIGURES}/learning_curves.png")
"""Files that the change leaves as they are; the graph has no weights of its own."""

_DERIVABLE = {field.name for field in dataclasses.fields(SplitReport)} - {
    "subgroups",
    "subgroup_sensitivity",
    "artefacts",
}
"""What the recorded predictions tell of a changed release; the rest needs the images."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parent:
    """The release that another one was adapted from."""

    name: str
    tag: str | None
    hash: str
    """Of the files that its answers depend on."""
    predictions: str | None
    """The SHA-256 of its recorded predictions, by which the gate knows it."""


def check(release: Release, folder: Path) -> None:
    """Refuse, before the work is done, a folder that is there or a model that no release can be derived from.

    Raises:
        UsageError: one of these.
    """
    if folder.exists():
        raise UsageError(f"--write-release '{folder}' is there already: name a new folder. No release is written over.")
    lacking = [name for name in (METRICS, PREDICTIONS) if release.file(name) is None]
    if release.threshold is None or lacking or list(release.labels) != list(DIAGNOSES):
        raise UsageError(
            f"--write-release adapts dermalert's own releases, with an alert and their figures: {release} is none."
        )


def write(examination: Examination, folder: Path) -> None:
    """Write the release adapted to a clinic; it appears whole, or not at all.

    Raises:
        RunError: the labels support no change.
    """
    release, adaptation, shown = examination.release, examination.report.adaptation, examination.report
    if adaptation is None or not adaptation.changes_anything:
        raise RunError(f"no release is written to '{folder}': your labels support no change. The report says why.")
    parent = Parent(
        name=shown.model.name,
        tag=shown.model.tag,
        hash=shown.model.hash,
        predictions=release_comparison.fingerprint(_file(release, PREDICTIONS)),
    )
    with release_folder.stage(folder) as staging:
        _write_model(release, staging, adaptation)
        for name in _KEPT:
            if path := release.file(name):
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, staging / name)
        derived = Release.load(staging)
        (staging / FIGURES).mkdir(parents=True, exist_ok=True)
        evaluate.write_reference(staging / REFERENCE, derived)
        table = _predictions(pq.read_table(_file(release, PREDICTIONS)), adaptation.change)
        pq.write_table(table, staging / PREDICTIONS)
        metrics = _metrics(release, derived, table, adaptation, parent, shown.folder)
        files.write_json(staging / METRICS, metrics)
        _write_exposure(release, examination.labelled, staging)
        plots.draw(staging / FIGURES, metrics, table, [])
        release_folder.write_card(staging)


def _file(release: Release, name: str) -> Path:
    path = release.file(name)
    assert path is not None  # `check` has seen it
    return path


def _write_model(release: Release, folder: Path, adaptation: Adaptation) -> None:
    """Fold the change into the last layer, and the thresholds into the config; the parent in memory stays as it is."""
    change = adaptation.change
    # A model of its own: that of the release goes on serving.
    model = Release.load(release.name, release.revision).model.cpu()
    layer = head.last_linear(model, onnx_graph.noise(release.processor))
    if layer.bias is None and change.intercept:
        raise RunError("the last layer of this release has no bias, so that no intercept can be folded into it.")
    bias = np.zeros(len(DIAGNOSES))
    bias[MELANOMA] = change.intercept
    head.fold(layer, change.temperature, bias)
    model.save_pretrained(folder)
    release_folder.compact(folder)
    config = json.loads((folder / CONFIG).read_text())
    config["dermalert"] = {**config.get("dermalert", {}), "version": None}
    config.pop(PREDICTION_SETS, None)  # they were set on the parent's probabilities
    config[ALERT_POINT] = _alert(config[ALERT_POINT], adaptation)
    if attention := config.get(ATTENTION_POINT):
        config[ATTENTION_POINT] = _attention(attention, release, change)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _alert(alert: Json, adaptation: Adaptation) -> Json:
    if adaptation.point is not None:
        return {"label": alert["label"]} | adaptation.point
    return alert | {"threshold": adaptation.change.moved(alert["threshold"])}


def _attention(point: Json, release: Release, change: Change) -> Json:
    """The point for what is malignant, so low that each recorded image that reached it does so; its bound is void."""
    if point["threshold"] is None or change == Change():
        return point
    before = _probabilities(pq.read_table(_file(release, PREDICTIONS)))
    columns = [DIAGNOSES.index(label) for label in point["labels"]]
    reached = before[:, columns].sum(1) >= point["threshold"]
    after = change.of(before[reached])[:, columns].sum(1)
    return point | {"threshold": float(after.min(initial=point["threshold"]) * (1 - 1e-4)), "bound_met": False}


def _probabilities(table: pa.Table) -> np.ndarray:
    return np.stack([table[name].to_numpy().astype(np.float64) for name in DIAGNOSES], 1)


def _predictions(table: pa.Table, change: Change) -> pa.Table:
    """The recorded predictions as the changed release gives them."""
    changed = change.of(_probabilities(table)).astype(np.float32)
    for i, name in enumerate(DIAGNOSES):
        table = table.set_column(table.column_names.index(name), name, pa.array(changed[:, i]))
    return table


def _metrics(
    release: Release, derived: Release, table: pa.Table, adaptation: Adaptation, parent: Parent, clinic: str
) -> Json:
    """The figures of the parent, with all that its recorded predictions tell of the change in their place."""
    metrics = json.loads(_file(release, METRICS).read_text())
    splits = metrics["splits"]
    for name in splits:
        rows = table.filter(pc.equal(table["split"], name))
        if len(rows):
            splits[name] = _merge(splits[name], _split(derived, rows))
    config = derived.model.config
    gone = {"gate", "previous", "history", "released", "onnx"}
    return {key: value for key, value in metrics.items() if key not in gone} | {
        "version": None,
        "splits": splits,
        ALERT_POINT: config.alert,
        ATTENTION_POINT: config.attention if derived.attention else metrics.get(ATTENTION_POINT),
        "adapted": {
            "clinic": clinic,
            "images": adaptation.images,
            "lesions": adaptation.lesions,
            "melanomas": adaptation.positives,
            "temperature": adaptation.change.temperature,
            "intercept": adaptation.change.intercept,
            "new_threshold": adaptation.point is not None,
            "sentences": adaptation.sentences,
            "parent": dataclasses.asdict(parent),
        },
    }


def _merge(of_parent: Json, changed: Json) -> Json:
    """The figures of a split, with those of the parent where only the images would tell the change."""
    # The parent's prediction sets are not those of a changed release, which has none.
    kept = {key: of_parent[key] for key in of_parent.keys() - (_DERIVABLE & changed.keys()) - {PREDICTION_SETS}}
    before = {key: value for key, value in of_parent["calibration"].items() if key == "before"}
    return changed | kept | {"calibration": changed["calibration"] | before}


def _split(derived: Release, rows: pa.Table) -> Json:
    probabilities = np.stack([rows[name].to_numpy() for name in DIAGNOSES], 1)
    return report(
        np.array([DIAGNOSES.index(name) for name in rows["truth"].to_pylist()]),
        probabilities,
        np.array(rows["group"].to_pylist()),
        alert=derived.alerts(probabilities),
        attention=derived.attentions(probabilities),
        abstained=np.array(rows[ABSTAINED].to_pylist(), bool),
        sources=rows["source"].to_pylist(),
    ).to_json()


def _write_exposure(release: Release, labelled: Dataset, folder: Path) -> None:
    """Write what the release has learnt from: what its parent has, and the clinic's labelled images."""
    nothing = labelled.select([])
    parts = {"train": nothing, "validation": nothing, "calibration": labelled}
    base = contamination.read(release.name, release.revision)
    contamination.write(contamination.of(parts, base), folder)
