"""Generated lesions of nine kinds, for `--dataset_name demo` and the tests: no download, no patient, no licence.

The pictures look like dermoscopy from afar and teach nothing about skin. They let a pipeline be watched at work: what
tells the kinds apart is structure and border, while colour, skin and artefacts vary within every kind. Kinds overlap
in part, and a lesion has one to three photos, so that a split which ignores lesions leaks as it does with real data.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from dermalert.imaging.artefacts import Artefact, add_bubbles, add_dark_corners, add_hair, add_ink, add_ruler
from dermalert.imaging.drawing import Rng, parse_colours, smoothstep
from dermalert.imaging.lesion_kinds import COLOURS, KINDS, Canvas, Kind, float32

PHOTOS_A_LESION = (0.3, 0.4, 0.3)  # the probability of one, two and three
STRAY = 0.35  # the share of lesions that also show, faintly, a structure of any kind
HOME_COLOUR = 0.7  # the share of lesions in a colour typical of their kind; the rest take any

SKINS = parse_colours("edccbf e6b2a8 d6a39e d1b2c2 c2998f 99705e")

SITES = ("anterior torso", "posterior torso", "upper extremity", "lower extremity", "head/neck", "palms/soles")


@dataclass(frozen=True)
class Photo:
    """One picture of the demo set; `age` (years), `sex` and `site` are None where they were not recorded."""

    image: Image.Image
    diagnosis: str
    image_id: str
    lesion_id: str
    age: float | None
    sex: str | None
    site: str | None


# With the share of photos that show them, whatever the diagnosis.
ARTEFACTS: dict[str, tuple[Artefact, float]] = {
    "ink": (add_ink, 0.05),
    "bubbles": (add_bubbles, 0.15),
    "hair": (add_hair, 0.4),
    "ruler": (add_ruler, 0.12),
    "dark corners": (add_dark_corners, 0.25),
}


def _paint_lesion(kind: Kind, rng: Rng, camera: Rng, size: int) -> Canvas:
    """Paint the skin and the lesion's outline and colour, without any structure."""
    unit = size * rng.uniform(0.24, 0.38) * camera.uniform(0.88, 1.14)
    angle, centre = camera.uniform(-0.5, 0.5), size * camera.uniform(0.44, 0.56, 2)

    skin = rng.choice(SKINS) + rng.normal(0, 0.015, 3)
    colour = rng.choice(np.stack(kind.colours) if rng.random() < HOME_COLOUR else COLOURS)
    # A colour is meant for the fairest skin; darker skin darkens what lies in it.
    colour = colour * (0.4 + 0.6 * skin / SKINS[0]) * rng.uniform(0.85, 1.15) + rng.normal(0, 0.015, 3)
    skin, colour = float32(skin), float32(np.clip(colour, 0.08, 0.95))
    # The three colours lie in memory as planes: numpy keeps that, and paints ten times as fast.
    blank = np.tile(skin[:, None, None], (1, size, size)).transpose(1, 2, 0)
    canvas = Canvas(blank, colour, unit, angle, centre)

    stretch, ragged = rng.uniform(1, 1.35), rng.uniform(*kind.ragged)
    x, y, reach = canvas.x, canvas.y, np.ones_like(canvas.x)
    azimuth = np.arctan2(y, x)
    for lobes in range(2, 7):
        reach += float(ragged * rng.normal() / np.sqrt(lobes)) * np.cos(lobes * azimuth + rng.uniform(0, 2 * np.pi))
    depth = 1 - np.hypot(x / stretch, y * stretch) / np.maximum(reach, 0.4) + 0.3 * ragged * canvas.noise(rng, 0.3)
    notches = smoothstep(canvas.noise(rng, 0.5), 0.2, 1.0) * (1 - smoothstep(depth, 0.3, 0.7))
    canvas.depth = depth - rng.uniform(*kind.bites) * notches
    soft = rng.uniform(*kind.soft)
    canvas.mask = smoothstep(canvas.depth, -soft, soft)

    mottle = 0.02 * canvas.noise(rng, 0.9) + 0.012 * canvas.noise(rng, 0.15, 16)
    canvas.image += mottle[..., None] * float32((0.6, 1.0, 1.0))
    shade = 0.10 * canvas.noise(rng, 0.6) + 0.03 * canvas.noise(rng, 0.12, 16)
    canvas.paint(colour, rng.uniform(*kind.opacity) * canvas.mask)
    canvas.image *= (1 + canvas.mask * shade)[..., None]
    return canvas


def _photograph(canvas: Canvas, camera: Rng) -> Image.Image:
    """The canvas as a camera sees it: light from one side, focus, artefacts and grain."""
    light = float32(camera.uniform(0.88, 1.10) * camera.uniform(0.96, 1.04, 3))
    slope = 1 + camera.normal(0, 0.04) * canvas.x + camera.normal(0, 0.04) * canvas.y
    sharp = Image.fromarray((np.clip(canvas.image * light * slope[..., None], 0, 1) * 255).astype(np.uint8))
    focused = sharp.filter(ImageFilter.BoxBlur(len(slope) * camera.uniform(0.001, 0.006)))
    image = np.asarray(focused, np.float32) / 255
    for add, share in ARTEFACTS.values():
        if camera.random() < share:
            image = add(image, camera)
    # Last, as the only draw whose number depends on the size: the rest is the same in any size.
    grain = 0.015 * camera.standard_normal((*slope.shape, 1), np.float32)
    return Image.fromarray((np.clip(image + grain, 0, 1) * 255).astype(np.uint8))


def lesion(diagnosis: str, *, lesion_seed: int, photo: int = 0, size: int = 128) -> Image.Image:
    """Return an RGB photo, `size` pixels square, of a generated lesion.

    Args:
        diagnosis: one of the nine diagnoses, in full.
        lesion_seed: which lesion of that diagnosis, from 0.
        photo: from 0: the same lesion again, from elsewhere, in other light and with other artefacts.
        size: side of the picture in pixels.

    Raises:
        ValueError: the diagnosis is none of the nine.
    """
    if diagnosis not in KINDS:
        raise ValueError(f"no lesion can be generated for {diagnosis!r}: choose one of {', '.join(KINDS)}")
    kind, label = KINDS[diagnosis], list(KINDS).index(diagnosis)
    # `rng` draws the lesion and `camera` the photo: neither may draw for the other, or photos would differ in lesion.
    rng, camera = np.random.default_rng((label, lesion_seed, 0)), np.random.default_rng((label, lesion_seed, 1, photo))
    canvas = _paint_lesion(kind, rng, camera, size)
    clarity = rng.uniform(0.4, 1.0)
    for structure, probability in kind.structures:
        if rng.random() < probability:
            structure(canvas, rng, clarity * rng.uniform(0.7, 1.0))
    if rng.random() < STRAY:
        others = [structure for other in KINDS.values() for structure, _ in other.structures]
        others[rng.integers(len(others))](canvas, rng, rng.uniform(0.2, 0.6))
    return _photograph(canvas, camera)


def demo_set(*, lesions_per_class: int = 60, seed: int = 0, size: int = 128) -> Iterator[Photo]:
    """Yield the photos of a demo set, one to three a lesion, the nine diagnoses in turn.

    A photo depends on the seed, its diagnosis, the lesion's index and its own, and on nothing else: a larger set holds
    the smaller one. Age, sex and site belong to the lesion and are drawn without regard to the diagnosis.
    """
    for number in range(lesions_per_class * len(KINDS)):
        diagnosis = list(KINDS)[number % len(KINDS)]
        rng = np.random.default_rng((seed, number))
        lesion_seed, photos = int(rng.integers(2**32)), 1 + rng.choice(len(PHOTOS_A_LESION), p=PHOTOS_A_LESION)
        age, sex, site = 5.0 * int(rng.integers(4, 18)), str(rng.choice(("female", "male"))), str(rng.choice(SITES))
        has_age, has_sex, has_site = rng.random(3) < 0.95
        for photo in range(photos):
            yield Photo(
                image=lesion(diagnosis, lesion_seed=lesion_seed, photo=photo, size=size),
                diagnosis=diagnosis,
                image_id=f"DEMO_{number * len(PHOTOS_A_LESION) + photo:07d}",
                lesion_id=f"DEMO_L{number:05d}",
                age=age if has_age else None,
                sex=sex if has_sex else None,
                site=site if has_site else None,
            )
