"""Predict many images, a row each: in the order of the files, a bad file as a row that says why.

Nothing is unpacked to the disk, and memory is bounded whatever the files are.
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from dermalert_space import images
from dermalert_space.contract import State
from dermalert_space.images import UnreadableImage, open_image, read_image
from dermalert_space.prediction import Prediction
from dermalert_space.release import Release
from dermalert_space.zip_archives import Input

WEIGHT = 128_000_000
"""Bytes that a micro-batch may hold, files and decoded pixels, unless a single file is larger."""

THUMBNAIL = 160
"""Pixels a side of a picture in a list."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one file."""

    file: str
    """The name as it is shown; of a file in an archive `archive.zip/folder/name.jpg`."""
    prediction: Prediction | None
    """None where the file could not be read."""
    watched: float | None
    """The probability of what the release alerts to; None where the file could not be read."""
    problem: str | None
    """Why it could not be read, in a sentence; None where it could."""
    thumbnail: Image.Image | None = None
    """Of the size that is asked for, RGB, without EXIF; None where there is none."""
    lesion: str | None = None
    """The lesion that it shows, where files are grouped by lesion."""

    @property
    def state(self) -> str:
        """One of `prediction.STATES`."""
        return self.prediction.state if self.prediction else State.UNREADABLE


def predict_files(
    release: Release, files: Iterable[tuple[str, Input]], *, batch_size: int = 16, thumbnails: int = 0
) -> Iterator[Row]:
    """Predict files, as `inputs.expand` yields them, and yield a row of each in their order.

    Threads decode the next few while the model predicts the last; `WEIGHT` says how many lie in memory. A row has a
    thumbnail of at most so many pixels a side as `thumbnails` says.
    """
    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
    try:
        waiting: list[tuple[str, Future[Any]]] = []
        for group in _groups(files, batch_size):
            decoding = [(name, pool.submit(_decode, source, thumbnails)) for name, source in group]
            del group
            yield from _rows(release, waiting)
            waiting = decoding
        yield from _rows(release, waiting)
    finally:
        pool.shutdown(cancel_futures=True)


def _groups(files: Iterable[tuple[str, Input]], batch_size: int) -> Iterator[list[tuple[str, bytes | str]]]:
    """So many files, read, as the model takes at once and the memory holds."""
    group: list[tuple[str, bytes | str]] = []
    weight = 0
    for name, source in files:
        content = _content(source) if isinstance(source, Path) else source
        size = _weight(content)
        if group and (len(group) == batch_size or weight + size > WEIGHT):
            yield group
            group, weight = [], 0
        group.append((name, content))
        weight += size
    if group:
        yield group


def _content(path: Path) -> bytes | str:
    try:
        if not path.is_file():
            return "the file is no file." if path.exists() else "the file does not exist."
        with path.open("rb") as file:
            content = file.read(images.MAX_BYTES + 1)
    except OSError as error:
        return f"the file cannot be read: {error.strerror}."
    return content if len(content) <= images.MAX_BYTES else images.too_large(path.stat().st_size)


def _weight(content: bytes | str) -> int:
    """The bytes that a file and its pixels will take, by what its header claims."""
    try:
        with open_image(content) as image:
            return len(content) + 4 * image.width * image.height
    except Exception:  # no picture, as `read_image` will say
        return len(content)


def _decode(content: bytes | str, thumbnails: int) -> tuple[Image.Image, Image.Image | None] | str:
    if isinstance(content, str):
        return content
    try:
        image = read_image(content)
    except UnreadableImage as error:
        return str(error)
    return image, _thumbnail(image, thumbnails) if thumbnails else None


def _thumbnail(image: Image.Image, side: int) -> Image.Image:
    scale = min(1.0, side / max(image.size))
    small = image.resize([max(1, round(side * scale)) for side in image.size], reducing_gap=2.0)
    small.info = {}  # EXIF and profiles lie there
    return small


def _rows(release: Release, decoding: list[tuple[str, Future[Any]]]) -> Iterator[Row]:
    results = [(name, future.result()) for name, future in decoding]
    decoding.clear()
    predictions = iter(release.predict_all([result[0] for _, result in results if not isinstance(result, str)]))
    for name, result in results:
        if isinstance(result, str):
            yield Row(file=name, prediction=None, watched=None, problem=result)
        else:
            prediction = next(predictions)
            watched = prediction.probabilities[release.alert_label]
            yield Row(file=name, prediction=prediction, watched=watched, problem=None, thumbnail=result[1])
