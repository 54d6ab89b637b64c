"""Hair, ruler, dark corners, bubbles and ink, as generated lesions and training images show them.

Each function returns a changed copy of an image (H, W, 3) in [0, 1], whatever the lesion.
"""

from collections.abc import Callable

import numpy as np

from dermalert.imaging.drawing import BLACK, WHITE, Rng, draw_discs, draw_strokes, over, smoothstep, unit_vectors

Artefact = Callable[[np.ndarray, Rng], np.ndarray]


def add_hair(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Lay 4 to 20 curved hairs of one colour over the picture."""
    count, sides, steps = int(rng.integers(4, 21)), np.array(image.shape[1::-1]), np.linspace(0, 1, 12)[:, None]
    rays = unit_vectors(rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.5, count)) * rng.uniform(0.2, 0.8, (count, 1))
    starts, bends = rng.uniform(0, 1, (count, 2)), rng.normal(0, 0.12, (count, 2))
    paths = starts + (steps - 0.5)[..., None] * rays + (steps * (1 - steps))[..., None] * bends
    cover = draw_strokes(image, list(paths.swapaxes(0, 1) * sides), rng.uniform(0.004, 0.01, count) * min(sides))
    return over(image, np.array((0.2, 0.14, 0.11)) * rng.uniform(0.5, 2.0), 0.85 * cover)


def add_ruler(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Print the ticks of a ruler along one side of the picture."""
    sides = np.array(image.shape[1::-1])
    places, edge = np.arange(0.02, 1, rng.uniform(0.03, 0.06)), rng.uniform(0, 0.04)
    ends = edge + np.where(np.arange(len(places)) % 5 == 0, 0.07, 0.04)
    ticks = np.stack([np.stack([places, np.full_like(places, edge)], -1), np.stack([places, ends], -1)], 1)
    ticks = 1 - ticks if rng.random() < 0.5 else ticks
    ticks = ticks[..., ::-1] if rng.random() < 0.5 else ticks
    cover = draw_strokes(image, list(ticks * sides), np.full(len(ticks), 0.009 * min(sides)))
    return over(image, BLACK, 0.8 * cover)


def add_dark_corners(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Darken what lies outside the round field of the dermatoscope."""
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) * n for n in image.shape[:2])
    distance, edge = np.hypot(x, y[:, None]) / float(np.hypot(*image.shape[:2])), rng.uniform(0.72, 0.92)
    return over(image, (0.02, 0.02, 0.03), smoothstep(distance, edge, edge + rng.uniform(0.03, 0.15)))


def add_bubbles(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Put 2 to 8 gel bubbles on the picture: bright rings, each with a highlight."""
    count, sides = int(rng.integers(2, 9)), np.array(image.shape[1::-1])
    centres, radii = rng.uniform(0, 1, (count, 1, 2)) * sides, rng.uniform(0.015, 0.06, (count, 1, 1)) * min(sides)
    rings = centres + radii * unit_vectors(np.linspace(0, 2 * np.pi, 25))
    image = over(image, WHITE, 0.5 * draw_strokes(image, list(rings), radii.ravel() * 0.25))
    return over(image, WHITE, 0.8 * draw_discs(image, (centres - 0.4 * radii)[:, 0], radii.ravel() * 0.2))


def add_ink(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Mark the skin beside the middle with two or three strokes of a surgical pen."""
    count, sides = int(rng.integers(2, 4)), np.array(image.shape[1::-1])
    rays, reach = unit_vectors(rng.uniform(0, 2 * np.pi, count))[:, None], np.linspace(0.3, 0.5, 8)[:, None]
    bends = rng.normal(0, 1.5, (count, 1, 2)) * (reach - 0.3) * (reach - 0.2)
    cover = draw_strokes(image, list((0.5 + rays * reach + bends) * sides), rng.uniform(0.02, 0.04, count) * min(sides))
    return over(image, rng.uniform((0.15, 0.1, 0.4), (0.4, 0.25, 0.65)), 0.7 * cover)
