"""What a clinic's images say before their labels do: which of it is reason to stop, or to take care."""

import dataclasses

from dermalert_space.estimate import Estimate, format_estimate

from dermalert.clinic.images import ClinicImages
from dermalert.clinic.without_labels import AbstentionCheck, AlertRate, Resemblance, WithoutLabels
from dermalert.errors import first_few
from dermalert.formatting import percent

STOP, CARE, FINE, UNKNOWN = "stop", "take care", "no objection", "not known"

MOST_ABSTAINED = 0.10
"""Share of images that a release may leave unassessed before it is no help; a guess."""

MOST_ALERTS = 0.95
"""Share of images with an alert from which on it tells nothing; a guess."""

FAR = 0.90
"""AUROC of the nearest training source from which on the images are another kind: MILK10k's dermoscopy is at 0.88 from
the bundled release's, its close-ups at 0.94; a guess by these two."""

_SIGNALS = {
    "side": "too small",
    "light": "too dark",
    "contrast": "the same all over",
    "detail": "blurred",
    "distance": "unlike its training images",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at, and what it means."""

    name: str
    level: str
    """`stop`, `take care`, `no objection` or `not known`."""
    sentence: str


def findings(
    images: ClinicImages, figures: WithoutLabels, *, exposed: list[str], exposure_recorded: bool
) -> list[Finding]:
    """All findings that need no label, in the order in which a person would ask for them."""
    return [
        _files(images),
        _cameras(images),
        _contamination(images, exposed, exposure_recorded=exposure_recorded),
        _abstention(figures.abstention),
        _resemblance(figures.resemblance, figures.among_its_own),
        _alerts(figures.alert_rate),
    ]


def _files(images: ClinicImages) -> Finding:
    bad = len(images.unreadable)
    level = STOP if 2 * bad > images.files else CARE if bad else FINE
    sentence = f"All {images.files:,} files could be read."
    if bad:
        sentence = f"{bad:,} of {images.files:,} files cannot be read: {first_few(images.unreadable, 3)}."
    return Finding(name="Files", level=level, sentence=sentence)


def _cameras(images: ClinicImages) -> Finding:
    n, all_of_them = images.phones, len(images.dataset)
    if not n:
        text = "No file carries the mark of a telephone's camera. Files without any mark are not recognised."
        return Finding(name="Camera", level=FINE, sentence=text)
    level = STOP if 2 * n > all_of_them else CARE
    text = (
        f"{n:,} of {all_of_them:,} images were made by a telephone. Where no dermoscope was attached to it, the "
        "model's answers do not hold."
    )
    return Finding(name="Camera", level=level, sentence=text)


def _contamination(images: ClinicImages, exposed: list[str], *, exposure_recorded: bool) -> Finding:
    if not exposure_recorded:
        text = "Which images it has learnt from is not on record: those of them among yours flatter it."
        return Finding(name="Training images", level=UNKNOWN, sentence=text)
    n, all_of_them = len(exposed), len(images.dataset)
    if not n:
        text = (
            "None of your images, and no copy of one, is among those that it learnt from. Crops and other photos of a "
            "lesion are not recognised."
        )
        return Finding(name="Training images", level=FINE, sentence=text)
    text = (
        f"{n:,} of {all_of_them:,} images, or copies of them, are among those that it learnt from, and were left out: "
        f"{first_few(exposed, 3)}."
    )
    return Finding(name="Training images", level=STOP if 2 * n > all_of_them else CARE, sentence=text)


def _abstention(check: AbstentionCheck | None) -> Finding:
    if check is None:
        text = "It assesses every image, whatever it shows: bad pictures are not sorted out."
        return Finding(name="Abstention", level=UNKNOWN, sentence=text)
    reasons = ", ".join(f"{n} {_SIGNALS[name]}" for name, n in check.reasons.items())
    text = f"It cannot assess {check.abstained} of {check.images} images{f' ({reasons})' if reasons else ''}"
    if check.own.value is not None and check.p is not None:
        text += f": {_in_percent(check.here)}, against {_in_percent(check.own)} of its own{_beyond_chance(check.p)}"
    more_often = check.own.value is None or ((check.p or 1) < 0.05 and (check.here.value or 0) > check.own.value)
    level = CARE if check.abstained and more_often else FINE
    if (check.here.low or 0) > MOST_ABSTAINED:
        level = STOP
    return Finding(name="Abstention", level=level, sentence=f"{text}.")


def _resemblance(sources: list[Resemblance], among: Resemblance | None) -> Finding:
    if not sources:
        text = "How far your images are from its own cannot be computed: it carries no such record, or they are few."
        return Finding(name="Resemblance", level=UNKNOWN, sentence=text)
    nearest = min(sources, key=lambda each: each.auroc.value or 0)
    each = "; ".join(f"{one.source} {format_estimate(one.auroc)}" for one in sources)
    text = f"Told apart from its own unseen images, by what it sees in them (0.5: not at all, 1: always): {each}."
    if among:
        text += f" Its own sources are told from each other with {format_estimate(among.auroc)}."
    low, own_high = nearest.auroc.low or 0, among.auroc.high if among else None
    level = FINE
    if own_high is not None and low > own_high:
        level = CARE
    if low > FAR:
        level, text = STOP, f"Your images are another kind of picture than those that it has learnt from. {text}"
    return Finding(name="Resemblance", level=level, sentence=text)


def _alerts(rate: AlertRate) -> Finding:
    text = f"It raises the alert on {_in_percent(rate.here)} of your images"
    if rate.own:
        own = ", ".join(f"{_in_percent(estimate)} of {source}" for source, estimate in rate.own.items())
        text += f"; on its own unseen images: {own}"
    level = FINE
    if (rate.here.low or 0) > MOST_ALERTS:
        level, text = STOP, f"{text}. An alert on nearly every image tells nothing"
    return Finding(name="Alert rate", level=level, sentence=f"{text}.")


def _beyond_chance(p: float) -> str:
    return f" (p = {p:.2g})" if p >= 0.001 else " (p < 0.001)"


def _in_percent(estimate: Estimate) -> str:
    """A share with its interval in percent."""
    if estimate.value is None:
        return "an unknown share"
    if estimate.low is None or estimate.high is None:
        return percent(estimate.value)
    return f"{percent(estimate.value)} [{100 * estimate.low:.1f}-{100 * estimate.high:.1f}]"
