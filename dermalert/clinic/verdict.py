"""Whether a promised sensitivity holds at a clinic: exact one-sided tests of its lesions.

`holds` needs an exact lower limit at the promise, `does not hold` an exact upper limit below it (Clopper & Pearson
1934). So each of the two is wrong in 5% of the clinics at most, however few lesions they have; what is left cannot be
told.
"""

import dataclasses

from dermalert_space.contract import Json

from dermalert.evaluation.intervals import clopper_pearson
from dermalert.evaluation.operating_points import CONFIDENCE, lower_bound
from dermalert.formatting import share_at_least, share_at_most

HOLDS, DOES_NOT_HOLD, UNDECIDED = "holds", "does not hold", "cannot be told"

CLAIMS = {
    HOLDS: "The promise holds",
    DOES_NOT_HOLD: "The promise does not hold",
    UNDECIDED: "Whether the promise holds cannot be told",
}

_MOST = 1_000_000  # lesions; a promise of more than 0.99999 is none


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the lesions of a clinic show of a promised sensitivity."""

    outcome: str
    """`holds`, `does not hold` or `cannot be told`."""
    evidence: str
    """What it follows from, in words."""
    n: int
    """Lesions that should be flagged."""
    missed: int
    promised: float
    lower: float
    """Exact one-sided 95% limits of the sensitivity."""
    upper: float
    more: int
    """Lesions that would have to follow without a miss to show the promise; 0 where it is shown."""

    def to_json(self) -> Json:
        """All of it, for machines."""
        return dataclasses.asdict(self)


def upper_bound(n: int, missed: int) -> float:
    """The one-sided exact upper confidence limit of a sensitivity of (n - missed) of n."""
    return clopper_pearson(n - missed, n, confidence=2 * CONFIDENCE - 1)[1]


def lesions_needed(promised: float, missed: int) -> int:
    """The fewest lesions that show a sensitivity when so many of them are missed."""
    low, high = missed, missed + 1
    while lower_bound(high, missed) < promised and high < _MOST:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if lower_bound(middle, missed) >= promised else (middle, high)
    return high


def limits(n: int, missed: int) -> tuple[float, float]:
    """The exact one-sided 95% limits of a sensitivity of (n - missed) of n; without lesions it may be anything."""
    return (lower_bound(n, missed), upper_bound(n, missed)) if n else (0.0, 1.0)


def outcome_of(n: int, missed: int, promised: float) -> str:
    """What n lesions, of which some are missed, show of a promised sensitivity."""
    lower, upper = limits(n, missed)
    return HOLDS if lower >= promised else DOES_NOT_HOLD if upper < promised else UNDECIDED


def decide(n: int, missed: int, promised: float, *, what: str = "melanomas") -> Verdict:
    """The verdict on a promised sensitivity, by n lesions of which some are missed as served."""
    lower, upper, outcome = *limits(n, missed), outcome_of(n, missed, promised)
    return Verdict(
        outcome=outcome,
        evidence=_evidence(outcome, n, missed, promised, what),
        n=n,
        missed=missed,
        promised=promised,
        lower=lower,
        upper=upper,
        more=max(lesions_needed(promised, missed) - n, 0),
    )


def _evidence(outcome: str, n: int, missed: int, promised: float, what: str) -> str:
    if not n:
        return f"there are no {what} with labels (n = 0). {would_show(promised, missed)}"
    flagged = f"{n - missed} of {n} {what} flagged"
    if outcome == DOES_NOT_HOLD:
        return f"{flagged}: at most {share_at_most(upper_bound(n, missed))}, where {promised:g} is promised."
    at_least = share_at_least(lower_bound(n, missed))
    if outcome == HOLDS:
        return f"{flagged}: at least {at_least}, where {promised:g} is promised."
    return f"{flagged} (n = {n}): at least {at_least}. {would_show(promised, missed)}"


def would_show(promised: float, missed: int) -> str:
    """How many lesions would show a promise, in a sentence."""
    some = max(missed, 1)
    with_some = "one" if some == 1 else f"{some} missed"
    without, needed = lesions_needed(promised, 0), lesions_needed(promised, some)
    return f"{without} without a miss, or {needed} with {with_some}, would show {promised:g}."
