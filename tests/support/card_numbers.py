"""The numbers of a card: those that the figures gave, and those that somebody typed."""

import re
from pathlib import Path

from dermalert_space.reader_studies import READERS

from dermalert.data import provenance
from dermalert.release import card

TEMPLATE = Path(card.__file__).with_name("model_card.md")
EVERYTHING = frozenset(
    f"{name}.png"
    for name in ("learning_curves", "roc", "alert_trade_off", "per_class", "confusion", "reliability", "artefacts")
)

# Numbers of the text itself: what an interval, a range or a pipeline is, and what others found.
CONSTANTS = {
    "95% intervals",
    "95% interval",
    "95%",
    "top_k=9",
    "top_k: 9",
    "fp32",
    "float32",
    "float16",
    "q8",
    "0 to 2",
    "0 and 0.2",
    "80%",
    "per 100 images",
    "Of 100 alerts",
    "Of 100 images",
    "HAM10000",
}
CONSTANTS |= {"under 30", "30 to 49", "50 to 69", "70 and over"}  # names of subgroups
CONSTANTS |= {"5%", "71%"}  # what the baselines see


def body(text: str) -> str:
    return text.split("---\n", 2)[2]


def numbers(text: str) -> list[str]:
    """Return the numbers of a card's body in their order, without those of its own words and of what others found."""
    text = body(text)
    for origin in provenance.ORIGINS.values():
        text = text.replace(origin.credit, " ").replace(origin.license, " ")
    for reader in READERS:
        text = text.replace(f"{reader.who}, {reader.task}, other images ({reader.source})", " ")
        text = text.replace(f"| {reader.sensitivity} |", "| |").replace(f"{reader.specificity}:", " ")
    for constant in sorted(CONSTANTS, key=len, reverse=True):
        text = text.replace(constant, " ")
    return re.findall(r"\d+(?:\.\d+)?", re.sub(r"evaluation/figures/\S+", " ", text))


def moved(value, by: int):
    """Return a report with every number in it moved, texts that hold numbers and keys that are numbers too."""
    if isinstance(value, dict):
        return {_moved_key(key, by): moved(item, by) for key, item in value.items()}
    if isinstance(value, list):
        return [moved(item, by) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):
        return re.sub(r"\d", lambda digit: str((int(digit[0]) + by) % 10), value)
    return value + 1000 * by if isinstance(value, int) else value * 1.3**by + 0.137 * by


def _moved_key(key: str, by: int) -> str:
    return f"{float(key) + 0.137 * by:.3f}" if re.fullmatch(r"0\.\d+", key) else key


def typed_by_hand(report: dict) -> list[str]:
    """Return the numbers of the card that stay as they are when every number of the report moves."""
    before, after = (numbers(card.render_card(moved(report, by), EVERYTHING)) for by in (1, 2))
    assert len(before) == len(after) > 100
    return [one for one, other in zip(before, after, strict=True) if one == other]
