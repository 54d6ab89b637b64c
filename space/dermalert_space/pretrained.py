"""A model that transformers loads by its name: its processor, what the cache lacks of it, and how loading fails."""

import json
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from transformers import AutoImageProcessor, BaseImageProcessor, ImageProcessingMixin, PilBackend

from dermalert_space.contract import CONFIG, PROCESSOR, WEIGHTS, WEIGHTS_INDEX, HubName

UNLOADABLE = (
    OSError,
    ValueError,
    KeyError,
    ImportError,
    RuntimeError,
    HFValidationError,
    HfHubHTTPError,
    SafetensorError,
)
"""What transformers raises for a name that is nothing, a folder that is no model, a model that is no image classifier,
one that wants a library that is not installed (timm), and weights that cannot be read."""


def load_processor(name: str, revision: str | None = None) -> BaseImageProcessor:
    """An image processor that resizes by Pillow, which does so alike on every machine; torchvision does otherwise.

    Raises:
        OSError, ValueError: there is none.
    """
    content, _ = ImageProcessingMixin.get_image_processor_dict(name, revision=revision)
    if content.get("image_processor_type") == PilBackend.__name__:  # by its name no backend is chosen
        return PilBackend.from_pretrained(name, revision=revision or "main")
    return AutoImageProcessor.from_pretrained(name, revision=revision, backend="pil", trust_remote_code=False)


def missing_from_cache(name: str, revision: str | None = None) -> str | None:
    """What the cache lacks of a model of the Hub, as a clause, where HF_HUB_OFFLINE forbids to fetch it; else None."""
    if not constants.HF_HUB_OFFLINE or Path(name).exists():
        return None

    def cached(file: str) -> str | None:
        try:
            path = try_to_load_from_cache(name, file, revision=revision)
        except ValueError:  # no name of a repository
            return None
        return path if isinstance(path, str) else None

    weights, index = [WEIGHTS], cached(WEIGHTS_INDEX)
    if index:
        weights = sorted(set(json.loads(Path(index).read_text())["weight_map"].values()))
    missing = [file for file in (CONFIG, PROCESSOR, *weights) if not cached(file)]
    if not missing:
        return None
    return f"HF_HUB_OFFLINE is set and the cache lacks {', '.join(missing)}: {HubName(name, revision).how_to_cache}"
