"""A model's image processor, its output kept as RGB bytes; how it scales colours is measured on test images."""

import functools

import numpy as np
import torch
from PIL import Image
from transformers import BaseImageProcessor

from dermalert.errors import UsageError

_RGB = (0, 1, 2)
_PRIMARIES = ("#ff0000", "#00ff00", "#0000ff")


class ByteProcessor:
    """A processor whose `pixel_values` can be made from bytes: RGB, in whatever order the model takes the colours.

    Attributes:
        shape: of the `pixel_values` of an image, (3, H, W).
        channels: which of red, green and blue each channel of `pixel_values` is; (2, 1, 0) for a model that takes BGR.
        scale: (3, 1, 1), and
        offset: (3, 1, 1), which turn values in [0, 1], in that order, into `pixel_values`. The processor's settings do
            not tell them: EfficientNet's, for one, divides twice.
        is_exact: whether the bytes give the processor's `pixel_values` to the bit, see `exact_values`.

    Raises:
        UsageError: the processor does more than resize, crop and scale.
    """

    def __init__(self, processor: BaseImageProcessor):
        self.processor = processor
        black, white = (self(Image.new("RGB", (64, 64), colour)) for colour in ("black", "white"))
        self.shape = tuple(black.shape)
        self.channels = self._measure_channels(black)
        middle = (slice(None), self.shape[1] // 2, self.shape[2] // 2, None, None)
        self.scale, self.offset = white[middle] - black[middle], black[middle]
        self.to(torch.device("cpu"))
        # Not square: the output must have the same shape whatever the input.
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
        direct, by_bytes = self(noise), self.to_pixel_values(torch.from_numpy(self.to_bytes(noise)) / 255)
        tolerance = float(self.scale.abs().max()) / 5000
        if direct.shape != self.shape or not torch.allclose(by_bytes, direct, rtol=0, atol=tolerance):
            raise UsageError(f"{type(processor).__name__} does more than resize, crop and scale: take another base.")
        self.is_exact = torch.equal(self.exact_values(self.to_bytes(noise)[None])[0], direct)

    def _measure_channels(self, black: torch.Tensor) -> tuple[int, ...]:
        """Find out which of red, green and blue each channel responds to.

        Raises:
            UsageError: a channel responds to none or several.
        """
        change = [(self(Image.new("RGB", (64, 64), colour)) - black).abs().amax((1, 2)) for colour in _PRIMARIES]
        responds = torch.stack(change, dim=1) > 0  # channels x colours
        if responds.shape != (3, 3) or not (responds.sum(0) == 1).all() or not (responds.sum(1) == 1).all():
            raise UsageError(
                f"{type(self.processor).__name__} does not give red, green and blue a channel each, as it would have "
                "to for images that are augmented in colour: take another base."
            )
        return tuple(responds.int().argmax(1).tolist())

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Process an RGB image: `pixel_values` (3, H, W)."""
        return self.processor([image], return_tensors="pt")["pixel_values"][0]

    def to(self, device: torch.device) -> None:
        """Set the device on which `to_pixel_values` takes its values."""
        self._on_device = self.scale.to(device), self.offset.to(device)

    def to_pixel_values(self, rgb: torch.Tensor) -> torch.Tensor:
        """Turn RGB values (..., 3, H, W) in [0, 1] into `pixel_values`, in place where the model takes RGB."""
        if self.channels != _RGB:
            rgb = rgb[..., self.channels, :, :]
        scale, offset = self._on_device
        return rgb.mul_(scale).add_(offset)

    def exact_values(self, rgb: np.ndarray) -> torch.Tensor:
        """The very `pixel_values` (n, 3, H, W) that the processor makes of an image of these bytes (n, 3, H, W)."""
        values = torch.empty(rgb.shape)
        for channel, colour in enumerate(self.channels):
            values[:, channel] = self._values[channel][torch.from_numpy(rgb[:, colour]).int()]
        return values

    @functools.cached_property
    def _values(self) -> torch.Tensor:
        """What the processor makes of each byte: (3, 256)."""
        greys = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
        as_they_are = self.processor([greys], do_resize=False, do_center_crop=False, return_tensors="pt")
        return as_they_are["pixel_values"][0].flatten(1)

    def to_bytes(self, image: Image.Image) -> np.ndarray:
        """Process an RGB image, and return it as RGB bytes: uint8 (3, H, W)."""
        values = (self(image) - self.offset) / self.scale * 255
        rgb = np.empty(values.shape, np.uint8)
        rgb[list(self.channels)] = values.round().clamp(0, 255).byte().numpy()
        return rgb
