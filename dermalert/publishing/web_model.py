"""What the page of a release needs to answer as the release does: a model with its weights, and how pixels are made."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from dermalert_space import contract, onnx_graph
from dermalert_space.contract import CONFIG, PROCESSORS, REFERENCE, STATISTICS, WEIGHTS, Json
from dermalert_space.release import Inputs, Release
from onnx import helper, numpy_helper
from PIL import Image
from safetensors.torch import load_file, save

from dermalert.errors import UsageError
from dermalert.evaluation import evaluate
from dermalert.release import onnx_export

FOLDER = "release"
FILES = {"model": "model.onnx", "reference": Path(REFERENCE).name, "statistics": STATISTICS}
"""In the page's `FOLDER`, by what its scripts call them."""

_FILTERS = (1, 2, 3, 4)  # of Pillow, that `web/pillow.js` has


def files(release: Release) -> dict[str, bytes]:
    """The files that the page loads of a release, by the keys of `FILES`; no statistics where it never abstains."""
    content = {"model": _model(release), "reference": _reference(release)}
    if release.abstention:
        path = release.file(STATISTICS)
        assert path  # it was read
        content["statistics"] = save({name: tensor.float() for name, tensor in load_file(path).items()})
    return content


def _model(release: Release) -> bytes:
    """The release's graph with its weights, in half precision where that changes none of them."""
    model, weights = onnx.load_model_from_string(_graph(release)), release.model.state_dict()
    casts = []
    for tensor in model.graph.initializer:
        name = tensor.name
        if name not in weights:
            continue
        values = weights[name].cpu().numpy()
        half = values.astype(np.float16) if values.dtype == np.float32 else values
        if half is values or not np.array_equal(half.astype(np.float32), values):
            tensor.CopyFrom(numpy_helper.from_array(values, name))
        else:
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    content: bytes = model.SerializeToString()
    _check(content, release)
    return content


def _graph(release: Release) -> bytes:
    """The release's graph without weights; made anew where the release has none."""
    if path := release.file(contract.GRAPH):
        return path.read_bytes()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in (CONFIG, WEIGHTS, *PROCESSORS):
            if path := release.file(name):
                shutil.copy(path, folder / name)
        (folder / contract.GRAPH).parent.mkdir()
        onnx_export.export(folder, release.processor, "graph")
        return (folder / contract.GRAPH).read_bytes()


def _check(model: bytes, release: Release) -> None:
    """Refuse a model that does not answer as the release."""
    pixels = onnx_graph.noise(release.processor)
    logits, features = release.forward(Inputs(pixels={"pixel_values": pixels}, signals=[]), with_features=True)
    assert features is not None  # they were asked for
    session = onnxruntime.InferenceSession(model, onnx_graph.session_options(), providers=["CPUExecutionProvider"])
    computed = session.run(onnx_graph.OUTPUTS, {"pixel_values": pixels.numpy()})
    for given, expected in zip(computed, (logits, features), strict=True):
        off = np.abs(given - expected.numpy()).max() / max(float(expected.abs().max()), 1e-6)
        if not off <= contract.TOLERANCE:
            raise UsageError(f"{release} cannot be served by a page: ONNX Runtime is off by {off:.2g}.")


def _reference(release: Release) -> bytes:
    """The recorded reference images; of a release made before there were any, what it answers here."""
    if path := release.file(REFERENCE):
        return path.read_bytes()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / FILES["reference"]
        evaluate.write_reference(path, release)
        return path.read_bytes()


def processor(release: Release) -> Json:
    """How the page makes pixels for the model; UsageError where the release's processor does anything else."""
    own: Any = release.processor
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8))
    try:
        steps: Json = {"width": own.size["width"], "height": own.size["height"], "resample": int(own.resample)}
        steps |= {"scale": own.rescale_factor, "mean": list(own.image_mean), "std": list(own.image_std)}
        small = np.asarray(picture.resize((steps["width"], steps["height"]), steps["resample"]), np.float32)
        pixels = (small * steps["scale"] - steps["mean"]) / steps["std"]
        expected = own([picture], return_tensors="np")["pixel_values"][0]
        if steps["resample"] in _FILTERS and np.allclose(pixels.transpose(2, 0, 1), expected, atol=1e-5):
            return steps
    except (KeyError, TypeError, ValueError, AttributeError):  # a step is missing, or another one is there
        pass
    raise UsageError(
        f"{release} cannot be served by a page: its processor does more, or less, than resize to a fixed size, scale "
        "and normalise."
    )
