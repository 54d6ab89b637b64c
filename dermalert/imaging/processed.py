"""What a model's image processor does to colours, found out by asking it."""

import numpy as np
import torch
from PIL import Image

from dermalert.errors import UsageError

_RGB = (0, 1, 2)
_PRIMARIES = ("#ff0000", "#00ff00", "#0000ff")


class Processed:
    """A processor whose `pixel_values` are kept as the bytes they are made of: RGB, in whatever order they are fed.

    Attributes:
        channels: of each channel of `pixel_values` which of RGB it is, such as (2, 1, 0) where the model takes BGR.
        scale: (3, 1, 1), and
        offset: (3, 1, 1), by which values in [0, 1], in that order, become `pixel_values`. Found out by asking the
            processor: its settings do not tell all, EfficientNet's for one divides twice.
    """

    def __init__(self, processor):
        self.processor = processor
        black, white = (self(Image.new("RGB", (64, 64), colour)) for colour in ("black", "white"))
        self.shape = tuple(black.shape)
        self.channels = self._channels(black)
        middle = (slice(None), self.shape[1] // 2, self.shape[2] // 2, None, None)
        self.scale, self.offset = white[middle] - black[middle], black[middle]
        self.to(torch.device("cpu"))
        # Not square, because what comes out must have the same shape whatever goes in.
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
        seen, back = self(noise), self.fed(torch.from_numpy(self.as_bytes(noise)) / 255)
        near = torch.allclose(back, seen, rtol=0, atol=float(self.scale.abs().max()) / 5000)
        if seen.shape != self.shape or not near:
            raise UsageError(f"{type(processor).__name__} does more than resize, crop and scale: take another base.")

    def _channels(self, black: torch.Tensor) -> tuple[int, ...]:
        """Return which of red, green and blue each channel answers to.

        Raises:
            UsageError: it is not one each.
        """
        answers = [(self(Image.new("RGB", (64, 64), colour)) - black).abs().amax((1, 2)) for colour in _PRIMARIES]
        found = torch.stack(answers, dim=1) > 0  # channels x colours
        if found.shape != (3, 3) or not (found.sum(0) == 1).all() or not (found.sum(1) == 1).all():
            raise UsageError(
                f"{type(self.processor).__name__} does not give red, green and blue a channel each, as it would have "
                "to for images that are augmented in colour: take another base."
            )
        return tuple(found.int().argmax(1).tolist())

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return the `pixel_values` (3, H, W) of an RGB image."""
        return self.processor([image], return_tensors="pt")["pixel_values"][0]

    def to(self, device: torch.device) -> None:
        """Have `fed` work on a device."""
        self._on = tuple(each.to(device) for each in (self.scale, self.offset))

    def fed(self, rgb: torch.Tensor) -> torch.Tensor:
        """Return the `pixel_values` (..., 3, H, W) of RGB values in [0, 1], which are changed."""
        if self.channels != _RGB:
            rgb = rgb[..., self.channels, :, :]
        scale, offset = self._on
        return rgb.mul_(scale).add_(offset)

    def as_bytes(self, image: Image.Image) -> np.ndarray:
        """Return the RGB values of an image as the model's input has them: uint8 (3, H, W)."""
        values = (self(image) - self.offset) / self.scale * 255
        rgb = np.empty(values.shape, np.uint8)
        rgb[list(self.channels)] = values.round().clamp(0, 255).byte().numpy()
        return rgb
