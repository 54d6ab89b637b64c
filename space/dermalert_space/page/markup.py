"""What the page says of an image and of a release, as sentences and tables in HTML."""

import base64
import functools
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from PIL import Image

from dermalert_space.contract import ABSTAINED, BUNDLED, CONFIG, NOT_A_DEVICE, Json, Making, State
from dermalert_space.estimate import Estimate, format_estimate
from dermalert_space.frequencies import Bands
from dermalert_space.prediction import Prediction, printable, share, shares, threshold_share
from dermalert_space.release import Release

GENERATED = "This model was trained on generated pictures only: its answers mean nothing on real skin."
HINT = "Upload a dermoscopy image, or paste one, to have it assessed."
BUSY = "Not assessed just now: the server is busy or out of reach. Try again in a minute."
PRIVACY = (
    "Nothing is kept: no history, no log of images, no analytics. An uploaded file, and what was shown of it, is held "
    "by this server, seen by nobody else, and deleted six minutes after it was assessed at the latest; what it holds "
    "besides the picture (camera, place, date) is neither shown nor written anywhere."
)
FOR_DERMOSCOPY = (
    "For dermoscopy images of one lesion. The answers do not hold for photographs taken without a dermoscope, such as "
    "those of a phone: the figures of this release say nothing of them."
)
NEXT = (
    "What to do: take the picture again, sharp and evenly lit, with the dermatoscope on the skin; or crop it to the "
    "lesion, with some skin around it. A dermatologist should see a lesion that worries you, whatever a program says."
)
"""What is said to whoever has an image that cannot be assessed."""
NO_METRICS = "This release does not say how good it is: it has no evaluation/metrics.json."

ICONS = {
    State.MELANOMA_ALERT: "\N{BLACK UP-POINTING TRIANGLE}",
    State.MALIGNANT_LIKELY: "\N{BLACK DIAMOND}",
    State.CANNOT_ASSESS: "?",
    State.NO_ALERT: "\N{WHITE CIRCLE}",
    State.UNREADABLE: "\N{MULTIPLICATION X}",
}
"""What stands before the word of a state, for those who cannot tell its colour."""

GRADES = {"high": 0.3, "middle": 0.1, "low": 0.0}
"""Of a melanoma alert, and from which probability; all are alerts."""

_STEPS = {"high": 3, "middle": 2, "low": 1}

GROUPS = {"malignant": "Malignant", "precursor": "Precursor of a carcinoma", "benign": "Benign diagnoses"}
"""What the clinical groups of a release are called, in the order in which they are shown."""


def escaped(text: object) -> str:
    """A text as HTML shows it; what cannot be seen, or turns the line round, replaced."""
    return html.escape(printable(str(text)))


figure = functools.partial(format_estimate, keep_off_ends=True)
"""A figure of the evaluation as the page shows it."""


def table(caption: str, head: list[str], rows: Sequence[Sequence[object]], *, note: str = "") -> str:
    """A table whose first column names its rows; texts are escaped."""
    heads = "".join(f'<th scope="col">{escaped(text)}</th>' for text in head)
    lines = "".join(
        f'<tr><th scope="row">{escaped(first)}</th>' + "".join(f"<td>{_cell(cell)}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    below = f"<p class='fine'>{escaped(note)}</p>" if note else ""
    # What is wider than a phone is scrolled, which a keyboard can only do where it may stop.
    return (
        f'<h3>{escaped(caption)}</h3><div class="wide" tabindex="0" role="region" aria-label="{escaped(caption)}">'
        f'<table class="figures"><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>{below}'
    )


def _cell(value: object) -> str:
    """A cell whose interval is not torn where the line ends."""
    return re.sub(r"\[[^]]*\]", r'<span class="interval">\g<0></span>', escaped(value))


def picture(image: Image.Image, alt: str, *, caption: str = "") -> str:
    """A picture as part of the page itself: nothing is written to a disk, and no metadata goes with it."""
    buffer, bare = io.BytesIO(), image.convert("RGB").copy()
    bare.info.clear()  # Pillow would write a comment of the file into the new one
    bare.save(buffer, "JPEG", quality=90)
    below = f"<figcaption>{escaped(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{data_uri(buffer.getvalue(), "image/jpeg")}" alt="{escaped(alt)}">{below}</figure>'


def data_uri(content: bytes, mime: str) -> str:
    """A file as an address that holds it."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def sentence(text: str, *, kind: str = "", grade: str = "", aloud: bool = True) -> str:
    """A sentence as the answer of the page.

    Args:
        text: the sentence.
        kind: one of `prediction.STATES`, "refused" of what is wrong with the page, or nothing.
        grade: one of `GRADES`, of a melanoma alert.
        aloud: whether a screen reader is to say it as soon as it is there.
    """
    role = " role=status" if aloud else ""
    return f'<p class="sentence {kind} {grade}"{marks(kind, grade)}{role}>{escaped(text)}</p>'


def marks(state: str, grade: str = "") -> str:
    """The attributes by which an element shows a state: its name and its icon; "" of what is none."""
    return f' data-state="{state}" data-icon="{ICONS[state] * _STEPS.get(grade, 1)}"' if state in ICONS else ""


def grade(release: Release, prediction: Prediction) -> str:
    """How probable what an alert is for is, one of `GRADES`; "" where there is no alert."""
    if prediction.state != State.MELANOMA_ALERT:
        return ""
    return next(name for name, least in GRADES.items() if prediction.probabilities[release.alert_label] >= least)


def answer(release: Release, prediction: Prediction, *, aloud: bool = True) -> str:
    """What the page says of one image; of one that cannot be assessed no probabilities."""
    graded = grade(release, prediction)
    assessment = sentence(prediction.sentence, kind=prediction.state, grade=graded, aloud=aloud)
    if prediction.abstained:
        return f'{assessment}<p class="next">{NEXT}</p><p class="second">{FOR_DERMOSCOPY}</p>'
    second = second_line(release, prediction)
    return (
        assessment
        + frequency(release, prediction)
        + (f'<p class="second">{escaped(second)}</p>' if second else "")
        + probabilities(release, prediction)
    )


def frequency(release: Release, prediction: Prediction) -> str:
    """How many of the held-out lesions with a like probability were what was looked for; "" where nobody knows."""
    if is_generated(release, None):  # what generated lesions were says nothing of skin
        return ""
    alert, attention = release.frequencies.alert, release.frequencies.attention
    lines = [_of_hundred(alert, prediction.probabilities[release.alert_label], release.alert_label)]
    if prediction.state == State.MALIGNANT_LIKELY and prediction.attention is not None and release.attention:
        lines.insert(0, _of_hundred(attention, prediction.attention, _listed(list(release.attention.labels), "or")))
    return "".join(lines)


def _of_hundred(bands: Bands, probability: float, name: str) -> str:
    band = bands.find(probability)
    if band is None:
        return ""
    low, high = (f"{100 * end:.3g}" for end in (band.low, band.high))
    common = f"{100 * bands.share:.0f} in 100"
    return (
        f'<p class="frequency">Of 100 lesions scored like this ({low} to {high}%), '
        f"<strong>{_cell(figure(band.rate, times=100, digits=0))}</strong> were {escaped(name)}.</p>"
        f'<p class="fine">From {band.lesions:,} of the {bands.lesions:,} held-out lesions, of which {common} '
        f"were {escaped(name)}: where it is rarer, fewer are. In brackets the 95% interval.</p>"
    )


def second_line(release: Release, prediction: Prediction) -> str:
    """How probable any malignant diagnosis or precursor is; "" where the release does not name these."""
    point, watched = release.attention, release.alert_label
    value = prediction.malignant if point is None else prediction.attention
    if value is None:
        return ""
    grouped = (name for group in ("malignant", "precursor") for name in release.groups.get(group, []))
    others = [name for name in (grouped if point is None else point.labels) if name != watched]
    subject = f"{_listed([watched, *others])} together have a probability of"
    subject = subject[0].upper() + subject[1:]
    if point is not None and point.threshold is not None:
        probability, threshold = shares(value, point.threshold)
        return f"{subject} {probability}; attention threshold {threshold}."
    if prediction.alert is not False:
        return f"{subject} {share(value)}."
    more = ": more likely than not, it is one of them" if value > 0.5 else ""
    return f"{subject} {share(value)}{more}. The alert is for {watched} alone; it says nothing of {_listed(others)}."


def _listed(names: list[str], last: str = "and") -> str:
    return f"{', '.join(names[:-1])} {last} {names[-1]}" if len(names) > 1 else "".join(names)


def probabilities(release: Release, prediction: Prediction) -> str:
    """Each diagnosis with its probability: by clinical group, the likeliest first in each."""
    by_label = prediction.probabilities
    threshold = release.threshold
    mark = "" if threshold is None else f"; the mark is the alert threshold, {threshold_share(threshold)}"
    caption = f"<caption>Calibrated probability of each diagnosis{mark}</caption>"
    bodies = "" if release.groups else f"<tbody>{_shares(release, list(by_label), by_label)}</tbody>"
    for key, title in GROUPS.items():
        names = [name for name in by_label if name in release.groups.get(key, [])]
        total = share(sum(by_label[name] for name in names))
        head = f'<tr class="group"><th colspan="2" scope="rowgroup">{title}</th><td class="share">{total}</td></tr>'
        bodies += f"<tbody>{head}{_shares(release, names, by_label)}</tbody>" if names else ""
    return f'<table class="shares">{caption}{bodies}</table>'


def _shares(release: Release, names: list[str], probabilities: dict[str, float]) -> str:
    return "".join(
        f'<tr class="{"watched" if name == release.alert_label else ""}"><th scope="row">{escaped(name)}</th>'
        f'<td class="bar">{_bar(probabilities[name], release.threshold if name == release.alert_label else None)}</td>'
        f'<td class="share">{share(probabilities[name])}</td></tr>'
        for name in names
    )


def _bar(probability: float, threshold: float | None) -> str:
    tick = "" if threshold is None else f'<i class="tick" style="left: {threshold:.1%}"></i>'
    return f'<div class="track"><div style="width: {probability:.1%}"></div>{tick}</div>'


def meaning(release: Release, metrics: Json | None) -> str:
    """What the alert's threshold means, by the evaluation of the release."""
    if metrics is None:
        return f"<p>{NO_METRICS}</p>"
    held_out = metrics["splits"]["held_out"]
    measured, watched = held_out["melanoma"], release.alert_label
    named, n = escaped(watched), escaped(measured["n"])
    if release.threshold is None or not measured["n"]:
        silent = f"<p>The evaluation of this release says nothing of an alert: it held out {n} {named}s.</p>"
        return silent + _of_attention(release, held_out.get("malignant"))
    others, generated = held_out["n"] - measured["n"], is_generated(release, metrics)
    flagged = figure(measured["sensitivity_refusals_missed"], times=100, digits=0)
    declined = measured[ABSTAINED]["value"]
    missed = f" (a share of {figure(measured['refused'], digits=3)} cannot be assessed and counts as missed)"
    served = measured.get("specificity_as_served") or measured["specificity"]
    false = figure(Estimate.read(served).complement(), times=100, digits=0)
    lines = (
        f"<p>Of 100 {named}s in the evaluation it flagged <strong>{flagged}</strong>; of 100 others it "
        f"also flagged <strong>{false}</strong>.</p><p class='fine'>In brackets the 95% interval; from "
        f"{n} images of {named}{missed if declined else ''}, and {others} others, none of which "
        f"it was trained on.</p>{_of_attention(release, held_out.get('malignant'))}"
    )
    if generated:  # what a prevalence means for these lesions nobody knows
        return f"<p>{GENERATED}</p>{lines}"
    mix = share(measured["n"] / held_out["n"])
    note = (
        f"All probabilities on this page hold for the evaluation's mix, in which {mix} of the images are {watched}s. "
        f"Where {watched} is rarer, they are too high, and an alert means less."
    )
    return lines + _at_prevalences(measured["predictive_values"], watched, note)


def _of_attention(release: Release, measured: Json | None) -> str:
    if not measured or not measured["n"] or measured["sensitivity_as_served"]["value"] is None:
        return ""
    flagged = figure(measured["sensitivity_as_served"], times=100, digits=0)
    false = figure(Estimate.read(measured["specificity_as_served"]).complement(), times=100, digits=0)
    names = escaped(_listed(list(release.attention.labels))) if release.attention else "malignant or precursor"
    return (
        f"<p>Of 100 images of {names}, <strong>{flagged}</strong> reach the point of attention; of 100 others "
        f"<strong>{false}</strong>.</p>"
    )


def is_generated(release: Release, metrics: Json | None) -> bool:
    """Whether a release was trained on generated lesions, by its config or its figures."""
    return bool(about(release).get("generated") or (metrics or {}).get("data", {}).get("generated"))


def _at_prevalences(measured: Json, watched: str, note: str) -> str:
    head = [f"{watched}s among the lesions", "alerts per 100 lesions"]
    head += [f"of 100 alerts, {watched} (PPV)", f"of 100 without alert, no {watched} (NPV)"]
    rows = [
        [
            f"{float(prevalence):.0%}",
            figure(values["alerts_per_100"], digits=0),
            figure(values["ppv"], times=100, digits=0),
            figure(values["npv"], times=100, digits=1),
        ]
        for prevalence, values in measured.items()
    ]
    return table(f"What an alert is worth where {watched} is rarer or more frequent", head, rows, note=note)


def lesions_as_served(kind: str, name: str, tests: list[Json]) -> Json | None:
    """`n_melanomas`, `n_found` and `sensitivity` of a subgroup's lesions; None where they were not compared.

    Of two subgroups the `tests` of `subgroup_sensitivity` in metrics.json hold one, and the other as its rest.
    """
    of_kind = [test for test in tests if test["kind"] == kind]
    rest = of_kind[0]["rest"] if len(of_kind) == 1 else None
    return next((test for test in of_kind if test["name"] == name), rest)


def about(release: Release) -> Making:
    """What the release says of its making: {} when it says nothing."""
    return cast(Making, getattr(release.model.config, "dermalert", None) or {})


def notice(release: Release, metrics: Json | None) -> str:
    """What is always in view."""
    generated = f'<p class="generated">{GENERATED}</p>' if is_generated(release, metrics) else ""
    return f"<p>{NOT_A_DEVICE}</p>{generated}"


def origin(release: Release) -> str:
    """What a visitor may know of where the release comes from."""
    return f"folder {release.public_name}" if Path(release.name).is_dir() else str(release)


UNVERSIONED = ("bundled", "unversioned")
"""What stands for the version of a release that has none: of the one beside this file, and of any other."""


def version_of(release: Release) -> str:
    """The version that a release says of itself, or one of `UNVERSIONED`."""
    bundled = Path(release.name).resolve() == BUNDLED.resolve()
    return about(release).get("version") or UNVERSIONED[0 if bundled else 1]


def source(release: Release) -> str:
    """One line on the release and tag that are served and what the release says of its making."""
    version, folder = version_of(release), Path(release.name).is_dir()
    name = "dermalert" if version == UNVERSIONED[0] else Path(release.name).resolve().name if folder else release.name
    parts = [f"Model: {name}"]
    if not folder:
        parts.append(f"tag {release.revision}" if release.revision else "its newest state, no tag")
    parts.append(version if version in UNVERSIONED else f"version {version}")
    if commit := commit_of(release):
        parts.append(f"commit {commit[:7]}")
    if data := about(release).get("data"):
        parts.append(f"trained on {', '.join(data)}")
    return "; ".join(parts) + "."


def commit_of(release: Release) -> str | None:
    """The commit of the Hub that a release was fetched at; None of a folder."""
    path = None if Path(release.name).is_dir() else release.file(CONFIG)
    commit = path and re.search(r"/snapshots/([0-9a-f]{40})/", path.as_posix())
    return commit[1] if commit else None
