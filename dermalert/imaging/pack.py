"""A pack: what is kept of some thousand image files, in one file that never changes.

It holds the SHA-256 of each image file, then the record of each, then of each a digest of both. It takes its name when
it is whole, so that a run that is killed leaves nothing that is read. A record that is not of its digest is not used.
"""

import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from dermalert_space import files

_HASH = 32  # bytes


class Pack:
    """A pack, mapped into memory.

    Attributes:
        names: of each image file its SHA-256, in hexadecimal.
        records: (n,), what is kept of each.

    Raises:
        OSError: it is gone, or another user's.
        ValueError: it was cut short.
    """

    def __init__(self, path: Path, record: np.dtype):
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        n = len(self._map) // size_of_row(record)
        self.names = [self._map[i * _HASH : (i + 1) * _HASH].hex() for i in range(n)]
        if path.stem != _stem(self.names):
            raise ValueError("it was cut short, so that the records begin elsewhere")
        self.records = np.frombuffer(self._map, record, n, n * _HASH)
        self._digests = np.frombuffer(self._map, f"V{_HASH}", n, n * (_HASH + record.itemsize))

    def is_sound(self, i: int) -> bool:
        """Whether a record is what was written of this file."""
        return self._digests[i].tobytes() == _digest(self.names[i], self.records[i].tobytes())

    def free(self) -> None:
        """Give back resident memory, of which the system keeps what it has room for; else a whole set ends up there."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self._map.madvise(mmap.MADV_DONTNEED)


def size_of_row(record: np.dtype) -> int:
    """The bytes that a pack takes for each image file."""
    return 2 * _HASH + record.itemsize


def write(folder: Path, names: Sequence[str], records: Iterable[np.void]) -> Path:
    """Write a pack whole or not at all."""
    path, digests = folder / f"{_stem(names)}.pack", []
    # A name that nobody else has: containers that share a cache have the same process numbers.
    handle, partial = tempfile.mkstemp(".partial", dir=folder)
    with files.atomic_write(path, partial=Path(partial)), os.fdopen(handle, "wb") as file:
        file.write(bytes.fromhex("".join(names)))
        for name, record in zip(names, records, strict=True):
            file.write(record.tobytes())
            digests.append(_digest(name, record.tobytes()))
        file.write(b"".join(digests))
    return path


def _stem(names: Sequence[str]) -> str:
    return hashlib.sha256("".join(names).encode()).hexdigest()[:16]


def _digest(name: str, record: bytes) -> bytes:
    return hashlib.blake2b(record, digest_size=_HASH, key=bytes.fromhex(name)).digest()
