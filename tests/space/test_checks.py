"""A release that comes from elsewhere: whatever its files are, it is served or refused in a sentence, and soon."""

import itertools
import json
import os
import shutil
import struct
import time
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from dermalert_space import checks, cli, comparison, contract, onnx_graph, server
from dermalert_space.contract import METRICS, PREDICTIONS, REFERENCE
from dermalert_space.page import tab_evaluation
from dermalert_space.release import NoRelease, Release
from onnx import TensorProto, helper
from PIL import Image
from support import serving
from support.networks import edited, replaced, with_graph
from support.releases import make_release, measured_release
from support.serving import SPACE

from dermalert.errors import UsageError
from dermalert.evaluation import any_checkpoint
from dermalert.training import backbones

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return measured_release(tmp_path_factory.mktemp("whole") / "release")


@pytest.fixture
def copied(whole, tmp_path) -> Path:
    """A release with all that a published one holds, to be changed."""
    return shutil.copytree(whole, tmp_path / "copied")


def refused(folder: Path) -> str:
    """Load a release as the Space does; return the sentence that refuses it."""
    with pytest.raises(NoRelease) as error:
        found = Release.load(folder)
        found.metrics()
        found.verify_parity()
    (line,) = str(error.value).splitlines()
    return line


def configured(folder: Path, name: str = "config.json", **changes) -> Path:
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


# Code


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "evil.C"}}),
        ("config.json", {"auto_map": {"AutoModelForImageClassification": "tester/other--evil.M"}}),
        ("config.json", {"custom_pipelines": {"image-classification": {"impl": "evil.P"}}}),
        ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "evil.P"}}),
        ("processor_config.json", {"auto_map": {"AutoProcessor": "evil.P"}}),
    ],
)
def test_code_of_a_release_is_never_run_nor_asked_about(copied, tmp_path, monkeypatch, capsys, file, changes):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    (copied / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    if not (copied / file).exists():
        (copied / file).write_text("{}")
    assert cli.main([str(SPACE / "examples"), "--model", str(configured(copied, file, **changes))]) == 1
    assert "asks for code of its own" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "ran").exists()


def test_code_of_another_checkpoint_is_never_run(tmp_path):
    configured(make_release(tmp_path / "other", alert=False), auto_map={"AutoConfig": "evil.C"})
    with pytest.raises(UsageError, match="asks for code of its own"):
        any_checkpoint.load(str(tmp_path / "other"))
    for load in (any_checkpoint.load, lambda name: backbones._load_checkpoint(name, {})):
        configured(tmp_path / "other", model_type="no known one", auto_map={"AutoConfig": "evil.C"})
        (tmp_path / "other" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        with pytest.raises(UsageError):
            load(str(tmp_path / "other"))
    assert not (tmp_path / "ran").exists()


# Links


@pytest.mark.parametrize(
    ("name", "kind"),
    [("config.json", "absolute"), ("model.safetensors", "relative"), (METRICS, "a folder"), (REFERENCE, "absolute")],
)
def test_a_link_that_leaves_a_release_is_refused(copied, tmp_path, name, kind):
    file, away = copied / name, tmp_path / "away"
    if kind == "a folder" and "/" in name:
        shutil.move(file.parent, away)
        file.parent.symlink_to(away)
    else:
        shutil.move(file, away)
        file.symlink_to(os.path.relpath(away, file.parent) if kind == "relative" else away)
    said = "evaluation/" if kind == "a folder" and "/" in name else f"{name} is a link"
    assert f"its {said}" in (line := refused(copied)) and line.endswith("is a link that leaves the release.")
    assert name not in contract.files(copied)


def test_links_within_a_release_and_in_the_cache_of_the_hub_are_followed(whole, tmp_path):
    home = tmp_path / "models--tester--release"
    (home / "snapshots").mkdir(parents=True)
    snapshot = shutil.copytree(whole, home / "snapshots" / "0123")
    (home / "blobs").mkdir()
    for number, file in enumerate([file for file in snapshot.rglob("*") if file.is_file()]):
        shutil.move(file, home / "blobs" / str(number))
        file.symlink_to(os.path.relpath(home / "blobs" / str(number), file.parent))
    Release.load(snapshot).verify_parity()
    assert contract.files(snapshot) == contract.files(whole)
    (tmp_path / "newest").symlink_to(snapshot)
    Release.load(tmp_path / "newest").verify_parity()


def test_a_figure_that_is_a_link_is_not_shown(copied):
    (copied / "evaluation" / "figures").mkdir()
    (copied / "evaluation" / "figures" / "roc.png").symlink_to("/proc/self/environ")
    found = Release.load(copied)
    assert "<img" not in tab_evaluation.html(found, found.metrics())


# Sizes, shapes and types


def test_labels_that_are_none_are_refused(copied):
    labels = json.loads((copied / "config.json").read_text())["id2label"]
    for change, said in (
        ({str(i): str(i) for i in range(100_000)}, "names 100,000 diagnoses"),
        (labels | {"0": 7}, "no text of at most 200 letters: 7"),
        (labels | {"0": ["a"]}, "no text of at most"),
        (labels | {"0": "a" * 10_000}, "no text of at most"),
        (labels | {"0": "line\nbreak"}, "cannot be shown"),
        (labels | {"0": "nevus"}, "names a diagnosis twice"),
        (labels | {"99": "mole"}, "does not number its 10 diagnoses"),
        ([], "names no diagnoses"),
    ):
        assert said in refused(configured(copied, id2label=change))


@pytest.mark.parametrize(
    "changes",
    [
        {"depths": [10**7, 1]},
        {"depths": [1] * 100_000},
        {"hidden_sizes": [10**9, 16]},
        {"hidden_sizes": [50_000, 50_000]},
        {"num_stages": 0},
        {"num_channels": 4},
        {"image_size": 10**8},
        {"model_type": "no such model"},
        {"model_type": 7},
        {"hidden_act": "no such function"},
        {"alert": {"label": ["melanoma"], "threshold": 0.1}},
        {"alert": {"label": "melanoma", "threshold": "0.1"}},
        {"alert": {"label": "melanoma", "threshold": [0.1]}},
        {"clinical_groups": ["melanoma"]},
        {"clinical_groups": {"malignant": 7}},
        {"dermalert": "0.1.0"},
    ],
    ids=str,
)
def test_a_config_that_cannot_be_or_asks_for_too_much_is_refused_soon(copied, changes):
    began = time.monotonic()
    assert refused(configured(copied, **changes))
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "changes", [{"size": {"height": 10**6, "width": 10**6}}, {"size": 1e9}, {"size": {"shortest_edge": float("inf")}}]
)
def test_a_processor_that_would_fill_the_memory_is_refused(copied, changes):
    assert "4,096 at most" in refused(configured(copied, "preprocessor_config.json", **changes))


OF_ANOTHER_KIND = [("config.json", content) for content in ("[" * 100_000, "[]", "", '{"a": ', "7", '"a"', "{}")]
OF_ANOTHER_KIND += [("preprocessor_config.json", content) for content in ("[]", '{"a": ', '"a"')]
OF_ANOTHER_KIND += [(METRICS, content) for content in ("[" * 100_000, "7", '{"splits": [1]}', "{}")]


@pytest.mark.parametrize(("name", "content"), OF_ANOTHER_KIND)
def test_json_of_another_kind_is_refused(copied, name, content):
    (copied / name).write_text(content)
    assert refused(copied)


def header(table: dict, data: bytes = b"") -> bytes:
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + data


LIES = [
    struct.pack("<Q", 2**62) + b"{}",
    header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
    header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
    header({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}),
    header({"a": 7}),
    header({str(i): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(60_000)}),
    b"",
]


@pytest.mark.parametrize(
    ("name", "content"), [*(("model.safetensors", lie) for lie in LIES), *((REFERENCE, lie) for lie in LIES[:2])]
)
def test_a_table_of_tensors_that_lies_is_refused(copied, name, content):
    (copied / name).write_bytes(content)
    assert name in refused(copied)


def test_weights_that_are_no_numbers_or_of_another_model_are_refused(copied):
    weights = safetensors.torch.load_file(copied / "model.safetensors")
    for change, said in (
        ({"classifier.bias": torch.full((9,), float("nan"))}, "not all numbers"),
        ({"classifier.bias": torch.full((9,), float("inf"))}, "not all numbers"),
        ({"classifier.weight": torch.zeros(9, 17)}, "cannot load the release"),
        ({"classifier.bias": None}, "does not have 'classifier.bias'"),
    ):
        changed = {name: tensor for name, tensor in (weights | change).items() if tensor is not None}
        safetensors.torch.save_file(changed, copied / "model.safetensors", metadata={"format": "pt"})
        assert said in refused(copied)


@pytest.mark.parametrize(
    ("images", "probabilities"),
    [
        (torch.zeros(2, 8, 8, 3), torch.zeros(2, 9)),
        (torch.zeros(2, 8, 8, 1, dtype=torch.uint8), torch.zeros(2, 9)),
        (torch.zeros(2, 8, dtype=torch.uint8), torch.zeros(2, 9)),
        (torch.zeros(0, 8, 8, 3, dtype=torch.uint8), torch.zeros(0, 9)),
        (torch.zeros(2, 0, 8, 3, dtype=torch.uint8), torch.zeros(2, 9)),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.zeros(2, 9, dtype=torch.int64)),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.zeros(2, 8)),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.full((2, 9), float("nan"))),
        (torch.zeros(2_000, 8, 8, 3, dtype=torch.uint8), torch.zeros(2_000, 9)),
    ],
)
def test_reference_images_that_are_none_are_refused(copied, images, probabilities):
    safetensors.torch.save_file({"images": images, "probabilities": probabilities}, copied / REFERENCE)
    assert f"cannot read {REFERENCE}" in refused(copied)


@pytest.mark.parametrize("name", ["config.json", "evaluation/metrics.json", "model.safetensors"])
def test_a_file_larger_than_any_release_has_is_not_read(copied, name):
    with (copied / name).open("r+b") as file:
        file.truncate(checks.LARGEST[name] + 2**20)  # which takes no room on the disk
    assert "more than any release" in refused(copied)


def test_a_table_that_unpacks_to_too_much_is_refused(copied, monkeypatch):
    other = Release.load(copied)
    file = copied / PREDICTIONS
    for content in (b"", b"PAR1" * 9, file.read_bytes()[:-99]):
        file.write_bytes(content)
        with pytest.raises(comparison.NotThere, match="cannot be read"):
            comparison.compare(other, other)
    pq.write_table(pa.table({"image_id": ["a"] * 100_000}), file)
    with pytest.raises(comparison.NotThere, match="has no column"):
        comparison.compare(other, other)
    monkeypatch.setattr(checks, "MAX_ROWS", 99_999)
    with pytest.raises(comparison.NotThere, match="100,000 rows"):
        comparison.compare(other, other)


# Graphs


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Path:
    return with_graph(make_release(tmp_path_factory.mktemp("served"), generated=False))


@pytest.fixture
def changeable(served, tmp_path) -> Path:
    return shutil.copytree(served, tmp_path / "changeable")


def branch() -> onnx.GraphProto:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node("Identity", ["before"], ["y"])], "branch", [], [value])


def a_branch(model) -> None:
    model.graph.initializer.append(helper.make_tensor("go", TensorProto.BOOL, [], [True]))
    replaced(model, "logits", helper.make_node("If", ["go"], ["logits"], then_branch=branch(), else_branch=branch()))


def a_scan(model) -> None:
    replaced(model, "logits", helper.make_node("Scan", ["before"], ["logits"], body=branch(), num_scan_inputs=1))


def of_another_domain(model) -> None:
    replaced(model, "logits", helper.make_node("Gelu", ["before"], ["logits"], domain="com.microsoft"))


def thousands(model) -> None:
    names = ["before", *(f"x{i}" for i in range(onnx_graph.MAX_NODES)), "logits"]
    pairs = itertools.pairwise(names)
    replaced(model, "logits", *(helper.make_node("Identity", [before], [after]) for before, after in pairs))


@pytest.mark.parametrize("change", [a_branch, a_scan, of_another_domain, thousands])
def test_a_graph_of_what_no_model_needs_is_refused(changeable, change):
    with pytest.raises(NoRelease, match=r"graph.onnx (has an operation|has 2\d,\d{3} operations)"):
        Release.load(edited(changeable, change))


def doubled(model, times: int) -> None:
    """Each operation makes twice of what the one before made."""
    names = ["before", *(f"x{i}" for i in range(times))]
    pairs = itertools.pairwise(names)
    nodes = [helper.make_node("Concat", [before, before], [after], axis=1) for before, after in pairs]
    replaced(model, "logits", *nodes, helper.make_node("ReduceSum", [names[-1]], ["logits"], keepdims=1))


def test_a_graph_that_takes_all_memory_is_refused(changeable):
    with pytest.raises(NoRelease, match="takes more memory than there is"):
        Release.load(edited(changeable, lambda model: doubled(model, 40)))


def test_a_graph_that_does_not_come_to_an_end_is_refused(changeable, monkeypatch):
    monkeypatch.setattr(onnx_graph, "SECONDS", 4)

    def slow(model):
        """Products of large matrices, one behind the other."""
        model.graph.initializer.append(helper.make_tensor("side", TensorProto.INT64, [2], [3_000, 3_000]))
        value = helper.make_tensor("", TensorProto.FLOAT, [1], [1.0])
        names = ["m", *(f"m{i}" for i in range(500))]
        nodes = [helper.make_node("ConstantOfShape", ["side"], ["m"], value=value)]
        nodes += [helper.make_node("MatMul", [a, a], [b]) for a, b in itertools.pairwise(names)]
        nodes += [helper.make_node("ReduceSum", [names[-1]], ["sum"], keepdims=0)]
        replaced(model, "logits", *nodes, helper.make_node("Add", ["before", "sum"], ["logits"]))

    began = time.monotonic()
    with pytest.raises(NoRelease, match="does not answer within 4 seconds"):
        Release.load(edited(changeable, slow))
    assert time.monotonic() - began < 30


# The server


@pytest.mark.parametrize(
    "change",
    [
        lambda metrics: metrics["splits"]["held_out"].pop("per_class"),
        lambda metrics: metrics.update(alert=7),
        lambda metrics: metrics["splits"]["held_out"]["melanoma"].update(sensitivity=[1]),
        lambda metrics: metrics.update(shortcut=None),
    ],
)
def test_figures_that_cannot_be_shown_are_said_without_a_traceback(copied, change, monkeypatch, capsys):
    file = copied / METRICS
    metrics = json.loads(file.read_text())
    change(metrics)
    file.write_text(json.dumps(metrics))
    monkeypatch.setenv("MODEL_ID", str(copied))
    assert serving.in_a_loop(server.main) == 1
    said = capsys.readouterr().err
    assert "cannot be shown: its config.json or evaluation/metrics.json" in said.splitlines()[-1]
    assert "Traceback" not in said


def test_a_good_release_gives_what_it_gave(whole):
    found = Release.load(whole)
    found.verify_parity()
    assert np.isfinite(found.probabilities([Image.new("RGB", (64, 64))])).all()
