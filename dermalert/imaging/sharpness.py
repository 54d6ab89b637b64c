"""How sharp a picture is, and pictures of any sharpness: what is left of its fine detail is no sign of a disease.

Collections of pictures differ in how they were resampled, and where each holds diagnoses of its own the network learns
to tell a diagnosis by that. In the nine-class set the melanomas and nevi of HAM10000 are missing, and the copies of
HAM10000 that bring them are softer: a linear model tells the two kinds of copy apart without a mistake, and a network
that has learnt from them calls a sharp melanoma of another clinic a carcinoma.
"""

import functools
import math

import torch
from torch.nn import functional

from dermalert.imaging.device import sent

FIRST, WIDTH, LAST = 0.18, 0.04, 0.7
"""Spatial frequencies in cycles a pixel of the network's input: what is coarser than the first is left alone."""

_FALLS = (5.0, 20.0)
"""By how much the logarithm of the power may fall for each cycle a pixel, from sharper to softer than what is found:
medians of 10 in the nine-class set, 12 in the copies of ISIC 2017 and 15 in those of HAM10000, at 160 pixels."""

_SHARPENED = 4.0  # times, at most: beyond, the blocks of JPEG would show
_PADDING = 16  # pixels of mirrored edge, so that opposite edges do not leak into each other


def levels(pixels: torch.Tensor) -> torch.Tensor:
    """Return the fine detail of RGB pixels (N, 3, H, W): (N, 13), by frequency from `FIRST` to `LAST`.

    Each is half the logarithm of the power of the grey picture at a frequency, less that at the first one, which is 0:
    so that neither the contrast nor the size of what is shown counts, only how steeply detail falls off.
    """
    grey = pixels.mean(dim=1)
    height, width = grey.shape[1:]
    windowed = (grey - grey.mean(dim=(1, 2), keepdim=True)) * _window(height, width, pixels.device)
    spectrum = torch.fft.rfft2(windowed)
    power = (spectrum.real.square() + spectrum.imag.square()).flatten(1)
    found = torch.log(power @ _bands(height, width, pixels.device) + 1e-6) / 2
    return found - found[:, :1]


def levelled(pixels: torch.Tensor) -> torch.Tensor:
    """Return RGB pixels (N, 3, H, W) in [0, 1] whose fine detail falls off as steeply as chance wants, each its own.

    So the sharpness of a picture in training says nothing of its diagnosis, whatever collection it is from.
    """
    n, _, height, width = pixels.shape
    low, high = _FALLS
    falls = (low + (high - low) * torch.rand(n, 1)) / 2
    wanted = sent(-falls * (_centres() - FIRST), pixels.device)
    gains = (wanted - levels(pixels)).clamp(-4, math.log(_SHARPENED))
    pad = min(_PADDING, height // 4, width // 4)
    size = (height + 2 * pad, width + 2 * pad)
    gain = torch.exp((gains @ _between(*size, pixels.device)).view(n, 1, size[0], -1))
    spectrum = torch.fft.rfft2(functional.pad(pixels, [pad] * 4, mode="reflect")).mul_(gain)
    columns = torch.fft.ifft(spectrum, dim=2)[:, :, pad : pad + height]  # irfft2 copies all of it once more
    return torch.fft.irfft(columns, n=size[1])[..., pad : pad + width].clamp(0, 1)


def _centres() -> torch.Tensor:
    return torch.arange(FIRST, LAST, WIDTH)


def _frequencies(height: int, width: int) -> torch.Tensor:
    """Return the frequency of each number that `torch.fft.rfft2` gives, in cycles a pixel: (H, W // 2 + 1)."""
    return torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])


@functools.lru_cache(maxsize=8)
def _window(height: int, width: int, device: torch.device) -> torch.Tensor:
    return torch.outer(*(torch.hann_window(side, periodic=False) for side in (height, width))).to(device)


@functools.lru_cache(maxsize=8)
def _bands(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Return the weights (H * (W // 2 + 1), 13) with which a spectrum is averaged around each frequency."""
    reach = max(WIDTH, 1.5 / min(height, width))  # a small picture has few frequencies
    weights = (1 - (_frequencies(height, width) - _centres()[:, None, None]).abs() / reach).clamp(min=0)
    return (weights / weights.sum(dim=(1, 2), keepdim=True)).flatten(1).T.contiguous().to(device)


@functools.lru_cache(maxsize=8)
def _between(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Return the weights (13, H * (W // 2 + 1)) that interpolate between bands at each number of a spectrum."""
    last = len(_centres()) - 1
    place = ((_frequencies(height, width) - FIRST) / WIDTH).clamp(0, last).flatten()
    return (1 - (place - torch.arange(last + 1)[:, None]).abs()).clamp(min=0).to(device)
