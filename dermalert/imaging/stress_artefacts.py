"""Artefacts of the stress test: what it lays over real images to see whether a prediction moves.

Ruler, ink and bubbles differ on purpose from those of `artefacts.py`, which training images and generated lesions show.
A model that only learnt to ignore our own drawing of a ruler would pass a test that draws it again. Hair and dark
corners are shared: their likeness leaves little to vary.
"""

import hashlib
import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from dermalert.imaging.artefacts import Artefact, add_dark_corners, add_hair
from dermalert.imaging.drawing import BLACK, Rng, draw_discs, draw_strokes, over

Alteration = Callable[[Image.Image, Rng], Image.Image]

_JPEG_QUALITY = 20
_SIGMA = 0.01  # of the blur, as a share of the short side
_DARKER, _BRIGHTER = 0.7, 1.4  # factors of the sRGB values: about one stop of light less, one more

# Each digit in one stroke through points xy, in a box 1 wide and 2 high.
_DIGITS = [
    np.array([list(map(int, point)) for point in stroke.split()])
    for stroke in (
        "00 10 12 02 00",
        "10 12",
        "00 10 11 01 02 12",
        "00 10 11 01 11 12 02",
        "00 01 11 10 12",
        "10 00 01 11 12 02",
        "10 00 02 12 11 01",
        "00 10 12",
        "00 10 12 02 00 01 11",
        "11 01 00 10 12 02",
    )
]


def _on_pixels(add: Artefact) -> Alteration:
    """Let a function of pixels (H, W, 3) in [0, 1] take and return an image."""

    def alter(image: Image.Image, rng: Rng) -> Image.Image:
        pixels = add(np.asarray(image, np.float32) / 255, rng)
        return Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8))

    return alter


def _add_ruler(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Print a millimetre scale along one side: a longer tick every five, a numeral every ten.

    Lengths are in short sides of the image, as everywhere below.
    """
    turns, short = int(rng.integers(4)), min(image.shape[:2])
    sheet = np.rot90(image, turns)  # the scale is drawn along the top, then turned back
    pitch, edge, first = rng.uniform(0.03, 0.05), rng.uniform(0, 0.03), int(rng.integers(10, 60))
    paths = []
    for i, x in enumerate(np.arange(pitch / 2, sheet.shape[1] / short, pitch)):
        number = first + i
        length = 0.09 if number % 10 == 0 else 0.07 if number % 5 == 0 else 0.045
        paths.append(np.array([(x, edge), (x, edge + length)]))
        if number % 10 == 0:
            paths.append(_DIGITS[number // 10 % 10] * 0.025 + (x - 0.0125, edge + 0.11))
    cover = draw_strokes(sheet, [path * short for path in paths], np.full(len(paths), 0.008 * short))
    return over(image, BLACK, 0.85 * np.rot90(cover, -turns))


def _add_ink(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Mark the skin around the middle with violet strokes of a surgical pen, some around it and some towards it."""
    count, short, middle = int(rng.integers(3, 6)), min(image.shape[:2]), np.array(image.shape[1::-1]) / 2
    bearings = rng.uniform(0, 2 * np.pi) + 2 * np.pi / count * (np.arange(count) + rng.uniform(-0.3, 0.3, count))
    along = np.linspace(-1, 1, 16)
    paths = []
    for bearing in bearings:
        around = rng.random() < 0.5
        angles = bearing + along * (rng.uniform(0.15, 0.5) if around else rng.normal(0, 0.06))
        radii = rng.uniform(0.38, 0.44) + along * (rng.normal(0, 0.02) if around else 0.07)
        paths.append(middle + (radii * (np.cos(angles), np.sin(angles))).T * short)
    cover = draw_strokes(image, paths, rng.uniform(0.018, 0.04, count) * short)
    # Ink is a dye: it runs a little, lies unevenly, and lets the skin show through.
    cover = _blur(cover, 0.006 * short) * rng.uniform(0.7, 1.0) * (0.75 + 0.25 * _smooth_noise(cover, rng))
    return over(image, image * np.asarray(rng.uniform((0.25, 0.15, 0.5), (0.45, 0.3, 0.7)), np.float32), cover)


def _add_bubbles(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Enclose air in the immersion fluid: discs with a dark outline, a bright rim, and a glint on the lamp's side."""
    count, short = int(rng.integers(4, 13)), min(image.shape[:2])
    radii = np.exp(rng.uniform(np.log(0.012), np.log(0.07), count))[:, None, None] * short
    centres = rng.uniform(0, 1, (count, 1, 2)) * image.shape[1::-1]
    angles, lamp = np.linspace(0, 2 * np.pi, 33), rng.uniform(0, 2 * np.pi)
    ring, arc = (np.stack([np.cos(turn), np.sin(turn)], -1) for turn in (angles, lamp + np.linspace(-0.6, 0.6, 9)))

    def rim(path: np.ndarray, radius: float, width: float) -> np.ndarray:
        return draw_strokes(image, list(centres + radius * radii * path), width * radii.ravel())

    image = over(image, (1, 1, 1), 0.12 * draw_discs(image, centres[:, 0], radii.ravel()))
    image = over(image, (0.1, 0.06, 0.05), 0.45 * rim(ring, 1.0, 0.14))
    image = over(image, (1, 0.98, 0.95), 0.5 * rim(ring, 0.84, 0.16))
    return over(image, (1, 1, 1), 0.85 * rim(arc, 0.66, 0.2))


def _blur(cover: np.ndarray, sigma: float) -> np.ndarray:
    sheet = Image.fromarray((cover * 255 + 0.5).astype(np.uint8)).filter(ImageFilter.GaussianBlur(sigma))
    return np.asarray(sheet, np.float32) / 255


def _smooth_noise(like: np.ndarray, rng: Rng) -> np.ndarray:
    """Draw smooth noise (H, W) in [0, 1], alike at any size."""
    coarse = Image.fromarray(rng.integers(0, 256, (24, 24), np.uint8))
    return np.asarray(coarse.resize(like.shape[1::-1], Image.Resampling.BICUBIC), np.float32) / 255


def _compress(image: Image.Image, _rng: Rng) -> Image.Image:
    """Save as a JPEG of quality 20. Its blocks are 8 pixels whatever the size: small images suffer more."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return Image.open(buffer).convert("RGB")


def _defocus(image: Image.Image, _rng: Rng) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(_SIGMA * min(image.size)))


def _rotate(image: Image.Image, rng: Rng) -> Image.Image:
    """Rotate by 20 to 340 degrees about the middle; the edges are mirrored outwards, as black corners would tell.

    A dermatoscope is held at any angle. Resampling softens a little, and that effect counts as the rotation's.
    """
    diagonal = np.hypot(*image.size)
    left, top = (int(np.ceil((diagonal - side) / 2)) + 2 for side in image.size)  # how far a corner reaches out
    padded = Image.fromarray(np.pad(np.asarray(image), ((top,), (left,), (0,)), "symmetric"))
    rotated = padded.rotate(rng.uniform(20, 340), Image.Resampling.BICUBIC)
    return rotated.crop((left, top, left + image.width, top + image.height))


def _scale_brightness(factor: float) -> Alteration:
    return lambda image, _rng: ImageEnhance.Brightness(image).enhance(factor)


ARTEFACTS: dict[str, Alteration] = {
    "ruler": _on_pixels(_add_ruler),
    "ink": _on_pixels(_add_ink),
    "hair": _on_pixels(add_hair),
    "dark_corners": _on_pixels(add_dark_corners),
    "bubbles": _on_pixels(_add_bubbles),
    "jpeg": _compress,
    "blur": _defocus,
    "rotation": _rotate,
    "darker": _scale_brightness(_DARKER),
    "brighter": _scale_brightness(_BRIGHTER),
}
"""Each returns a changed copy, of the same size, of an RGB image."""


def apply(name: str, image: Image.Image, *, image_id: str) -> Image.Image:
    """Draw an artefact on a copy of an RGB image; it depends on its name and the image's id, and on nothing else."""
    return ARTEFACTS[name](image, np.random.default_rng(stable_hash(f"{name}:{image_id}")))


def stable_hash(text: str) -> int:
    """Hash a text to a number of 256 bits, the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest())
