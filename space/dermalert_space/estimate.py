"""A figure with its 95% interval: as an object, as JSON, and as text."""

import dataclasses
from collections.abc import Mapping

_MOST_DIGITS = 6


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value and its 95% interval; an undefined value is None, and so are the ends of an undefined interval."""

    value: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, value: float, low: float, high: float) -> "Estimate":
        """Make an estimate of floats: NaN is undefined, and an interval without width is none."""
        if not abs(value) < float("inf"):
            return cls()
        return cls(float(value), float(low), float(high)) if low < high else cls(float(value))

    @classmethod
    def read(cls, content: Mapping[str, float | None]) -> "Estimate":
        """Read what `to_json` gives."""
        return cls(content["value"], content.get("low"), content.get("high"))

    def complement(self) -> "Estimate":
        """Estimate what is left to 1."""
        value, low, high = (None if number is None else 1 - number for number in (self.value, self.high, self.low))
        return Estimate(value, low, high)

    def to_json(self) -> dict[str, float | None]:
        """`value`, `low` and `high`, as `metrics.json` has them."""
        return dataclasses.asdict(self)


UNDEFINED = Estimate()


def format_estimate(
    estimate: Estimate | Mapping[str, float | None],
    digits: int = 2,
    *,
    times: float = 1,
    keep_off_ends: bool = False,
) -> str:
    """Format a figure with its interval, such as `0.87 [0.81-0.92]`.

    Args:
        estimate: as an object, or as `metrics.json` has it.
        digits: after the point; more are shown where fewer would make the interval a point.
        times: what the numbers are multiplied by.
        keep_off_ends: whether more digits are shown, too, where fewer would round a value up to 1 or down to 0.
    """
    if not isinstance(estimate, Estimate):
        estimate = Estimate.read(estimate)
    if estimate.value is None:
        return "not defined"
    value = f"{estimate.value * times:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return f"{value} [no interval]"
    low, high = (f"{end * times:.{digits}f}" for end in (estimate.low, estimate.high))
    at_an_end = value in {f"{end * times:.{digits}f}" for end in (0, 1)} and estimate.value not in (0, 1)
    if digits < _MOST_DIGITS and (low == high or (keep_off_ends and at_an_end)):
        return format_estimate(estimate, digits + 1, times=times, keep_off_ends=keep_off_ends)
    to = " to " if "-" in low + high else "-"
    return f"{value} [{low}{to}{high}]"
