import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.training import quick

import train_hf
from dermalert.config import Config
from dermalert.errors import run_command
from dermalert.release import release_folder, remeasure
from dermalert.training.flags import parse

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def run(pictures, tiny_vit, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    words = ["--dataset_name", pictures, "--model_name_or_path", tiny_vit, "--output_dir", folder, "--onnx", "none"]
    with quick():
        train_hf.main(parse([str(word) for word in [*words, "--num_train_epochs", "2", "--store_dtype", "float16"]]))
    curves = folder / "release/evaluation/figures/learning_curves.png"  # which is not drawn here
    curves.write_bytes(b"curves")
    return folder


@pytest.fixture
def old(run, tmp_path) -> Path:
    """A release as they were before operating points were those of what is served."""
    folder = Path(shutil.copytree(run / "release", tmp_path / "old"))
    for name in ("config.json", "evaluation/metrics.json"):
        content = json.loads((folder / name).read_text())
        del content["attention"]
        content["alert"] = {key: value for key, value in content["alert"].items() if key not in ("raw", "abstained")}
        (folder / name).write_text(json.dumps(content))
    return folder


def asked(pictures, old, output_dir, *more):
    words = ["--dataset_name", pictures, "--weights_from", old, "--output_dir", output_dir, "--onnx", "none", *more]
    return parse([str(word) for word in words])


def test_a_release_is_made_anew_with_its_own_weights_and_the_operating_points_of_today(run, old, pictures, tmp_path):
    with quick():
        figures = train_hf.main(asked(pictures, old, tmp_path / "anew"))
    before, after = old, tmp_path / "anew" / "release"
    assert {name: tensor.tolist() for name, tensor in load_file(before / "model.safetensors").items()} == {
        name: tensor.tolist() for name, tensor in load_file(after / "model.safetensors").items()
    }
    first = release_folder.read_metrics(run / "release")
    assert figures["alert"] == first["alert"]
    assert figures["attention"] == first["attention"]
    assert figures["splits"]["held_out"]["melanoma"] == first["splits"]["held_out"]["melanoma"]
    assert figures["calibration"] == first["calibration"]
    assert figures["training"]["settings"] == first["training"]["settings"]
    curves = "evaluation/figures/learning_curves.png"
    assert (after / curves).read_bytes() == (before / curves).read_bytes()


def test_other_images_are_refused(old, pictures, tmp_path, capsys):
    fewer = Path(shutil.copytree(pictures, tmp_path / "fewer"))
    for path in sorted((fewer / "Train" / "nevus").glob("*"))[:15]:
        path.unlink()
    assert run_command(lambda: train_hf.main(asked(fewer, old, tmp_path / "anew"))) == 2
    assert "are not those that" in capsys.readouterr().err
    assert not (tmp_path / "anew").exists()


def test_settings_that_the_release_decides_are_refused(old, pictures, tmp_path, capsys):
    config = asked(pictures, old, tmp_path / "anew", "--num_train_epochs", "3", "--split_seed", "4")
    assert run_command(lambda: train_hf.main(config)) == 2
    assert "leave out --num_train_epochs, --split_seed" in capsys.readouterr().err
    assert run_command(lambda: train_hf.main(asked(pictures, old, tmp_path / "anew", "--lora", "--tune", "2"))) == 2
    assert "leave out --lora, --tune" in capsys.readouterr().err


def test_the_kinds_of_pictures_are_those_of_the_release(tmp_path, request):
    figures = release_folder.read_metrics(request.config.rootpath / "space/model")
    figures["training"]["settings"]["image_types"] = ["dermoscopic", "clinical"]
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation/metrics.json").write_text(json.dumps(figures))
    assert remeasure.settings(Config(dataset_name=["demo"], weights_from=str(tmp_path))).image_types == [
        "dermoscopic",
        "clinical",
    ]


def test_what_is_no_release_is_refused(tmp_path, capsys):
    config = Config(dataset_name=["demo"], weights_from=str(tmp_path), output_dir=str(tmp_path / "anew"))
    assert run_command(lambda: train_hf.main(config)) == 2
    assert "is no dermalert release" in capsys.readouterr().err
