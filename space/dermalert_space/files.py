"""Files that appear whole or not at all, and are still there after a power failure."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path: Path, *, partial: Path | None = None) -> Iterator[Path]:
    """Yield a name to write a file or a folder under; all of it becomes `path` once it is on the disk.

    Args:
        path: a file, which replaces one that is there; or a folder, which must not be there.
        partial: the name to write under, in the same folder; by default that of `path` and `.partial`.
    """
    partial = partial or path.with_name(path.name + ".partial")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
        _sync_one(path.parent)
    finally:
        if partial.is_file():
            partial.unlink(missing_ok=True)


def write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files, by their names, into a folder that is new or empty: all of them or none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder) as partial:
        for name, content in contents.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)


def write_json(path: Path, content: object, *, finite: bool = True, indent: int | None = 1) -> None:
    """Write a JSON file whole or not at all, and make its folder; without `indent`, in one line.

    Raises:
        ValueError: a number is none or infinite, where all must be `finite`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=indent, allow_nan=not finite) + "\n")


def sync(path: Path) -> None:
    """Wait until a file, or a folder with all in it, is on the disk."""
    if path.is_dir():
        for child in path.iterdir():
            sync(child)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some file systems, those of networks among them, sync no folders
            raise
    finally:
        os.close(handle)
