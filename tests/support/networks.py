"""Tiny networks with random weights, saved and exported as a release is."""

from pathlib import Path

import numpy as np
import onnx
import torch
import transformers
from dermalert_space.contract import GRAPH
from dermalert_space.release import Release
from PIL import Image
from torch import nn
from transformers import PreTrainedModel, ViTImageProcessorPil

from dermalert.release import onnx_export
from dermalert.taxonomy import DIAGNOSES
from dermalert.training import backbones, efficientnet_lite
from support.releases import ALERT, LABELS

SIDE = 32
_CONVOLUTIONS = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
TOKENS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
PATCHES = {"image_size": SIDE, "patch_size": 8}

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
    "Beit": TOKENS | PATCHES,
    "DeiT": TOKENS | PATCHES,
    "Dinov2": TOKENS | PATCHES,
    "Swin": {"image_size": SIDE, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]}
    | {"window_size": 4},
    "ViT": TOKENS | PATCHES,
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


def release(name: str, processor=None) -> Release:
    processor = processor or ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return Release(network(name), processor, name=name)


def blinkered(found: Release, rows: slice, columns: slice) -> Release:
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


ARCHITECTURES = ("ViT", "Dinov2", "Swin", "ConvNext", "ResNet")


def saved(name: str, folder: Path) -> Path:
    """A classifier of an architecture as a release's folder holds it."""
    torch.manual_seed(0)
    if name in efficientnet_lite.LITE:
        model, processor = backbones.load(name, labels=DIAGNOSES, image_size=32)
    else:
        model, processor = network(name), ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def with_graph(folder: Path) -> Path:
    (folder / "onnx").mkdir(exist_ok=True)
    onnx_export.export(folder, Release.load(folder).processor, "graph")
    return folder


def edited(folder: Path, change) -> Path:
    """A release whose graph is changed."""
    model = onnx.load(folder / GRAPH, load_external_data=False)
    change(model)
    (folder / GRAPH).write_bytes(model.SerializeToString())
    return folder


def replaced(model, output: str, *nodes) -> None:
    """Put nodes, which take `before` and give the output, behind what gives it."""
    for node in model.graph.node:
        node.output[:] = ["before" if name == output else name for name in node.output]
        node.input[:] = ["before" if name == output else name for name in node.input]
    model.graph.node.extend(nodes)
