"""From images to `pixel_values`: the release's own processor, then, in training, augmentation of the whole batch."""

import io
import math

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch.nn import functional

from dermalert import pixels, sharpness
from dermalert.settings import Augmentation
from dermalert.synthetic import add_dark_corners, add_hair, add_ruler

_DRAWN = {add_hair: 0.2, add_ruler: 0.05, add_dark_corners: 0.2}
"""What is drawn on pictures of every diagnosis, and on which share of them. Ink and bubbles are left to the test."""

_FRAMED = 0.15  # share of the pictures whose outermost part is painted over
_COMPRESSED = 0.3  # share of the pictures that are JPEG once more
_CONSTANT = 0.3  # share of the pictures whose illumination is estimated and divided out
_FEW = 8  # pictures
_MINKOWSKI = 6  # norm of "shades of gray": Finlayson & Trezzi 2004; for dermoscopy Barata 2015


class WithPixels(torch.utils.data.Dataset):
    """A data set as the Trainer reads it: `pixel_values` (3, H, W) and `labels`, made when they are asked for.

    Its images are decoded and resized once, by the very processor of the release, and augmented after it, so that
    training and serving cannot drift apart.
    """

    def __init__(self, dataset: Dataset, processor, *, augmented: Augmentation = "none"):
        self._processed = pixels.Processed(processor)
        self._pixels = pixels.Pixels(dataset, self._processed)
        self._labels, self._augmented = list(dataset["label"]), augmented

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> dict:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> list[dict]:
        """Return some rows, augmented together; `torch.utils.data.DataLoader` asks for a whole batch so."""
        found = torch.from_numpy(self._pixels[rows]).float() / 255
        if self._augmented != "none":
            found = augment(found, robust=self._augmented == "robust")
        found = found * self._processed.scale + self._processed.offset
        return [{"pixel_values": each, "labels": self._labels[row]} for each, row in zip(found, rows, strict=True)]


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Stack a batch; channels last, which convolutions on a CPU run about a third faster on."""
    found = torch.stack([row["pixel_values"] for row in rows]).contiguous(memory_format=torch.channels_last)
    return {"pixel_values": found, "labels": torch.tensor([row["labels"] for row in rows])}


def augment(pixels: torch.Tensor, *, robust: bool = True) -> torch.Tensor:
    """Return RGB pixels (N, 3, H, W) in [0, 1], each image changed by itself: what changes says nothing of the lesion.

    Plain: turned, mirrored, scaled, shifted and recoloured. A lesion has no up and no side, so that every rotation and
    reflection is as likely as the picture itself.

    Robust: the same in wider ranges, and what tells one clinic from another besides: sharpness, aspect, white balance,
    gamma, the frame, dark corners, hair, rulers, JPEG.
    """
    # A few at a time stay in the processor's cache, which halves the time.
    return torch.cat([_augmented(few, robust=robust) for few in pixels.split(_FEW)])


def _augmented(pixels: torch.Tensor, *, robust: bool) -> torch.Tensor:
    if robust:
        pixels = sharpness.levelled(pixels)
    pixels = _moved(pixels, scale=1.5 if robust else 1.25, aspect=1.25 if robust else 1.1)
    if not robust:
        return _recoloured(pixels, saturation=0.2, contrast=0.2, brightness=0.1, balance=0.05).clamp(0, 1)
    pixels = _drawn_on(_framed(pixels))
    pixels = _recoloured(_constant(pixels), saturation=0.4, contrast=0.3, brightness=0.1, balance=0.08)
    gamma = torch.exp(_uniform(len(pixels), -0.3, 0.3))
    pixels = pixels.clamp_(1e-3, 1).log_().mul_(gamma).exp_()  # x ** gamma, in half its time
    return _compressed(_sharpened(pixels).clamp(0, 1))


def _uniform(n: int, low: float, high: float, channels: int = 1) -> torch.Tensor:
    return low + (high - low) * torch.rand(n, channels, 1, 1)


def _some(n: int, share: float) -> torch.Tensor:
    return torch.rand(n) < share


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
    grid = functional.affine_grid(matrix, list(pixels.shape), align_corners=False)
    # Mirrored edges: no black corners that would tell an augmented image from a plain one.
    return functional.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def _recoloured(
    pixels: torch.Tensor, *, saturation: float, contrast: float, brightness: float, balance: float
) -> torch.Tensor:
    """Vary saturation and contrast by these shares, brightness and white balance by these amounts."""
    n = len(pixels)
    grey = pixels.mean(dim=1, keepdim=True)
    pixels = torch.lerp(grey, pixels, _uniform(n, 1 - saturation, 1 + saturation))
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    pixels = torch.lerp(mean, pixels, _uniform(n, 1 - contrast, 1 + contrast))
    return pixels + (_uniform(n, -brightness, brightness) + _uniform(n, -balance, balance, channels=3))


def _constant(pixels: torch.Tensor) -> torch.Tensor:
    """Divide the colour of the light out of some pictures, as clinics do that calibrate their colours."""
    chosen = _some(len(pixels), _CONSTANT)
    cube = pixels[chosen].clamp(min=0) ** (_MINKOWSKI // 2)  # squared below: a sixth power takes ten times as long
    light = (cube**2).mean(dim=(2, 3), keepdim=True) ** (1 / _MINKOWSKI) + 1e-3
    return pixels.index_put((chosen,), pixels[chosen] * (light.mean(dim=1, keepdim=True) / light))


def _sharpened(pixels: torch.Tensor) -> torch.Tensor:
    """Blur a third, sharpen a third: one unsharp mask with an amount from -1 (all blur) to 1.5."""
    n = len(pixels)
    amount = _uniform(n, -1, 0) * _some(n, 1 / 3).view(-1, 1, 1, 1)
    amount = torch.where(_some(n, 1 / 2).view(-1, 1, 1, 1) & (amount == 0), _uniform(n, 0, 1.5), amount)
    chosen = amount.flatten() != 0
    if not chosen.any():
        return pixels
    some = pixels[chosen]
    return pixels.index_put((chosen,), some + amount[chosen] * (some - _blurred(some)))


def _blurred(pixels: torch.Tensor) -> torch.Tensor:
    """Blur each picture by a width of its own."""
    n, _, height, width = pixels.shape
    sigma = torch.exp(_uniform(n, math.log(0.5), math.log(0.012 * min(height, width) + 0.5))).view(n, 1)
    radius = max(1, math.ceil(0.03 * min(height, width)))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0)
    sheet = functional.pad(pixels, [radius] * 4, mode="reflect").reshape(1, n * 3, height + 2 * radius, -1)
    sheet = functional.conv2d(sheet, kernel[:, None, :, None], groups=n * 3)
    return functional.conv2d(sheet, kernel[:, None, None, :], groups=n * 3).reshape(pixels.shape)


def _framed(pixels: torch.Tensor) -> torch.Tensor:
    """Paint over the outermost part of some pictures, up to an eighth of each side, in a grey or the mean colour."""
    pixels = pixels.clone()
    height, width = pixels.shape[2:]
    for i in torch.nonzero(_some(len(pixels), _FRAMED)).ravel().tolist():
        top, bottom, left, right = (torch.rand(4) * torch.tensor([height, height, width, width]) / 8).int().tolist()
        inside = pixels[i, :, top : height - bottom, left : width - right].clone()
        pixels[i] = torch.rand(1) if torch.rand(1) < 0.5 else pixels[i].mean(dim=(1, 2), keepdim=True)
        pixels[i, :, top : height - bottom, left : width - right] = inside
    return pixels


def _drawn_on(pixels: torch.Tensor) -> torch.Tensor:
    rng = np.random.default_rng(int(torch.randint(2**62, (1,))))
    for draw, share in _DRAWN.items():
        for i in torch.nonzero(_some(len(pixels), share)).ravel().tolist():
            changed = draw(pixels[i].permute(1, 2, 0).contiguous().numpy(), rng)
            pixels[i] = torch.from_numpy(np.ascontiguousarray(changed, np.float32)).permute(2, 0, 1)
    return pixels


def _compressed(pixels: torch.Tensor) -> torch.Tensor:
    """Save some pictures as a JPEG of quality 30 to 90."""
    for i in torch.nonzero(_some(len(pixels), _COMPRESSED)).ravel().tolist():
        buffer = io.BytesIO()
        picture = (pixels[i] * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(picture).save(buffer, "JPEG", quality=int(torch.randint(30, 91, (1,))))
        pixels[i] = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1) / 255
    return pixels
