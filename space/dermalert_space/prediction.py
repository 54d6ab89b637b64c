"""What a release says of one image: its state, its probabilities and the words for them."""

import dataclasses
from decimal import Decimal
from typing import Any

import numpy as np

from dermalert_space.contract import ABSTAINED, State

STATES = {
    State.MELANOMA_ALERT: "{label} alert",
    State.MALIGNANT_LIKELY: "needs attention",
    State.CANNOT_ASSESS: "cannot be assessed",
    State.NO_ALERT: "no {label} alert",
    State.UNREADABLE: "not read",
}
"""What becomes of a file, and what it is called, the most urgent first; `{label}` is what the release alerts to."""


def likeliest(probabilities: np.ndarray) -> np.ndarray:
    """The label of the highest probability, (n,); -1, undecided and so never right, where two share it."""
    tied = (probabilities == probabilities.max(1, keepdims=True)).sum(1) > 1
    return np.where(tied, -1, probabilities.argmax(1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention:
    """The operating point of what is malignant or a precursor, beside the alert's own."""

    labels: tuple[str, ...]
    """The diagnoses whose probabilities are summed."""
    threshold: float | None
    """Of the sum, in (0, 1]; None where the calibration images held none of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a release says of one image."""

    state: str
    """One of `STATES`, but not `State.UNREADABLE`."""
    alert: bool | None
    """Whether the melanoma probability reaches the threshold; None where it is refused or there is no threshold."""
    abstained: str | None
    """Why the image cannot be assessed, in words; None where it is. The probabilities are then for the record."""
    sentence: str
    """What a visitor reads: an alert, no alert, or that it cannot be assessed and why."""
    probabilities: dict[str, float]
    """Each diagnosis with its calibrated probability in [0, 1], the largest first."""
    malignant: float | None
    """Summed probability of what is malignant or a precursor; None where the release does not say which these are."""
    attention: float | None
    """Summed probability of what the release asks for attention to; None where it has no such operating point."""
    urgency: float | None
    """How many times its threshold the alert's probability is, or that of attention where that is more; None where the
    release has no threshold."""

    @property
    def diagnosis(self) -> str | None:
        """The most probable diagnosis; None where the image cannot be assessed."""
        return None if self.abstained else next(iter(self.probabilities), None)


def fields(prediction: Prediction | None) -> dict[str, Any]:
    """A prediction by its published names; None each where the file could not be read."""
    return {
        "sentence": prediction and prediction.sentence,
        "alert": prediction and prediction.alert,
        ABSTAINED: prediction and prediction.abstained,
        "diagnosis": prediction and prediction.diagnosis,
        "probabilities": prediction and prediction.probabilities,
        "malignant": prediction and prediction.malignant,
        "attention": prediction and prediction.attention,
    }


def state(alert: bool | None, attention: bool, abstained: str | None) -> str:
    """The state of an image that was read, one of `STATES`; `alert` is None where the release has no threshold."""
    if abstained:
        return State.CANNOT_ASSESS
    if alert or attention:
        return State.MELANOMA_ALERT if alert else State.MALIGNANT_LIKELY
    return State.CANNOT_ASSESS if alert is None else State.NO_ALERT


def word(state: str, label: str) -> str:
    """What a state is called, given what the release alerts to."""
    return STATES[state].format(label=label)


def shares(value: float, threshold: float) -> tuple[str, str]:
    """A probability and a threshold in percent, with so many digits that what is below does not look as if reached."""
    first = threshold_digits(threshold)
    enough = (n for n in range(first, first + 7) if value >= threshold or share(value, n) != share(threshold, n))
    digits = next(enough, first + 7)
    return share(value, digits), share(threshold, digits)


def threshold_share(threshold: float) -> str:
    """A threshold in percent, as it is written everywhere: three digits that mean something."""
    return share(threshold, threshold_digits(threshold))


def threshold_digits(threshold: float) -> int:
    """How many digits behind the point show three digits of a threshold in percent: one at least, no zeros."""
    exponent = Decimal(f"{100 * threshold:.3g}").normalize().as_tuple().exponent
    assert isinstance(exponent, int)  # a threshold is finite
    return max(1, -exponent)


def printable(text: str) -> str:
    """A text as it may be shown: what cannot be seen, or turns the line round, replaced."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def share(value: float, digits: int = 1) -> str:
    """A probability in percent; one that is not 0 is never shown as 0, and one below 1 never as 1."""
    least = 10.0 ** -(digits + 2)
    if 0 < value < least / 2:
        return f"<{least:.{digits}%}"
    return f">{1 - least:.{digits}%}" if 1 - least / 2 <= value < 1 else f"{value:.{digits}%}"
