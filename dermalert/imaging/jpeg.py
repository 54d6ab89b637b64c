"""What JPEG loses, on a batch of images and on any device: blocks of 8 x 8 cosines, rounded (ITU-T T.81)."""

import functools
import io
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from scipy import fft
from torch.nn import functional

from dermalert.imaging.device import to_device

_RGB_TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
"""From RGB to brightness and two colour differences (ITU-T T.871)."""


class _Constants(NamedTuple):
    """Matrices of the codec.

    Attributes:
        to_ycc: (3, 3), from RGB.
        to_rgb: (3, 3), its inverse.
        cosines: (64, 64), the cosine transform of a flattened block, one cosine a row.
    """

    to_ycc: torch.Tensor
    to_rgb: torch.Tensor
    cosines: torch.Tensor


def compress(pixels: torch.Tensor, qualities: torch.Tensor) -> torch.Tensor:
    """Save each image as a JPEG with halved colour resolution, and read it again, without a file.

    Args:
        pixels: (N, 3, H, W) in [0, 1], on any device.
        qualities: (N,) whole numbers from 1 to 100, as `PIL.Image.Image.save` takes them; on the CPU.
    """
    height, width = pixels.shape[2:]
    to_ycc, to_rgb, cosines = _constants(pixels.device)
    # To whole blocks of the halved colours too.
    padded = functional.pad((pixels * 255).round(), [0, -width % 16, 0, -height % 16], mode="replicate")
    ycc = _convert(padded, to_ycc).round_()
    luminance, chrominance = (to_device(tables, pixels.device) for tables in _quantization_tables()[:, qualities])
    y = _quantize(ycc[:, :1] - 128, luminance, cosines) + 128
    colours = ycc[:, 1:, ::2] + ycc[:, 1:, 1::2]
    colours = (colours[..., ::2] + colours[..., 1::2]).div_(4).round_()
    colours = functional.interpolate(_quantize(colours, chrominance, cosines), scale_factor=2, mode="bilinear")
    rgb = _convert(torch.cat([y, colours], 1), to_rgb)
    return rgb[..., :height, :width].round_().clamp_(0, 255).div_(255)


def _convert(pixels: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return (matrix @ pixels.flatten(2)).view(pixels.shape)


def _quantize(planes: torch.Tensor, steps: torch.Tensor, cosines: torch.Tensor) -> torch.Tensor:
    """Round the cosines of each block of planes (N, C, H, W) to multiples of the steps (N, 8, 8)."""
    blocks = planes.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)  # (N, C, H / 8, W / 8, 8, 8)
    steps = steps.flatten(1)[:, None, None]
    coefficients = (blocks.flatten(4).flatten(2, 3) @ cosines.T).div_(steps).round_().mul_(steps)
    return (coefficients @ cosines).view(blocks.shape).transpose(3, 4).reshape(planes.shape)


@functools.lru_cache(maxsize=8)
def _constants(device: torch.device) -> _Constants:
    cosines = fft.dct(np.eye(8), norm="ortho", axis=0)
    matrices = _RGB_TO_YCC, torch.linalg.inv(_RGB_TO_YCC), torch.from_numpy(np.kron(cosines, cosines))
    return _Constants(*(matrix.float().to(device) for matrix in matrices))


@functools.cache
def _quantization_tables() -> torch.Tensor:
    """Ask Pillow for its steps of luminance and chrominance at each quality: (2, 101, 8, 8)."""
    tables = np.ones((2, 101, 8, 8), np.float32)
    for quality in range(1, 101):
        file = io.BytesIO()
        Image.new("RGB", (16, 16)).save(file, "JPEG", quality=quality)
        file.seek(0)
        for kind, steps in JpegImageFile(file).quantization.items():
            tables[kind, quality] = np.reshape(steps, (8, 8))
    return torch.from_numpy(tables)
