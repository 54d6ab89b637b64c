"""The graph of a release for ONNX Runtime: what its model computes, with weights that are the model's own.

`onnx/graph.onnx` is an ONNX file in which the weights are only named, as in the model's state dict; whoever opens it
hands them over. So it is small, and there is one set of weights in a release. On a CPU it answers as torch does, in a
third of the time.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BaseImageProcessor

from dermalert_space.abstention import features
from dermalert_space.contract import WEIGHTS
from dermalert_space.trial import OUT_OF_MEMORY

TRIAL = Path(__file__).with_name("trial.py")

OUTPUTS = ["logits", "features"]

PLACE = WEIGHTS
"""Where the file says that its weights lie, since ONNX wants a place; nothing is read from there, nor from another."""

CLOSE = 1e-4
"""How far a probability, or a feature as a share of the largest, may be from torch's on the same CPU. Both compute in
single precision and round in another order: 2e-6 to 1e-5 were seen. A wrong weight or operation is off by far more."""


MAX_NODES = 20_000
"""Operations of a graph: the largest backbone has a few thousand."""

SECONDS, MEMORY = 60, 8_000_000_000
"""That a graph may take to answer to two pictures, in a process of its own; bytes beside its weights."""


class Unfit(ValueError):
    """The file is no graph of the model; the text, the end of a sentence, says why."""


class Graph:
    """What ONNX Runtime makes of a graph with a model's weights, on the CPU and on as many threads as torch has."""

    def __init__(self, file: Path, model: torch.nn.Module):
        """Open a file; it is `Unfit` where it is damaged or of another model, or where a package is missing."""
        content = file.read_bytes()
        try:
            import onnxruntime  # takes a moment, which a release without such a file need not wait for

            names = weights_named(content)
            held = model.state_dict()
            missing = [name for name in names if name not in held]
            if missing:
                raise Unfit(f"names weights that its model does not have, such as '{missing[0]}'")
            given = [held[name].cpu().contiguous().numpy() for name in names]
            # Kept, because the session reads them where they lie.
            self._weights = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in given]
            options = session_options()
            options.add_external_initializers(names, self._weights)
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Unfit:
            raise
        except ModuleNotFoundError as error:
            raise Unfit(f"needs the package '{error.name}'") from error
        except ImportError as error:
            raise Unfit(f"needs a package that does not load: {error}") from error
        # Not one type: DecodeError, InvalidProtobuf, InvalidGraph, Fail (another shape or type of a weight), ...
        except Exception as error:
            raise Unfit("is damaged, cut short, or made for other weights") from error

    def __call__(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (n, labels) and features (n, d) of pixels (n, 3, height, width), all float32 on the CPU."""
        logits, features = self._session.run(OUTPUTS, {"pixel_values": pixels.numpy()})
        return torch.from_numpy(logits), torch.from_numpy(features)

    @torch.inference_mode()
    def check(self, model: torch.nn.Module, pixels: torch.Tensor) -> None:
        """Refuse a graph that gives other answers to some pixels than torch, together or to the first alone.

        That finds what names and shapes do not tell: another architecture with the same weights, parts left out, or
        pictures of a batch that have a part in each other's answers.
        """
        expected = model(pixel_values=pixels, output_hidden_states=True)
        probabilities, expected_features = expected.logits.softmax(-1), features(expected.hidden_states)
        try:
            off = torch.stack(
                [self._off(pixels[:n], probabilities[:n], expected_features[:n]) for n in (len(pixels), 1)]
            ).max()
        # Other names, or numbers, of what goes in and comes out.
        except Exception as error:
            raise Unfit("does not take and give what its model does") from error
        if not off <= CLOSE:  # nor not a number
            raise Unfit(f"gives other answers than its model (off by {off:.2g})")

    def _off(self, pixels: torch.Tensor, probabilities: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        logits, computed = self(pixels)
        largest = expected.abs().max().clamp(min=1e-6)
        return torch.stack(
            [(logits.softmax(-1) - probabilities).abs().max(), (computed - expected).abs().max() / largest]
        ).max()


def noise(processor: BaseImageProcessor) -> torch.Tensor:
    """The pixels by which a graph is held against its model: two in which all filters find something."""
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    return processor([Image.fromarray(each) for each in pictures], return_tensors="pt")["pixel_values"]


def session_options() -> Any:
    """The settings of ONNX Runtime: as many threads as torch has, and no message but errors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others may need the core
    options.add_session_config_entry("session.load_model_format", "ONNX")  # no other, which nobody has looked into
    return options


def weights_named(content: bytes) -> list[str]:
    """The names of the weights that an ONNX file wants to be handed.

    Raises:
        Unfit: it wants others than such, from wherever: of a path, ONNX Runtime would read what lies there.
    """
    import onnx

    model = onnx.load_model_from_string(content)
    if model.functions:  # some lines of them can ask for more work than there is time
        raise Unfit("defines operations of its own")
    outside = [tensor for tensor in _tensors(model) if tensor.data_location or tensor.external_data]
    places = [[(entry.key, entry.value) for entry in tensor.external_data] for tensor in outside]
    names = {tensor.name for tensor in model.graph.initializer if tensor.data_location}
    if len(names) != len(outside) or any(place != [("location", PLACE)] for place in places):
        raise Unfit("takes data from files that are not its own")
    if len(model.graph.node) > MAX_NODES:
        raise Unfit(f"has {len(model.graph.node):,} operations: more than any model")
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or any(
            attribute.g.node or attribute.graphs for attribute in node.attribute
        ):
            raise Unfit(f"has an operation '{node.op_type}' that no model needs, such as a loop")
    return sorted(names)


def try_out(file: Path, model: torch.nn.Module, pixels: torch.Tensor) -> None:
    """Refuse a graph that does not come to an end, or takes all memory: it is run in a process that can be ended.

    Whatever else is wrong with it is left to `Graph`.
    """
    content = file.read_bytes()
    try:
        names = weights_named(content)
    except Unfit:
        raise
    except Exception:  # `Graph` will say so
        return
    held = model.state_dict()
    if not names or not all(name in held for name in names):
        return
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "graph.onnx").write_bytes(content)
        (here / "names.json").write_text(json.dumps(names))
        np.save(here / "pixels.npy", pixels.numpy())
        for number, name in enumerate(names):
            np.save(here / f"{number}.npy", held[name].cpu().contiguous().numpy())
        size = sum(each.stat().st_size for each in here.iterdir())
        command = [sys.executable, str(TRIAL), str(folder), str(MEMORY + 4 * size)]
        try:
            ended = subprocess.run(command, timeout=SECONDS, capture_output=True).returncode
        except subprocess.TimeoutExpired as error:
            raise Unfit(f"does not answer within {SECONDS} seconds") from error
    if ended < 0 or ended == OUT_OF_MEMORY:
        raise Unfit("takes more memory than there is")


def _tensors(message: Any) -> Iterator[Any]:
    """Each tensor of an ONNX message, however deep it lies."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "DESCRIPTOR") else value:
                yield from _tensors(part)
