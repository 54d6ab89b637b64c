"""What the page says of an image and of a release, as sentences and tables in HTML."""

import base64
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from PIL import Image

from dermalert_space.contract import ABSTAINED, BUNDLED, CONFIG, Json, Making, State
from dermalert_space.estimate import Estimate, format_estimate
from dermalert_space.frequencies import Bands
from dermalert_space.page.language import ENGLISH, Language, Static
from dermalert_space.prediction import Prediction, printable, share, shares, threshold_share
from dermalert_space.release import Release

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

GROUPS = ("malignant", "precursor", "benign")
"""The clinical groups of a release, in the order in which they are shown."""


def escaped(text: object) -> str:
    """A text as HTML shows it; what cannot be seen, or turns the line round, replaced."""
    return re.sub(r"(?<=\d) %", "&nbsp;%", html.escape(printable(str(text))))


def capitalised(text: str) -> str:
    """A text that begins a line."""
    return text[:1].upper() + text[1:]


def figure(estimate: Estimate | Json, words: Language = ENGLISH, *, digits: int = 2, times: float = 1) -> str:
    """A figure of the evaluation as the page shows it."""
    return words.translate(format_estimate(estimate, digits, times=times, keep_off_ends=True))


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


def state_name(release: Release, state: str, words: Language) -> str:
    """What a state is called."""
    return words(f"state.{state}", label=words.translate(release.alert_label))


def grade(release: Release, prediction: Prediction) -> str:
    """How probable what an alert is for is, one of `GRADES`; "" where there is no alert."""
    if prediction.state != State.MELANOMA_ALERT:
        return ""
    return next(name for name, least in GRADES.items() if prediction.probabilities[release.alert_label] >= least)


def answer(release: Release, prediction: Prediction, words: Language = ENGLISH, *, aloud: bool = True) -> str:
    """What the page says of one image; of one that cannot be assessed no probabilities."""
    graded = grade(release, prediction)
    assessment = sentence(words.translate(prediction.sentence), kind=prediction.state, grade=graded, aloud=aloud)
    if prediction.abstained:
        return f'{assessment}<p class="next">{words("next")}</p><p class="second">{words("for_dermoscopy")}</p>'
    second = second_line(release, prediction, words)
    return (
        assessment
        + frequency(release, prediction, words)
        + (f'<p class="second">{escaped(second)}</p>' if second else "")
        + probabilities(release, prediction, words)
    )


def frequency(release: Release, prediction: Prediction, words: Language = ENGLISH) -> str:
    """How many of the held-out lesions with a like probability were what was looked for; "" where nobody knows."""
    if is_generated(release, None):  # what generated lesions were says nothing of skin
        return ""
    alert, attention = release.frequencies.alert, release.frequencies.attention
    lines = [_of_hundred(alert, prediction.probabilities[release.alert_label], [release.alert_label], words)]
    if prediction.state == State.MALIGNANT_LIKELY and prediction.attention is not None and release.attention:
        lines.insert(0, _of_hundred(attention, prediction.attention, list(release.attention.labels), words))
    return "".join(lines)


def _of_hundred(bands: Bands, probability: float, labels: list[str], words: Language) -> str:
    band = bands.find(probability)
    if band is None:
        return ""
    low, high = (words.number(text) for text in (f"{100 * band.low:.3g}", f"{100 * band.high:.3g}%"))
    name, rate = escaped(words.listed(labels, "or")), _cell(figure(band.rate, words, times=100, digits=0))
    first = words("of_hundred", low=low, high=high, rate=f"<strong>{rate}</strong>", name=name)
    counts = {key: words.number(f"{n:,}") for key, n in (("lesions", band.lesions), ("all", bands.lesions))}
    second = words("of_lesions", **counts, share=f"{100 * bands.share:.0f}", name=name)
    return f'<p class="frequency">{first}</p><p class="fine">{second}</p>'


def second_line(release: Release, prediction: Prediction, words: Language = ENGLISH) -> str:
    """How probable any malignant diagnosis or precursor is; "" where the release does not name these."""
    point, watched = release.attention, release.alert_label
    value = prediction.malignant if point is None else prediction.attention
    if value is None:
        return ""
    grouped = (name for group in ("malignant", "precursor") for name in release.groups.get(group, []))
    others = [name for name in (grouped if point is None else point.labels) if name != watched]
    names = capitalised(words.listed([watched, *others]))
    if point is not None and point.threshold is not None:
        probability, threshold = map(words.number, shares(value, point.threshold))
        return words("together_and_threshold", names=names, value=probability, threshold=threshold)
    key = "together_likely" if prediction.alert is False and value > 0.5 else "together"
    line = words(key, names=names, value=words.number(share(value)))
    if prediction.alert is not False:
        return line
    return f"{line} {words('alert_alone', label=words.translate(watched), others=words.listed(others))}"


def probabilities(release: Release, prediction: Prediction, words: Language = ENGLISH) -> str:
    """Each diagnosis with its probability: by clinical group, the likeliest first in each."""
    by_label = prediction.probabilities
    threshold = release.threshold
    mark = "" if threshold is None else words("mark", threshold=words.number(threshold_share(threshold)))
    caption = f"<caption>{words('calibrated')}{mark}</caption>"
    bodies = "" if release.groups else f"<tbody>{_shares(release, list(by_label), by_label, words)}</tbody>"
    for key in GROUPS:
        names = [name for name in by_label if name in release.groups.get(key, [])]
        total = words.number(share(sum(by_label[name] for name in names)))
        title = words(f"group.{key}")
        head = f'<tr class="group"><th colspan="2" scope="rowgroup">{title}</th><td class="share">{total}</td></tr>'
        bodies += f"<tbody>{head}{_shares(release, names, by_label, words)}</tbody>" if names else ""
    return f'<table class="shares">{caption}{bodies}</table>'


def _shares(release: Release, names: list[str], probabilities: dict[str, float], words: Language) -> str:
    return "".join(
        f'<tr class="{"watched" if name == release.alert_label else ""}">'
        f'<th scope="row">{escaped(words.translate(name))}</th>'
        f'<td class="bar">{_bar(probabilities[name], release.threshold if name == release.alert_label else None)}</td>'
        f'<td class="share">{words.number(share(probabilities[name]))}</td></tr>'
        for name in names
    )


def _bar(probability: float, threshold: float | None) -> str:
    tick = "" if threshold is None else f'<i class="tick" style="left: {threshold:.1%}"></i>'
    return f'<div class="track"><div style="width: {probability:.1%}"></div>{tick}</div>'


def meaning(release: Release, metrics: Json | None, words: Language = ENGLISH) -> str:
    """What the alert's threshold means, by the evaluation of the release."""
    if metrics is None:
        return f"<p>{words('no_metrics')}</p>"
    held_out = metrics["splits"]["held_out"]
    measured, name = held_out["melanoma"], words.translate(release.alert_label)
    named, n = escaped(name), escaped(measured["n"])
    attention = _of_attention(release, held_out.get("malignant"), words)
    if release.threshold is None or not measured["n"]:
        return f"<p>{words('no_alert_measured', n=n, name=named)}</p>{attention}"
    others, generated = held_out["n"] - measured["n"], is_generated(release, metrics)
    flagged = figure(measured["sensitivity_refusals_missed"], words, times=100, digits=0)
    missed = words("missed", share=figure(measured["refused"], words, digits=3)) if measured[ABSTAINED]["value"] else ""
    served = measured.get("specificity_as_served") or measured["specificity"]
    false = figure(Estimate.read(served).complement(), words, times=100, digits=0)
    strong = {"flagged": f"<strong>{flagged}</strong>", "false": f"<strong>{false}</strong>"}
    lines = (
        f"<p>{words('flagged', name=named, **strong)}</p>"
        f"<p class='fine'>{words('flagged_from', n=n, name=named, missed=missed, others=others)}</p>{attention}"
    )
    if generated:  # what a prevalence means for these lesions nobody knows
        return f"<p>{words('generated')}</p>{lines}"
    note = words("mix", mix=words.number(share(measured["n"] / held_out["n"])), name=name)
    return lines + _at_prevalences(measured["predictive_values"], name, note, words)


def _of_attention(release: Release, measured: Json | None, words: Language) -> str:
    if not measured or not measured["n"] or measured["sensitivity_as_served"]["value"] is None:
        return ""
    flagged = figure(measured["sensitivity_as_served"], words, times=100, digits=0)
    false = figure(Estimate.read(measured["specificity_as_served"]).complement(), words, times=100, digits=0)
    names = escaped(words.listed(list(release.attention.labels))) if release.attention else words("any_malignant")
    strong = {"flagged": f"<strong>{flagged}</strong>", "false": f"<strong>{false}</strong>"}
    return f"<p>{words('attended', names=names, **strong)}</p>"


def is_generated(release: Release, metrics: Json | None) -> bool:
    """Whether a release was trained on generated lesions, by its config or its figures."""
    return bool(about(release).get("generated") or (metrics or {}).get("data", {}).get("generated"))


def _at_prevalences(measured: Json, name: str, note: str, words: Language) -> str:
    head = [words(key, name=name) for key in ("prevalence", "alerts_per_100", "ppv", "npv")]
    rows = [
        [
            words.number(f"{float(prevalence):.0%}"),
            figure(values["alerts_per_100"], words, digits=0),
            figure(values["ppv"], words, times=100, digits=0),
            figure(values["npv"], words, times=100, digits=1),
        ]
        for prevalence, values in measured.items()
    ]
    return table(words("worth", name=name), head, rows, note=note)


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


def notice(release: Release, metrics: Json | None, words: Language = ENGLISH) -> str:
    """What is always in view."""
    generated = f'<p class="generated">{words("generated")}</p>' if is_generated(release, metrics) else ""
    return f"<p>{words('said.notice')}</p>{generated}"


def origin(release: Release) -> str:
    """What a visitor may know of where the release comes from."""
    return f"folder {release.public_name}" if Path(release.name).is_dir() else str(release)


UNVERSIONED = ("bundled", "unversioned")
"""What stands for the version of a release that has none: of the one beside this file, and of any other."""


def review(words: Language) -> str:
    """What is to be known of a translation; "" of the language that the page was written in."""
    return "" if words is ENGLISH else words("review")


def in_english(html: str, words: Language) -> str:
    """Figures and tables that are in English for all visitors, with a sentence that says so."""
    return html if words is ENGLISH else f'<p>{words("in_english")}</p><div lang="en">{html}</div>'


def busy(static: Static) -> str:
    """What stands in the place of an answer that did not come."""
    return static(lambda words: sentence(words("busy"), kind="refused"))


def version_of(release: Release) -> str:
    """The version that a release says of itself, or one of `UNVERSIONED`."""
    bundled = Path(release.name).resolve() == BUNDLED.resolve()
    return about(release).get("version") or UNVERSIONED[0 if bundled else 1]


def source(release: Release, words: Language = ENGLISH) -> str:
    """One line on the release and tag that are served and what the release says of its making."""
    version, folder = version_of(release), Path(release.name).is_dir()
    name = "dermalert" if version == UNVERSIONED[0] else Path(release.name).resolve().name if folder else release.name
    parts = [words("model", name=name)]
    if not folder:
        parts.append(words("tag", tag=release.revision) if release.revision else words("no_tag"))
    parts.append(words(version) if version in UNVERSIONED else words("version", version=version))
    if commit := commit_of(release):
        parts.append(f"commit {commit[:7]}")
    if data := about(release).get("data"):
        parts.append(words("trained_on", data=", ".join(map(words.translate, data))))
    return "; ".join(parts) + "."


def commit_of(release: Release) -> str | None:
    """The commit of the Hub that a release was fetched at; None of a folder."""
    path = None if Path(release.name).is_dir() else release.file(CONFIG)
    commit = path and re.search(r"/snapshots/([0-9a-f]{40})/", path.as_posix())
    return commit[1] if commit else None
