"""Checkpoints of timm: trained, released and served. They need timm, and so a torchvision that fits torch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from dermalert_space.release import Release
from PIL import Image
from support.training import train
from transformers import pipeline

from dermalert.taxonomy import DIAGNOSES
from dermalert.training import backbones

timm = pytest.importorskip("timm", reason="needs timm: run `make test-timm`")
pytestmark = pytest.mark.integration


def saved(model, folder: Path, **arguments) -> Path:
    """A checkpoint as timm publishes it."""
    from timm.models._hub import save_for_hf

    save_for_hf(model, folder, model_args=arguments or None, safe_serialization=True)
    return folder


def test_an_image_is_made_into_the_pixels_that_timm_makes_of_it(tmp_path):
    base = saved(timm.create_model("resnet10t", num_classes=5), tmp_path / "base")
    _, processor = backbones.load(str(base), labels=DIAGNOSES)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=timm.create_model("resnet10t")))
    for size in ((640, 480), (200, 301)):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
        assert torch.equal(processor(image, return_tensors="pt")["pixel_values"][0], transform(image))


def test_a_release_of_a_timm_model_is_served_and_loads_in_a_pipeline(pictures, tmp_path):
    sizes = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
    torch.manual_seed(0)
    base = saved(timm.create_model("vit_tiny_patch16_224", num_classes=5, **sizes), tmp_path / "base", **sizes)
    figures = train(pictures, base, tmp_path / "run", "--lora", "--onnx", "serving", "--learning_rate", "3e-3")
    assert figures["splits"]["held_out"]["n"] > 0
    release = Release.load(tmp_path / "run/release")
    assert release.graph is not None and release.parity_error() < 1e-5
    config = json.loads((tmp_path / "run/release/config.json").read_text())
    assert list(config["id2label"].values()) == config["label_names"] == list(DIAGNOSES)
    path = next(pictures.rglob("*.png"))
    answers = pipeline("image-classification", model=str(tmp_path / "run/release"))(str(path), top_k=9)
    assert {each["label"] for each in answers} == set(DIAGNOSES)
    (own,) = release.probabilities([Image.open(path).convert("RGB")])
    for each in answers:
        assert each["score"] == pytest.approx(own[release.labels.index(each["label"])], abs=1e-5)
