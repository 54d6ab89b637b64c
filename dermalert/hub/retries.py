"""Ask the Hub again where its client gives up at the first failure: commits, refs, tags, and the like."""

import re
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError

from dermalert.errors import RunError

# The base of all that the Hub client's HTTP library raises; which library that is depends on the client's version.
HTTP_ERROR = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")

SECOND = 1.0
"""How long a second of waiting is; tests make it shorter."""

_PAUSES = (1, 2, 4, 8, 16)  # seconds before each further try
_LONGEST = 600  # seconds that are waited because the Hub asks for it: it counts requests by five minutes
_PASSING = (408, 429, 500, 502, 503, 504)
_T = TypeVar("_T")


def patiently(ask: Callable[..., _T], *arguments, **named) -> _T:
    """Return what a call of the Hub's client returns, asking again where the failure may pass.

    Such are a connection that breaks, and the statuses 408, 429, 500, 502, 503 and 504. A call whose answer was lost
    may have taken effect: who asks must take "it is there already" for an answer.

    Raises:
        RunError: the Hub asks to wait for more than ten minutes.
        Exception: what the last try raised, or any that says more than "try again".
    """
    for pause in _PAUSES:
        try:
            return ask(*arguments, **named)
        except (HTTP_ERROR, OSError, RuntimeError) as error:
            failure = _failure(error)
            if failure is None:
                raise
            _wait(failure, pause)
    return ask(*arguments, **named)


def status(error: BaseException) -> int | None:
    """Return the status that the Hub answered with, None where there was no answer."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _failure(error: BaseException | None) -> BaseException | None:
    """Return the failure behind an error if it may pass; the client wraps some in errors of its own."""
    while error is not None and not isinstance(error, HTTP_ERROR):
        error = error.__cause__
    return error if error is not None and status(error) in (None, *_PASSING) else None


def _wait(failure: BaseException, pause: float) -> None:
    answer = getattr(failure, "response", None)
    asked = _asked_for(answer.headers) if answer is not None else 0
    if asked > _LONGEST:
        raise RunError(f"the Hub asks to wait for {asked:,.0f} seconds: run the same command again then.") from failure
    said = f"answers {answer.status_code}" if answer is not None else "does not answer"
    print(f"The Hub {said}: asking again in {max(asked, pause):.0f} s.", file=sys.stderr)
    time.sleep(max(asked, pause) * SECOND)


def _asked_for(headers: Mapping[str, str]) -> float:
    """Return for how many seconds the Hub asks to be left alone, by Retry-After (RFC 9110) or RateLimit; else 0."""
    after = (headers.get("Retry-After") or "").strip()
    spent = re.search(r";\s*r=0\b.*?;\s*t=(\d+)", headers.get("RateLimit") or "")
    waits = [float(after) if after.isdigit() else _until(after)]
    return max(waits + [float(spent[1])] if spent else waits)


def _until(date: str) -> float:
    try:
        return (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):  # no date, or one without its zone
        return 0.0
