"""Artefacts of dermoscopy laid over real pictures, and how far each of them moves a release's predictions.

Neither a ruler nor ink, hair or dark corners say anything of the lesion: an answer that moves with them leans on what
is not the lesion. Ink alone raised the false positives of a marketed network among nevi by about 40 % (Winkler 2019,
doi 10.1001/jamadermatol.2019.1735). What is drawn here is a likeness: where it moves nothing, the real thing still may.
"""

import dataclasses
import hashlib
import io
from collections.abc import Callable, Sequence

import numpy as np
from datasets import Dataset
from dermalert_space.estimate import Estimate
from dermalert_space.images import read_image
from dermalert_space.prediction import likeliest
from dermalert_space.release import Release
from PIL import Image, ImageEnhance, ImageFilter
from tqdm.auto import tqdm

from dermalert.evaluation.intervals import Intervals
from dermalert.evaluation.predict import SplitPredictions
from dermalert.imaging.synthetic_lesions import BLACK, Rng, add_dark_corners, add_hair, draw_discs, draw_strokes, over
from dermalert.taxonomy import ALERT, DIAGNOSES

Artefact = Callable[[Image.Image, Rng], Image.Image]

_MELANOMA = DIAGNOSES.index(ALERT)
_CHUNK = 16  # images in memory at once: a batch of the judge's
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


def _painted(add: Callable[[np.ndarray, Rng], np.ndarray]) -> Artefact:
    """Return the artefact that `add` paints on pixels (H, W, 3) in [0, 1]."""

    def artefact(image: Image.Image, rng: Rng) -> Image.Image:
        pixels = add(np.asarray(image, np.float32) / 255, rng)
        return Image.fromarray(np.uint8(np.clip(pixels, 0, 1) * 255 + 0.5))

    return artefact


def _add_ruler(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Print a millimetre scale along one side: a longer tick every five, a numeral every ten.

    Lengths are in short sides of the picture, as everywhere below.
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
    cover = _smoothed(cover, 0.006 * short) * rng.uniform(0.7, 1.0) * (0.75 + 0.25 * _clouds(cover, rng))
    return over(image, image * np.float32(rng.uniform((0.25, 0.15, 0.5), (0.45, 0.3, 0.7))), cover)


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


def _smoothed(cover: np.ndarray, sigma: float) -> np.ndarray:
    sheet = Image.fromarray(np.uint8(cover * 255 + 0.5)).filter(ImageFilter.GaussianBlur(sigma))
    return np.asarray(sheet, np.float32) / 255


def _clouds(like: np.ndarray, rng: Rng) -> np.ndarray:
    """Return smooth noise (H, W) in [0, 1], alike at any size."""
    coarse = Image.fromarray(rng.integers(0, 256, (24, 24), np.uint8))
    return np.asarray(coarse.resize(like.shape[1::-1], Image.Resampling.BICUBIC), np.float32) / 255


def _compress(image: Image.Image, _rng: Rng) -> Image.Image:
    """Save as a JPEG of quality 20. Its blocks are 8 pixels whatever the size: small pictures suffer more."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return Image.open(buffer).convert("RGB")


def _defocus(image: Image.Image, _rng: Rng) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(_SIGMA * min(image.size)))


def _rotate(image: Image.Image, rng: Rng) -> Image.Image:
    """Turn by 20 to 340 degrees, about the middle; the edges are mirrored outwards, as black corners would tell.

    Any angle, as a dermatoscope is held; a quarter turn would change the size of an oblong picture. The resampling
    softens a little, and what that moves counts as the rotation's.
    """
    diagonal = np.hypot(*image.size)
    left, top = (int(np.ceil((diagonal - side) / 2)) + 2 for side in image.size)  # so far does a corner reach
    padded = Image.fromarray(np.pad(np.asarray(image), ((top,), (left,), (0,)), "symmetric"))
    turned = padded.rotate(rng.uniform(20, 340), Image.Resampling.BICUBIC)
    return turned.crop((left, top, left + image.width, top + image.height))


def _lit(factor: float) -> Artefact:
    return lambda image, _rng: ImageEnhance.Brightness(image).enhance(factor)


ARTEFACTS: dict[str, Artefact] = {
    "ruler": _painted(_add_ruler),
    "ink": _painted(_add_ink),
    "hair": _painted(add_hair),
    "dark_corners": _painted(add_dark_corners),
    "bubbles": _painted(_add_bubbles),
    "jpeg": _compress,
    "blur": _defocus,
    "rotation": _rotate,
    "darker": _lit(_DARKER),
    "brighter": _lit(_BRIGHTER),
}
"""Each returns a changed copy, of the same size, of an RGB picture."""


def apply(name: str, image: Image.Image, *, image_id: str) -> Image.Image:
    """Return an RGB picture with an artefact that depends on its name and the image's id, and on nothing else."""
    return ARTEFACTS[name](image, np.random.default_rng(_hash(f"{name}:{image_id}")))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArtefactReport:
    """How far one artefact moves the predictions; a share is undefined where there is nothing that it could be of."""

    n: int
    groups: int
    melanomas: int
    score_change: Estimate
    """Mean change of the melanoma probability, from -1 to 1."""
    score_change_absolute: Estimate
    """The mean of its size."""
    prediction_changed: Estimate
    """Share of the images whose likeliest diagnosis becomes another."""
    quiet: int
    """Images that show no melanoma and raise no alert."""
    alerts_gained: Estimate
    """Share of these that now raise one."""
    caught: int
    """Melanomas that raise the alert."""
    alerts_lost: Estimate
    """Share of these that no longer do."""


def stress(release: Release, predictions: SplitPredictions, *, limit: int = 200) -> dict[str, ArtefactReport]:
    """Measure how far each artefact moves a release's predictions of a split.

    Args:
        release: what predicts.
        predictions: its own of the split, of at least one image, without artefacts.
        limit: images to look at, at most; which ones depends on their ids alone.
    """
    dataset = predictions.dataset
    rows = _chosen(list(dataset["image_id"]), limit)
    split, before = dataset.select(rows), predictions.probabilities[rows]
    truth, intervals = np.array(split["label"], int), Intervals(np.array(split["group"]))
    return {
        name: _effect(release, truth, before, after, intervals)
        for name, after in _with_each_artefact(release, split).items()
    }


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest())


def _chosen(image_ids: Sequence[str], limit: int) -> np.ndarray:
    """Return the rows, in order, of the `limit` images whose ids have the lowest hashes."""
    return np.sort(sorted(range(len(image_ids)), key=lambda row: _hash(image_ids[row]))[:limit]).astype(int)


def _with_each_artefact(release: Release, dataset: Dataset) -> dict[str, np.ndarray]:
    """Predict the probabilities (n, 9) under each artefact."""
    parts = {name: [np.empty((0, len(DIAGNOSES)), np.float32)] for name in ARTEFACTS}
    with tqdm(total=len(dataset) * len(parts), desc="Judging images with artefacts", unit=" images") as bar:
        for start in range(0, len(dataset), _CHUNK):
            rows = dataset[start : start + _CHUNK]
            images = [read_image(image) for image in rows["image"]]
            for name, part in parts.items():
                pairs = zip(images, rows["image_id"], strict=True)
                part.append(release.probabilities([apply(name, image, image_id=i) for image, i in pairs]))
                bar.update(len(images))
    return {name: np.concatenate(part) for name, part in parts.items()}


def _effect(
    release: Release, truth: np.ndarray, before: np.ndarray, after: np.ndarray, intervals: Intervals
) -> ArtefactReport:
    """Measure one artefact; `before` and `after` are the probabilities (n, 9) without and with it."""
    melanoma, everywhere = truth == _MELANOMA, np.ones(len(truth), bool)
    change = after[:, _MELANOMA].astype(float) - before[:, _MELANOMA]
    alerted, alerts = release.alerts(before), release.alerts(after)
    if alerted is None or alerts is None:
        quiet = caught = alerts = ~everywhere
    else:
        quiet, caught = ~melanoma & ~alerted, melanoma & alerted
    return ArtefactReport(
        n=len(truth),
        groups=intervals.groups,
        melanomas=int(melanoma.sum()),
        score_change=intervals.of_mean(change),
        score_change_absolute=intervals.of_mean(np.abs(change)),
        prediction_changed=intervals.of_proportion(likeliest(after) != likeliest(before), everywhere),
        quiet=int(quiet.sum()),
        alerts_gained=intervals.of_proportion(alerts, quiet),
        caught=int(caught.sum()),
        alerts_lost=intervals.of_proportion(~alerts, caught),
    )
