"""Adapters: what is trained and what is not, that a checkpoint is a plain model, and that a release needs no peft."""

import copy
import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from dermalert_space.release import Release
from PIL import Image
from safetensors.torch import load_file
from support import networks
from support.training import command, train, without_speed
from transformers import ViTImageProcessorPil, pipeline

import train_hf
from dermalert.config import Config
from dermalert.errors import UsageError
from dermalert.release import remeasure
from dermalert.taxonomy import DIAGNOSES
from dermalert.training import backbones, lora, recipe_trainer

CONFIG = Config(dataset_name=["demo"], lora=True, lora_r=4)
PROCESSOR = ViTImageProcessorPil(size={"height": 32, "width": 32})
LORA = ("--lora", "--lora_r", "4", "--num_train_epochs", "3", "--learning_rate", "3e-3", "--augmentation", "none")


@pytest.mark.parametrize("name", ["ViT", "Dinov2", "Swin", "ConvNext"])
def test_a_model_with_adapters_computes_as_the_plain_one_that_they_are_merged_into(name):
    model = networks.network(name)
    plain, pixels = copy.deepcopy(model), torch.randn(2, 3, 32, 32)
    lora.add(model, PROCESSOR, CONFIG)
    for tensor in recipe_trainer._trained(model).values():
        tensor.normal_(std=0.1)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        untouched = plain(pixels).logits
        assert plain.load_state_dict(lora.merged(model)).missing_keys == []
        assert torch.allclose(model.eval()(pixels).logits, plain(pixels).logits, atol=1e-6)
    assert (plain(pixels).logits - untouched).abs().max() > 0.01
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_adapters_and_the_last_layer_are_trained_and_nothing_else():
    model = networks.network("ViT")
    lora.add(model, PROCESSOR, CONFIG)
    trained = recipe_trainer._trained(model)
    assert trained.keys() == {name for name in model.state_dict() if ".lora_" in name or name.startswith("classifier.")}
    adapted = {name.rpartition(".lora_")[0].rpartition(".")[2] for name in trained if ".lora_" in name}
    assert len(adapted) == 6  # query, key, value, the projection after them, and two layers of the perceptron


def test_a_model_of_convolutions_alone_is_refused():
    model, processor = backbones.load("efficientnet-lite0", labels=("a", "b"), image_size=32)
    with pytest.raises(UsageError, match="'efficientnet-lite0' has no linear layer that adapters could be put on"):
        lora.layers(model, processor, "efficientnet-lite0")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"lora": False}, "--lora_r is of adapters: add --lora."),
        ({"lora_dropout": 1.0}, "--lora_dropout 1 makes no sense"),
    ],
)
def test_settings_of_adapters_that_make_no_sense_are_refused(settings, sentence):
    with pytest.raises(UsageError, match=sentence):
        lora.check(dataclasses.replace(CONFIG, **settings))


def test_without_peft_the_flag_says_how_to_install_it(monkeypatch):
    lora.check(CONFIG)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"--lora needs peft: pip install peft\.$"):
        lora.check(CONFIG)
    lora.check(dataclasses.replace(CONFIG, weights_from="a release"))  # whose adapters are merged


@pytest.fixture(scope="module")
def run(pictures, tiny_vit, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "run"
    train(pictures, tiny_vit, folder, *LORA, "--onnx", "serving")
    return folder


@pytest.mark.integration
def test_what_is_frozen_is_the_bases_own_and_a_linear_layer_has_changed_by_the_rank(run, tiny_vit):
    before, after = load_file(tiny_vit / "model.safetensors"), load_file(run / "release/model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])} - {
        "classifier.weight",
        "classifier.bias",
    }
    assert len(changed) == 12  # six layers in each of two blocks
    for name in changed:
        assert np.linalg.matrix_rank((after[name] - before[name]).numpy(), tol=1e-5) == 4


@pytest.mark.integration
def test_the_release_says_that_it_was_trained_by_adapters(run):
    settings = json.loads((run / "release/evaluation/metrics.json").read_text())["training"]["settings"]
    assert (settings["lora"], settings["lora_r"], settings["lora_alpha"], settings["lora_dropout"]) == (
        True,
        4,
        32,
        0.05,
    )
    assert "adapters of rank 4" in (run / "release/README.md").read_text()
    again = remeasure.settings(Config(dataset_name=["demo"], weights_from=str(run / "release")))
    assert (again.lora, again.lora_r) == (True, 4)


@pytest.mark.integration
def test_the_release_is_served_and_loads_in_a_pipeline_where_peft_cannot_be_imported(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    release = Release.load(run / "release")
    assert release.graph is not None and release.parity_error() < 1e-5
    classify = pipeline("image-classification", model=str(run / "release"))
    assert sum(row["score"] for row in classify(Image.new("RGB", (40, 40)), top_k=9)) == pytest.approx(1, abs=1e-5)
    assert not list((run / "release").glob("adapter*"))  # which transformers would load by peft


@pytest.mark.long
@pytest.mark.integration
def test_a_stopped_training_of_adapters_goes_on_and_ends_as_if_it_had_not_been_stopped(
    run, pictures, tiny_vit, tmp_path, monkeypatch
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recipe_trainer.EarlyStopping, "on_save", stop, raising=False)
        assert command(pictures, tiny_vit, tmp_path / "run", *LORA) == 130
    (checkpoint,) = (tmp_path / "run/checkpoints").glob("checkpoint-*")
    assert load_file(checkpoint / "model.safetensors").keys() == load_file(tiny_vit / "model.safetensors").keys()
    train(pictures, tiny_vit, tmp_path / "run", *LORA)
    whole = without_speed(run)
    del whole["onnx"]
    assert without_speed(tmp_path / "run") == whole
    stopped, whole = (load_file(folder / "release/model.safetensors") for folder in (tmp_path / "run", run))
    assert all(torch.equal(tensor, stopped[name]) for name, tensor in whole.items())


@pytest.mark.long
@pytest.mark.integration
def test_without_averages_a_checkpoint_has_the_adapters_too(pictures, tiny_vit, tmp_path, monkeypatch):
    words = (*LORA, "--ema_decay", "0", "--store_dtype", "float16", "--gradient_checkpointing")
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(train_hf, "load_best", lambda *_: 1 / 0)
        train(pictures, tiny_vit, tmp_path / "run", *words)
    checkpoint = max((tmp_path / "run/checkpoints").glob("checkpoint-*"))
    model, processor = backbones.load(str(tiny_vit), labels=DIAGNOSES)
    lora.add(model, processor, dataclasses.replace(CONFIG, model_name_or_path=str(tiny_vit)), checkpoint)
    assert any(tensor.abs().max() > 0 for name, tensor in model.state_dict().items() if "lora_B" in name)
    kept = backbones.load(str(checkpoint), labels=DIAGNOSES)[0].state_dict()
    assert all(torch.allclose(tensor, kept[name], atol=1e-7) for name, tensor in lora.merged(model).items())
    assert train(pictures, tiny_vit, tmp_path / "run", *words)["training"]["settings"]["half_precision"]
