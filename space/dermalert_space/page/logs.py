"""What the server writes of what went wrong: where in the code, and never what a visitor sent.

A traceback's message holds what was asked, a path for example with line breaks in it, and gradio prints one for each
bad request. Here an error is one line: its kind, and the places in the code.
"""

import logging
import sys
import threading
import time
import traceback
import warnings

MOST = 60
"""Lines a minute: one who asks wrongly again and again does not fill the log."""

_PLACES = 3  # of the innermost calls

_lock = threading.Lock()
_times: list[float] = []


def say(what: str, error: BaseException | None = None) -> None:
    """Write a line on stderr: what went wrong, the kind of the error, and where."""
    with _lock:
        now = time.monotonic()
        _times[:] = [at for at in _times if at > now - 60]
        if len(_times) == MOST:
            return
        _times.append(now)
        more = "; more of this minute is not written" if len(_times) == MOST else ""
    print(f"dermalert: {what}{_where(error)}{more}", file=sys.__stderr__, flush=True)


def _where(error: BaseException | None) -> str:
    if error is None:
        return ""
    frames = traceback.extract_tb(error.__traceback__)[-_PLACES:]
    places = " < ".join(f"{_short(frame.filename)}:{frame.lineno}" for frame in reversed(frames))
    return f": {type(error).__name__} at {places or 'no known place'}"


def _short(path: str) -> str:
    return "/".join(path.replace("\\", "/").split("/")[-2:])


class _Handler(logging.Handler):
    """Writes where a message comes from and its template, never what was put into it."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        say(f"{record.levelname.lower()} of {record.name}", error)


def keep_to_the_code() -> None:
    """Have all that the libraries write of an error go through `say`, from now on."""
    traceback.print_exc = lambda *_, **__: say("an error", sys.exception())
    traceback.print_exception = lambda error, *_, **__: say("an error", error if isinstance(error, Exception) else None)
    warnings.showwarning = lambda _, category, file, line, *__: say(
        f"warning {category.__name__} at {_short(file)}:{line}"
    )
    sys.excepthook = lambda _, error, __: say("an error", error)
    threading.excepthook = lambda failure: say("an error of a thread", failure.exc_value)
    root = logging.getLogger()
    root.handlers = [_Handler(logging.WARNING)]
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and logger.handlers:
            logger.handlers, logger.propagate = [], True
