"""Make a release folder in a second, without training: a tiny classifier with random weights."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import ConvNextConfig, ConvNextForImageClassification, ViTImageProcessorPil

from dermalert.diagnoses import DIAGNOSES

LABELS = list(DIAGNOSES)

ALERT = {
    "label": "melanoma",
    "threshold": 0.1,
    "target_sensitivity": 0.95,
    "confidence": 0.95,
    "lesions": 59,
    "missed": 0,
    "bound_met": True,
}


def make_release(
    folder: Path,
    *,
    melanoma_bias: float = 0.0,
    threshold: float | None = 0.1,
    alert: bool = True,
    generated: bool | None = None,
    image_size: int = 32,
    seed: int = 0,
) -> Path:
    """Save a release into `folder` and return it.

    Args:
        folder: where; made if need be.
        melanoma_bias: added to the logit of melanoma: 20 makes every image a melanoma, -20 none.
        threshold: that of the alert; None for a release that found none.
        alert: False leaves the key `alert` out, as in a model that is no dermalert release.
        generated: what the key `dermalert` says of the training pictures; None leaves that key out.
        image_size: side in pixels of what the processor hands to the model.
        seed: of the weights.
    """
    config = ConvNextConfig(
        hidden_sizes=[8, 16],
        depths=[1, 1],
        num_stages=2,
        patch_size=4,
        image_size=image_size,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    if alert:
        config.alert = ALERT | {"threshold": threshold}
    if generated is not None:
        config.dermalert = {"version": "0.1.0", "data": ["demo"], "generated": generated}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ConvNextForImageClassification(config)
        # As it is initialised the model hardly looks at the picture: these make its answers differ.
        torch.nn.init.normal_(model.classifier.weight, std=0.3)
    with torch.no_grad():
        model.classifier.bias[LABELS.index("melanoma")] += melanoma_bias
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": image_size, "width": image_size}).save_pretrained(folder)
    return folder


def make_image(size: tuple[int, int] = (64, 48), *, seed: int = 0) -> Image.Image:
    """A brown blob on skin colour, so soft that JPEG keeps it, and with no two sides alike."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    cx, cy, radius = np.random.default_rng(seed).uniform(0.25, 0.45, 3)
    lesion = np.exp(-(((x - cx) / radius) ** 2 + ((y - cy) / radius / 0.6) ** 2))[..., None]
    pixels = (1 - lesion) * [225, 180, 155] + lesion * [90, 50, 35]
    return Image.fromarray(pixels.round().astype(np.uint8))
