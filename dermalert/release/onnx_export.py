"""A release for ONNX Runtime and Transformers.js: exported as it is stored, and in 8 bits.

What serves the release on a CPU is `onnx/graph.onnx`, which has no weights of its own (see
`dermalert_space.onnx_graph`). Others read `onnx/model.onnx` and `onnx/model_quantized.onnx`, which take
`pixel_values` (batch, 3, height, width) and give `logits` (batch, labels), for which Transformers.js has the names
"fp32" and "q8"; config and processor are those of the release.
"""

import copy
import functools
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from dermalert_space import abstention, onnx_graph
from dermalert_space.contract import GRAPH
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn
from transformers import AutoModelForImageClassification, BaseImageProcessor, PreTrainedModel

from dermalert.config import Export
from dermalert.errors import UsageError, first_line
from dermalert.training import efficientnet_lite

FILES = {"graph": GRAPH, "model": "onnx/model.onnx", "quantized": "onnx/model_quantized.onnx"}
"""In a release, by what `metrics.json` calls them."""

_OPSET = 17
# What is computed in 8 bits. A last layer (Gemm) and a pooling in 8 bits leave nothing of the answers of
# EfficientNet-Lite; its convolutions without the Clip (ReLU6) after them lose 0.07 of melanoma AUROC.
_IN_8_BITS = ["Conv", "Clip", "Relu", "MatMul"]


def check(model: PreTrainedModel, processor: BaseImageProcessor, files: Export) -> None:
    """Refuse, before the training, a model that could not be exported.

    Raises:
        UsageError: it cannot; or its file would be too large.
    """
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for name in names(files):
                EXPORTS[name](model, processor, Path(scratch) / "model.onnx")
        # Not one type: OnnxExporterError, RuntimeError, TypeError, Unfit, ...
        except Exception as error:
            raise UsageError(
                f"this model cannot be exported to ONNX ({first_line(error)}): add --onnx none."
            ) from error


def names(files: Export) -> list[str]:
    """Which of `FILES` are exported; the quantised one is made of another."""
    return ["graph"] if files == "serving" else ["graph", "model"]


def export(folder: Path, processor: BaseImageProcessor, name: str) -> None:
    """Export the classifier in a folder as it is stored, without gates that do nothing.

    Args:
        folder: of the release.
        processor: that of the release.
        name: `graph` or `model`.
    """
    model = load(folder)
    efficientnet_lite.skip_identity_gates(model)
    EXPORTS[name](model, processor, folder / FILES[name])


def load(folder: Path) -> PreTrainedModel:
    """The classifier in a folder as it is stored, on the CPU."""
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


EXPORTS = {"graph": _export_graph, "model": _export_model}


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
