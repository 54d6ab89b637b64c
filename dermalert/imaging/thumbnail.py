"""Fingerprints of images, 32 x 32 grey levels and the size: for one, a file is decoded once, and then never again.

Whoever reads a data set learns from the fingerprints which files are images at all, the audit learns which are tiny or
blank, and `near_duplicates.py` which show the same picture. The same look at a file gives what shortcut baselines and
the search for copies across sources need of it.
"""

import functools
import hashlib
import logging
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import datasets
import numpy as np
from dermalert_space.images import MAX_PIXELS, NoImage, UnreadableImage, open_image, read_image
from PIL import Image

from dermalert import progress
from dermalert.errors import RunError
from dermalert.imaging import local_features
from dermalert.imaging.cache_folder import cache_folder
from dermalert.imaging.shortcut_features import FEATURES, features

logger = logging.getLogger(__name__)

SIDE = 32  # two pixels a frequency of the perceptual hash
BLANK = 3.0  # standard deviation of the grey levels, under which there is nothing to compare

_DECODED = 256  # pixels: a large JPEG is decoded at a fraction of its size, but no smaller than this
_CHUNK = 64  # files in memory at once

ROW = np.dtype([("size", "<i4", 2), ("thumbnail", "u1", (SIDE, SIDE))])
"""A fingerprint."""


def row_type(*, shortcuts: bool = False, square: bool = False) -> np.dtype:
    """A fingerprint and what else is asked for of an image.

    Args:
        shortcuts: what shortcut baselines see, which takes twice as long as a fingerprint.
        square: the grey levels of which local features are made, 26 kB.
    """
    more: list[tuple[Any, ...]] = [("shortcuts", FEATURES)] * shortcuts
    more += [("square", "u1", (local_features.SIDE, local_features.SIDE))] * square
    return np.dtype([*ROW.descr, *more])


class Fingerprints(NamedTuple):
    """What is kept of n images.

    Attributes:
        thumbnails: uint8 (n, 32, 32), grey levels; they lie in a temporary file, see `_OnDisk`.
        sizes: int (n, 2), width and height in pixels; 0 where the image cannot be read.
    """

    thumbnails: "_OnDisk"
    sizes: np.ndarray

    @property
    def unreadable(self) -> np.ndarray:
        """Whether each image cannot be read: (n,)."""
        return self.sizes[:, 0] == 0

    @property
    def blank(self) -> np.ndarray:
        """Whether each image can be read and shows one colour: (n,)."""
        return ~self.unreadable & (contrast(self.thumbnails) < BLANK)


def contrast(thumbnails: "Thumbnails") -> np.ndarray:
    """The standard deviation of the grey levels of each thumbnail (n, height, width)."""
    # In parts: numpy makes eight bytes of each level, which of 100,000 thumbnails are 800 MB.
    parts = (thumbnails[start : start + _CHUNK] for start in range(0, len(thumbnails), _CHUNK))
    return np.concatenate([np.empty(0), *(part.std((1, 2)) for part in parts)])


class _OnDisk:
    """Thumbnails in a temporary file, of which those are read that are asked for: 100,000 would be 100 MB in memory."""

    def __init__(self, file: IO[bytes], count: int):
        self._file, self._count = file, count

    def __del__(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: Any) -> np.ndarray:
        # Mapped each time, because what stays mapped stays in memory.
        return np.memmap(self._file, ROW, "r")["thumbnail"][rows]


Thumbnails = np.ndarray | _OnDisk


class Look(NamedTuple):
    """What a look at one file tells.

    Attributes:
        content: the SHA-256 of the file in hexadecimal; None where there is no file.
        row: a fingerprint and what else was asked for, packed; zeros where the file is no image.
        fault: why it is none.
    """

    content: str | None
    row: bytes
    fault: Exception | None


def fingerprints(dataset: datasets.Dataset) -> Fingerprints:
    """Return the fingerprints of a data set's images.

    Args:
        dataset: with the columns `image` and `content`, the SHA-256 of the file in hexadecimal.

    Raises:
        RunError: there is no room for them.
    """
    try:
        return _look_at_all(dataset)
    except OSError as error:
        raise RunError(
            f"the fingerprints of {len(dataset):,} images, 1 kB each, cannot be written to '{tempfile.gettempdir()}' "
            f"({error.strerror}): make room there, or set TMPDIR to another folder, and run the same command again."
        ) from error


def _look_at_all(dataset: datasets.Dataset) -> Fingerprints:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - `_OnDisk` closes it
    sizes = [np.empty((0, 2), int)]
    for rows in _rows(dataset, ROW):
        file.write(rows.tobytes())
        sizes.append(rows["size"].astype(int))
    file.flush()
    return Fingerprints(_OnDisk(file, len(dataset)), np.concatenate(sizes))


def shortcut_features(dataset: datasets.Dataset) -> np.ndarray:
    """What shortcut baselines see of a data set's images, (n,) of `FEATURES`; for the columns see `fingerprints`.

    Raises:
        RunError: an image cannot be read any more.
    """
    kind = row_type(shortcuts=True)
    rows = np.concatenate([np.empty(0, kind), *_rows(dataset, kind)])
    if not rows["size"].all():
        raise RunError("an image was changed or removed while the run read it: run the same command again.")
    return rows["shortcuts"]


def squares(dataset: datasets.Dataset, *, task: str = "Looking at images") -> Iterator[np.ndarray]:
    """Yield the grey levels of a data set's images, uint8 (n, 160, 160), some at a time; what cannot be read is black.

    Args:
        dataset: for the columns see `fingerprints`.
        task: what they are needed for, beside the progress bar.
    """
    return (rows["square"] for rows in _rows(dataset, row_type(square=True), task))


def _rows(dataset: datasets.Dataset, kind: np.dtype, task: str = "Looking at images") -> Iterator[np.ndarray]:
    """Yield what is kept of a data set's images, some at a time."""
    contents = dataset["content"][:]
    images = dataset.select_columns("image").cast_column("image", datasets.Image(decode=False))
    bar = progress.bar(len(contents), task)
    with ThreadPoolExecutor() as pool, _Cache(kind) as cache, bar:
        for start in range(0, len(contents), _CHUNK):
            part = contents[start : start + _CHUNK]
            cached = cache.read(part)
            missing = {content: start + i for i, content in enumerate(part) if content not in cached}
            looks = _looks([images[row]["image"] for row in missing.values()], pool, cache)
            cached |= {content: look.row for content, look in zip(missing, looks, strict=True)}
            yield np.frombuffer(b"".join(cached[content] for content in part), kind)
            bar.update(len(part))


def look(images: Iterable[Mapping[str, Any] | None], kind: np.dtype = ROW) -> Iterator[Look]:
    """Look at image files in turn; each different content is decoded, in parallel with others, once and then cached.

    Args:
        images: `{"path", "bytes"}` each, as `datasets.Image(decode=False)` gives them; without bytes a file, and None
            where there is no image.
        kind: of `row_type`; what it holds beside a fingerprint is kept too, so that `shortcut_features` or `squares`
            decodes nothing.
    """
    images = iter(images)
    with ThreadPoolExecutor() as pool, _Cache(kind) as cache:
        while chunk := list(islice(images, _CHUNK)):
            yield from _looks(chunk, pool, cache)


def _looks(images: Iterable[Mapping[str, Any] | None], pool: ThreadPoolExecutor, cache: "_Cache") -> Iterator[Look]:
    files = list(pool.map(content_of, images))
    by_content = {content: file for content, file in files if content}
    cached = cache.read(by_content)
    missing = {content: file for content, file in by_content.items() if content not in cached}
    look = functools.partial(_fingerprint_or_fault, kind=cache.kind)
    nothing = bytes(cache.kind.itemsize)
    fresh = dict(zip(missing, pool.map(look, missing.values()), strict=True))
    # What cannot be read may be read another day.
    cache.write({content: row for content, row in fresh.items() if isinstance(row, bytes)})
    for content, file in files:
        row = cached.get(content) or fresh[content] if content else file
        yield Look(content, row, None) if isinstance(row, bytes) else Look(content, nothing, row)


def content_of(image: Mapping[str, Any] | None) -> tuple[str | None, bytes | Exception]:
    """Return the SHA-256 of an image's file in hexadecimal and its bytes, or None and why there are none."""
    if not image or (image["bytes"] is None and image["path"] is None):
        return None, FileNotFoundError("there is no file")
    try:
        content = Path(image["path"]).read_bytes() if image["bytes"] is None else image["bytes"]
    except OSError as error:
        return None, error
    return hashlib.sha256(content).hexdigest(), content


def _fingerprint_or_fault(content: bytes, *, kind: np.dtype) -> bytes | Exception:
    try:
        return fingerprint(content, kind=kind)
    except UnreadableImage as error:
        return error


def fingerprint(content: bytes, *, kind: np.dtype = ROW) -> bytes:
    """The fingerprint of one image file, packed, with what else its kind holds: see `row_type`.

    Raises:
        UnreadableImage: it is no image.
    """
    try:
        image = open_image(content)
        size = image.size
        if image.width * image.height <= MAX_PIXELS:
            image.draft("RGB", (_DECODED, _DECODED))  # for JPEG only; the others decode as ever
    except NoImage as error:
        raise NoImage(f"the file cannot be read as an image: {error}") from error
    # Pillow's own way of opening a broken file raises what it likes, see `read_image`.
    except Exception as error:
        raise UnreadableImage("the file cannot be read as an image: it is damaged or cut short.") from error
    picture = read_image(image)
    row = np.zeros((), kind)
    row["size"] = size
    row["thumbnail"] = picture.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    for part, made_of in {"shortcuts": features, "square": local_features.square}.items():
        if part in (kind.names or ()):
            row[part] = made_of(picture)
    return row.tobytes()


class _Cache:
    """What looks at images gave, by content, in one file; without it all works as well, only slower.

    Args:
        kind: of `row_type`. What lacks a part of it counts as missing.
    """

    def __init__(self, kind: np.dtype):
        self.kind = kind
        self._sizes = {"fingerprint": ROW.itemsize}
        self._sizes |= {part: kind[part].itemsize for part in kind.names or () if part not in (ROW.names or ())}
        self._file = cache_folder() / "looks-1.sqlite"
        self._database: sqlite3.Connection | None = None

    def __enter__(self) -> "_Cache":
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.touch(mode=0o600)  # squares show patients' pictures
            self._database = sqlite3.connect(self._file, timeout=30)
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS looks (content TEXT, part TEXT, value BLOB, PRIMARY KEY (content, part))"
            )
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)
        return self

    def __exit__(self, *_: object) -> None:
        if self._database:
            self._database.close()

    def read(self, contents: Iterable[str]) -> dict[str, bytes]:
        """The rows of those contents of which all parts are there."""
        kept: dict[str, bytes] = {}
        if self._database:
            query = "SELECT value FROM looks WHERE content = ? AND part = ?"
            try:
                for content in contents:
                    parts = [self._database.execute(query, (content, part)).fetchone() for part in self._sizes]
                    row = b"".join(part[0] for part in parts if part)
                    if len(row) == self.kind.itemsize:
                        kept[content] = row
            except sqlite3.Error as error:
                self._give_up(error)
        return kept

    def write(self, rows: Mapping[str, bytes]) -> None:
        """Add rows."""
        if self._database:
            parts = ((content, *part) for content, row in rows.items() for part in self._parts(row))
            try:
                with self._database:
                    self._database.executemany("INSERT OR REPLACE INTO looks VALUES (?, ?, ?)", parts)
            except sqlite3.Error as error:
                self._give_up(error)

    def _parts(self, row: bytes) -> Iterator[tuple[str, bytes]]:
        """Yield each part of a row with its name."""
        start = 0
        for part, size in self._sizes.items():
            yield part, row[start : start + size]
            start += size

    def _give_up(self, error: Exception) -> None:
        logger.warning("'%s' cannot be used (%s): going on without a cache.", self._file, error)
        if self._database:
            self._database.close()
        self._database = None
