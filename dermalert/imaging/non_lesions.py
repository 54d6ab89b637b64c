"""Pictures that no release can assess: generated ones that show no lesion, and lesions that nobody could see.

They are no photographs: those are measured by `benchmarks/evaluation/abstention.py`.
"""

from collections.abc import Callable, Iterator

import numpy as np
from datasets import Dataset
from dermalert_space.images import read_image
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from dermalert.imaging.drawing import Rng

_EACH = 40  # pictures of a kind
_SIZE = (400, 300)
# Skin from the lightest to the darkest of the Fitzpatrick types, sRGB: guesses by eye.
_SKIN = np.array([(250, 221, 200), (236, 188, 155), (216, 160, 120), (180, 122, 84), (128, 80, 52), (78, 50, 36)])


def unusable_images(lesions: Dataset) -> Iterator[tuple[str, Image.Image]]:
    """Yield pictures with their kinds, the same ones each time; those of `DEGRADED` are made of lesions' pictures."""
    for seed, (name, draw) in enumerate(GENERATED.items()):
        yield from ((name, picture) for picture in draw_kind(draw, seed))
    for row in lesions.shuffle(seed=0).select(range(min(len(lesions), _EACH))):
        lesion = read_image(row["image"])
        yield from ((name, spoil(lesion)) for name, spoil in DEGRADED.items())


def draw_kind(draw: Callable[[Rng], Image.Image], seed: int, *, n: int = _EACH) -> Iterator[Image.Image]:
    """Yield generated pictures of a kind."""
    for number in range(n):
        yield draw(np.random.default_rng((seed, number)))


def _noise(rng: Rng) -> Image.Image:
    """Draw coloured noise, of single pixels to large blots."""
    grain = int(2 ** rng.uniform(0, 5))
    pixels = rng.integers(0, 256, (_SIZE[1] // grain, _SIZE[0] // grain, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(_SIZE, Image.Resampling.BICUBIC)


def _skin(rng: Rng) -> Image.Image:
    """Draw a field of one skin's colour, evenly lit or not, smooth or grainy."""
    colour = _SKIN[rng.integers(len(_SKIN))] + rng.normal(0, 6, 3)
    y, x = np.mgrid[-0.5 : 0.5 : _SIZE[1] * 1j, -0.5 : 0.5 : _SIZE[0] * 1j]
    light = (x * rng.normal() + y * rng.normal()) * rng.choice([0, 30])
    grain = rng.normal(0, rng.choice([0, 3, 8]), (_SIZE[1], _SIZE[0]))
    return Image.fromarray(np.clip(colour + (light + grain)[..., None], 0, 255).astype(np.uint8))


def _text(rng: Rng) -> Image.Image:
    """Draw a page of words that mean nothing."""
    page = Image.new("RGB", (600, 800), tuple(rng.integers(225, 256, 3).tolist()))
    pen, size = ImageDraw.Draw(page), int(rng.integers(12, 30))
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz     "))
    for y in range(40, 760, int(size * 1.5)):
        ink = tuple(rng.integers(0, 70, 3).tolist())
        pen.text((40, y), "".join(rng.choice(letters, 900 // size)), fill=ink, font=ImageFont.load_default(size))
    return page


def _blur(image: Image.Image) -> Image.Image:
    """Blur by a normal distribution with a standard deviation of 4% of the short side."""
    return image.filter(ImageFilter.GaussianBlur(0.04 * min(image.size)))


def _dark(image: Image.Image) -> Image.Image:
    """Leave a tenth of the sRGB values."""
    return image.point(lambda value: value * 0.1)


GENERATED: dict[str, Callable[[Rng], Image.Image]] = {
    "noise": _noise,
    "plain skin": _skin,
    "page of text": _text,
}

DEGRADED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "lesion out of focus": _blur,
    "lesion in the dark": _dark,
}
