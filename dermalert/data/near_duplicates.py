"""Near duplicates: the same picture again, re-encoded, resized, a little cropped, brightened, mirrored or turned.

Each image is looked at as a thumbnail, see `thumbnail.py`. A perceptual hash of it proposes pairs, an index of faiss
finds them, and the thumbnails themselves, laid over one another, confirm them. Two photos of one lesion taken a
moment apart are near duplicates too; two photos of it from elsewhere are not, and only a lesion id tells them.
"""

from collections.abc import Callable
from itertools import chain
from typing import NamedTuple

import datasets
import faiss
import numpy as np
from scipy import fft, ndimage

from dermalert import progress
from dermalert.data import groups, schema
from dermalert.data.copies import Copies
from dermalert.imaging.thumbnail import BLANK, SIDE, Thumbnails, contrast, fingerprints

HASH_SIDE = 16  # lowest frequencies a direction: 256 bits propose a tenth of the false pairs that the usual 64 do
HASH_BYTES = HASH_SIDE**2 // 8

# Chosen on generated lesions and their altered copies (benchmarks/data/duplicates.py reports on others), with a look at
# pairs of HAM10000, whose lesion ids tell which are of one lesion.
RADIUS = 64  # bits of 256 by which a picture and its crop may differ
TURNED_RADIUS = 40  # the same where the picture is mirrored or turned, and not cropped as well
SIMILAR = 0.93  # least correlation of the details

_CROP = 0.025  # of each side: brings a copy that is cropped by up to 0.05 within RADIUS
_EXACT = 50_000  # hashes up to which all pairs are compared: at most half a minute
_A_CELL = 40  # hashes that settle where a cell is
_ROUNDS = 6  # more find no more pairs
_HASHED = 512  # images hashed at once
_PAIRS = 2048  # pairs laid over one another at once

# A quarter turn one way finds the pairs of a quarter turn the other way, seen from the other image.
_Variant = Callable[[np.ndarray], np.ndarray]

TURNS: dict[str, _Variant] = {
    "mirrored": lambda images: images[:, :, ::-1],
    "upside down": lambda images: images[:, ::-1],
    "half turn": lambda images: images[:, ::-1, ::-1],
    "quarter turn": lambda images: np.rot90(images, axes=(1, 2)),
    "transposed": lambda images: images.transpose(0, 2, 1),
    "anti-transposed": lambda images: images[:, ::-1, ::-1].transpose(0, 2, 1),
}

_CODES = ("", *TURNS, "quarter turn back")


class Pairs(NamedTuple):
    """Pairs of images, each once, with `first` < `second`.

    Attributes:
        first: int (pairs,), positions of images.
        second: the same.
        turn: str (pairs,), what lays the first on the second: "", one of `TURNS` or "quarter turn back".
        distance: int (pairs,), bits in which the hashes differ.
        similarity: float (pairs,), correlation of the details, at most 1.
    """

    first: np.ndarray
    second: np.ndarray
    turn: np.ndarray
    distance: np.ndarray
    similarity: np.ndarray

    def where(self, rows: np.ndarray) -> "Pairs":
        """The pairs at these positions, or where this is true."""
        return Pairs(*(column[rows] for column in self))


# Hashes propose pairs.


def perceptual_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """The perceptual hash of each fingerprint: which of its lowest frequencies exceed their median.

    It is `imagehash.phash(image, hash_size=16, highfreq_factor=2)` of grey images, a hundred times as fast, so that
    the mirrored and turned copies can be hashed as well.

    Args:
        thumbnails: (n, 32, 32) grey levels.

    Returns:
        uint8 (n, 32), eight bits a byte.
    """
    low = fft.dctn(thumbnails.astype(np.float32), axes=(1, 2))[:, :HASH_SIDE, :HASH_SIDE].reshape(-1, HASH_SIDE**2)
    return np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1)


def hashes_in_all_positions(thumbnails: np.ndarray) -> np.ndarray:
    """The perceptual hashes of each fingerprint (8, n, 32) as it lies, mirrored and turned."""
    positions = [thumbnails, *(turn(thumbnails) for turn in TURNS.values()), _quarter_turn_back(thumbnails)]
    return np.stack([perceptual_hashes(images) for images in positions])


def _centres(hashes: np.ndarray, cells: int) -> np.ndarray:
    """The centres of cells, uint8 (cells, 32), by k-majority, the k-means of bits (Grana et al. 2013).

    k-means on floats, as in `IndexBinaryIVF.train`, would take 32 times the memory of the hashes.
    """
    sample = hashes[np.random.default_rng(0).choice(len(hashes), _A_CELL * cells, replace=False)]
    centres = sample[:cells].copy()
    for _ in range(_ROUNDS):
        index = faiss.IndexBinaryFlat(8 * HASH_BYTES)
        index.add(centres)
        nearest = index.search(sample, 1)[1].ravel()
        for cell in np.unique(nearest):
            centres[cell] = np.packbits(np.unpackbits(sample[nearest == cell], axis=1).mean(axis=0) > 0.5)
    return centres


class Index:
    """An index of perceptual hashes: exact up to 50,000 of them, above by cells, so that time grows as n ** 1.5.

    By cells it finds, of the pairs that differ in at most 40 bits, about 99 in 100, and above 40 bits about nine in
    ten (measured in benchmarks/data/duplicates.py).
    """

    def __init__(self, hashes: np.ndarray):
        self._index: faiss.IndexBinary
        if len(hashes) <= _EXACT:
            self._index = faiss.IndexBinaryFlat(8 * HASH_BYTES)
        else:
            self._coarse = faiss.IndexBinaryFlat(8 * HASH_BYTES)  # kept: the index holds only a pointer to it
            self._coarse.add(_centres(hashes, int(len(hashes) ** 0.5)))
            cells = faiss.IndexBinaryIVF(self._coarse, 8 * HASH_BYTES, self._coarse.ntotal)
            cells.nprobe = 32
            self._index = cells
        self._index.add(hashes)

    def within(self, queries: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return query positions, index positions and distances of the hashes at most so many bits apart."""
        limits, distances, positions = self._index.range_search(queries, radius + 1)
        query = np.repeat(np.arange(len(queries)), np.diff(limits).astype(np.int64))
        return query, positions, distances.astype(np.int32)


def candidates(thumbnails: Thumbnails, rows: np.ndarray) -> Pairs:
    """The pairs that the hashes propose, each with the turn that brings them nearest; similarity is NaN.

    Args:
        thumbnails: uint8 (n, 32, 32), or what gives them when it is indexed.
        rows: int, ascending, those to be compared.
    """
    steps = [rows[start : start + _HASHED] for start in range(0, len(rows), _HASHED)]
    index = Index(np.concatenate([perceptual_hashes(thumbnails[step]) for step in steps]))
    queries: list[tuple[str, _Variant, int]] = [("", np.asarray, RADIUS), ("", _crop, RADIUS)]
    queries += [(name, turn, TURNED_RADIUS) for name, turn in TURNS.items()]
    parts = []
    with progress.bar(len(queries) * len(steps), "Searching near duplicates", "steps") as bar:
        for name, variant, radius in queries:
            for step in steps:
                query, match, distance = index.within(perceptual_hashes(variant(thumbnails[step])), radius)
                query, match = step[query], rows[match]
                # A turn that is its own inverse finds each pair twice; a crop and a quarter turn do not.
                keep = query != match if variant is _crop or name == "quarter turn" else query < match
                parts.append(
                    (query[keep], match[keep], distance[keep], np.full(keep.sum(), _CODES.index(name), np.int8))
                )
                bar.update()
    return _nearest_of_each(*map(np.concatenate, zip(*parts, strict=True)))


def _nearest_of_each(query: np.ndarray, match: np.ndarray, distance: np.ndarray, code: np.ndarray) -> Pairs:
    # A turn is that of the first image.
    code = np.where((query > match) & (code == _CODES.index("quarter turn")), _CODES.index("quarter turn back"), code)
    first, second = np.minimum(query, match), np.maximum(query, match)
    order = np.lexsort((code, distance, second, first))
    first, second = first[order], second[order]
    fresh = np.ones(len(order), bool)
    fresh[1:] = (np.diff(first) != 0) | (np.diff(second) != 0)
    order = order[fresh]
    turn = np.array(_CODES)[code[order]]
    return Pairs(first[fresh], second[fresh], turn, distance[order], np.full(len(order), np.nan))


def _crop(thumbnails: np.ndarray) -> np.ndarray:
    pixels = np.arange(SIDE, dtype=np.float32)
    places = (pixels + 0.5 - SIDE / 2) * (1 - 2 * _CROP) + SIDE / 2 - 0.5
    window = np.maximum(1 - np.abs(places[:, None] - pixels), 0)  # linear between two pixels
    return window @ thumbnails.astype(np.float32) @ window.T


# Pixels confirm them.


def near_duplicates(thumbnails: Thumbnails, rows: np.ndarray | None = None, *, start: int = 0) -> Pairs:
    """Pairs of thumbnails that show the same picture; blank ones are like nothing.

    Args:
        thumbnails: uint8 (n, 32, 32), or what gives them when it is indexed.
        rows: int, ascending, those to be compared; all by default.
        start: the first row of which pairs are asked; two rows before it are no pair.
    """
    shown = np.flatnonzero(contrast(thumbnails) >= BLANK)
    shown = shown if rows is None else np.intersect1d(shown, rows)
    if len(shown) < 2:
        return Pairs(*(np.empty(0, kind) for kind in (int, int, str, int, float)))
    pairs = candidates(thumbnails, shown)
    pairs = pairs.where(pairs.second >= start)
    similarity = np.full(len(pairs.first), -1.0)
    with progress.bar(len(similarity), "Comparing pixels", "pairs") as bar:
        for first in range(0, len(similarity), _PAIRS):
            part = slice(first, first + _PAIRS)
            left = _apply_turns(thumbnails[pairs.first[part]], pairs.turn[part])
            similarity[part] = similarities(left, thumbnails[pairs.second[part]])
            bar.update(len(left))
    return pairs._replace(similarity=similarity).where(similarity >= SIMILAR)


def _apply_turns(thumbnails: np.ndarray, turns: np.ndarray) -> np.ndarray:
    turned = thumbnails.copy()
    for name, turn in (TURNS | {"quarter turn back": _quarter_turn_back}).items():
        turned[turns == name] = turn(thumbnails[turns == name])
    return turned


def _quarter_turn_back(images: np.ndarray) -> np.ndarray:
    return np.rot90(images, -1, axes=(1, 2))


def similarities(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How alike the pictures of each pair are, as they lie or laid over one another, whichever is more.

    What is correlated is the detail, a thumbnail less its own blur: a dark spot in the middle of pale skin is all that
    many lesions have in common, and correlates by 0.97 as it is.

    Args:
        first: uint8 (pairs, 32, 32).
        second: the same.

    Returns:
        Correlations (pairs,) in [-1, 1]; brightness and contrast do not count.
    """
    a, b = (ndimage.gaussian_filter(images.astype(np.float32), (0, 0.5, 0.5)) for images in (first, second))
    still = np.zeros((len(a), 4), np.float32)
    best = _correlation(a, b, still)
    rest = np.flatnonzero(best < SIMILAR)
    moves = _register(_halve(a[rest]), _halve(b[rest]), still[rest], steps=6)
    moves = _register(a[rest], b[rest], moves, steps=4)
    best[rest] = np.maximum(best[rest], _correlation(a[rest], b[rest], moves))
    return best


def _halve(images: np.ndarray) -> np.ndarray:
    n, side, _ = images.shape
    smooth = ndimage.gaussian_filter(images, (0, 1.5, 1.5))
    return smooth.reshape(n, side // 2, 2, side // 2, 2).mean((2, 4))


def _places(moves: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The pixels' own coordinates in [-1, 1] (1, pixels) and where they come from, in pixels (n, pixels)."""
    centres = (2 * np.arange(side, dtype=np.float32) + 1) / side - 1
    x, y = (axis.reshape(1, -1) for axis in np.meshgrid(centres, centres))
    from_x = ((1 + moves[:, 0:1]) * x + moves[:, 1:2] + 1) * side / 2 - 0.5
    from_y = ((1 + moves[:, 2:3]) * y + moves[:, 3:4] + 1) * side / 2 - 0.5
    return x, y, from_x, from_y


def _sample(images: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The images (n, side, side) at places (n, m), bilinearly; outside, as on the border."""
    n, side, _ = images.shape
    left, top = (np.clip(np.floor(axis), 0, side - 2).astype(np.intp) for axis in (x, y))
    right, low = np.clip(x - left, 0, 1), np.clip(y - top, 0, 1)
    flat, corner = images.reshape(n, side * side), top * side + left

    def at(step: int) -> np.ndarray:
        return np.take_along_axis(flat, corner + step, axis=1)

    upper = at(0) * (1 - right) + at(1) * right
    return upper * (1 - low) + (at(side) * (1 - right) + at(side + 1) * right) * low


def _within(x: np.ndarray, y: np.ndarray, low: float, high: float) -> np.ndarray:
    return ((x >= low) & (x <= high) & (y >= low) & (y <= high)).astype(np.float32)


def _centre(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return values (..., pixels) less their mean over the mask, and 0 outside it."""
    return (values - (values * mask).sum(-1, keepdims=True) / np.maximum(mask.sum(-1, keepdims=True), 1)) * mask


def _unit(values: np.ndarray) -> np.ndarray:
    return np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-6)


def _register(a: np.ndarray, b: np.ndarray, moves: np.ndarray, *, steps: int) -> np.ndarray:
    """The moves of `a` that lay it on `b`, by Gauss-Newton steps on the normalised difference.

    Args:
        a: (n, side, side).
        b: the same.
        moves: (n, 4), where to start: stretch and shift across, stretch and shift down, in half sides.
        steps: how many.
    """
    n, side, _ = a.shape
    down, across = np.gradient(a, 2 / side, axis=(1, 2))
    target = b.reshape(n, side * side)
    for _ in range(steps):
        x, y, from_x, from_y = _places(moves, side)
        mask = _within(from_x, from_y, -0.5, side - 0.5)
        values = _centre(_sample(a, from_x, from_y), mask)
        length, goal = _unit(values), _centre(target, mask)
        slope_x, slope_y = _sample(across, from_x, from_y), _sample(down, from_x, from_y)
        slopes = _centre(np.stack([slope_x * x, slope_x, slope_y * y, slope_y], 1), mask[:, None]) / length[:, None]
        normal = slopes @ slopes.transpose(0, 2, 1) + 1e-3 * np.eye(4, dtype=np.float32)
        gap = goal / _unit(goal) - values / length
        # A picture is cropped slightly or not at all: beyond a third of its half side it is another.
        moves = np.clip(moves + np.linalg.solve(normal, slopes @ gap[..., None])[..., 0], -0.33, 0.33)
    return moves


def _correlation(a: np.ndarray, b: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """The correlation (n,) of the details of `a`, moved, with those of `b`, away from both borders."""
    n, side, _ = a.shape
    a, b = (images - ndimage.gaussian_filter(images, (0, 1.5, 1.5)) for images in (a, b))
    x, y, from_x, from_y = _places(moves, side)
    rim = 1 - 4 / side  # two pixels: there the blur knows only one side
    mask = _within(from_x, from_y, 2, side - 3) * _within(x, y, -rim, rim)
    left, right = _centre(_sample(a, from_x, from_y), mask), _centre(b.reshape(n, side * side), mask)
    return (left / _unit(left) * (right / _unit(right))).sum(1)


def search(dataset: datasets.Dataset, *, start: int = 0) -> Pairs:
    """Near duplicates among the different images of a data set, the most alike first.

    Args:
        dataset: with the columns `image` and `content`; the first row of each content stands for its copies.
        start: see `near_duplicates`.

    Raises:
        RunError: there is no room for the thumbnails.
    """
    thumbnails = fingerprints(dataset).thumbnails
    rows: dict[str, int] = {}
    for i, content in enumerate(dataset["content"][:]):
        rows.setdefault(content, i)
    pairs = near_duplicates(thumbnails, np.array(list(rows.values()), int), start=start)
    return pairs.where(np.argsort(-pairs.similarity, kind="stable"))


def link(dataset: datasets.Dataset, *related: Pairs | Copies) -> datasets.Dataset:
    """Put related images into one group, so that no split can part them; without any, near duplicates are searched."""
    columns = ((pairs.first.tolist(), pairs.second.tolist()) for pairs in related or [search(dataset)])
    links = chain.from_iterable(zip(first, second, strict=True) for first, second in columns)
    # With all that each image belongs to, so that the key stays the most telling name: a copy that joins from another
    # source must not move the lesion to another split.
    rows = dataset.select_columns(["lesion_id", "patient_id", "image_id", "content", "group"])
    names = ((*schema.belongings(row), row["group"]) for row in rows)
    return schema.with_columns(dataset, {"group": groups.group_keys(names, links)})
