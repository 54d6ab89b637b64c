import json

import pytest
from dermalert_space import contract
from dermalert_space.contract import NOT_A_DEVICE
from support.paths import REPOSITORY
from support.releases import figures

from dermalert.release import release_folder


def test_a_release_is_assembled_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), release_folder.stage(tmp_path / "release") as staging:
        (staging / "config.json").write_text("{}")
        raise RuntimeError
    assert not (tmp_path / "release").exists()
    with release_folder.stage(tmp_path / "release") as staging:
        assert list(staging.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


FIGURES = figures()


@pytest.mark.parametrize(
    "told",
    [
        "text",
        ["schema"],
        {"schema": 1},
        {"schema": 1, "accuracy": 0.9},
        FIGURES | {"splits": ["held_out"]},
        FIGURES | {"splits": {"held_out": {"n": 5}}},
        {key: value for key, value in FIGURES.items() if key != "training"},
    ],
)
def test_figures_of_somebody_else_are_no_release(told, tmp_path):
    (tmp_path / "evaluation").mkdir()
    path = tmp_path / "evaluation" / "metrics.json"
    path.write_text(json.dumps(told))
    assert release_folder.find_metrics(tmp_path) is None
    path.write_text(json.dumps(FIGURES))
    assert release_folder.find_metrics(tmp_path) == json.loads(json.dumps(FIGURES))


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("model-00001-of-00002.safetensors", True),
        ("evaluation/metrics.json", True),
        ("evaluation/figures/roc.png", True),
        ("onnx/graph.onnx", True),
        ("onnx/model.onnx", True),
        ("models/x.safetensors", False),
        ("model/x/y.safetensors", False),
        ("onnx/mine/model.onnx", False),
        ("notes/evaluation/metrics.json", False),
        ("notes/README.md", False),
    ],
)
def test_what_lies_in_another_folder_is_no_part_of_a_release(name, ours):
    assert contract.belongs(name) == ours


def test_one_wording_says_that_it_is_no_device():
    for name in ("README.md", "model_card.md", "space/README.md"):
        text = (REPOSITORY / name).read_text()
        assert NOT_A_DEVICE in text or "{{ not_a_device }}" in text, name
