"""The graph that serves a release: it answers as torch does with the release's own weights, or is refused."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from datasets import Dataset
from dermalert_space import abstention, onnx_graph
from dermalert_space.contract import GRAPH
from dermalert_space.release import NoRelease, Release
from huggingface_hub import HfApi
from onnx import TensorProto, helper
from support.networks import ARCHITECTURES, PATCHES, TOKENS, edited, replaced, saved, with_graph
from support.paths import REPOSITORY
from support.pictures import class_folders
from support.releases import make_image, make_release
from transformers import (
    BeitConfig,
    DeiTConfig,
    DeiTForImageClassification,
    MobileNetV2Config,
    Swinv2Config,
    ViTImageProcessorPil,
)
from transformers.models.auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

from dermalert.data import loading
from dermalert.errors import UsageError
from dermalert.release import archive_triage, fit_abstention, onnx_export

pytestmark = pytest.mark.integration

OTHERS = {
    "DeiT": DeiTConfig(**TOKENS, **PATCHES),
    "BEiT, one table for all layers": BeitConfig(
        **TOKENS, **PATCHES, use_shared_relative_position_bias=True, use_relative_position_bias=False
    ),
    "Swin v2": Swinv2Config(image_size=32, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4),
    "MobileNet": MobileNetV2Config(image_size=32, depth_multiplier=0.35),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Dataset:
    root = tmp_path_factory.mktemp("pictures")
    class_folders(root, images=12)
    return loading.load([str(root)]).dataset


@pytest.fixture(scope="module")
def served(pictures, tmp_path_factory) -> Path:
    """A release that declines, with a graph."""
    folder = make_release(tmp_path_factory.mktemp("served"), generated=False, image_size=64)
    fit_abstention.add(folder, Release.load(folder), pictures, pictures)
    return with_graph(folder)


@pytest.fixture
def copied(served, tmp_path) -> Path:
    """The same, to be changed."""
    return shutil.copytree(served, tmp_path / "copied")


def refused(folder: Path) -> str:
    with pytest.raises(NoRelease) as error:
        Release.load(folder)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{folder} cannot be served: its onnx/graph.onnx ") and line.endswith(".")
    return line.split(GRAPH)[1]


def test_onnx_runtime_serves_a_release_that_has_a_graph_and_answers_as_torch_does(served, pictures, tmp_path):
    shutil.copytree(served, tmp_path / "without", ignore=shutil.ignore_patterns("onnx"))
    fast, plain = Release.load(served), Release.load(tmp_path / "without")
    assert fast.graph is not None and plain.graph is None
    fast.model = None
    images = [image.convert("RGB") for image in pictures["image"][:20]] + [make_image((90, 70)), make_image((9, 9))]
    ours, theirs = fast.predict_arrays(images, batch_size=5), plain.predict_arrays(images)
    assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-5)
    batch = plain.inputs(images)
    assert fast.features(batch) == pytest.approx(plain.features(batch), abs=1e-4)
    assert ours.abstained == theirs.abstained and 0 < sum(why is not None for why in ours.abstained) < len(images)


def test_the_weights_are_the_models_own_whichever_these_are(copied):
    """A graph is of an architecture: with other weights in the release it gives the answers of those."""
    before, image = Release.load(copied), make_image()
    make_release(copied, seed=1, generated=False, image_size=64)
    after = Release.load(copied)
    assert np.abs(after.probabilities([image]) - before.probabilities([image])).max() > 0.01
    plain = Release.load(copied)
    plain.graph = None
    assert after.probabilities([image]) == pytest.approx(plain.probabilities([image]), abs=1e-6)


def test_the_file_holds_no_weight(served):
    model = onnx.load(served / GRAPH, load_external_data=False)
    named = Release.load(served).model.state_dict()
    assert {tensor.name for tensor in model.graph.initializer} <= named.keys()
    assert not any(tensor.raw_data or tensor.float_data for tensor in model.graph.initializer)
    assert (served / GRAPH).stat().st_size < 50_000


def test_weights_that_are_equal_keep_their_own_names(tmp_path):
    """As they are initialised, all biases are 0: one of them in the place of all would follow one alone later."""
    folder = with_graph(make_release(tmp_path / "release", generated=False))
    biases = [name for name in onnx_graph.weights_named((folder / GRAPH).read_bytes()) if name.endswith(".bias")]
    assert set(biases) == {name for name in Release.load(folder).model.state_dict() if name.endswith(".bias")}


@pytest.mark.parametrize("name", [*ARCHITECTURES, *OTHERS, "efficientnet-lite0"])
def test_a_graph_holds_for_each_family_of_models_whatever_the_batch(name, tmp_path):
    if name in OTHERS:
        torch.manual_seed(0)
        classes = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(OTHERS[name])]
        model = (DeiTForImageClassification if isinstance(classes, tuple) else classes)(OTHERS[name]).eval()
        processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
        onnx_export._export_graph(model, processor, tmp_path / "graph.onnx")
    else:
        folder = saved(name, tmp_path)
        model, processor = onnx_export.load(folder), ViTImageProcessorPil.from_pretrained(folder)
        onnx_export._export_graph(model, processor, tmp_path / "graph.onnx")
    found = onnx_graph.Graph(tmp_path / "graph.onnx", model)
    for n in (1, 5):
        pixels = torch.randn(n, 3, 32, 32)
        with torch.inference_mode():
            expected = model(pixels, output_hidden_states=True)
        logits, features = found(pixels)
        assert torch.allclose(logits, expected.logits, atol=2e-5)
        assert torch.allclose(features, abstention.features(expected.hidden_states), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("content", [b"", b"no graph", None], ids=["empty", "something else", "cut short"])
def test_a_damaged_graph_is_said(copied, content):
    file = copied / GRAPH
    file.write_bytes(file.read_bytes()[:-900] if content is None else content)
    assert "is damaged, cut short, or made for other weights" in refused(copied)


def test_a_graph_of_another_architecture_is_said(copied, tmp_path):
    exported = saved("ViT", tmp_path / "vit")
    onnx_export._export_graph(
        onnx_export.load(exported), ViTImageProcessorPil.from_pretrained(exported), copied / GRAPH
    )
    assert "names weights that its model does not have, such as 'vit." in refused(copied)


def test_a_graph_of_other_shapes_is_said(copied):
    def widen(model):
        (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "classifier.weight")
        weight.dims[0] += 1

    assert "made for other weights" in refused(edited(copied, widen))


def test_a_graph_that_leaves_a_weight_out_is_said_by_its_answers(copied):
    def skip(model):
        """The first convolution's bias does nothing any more: all names and shapes that are left fit."""
        node = next(node for node in model.graph.node if node.op_type == "Conv")
        (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == node.input[2])
        model.graph.initializer.remove(bias)
        del node.input[2]

    state = Release.load(copied).model
    torch.nn.init.normal_(state.convnext.embeddings.patch_embeddings.bias)
    state.save_pretrained(copied)
    assert "gives other answers than its model (off by " in refused(edited(copied, skip))


def test_a_graph_that_gives_something_else_is_said(copied):
    def logits_alone(model):
        del model.graph.output[1]

    assert "does not take and give what its model does" in refused(edited(copied, logits_alone))


def mixed(model):
    """Each picture's answers are those of the greatest in the batch."""
    replaced(
        model,
        "logits",
        helper.make_node("ReduceMax", ["before"], ["most"], axes=[0], keepdims=1),
        helper.make_node("Shape", ["before"], ["shape"]),
        helper.make_node("Expand", ["most", "shape"], ["logits"]),
    )


def one_alone(model):
    """No batch but of one picture is taken."""
    model.graph.initializer.append(helper.make_tensor("one", TensorProto.INT64, [2], [1, 9]))
    replaced(model, "logits", helper.make_node("Reshape", ["before", "one"], ["logits"]))


def no_numbers(model):
    """The features are not numbers."""
    model.graph.initializer.append(helper.make_tensor("none", TensorProto.FLOAT, [1], [float("nan")]))
    replaced(model, "features", helper.make_node("Mul", ["before", "none"], ["features"]))


@pytest.mark.parametrize(
    "change, said",
    [
        (mixed, "gives other answers"),
        (one_alone, "does not take and give what its model does"),
        (no_numbers, "gives other answers"),
    ],
)
def test_a_graph_that_is_right_for_one_picture_or_by_its_probabilities_alone_is_said(copied, change, said):
    assert said in refused(edited(copied, change))


def test_a_graph_with_operations_of_its_own_is_not_run(copied):
    def own(model):
        node = helper.make_node("Identity", ["x"], ["y"])
        model.functions.append(helper.make_function("own", "Same", ["x"], ["y"], [node], model.opset_import))

    assert "defines operations of its own" in refused(edited(copied, own))


def test_a_file_that_onnx_runtime_takes_for_one_of_its_own_is_not_read_as_such(copied):
    # A field that ONNX does not know, so that it reads the file as a model, and the mark of the other format.
    (copied / GRAPH).write_bytes(b"\x12\x90\x01\x00ORTM" + bytes(139))
    with pytest.raises(NoRelease) as error:
        Release.load(copied)
    assert "No graph was found" in str(error.value.__cause__.__cause__)


def outside(name: str, *entries: tuple[str, str]) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in entries:
        tensor.external_data.add(key=key, value=value)
    return tensor


def another_initializer(model, place):
    model.graph.initializer.append(outside("classifier.bias.more", ("location", place)))


def a_weight_elsewhere(model, place):
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "classifier.bias")
    bias.external_data[0].value = place


def an_offset(model, _):
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "classifier.bias")
    bias.external_data.add(key="offset", value="64")


def a_constant(model, place):
    value = outside("", ("location", place))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["unused"], value=value))


def a_branch(model, place):
    value = outside("", ("location", place))
    branch = helper.make_graph([helper.make_node("Constant", [], ["x"], value=value)], "branch", [], [])
    model.graph.node.insert(0, helper.make_node("If", ["condition"], ["y"], then_branch=branch, else_branch=branch))


def twice(model, _):
    model.graph.initializer.append(model.graph.initializer[0])


FILE, MEMORY = "/etc/hostname", "*/_ORT_MEM_ADDR_/*"
POINTERS = [(another_initializer, MEMORY), (a_weight_elsewhere, FILE), (a_weight_elsewhere, MEMORY), (an_offset, FILE)]
POINTERS += [(a_constant, FILE), (a_constant, MEMORY), (a_branch, FILE), (twice, FILE)]


@pytest.mark.parametrize(("where", "place"), POINTERS)
def test_nothing_is_read_from_where_a_graph_points_to(copied, where, place):
    """A path would be read, and ONNX Runtime takes the second place for an address in its memory."""
    said = refused(edited(copied, lambda model: where(model, place)))
    assert "takes data from files that are not its own" in said or "names weights that its model does not have" in said


def test_a_file_of_the_name_that_stands_in_a_graph_is_not_read(copied, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(onnx_graph.PLACE).write_bytes(b"\xff" * 200_000)
    release = Release.load(copied)
    assert np.isfinite(release.probabilities([make_image()])).all()


@pytest.mark.usefixtures("hub")
def test_a_release_at_a_revision_takes_the_graph_of_that_revision(served, tmp_path):
    api, answers = HfApi(), {}
    api.create_repo("tester/release")
    other = with_graph(make_release(tmp_path / "other", melanoma_bias=3, generated=False))  # of another input size
    for tag, folder in (("v1.0.0", served), ("v1.1.0", other)):
        api.upload_folder(repo_id="tester/release", folder_path=folder)
        api.create_tag("tester/release", tag=tag)
        answers[tag] = Release.load(folder).probabilities([make_image()])
    for tag, expected in answers.items():
        release = Release.load(f"tester/release@{tag}")
        assert release.graph is not None
        assert np.array_equal(release.probabilities([make_image()]), expected)


def test_a_package_that_is_missing_is_named(copied, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(NoRelease, match=r"copied cannot be served: its onnx/graph.onnx needs the package 'onnx'\.$"):
        Release.load(copied)


def test_a_release_without_a_graph_needs_no_package_for_it(copied, monkeypatch):
    shutil.rmtree(copied / "onnx")
    for name in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    assert Release.load(copied).graph is None


def test_results_of_an_archive_tell_a_release_with_a_graph_from_the_same_without(served, copied):
    shutil.rmtree(copied / "onnx")
    assert archive_triage.identity(Release.load(served)) != archive_triage.identity(Release.load(copied))


def test_a_model_whose_export_answers_otherwise_is_refused_before_the_training(tmp_path):
    """A part that depends on what the weights are would be written as those of the export have it."""
    model = onnx_export.load(make_release(tmp_path / "release", generated=False))

    class Odd(type(model)):
        def forward(self, pixel_values, **more):
            return super().forward(pixel_values * (2 if self.classifier.weight.min() < 0 else 1), **more)

    model.__class__ = Odd
    with pytest.raises(UsageError, match=r"cannot be exported to ONNX \(gives other answers .*\): add --onnx none"):
        onnx_export.check(model, ViTImageProcessorPil(size={"height": 32, "width": 32}), "serving")


@pytest.mark.parametrize("package", ["dermalert", "dermalert_space"])
def test_onnx_runtime_neither_keeps_nor_sends_telemetry(package, tmp_path):
    own = {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "space")])}
    subprocess.run([sys.executable, "-c", f"import {package}, onnxruntime"], env=own, check=True)
    assert not list(tmp_path.rglob("*"))  # while it is imported, it would write there what it is about to send
