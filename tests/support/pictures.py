"""Small generated data sets for the tests, in the layout of the nine-class Kaggle set."""

import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image

from dermalert.taxonomy import DIAGNOSES


def picture(seed: int, *, size: int = 32, tint: int = 0) -> Image.Image:
    """A picture that no other seed gives; a tint of 0 to 8 colours it."""
    rng = np.random.default_rng(seed)
    colour = 24 * np.array([tint % 3 - 1, tint // 3 % 3 - 1, tint % 2])
    return Image.fromarray((rng.integers(64, 192, (size, size, 3)) + colour).astype(np.uint8))


def put(path: Path, seed: int, **options) -> None:
    """Write a picture into a folder, which is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, **options).save(path)


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    """The file of a picture."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def class_folders(root: Path, *, images: int, first_seed: int = 0, labels: tuple[str, ...] = DIAGNOSES) -> Path:
    """Write so many different images of each diagnosis, a folder each."""
    for i, label in enumerate(labels):
        (root / label).mkdir(parents=True)
        for j in range(images):
            seed = first_seed + i * images + j
            # Numbers that the archive has not given out, or the pictures would be taken for its images.
            picture(seed, tint=i).save(root / label / f"ISIC_{9000000 + seed:07d}.png")
    return root


def write_table(path: Path, rows: list[dict]) -> None:
    """Write rows with the same keys as a CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def textures(n, *, side=96, seed=0):
    """Pictures (n, 3, side, side) of soft blobs and grain, about as skin is."""
    import torch
    from torch.nn import functional

    noise = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))
    coarse = functional.interpolate(noise[:, :, ::8, ::8], size=(side, side), mode="bicubic")
    return (0.2 + 0.5 * coarse + 0.1 * noise).clamp(0, 1)


def softened(pixels):
    """As another clinic's copies are: shrunk by a quarter, and enlarged again."""
    from torch.nn import functional

    side = pixels.shape[-1]
    small = functional.interpolate(pixels, size=(side * 3 // 4,) * 2, mode="bicubic", antialias=True)
    return functional.interpolate(small, size=(side, side), mode="bicubic").clamp(0, 1)
