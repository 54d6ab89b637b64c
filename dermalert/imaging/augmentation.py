"""Random augmentation of a whole batch of RGB pixels (N, 3, H, W) in [0, 1]: each image is changed on its own.

Chance is drawn on the CPU. To select images by numbers that lie on an accelerator, the CPU would wait for it.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import conv2d, grid_sample, pad

from dermalert.imaging import jpeg, sharpness
from dermalert.imaging.artefacts import Artefact, add_dark_corners, add_hair, add_ruler
from dermalert.imaging.device import to_device

Change = Callable[[torch.Tensor], torch.Tensor]

ARTEFACT_SHARES: dict[Artefact, float] = {add_hair: 0.2, add_ruler: 0.05, add_dark_corners: 0.2}
"""The artefacts drawn on images of every diagnosis, with the share of images. Ink and bubbles are kept for the test."""

_LAYERS = 32  # drawings of each artefact, used as they are or mirrored
_BORDER_SHARE = 0.15
_JPEG_SHARE = 0.3
_SHADES_OF_GRAY_SHARE = 0.3
_MINKOWSKI_NORM = 6  # of shades of gray: Finlayson & Trezzi 2004; for dermoscopy Barata 2015


def augment(pixels: torch.Tensor, *, robust: bool = True) -> torch.Tensor:
    """Change each image at random in what says nothing of its lesion.

    Args:
        pixels: (N, 3, H, W) in [0, 1], on any device.
        robust: change besides, and in wider ranges, what tells one clinic from another: sharpness, aspect ratio, white
            balance, gamma, border, dark corners, hair, rulers, JPEG. Else only position and colour change.

    Returns:
        (N, 3, H, W) in [0, 1].
    """
    if not robust:
        pixels = random_affine(pixels, scale=1.25, aspect=1.1)
        return color_jitter(pixels, saturation=0.2, contrast=0.2, brightness=0.1, balance=0.05).clamp(0, 1)
    pixels = random_affine(sharpness.randomize_sharpness(pixels), scale=1.5, aspect=1.25)
    pixels = shades_of_gray(random_artefacts(random_border(pixels)))
    pixels = random_gamma(color_jitter(pixels, saturation=0.4, contrast=0.3, brightness=0.1, balance=0.08))
    return random_jpeg(random_sharpness(pixels).clamp(0, 1))


def random_affine(pixels: torch.Tensor, *, scale: float, aspect: float) -> torch.Tensor:
    """Rotate by any angle, mirror, scale and stretch by up to these factors either way, shift by up to a tenth.

    A lesion has no up and no side: every rotation and reflection is as likely as the image itself.
    """
    n = len(pixels)
    angle = torch.rand(n) * 2 * math.pi
    scales = torch.exp((torch.rand(n) * 2 - 1) * math.log(scale))
    stretch = torch.exp((torch.rand(n) * 2 - 1) * math.log(aspect) / 2)
    mirror = torch.randint(0, 2, (n,)) * 2.0 - 1
    shift = (torch.rand(n, 2) * 2 - 1) * 0.1
    matrix = torch.stack(
        [
            torch.stack([angle.cos() * scales * stretch * mirror, -angle.sin() * scales / stretch, shift[:, 0]], dim=1),
            torch.stack([angle.sin() * scales * stretch * mirror, angle.cos() * scales / stretch, shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    grid = _affine_grid(to_device(matrix, pixels.device), pixels)
    # Reflected edges: black corners would tell an augmented image from a plain one.
    return grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def _affine_grid(matrix: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Compute what `torch.nn.functional.affine_grid` does, whose matrix product takes ten times as long."""
    height, width = pixels.shape[2:]
    x, y = (((2 * torch.arange(side, device=pixels.device) + 1) / side - 1)[:, None] for side in (width, height))
    across, down, shift = (part[:, None] for part in matrix.unbind(2))
    return (x * across)[:, None] + (y * down + shift)[:, :, None]


def color_jitter(
    pixels: torch.Tensor, *, saturation: float, contrast: float, brightness: float, balance: float
) -> torch.Tensor:
    """Vary saturation and contrast by these shares, brightness and white balance by these amounts.

    One colour matrix an image does it all: each pixel moves towards its grey, then towards the mean grey of the image.
    """
    n = len(pixels)
    saturations, contrasts = (_uniform(n, 1 - share, 1 + share) for share in (saturation, contrast))
    light = _uniform(n, -brightness, brightness) + _uniform(n, -balance, balance, channels=3)
    matrix = contrasts * (saturations * torch.eye(3) + (1 - saturations) / 3)
    mean = pixels.mean(dim=(1, 2, 3)).view(n, 1, 1)
    light = to_device(1 - contrasts, pixels.device)[:, 0] * mean + to_device(light, pixels.device)[..., 0]
    return torch.baddbmm(light, to_device(matrix[:, 0], pixels.device), pixels.flatten(2)).view(pixels.shape)


def random_gamma(pixels: torch.Tensor) -> torch.Tensor:
    """Raise each image to a power of 0.74 to 1.35, in place; its values are clamped to [0.001, 1] first."""
    gamma = to_device(torch.exp(_uniform(len(pixels), -0.3, 0.3)), pixels.device)
    return pixels.clamp_(1e-3, 1).log_().mul_(gamma).exp_()  # pixels ** gamma, in half its time


def shades_of_gray(pixels: torch.Tensor) -> torch.Tensor:
    """Divide the estimated colour of the light out of some images, as some clinics do."""

    def change(some: torch.Tensor) -> torch.Tensor:
        cube = some.clamp(min=0) ** (_MINKOWSKI_NORM // 2)  # squared below: a sixth power takes ten times as long
        light = (cube**2).mean(dim=(2, 3), keepdim=True) ** (1 / _MINKOWSKI_NORM) + 1e-3
        return some * (light.mean(dim=1, keepdim=True) / light)

    return _change_some(pixels, sample_indices(len(pixels), _SHADES_OF_GRAY_SHARE), change)


def random_sharpness(pixels: torch.Tensor) -> torch.Tensor:
    """Blur a third of the images and sharpen a third: one unsharp mask with an amount from -1 (all blur) to 1.5."""
    n = len(pixels)
    kind = torch.rand(n, 1, 1, 1)
    amounts = torch.where(kind < 1 / 3, _uniform(n, -1, 0), _uniform(n, 0, 1.5))
    indices = torch.nonzero(kind.ravel() < 2 / 3).ravel()
    amount = to_device(amounts[indices], pixels.device)
    return _change_some(pixels, indices, lambda some: torch.lerp(_random_blur(some), some, 1 + amount))


def _random_blur(pixels: torch.Tensor) -> torch.Tensor:
    """Blur each image by a Gaussian of a random width."""
    n, _, height, width = pixels.shape
    sigma = torch.exp(_uniform(n, math.log(0.5), math.log(0.012 * min(height, width) + 0.5))).view(n, 1)
    radius = max(1, math.ceil(0.03 * min(height, width)))
    kernels = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernels = to_device((kernels / kernels.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0), pixels.device)
    planes = pad(pixels, [radius] * 4, mode="reflect").reshape(1, n * 3, height + 2 * radius, -1)
    planes = conv2d(planes, kernels[:, None, :, None], groups=n * 3)
    return conv2d(planes, kernels[:, None, None, :], groups=n * 3).reshape(pixels.shape)


def random_border(pixels: torch.Tensor) -> torch.Tensor:
    """Paint over the border of some images, up to an eighth from each side, in a grey or in the image's mean colour."""
    indices = sample_indices(len(pixels), _BORDER_SHARE)
    n, (height, width) = len(indices), pixels.shape[2:]
    thickness = [torch.rand(n, 2, 1) * side / 8 for side in (height, width)]
    rows, columns = (
        (torch.arange(side) >= ends[:, 0].int()) & (torch.arange(side) < side - ends[:, 1].int())
        for side, ends in zip((height, width), thickness, strict=True)
    )
    inside = to_device((rows[:, :, None] & columns[:, None])[:, None], pixels.device)
    grey, is_grey = (
        to_device(torch.rand(n, 1, 1, 1), pixels.device),
        to_device(torch.rand(n, 1, 1, 1) < 0.5, pixels.device),
    )

    def change(some: torch.Tensor) -> torch.Tensor:
        colour = torch.where(is_grey, grey, some.mean(dim=(2, 3), keepdim=True))
        return torch.where(inside, some, colour)

    return _change_some(pixels, indices, change)


def random_artefacts(pixels: torch.Tensor) -> torch.Tensor:
    """Draw each artefact on its share of the images, one of 32 drawings on each."""
    for artefact, share in ARTEFACT_SHARES.items():
        indices = sample_indices(len(pixels), share)
        if len(indices):
            which = to_device(torch.randint(_LAYERS, (len(indices),)), pixels.device)
            mirrored = [axis for axis in (2, 3) if torch.rand(()) < 0.5]
            layers = artefact_layers(artefact, *pixels.shape[2:], pixels.device)
            kept, added = (layer[which].flip(mirrored) for layer in layers)
            pixels = _change_some(pixels, indices, lambda some: (some * kept).add_(added).div_(255))  # noqa: B023
    return pixels


@functools.lru_cache(maxsize=8)
def artefact_layers(
    artefact: Artefact, height: int, width: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw an artefact 32 times: the share that it leaves of an image, and what it adds.

    Returns:
        uint8 (32, 1, H, W) and (32, 3, H, W): 255 is the whole.
    """
    black, white = (np.full((height, width, 3), grey, np.float32) for grey in (0, 1))
    added, on_white = (
        np.stack([artefact(ground, np.random.default_rng(i)) for i in range(_LAYERS)]) for ground in (black, white)
    )
    kept = (on_white - added).mean(-1, keepdims=True)
    return _to_layer(kept).to(device), _to_layer(added).to(device)


def _to_layer(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((images * 255).round().astype(np.uint8).transpose(0, 3, 1, 2).copy())


def random_jpeg(pixels: torch.Tensor) -> torch.Tensor:
    """Compress some images as a JPEG of quality 30 to 90."""
    indices = sample_indices(len(pixels), _JPEG_SHARE)
    qualities = torch.randint(30, 91, (len(indices),))
    return _change_some(pixels, indices, lambda some: jpeg.compress(some, qualities))


def sample_indices(n: int, share: float) -> torch.Tensor:
    """Draw indices below n, each with the probability `share`: int64 (m,), on the CPU."""
    return torch.nonzero(torch.rand(n) < share).ravel()


def _uniform(n: int, low: float, high: float, channels: int = 1) -> torch.Tensor:
    return low + (high - low) * torch.rand(n, channels, 1, 1)


def _change_some(pixels: torch.Tensor, indices: torch.Tensor, change: Change) -> torch.Tensor:
    """Replace the images at the indices, in place."""
    if not len(indices):
        return pixels
    indices = to_device(indices, pixels.device)
    return pixels.index_copy_(0, indices, change(pixels[indices]))
