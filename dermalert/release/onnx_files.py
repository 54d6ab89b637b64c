"""The ONNX files of a release: written, held against torch, and the one in 8 bits kept if that pays."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NotRequired, TypedDict, cast

import numpy as np
import onnxruntime
import torch
from datasets import Dataset
from dermalert_space import onnx_graph
from dermalert_space.contract import TOLERANCE, Json
from dermalert_space.estimate import Estimate
from dermalert_space.release import Release
from scipy import special

from dermalert.config import Export
from dermalert.errors import RunError, first_line
from dermalert.evaluation import metrics
from dermalert.evaluation.intervals import Intervals
from dermalert.evaluation.predict import SplitPredictions, inputs, predict
from dermalert.release import onnx_export
from dermalert.taxonomy import MELANOMA

WORST_LOSS = 0.02
"""Melanoma AUROC that a release in 8 bits may lose at most, as one release against the one before."""

_RANGES = 64  # training images by which the range of each layer's values is settled
_BATCH = 16

Run = Callable[[np.ndarray], np.ndarray]
"""Gives logits (n, labels) of pixels (n, 3, height, width), float32."""


class Speed(TypedDict):
    """How many times as fast as its counterpart a file is."""

    single: float
    batch: float


class FileReport(TypedDict):
    """What a file of ONNX is worth beside torch, on the held-out images."""

    megabytes: float
    difference: float
    """Of a probability, at most."""
    alerts_changed: int | None
    melanomas_lost: int | None
    auroc_change: Json
    speed: NotRequired[Speed]
    validation_auroc_change: NotRequired[Json]
    kept: NotRequired[bool]


class OnnxReport(TypedDict):
    """The key `onnx` of `metrics.json`: each of `onnx_export.FILES` that was written, and on what it was measured."""

    images: int
    batch_size: int
    graph: FileReport
    model: NotRequired[FileReport]
    quantized: NotRequired[FileReport]


def write(
    folder: Path, release: Release, held_out: SplitPredictions, splits: dict[str, Dataset], files: Export
) -> OnnxReport:
    """Write `onnx/` of a release, and measure it.

    Args:
        folder: of the release, with its weights as they are stored.
        release: the same, loaded; its processor makes the pixels.
        held_out: images that choose nothing, with the release's answers.
        splits: `validation` decides whether the file in 8 bits is kept, `train` gives the ranges of its values.
        files: the graph alone, or all files.

    Raises:
        RunError: ONNX Runtime gives other answers than torch.
    """
    pixels = prepare(folder, release, splits["train"], files)
    report = compare(folder, release, held_out)
    _check_same(report, release)
    for name, speed in speeds(folder, release, pixels, threads=1).items():
        report[name]["speed"] = speed
    if "quantized" in report:
        coarse = report["quantized"]
        validation = predict(_without_abstention(release), splits["validation"], name="validation", keep=True)
        coarse["validation_auroc_change"] = compare(folder, release, validation)["quantized"]["auroc_change"]
        coarse["kept"] = pays(coarse)
        if not coarse["kept"]:
            (folder / onnx_export.FILES["quantized"]).unlink()
    return cast(OnnxReport, {"images": len(held_out.dataset), "batch_size": len(pixels), **report})


def images(files: Export, sizes: Mapping[str, int]) -> int:
    """How many images `write` predicts of splits of these sizes, by all of its models at once."""
    of_validation = 0 if files == "serving" else 2 * sizes["validation"]
    return min(sizes["train"], _RANGES) + sizes["held_out"] + of_validation


def _check_same(report: dict[str, FileReport], release: Release) -> None:
    # On an accelerator torch itself rounds more coarsely than on the CPU.
    most = onnx_graph.CLOSE if release.model.device.type == "cpu" else TOLERANCE
    off = max(report[name]["difference"] for name in report.keys() & onnx_export.EXPORTS.keys())
    if not off <= most:
        raise RunError(
            f"ONNX Runtime gives other answers than torch (by up to {off:.2g}): run the same command with --onnx none "
            "to have the release without."
        )


def prepare(folder: Path, release: Release, train: Dataset, files: Export) -> np.ndarray:
    """Write the files, and return a batch of pixels to measure their speed with; for the rest see `write`."""
    (folder / "onnx").mkdir()
    some = np.concatenate([*_batches(release, train.select(_spread(len(train), _RANGES)))])
    for name in onnx_export.names(files):
        onnx_export.export(folder, release.processor, name)
    if files == "all":
        try:
            onnx_export.quantize(folder / onnx_export.FILES["model"], some, folder / onnx_export.FILES["quantized"])
        # Not one type either; the training stands, and goes into a release without this file.
        except Exception as error:
            raise RunError(
                f"this model cannot be stored in 8 bits ({first_line(error)}): run the same command again with "
                "--onnx serving."
            ) from error
    return some[:_BATCH]


def compare(folder: Path, release: Release, held_out: SplitPredictions) -> dict[str, FileReport]:
    """Each file beside torch; see `write`."""
    models = sessions(folder, release)
    probabilities = probabilities_of(release, held_out.dataset, list(models.values()))
    return {
        name: _about(folder / onnx_export.FILES[name], release, held_out, rows)
        for name, rows in zip(models, probabilities, strict=True)
    }


def sessions(folder: Path, release: Release) -> dict[str, Run]:
    """An ONNX Runtime session of each file of a release that is there."""
    opening = {"graph": lambda file: _graph(file, release)}
    there = {name: folder / file for name, file in onnx_export.FILES.items() if (folder / file).exists()}
    return {name: opening.get(name, session)(file) for name, file in there.items()}


def _graph(file: Path, release: Release) -> Run:
    loaded = onnx_graph.Graph(file, release.model)
    return lambda pixels: loaded(torch.from_numpy(pixels))[0].numpy()


def session(file: Path) -> Run:
    """An ONNX Runtime session of a file with weights, on as many threads as torch has."""
    loaded = onnxruntime.InferenceSession(file, onnx_graph.session_options(), providers=["CPUExecutionProvider"])
    return lambda pixels: loaded.run(["logits"], {"pixel_values": pixels})[0]


def plain(folder: Path) -> Run:
    """A release's folder run by transformers on the CPU, as a `pipeline` would."""
    model = onnx_export.load(folder)

    @torch.inference_mode()
    def run(pixels: np.ndarray) -> np.ndarray:
        return model(pixel_values=torch.from_numpy(pixels)).logits.numpy()

    return run


def probabilities_of(release: Release, dataset: Dataset, runs: list[Run]) -> list[np.ndarray]:
    """The probabilities (n, labels) of a data set's images, of each of several models that take a release's pixels."""
    logits = [[run(batch) for run in runs] for batch in _batches(release, dataset)]
    return [special.softmax(np.concatenate(batches).astype(float), axis=1) for batches in zip(*logits, strict=True)]


def _batches(release: Release, dataset: Dataset) -> Iterator[np.ndarray]:
    for batch in inputs(_without_abstention(release), dataset, "Comparing the export"):
        yield batch.pixels["pixel_values"].numpy()


def _without_abstention(release: Release) -> Release:
    """The same model, which looks at nothing but pixels: an image of the training need not be decoded for more."""
    return Release(release.model, release.processor, name=release.name)


def _spread(n: int, most: int) -> list[int]:
    """At most so many of n places, evenly spread: images of one folder or diagnosis lie beside each other."""
    return np.unique(np.linspace(0, n - 1, most).round().astype(int)).tolist()


def _about(file: Path, release: Release, held_out: SplitPredictions, probabilities: np.ndarray) -> FileReport:
    alert, melanoma = release.alerts(probabilities), held_out.melanoma
    return {
        "megabytes": file.stat().st_size / 1e6,
        "difference": float(np.abs(probabilities - held_out.probabilities).max()),
        "alerts_changed": None if alert is None else int((alert != held_out.alert).sum()),
        "melanomas_lost": None if alert is None else int((melanoma & held_out.alert & ~alert).sum()),
        "auroc_change": auroc_change(held_out, probabilities).to_json(),
    }


def speeds(folder: Path, release: Release, pixels: np.ndarray, *, threads: int) -> dict[str, Speed]:
    """The speed of each file over that of its counterpart: torch, or the model in single precision.

    Medians of paired runs, of `single` images and of a `batch`. On one thread they mean something on a machine with
    other work too.

    Args:
        folder: of the release.
        release: the same, loaded.
        pixels: the batch, (n, 3, height, width), float32.
        threads: of all of them.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        models = {"torch": plain(folder)} | sessions(folder, release)
        beside = {"graph": "torch", "model": "torch", "quantized": "model"}
        pairs = {name: (models[beside[name]], models[name]) for name in beside.keys() & models.keys()}
        return {
            name: {"single": _ratio(*pair, pixels[:1], repeats=15), "batch": _ratio(*pair, pixels, repeats=5)}
            for name, pair in pairs.items()
        }
    finally:
        torch.set_num_threads(before)


def _ratio(slow: Run, fast: Run, pixels: np.ndarray, *, repeats: int) -> float:
    for run in (slow, fast):
        run(pixels)  # the first one allocates
    pairs = [(_seconds(slow, pixels), _seconds(fast, pixels)) for _ in range(repeats)]
    return float(np.median([one / other for one, other in pairs]))


def _seconds(run: Run, pixels: np.ndarray) -> float:
    start = time.perf_counter()
    run(pixels)
    return time.perf_counter() - start


def auroc_change(held_out: SplitPredictions, probabilities: np.ndarray) -> Estimate:
    """The change of the melanoma AUROC by other probabilities of the same images, with its paired interval."""
    melanoma, before, after = (
        held_out.melanoma,
        held_out.melanoma_probabilities.astype(float),
        probabilities[:, MELANOMA],
    )
    intervals = Intervals(np.array(held_out.dataset["group"]))
    return intervals.of(lambda w: metrics.auroc(melanoma, after, w) - metrics.auroc(melanoma, before, w))


def pays(report: FileReport) -> bool:
    """Whether a model in 8 bits is faster, and its loss of AUROC on validation small and not beyond chance."""
    change, speed = report["validation_auroc_change"], report["speed"]
    if change["value"] is None or min(speed["single"], speed["batch"]) <= 1:
        return False
    by_chance = change["high"] is not None and change["high"] >= 0 and change["value"] >= -WORST_LOSS
    return change["value"] >= 0 or by_chance
