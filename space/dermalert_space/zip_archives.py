"""Read the pictures of a zip archive one after the other, without unpacking it to the disk; bombs are not unpacked."""

import functools
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from dermalert_space import images

MAX_RATIO = 20
"""How much larger than in its archive a file may get; pictures shrink tenfold at most, bombs a thousandfold."""

FREE = 1_000_000
"""Bytes of an archive, and a tenth of them of a file, below which they count as so many: a plain field shrinks well."""

MAX_DIRECTORY = 4_000_000
"""Bytes of an archive's table of contents: enough for `inputs.LIMIT` names, too little to fill the memory with them."""

_LEFT_BY_SYSTEMS = {"__MACOSX", "Thumbs.db", "desktop.ini"}

Input = bytes | Path | str
"""A file of a batch: its content, its path, or a sentence that says why there is none."""

Entries = Iterator[tuple[str, Callable[[], Input]]]
"""Names of files, and what reads each, to be called before the next entry is taken."""


def is_zip(path: Path) -> bool:
    """Whether a file begins as an archive does; a picture that has one at its end is a picture."""
    try:
        if not path.is_file():  # nor a pipe or a device, on which a reader may wait for ever
            return False
        with path.open("rb") as file:
            return file.read(4) in (b"PK\3\4", b"PK\5\6")
    except OSError:
        return False


def in_zip(path: Path, name: str) -> Entries:
    """The files of an archive that are not left out; of a damaged one, its name with the reason."""
    try:
        with _Archive(path) as file, zipfile.ZipFile(file) as archive:
            budget = _Budget(MAX_RATIO * max(path.stat().st_size, FREE))
            for member in archive.infolist():
                if not (member.is_dir() or any(map(is_left_out, member.filename.split("/")))):
                    yield f"{name}/{member.filename}", functools.partial(_unpack, archive, member, budget)
    # What zipfile raises on broken archives is not one type either.
    except Exception:
        yield name, lambda: "the file is a damaged zip archive, or one with far too many files."


def is_left_out(part: str) -> bool:
    """Whether a file or folder of this name is hidden, or left there by an operating system."""
    return part in _LEFT_BY_SYSTEMS or (part.startswith(".") and not part.startswith(".."))


class _Archive(io.FileIO):
    """An archive, of which no more than `MAX_DIRECTORY` bytes are read at once, as its table of contents is."""

    def read(self, size: int | None = -1) -> bytes:
        if size and size > MAX_DIRECTORY:
            raise zipfile.BadZipFile("its table of contents is too long")
        return super().read(size)


class _Budget:
    """Bytes that an archive may still be unpacked to, all of its files together."""

    def __init__(self, left: int):
        self.left = left


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: _Budget) -> Input:
    if member.flag_bits & 1:
        return "the file is encrypted: unpack the archive first."
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "the file is packed in a way that is not read here: make an ordinary zip archive."
    if member.file_size > images.MAX_BYTES:
        return images.too_large(member.file_size)
    if member.file_size > MAX_RATIO * max(member.compress_size, FREE // 10) or member.file_size > budget.left:
        return "the file unpacks to far more than pictures do: it is not read."
    budget.left -= member.file_size
    return _read_member(archive, member)


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Input:
    try:
        with archive.open(member) as file:
            # zipfile gives no more than the size that the member claims, which is checked above.
            content = b"".join(iter(lambda: file.read(1 << 20), b""))
    except Exception:  # as above
        return "the file is damaged in its archive."
    return "the file is an archive in an archive: unpack it first." if content[:4] == b"PK\3\4" else content
