"""Pretrained weights: EfficientNet-Lite, or any image classifier of the Hub or a folder, those of timm too."""

import importlib.util
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from dermalert_space.contract import CONFIG, PROCESSOR, Json, find, is_hub_name, locate
from dermalert_space.pretrained import UNLOADABLE, load_processor, missing_from_cache
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PilBackend,
    PreTrainedConfig,
    PreTrainedModel,
)

from dermalert.errors import UsageError, did_you_mean, first_line
from dermalert.imaging.byte_processor import ByteProcessor
from dermalert.training import efficientnet_lite
from dermalert.training.efficientnet_lite import LITE
from dermalert.training.head import last_linear

_OUTPUT = {
    "problem_type": "single_label_classification",
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
}
"""How a model that is trained here answers, whatever its base's config says."""

_T = TypeVar("_T")


def load(
    name: str, *, labels: tuple[str, ...], image_size: int | None = None
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """A classifier with a head for the labels, and its image processor.

    Args:
        name: `efficientnet-lite0|1|2`, a folder, `USER/REPO` or `USER/REPO@TAG` of the Hub.
        labels: the names of the classes, in the order of their ids.
        image_size: side of the square input in pixels; None: the checkpoint's own (160 for EfficientNet-Lite).

    Raises:
        UsageError: no such model, not an image classifier, or an input size that it cannot take.
    """
    id2label = dict(enumerate(labels))
    # Their number too: timm's config would have that of the base.
    names = {"id2label": id2label, "label2id": {label: i for i, label in id2label.items()}, "num_labels": len(labels)}
    if name not in LITE:
        model, processor = _load_checkpoint(name, names)
    else:
        model, processor = efficientnet_lite.load(name, names), efficientnet_lite.processor()
    if image_size is not None:
        _resize(processor, image_size)
    _check(name, model, processor, resized=image_size is not None)
    efficientnet_lite.skip_identity_gates(model)
    return model, processor


def save(model: PreTrainedModel, processor: BaseImageProcessor, folder: Path) -> None:
    """Write a model and its processor as a release holds them."""
    model.save_pretrained(folder)
    path = folder / CONFIG
    config = json.loads(path.read_text())
    if "id2label" not in config:  # a model of timm writes its labels in another way, which others do not read
        config |= {"id2label": model.config.id2label, "label2id": model.config.label2id}
        path.write_text(json.dumps(config, indent=2) + "\n")
    save_processor(processor, folder)


def save_processor(processor: BaseImageProcessor, folder: Path) -> None:
    """Write a processor so that `pipeline` resizes by Pillow, as here, where torchvision is installed too.

    By the name of a model's class transformers would choose torchvision's resampling, which moves a probability by a
    hundredth; `PilBackend` leaves it no choice. A class that does more than that one keeps its name.
    """
    processor.save_pretrained(folder)
    path = folder / PROCESSOR
    given = path.read_text()
    path.write_text(json.dumps(json.loads(given) | {"image_processor_type": PilBackend.__name__}, indent=2) + "\n")
    if not _is_the_same(processor, PilBackend.from_pretrained(folder)):
        path.write_text(given)


def _is_the_same(one: BaseImageProcessor, other: BaseImageProcessor) -> bool:
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


def _resize(processor: Any, side: int) -> None:
    size = dict(processor.size)
    processor.size = {"shortest_edge": side} if size.get("shortest_edge") else {"height": side, "width": side}
    if getattr(processor, "crop_size", None):
        processor.crop_size = {"height": side, "width": side}


def _check(name: str, model: PreTrainedModel, processor: BaseImageProcessor, *, resized: bool) -> None:
    """Refuse, before the training, what could not be trained or calibrated."""
    other = "take another --model_name_or_path"
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


def _pixel_values(model: PreTrainedModel, processor: BaseImageProcessor) -> torch.Tensor:
    values = processor(Image.new("RGB", (96, 64)), return_tensors="pt")["pixel_values"]
    if model.config.model_type == "efficientnet" and (values.shape[2] % 32 or values.shape[3] % 32):
        # There transformers pads stride-2 layers otherwise than the weights were trained with.
        raise ValueError(f"its input must be a multiple of 32 pixels, not {values.shape[2]}")
    if not values.is_floating_point():
        raise ValueError("its processor neither rescales nor normalises, and no network takes bytes")
    return values


def _load_checkpoint(name: str, names: Json) -> tuple[PreTrainedModel, BaseImageProcessor]:
    if not Path(name).exists() and "/" not in name:
        raise _unknown(name, "every repository has its owner's name before a slash")
    repo, revision = locate(name)
    if not Path(repo).exists() and not is_hub_name(name):
        raise _unknown(name, "there is no such folder")
    try:
        config = AutoConfig.from_pretrained(repo, revision=revision, trust_remote_code=False, **_OUTPUT, **names)
        processor = _timm_processor(config, name) or load_processor(repo, revision)
        # Of a config, only what the network is made of: the head is new, and so is what its answers mean.
        config = drop_release_keys(config)
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
            raise UsageError(f"--model_name_or_path '{name}' cannot be loaded: {missing}.") from error
        raise _unknown(name, first_line(error)) from error
    return model, processor


def _timm_processor(config: PreTrainedConfig, name: str) -> PilBackend | None:
    """The processor of a timm model, whose config.json says how timm evaluates images; None for any other model.

    Raises:
        UsageError: timm is not installed.
        ValueError: timm pads images for this model, which no processor of transformers does alike.
    """
    if config.model_type != "timm_wrapper":
        return None
    if importlib.util.find_spec("timm") is None:
        raise UsageError(f"--model_name_or_path '{name}' is a model of timm: pip install timm.")
    if config.model_args:  # to which timm adds the classes of the old head
        config.model_args = {key: value for key, value in config.model_args.items() if key != "num_classes"}
    stated = getattr(config, "pretrained_cfg", None)
    return _processor_as_stated(stated) if stated else None


def _processor_as_stated(stated: dict[str, Any]) -> PilBackend:
    from timm.data import resolve_data_config  # type: ignore[import-not-found]  # an extra, and large

    data = resolve_data_config({}, pretrained_cfg=stated)
    _, height, width = data["input_size"]
    if data["crop_mode"] == "border":
        raise ValueError("timm adds a border to the images of this model")
    larger = {"height": int(height / data["crop_pct"]), "width": int(width / data["crop_pct"])}
    keeps_shape = data["crop_mode"] == "center" and height == width
    return PilBackend(
        do_convert_rgb=True,
        do_resize=True,
        size={"shortest_edge": larger["height"]} if keeps_shape else larger,
        resample=Image.Resampling[data["interpolation"].upper()].value,
        do_center_crop=True,
        crop_size={"height": height, "width": width},
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=list(data["mean"]),
        image_std=list(data["std"]),
    )


def drop_release_keys(config: PreTrainedConfig) -> PreTrainedConfig:
    """A base model's config without what its class does not declare, but for what a release says of its making.

    Such are thresholds and remote code of somebody else's release, which would stand in ours.

    Raises:
        ValueError: the weights are quantised.
    """
    if getattr(config, "quantization_config", None):
        raise ValueError("its weights are quantised")
    declared = {*dir(type(config)), *type(config)().to_dict(), "dermalert"} - {"label_names"}  # timm's, of the old head
    for key in [key for key in vars(config) if key not in declared and not key.startswith("_")]:
        delattr(config, key)
    if not isinstance(getattr(config, "dermalert", {}), dict):
        del config.dermalert
    return config


def _unknown(name: str, reason: str) -> UsageError:
    folder = Path(name).parent
    beside = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    models = [str(path) for path in beside if (find(path) / CONFIG).is_file()]
    return UsageError(
        f"--model_name_or_path '{name}' is neither one of {', '.join(LITE)}, nor a folder or a Hub repository with an "
        f"image classifier that can be reached ({reason}).{did_you_mean(name, [*LITE, *models])}"
    )
