"""From images to `pixel_values`: the release's own processor, then, in training, augmentation of the whole batch."""

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import conv2d, grid_sample, pad

from dermalert.config import Augmentation
from dermalert.imaging import jpeg, pixel_cache, sharpness
from dermalert.imaging.device import sent
from dermalert.imaging.processed import Processed
from dermalert.imaging.synthetic_lesions import add_dark_corners, add_hair, add_ruler

_DRAWN = {add_hair: 0.2, add_ruler: 0.05, add_dark_corners: 0.2}
"""What is drawn on pictures of every diagnosis, and on which share of them. Ink and bubbles are left to the test."""

_DRAWINGS = 32  # of each kind, mirrored either way or both
_FRAMED = 0.15  # share of the pictures whose outermost part is painted over
_COMPRESSED = 0.3  # share of the pictures that are JPEG once more
_CONSTANT = 0.3  # share of the pictures whose illumination is estimated and divided out
_MINKOWSKI = 6  # norm of "shades of gray": Finlayson & Trezzi 2004; for dermoscopy Barata 2015


class WithPixels(torch.utils.data.Dataset):
    """A data set as the Trainer reads it: `pixel_values` (3, H, W) and `labels`, made when they are asked for.

    Its images are decoded and resized once, by the very processor of the release, and augmented after it, so that
    training and serving cannot drift apart.

    Args:
        dataset: with the columns `image`, `content` and `label`.
        processor: of the release.
        augmented: how.
        device: where the pixels are augmented, a batch at once, and stay.
    """

    def __init__(
        self, dataset: Dataset, processor, *, augmented: Augmentation = "none", device: torch.device | str = "cpu"
    ):
        self._processed = Processed(processor)
        self._pixels = pixel_cache.Pixels(dataset, self._processed)
        self._labels, self._augmented, self._device = list(dataset["label"]), augmented, torch.device(device)
        self._processed.to(self._device)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> dict:
        batch = self.__getitems__([row])
        return {"pixel_values": batch["pixel_values"][0], "labels": self._labels[row]}

    def __getitems__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        """Return some rows as a batch, `pixel_values` (n, 3, H, W) and `labels` (n,).

        `torch.utils.data.DataLoader` asks for a whole batch so, and hands what it gets to `collate`.
        """
        raw = torch.from_numpy(self._pixels[rows])
        if self._device.type == "cuda":
            raw = raw.pin_memory()  # or the copy would wait for all that the device still has to do
        raw = sent(raw, self._device)
        # Augmented with the channels first, but trained on with them last, which is about a third faster on a CPU.
        found = self._made(raw.float().div_(255)).contiguous(memory_format=torch.channels_last)
        return {"pixel_values": found, "labels": _like(found, torch.tensor([self._labels[row] for row in rows]))}

    def _made(self, found: torch.Tensor) -> torch.Tensor:
        if self._augmented != "none":
            found = augment(found, robust=self._augmented == "robust")
        return self._processed.fed(found)


def collate(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what `WithPixels` gives, which is a batch already."""
    return batch


def augment(pixels: torch.Tensor, *, robust: bool = True) -> torch.Tensor:
    """Return RGB pixels (N, 3, H, W) in [0, 1], each image changed by itself: what changes says nothing of the lesion.

    Plain: turned, mirrored, scaled, shifted and recoloured. A lesion has no up and no side, so that every rotation and
    reflection is as likely as the picture itself.

    Robust: the same in wider ranges, and what tells one clinic from another besides: sharpness, aspect, white balance,
    gamma, the frame, dark corners, hair, rulers, JPEG.
    """
    if robust:
        pixels = sharpness.levelled(pixels)
    pixels = _moved(pixels, scale=1.5 if robust else 1.25, aspect=1.25 if robust else 1.1)
    if not robust:
        return _recoloured(pixels, saturation=0.2, contrast=0.2, brightness=0.1, balance=0.05).clamp(0, 1)
    pixels = _drawn_on(_framed(pixels))
    pixels = _recoloured(_constant(pixels), saturation=0.4, contrast=0.3, brightness=0.1, balance=0.08)
    gamma = _like(pixels, torch.exp(_uniform(len(pixels), -0.3, 0.3)))
    pixels = pixels.clamp_(1e-3, 1).log_().mul_(gamma).exp_()  # x ** gamma, in half its time
    return _compressed(_sharpened(pixels).clamp(0, 1))


# Chance is drawn on the CPU: an accelerator would have to be waited for where it decides which pictures are changed.


def _uniform(n: int, low: float, high: float, channels: int = 1) -> torch.Tensor:
    return low + (high - low) * torch.rand(n, channels, 1, 1)


def _some(n: int, share: float) -> torch.Tensor:
    """Return which of n pictures are meant, each with a chance of its own: their places."""
    return torch.nonzero(torch.rand(n) < share).ravel()


def _like(pixels: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    return sent(drawn, pixels.device)


def _changed(
    pixels: torch.Tensor, places: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Change the pictures in some places, and return all."""
    if not len(places):
        return pixels
    places = _like(pixels, places)
    return pixels.index_copy_(0, places, change(pixels[places]))


def _moved(pixels: torch.Tensor, *, scale: float, aspect: float) -> torch.Tensor:
    """Turn by any angle, mirror, scale and squash by up to these factors either way, and shift by up to a tenth."""
    n = len(pixels)
    angle = torch.rand(n) * 2 * math.pi
    scale = torch.exp((torch.rand(n) * 2 - 1) * math.log(scale))
    aspect = torch.exp((torch.rand(n) * 2 - 1) * math.log(aspect) / 2)
    mirror = torch.randint(0, 2, (n,)) * 2.0 - 1
    shift = (torch.rand(n, 2) * 2 - 1) * 0.1
    matrix = torch.stack(
        [
            torch.stack([angle.cos() * scale * aspect * mirror, -angle.sin() * scale / aspect, shift[:, 0]], dim=1),
            torch.stack([angle.sin() * scale * aspect * mirror, angle.cos() * scale / aspect, shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    # Mirrored edges: no black corners that would tell an augmented image from a plain one.
    return grid_sample(pixels, _grid(_like(pixels, matrix), pixels), padding_mode="reflection", align_corners=False)


def _grid(matrix: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Return `torch.nn.functional.affine_grid`, whose product of matrices takes ten times as long as these sums."""
    height, width = pixels.shape[2:]
    x, y = (((2 * torch.arange(side, device=pixels.device) + 1) / side - 1)[:, None] for side in (width, height))
    along, down, shift = (part[:, None] for part in matrix.unbind(2))
    return (x * along)[:, None] + (y * down + shift)[:, :, None]


def _recoloured(
    pixels: torch.Tensor, *, saturation: float, contrast: float, brightness: float, balance: float
) -> torch.Tensor:
    """Vary saturation and contrast by these shares, brightness and white balance by these amounts.

    All of it is one matrix of colours a picture: each pixel is drawn to its grey, then to the mean grey of the picture.
    """
    n = len(pixels)
    saturation, contrast = (_uniform(n, 1 - share, 1 + share) for share in (saturation, contrast))
    light = _uniform(n, -brightness, brightness) + _uniform(n, -balance, balance, channels=3)
    matrix = contrast * (saturation * torch.eye(3) + (1 - saturation) / 3)
    mean = pixels.mean(dim=(1, 2, 3)).view(n, 1, 1)
    light = _like(pixels, 1 - contrast)[:, 0] * mean + _like(pixels, light)[..., 0]
    return torch.baddbmm(light, _like(pixels, matrix[:, 0]), pixels.flatten(2)).view(pixels.shape)


def _constant(pixels: torch.Tensor) -> torch.Tensor:
    """Divide the colour of the light out of some pictures, as clinics do that calibrate their colours."""

    def constant(some: torch.Tensor) -> torch.Tensor:
        cube = some.clamp(min=0) ** (_MINKOWSKI // 2)  # squared below: a sixth power takes ten times as long
        light = (cube**2).mean(dim=(2, 3), keepdim=True) ** (1 / _MINKOWSKI) + 1e-3
        return some * (light.mean(dim=1, keepdim=True) / light)

    return _changed(pixels, _some(len(pixels), _CONSTANT), constant)


def _sharpened(pixels: torch.Tensor) -> torch.Tensor:
    """Blur a third, sharpen a third: one unsharp mask with an amount from -1 (all blur) to 1.5."""
    n = len(pixels)
    kind = torch.rand(n, 1, 1, 1)
    amount = torch.where(kind < 1 / 3, _uniform(n, -1, 0), _uniform(n, 0, 1.5))
    places = torch.nonzero(kind.ravel() < 2 / 3).ravel()
    amount = _like(pixels, amount[places])
    return _changed(pixels, places, lambda some: torch.lerp(_blurred(some), some, 1 + amount))


def _blurred(pixels: torch.Tensor) -> torch.Tensor:
    """Blur each picture by a width of its own."""
    n, _, height, width = pixels.shape
    sigma = torch.exp(_uniform(n, math.log(0.5), math.log(0.012 * min(height, width) + 0.5))).view(n, 1)
    radius = max(1, math.ceil(0.03 * min(height, width)))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = _like(pixels, (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0))
    sheet = pad(pixels, [radius] * 4, mode="reflect").reshape(1, n * 3, height + 2 * radius, -1)
    sheet = conv2d(sheet, kernel[:, None, :, None], groups=n * 3)
    return conv2d(sheet, kernel[:, None, None, :], groups=n * 3).reshape(pixels.shape)


def _framed(pixels: torch.Tensor) -> torch.Tensor:
    """Paint over the outermost part of some pictures, up to an eighth of each side, in a grey or the mean colour."""
    places = _some(len(pixels), _FRAMED)
    n, (height, width) = len(places), pixels.shape[2:]
    high, wide = torch.rand(n, 2, 1) * height / 8, torch.rand(n, 2, 1) * width / 8
    rows, columns = torch.arange(height), torch.arange(width)
    across = (rows >= high[:, 0].int()) & (rows < height - high[:, 1].int())
    along = (columns >= wide[:, 0].int()) & (columns < width - wide[:, 1].int())
    inside, grey = _like(pixels, (across[:, :, None] & along[:, None])[:, None]), torch.rand(n, 1, 1, 1)
    is_grey, grey = _like(pixels, torch.rand(n, 1, 1, 1) < 0.5), _like(pixels, grey)

    def framed(some: torch.Tensor) -> torch.Tensor:
        colour = torch.where(is_grey, grey, some.mean(dim=(2, 3), keepdim=True))
        return torch.where(inside, some, colour)

    return _changed(pixels, places, framed)


def _drawn_on(pixels: torch.Tensor) -> torch.Tensor:
    for draw, share in _DRAWN.items():
        places = _some(len(pixels), share)
        if len(places):
            which = _like(pixels, torch.randint(_DRAWINGS, (len(places),)))
            sides = [side for side in (2, 3) if torch.rand(()) < 0.5]
            left, paint = (
                drawings[which].flip(sides) for drawings in _drawings(draw, *pixels.shape[2:], pixels.device)
            )
            pixels = _changed(pixels, places, lambda some: (some * left).add_(paint).div_(255))  # noqa: B023
    return pixels


@functools.lru_cache(maxsize=8)
def _drawings(draw, height: int, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what some drawings leave of a picture and what they add to it: uint8 (n, 1, H, W) and (n, 3, H, W)."""
    black, white = (np.full((height, width, 3), grey, np.float32) for grey in (0, 1))
    paint, on_white = (
        np.stack([draw(ground, np.random.default_rng(i)) for i in range(_DRAWINGS)]) for ground in (black, white)
    )
    parts = (on_white - paint).mean(-1, keepdims=True), paint
    return tuple(
        torch.from_numpy((part * 255).round().astype(np.uint8).transpose(0, 3, 1, 2).copy()).to(device)
        for part in parts
    )


def _compressed(pixels: torch.Tensor) -> torch.Tensor:
    """Compress some pictures as a JPEG of quality 30 to 90."""
    places = _some(len(pixels), _COMPRESSED)
    qualities = torch.randint(30, 91, (len(places),))
    return _changed(pixels, places, lambda some: jpeg.compressed(some, qualities))
