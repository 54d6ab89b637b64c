"""The sharpness of an image, measured and randomized, so that fine detail is no sign of a disease.

Collections of images differ in how they were resampled. Where each holds diagnoses of its own, a network learns to tell
a diagnosis by that. In the nine-class set the melanomas and nevi of HAM10000 are missing, and the copies of HAM10000
that bring them are softer. A linear model tells the two kinds of copy apart without a mistake; a network that has
learnt from them calls a sharp melanoma of another clinic a carcinoma.
"""

import functools
import math

import torch
from torch.nn import functional

from dermalert.imaging.device import to_device

FIRST, WIDTH, LAST = 0.18, 0.04, 0.7
"""Spatial frequencies in cycles a pixel of the network's input; coarser detail than the first stays as it is."""

_SLOPES = (5.0, 20.0)
"""By how much the logarithm of the power falls for each cycle a pixel, from sharper to softer than real images. Medians
at 160 pixels: 10 in the nine-class set, 12 in the copies of ISIC 2017, 15 in those of HAM10000."""

_MAX_GAIN = 4.0  # beyond, the blocks of JPEG would show
_PADDING = 16  # pixels of reflected edge, so that opposite edges do not leak into each other


def spectral_profile(pixels: torch.Tensor) -> torch.Tensor:
    """Measure the fine detail of RGB pixels (N, 3, H, W): (N, 13), by frequency from `FIRST` to `LAST`.

    Each value is half the logarithm of the grey image's power at a frequency, less that at the first one, which is 0.
    So neither the contrast nor the size of a lesion counts, only how steeply detail falls off.
    """
    grey = pixels.mean(dim=1)
    height, width = grey.shape[1:]
    windowed = (grey - grey.mean(dim=(1, 2), keepdim=True)) * _window(height, width, pixels.device)
    spectrum = torch.fft.rfft2(windowed)
    power = (spectrum.real.square() + spectrum.imag.square()).flatten(1)
    profile = torch.log(power @ _band_weights(height, width, pixels.device) + 1e-6) / 2
    return profile - profile[:, :1]


def randomize_sharpness(pixels: torch.Tensor) -> torch.Tensor:
    """Give each image of RGB pixels (N, 3, H, W) in [0, 1] a fine detail that falls off by a random slope.

    The sharpness of a training image then says nothing of its diagnosis, whatever its collection.
    """
    n, _, height, width = pixels.shape
    low, high = _SLOPES
    slopes = (low + (high - low) * torch.rand(n, 1)) / 2
    target = to_device(-slopes * (_band_centres() - FIRST), pixels.device)
    gains = (target - spectral_profile(pixels)).clamp(-4, math.log(_MAX_GAIN))
    pad = min(_PADDING, height // 4, width // 4)
    size = (height + 2 * pad, width + 2 * pad)
    gain = torch.exp((gains @ _interpolation_weights(*size, pixels.device)).view(n, 1, size[0], -1))
    spectrum = torch.fft.rfft2(functional.pad(pixels, [pad] * 4, mode="reflect")).mul_(gain)
    columns = torch.fft.ifft(spectrum, dim=2)[:, :, pad : pad + height]  # irfft2 copies all of it once more
    return torch.fft.irfft(columns, n=size[1])[..., pad : pad + width].clamp(0, 1)


def _band_centres() -> torch.Tensor:
    return torch.arange(FIRST, LAST, WIDTH)


def _frequencies(height: int, width: int) -> torch.Tensor:
    """Compute the frequency of each value of `torch.fft.rfft2` in cycles a pixel: (H, W // 2 + 1)."""
    return torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])


@functools.lru_cache(maxsize=8)
def _window(height: int, width: int, device: torch.device) -> torch.Tensor:
    return torch.outer(*(torch.hann_window(side, periodic=False) for side in (height, width))).to(device)


@functools.lru_cache(maxsize=8)
def _band_weights(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Compute the weights (H * (W // 2 + 1), 13) that average a spectrum around each frequency."""
    reach = max(WIDTH, 1.5 / min(height, width))  # a small image has few frequencies
    weights = (1 - (_frequencies(height, width) - _band_centres()[:, None, None]).abs() / reach).clamp(min=0)
    return (weights / weights.sum(dim=(1, 2), keepdim=True)).flatten(1).T.contiguous().to(device)


@functools.lru_cache(maxsize=8)
def _interpolation_weights(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Compute the weights (13, H * (W // 2 + 1)) that interpolate between bands at each value of a spectrum."""
    last = len(_band_centres()) - 1
    position = ((_frequencies(height, width) - FIRST) / WIDTH).clamp(0, last).flatten()
    return (1 - (position - torch.arange(last + 1)[:, None]).abs()).clamp(min=0).to(device)
