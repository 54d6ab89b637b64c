"""What a clinic does next, by what its images and labels have shown."""

from collections.abc import Iterator

from dermalert.clinic.findings import Finding
from dermalert.clinic.own_shortcuts import TEXTS
from dermalert.clinic.verdict import DOES_NOT_HOLD, HOLDS, lesions_needed
from dermalert.clinic.with_labels import WithLabels
from dermalert.evaluation.operating_points import TARGET_SENSITIVITY


def advice(stops: list[Finding], shown: WithLabels | None) -> list[str]:
    """The next steps, in sentences, the first first: `stops` are reasons to stop, `shown` is what labels show."""
    steps = [f"Stop: {finding.sentence}" for finding in stops]
    if shown is None:
        return [*steps, f"Once that is mended: {_first_labels()}" if stops else _sentence(_first_labels())]
    return [*steps, _by_verdict(shown), *_by_figures(shown)]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _first_labels() -> str:
    return (
        "label the lesions of some months, all of them and not those that look suspicious, until "
        f"{lesions_needed(TARGET_SENSITIVITY, 0)} are melanomas. Then ask again with --labels. Fix that number "
        "beforehand: who asks again after each label is wrong more often."
    )


def _by_verdict(shown: WithLabels) -> str:
    if shown.verdict.outcome == HOLDS:
        return "The alert may be tried beside your own reading. It replaces no reading, and no biopsy waits for it."
    if shown.verdict.outcome == DOES_NOT_HOLD:
        return (
            "Do not rely on it: a lesion without an alert is a melanoma more often here than it promises. A threshold "
            "looked for on few lesions does not mend that."
        )
    rate = shown.prevalence.value
    lesions = f" (at your rate, about {round(shown.verdict.more / rate):,} lesions)" if rate else ""
    return (
        f"Label {shown.verdict.more} more {shown.plural}{lesions}: if none of them is missed, the promise is "
        "shown. Until then, a lesion without an alert is no safer than before."
    )


def _by_figures(shown: WithLabels) -> Iterator[str]:
    youden = shown.worth.youden
    if youden.low is not None and youden.low <= 0:
        yield "Its alert is not shown to do better than chance here."
    if shown.abstained:
        yield (
            f"{shown.abstained} of the {shown.verdict.missed} missed lesions have an image that it cannot assess: look "
            "at such lesions yourself."
        )
    unexceeded = [TEXTS[shortcut.name] for shortcut in shown.shortcuts if not shortcut.is_exceeded]
    if unexceeded:
        yield (
            "It is not shown to rank your lesions better than models that see no lesion "
            f"({', '.join(unexceeded)}). How the pictures were made may give the diagnosis away: take all lesions the "
            "same way."
        )
