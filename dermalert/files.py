"""Files that appear whole or not at all, and are still there after a power failure."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path, *, beside: Path | None = None) -> Iterator[Path]:
    """Give a name to write a file or a folder under; it becomes `path` once all of it is on the disk.

    Args:
        path: of the file or the folder; a file that is there is replaced, a folder must not be there.
        beside: the name to write under, in the same folder; by default that of `path` and `.partial`.
    """
    partial = beside or path.with_name(path.name + ".partial")
    try:
        yield partial
        settle(partial)
        partial.replace(path)
        _sync(path.parent)
    finally:
        if partial.is_file():
            partial.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file whole or not at all.

    Raises:
        ValueError: a number of it is none, or is not finite.
    """
    with whole(path) as partial:
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def settle(path: Path) -> None:
    """Wait until a file, or a folder with all in it, is on the disk."""
    if path.is_dir():
        for child in path.iterdir():
            settle(child)
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some file systems, those of networks among them, sync no folders
            raise
    finally:
        os.close(handle)


def dump_metrics(figures: dict) -> str:
    """Return the text of `metrics.json`."""
    return json.dumps(figures, indent=1, allow_nan=False) + "\n"
