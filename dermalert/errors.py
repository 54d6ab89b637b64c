"""The two ways in which a command ends badly, and their exit codes."""

import contextlib
import sys
from collections.abc import Callable, Iterable
from difflib import SequenceMatcher, get_close_matches
from typing import Any


class UsageError(Exception):
    """You asked wrongly (exit code 2): the text says what, which, and what to do."""


class RunError(Exception):
    """It went wrong (exit code 1): the text says what, which, and what to do."""


def did_you_mean(word: str, words: Iterable[str], *, likeness: float = 0.65) -> str:
    """' Did you mean ...?' with the nearest of the words, or two that are about as near; empty if none is near."""
    words = list(words)
    nearest = get_close_matches(word, words, n=1, cutoff=likeness)
    if not nearest:
        return ""
    about_as_near = SequenceMatcher(None, nearest[0], word).ratio() - 0.05
    near = get_close_matches(word, words, n=2, cutoff=about_as_near)
    return f" Did you mean {' or '.join(repr(name) for name in near)}?"


def first_few(items: Iterable[Any], most: int = 5) -> str:
    """The first items in words, and how many more there are."""
    items = list(items)
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(str(item) for item in items[:most]) + more


def first_line(error: Exception) -> str:
    """What an error says first, without the mark at its end, or its kind if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:!? ")


def run_command(command: Callable[[], object]) -> int:
    """Run a command and return its exit code; the two errors become one sentence on stderr."""
    try:
        command()
    except UsageError as error:
        return _say(error, 2)
    except RunError as error:
        return _say(error, 1)
    except OSError as error:
        return _say(f"{error.strerror or error}{f': {error.filename!r}' if error.filename else ''}.", 1)
    except KeyboardInterrupt:
        return _say("stopped; the same command goes on from the last checkpoint.", 130)
    return 0


def _say(text: object, code: int) -> int:
    with contextlib.suppress(OSError):  # stderr may be a file on the disk that is full
        print(f"dermalert: {text}", file=sys.stderr)
    return code
