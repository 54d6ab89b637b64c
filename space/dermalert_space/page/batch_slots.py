"""Who has the places for batches, of which there are few: nobody keeps several while others wait."""

import contextlib
import dataclasses
import ipaddress
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import gradio as gr

from dermalert_space import batch

AT_ONCE = 4
"""Batches that are predicted side by side, each sixteen images at a time: none waits for another to end."""

SHARE = 15.0
"""Seconds after which one who has several places gives one up, if others wait: some 200 images are done by then."""

GIVEN_UP = (
    "this file and all after it were not assessed: you have other batches under way, and others wait. Send them again."
)


@dataclasses.dataclass(eq=False)
class _Place:
    visitor: str
    since: float


class Places:
    """The places, and who has them."""

    def __init__(self, waiting: Callable[[], int]):
        """Begin with none taken; `waiting` says how many batches wait for one."""
        self._waiting, self._lock = waiting, threading.Lock()
        self._taken: list[_Place] = []

    def held(self, rows: Iterable[batch.Row], visitor: str) -> Iterator[batch.Row]:
        """The rows of a batch while it may keep its place; then a last one that says that it could not."""
        place = _Place(visitor, time.monotonic())
        with self._lock:
            self._taken.append(place)
        try:
            for row in rows:
                yield row
                if self._is_due(place):
                    yield batch.Row(file="the rest", prediction=None, watched=None, problem=GIVEN_UP)
                    return
        finally:
            with self._lock, contextlib.suppress(ValueError):
                self._taken.remove(place)

    def _is_due(self, place: _Place) -> bool:
        """Whether it is the oldest of the places of one who has several, and has had its share."""
        with self._lock:
            own = [taken for taken in self._taken if taken.visitor == place.visitor]
            full = len(self._taken) >= AT_ONCE and time.monotonic() > place.since + SHARE
            if len(own) < 2 or own[0] is not place or not full or not self._waiting():
                return False
            self._taken.remove(place)  # so that of several one goes
            return True


def visitor(request: gr.Request) -> str:
    """The address of who sends gradio's request: on the Hub, that which the last of its proxies saw from outside.

    What stands before it in the header may be of the visitor's own invention.
    """
    if request is None or request.client is None:
        return ""
    passed = request.headers.get("x-forwarded-for", "") if os.environ.get("SPACE_ID") else ""
    for address in reversed(passed.split(",")):
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(address.strip()).is_global:
                return address.strip()
    return request.client.host
