"""A checkpoint of timm: its config.json holds how timm evaluates images, and Pillow does it here."""

import importlib.util
from typing import Any

from transformers import PilBackend, PreTrainedConfig

from dermalert.errors import UsageError

_RESAMPLING = {
    "nearest": 0,
    "lanczos": 1,
    "bilinear": 2,
    "bicubic": 3,
    "box": 4,
    "hamming": 5,
}  # as Pillow numbers them


def prepare(config: PreTrainedConfig, name: str) -> PilBackend | None:
    """The processor of a timm model that has none of its own yet; None for any other model.

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
    return _processor(stated) if stated else None


def _processor(stated: dict[str, Any]) -> PilBackend:
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
        resample=_RESAMPLING[data["interpolation"]],
        do_center_crop=True,
        crop_size={"height": height, "width": width},
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=list(data["mean"]),
        image_std=list(data["std"]),
    )
