"""A release for ONNX Runtime and Transformers.js: exported as it is stored, held against torch, in 8 bits if that pays.

Both read `onnx/*.onnx` with `pixel_values` (batch, 3, height, width) in and `logits` (batch, labels) out; config and
processor are those of the release. Transformers.js takes `model.onnx` for `dtype: "fp32"` and `model_quantized.onnx`
for "q8". `model.onnx` gives `features` (batch, d) too, by which `space/refusal.py` declines: what serves the release on
a CPU is this file.
"""

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from datasets import Dataset
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image
from scipy import special
from transformers import AutoModelForImageClassification

from dermalert import backbones, metrics
from dermalert.diagnoses import ALERT, DIAGNOSES
from dermalert.errors import RunError, UsageError, first_line
from dermalert.evaluation import Side
from space import refusal, triage

FILE, QUANTIZED = triage.ONNX, "onnx/model_quantized.onnx"

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


def check(model, processor) -> None:
    """Refuse, before the training, a model that could not be exported.

    Raises:
        UsageError: it cannot; or its file would be too large.
    """
    with tempfile.TemporaryDirectory() as scratch:
        try:
            _export(model, _pixels(processor, [Image.new("RGB", (96, 64))]), Path(scratch) / "model.onnx")
        # Not one type: OnnxExporterError, RuntimeError, TypeError, ...
        except Exception as error:
            raise UsageError(f"this model cannot be exported to ONNX ({first_line(error)}): add --no_onnx.") from error


def write(folder: Path, judge: triage.Release, held_out: Side, validation: Side, train: Dataset) -> dict:
    """Write `onnx/` of a release, and return what there is to say of it.

    Args:
        folder: of the release, with its weights as they are stored.
        judge: the same, loaded; its processor makes the pixels.
        held_out: images that choose nothing, with the judge's answers.
        validation: those that decide whether the file in 8 bits is kept.
        train: images that the 8-bit ranges are taken from.

    Raises:
        RunError: ONNX Runtime gives other answers than torch.
    """
    pixels = prepare(folder, judge, train)
    exact, coarse = compare(folder, judge, held_out)
    if not exact["difference"] <= triage.TOLERANCE:
        raise RunError(
            f"ONNX Runtime gives other answers than torch (by up to {exact['difference']:.2g}): run the same command "
            "with --no_onnx to have the release without."
        )
    exact["speed"], coarse["speed"] = speeds(folder, pixels, threads=1)
    coarse["validation_auroc_change"] = compare(folder, judge, validation)[1]["auroc_change"]
    coarse["kept"] = pays(coarse)
    if not coarse["kept"]:
        (folder / QUANTIZED).unlink()
    return {"images": len(held_out.dataset), "batch_size": len(pixels), "model": exact, "quantized": coarse}


def prepare(folder: Path, judge: triage.Release, train: Dataset) -> np.ndarray:
    """Write both files, and return a batch of pixels to measure their speed with; for the rest see `write`."""
    (folder / FILE).parent.mkdir()
    some = _pixels(judge.processor, _read(train.select(_spread(len(train), _RANGES))))
    export(folder, judge.processor, folder / FILE)
    try:
        quantize(folder / FILE, some, folder / QUANTIZED)
    # Not one type either; the training stands, and goes into a release without ONNX.
    except Exception as error:
        raise RunError(
            f"this model cannot be stored in 8 bits ({first_line(error)}): run the same command again with --no_onnx."
        ) from error
    return some[:_BATCH]


def compare(folder: Path, judge: triage.Release, held_out: Side) -> list[dict]:
    """Return size, difference from torch, alerts and change of melanoma AUROC of both files; see `write`."""
    files = folder / FILE, folder / QUANTIZED
    found = answers(judge.processor, held_out.dataset, [session(file) for file in files])
    return [_about(file, judge, held_out, rows) for file, rows in zip(files, found, strict=True)]


def export(folder: Path, processor, to: Path) -> None:
    """Export the classifier in a folder as it is stored, without gates that do nothing."""
    model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32)
    backbones.skip_identity_gates(model)
    _export(model, _pixels(processor, [Image.new("RGB", (96, 64))] * 2), to)


class _Plain(torch.nn.Module):
    """A classifier that takes and gives plain tensors: pixels in, logits and features out."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.model(pixel_values=pixel_values, output_hidden_states=True)
        return found.logits, refusal.features(found.hidden_states)


def _export(model, pixels: np.ndarray, to: Path) -> None:
    batch = {0: "batch_size"}
    with warnings.catch_warnings():
        # torch calls this exporter the older one. It needs `onnx` alone, where the newer one needs onnxscript too and
        # takes ten times as long (8 s for lite2, and as fast a model); and a trace warns of each `if` in a model.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Plain(model.cpu()).eval(),
            (torch.from_numpy(pixels),),
            to,
            dynamo=False,
            opset_version=_OPSET,
            input_names=["pixel_values"],
            output_names=["logits", "features"],
            dynamic_axes={"pixel_values": batch, "logits": batch, "features": batch},
        )


class _Pixels(CalibrationDataReader):
    """Images one by one, as the quantisation asks for them."""

    def __init__(self, pixels: np.ndarray):
        self.batches = iter(np.split(pixels, len(pixels)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next one, or None after the last."""
        batch = next(self.batches, None)
        return None if batch is None else {"pixel_values": batch}


def quantize(file: Path, pixels: np.ndarray, to: Path) -> None:
    """Write a model in 8 bits, weights by channel and values by the range that they have on some pixels; logits alone.

    Args:
        file: the model in single precision.
        pixels: (n, 3, height, width), float32.
        to: the new file.
    """
    prepared = to.with_suffix(".prepared")
    onnx.utils.extract_model(file, prepared, ["pixel_values"], ["logits"])
    quant_pre_process(prepared, prepared, skip_symbolic_shape=True)
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


def session(file: Path) -> Run:
    """Return what ONNX Runtime makes of a file, on as many threads as torch has."""
    loaded = triage.open_session(file)
    return lambda pixels: loaded.run(["logits"], {"pixel_values": pixels})[0]


def plain(folder: Path) -> Run:
    """Return what transformers makes of a release's folder on the CPU, as a `pipeline` would."""
    model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def run(pixels: np.ndarray) -> np.ndarray:
        return model(pixel_values=torch.from_numpy(pixels)).logits.numpy()

    return run


def answers(processor, dataset: Dataset, runs: list[Run]) -> list[np.ndarray]:
    """Return the probabilities (n, labels) that each of several models gives of a data set's images."""
    found = [[run(batch) for run in runs] for batch in _batches(processor, dataset)]
    return [special.softmax(np.concatenate(logits).astype(float), axis=1) for logits in zip(*found, strict=True)]


def _batches(processor, dataset: Dataset) -> Iterator[np.ndarray]:
    for start in range(0, len(dataset), _BATCH):
        yield _pixels(processor, _read(dataset.select(range(start, min(start + _BATCH, len(dataset))))))


def _read(dataset: Dataset) -> list[Image.Image]:
    return [triage.read_image(image) for image in dataset["image"]]


def _pixels(processor, images: list[Image.Image]) -> np.ndarray:
    return processor(images, return_tensors="pt")["pixel_values"].numpy()


def _spread(n: int, most: int) -> list[int]:
    """Return at most so many of n places, evenly spread: images of one folder or diagnosis lie beside each other."""
    return np.unique(np.linspace(0, n - 1, most).round().astype(int)).tolist()


def _about(file: Path, judge: triage.Release, held_out: Side, probabilities: np.ndarray) -> dict:
    alert, melanoma = judge.alerts(probabilities), _melanomas(held_out)
    return {
        "megabytes": file.stat().st_size / 1e6,
        "difference": float(np.abs(probabilities - held_out.probabilities).max()),
        "alerts_changed": None if alert is None else int((alert != held_out.alert).sum()),
        "melanomas_lost": None if alert is None else int((melanoma & held_out.alert & ~alert).sum()),
        "auroc_change": auroc_change(held_out, probabilities),
    }


def _melanomas(side: Side) -> np.ndarray:
    return np.array(side.dataset["label"]) == DIAGNOSES.index(ALERT)


def speeds(folder: Path, pixels: np.ndarray, *, threads: int) -> list[dict[str, float]]:
    """Return how many times as fast each file is as what it stands for: torch, and the file in single precision.

    Medians of paired runs, of `single` images and of a `batch`. On one thread they mean something on a machine with
    other work too.

    Args:
        folder: of the release.
        pixels: the batch, (n, 3, height, width), float32.
        threads: of all three.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        models = [plain(folder), session(folder / FILE), session(folder / QUANTIZED)]
        pairs = [models[:2], models[1:]]
        return [
            {"single": _ratio(*pair, pixels[:1], repeats=15), "batch": _ratio(*pair, pixels, repeats=5)}
            for pair in pairs
        ]
    finally:
        torch.set_num_threads(before)


def _ratio(slow: Run, fast: Run, pixels: np.ndarray, *, repeats: int) -> float:
    for run in (slow, fast):
        run(pixels)  # the first one allocates
    pairs = [(_seconds(slow, pixels), _seconds(fast, pixels)) for _ in range(repeats)]
    return float(np.median([one / other for one, other in pairs]))


def _seconds(run: Run, pixels: np.ndarray) -> float:
    started = time.perf_counter()
    run(pixels)
    return time.perf_counter() - started


def auroc_change(held_out: Side, probabilities: np.ndarray) -> dict:
    """Return by how much other answers to the same images change the melanoma AUROC, with its paired interval."""
    melanoma, column = _melanomas(held_out), DIAGNOSES.index(ALERT)
    before, after = held_out.probabilities[:, column].astype(float), probabilities[:, column]
    intervals = metrics.Intervals(np.array(held_out.dataset["group"]))
    return intervals.of(lambda w: metrics.auroc(melanoma, after, w) - metrics.auroc(melanoma, before, w))


def pays(told: dict) -> bool:
    """Tell whether a model in 8 bits is faster, and its loss of AUROC on validation small and not beyond chance."""
    change = told["validation_auroc_change"]
    if change["value"] is None or min(told["speed"].values()) <= 1:
        return False
    by_chance = change["high"] is not None and change["high"] >= 0 and change["value"] >= -WORST_LOSS
    return change["value"] >= 0 or by_chance
