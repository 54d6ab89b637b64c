"""Progress as a person reads it: a bar where stderr is a terminal, else a line when the work is done.

What takes less than two seconds shows nothing. A log gets a line at each quarter of what takes minutes.
"""

import contextlib
import shutil
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from tqdm import tqdm

from dermalert.formatting import duration

_T = TypeVar("_T")

_QUICK = 2.0  # seconds
_SILENCE = 60.0  # seconds without a line in a log

_shown = True
_step: "Bar | None" = None
"""The step under way: what is counted within counts in its bar."""


class Bar:
    """Work that is counted, and shown nowhere; a context that closes it."""

    def __init__(self, total: int, title: str, unit: str):
        self.total, self.title, self.unit, self.done = total, title, unit, 0

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.close(whole=error is None)

    def update(self, n: int = 1) -> None:
        """Count what is done."""
        self.done += n

    def lengthen(self, n: int) -> None:
        """Make room for so much more, as far as there is none."""
        self.total = max(self.total, self.done + n)

    def close(self, *, whole: bool = True) -> None:
        """Show that the work has ended, and whether it is whole."""


class _Drawn(Bar):
    def __init__(self, total: int, title: str, unit: str, *, delay: float, stays: bool):
        super().__init__(total, title, unit)
        how: dict[str, Any] = {"leave": stays, "delay": delay, "bar_format": None if total else "{desc}: {elapsed}"}
        screen = shutil.get_terminal_size()  # where a terminal does not tell, tqdm would draw nothing
        how |= {"ncols": screen.columns - 1, "nrows": screen.lines}
        self._bar = tqdm(total=total, desc=title, unit=f" {unit}", **how)

    def update(self, n: int = 1) -> None:
        super().update(n)
        self._bar.update(n)

    def lengthen(self, n: int) -> None:
        super().lengthen(n)
        self._bar.total, self._bar.bar_format = self.total, None

    def close(self, *, whole: bool = True) -> None:
        if whole and self.done:
            self._bar.total = self.done  # what was counted beforehand may have been too much
        self._bar.close()


class _Written(Bar):
    def __init__(self, total: int, title: str, unit: str, *, delay: float):
        super().__init__(total, title, unit)
        self._delay, self._quarter = delay, 0
        self._started = self._wrote = time.monotonic()

    def update(self, n: int = 1) -> None:
        super().update(n)
        quarter, now = 4 * self.done // max(self.total, 1), time.monotonic()
        if self._quarter < quarter < 4 and now - self._wrote > _SILENCE:
            left = (now - self._started) * (self.total / self.done - 1)
            self._write(f"{self.done:,} of {self.total:,} {self.unit}, about {duration(left)} left")
            self._wrote = now
        self._quarter = quarter

    def close(self, *, whole: bool = True) -> None:
        seconds = time.monotonic() - self._started
        if whole and seconds >= self._delay:
            self._write(f"{self.done:,} {self.unit} in {duration(seconds)}" if self.done else duration(seconds))

    def _write(self, text: str) -> None:
        print(f"{self.title}: {text}", file=sys.stderr, flush=True)


class _Part(Bar):
    """Counts in the bar of the step."""

    def __init__(self, step: Bar, total: int):
        super().__init__(total, step.title, step.unit)
        self._whole = step
        step.lengthen(total)

    def update(self, n: int = 1) -> None:
        super().update(n)
        self._whole.update(n)


def bar(total: int, title: str, unit: str = "images", *, delay: float = _QUICK, stays: bool = True) -> Bar:
    """A bar of work that has a total.

    Args:
        total: of what is counted; 0 where only the time tells.
        title: what is done.
        unit: what is counted, as a plural.
        delay: seconds before it shows.
        stays: on the screen, and in a log, when it is done.
    """
    if _step is not None:
        return _Part(_step, total)
    if not _shown:
        return Bar(total, title, unit)
    if sys.stderr.isatty():
        return _Drawn(total, title, unit, delay=delay, stays=stays)
    return _Written(total, title, unit, delay=delay) if stays else Bar(total, title, unit)


def track(items: Iterable[_T], total: int, title: str, unit: str = "images") -> Iterator[_T]:
    """Yield items, of which there are so many, with a bar."""
    with bar(total, title, unit) as shown:
        for item in items:
            yield item
            shown.update()


class Steps:
    """Numbered steps, each with one bar, in which all counts that is counted within.

    Args:
        totals: by the title of the step, what will be counted in it; 0 where only the time tells.
    """

    def __init__(self, totals: Mapping[str, int]):
        self.totals = totals

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """The step of this title."""
        global _step
        number = f"{list(self.totals).index(title) + 1}/{len(self.totals)}"
        with bar(self.totals[title], f"{number} {title}", delay=0) as _step:
            try:
                yield
            finally:
                _step = None


@contextlib.contextmanager
def ours_alone(*, shown: bool = True) -> Iterator[None]:
    """Within, libraries draw no bars of their own work; those of this module are shown, or not."""
    global _shown
    before, drawn = _shown, _drawn_by_libraries()
    _shown = shown
    _draw(data=False, models=False, downloads=shown and drawn["downloads"])
    try:
        yield
    finally:
        _shown = before
        _draw(**drawn)


@contextlib.contextmanager
def downloads() -> Iterator[None]:
    """Within, `datasets` draws its bars too, where there is a terminal: a download may take hours."""
    drawn = _drawn_by_libraries()
    _draw(**drawn | {"data": _shown and sys.stderr.isatty()})
    try:
        yield
    finally:
        _draw(**drawn)


# What takes seconds to import is imported when it is there anyway.


def _drawn_by_libraries() -> dict[str, bool]:
    import datasets
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging

    drawn = {"data": not datasets.are_progress_bars_disabled(), "models": logging.is_progress_bar_enabled()}
    return drawn | {"downloads": not are_progress_bars_disabled()}


def _draw(*, data: bool, models: bool, downloads: bool) -> None:
    import datasets
    from huggingface_hub import utils as hub
    from transformers.utils import logging

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where the environment has decided
        (datasets.enable_progress_bars if data else datasets.disable_progress_bars)()
        if models:  # each changes those of the Hub too
            logging.enable_progress_bar()
        else:
            logging.disable_progress_bar()
        (hub.enable_progress_bars if downloads else hub.disable_progress_bars)()
