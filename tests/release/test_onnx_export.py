import contextlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from datasets import Dataset
from dermalert_space.estimate import Estimate
from dermalert_space.release import Release
from PIL import Image
from support.networks import ARCHITECTURES, saved
from support.pictures import class_folders
from support.releases import make_image, make_release
from transformers import ViTImageProcessorPil

from dermalert.data import loading
from dermalert.errors import RunError, UsageError
from dermalert.evaluation.predict import SplitPredictions, predict, predict_images
from dermalert.release import onnx_export, onnx_files, release_folder
from dermalert.taxonomy import DIAGNOSES

pytestmark = pytest.mark.integration


def exported(folder: Path, name: str = "model") -> Path:
    (folder / "onnx").mkdir(exist_ok=True)
    onnx_export.export(folder, ViTImageProcessorPil.from_pretrained(folder), name)
    return folder / onnx_export.FILES[name]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Dataset:
    root = tmp_path_factory.mktemp("pictures")
    class_folders(root, images=12)
    return loading.load([str(root)]).dataset


@pytest.fixture
def folder(tmp_path) -> Path:
    """A release, without training."""
    return make_release(tmp_path / "release", generated=False)


def written(folder: Path, pictures: Dataset, wanted: str = "all") -> dict:
    release = Release.load(folder)
    side = predict(release, pictures, name="pictures")
    return onnx_files.write(folder, release, side, {"train": pictures, "validation": pictures}, wanted)


@pytest.mark.parametrize("name", [*ARCHITECTURES, "efficientnet-lite0"])
def test_the_exported_model_answers_as_transformers_does_whatever_the_batch_and_much_alike_in_eight_bits(
    name, tmp_path
):
    folder = saved(name, tmp_path)
    ours, theirs = onnx_files.session(exported(folder)), onnx_files.plain(folder)
    for n in (1, 2, 5):
        pixels = np.random.default_rng(n).normal(size=(n, 3, 32, 32)).astype(np.float32)
        assert theirs(pixels).std() > 0.01
        assert ours(pixels) == pytest.approx(theirs(pixels), abs=2e-5)
    if name in ARCHITECTURES:
        pixels = np.random.default_rng(0).normal(size=(16, 3, 32, 32)).astype(np.float32)
        onnx_export.quantize(folder / onnx_export.FILES["model"], pixels, tmp_path / "coarse.onnx")
        coarse = onnx_files.session(tmp_path / "coarse.onnx")(pixels)
        assert np.corrcoef(coarse.ravel(), theirs(pixels).ravel())[0, 1] > 0.9


def test_a_model_that_cannot_be_stored_in_eight_bits_is_said_with_the_way_out(folder, pictures, monkeypatch):
    def fails(*_):
        raise IndexError("a node without a name")

    monkeypatch.setattr(onnx_export, "quantize", fails)
    with pytest.raises(RunError, match=r"cannot be stored in 8 bits \(a node without a name\): .* --onnx serving"):
        written(folder, pictures)


def test_the_files_are_laid_out_as_transformers_js_expects(folder, pictures, monkeypatch):
    monkeypatch.setattr(onnx_files, "pays", lambda _: True)
    written(folder, pictures)
    for name, outputs in (("graph", ["logits", "features"]), ("model", ["logits"]), ("model_quantized", ["logits"])):
        graph = onnx.load(folder / "onnx" / f"{name}.onnx", load_external_data=False).graph
        assert [tensor.name for tensor in graph.input] == ["pixel_values"]
        assert [tensor.name for tensor in graph.output] == outputs
        for tensor in (*graph.input, *graph.output):
            first = tensor.type.tensor_type.shape.dim[0]
            assert first.dim_param and not first.dim_value, "the batch is of any size"
            assert tensor.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert (folder / "config.json").is_file() and (folder / "preprocessor_config.json").is_file()
    assert {path.name for path in (folder / "onnx").iterdir()} <= {"graph.onnx", "model.onnx", "model_quantized.onnx"}


def test_gates_that_do_nothing_are_not_exported_and_a_pooling_of_all_there_is_is_a_mean(tmp_path):
    """ONNX Runtime before July 2026 divides an AveragePool by its window, however little of it is filled."""
    folder = saved("efficientnet-lite0", tmp_path)
    for name in ("graph", "model"):
        model = onnx.load(exported(folder, name), load_external_data=False)
        assert not {"Sigmoid", "AveragePool"} & {node.op_type for node in model.graph.node}


def test_half_precision_weights_give_a_model_in_single_precision_with_the_same_answers(folder, pictures):
    loaded = Release.load(folder)
    for tensor in loaded.model.parameters():
        tensor.data = tensor.half().float()
    loaded.model.save_pretrained(folder)
    release_folder.compact(folder)
    told = written(folder, pictures)
    assert told["model"]["difference"] < 1e-5 and told["graph"]["difference"] < 1e-5


def test_what_is_stated_is_what_the_files_answer(folder, pictures, monkeypatch):
    monkeypatch.setattr(onnx_files, "pays", lambda _: True)
    told = written(folder, pictures)
    release = Release.load(folder)
    models, release.graph = onnx_files.sessions(folder, release), None
    assert told["images"] == len(pictures)
    recorded = predict(release, pictures, name="pictures").probabilities
    melanoma, column = np.array(pictures["label"]) == DIAGNOSES.index("melanoma"), DIAGNOSES.index("melanoma")
    for key, name in (("graph", "graph"), ("model", "model"), ("quantized", "model_quantized")):
        path = folder / "onnx" / f"{name}.onnx"
        (found,) = onnx_files.probabilities_of(release, pictures, [models[key]])
        assert found.sum(1) == pytest.approx(1)
        assert told[key]["difference"] == pytest.approx(np.abs(found - recorded).max(), abs=1e-7)
        assert told[key]["megabytes"] == path.stat().st_size / 1e6
        before, after = (rows[:, column] >= release.threshold for rows in (recorded, found))
        assert told[key]["alerts_changed"] == (before != after).sum()
        assert told[key]["melanomas_lost"] == (melanoma & before & ~after).sum()
        assert min(told[key]["speed"].values()) > 0
    assert told["quantized"]["difference"] > 10 * told["model"]["difference"], "in eight bits"
    nodes = {node.op_type for node in onnx.load(folder / "onnx" / "model_quantized.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= nodes


def test_a_release_without_a_threshold_says_nothing_of_alerts(tmp_path, pictures):
    folder = make_release(tmp_path / "release", threshold=None, generated=False)
    told = written(folder, pictures)
    assert told["model"]["alerts_changed"] is None and told["quantized"]["melanomas_lost"] is None


PAYS = {
    "faster and as good": (2.0, 2.0, 0.0, None, True),
    "faster, a loss that may be chance": (2.0, 1.1, -0.01, 0.001, True),
    "faster and better": (2.0, 2.0, 0.01, 0.02, True),
    "slower on single images": (0.9, 2.0, 0.0, 0.01, False),
    "slower on batches": (2.0, 0.9, 0.0, 0.01, False),
    "a loss beyond chance": (2.0, 2.0, -0.01, -0.001, False),
    "a loss too large to be let pass as chance": (2.0, 2.0, -0.03, 0.001, False),
    "a loss without an interval": (2.0, 2.0, -0.01, None, False),
    "nothing known of the loss": (2.0, 2.0, None, None, False),
}


@pytest.mark.parametrize("case", PAYS)
def test_eight_bits_pay_where_they_are_faster_and_lose_nothing_that_is_not_chance(case):
    single, batch, value, high, expected = PAYS[case]
    change = {"value": value, "low": None if high is None else -0.05, "high": high}
    assert onnx_files.pays({"speed": {"single": single, "batch": batch}, "validation_auroc_change": change}) is expected


def test_whether_it_pays_is_decided_on_validation_and_not_on_what_is_reported(folder, pictures, monkeypatch):
    release = Release.load(folder)
    held_out = predict(release, pictures, name="held out")
    validation = pictures.select(range(len(pictures)))
    changes = {
        id(held_out.dataset): Estimate(-0.5, -0.6, -0.4),
        id(validation): Estimate(0.0, 0.0, 0.0),
    }
    monkeypatch.setattr(onnx_files, "auroc_change", lambda side, _: changes[id(side.dataset)])
    monkeypatch.setattr(onnx_files, "speeds", lambda *_, **__: {"quantized": {"single": 2.0, "batch": 2.0}})
    sides = {"train": pictures, "validation": validation}
    told = onnx_files.write(folder, release, held_out, sides, "all")["quantized"]
    assert (told["kept"], told["auroc_change"]["value"]) == (True, -0.5)


@pytest.mark.parametrize("pays", [True, False])
def test_a_file_in_eight_bits_is_there_only_where_it_pays_and_its_figures_in_any_case(
    pays, folder, pictures, monkeypatch
):
    monkeypatch.setattr(onnx_files, "pays", lambda _: pays)
    told = written(folder, pictures)
    assert told["quantized"]["kept"] is pays
    assert (folder / "onnx" / "model_quantized.onnx").exists() is pays
    assert (folder / "onnx" / "model.onnx").exists()
    assert {"speed", "auroc_change", "difference", "megabytes"} < set(told["quantized"])
    assert json.loads(json.dumps(told)) == told


def test_the_change_of_the_area_is_paired_and_resamples_groups():
    rows = {"label": [3, 3, 4, 4, 4, 4] * 20, "group": [str(i // 2) for i in range(120)]}
    scores = np.random.default_rng(0).uniform(size=(120, 9))
    side = SplitPredictions(dataset=Dataset.from_dict(rows), probabilities=scores, alert=None)
    assert onnx_files.auroc_change(side, scores).to_json() == {"value": 0.0, "low": None, "high": None}
    worse = scores.copy()
    worse[np.array(rows["label"]) == 3, 3] -= 0.5
    change = onnx_files.auroc_change(side, worse).to_json()
    assert change["low"] < change["value"] < change["high"] < 0


@pytest.mark.parametrize("wrong", [3e-4, np.nan])
def test_other_answers_than_torch_gives_stop_the_release(folder, pictures, wrong):
    release = Release.load(folder)
    side = predict(release, pictures, name="pictures")
    side.probabilities[0, 0] += wrong
    with pytest.raises(RunError, match=r"gives other answers than torch .* --onnx none"):
        onnx_files.write(folder, release, side, {"train": pictures}, "serving")


@pytest.mark.parametrize(("device", "off", "passes"), [("cpu", 9e-5, True), ("cpu", 5e-4, False), ("cuda", 5e-4, True)])
def test_an_accelerator_may_have_rounded_more_coarsely(device, off, passes):
    release = SimpleNamespace(model=SimpleNamespace(device=torch.device(device)))
    told = {"graph": {"difference": 1e-6}, "model": {"difference": off}, "quantized": {"difference": 0.2}}
    with contextlib.nullcontext() if passes else pytest.raises(RunError, match="other answers"):
        onnx_files._check_same(told, release)


def test_a_model_that_cannot_be_exported_is_refused_before_the_training():
    class Odd(torch.nn.Module):
        def forward(self, **_):
            raise RuntimeError("an operator that ONNX lacks\nand more")

    with pytest.raises(UsageError, match=r"to ONNX \(an operator that ONNX lacks\): add --onnx none"):
        onnx_export.check(Odd(), ViTImageProcessorPil(), "serving")


def test_speed_is_measured_on_the_threads_asked_for_and_leaves_torch_as_it_was(folder):
    for name in ("graph", "model"):
        exported(folder, name)
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        pixels = np.zeros((2, 3, 32, 32), np.float32)
        shutil.copy(folder / "onnx" / "model.onnx", folder / "onnx" / "model_quantized.onnx")
        release = Release.load(folder)
        hook = torch.nn.modules.module.register_module_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
        found = onnx_files.speeds(folder, release, pixels, threads=1)
        hook.remove()
        assert torch.get_num_threads() == 2 and set(seen) == {1}
        assert found.keys() == onnx_export.FILES.keys()
        assert all(set(each) == {"single", "batch"} for each in found.values())
    finally:
        torch.set_num_threads(before)


def test_on_real_images_the_bundled_release_and_its_export_give_the_same_answers(real_images, tmp_path):
    bundled = Path(onnx_export.__file__).parents[2] / "space" / "model"
    if not bundled.is_dir():
        pytest.skip("no bundled release")
    paths = sorted((real_images / "isic9").rglob("*.jpg"))[::50][:30]
    assert len(paths) == 30
    folder = shutil.copytree(bundled, tmp_path / "release", ignore=shutil.ignore_patterns("onnx"))
    release = Release.load(folder)
    (folder / "onnx").mkdir()
    for name in ("graph", "model"):
        onnx_export.export(folder, release.processor, name)
    models = [*onnx_files.sessions(folder, release).values(), onnx_files.plain(folder)]
    rows = Dataset.from_dict({"image": [str(path) for path in paths]})
    *ours, theirs = onnx_files.probabilities_of(release, rows, models)
    assert len(ours) == 2 and all(np.abs(found - theirs).max() < 1e-5 for found in ours)


def test_an_image_needs_no_square_nor_a_size_of_its_own(folder, tmp_path):
    release = Release.load(folder)
    images = [make_image((90, 40), seed=1), make_image((31, 77), seed=2), Image.new("L", (5, 5))]
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
    rows = Dataset.from_dict({"image": [str(tmp_path / f"{i}.png") for i in range(3)]})
    (found,) = onnx_files.probabilities_of(release, rows, [onnx_files.session(exported(folder))])
    assert found == pytest.approx(predict_images(release, rows, name="three").probabilities, abs=1e-5)
