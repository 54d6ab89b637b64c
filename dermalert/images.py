"""From images to `pixel_values`: the release's own processor, then, in training, augmentation of the whole batch."""

import math

import torch
from datasets import Dataset
from torch.nn import functional

from space.triage import read_image


def with_pixels(dataset: Dataset, processor, *, augmented: bool = False) -> Dataset:
    """Return the data set as the Trainer reads it: `pixel_values` (3, H, W) and `labels`, made when they are asked for.

    The pixels go through the very processor of the release, and are augmented after it, so that training and serving
    cannot drift apart.
    """

    def transform(rows: dict) -> dict:
        images = [read_image(image) for image in rows["image"]]
        pixels = processor(images, return_tensors="pt")["pixel_values"]
        if augmented:
            pixels = augment(pixels)
        return {"pixel_values": list(pixels), "labels": rows["label"]}

    return dataset.select_columns(["image", "label"]).with_transform(transform)


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Stack a batch; channels last, which convolutions on a CPU run about a third faster on."""
    pixels = torch.stack([row["pixel_values"] for row in rows]).contiguous(memory_format=torch.channels_last)
    return {"pixel_values": pixels, "labels": torch.tensor([row["labels"] for row in rows])}


def augment(pixels: torch.Tensor) -> torch.Tensor:
    """Return normalised pixels (N, 3, H, W) turned, mirrored, scaled, shifted and recoloured, each image by itself.

    A lesion has no up and no side, so that every rotation and reflection is as likely as the picture itself. The
    ranges of scale (0.8 to 1.25), aspect (0.9 to 1.1), shift (a tenth) and colour are guesses, not measured choices.
    """
    n = len(pixels)
    angle = torch.rand(n) * 2 * math.pi
    scale = torch.exp((torch.rand(n) * 2 - 1) * math.log(1.25))
    aspect = torch.exp((torch.rand(n) * 2 - 1) * math.log(1.1))
    mirror = torch.randint(0, 2, (n,)) * 2.0 - 1
    shift = (torch.rand(n, 2) * 2 - 1) * 0.1
    matrix = torch.stack(
        [
            torch.stack([angle.cos() * scale * aspect * mirror, -angle.sin() * scale / aspect, shift[:, 0]], dim=1),
            torch.stack([angle.sin() * scale * aspect * mirror, angle.cos() * scale / aspect, shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(matrix, list(pixels.shape), align_corners=False)
    # Mirrored edges: no black corners that would tell an augmented image from a plain one.
    pixels = functional.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    return _recolour(pixels)


def _recolour(pixels: torch.Tensor) -> torch.Tensor:
    """Vary contrast, saturation, brightness and white balance in the normalised space."""
    n = len(pixels)
    grey = pixels.mean(dim=1, keepdim=True)
    pixels = grey + (pixels - grey) * (0.8 + 0.4 * torch.rand(n, 1, 1, 1))
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    pixels = mean + (pixels - mean) * (0.8 + 0.4 * torch.rand(n, 1, 1, 1))
    return pixels + 0.2 * (torch.rand(n, 1, 1, 1) * 2 - 1) + 0.1 * (torch.rand(n, 3, 1, 1) * 2 - 1)
