"""Local features of an image: they find a photograph again in another crop, another size and other colours.

A feature is a place with a size, an angle and a descriptor of what is around it (SIFT, Lowe 2004). Images are squashed
to a square first: so is every other copy of the archive's images, and what is left of the squashing is small.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

SIDE = 160  # pixels: the softest copies show no more
MOST = 120  # features kept of an image, the strongest

FEATURES = np.dtype([("count", "<i4"), ("places", "<f4", (MOST, 4)), ("descriptors", "u1", (MOST, 128))])
"""The features of one image: across, down and size in pixels, angle in radians; the square roots of the histograms."""

_CONTRAST = 0.01  # a quarter of the usual threshold: smooth lesions have features as well
_AMBIGUOUS = 0.9  # of the distance to the second nearest: a match that is no nearer says little
_FEWEST = 4  # matches that place one image on another
_NEAR, _EXACT = 7.0, 2.5  # pixels between a feature and its match: for the first guess, and in the end
_TURNED, _SCALED = 0.5, 0.6  # radians, and natural logarithm, by which one match may differ from the others
_NOISE, _SHADES = 1.5, 6.0  # pixels: finer than the details, and coarser
_RIM = 9  # pixels that a moved border spoils


class Registration(NamedTuple):
    """How one image lies on another.

    Attributes:
        matches: features of the first that lie where their matches in the second are.
        affine: (2, 3), from pixels of the first to those of the second.
    """

    matches: int
    affine: np.ndarray


def square(image: Image.Image) -> np.ndarray:
    """Grey levels, uint8 (160, 160)."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def features(grey: np.ndarray) -> np.ndarray:
    """The features of grey levels (160, 160), one record of `FEATURES`, the strongest first."""
    points, histograms = cv2.SIFT.create(nfeatures=MOST, contrastThreshold=_CONTRAST).detectAndCompute(grey, None)
    order = sorted(range(len(points)), key=lambda i: (-points[i].response, points[i].pt, points[i].angle))[:MOST]
    record = np.zeros((), FEATURES)
    record["count"] = len(order)
    for place, i in enumerate(order):
        point = points[i]
        record["places"][place] = *point.pt, point.size, math.radians(point.angle)
        # Roots compare histograms better than their levels do (Arandjelovic & Zisserman 2012).
        record["descriptors"][place] = np.minimum(512 * np.sqrt(histograms[i] / max(histograms[i].sum(), 1)), 255)
    return record


def registration(first: np.ndarray, second: np.ndarray) -> Registration | None:
    """How the first image lies on the second by their features, each a record of `FEATURES`; None where it does not."""
    rows, others = _matches(_used(first, "descriptors"), _used(second, "descriptors"))
    return _register(_used(first, "places")[rows], _used(second, "places")[others])


def _used(image: np.ndarray, name: str) -> np.ndarray:
    return image[name][: image["count"]].astype(np.float32)


def _matches(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the descriptors that are each other's nearest, by far."""
    if len(first) < _FEWEST or len(second) < _FEWEST:
        return np.empty(0, int), np.empty(0, int)
    distance = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2 * first @ second.T
    nearest, second_nearest = np.partition(distance, 1, axis=1)[:, :2].T
    other = distance.argmin(1)
    mutual = distance.argmin(0)[other] == np.arange(len(first))
    rows = np.flatnonzero(mutual & (nearest < _AMBIGUOUS**2 * second_nearest))
    return rows, other[rows]


def _register(first: np.ndarray, second: np.ndarray) -> Registration | None:
    """The affine map of places (n, 4) on their matches, first by the similarity of the match most others agree with.

    All matches are tried in turn: so nothing is drawn at random, unlike in RANSAC.
    """
    if len(first) < _FEWEST:
        return None
    scale, turn = np.log(second[:, 2] / first[:, 2]), second[:, 3] - first[:, 3]
    start, end = first[:, 0] + 1j * first[:, 1], second[:, 0] + 1j * second[:, 1]
    guesses = end[:, None] + np.exp(scale + 1j * turn)[:, None] * (start - start[:, None])
    gap = np.abs(guesses - end)
    turned = np.abs((turn - turn[:, None] + np.pi) % (2 * np.pi) - np.pi)
    agree = (gap < _NEAR) & (turned < _TURNED) & (np.abs(scale - scale[:, None]) < _SCALED)
    best = np.where(agree, 2 - gap / _NEAR, 0).sum(1).argmax()
    inside, places = agree[best], np.c_[first[:, :2], np.ones(len(first))]
    for _ in range(4):
        if inside.sum() < _FEWEST:
            return None
        affine = np.linalg.lstsq(places[inside], second[inside, :2], rcond=None)[0]
        gap = np.linalg.norm(places @ affine - second[:, :2], axis=1)
        inside = (gap < _EXACT) & (turned[best] < _TURNED)
    return Registration(int(inside.sum()), affine.T)


def agreement(first: np.ndarray, second: np.ndarray, affine: np.ndarray) -> float:
    """The correlation of the details of two images, uint8 (160, 160), the first laid on the second; 0 if they miss."""

    def warp(image: np.ndarray, how: int) -> np.ndarray:
        return cv2.warpAffine(image, affine.astype(np.float32), (SIDE, SIDE), flags=how)

    covered = warp(np.ones_like(first), cv2.INTER_NEAREST)
    rim = np.ones((_RIM, _RIM), np.uint8)
    both = cv2.erode(covered, rim, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
    if both.sum() < SIDE**2 / 25:
        return 0.0
    details = [_details(image)[both] for image in (warp(first, cv2.INTER_LINEAR), second)]
    # A hair or a black border would outweigh the lesion.
    a, b = (np.clip(levels / max(levels.std(), 1e-6), -2, 2) for levels in details)
    return float(np.corrcoef(a, b)[0, 1])


def _details(image: np.ndarray) -> np.ndarray:
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), _NOISE)
    return smooth - cv2.GaussianBlur(smooth, (0, 0), _SHADES)
