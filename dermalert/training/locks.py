"""A folder that one process at a time writes to: a lock file that names its holder, and that outlives nobody.

Two things hold together, because neither does alone. `flock` is given back by the system however a process ends, so a
holder of this host is alive if and only if it is taken. Where a network file system keeps `flock` to one host, or has
none, the file's exclusive creation (`O_EXCL`, which NFS has since version 3) and the host and process written into it
tell others that it is held.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from dermalert.errors import UsageError

_POLL = 0.2  # seconds between two tries
_CREATION = 2.0  # seconds that another host may take between making the file and writing its name into it
_TOKEN = re.compile(r"[0-9a-f]{32}")


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a lock."""

    host: str
    pid: int
    token: str
    """32 hexadecimal digits by chance: what the holder writes bears them in its name, and nothing else does."""
    since: str = ""
    """When it was taken, in UTC."""

    def __str__(self) -> str:
        return f"process {self.pid} on '{self.host}'" + (f" since {self.since}" if self.since else "")


@contextlib.contextmanager
def held(
    path: Path, *, say: Callable[[str], object] = print, waits: bool = True
) -> Iterator[tuple[Holder, Holder | None]]:
    """Hold a lock, after a holder that is alive has ended; yield oneself, and who died with it in hand.

    Args:
        path: of the lock file; its folder must be there.
        say: gets, once, whom it waits for.
        waits: False to refuse instead of waiting.

    Raises:
        UsageError: a process of another host has it, of which nothing can be known from here; or a living one of this
            host, where nothing is waited for.
        OSError: the file cannot be made or read.
    """
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    own = Holder(socket.gethostname(), os.getpid(), secrets.token_hex(16), now)
    waiting = False
    while (acquired := _acquire(path, own)) is None:
        in_use = f"'{path.parent}' is in use by {holder(path) or 'another process'}"
        if not waits and path.exists():
            raise UsageError(f"{in_use}: wait until it ends, or name another folder.")
        if not waiting:
            say(f"{in_use}: waiting until it ends.")
        waiting = True
        time.sleep(_POLL)
    handle, dead = acquired
    try:
        yield own, dead
    finally:
        if _is_same_file(path, handle):
            path.unlink()
        os.close(handle)


def holder(path: Path) -> Holder | None:
    """The holder that a lock file names; None where there is no file, or no name in it."""
    try:
        content = json.loads(path.read_text())
        named = Holder(str(content["host"]), int(content["pid"]), str(content["token"]), str(content.get("since", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return named if _TOKEN.fullmatch(named.token) else None


def _acquire(path: Path, own: Holder) -> tuple[int, Holder | None] | None:
    """Try to take a lock; return the open file and its dead holder, or None where a process of this host has it."""
    try:
        handle, new = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), True
    except FileExistsError:
        try:
            handle, new = os.open(path, os.O_RDWR), False
        except FileNotFoundError:  # given back just now
            return None
    try:
        locked = _flock(handle)
        if locked is False or not _is_same_file(path, handle):
            os.close(handle)
            return None
        dead = None if new else _previous_holder(path)
        if dead and dead.host != own.host:
            raise UsageError(
                f"'{path.parent}' is in use by {dead}. Wait until it ends; if it runs no more, delete '{path}' and run "
                "the same command again."
            )
        if dead and locked is None and _lives(dead.pid):
            os.close(handle)
            return None
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(dataclasses.asdict(own)).encode(), 0)
        os.fsync(handle)
    except BaseException:
        os.close(handle)
        raise
    return handle, dead


def _flock(handle: int) -> bool | None:
    """Take the system's lock; False where it is taken, None where the file system has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_same_file(path: Path, handle: int) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _previous_holder(path: Path) -> Holder | None:
    """The holder that a lock file names, once another host has had the time to write it."""
    deadline = time.monotonic() + _CREATION
    while (named := holder(path)) is None and time.monotonic() < deadline:
        time.sleep(_POLL)
    return named


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
