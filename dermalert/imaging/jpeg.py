"""What JPEG loses, on a batch of pictures and on any device: blocks of 8 x 8 cosines, rounded (ITU-T T.81)."""

import functools
import io

import numpy as np
import torch
from PIL import Image
from scipy import fft
from torch.nn import functional

from dermalert.imaging.device import sent

_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
"""From RGB to brightness and two colour differences (ITU-T T.871)."""


def compressed(pixels: torch.Tensor, qualities: torch.Tensor) -> torch.Tensor:
    """Return RGB pixels (N, 3, H, W) in [0, 1] as they come back from a JPEG file with halved colours.

    Args:
        pixels: on any device.
        qualities: (N,) whole numbers from 1 to 100, as `PIL.Image.Image.save` takes them; on the CPU.
    """
    height, width = pixels.shape[2:]
    to_ycc, to_rgb, cosines = _constants(pixels.device)
    # To whole blocks of the halved colours too.
    padded = functional.pad((pixels * 255).round(), [0, -width % 16, 0, -height % 16], mode="replicate")
    ycc = _by_matrix(padded, to_ycc).round_()
    bright, colour = (sent(tables, pixels.device) for tables in _tables()[:, qualities])
    y = _rounded(ycc[:, :1] - 128, bright, cosines) + 128
    differences = ycc[:, 1:, ::2] + ycc[:, 1:, 1::2]
    differences = (differences[..., ::2] + differences[..., 1::2]).div_(4).round_()
    differences = functional.interpolate(_rounded(differences, colour, cosines), scale_factor=2, mode="bilinear")
    found = _by_matrix(torch.cat([y, differences], 1), to_rgb)
    return found[..., :height, :width].round_().clamp_(0, 255).div_(255)


def _by_matrix(pixels: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return (matrix @ pixels.flatten(2)).view(pixels.shape)


def _rounded(planes: torch.Tensor, steps: torch.Tensor, cosines: torch.Tensor) -> torch.Tensor:
    """Round the cosines of each block of planes (N, C, H, W) to multiples of the steps (N, 8, 8)."""
    blocks = planes.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)  # (N, C, H / 8, W / 8, 8, 8)
    steps = steps.flatten(1)[:, None, None]
    found = (blocks.flatten(4).flatten(2, 3) @ cosines.T).div_(steps).round_().mul_(steps)
    return (found @ cosines).view(blocks.shape).transpose(3, 4).reshape(planes.shape)


@functools.lru_cache(maxsize=8)
def _constants(device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the matrices (3, 3) to and from brightness and colours, and (64, 64): a block's cosine a row."""
    cosines = fft.dct(np.eye(8), norm="ortho", axis=0)
    found = _YCC, torch.linalg.inv(_YCC), torch.from_numpy(np.kron(cosines, cosines))
    return tuple(part.float().to(device) for part in found)


@functools.cache
def _tables() -> torch.Tensor:
    """Return the steps that Pillow takes of brightness and colours at each quality: (2, 101, 8, 8)."""
    found = np.ones((2, 101, 8, 8), np.float32)
    for quality in range(1, 101):
        file = io.BytesIO()
        Image.new("RGB", (16, 16)).save(file, "JPEG", quality=quality)
        for kind, steps in Image.open(file).quantization.items():
            found[kind, quality] = np.reshape(steps, (8, 8))
    return torch.from_numpy(found)
