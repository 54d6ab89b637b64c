"""Retries for what the Hub's client gives up at the first failure: commits, refs, tags, and the like.

Not by tenacity: this module grew from 82 to 88 lines with it, since what is long here is reading the Hub's answers.
"""

import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from huggingface_hub.errors import HfHubHTTPError

from dermalert.errors import RunError

HTTP_ERROR: type[Exception] = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
"""The base of all that the Hub client's HTTP library raises: httpx or httpx2, by the client's version."""

SECOND = 1.0
"""How long a second of waiting is; tests make it shorter."""

_PAUSES = (1, 2, 4, 8, 16)  # seconds before each further attempt
_LONGEST = 600  # seconds that the Hub may ask to wait: its quotas are of five minutes
_TRANSIENT = (408, 429, 500, 502, 503, 504)
_T = TypeVar("_T")


def with_retries(call: Callable[..., _T], *arguments: Any, **options: Any) -> _T:
    """Call the Hub's client, up to six times while the failure is transient: a broken connection, 408, 429 or 5xx.

    A call whose answer was lost may have taken effect: callers must accept "it exists already" as success.

    Raises:
        RunError: the Hub asks to wait for more than ten minutes.
        Exception: the last attempt's, or the first that is not transient.
    """
    for pause in _PAUSES:
        try:
            return call(*arguments, **options)
        except (HTTP_ERROR, OSError, RuntimeError) as error:
            cause = _transient_cause(error)
            if cause is None:
                raise
            _wait(cause, pause)
    return call(*arguments, **options)


def status(error: BaseException) -> int | None:
    """The HTTP status of the Hub's answer, None where there was no answer."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _transient_cause(error: BaseException | None) -> BaseException | None:
    """The HTTP error that is, or caused, an error, if it is transient; the client wraps some in its own."""
    while error is not None and not isinstance(error, HTTP_ERROR):
        error = error.__cause__
    return error if error is not None and status(error) in (None, *_TRANSIENT) else None


def _wait(cause: BaseException, pause: float) -> None:
    seconds = max(pause, _requested_pause(cause))
    if seconds > _LONGEST:
        raise RunError(f"the Hub asks to wait for {seconds:,.0f} seconds: run the same command again then.") from cause
    reply = f"answers {status(cause)}" if status(cause) else "does not answer"
    print(f"The Hub {reply}: asking again in {seconds:.0f} s.", file=sys.stderr)
    time.sleep(seconds * SECOND)


def _requested_pause(cause: BaseException) -> float:
    """The seconds that the Hub asks to wait by Retry-After (RFC 9110) or RateLimit, the longer of both; else 0."""
    headers = getattr(getattr(cause, "response", None), "headers", {})
    after = headers.get("Retry-After", "").strip()
    exhausted = re.search(r";\s*r=0\b.*?;\s*t=(\d+)", headers.get("RateLimit", ""))
    return max(float(after) if after.isdigit() else _until(after), float(exhausted[1]) if exhausted else 0.0)


def _until(date: str) -> float:
    try:
        return (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):  # no date, or one without its zone
        return 0.0
