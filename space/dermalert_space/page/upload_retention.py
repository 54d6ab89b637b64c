"""The folder of the uploads: nothing in it outlives its use, or the server.

gradio deletes the uploads that it knows of. Those that were cut off on the way, or came as text, it does not: they are
deleted here.
"""

import contextlib
import datetime
import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from gradio import Blocks

T = TypeVar("T")

PREFIX = "dermalert-uploads-"

EVERY, AGE = 30.0, 300.0
"""Seconds between two looks, and how old a file gets."""


@contextlib.contextmanager
def upload_folder() -> Iterator[Path]:
    """Make a folder for this server alone, keep it clean, and remove it at the end.

    What servers that were killed have left is removed at the start. It lies where GRADIO_TEMP_DIR says, else in the
    system's folder for temporary files; in whose place it stands for all that this process writes there.
    """
    home = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    home.mkdir(parents=True, exist_ok=True)
    remove_left(home)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=home))
    ended = threading.Event()
    with _locked(folder):
        cleaner = threading.Thread(target=_keep_clean, args=(folder, ended), daemon=True)
        cleaner.start()
        before, tempfile.tempdir = tempfile.tempdir, str(folder)
        try:
            yield folder
        finally:
            tempfile.tempdir = before
            ended.set()
            cleaner.join()
            shutil.rmtree(folder, ignore_errors=True)


def remove_left(home: Path) -> None:
    """Remove the upload folders in `home` whose servers no longer run."""
    for folder in home.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), _locked(folder):
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which the system gives back however a process ends; OSError where another has it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def keep_fresh(items: Iterable[T], paths: Sequence[Path]) -> Iterator[T]:
    """Items that are made of uploads, none of which grows old meanwhile."""
    touched = 0.0
    for each in items:
        if time.monotonic() > touched + EVERY:
            for path in paths:
                with contextlib.suppress(OSError):  # it is gone already
                    os.utime(path)
            touched = time.monotonic()
        yield each


def _keep_clean(folder: Path, ended: threading.Event) -> None:
    while not ended.wait(EVERY):
        sweep(folder, age=AGE)


def forget(demo: Blocks, *, age: float) -> None:
    """Let go of what gradio holds of visitors that have not been seen for `age` seconds: the pictures they were shown.

    gradio would hold it for an hour, or until other visitors need the room. The page needs none of it: who comes back
    has it made anew.
    """
    holder = getattr(demo, "state_holder", None)
    if holder is None:
        return
    before = datetime.datetime.now() - datetime.timedelta(seconds=age)
    for visitor, last_used in list(holder.time_last_used.items()):
        if last_used < before:
            with holder.lock:
                holder.session_data.pop(visitor, None)
                holder.time_last_used.pop(visitor, None)


def sweep(folder: Path, *, age: float) -> None:
    """Delete the files in a folder that are older than `age` seconds, and the folders that are empty for as long."""
    before = time.time() - age
    for path in sorted(folder.rglob("*"), reverse=True):  # what a folder holds before itself
        with contextlib.suppress(OSError):  # another was quicker, or the folder is not empty
            if path.lstat().st_ctime > before:
                continue
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()
