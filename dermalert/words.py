"""Figures as a person reads them."""


def in_words(figure: dict, digits: int = 2) -> str:
    """Return a figure with its 95 % interval as text."""
    if figure["value"] is None:
        return "not defined"
    if figure["low"] is None:
        return f"{figure['value']:.{digits}f} [no interval]"
    low, high = (f"{figure[end]:.{digits}f}" for end in ("low", "high"))
    to = " to " if "-" in low + high else "-"
    return f"{figure['value']:.{digits}f} [{low}{to}{high}]"


def percent(value: float) -> str:
    """Return a share as text."""
    return f"{float(value):.1%}"
