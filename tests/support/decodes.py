"""Count how often the pixels of a file are decoded, whoever opens it: `read_image`, `datasets.Image` or Pillow."""

import contextlib
import hashlib
import io
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from PIL import ImageFile


@contextlib.contextmanager
def counted() -> Iterator[Counter[str]]:
    """How often each content, by its SHA-256 in hexadecimal, is decoded inside the block."""
    times: Counter[str] = Counter()
    lock, load = threading.Lock(), ImageFile.ImageFile.load

    def counting(image):
        if image.tile:  # else its pixels are there already
            file = image.fp
            content = file.getvalue() if isinstance(file, io.BytesIO) else Path(file.name).read_bytes()
            with lock:
                times[hashlib.sha256(content).hexdigest()] += 1
        return load(image)

    with mock.patch.object(ImageFile.ImageFile, "load", counting):
        yield times
