"""The nine kinds of generated lesions: a canvas, the structures that dermatologists look for, and which kind has which.

A lesion lives in coordinates of its own, with its border about one unit from its centre, so that it can be
laid into a picture of any size, turned and shifted. The arrays are float32: that takes a third of the time.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from dermalert.imaging.drawing import (
    BLACK,
    WHITE,
    Rng,
    draw_discs,
    draw_strokes,
    over,
    parse_colours,
    rotation,
    smoothstep,
    unit_vectors,
)

Range = tuple[float, float]  # the two ends of a uniform draw

TAN, BROWN, DARK, RED, PINK, PURPLE, SLATE = COLOURS = parse_colours("b28061 855742 523630 bd6161 d69491 8f455e 706673")
VESSEL, BLUE, NEST, KERATIN, CRUST = parse_colours("b22e3d 707899 525770 e6cca3 6b3326")


@dataclass
class Canvas:
    """A picture being painted, and how the lesion lies in it.

    Attributes:
        image: (H, W, 3) in [0, 1].
        colour: (3,), the lesion's.
        unit: pixels a lesion unit.
        angle: of the lesion, in radians.
        centre: of the lesion, in pixels.
        x, y: (H, W), the lesion coordinates of the pixels.
        depth: (H, W), 1 in the lesion's centre, 0 on its border, negative outside.
        mask: (H, W) in [0, 1], the lesion's soft outline.
    """

    image: np.ndarray
    colour: np.ndarray
    unit: float
    angle: float
    centre: np.ndarray
    x: np.ndarray = field(init=False)
    y: np.ndarray = field(init=False)
    depth: np.ndarray = field(init=False)
    mask: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        pixels = np.arange(len(self.image))
        offsets = np.stack(np.meshgrid(pixels, pixels), -1) - self.centre
        self.x, self.y = float32(offsets @ rotation(-self.angle) / self.unit).transpose(2, 0, 1).copy()

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """The pixel positions (..., 2) of points (..., 2) in lesion coordinates."""
        return points @ rotation(self.angle) * self.unit + self.centre

    def paint(self, colour: np.ndarray, alpha: np.ndarray) -> None:
        """Lay a colour (3,) over the picture with an opacity (H, W) in [0, 1]."""
        self.image = over(self.image, colour, alpha)

    def noise(self, rng: Rng, pitch: float, waves: int = 10) -> np.ndarray:
        """Return smooth noise (H, W), about standard normal: plane waves of about this pitch in random directions."""
        angles, phases, octaves = rng.uniform((0, 0, -0.7), (2 * np.pi, 2 * np.pi, 0.7), (waves, 3)).T
        numbers = unit_vectors(angles) * (2 * np.pi / pitch * 2 ** octaves[:, None])
        # x and y are linear in row and column, so cos(across + down) comes apart into two small matrix products.
        across = float32(numbers @ np.stack([self.x[0], self.y[0]]) + phases[:, None])
        down = float32(numbers @ np.stack([self.x[:, 0] - self.x[0, 0], self.y[:, 0] - self.y[0, 0]]))
        total = np.cos(down).T @ np.cos(across) - np.sin(down).T @ np.sin(across)
        return total * float(np.sqrt(2 / waves))

    def lattice(self, rng: Rng, pitch: float, warp: float, directions: int = 3) -> np.ndarray:
        """A warped lattice (H, W) in [0, 1]: of one direction ridges, of three a honeycomb of bright cells."""
        x, y = (axis + warp * self.noise(rng, 0.9) + rng.random() for axis in (self.x, self.y))
        rays = unit_vectors(rng.uniform(0, np.pi) + np.arange(directions) * np.pi / 3) * (2 * np.pi / pitch)
        lowest = -1.0 if directions == 1 else -1.5  # three cosines at 60 degrees never reach -3 together
        waves = sum((np.cos(float(kx) * x + float(ky) * y) for kx, ky in rays), start=np.zeros_like(x))
        return (waves - lowest) / (directions - lowest)

    def blob(self, rng: Rng, centre: np.ndarray, radius: float) -> np.ndarray:
        """The coverage (H, W) of a soft and uneven patch."""
        distance = np.hypot(self.x - float(centre[0]), self.y - float(centre[1])) / radius
        return 1 - smoothstep(distance + 0.15 * self.noise(rng, radius), 0.5, 1.3)

    def strokes(self, paths: list[np.ndarray], widths: np.ndarray) -> np.ndarray:
        """The coverage (H, W) of lines, each path (n, 2) and width in lesion units."""
        return draw_strokes(self.mask, [self.pixels(path) for path in paths], widths * self.unit)


def float32(values: ArrayLike) -> np.ndarray:
    """The values in single precision."""
    return np.asarray(values, np.float32)


def _scatter(rng: Rng, count: int, inner: float, outer: float) -> np.ndarray:
    return unit_vectors(rng.uniform(0, 2 * np.pi, count)) * np.sqrt(rng.uniform(inner**2, outer**2, (count, 1)))


# The structures: each paints what dermatologists call by its name, `strength` in [0, 1] being how plainly it shows.

Structure = Callable[[Canvas, Rng, float], None]


def network(canvas: Canvas, rng: Rng, strength: float, *, irregular: float, rim: bool = False) -> None:
    """Paint a pigment network, the dark lines of a honeycomb: over the whole lesion, or on its rim alone."""
    lines = 1 - smoothstep(canvas.lattice(rng, rng.uniform(0.17, 0.23), 0.02 + 0.05 * irregular), 0.08, 0.5)
    patchy = 1 - irregular * smoothstep(canvas.noise(rng, 0.9), -0.3, 0.6)
    where = 1 - smoothstep(canvas.depth, 0.3, 0.6) if rim else smoothstep(canvas.depth, -0.1, 0.2)
    canvas.paint(canvas.colour * 0.5, 0.75 * strength * lines * patchy * where * canvas.mask)


def ridges(canvas: Canvas, rng: Rng, strength: float, *, pitch: float, warp: float) -> None:
    """Paint parallel curved lines: fine as in a fingerprint, or coarse as on a brain."""
    lines = smoothstep(canvas.lattice(rng, pitch, warp, directions=1), 0.4, 1.0)
    canvas.paint(canvas.colour * 0.5, 0.6 * strength * lines * canvas.mask)


def strawberry(canvas: Canvas, rng: Rng, strength: float) -> None:
    """Paint pale follicles in a red net."""
    cells = canvas.lattice(rng, rng.uniform(0.24, 0.32), 0.05)
    canvas.paint(VESSEL, 0.4 * strength * (1 - smoothstep(cells, 0.1, 0.45)) * canvas.mask)
    canvas.paint(WHITE, 0.55 * strength * smoothstep(cells, 0.6, 1.0) * canvas.mask)


def lacunae(canvas: Canvas, rng: Rng, strength: float) -> None:
    """Paint large round lagoons with pale walls between them."""
    cells = canvas.lattice(rng, rng.uniform(0.45, 0.65), 0.07)
    lagoons = 0.75 * strength * smoothstep(cells, 0.25, 0.55) * canvas.mask
    canvas.paint(canvas.colour * float32((0.7, 0.4, 0.5)), lagoons)
    canvas.paint(WHITE, 0.35 * strength * (1 - smoothstep(cells, 0.05, 0.3)) * canvas.mask)


def scale(canvas: Canvas, rng: Rng, strength: float) -> None:
    """Paint surface scale: fine whitish flakes in patches."""
    flakes = smoothstep(canvas.noise(rng, 0.17, 16), 0.6, 1.3) * smoothstep(canvas.noise(rng, 0.8), -0.5, 0.5)
    canvas.paint(WHITE, 0.75 * strength * flakes * canvas.mask)


def variegation(canvas: Canvas, rng: Rng, strength: float) -> None:
    """Paint patches of three other colours, each to one side."""
    for colour in rng.permutation(np.stack([DARK, RED, TAN, BLACK]))[:3]:
        cover = canvas.blob(rng, _scatter(rng, 1, 0.3, 0.75)[0], rng.uniform(0.3, 0.5))
        canvas.paint(colour, 0.7 * strength * cover * canvas.mask)


def streaks(canvas: Canvas, rng: Rng, strength: float) -> None:
    """Paint dark strokes that leave a part of the border outwards."""
    count = int(rng.integers(12, 24))
    rays = unit_vectors(rng.uniform(0, 2 * np.pi) + rng.uniform(-1.2, 1.2, count))
    reach = rng.uniform((0.6, 1.0), (0.8, 1.3), (count, 2))
    paths = [np.outer(ends, ray) for ends, ray in zip(reach, rays, strict=True)]
    canvas.paint(canvas.colour * 0.5, 0.8 * strength * canvas.strokes(paths, rng.uniform(0.03, 0.08, count)))


def vessel_trees(canvas: Canvas, rng: Rng, strength: float) -> None:
    """Paint sharp red vessels that grow inwards and branch."""
    paths, widths = [], []
    for start in _scatter(rng, int(rng.integers(2, 5)), 0.6, 1.0):
        twigs = [(start, np.arctan2(-start[1], -start[0]) + rng.normal(0, 0.4), 0.07)]
        for _ in range(7):
            root, heading, width = twigs.pop(0)
            headings = heading + np.cumsum(rng.normal(0, 0.3, 6))
            paths.append(np.vstack([root, root + np.cumsum(0.09 * unit_vectors(headings), 0)]))
            widths.append(width)
            twigs += [(paths[-1][-1], headings[-1] + side * rng.uniform(0.3, 0.8), 0.7 * width) for side in (-1, 1)]
    canvas.paint(VESSEL, 0.8 * strength * canvas.strokes(paths, np.array(widths)))


def vessel_loops(canvas: Canvas, rng: Rng, strength: float) -> None:
    """Paint short hairpins of red vessel around the middle."""
    loop = unit_vectors(np.linspace(-2.2, 2.2, 9)) * (0.1, 0.055)
    places = _scatter(rng, int(rng.integers(10, 20)), 0.5, 1.0)
    paths = [place + loop @ rotation(rng.uniform(0, 2 * np.pi)) for place in places]
    canvas.paint(VESSEL, 0.8 * strength * canvas.strokes(paths, np.full(len(paths), 0.035)))


def keratin(canvas: Canvas, rng: Rng, strength: float) -> None:
    """Paint a yellow-white mass in the middle, with crumbs of crust."""
    mass = canvas.blob(rng, _scatter(rng, 1, 0, 0.2)[0], rng.uniform(0.4, 0.6))
    canvas.paint(KERATIN, 0.8 * strength * mass)
    canvas.paint(CRUST, 0.75 * strength * mass * smoothstep(canvas.noise(rng, 0.25, 16), 0.7, 1.3))


def patch(canvas: Canvas, rng: Rng, strength: float, *, colour: np.ndarray, offset: Range, radius: Range) -> None:
    """Paint one structureless patch."""
    canvas.paint(colour, 0.75 * strength * canvas.blob(rng, _scatter(rng, 1, *offset)[0], rng.uniform(*radius)))


def spots(
    canvas: Canvas,
    rng: Rng,
    strength: float,
    *,
    count: tuple[int, int],
    radius: float,
    colour: np.ndarray | None = None,
    irregular: float = 0.3,
    blur: float = 0.01,
) -> None:
    """Paint round spots, dark ones of the lesion's colour by default: alike and all over, or uneven and to one side."""
    points = _scatter(rng, int(rng.integers(*count)), 0, 0.85)
    points = points * (1 - 0.3 * irregular) + irregular * _scatter(rng, 1, 0.1, 0.4)
    radii = radius * np.exp(rng.normal(0, 0.05 + 0.4 * irregular, len(points)))
    cover = draw_discs(canvas.mask, canvas.pixels(points), radii * canvas.unit, blur * canvas.unit)
    canvas.paint(canvas.colour * 0.4 if colour is None else colour, 0.85 * strength * cover * canvas.mask)


typical_network, atypical_network = partial(network, irregular=0.1), partial(network, irregular=0.9)
rim_network = partial(network, irregular=0.1, rim=True)
typical_globules, atypical_globules = (
    partial(spots, count=(18, 34), radius=0.055, irregular=irregular) for irregular in (0.0, 0.9)
)
openings = partial(spots, count=(4, 11), radius=0.075)
cysts = partial(spots, count=(8, 20), radius=0.055, colour=WHITE, blur=0.02)
nests = partial(spots, count=(3, 8), radius=0.13, colour=NEST, blur=0.03)
veil = partial(patch, colour=BLUE, offset=(0.15, 0.5), radius=(0.35, 0.55))
white_patch = partial(patch, colour=WHITE, offset=(0.0, 0.12), radius=(0.4, 0.55))
ulcer = partial(patch, colour=CRUST, offset=(0.0, 0.5), radius=(0.15, 0.28))
fingerprint, gyri = partial(ridges, pitch=0.17, warp=0.06), partial(ridges, pitch=0.4, warp=0.13)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What lesions of one diagnosis look like, lengths in lesion units.

    Attributes:
        colours: the typical ones; see `synthetic_lesions.HOME_COLOUR`.
        structures: each with the probability that a lesion shows it.
        ragged: how far the border strays from an ellipse.
        soft: the half width of the border.
        bites: the depth of moth-eaten notches in the border.
        opacity: how much of the skin the lesion hides, in [0, 1].
    """

    colours: tuple[np.ndarray, ...]
    structures: tuple[tuple[Structure, float], ...]
    ragged: Range = (0.05, 0.15)
    soft: Range = (0.06, 0.16)
    bites: Range = (0.0, 0.0)
    opacity: Range = (0.55, 0.95)


KINDS = {
    "actinic keratosis": Kind(
        colours=(RED, PINK, TAN),
        structures=((strawberry, 0.85), (scale, 0.7)),
        soft=(0.16, 0.36),
        opacity=(0.4, 0.8),
    ),
    "basal cell carcinoma": Kind(
        colours=(PINK, RED, TAN),
        structures=((vessel_trees, 0.85), (nests, 0.65), (ulcer, 0.35)),
        soft=(0.1, 0.26),
        opacity=(0.4, 0.8),
    ),
    "dermatofibroma": Kind(
        colours=(PINK, TAN, BROWN),
        structures=((rim_network, 0.8), (white_patch, 0.85)),
        soft=(0.16, 0.36),
        opacity=(0.45, 0.8),
    ),
    "melanoma": Kind(
        colours=(BROWN, DARK, SLATE),
        structures=((variegation, 0.7), (atypical_network, 0.6), (atypical_globules, 0.4), (streaks, 0.5), (veil, 0.5)),
        ragged=(0.1, 0.26),
    ),
    "nevus": Kind(
        colours=(BROWN, DARK, TAN),
        structures=((typical_network, 0.75), (typical_globules, 0.5)),
        soft=(0.08, 0.22),
    ),
    "pigmented benign keratosis": Kind(
        colours=(TAN, BROWN, SLATE),
        structures=((fingerprint, 0.8), (scale, 0.2), (openings, 0.2)),
        soft=(0.04, 0.12),
        bites=(0.05, 0.35),
        opacity=(0.5, 0.85),
    ),
    "seborrheic keratosis": Kind(
        colours=(TAN, BROWN, DARK),
        structures=((cysts, 0.8), (openings, 0.65), (gyri, 0.4)),
        soft=(0.03, 0.1),
    ),
    "squamous cell carcinoma": Kind(
        colours=(PINK, RED, PURPLE),
        structures=((keratin, 0.8), (vessel_loops, 0.75), (scale, 0.3)),
        soft=(0.12, 0.3),
        opacity=(0.4, 0.8),
    ),
    "vascular lesion": Kind(
        colours=(RED, PURPLE, PURPLE),
        structures=((lacunae, 0.9),),
        ragged=(0.02, 0.1),
        soft=(0.04, 0.14),
    ),
}  # in the order of `taxonomy.DIAGNOSES`
