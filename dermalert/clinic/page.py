"""The page of a clinic's report: one file, without anything from elsewhere, to read and to print."""

import functools
from pathlib import Path

import jinja2
from dermalert_space import files
from dermalert_space.contract import NOT_A_DEVICE
from dermalert_space.estimate import Estimate, format_estimate
from dermalert_space.prediction import threshold_share
from markupsafe import Markup, escape

from dermalert.clinic import own_shortcuts
from dermalert.clinic.report import ClinicReport
from dermalert.clinic.verdict import CLAIMS
from dermalert.clinic.with_labels import WithLabels
from dermalert.evaluation.report import MelanomaCalibration
from dermalert.formatting import share_at_least, share_at_most

PAGE, JSON = "report.html", "report.json"
"""What is written to the folder of a report."""


def write(report: ClinicReport, folder: Path) -> None:
    """Write the page and the figures for machines into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / JSON, report.to_json())
    with files.atomic_write(folder / PAGE) as partial:
        partial.write_text(render(report), encoding="utf-8")


def render(report: ClinicReport) -> str:
    """The page."""
    shown = report.with_labels
    sensitivity = shown.report.subgroup_sensitivity if shown else None

    def picture(name: str, caption: str) -> Markup:
        if name not in report.figures:
            return Markup()
        label = escape(caption)
        return Markup('<figure role="img" aria-label="{}">{}<figcaption>{}</figcaption></figure>').format(
            label, Markup(report.figures[name]), label
        )

    return _template().render(
        report=report,
        shown=shown,
        outcome=f"{CLAIMS[report.outcome]}.",
        melanoma=shown and shown.report.melanoma,
        calibration=shown and shown.report.calibration.melanoma,
        calibration_sentence=shown and _calibration_sentence(shown.report.calibration.melanoma, shown.positive),
        worth_sentence=shown and worth_sentence(shown),
        subgroup_sentences=sensitivity.sentences if sensitivity else [],
        subgroup_tests=[test for test in sensitivity.tests if test.kind != "source"] if sensitivity else [],
        names=own_shortcuts.TEXTS,
        fewest_shortcut=own_shortcuts.FEWEST,
        not_a_device=NOT_A_DEVICE,
        picture=picture,
        percent=functools.partial(_number, digits=1, times=100, unit="%"),
        figure=functools.partial(_number, digits=2),
        number=functools.partial(_number, digits=1),
    )


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "estimate": format_estimate,
        "estimate1": functools.partial(format_estimate, digits=1),
        "at_least": share_at_least,
        "at_most": share_at_most,
        "threshold": threshold_share,
    }
    return environment.from_string((Path(__file__).parent / "report.html").read_text(encoding="utf-8"))


def _number(estimate: Estimate, *, digits: int, times: float = 1, unit: str = "") -> Markup:
    """A figure in large letters, its interval in small ones below."""
    value, _, interval = format_estimate(estimate, digits, times=times).partition(" [")
    if estimate.value is None:
        return Markup("<dd>-</dd><small>not defined here</small>")
    interval = "no interval" if estimate.low is None else f"95%: {interval.rstrip(']')}{unit}"
    return Markup("<dd>{}{}</dd><small>{}</small>").format(value, unit, interval)


def worth_sentence(shown: WithLabels) -> str:
    """For whom the alert is worth acting on, by what a missed melanoma weighs."""
    low, high = shown.worth.beats_none_from, shown.worth.beats_all_up_to
    if low.value is None:
        return f"It flags none of the {shown.plural}: acting on it is worth nothing."
    text = (
        f"It costs {format_estimate(low, 1)} needless looks for each of the {shown.plural} that it finds. So it is "
        "worth more than flagging none where finding one is worth more looks than that."
    )
    if high.value is None:
        return f"{text} It misses none of yours, so what flagging every lesion would add is not shown."
    return (
        f"{text} It saves {format_estimate(high, 1)} looks for each of the {shown.plural} that it misses: where a miss "
        "weighs more than that, looking at every lesion is better."
    )


def _calibration_sentence(figures: MelanomaCalibration, positive: str) -> str:
    ratio = figures.observed_over_expected
    if ratio.value is None:
        return f"Not told: that takes at least five lesions with {positive} and five without."
    if ratio.low is not None and ratio.low > 1:
        return f"It is too low: {positive} is {format_estimate(ratio, 1)} times as common as it says."
    if ratio.high is not None and ratio.high < 1:
        return f"It is too high: {positive} is {format_estimate(ratio, 1)} times as common as it says."
    return (
        f"In the mean it is not shown to be wrong: {positive} is {format_estimate(ratio)} times as common as it says."
    )
