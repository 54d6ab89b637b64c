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
        say: is told, once, whom it waits for.
        waits: False to refuse instead of waiting.

    Raises:
        UsageError: a process of another host has it, of which nothing can be known from here; or a living one of this
            host, where nothing is waited for.
        OSError: the file cannot be made or read.
    """
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    own = Holder(socket.gethostname(), os.getpid(), secrets.token_hex(16), now)
    asked = False
    while (taken := _taken(path, own)) is None:
        in_use = f"'{path.parent}' is in use by {holder(path) or 'another process'}"
        if not waits and path.exists():
            raise UsageError(f"{in_use}: wait until it ends, or name another folder.")
        if not asked:
            say(f"{in_use}: waiting until it ends.")
        asked = True
        time.sleep(_POLL)
    handle, dead = taken
    try:
        yield own, dead
    finally:
        if _is(path, handle):
            path.unlink()
        os.close(handle)


def holder(path: Path) -> Holder | None:
    """Return whom a lock file names; None where there is none, or no name in it."""
    try:
        named = json.loads(path.read_text())
        found = Holder(str(named["host"]), int(named["pid"]), str(named["token"]), str(named.get("since", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if _TOKEN.fullmatch(found.token) else None


def _taken(path: Path, own: Holder) -> tuple[int, Holder | None] | None:
    """Try to take a lock; return the open file and its dead holder, or None where a process of this host has it."""
    try:
        handle, new = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), True
    except FileExistsError:
        try:
            handle, new = os.open(path, os.O_RDWR), False
        except FileNotFoundError:  # given back just now
            return None
    try:
        locks = _locked(handle)
        if locks is False or not _is(path, handle):
            os.close(handle)
            return None
        dead = None if new else _left(path)
        if dead and dead.host != own.host:
            raise UsageError(
                f"'{path.parent}' is in use by {dead}. Wait until it ends; if it runs no more, delete '{path}' and run "
                "the same command again."
            )
        if dead and locks is None and _lives(dead.pid):
            os.close(handle)
            return None
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(dataclasses.asdict(own)).encode(), 0)
        os.fsync(handle)
    except BaseException:
        os.close(handle)
        raise
    return handle, dead


def _locked(handle: int) -> bool | None:
    """Take the system's lock; None where the file system has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is(path: Path, handle: int) -> bool:
    """Tell whether an open file still bears its name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _left(path: Path) -> Holder | None:
    until = time.monotonic() + _CREATION
    while (found := holder(path)) is None and time.monotonic() < until:
        time.sleep(_POLL)
    return found


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
