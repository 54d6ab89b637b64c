"""A release for ONNX Runtime and Transformers.js: exported as it is stored, held against torch, in 8 bits if that pays.

What serves the release on a CPU is `onnx/graph.onnx`, which has no weights of its own (see
`dermalert_space.onnx_graph`). Others read `onnx/model.onnx` and `onnx/model_quantized.onnx`, which take
`pixel_values` (batch, 3, height, width) and give `logits` (batch, labels), for which Transformers.js has the names
"fp32" and "q8"; config and processor are those of the release.
"""

import copy
import functools
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import onnx
import onnxruntime
import torch
from datasets import Dataset
from dermalert_space import abstention, onnx_graph
from dermalert_space.contract import GRAPH, TOLERANCE, Json
from dermalert_space.release import Release
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from scipy import special
from torch import nn
from transformers import AutoModelForImageClassification, BaseImageProcessor, PreTrainedModel

from dermalert.config import Export
from dermalert.errors import RunError, UsageError, first_line
from dermalert.evaluation import metrics
from dermalert.evaluation.intervals import Intervals
from dermalert.evaluation.predict import SplitPredictions, inputs, predict
from dermalert.taxonomy import ALERT, DIAGNOSES
from dermalert.training import efficientnet_lite

FILES = {"graph": GRAPH, "model": "onnx/model.onnx", "quantized": "onnx/model_quantized.onnx"}
"""In a release, by what `metrics.json` calls them."""

WORST_LOSS = 0.02
"""Melanoma AUROC that a release in 8 bits may lose at most, as one release against the one before."""

_OPSET = 17
# What is computed in 8 bits. A last layer (Gemm) and a pooling in 8 bits leave nothing of the answers of
# EfficientNet-Lite; its convolutions without the Clip (ReLU6) after them lose 0.07 of melanoma AUROC.
_IN_8_BITS = ["Conv", "Clip", "Relu", "MatMul"]
_RANGES = 64  # training images by which the range of each layer's values is settled
_BATCH = 16

Run = Callable[[np.ndarray], np.ndarray]
"""Gives logits (n, labels) of pixels (n, 3, height, width), float32."""


def check(model: PreTrainedModel, processor: BaseImageProcessor, files: Export) -> None:
    """Refuse, before the training, a model that could not be exported.

    Raises:
        UsageError: it cannot; or its file would be too large.
    """
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for name in _names(files):
                _EXPORTS[name](model, processor, Path(scratch) / "model.onnx")
        # Not one type: OnnxExporterError, RuntimeError, TypeError, Unfit, ...
        except Exception as error:
            raise UsageError(
                f"this model cannot be exported to ONNX ({first_line(error)}): add --onnx none."
            ) from error


class FileReport(TypedDict):
    """What a file of ONNX is worth beside torch, on the held-out images."""

    megabytes: float
    difference: float
    """Of a probability, at most."""
    alerts_changed: int | None
    melanomas_lost: int | None
    auroc_change: Json
    speed: NotRequired[dict[str, float]]
    validation_auroc_change: NotRequired[Json]
    kept: NotRequired[bool]


def _names(files: Export) -> list[str]:
    return ["graph"] if files == "serving" else ["graph", "model"]


def write(
    folder: Path, release: Release, held_out: SplitPredictions, splits: dict[str, Dataset], files: Export
) -> Json:
    """Write `onnx/` of a release, and return its part of `metrics.json`.

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
            (folder / FILES["quantized"]).unlink()
    return {"images": len(held_out.dataset), "batch_size": len(pixels)} | report


def images(files: Export, sizes: Mapping[str, int]) -> int:
    """How many images `write` predicts of splits of these sizes, by all of its models at once."""
    of_validation = 0 if files == "serving" else 2 * sizes["validation"]
    return min(sizes["train"], _RANGES) + sizes["held_out"] + of_validation


def _check_same(report: dict[str, FileReport], release: Release) -> None:
    # On an accelerator torch itself rounds more coarsely than on the CPU.
    most = onnx_graph.CLOSE if release.model.device.type == "cpu" else TOLERANCE
    off = max(report[name]["difference"] for name in report.keys() & _EXPORTS.keys())
    if not off <= most:
        raise RunError(
            f"ONNX Runtime gives other answers than torch (by up to {off:.2g}): run the same command with --onnx none "
            "to have the release without."
        )


def prepare(folder: Path, release: Release, train: Dataset, files: Export) -> np.ndarray:
    """Write the files, and return a batch of pixels to measure their speed with; for the rest see `write`."""
    (folder / "onnx").mkdir()
    some = np.concatenate([*_batches(release, train.select(_spread(len(train), _RANGES)))])
    for name in _names(files):
        export(folder, release.processor, name)
    if files == "all":
        try:
            quantize(folder / FILES["model"], some, folder / FILES["quantized"])
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
        name: _about(folder / FILES[name], release, held_out, rows)
        for name, rows in zip(models, probabilities, strict=True)
    }


def export(folder: Path, processor: BaseImageProcessor, name: str) -> None:
    """Export the classifier in a folder as it is stored, without gates that do nothing.

    Args:
        folder: of the release.
        processor: that of the release.
        name: `graph` or `model`.
    """
    model = _load(folder)
    efficientnet_lite.skip_identity_gates(model)
    _EXPORTS[name](model, processor, folder / FILES[name])


def _load(folder: Path) -> PreTrainedModel:
    return AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()


def _export_graph(model: PreTrainedModel, processor: BaseImageProcessor, to: Path) -> None:
    """Write what a model computes, without its weights."""
    model = copy.deepcopy(model).cpu().eval()
    pixels = onnx_graph.noise(processor)
    _export(
        _other_weights(model),
        pixels,
        to,
        outputs=onnx_graph.OUTPUTS,
        # So that each weight is there, as it is, under its name; ONNX Runtime folds them when it opens the file.
        do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
    )
    _leave_out(model.state_dict(), to)
    onnx_graph.Graph(to, model).check(model, pixels)


def _other_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model with random weights.

    Two weights that are equal would become one, and what depended on them would be written as it is in this model.
    """
    other = copy.deepcopy(model)
    for tensor in other.state_dict().values():
        if tensor.is_floating_point():
            torch.nn.init.uniform_(tensor, 0.5, 1.0)
    return other


def _leave_out(named: dict[str, torch.Tensor], file: Path) -> None:
    """Take out of an ONNX file the data of all that has the name of a weight."""
    model = onnx.load(file)
    for tensor in model.graph.initializer:
        if tensor.name in named:
            empty = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            tensor.CopyFrom(empty)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=onnx_graph.PLACE)
    file.write_bytes(model.SerializeToString())


def _export_model(model: PreTrainedModel, processor: BaseImageProcessor, to: Path) -> None:
    """Write a model with its weights."""
    _export(copy.deepcopy(model).cpu().eval(), onnx_graph.noise(processor), to, outputs=["logits"])


_EXPORTS = {"graph": _export_graph, "model": _export_model}


def _export(model: PreTrainedModel, pixels: torch.Tensor, to: Path, *, outputs: list[str], **how: Any) -> None:
    """Export a model, which is changed by it: it takes and gives plain tensors then."""
    _pool_by_means(model)
    forward = model.forward

    def plain(pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = forward(pixel_values=pixel_values, output_hidden_states=True)
        tensors = {"logits": output.logits, "features": abstention.features(output.hidden_states)}
        return tuple(tensors[name] for name in outputs)

    model.forward = plain  # in the place of a module around it, which would change the names of the weights
    batch = {0: "batch_size"}
    with warnings.catch_warnings():
        # torch calls this exporter the older one. It needs `onnx` alone, where the newer one needs onnxscript too and
        # takes ten times as long (8 s for lite2, and as fast a model); and a trace warns of each `if` in a model.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (pixels,),
            to,
            dynamo=False,
            opset_version=_OPSET,
            input_names=["pixel_values"],
            output_names=outputs,
            dynamic_axes=dict.fromkeys(("pixel_values", *outputs), batch),
            **how,
        )


def _pool_by_means(model: nn.Module) -> None:
    """Have windows that hold all there is, as in EfficientNet, give a mean.

    Before pull request 29629 of July 2026, ONNX Runtime divided by the size of the window and not by what is in it.
    """
    for part in model.modules():
        if isinstance(part, torch.nn.AvgPool2d) and part.ceil_mode:
            window = int(np.min(part.kernel_size))
            part.forward = functools.partial(_pool, part.forward, window)  # type: ignore[method-assign]


def _pool(forward: Callable[..., Any], window: int, values: torch.Tensor) -> torch.Tensor:
    return values.mean((2, 3), keepdim=True) if window >= max(values.shape[2:]) else forward(values)


class _Pixels(CalibrationDataReader):  # type: ignore[misc]
    """Images one by one, as the quantisation asks for them."""

    def __init__(self, pixels: np.ndarray):
        self.batches = iter(np.split(pixels, len(pixels)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next one, or None after the last."""
        batch = next(self.batches, None)
        return None if batch is None else {"pixel_values": batch}


def quantize(file: Path, pixels: np.ndarray, to: Path) -> None:
    """Write a model in 8 bits, weights by channel and values by the range that they have on some pixels.

    Args:
        file: the model in single precision.
        pixels: (n, 3, height, width), float32.
        to: the new file.
    """
    prepared = to.with_suffix(".prepared")
    quant_pre_process(file, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        to,
        _Pixels(pixels),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=_IN_8_BITS,
    )
    prepared.unlink()


def sessions(folder: Path, release: Release) -> dict[str, Run]:
    """An ONNX Runtime session of each file of a release that is there."""
    opening = {"graph": lambda file: _graph(file, release)}
    there = {name: folder / file for name, file in FILES.items() if (folder / file).exists()}
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
    model = _load(folder)

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
    alert, melanoma = release.alerts(probabilities), _melanomas(held_out)
    return {
        "megabytes": file.stat().st_size / 1e6,
        "difference": float(np.abs(probabilities - held_out.probabilities).max()),
        "alerts_changed": None if alert is None else int((alert != held_out.alert).sum()),
        "melanomas_lost": None if alert is None else int((melanoma & held_out.alert & ~alert).sum()),
        "auroc_change": auroc_change(held_out, probabilities),
    }


def _melanomas(predictions: SplitPredictions) -> np.ndarray:
    return np.array(predictions.dataset["label"]) == DIAGNOSES.index(ALERT)


def speeds(folder: Path, release: Release, pixels: np.ndarray, *, threads: int) -> dict[str, dict[str, float]]:
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


def auroc_change(held_out: SplitPredictions, probabilities: np.ndarray) -> Json:
    """The change of the melanoma AUROC by other probabilities of the same images, with its paired interval."""
    melanoma, column = _melanomas(held_out), DIAGNOSES.index(ALERT)
    before, after = held_out.probabilities[:, column].astype(float), probabilities[:, column]
    intervals = Intervals(np.array(held_out.dataset["group"]))
    return intervals.of(lambda w: metrics.auroc(melanoma, after, w) - metrics.auroc(melanoma, before, w)).to_json()


def pays(report: FileReport) -> bool:
    """Whether a model in 8 bits is faster, and its loss of AUROC on validation small and not beyond chance."""
    change = report["validation_auroc_change"]
    if change["value"] is None or min(report["speed"].values()) <= 1:
        return False
    by_chance = change["high"] is not None and change["high"] >= 0 and change["value"] >= -WORST_LOSS
    return change["value"] >= 0 or by_chance
