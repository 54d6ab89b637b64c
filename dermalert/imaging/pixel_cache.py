"""Images decoded and resized once: what a release looks at of each file, kept by the content of the file.

CACHE/pixels-1/KEY/*.pack, where KEY stands for the processor. The record of an image file is its pixels as bytes, and
the signals by which a release abstains. A run that is killed leaves all packs but the last. Packs hold patients'
pictures: nobody but their owner can read them.
"""

import contextlib
import hashlib
import inspect
import io
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import PIL
import transformers
from datasets import Dataset
from dermalert_space import abstention, images
from dermalert_space.images import read_image
from PIL import Image, features

from dermalert import progress
from dermalert.errors import RunError
from dermalert.imaging import pack
from dermalert.imaging.byte_processor import ByteProcessor
from dermalert.imaging.cache_folder import cache_folder
from dermalert.imaging.thumbnail import content_of

logger = logging.getLogger(__name__)

AT_MOST = 20_000_000_000
"""Bytes of all packs; fewer where the disk has less than twice as much room. The longest unused go first."""

_PACK = 2048  # images; what a killed run has to do again, at most
_CHUNK = 64  # images in memory at once
_SIGNALS = tuple(name for name in abstention.REASONS if name != "distance")  # which is the model's
_UNKNOWN = (math.nan,) * len(_SIGNALS)
_LAYOUT = "names, pixels and signals, digests"  # of a pack; part of the key, so that others are not opened
_ABANDONED = 86_400  # seconds after which a pack that is not whole is that of a run that was killed

_mapped: set[Path] = set()
"""Packs that this process reads from: to delete them would free nothing."""


class PixelCache:
    """What a release looks at of a data set's images: from packs, else decoded when it is asked for.

    Args:
        dataset: with the columns `image` and `content`, the SHA-256 of the file in hexadecimal.
        processed: what makes the bytes.
        signals: which images' signals are asked for, as they take about as long as decoding: none; those of images
            that have to be decoded now, or all. The others' are NaN.
    """

    def __init__(self, dataset: Dataset, processed: ByteProcessor, *, signals: Literal["none", "new", "all"] = "none"):
        self._images = dataset.select_columns("image").cast_column("image", datasets.Image(decode=False))
        self._contents, self._processed = dataset.select_columns("content"), processed
        self._signals = signals
        self._record = np.dtype([("pixels", "u1", processed.shape), ("signals", "<f8", len(_SIGNALS))])
        contents = dataset["content"][:]
        first = dict(zip(reversed(contents), reversed(range(len(contents))), strict=True))
        self._packs: list[pack.Pack] = []
        self._places = np.full((len(contents), 2), -1)  # of each row the number of its pack, and where in it
        try:
            self._fill(folder() / _key(processed), first)
        except OSError as error:
            logger.warning("decoded images cannot be kept in '%s' (%s): going on without.", folder(), error)
        self._places = self._places[[first[content] for content in contents]]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, rows: Sequence[int]) -> np.ndarray:
        """The bytes of some rows: uint8 (n, 3, H, W)."""
        return self.looks(rows)[0]

    def looks(self, rows: Sequence[int]) -> tuple[np.ndarray, list[dict[str, float]]]:
        """The bytes of some rows, uint8 (n, 3, H, W), and the signals of each, see `abstention.signals`."""
        pixels, signals = np.empty((len(rows), *self._processed.shape), np.uint8), []
        used = set()
        for i, row in enumerate(rows):
            number, place = self._places[row].tolist()
            record = self._decoded(row) if number < 0 else self._packs[number].records[place]
            used.add(number)
            pixels[i] = record["pixels"]
            signals.append(dict(zip(_SIGNALS, record["signals"].tolist(), strict=True)))
        for number in used - {-1}:
            self._packs[number].free()
        return pixels, signals

    def _decoded(self, row: int) -> np.void:
        """The record of a row's image, made of the very file that its content stands for."""
        image = self._images[row]["image"]
        content, file = content_of(image)
        if content != self._contents[row]["content"] or not isinstance(file, bytes):
            raise RunError(
                f"'{image['path']}' was changed or removed while the run read it: run the same command again."
            )
        picture = read_image(Image.open(io.BytesIO(file)))
        signals = _UNKNOWN if self._signals == "none" else tuple(abstention.signals(picture).values())
        return np.array([(self._processed.to_bytes(picture), signals)], self._record)[0]

    def _fill(self, folder: Path, first: Mapping[str, int]) -> None:
        """Find the packs that hold the images, of which each has a first row, and write what they lack."""
        for level in reversed((folder, *folder.parents)):  # `parents=True` would leave all but the last open to others
            level.mkdir(mode=0o700, exist_ok=True)
        _drop_abandoned()
        for path in folder.glob("*.pack"):
            self._open(path, first)
        missing = sorted(row for row in first.values() if self._places[row, 0] < 0)
        with progress.bar(len(missing), "Decoding images") as bar:
            for start in range(0, len(missing), _PACK):
                rows = missing[start : start + _PACK]
                if not _make_room(len(rows) * pack.size_of_row(self._record)):
                    return
                self._open(pack.write(folder, self._contents[rows]["content"], self._decode(rows, bar)), first)

    def _open(self, path: Path, first: Mapping[str, int]) -> None:
        """Take from a pack what it holds of the images."""
        try:
            opened = pack.Pack(path, self._record)
        except (OSError, ValueError):
            return
        complete = ~np.isnan(opened.records["signals"]).any(1) | (self._signals != "all")
        places = [(first[name], i) for i, name in enumerate(opened.names) if name in first and complete[i]]
        sound = [(row, i) for row, i in places if opened.is_sound(i)]
        opened.free()
        if len(sound) < len(places):
            damaged = len(places) - len(sound)
            logger.warning("%d decoded images in '%s' are damaged: they are made anew.", damaged, path)
        for row, i in sound:
            self._places[row] = len(self._packs), i
        if sound:
            self._packs.append(opened)
            _mapped.add(path)
            with contextlib.suppress(OSError):  # another user's, or a cache that cannot be written to
                os.utime(path)

    def _decode(self, rows: Sequence[int], bar: progress.Bar) -> Iterator[np.void]:
        with ThreadPoolExecutor(_threads()) as pool:
            for start in range(0, len(rows), _CHUNK):
                for record in pool.map(self._decoded, rows[start : start + _CHUNK]):
                    bar.update()
                    yield record


def folder() -> Path:
    """Where packs are kept."""
    return cache_folder() / "pixels-1"


def _key(processed: ByteProcessor) -> str:
    """What changes with all that decides on the bytes."""
    processor = processed.processor
    settings = json.loads(processor.to_json_string())
    # A release may call the processor that it was trained with by another name, of the same code.
    settings.pop("image_processor_type", None)
    code = next(kind for kind in type(processor).__mro__ if any(map(inspect.isfunction, vars(kind).values())))
    parts: list[Any] = [_LAYOUT, sorted(settings.items()), code.__name__, processed.shape, processed.channels]
    parts += [transformers.__version__, PIL.__version__, features.version("libjpeg_turbo")]
    parts += [inspect.getsource(function) for function in (images.read_image, images.to_rgb, abstention.signals)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _threads() -> int:
    """How many threads decode: as many as this process has cores, where the system tells."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)


def _drop_abandoned() -> None:
    """Delete what killed runs left half-written."""
    for path, used, _ in _files():
        if path.suffix == ".partial" and time.time() - used > _ABANDONED:
            with contextlib.suppress(OSError):
                path.unlink()


def _make_room(size: int) -> bool:
    """Delete packs, those that were unused longest first, until there is room for another; tell whether there is."""
    packs = sorted(_files(), key=lambda file: file[1])
    total = sum(file[2] for file in packs)
    limit = min(AT_MOST, (total + shutil.disk_usage(folder()).free) // 2)
    for path, _, size_of_pack in packs:
        if total + size <= limit:
            break
        if path.suffix == ".pack" and path not in _mapped:
            path.unlink(missing_ok=True)
            total -= size_of_pack
    return total + size <= limit


def _files() -> Iterator[tuple[Path, float, int]]:
    """Yield all files of the cache, with when they were last used and their bytes."""
    for path in folder().glob("*/*"):
        with contextlib.suppress(FileNotFoundError):
            state = path.stat()
            yield path, state.st_mtime, state.st_size
