"""Copies across sources: one photograph that two sources hold, in another crop, another size and other colours.

Where two archives show one lesion under two ids, no table joins them, and a split by lesion leaks; the hashes of
`near_duplicates.py` miss most. Here each local feature of an image votes for the images of other sources with features
like it. The images with most votes are laid on the image, and those that fit are copies.
"""

import contextlib
import hashlib
import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, NamedTuple

import datasets
import faiss
import numpy as np
from dermalert_space import files
from threadpoolctl import threadpool_limits

from dermalert import progress
from dermalert.errors import RunError
from dermalert.imaging import local_features, thumbnail
from dermalert.imaging.cache_folder import cache_folder
from dermalert.imaging.local_features import FEATURES

# First set by eye on 25 pairs drawn from the whole table of 663 pairs of MILK10k and HAM10000; half of the table agreed
# with them. Among 16,194 images, 328 of 329 pairs of the other half are found; some of the 25 may be among these.
# Of the 327 pairs that the table lacks, 40 were drawn, and all showed one lesion to the eye (docs/measurements.md).
MATCHES = 8  # least features that lie where they should
SIMILAR = 0.3  # least correlation of the details

_CANDIDATES = 5  # images laid on each image
_NEIGHBOURS = 10  # of a feature, which get its vote
_DIMENSIONS = 48  # of 128, which the index keeps
_A_CELL = 1500  # features in a cell of the index
_PROBED = 8  # cells searched
_EXACT = 20_000  # features up to which all are compared
_SAMPLE = 200_000  # features that settle the cells
_CHUNK = 64  # images at once
_CACHE = "copies-1"  # another name whenever other pairs are to be found

Pair = tuple[int, int, int, float]
"""Two images, their matches and their similarity."""


class Copies(NamedTuple):
    """Pairs of images of two sources, each once, with `first` < `second`.

    Attributes:
        first: int (pairs,), positions of images.
        second: the same.
        matches: int (pairs,), local features that lie on one another.
        similarity: float (pairs,), correlation of the details, at most 1.
    """

    first: np.ndarray
    second: np.ndarray
    matches: np.ndarray
    similarity: np.ndarray


def search(dataset: datasets.Dataset, *, start: int = 0) -> Copies:
    """Copies among the different images of a data set, those with most matches first; of one source there are none.

    The pairs are cached, by the contents and sources of the images.

    Args:
        dataset: with the columns `image`, `content` and `source`.
        start: the first row of which pairs are asked; two rows before it are no pair.

    Raises:
        RunError: there is no room for the features.
    """
    rows = _different(dataset)
    sources = np.array(dataset["source"][:], object)[rows]
    blocks = _blocks(sources, rows >= start)
    if len(set(sources)) < 2 or len(blocks) < 2:
        return _sorted([])
    images = dataset.select_columns(["image", "content"]).select(rows)
    key = [dataset.select_columns(["content", "source"])[rows], [block.tolist() for block in blocks]]
    pairs = _cached(key, lambda: _search(images, sources, blocks))
    return _sorted([(rows[a], rows[b], *how) for a, b, *how in pairs])


def _search(images: datasets.Dataset, sources: np.ndarray, blocks: list[np.ndarray]) -> list[Pair]:
    try:
        with tempfile.TemporaryFile() as file:
            features = _features(images, file)
            pairs = [(a, b) for a, b in _proposals(features, blocks) if sources[a] != sources[b]]
            # Matrices so small are multiplied in 20 times the time by two threads if the machine is busy.
            with threadpool_limits(1, user_api="blas"):
                return list(_confirmed(pairs, features, images))
    except OSError as error:
        raise RunError(
            f"the local features of {len(images):,} images, {FEATURES.itemsize // 1000} kB each, cannot be written to "
            f"'{tempfile.gettempdir()}' ({error.strerror}): make room there, or set TMPDIR to another folder, and run "
            "the same command again."
        ) from error


def _cached(key: list[Any], search: Callable[[], list[Pair]]) -> list[Pair]:
    """What a search gives, from the cache where it is there; without a cache all works as well, only slower."""
    file = cache_folder() / _CACHE / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.json"
    with contextlib.suppress(OSError, ValueError):
        return json.loads(file.read_text())
    pairs = search()
    with contextlib.suppress(OSError):
        files.write_json(file, pairs)
    return pairs


def _different(dataset: datasets.Dataset) -> np.ndarray:
    """A row of each different image, in the order of the contents: so the order of the rows changes no pair."""
    rows: dict[str, tuple[str, int]] = {}
    for row, (content, source) in enumerate(zip(dataset["content"][:], dataset["source"][:], strict=True)):
        rows[content] = min(rows.get(content, (source, row)), (source, row))
    return np.array([rows[content][1] for content in sorted(rows)], int)


def _blocks(sources: np.ndarray, asks: np.ndarray) -> list[np.ndarray]:
    """The positions of images in blocks, each of which asks all before it; the largest source comes first."""
    counts = Counter(sources.tolist())
    names = sorted(counts, key=lambda name: (-counts[name], name))
    blocks = [np.flatnonzero(~asks), *(np.flatnonzero(asks & (sources == name)) for name in names)]
    return [block for block in blocks if len(block)]


def _features(images: datasets.Dataset, file: IO[bytes]) -> np.ndarray:
    """The features of each image, records of `FEATURES` in a file: 100,000 images would be 1.7 GB in memory."""
    with ThreadPoolExecutor() as pool:
        for squares in thumbnail.squares(images, task="Finding local features"):
            file.write(b"".join(record.tobytes() for record in pool.map(local_features.features, squares)))
    file.flush()
    return np.memmap(file, FEATURES, "r")


def _chunks(positions: np.ndarray) -> Iterator[np.ndarray]:
    return (positions[start : start + _CHUNK] for start in range(0, len(positions), _CHUNK))


def _descriptors(records: np.ndarray) -> np.ndarray:
    """The descriptors of the records, one after the other: float32 (features, 128)."""
    used = np.arange(records["descriptors"].shape[1]) < records["count"][:, None]
    return records["descriptors"][used].astype(np.float32)


# Features propose pairs.


class _Index:
    """The images that have features like those of an image."""

    def __init__(self, features: np.ndarray):
        total = int(features["count"].sum())
        step = -(-total // _SAMPLE)
        self._index: faiss.Index
        if total <= _EXACT:
            self._index = faiss.IndexFlatL2(features["descriptors"].shape[2])
        else:
            self._index = faiss.index_factory(128, f"PCA{_DIMENSIONS},IVF{total // _A_CELL},SQ8")
            faiss.extract_index_ivf(self._index).nprobe = _PROBED
            chunks = _chunks(np.arange(len(features)))
            self._index.train(np.concatenate([_descriptors(features[chunk])[::step] for chunk in chunks]))
        self._owners = np.empty(0, np.int32)

    def add(self, positions: np.ndarray, records: np.ndarray) -> None:
        """Add images."""
        self._index.add(_descriptors(records))
        self._owners = np.concatenate([self._owners, np.repeat(positions, records["count"]).astype(np.int32)])

    def most_alike(self, records: np.ndarray) -> list[np.ndarray]:
        """For each record, the images with the most votes of its features.

        A vote weighs what a neighbour is nearer than the first that gets none: a hair or a bubble, which many images
        have, decides nothing (as in local naive Bayes nearest neighbours, McCann & Lowe 2012).
        """
        distances, neighbours = self._index.search(_descriptors(records), _NEIGHBOURS + 1)
        distances[neighbours < 0] = 0
        weights = np.maximum(distances.max(1, keepdims=True) - distances, 0) * (neighbours >= 0)
        owners = self._owners[neighbours]
        ends = np.cumsum(records["count"])
        return [
            _most_votes(owners[a:b].ravel(), weights[a:b].ravel())
            for a, b in zip(ends - records["count"], ends, strict=True)
        ]


def _most_votes(images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    images, which = np.unique(images, return_inverse=True)
    return images[np.argsort(-np.bincount(which, weights, len(images)), kind="stable")[:_CANDIDATES]]


def _proposals(features: np.ndarray, blocks: list[np.ndarray]) -> Iterator[tuple[int, int]]:
    index = _Index(features)
    with progress.bar(sum(map(len, blocks[1:])), "Searching copies across sources") as bar:
        for number, block in enumerate(blocks):
            for chunk in _chunks(block) if number else ():
                for position, alike in zip(chunk.tolist(), index.most_alike(features[chunk]), strict=True):
                    yield from ((position, other) for other in alike.tolist())
                bar.update(len(chunk))
            for chunk in _chunks(block):
                index.add(chunk, features[chunk])


# Their places, and then the pixels, confirm them.


def _confirmed(pairs: list[tuple[int, int]], features: np.ndarray, images: datasets.Dataset) -> Iterator[Pair]:
    bar = progress.track(pairs, len(pairs), "Laying images on one another", "pairs")
    registered = ((a, b, local_features.registration(features[a], features[b])) for a, b in bar)
    placed = [(a, b, how) for a, b, how in registered if how and how.matches >= MATCHES]
    for start in range(0, len(placed), _CHUNK):
        some = placed[start : start + _CHUNK]
        rows = sorted({row for pair in some for row in pair[:2]})
        squares = dict(zip(rows, itertools.chain.from_iterable(thumbnail.squares(images.select(rows))), strict=True))
        for a, b, how in some:
            similarity = local_features.agreement(squares[a], squares[b], how.affine)
            if similarity >= SIMILAR:
                yield a, b, how.matches, similarity


def _sorted(pairs: list[Pair]) -> Copies:
    """The pairs as columns, those with most matches first."""
    ordered = sorted((-matches, min(a, b), max(a, b), similarity) for a, b, matches, similarity in pairs)
    matches, first, second, similarity = zip(*ordered, strict=True) if ordered else ((), (), (), ())
    return Copies(np.array(first, int), np.array(second, int), -np.array(matches, int), np.array(similarity, float))
