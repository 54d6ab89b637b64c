"""Where a release looked: models that look at one corner by construction, and nothing left behind in a model."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from releases import ALERT, LABELS, make_image, make_release
from torch import nn
from transformers import DeiTImageProcessorPil, PreTrainedModel, ViTImageProcessorPil

from space import attribution, triage

SIDE = 32
_CONVOLUTIONS = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
_TOKENS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_PATCHES = {"image_size": SIDE, "patch_size": 8}

CONVOLUTIONAL = {
    "ConvNext": _CONVOLUTIONS | {"patch_size": 4},
    "ConvNextV2": _CONVOLUTIONS | {"patch_size": 4},
    "EfficientNet": {
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "in_channels": [32, 16],
        "out_channels": [16, 24],
        "kernel_sizes": [3, 3],
        "strides": [1, 2],
        "num_block_repeats": [1, 1],
        "expand_ratios": [1, 6],
        "hidden_dim": 1280,
    },
    "MobileNetV1": {"depth_multiplier": 0.25},
    "MobileNetV2": {"depth_multiplier": 0.25},
    "RegNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8},
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
}
OF_TOKENS = {
    "Beit": _TOKENS | _PATCHES,
    "DeiT": _TOKENS | _PATCHES,
    "Dinov2": _TOKENS | _PATCHES,
    "Swin": {"image_size": SIDE, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
    "ViT": _TOKENS | _PATCHES,
}


def network(name: str) -> PreTrainedModel:
    """A tiny classifier of a family of transformers, with random weights that make its answers differ."""
    settings = (CONVOLUTIONAL | OF_TOKENS)[name]
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    config = getattr(transformers, f"{name}Config")(**settings, **names)
    config.alert = ALERT
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForImageClassification")(config)
        for head in (module for module in model.modules() if isinstance(module, nn.Linear)):
            if head.out_features == len(LABELS):
                nn.init.normal_(head.weight, std=0.3)
    return model.eval()


def release(name: str, processor=None) -> triage.Release:
    processor = processor or ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return triage.Release(network(name), processor, name=name)


def blinkered(found: triage.Release, rows: slice, columns: slice) -> triage.Release:
    """The same release, but its model sees nothing except some rows and columns of its input."""

    def blinker(_model, _inputs: tuple, named: dict) -> tuple:
        seen = torch.zeros_like(named["pixel_values"])
        seen[..., rows, columns] = named["pixel_values"][..., rows, columns]
        return (), {"pixel_values": seen}

    found.model.register_forward_pre_hook(blinker, with_kwargs=True)
    return found


def noise(size: tuple[int, int], *, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8))


def grain(size: tuple[int, int], *, seed: int = 0) -> Image.Image:
    """Noise so coarse that a model's input still has it."""
    return noise((16, 16), seed=seed).resize(size, Image.Resampling.NEAREST)


def never(*_, **__):
    raise AssertionError("the other method was to be used")


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_convolutional_networks_are_explained_by_grad_cam(name, monkeypatch):
    monkeypatch.setattr(attribution, "Occlusion", never)
    found = attribution.attribute(release(name), grain((64, 48)))
    assert found.shape == (48, 64)
    assert found.max() == 1
    assert found.min() >= 0


@pytest.mark.parametrize("name", OF_TOKENS)
def test_networks_of_tokens_are_explained_by_occlusion(name, monkeypatch):
    monkeypatch.setattr(attribution, "LayerGradCam", never)
    found = attribution.attribute(release(name), grain((64, 48)))
    assert found.shape == (48, 64)
    assert found.max() == 1
    assert found.min() >= 0


# Each with zeros where it sees zeros: of a network with biases Grad-CAM can mark what it does not look at.
@pytest.mark.parametrize("name", ["ResNet", "ViT"])
@pytest.mark.parametrize("top", [True, False])
@pytest.mark.parametrize("left", [True, False])
def test_a_model_that_looks_at_one_quadrant_has_its_map_there(name, top, left):
    half = SIDE // 2
    rows, columns = (slice(0, half) if first else slice(half, None) for first in (top, left))
    found = attribution.attribute(blinkered(release(name), rows, columns), grain((96, 64)))
    quadrant = found[:32] if top else found[32:]
    quadrant = quadrant[:, :48] if left else quadrant[:, 48:]
    assert quadrant.max() == 1
    assert quadrant.sum() > 0.75 * found.sum()
