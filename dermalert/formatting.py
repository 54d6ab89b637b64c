"""Figures as a person reads them."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

COMPARED = {
    "melanoma_auroc": "melanoma AUROC",
    "sensitivity": "melanoma sensitivity",
    "specificity": "melanoma specificity",
    "malignant_sensitivity": "sensitivity for malignant or precursor",
}
"""What two releases are compared by, and what it is called."""


def percent(value: float) -> str:
    """A share as text: 95%, 97.5%."""
    return f"{float(value):.1%}".replace(".0%", "%")


def percent_at_least(value: float) -> str:
    """A lower bound as text: rounded down, so that it never looks higher than it is."""
    return f"{_exact(value).quantize(Decimal('0.001'), ROUND_FLOOR) * 100:.1f}%"


def percent_at_most(value: float) -> str:
    """An upper bound as text: rounded up, so that it never looks lower than it is."""
    return f"{_exact(value).quantize(Decimal('0.001'), ROUND_CEILING) * 100:.1f}%"


def share_at_least(value: float) -> str:
    """A lower bound as text with three digits, rounded down."""
    return str(_exact(value).quantize(Decimal("0.001"), ROUND_FLOOR))


def share_at_most(value: float) -> str:
    """An upper bound as text with three digits, rounded up."""
    return str(_exact(value).quantize(Decimal("0.001"), ROUND_CEILING))


def at_most(value: float) -> str:
    """An upper limit as text with one digit that means something, rounded up: 3.25e-06 is at most 4e-06."""
    return f"{float(Context(prec=1, rounding=ROUND_CEILING).create_decimal(_exact(value))):.1g}"


def duration(seconds: float) -> str:
    """A time as text, as exact as it needs to be: 8 s, 12 min, 1 h 5 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _exact(value: float) -> Decimal:
    return Decimal(repr(float(value)))
