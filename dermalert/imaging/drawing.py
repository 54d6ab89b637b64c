"""Strokes, discs and blending on pixels (H, W, 3) in [0, 1], by Pillow and numpy."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Rng = np.random.Generator
Colour = np.ndarray | tuple[float, float, float]

_OVERSAMPLING = 3  # Pillow draws without anti-aliasing: draw larger, then shrink


def parse_colours(codes: str) -> np.ndarray:
    """Parse hexadecimal sRGB colours, separated by spaces: float32 (n, 3) in [0, 1]."""
    return np.asarray([list(bytes.fromhex(code)) for code in codes.split()], np.float32) / 255


WHITE, BLACK = parse_colours("f2e3e3 291c1f")


def unit_vectors(angles: np.ndarray) -> np.ndarray:
    """Turn angles (...) in radians into vectors (..., 2)."""
    return np.stack([np.cos(angles), np.sin(angles)], -1)


def rotation(angle: float) -> np.ndarray:
    """Build the matrix (2, 2) that rotates row vectors by an angle in radians."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def smoothstep(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Rise smoothly from 0, at `low` and below, to 1, at `high` and above."""
    ramp = np.clip((values - low) / (high - low), 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def over(image: np.ndarray, colour: Colour, alpha: np.ndarray) -> np.ndarray:
    """Lay a colour, (3,) or one a pixel, over a copy of an image (H, W, 3) at an opacity (H, W) in [0, 1]."""
    return image + alpha[..., None] * (np.asarray(colour, np.float32) - image)


def _rasterize(like: np.ndarray, draw: Callable[[ImageDraw.ImageDraw], None], blur: float = 0.0) -> np.ndarray:
    sheet = Image.new("L", (like.shape[1] * _OVERSAMPLING, like.shape[0] * _OVERSAMPLING))
    draw(ImageDraw.Draw(sheet))
    sheet = sheet.reduce(_OVERSAMPLING)
    return np.asarray(sheet.filter(ImageFilter.GaussianBlur(blur)) if blur else sheet, np.float32) / 255


def draw_discs(like: np.ndarray, centres: np.ndarray, radii: np.ndarray, blur: float = 0.0) -> np.ndarray:
    """Draw discs: their coverage (H, W) in [0, 1], of the size of `like`; centres (n, 2), radii and blur in pixels."""

    def draw(pen: ImageDraw.ImageDraw) -> None:
        for (x, y), radius in zip(centres * _OVERSAMPLING, radii * _OVERSAMPLING, strict=True):
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)

    return _rasterize(like, draw, blur)


def draw_strokes(like: np.ndarray, paths: list[np.ndarray], widths: np.ndarray) -> np.ndarray:
    """Draw lines: their coverage (H, W) in [0, 1], of the size of `like`; each path (n, 2) and width in pixels."""

    def draw(pen: ImageDraw.ImageDraw) -> None:
        for path, width in zip(paths, widths * _OVERSAMPLING, strict=True):
            pen.line([tuple(point) for point in path * _OVERSAMPLING], fill=255, width=max(1, round(width)))

    return _rasterize(like, draw)
