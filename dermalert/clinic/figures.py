"""The figures of a clinic's report, as SVG that stands in the page."""

import io
import re

import numpy as np
from dermalert_space.estimate import Estimate
from matplotlib import rc_context, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dermalert.clinic.verdict import Verdict
from dermalert.clinic.with_labels import WithLabels
from dermalert.clinic.without_labels import WithoutLabels
from dermalert.evaluation.intervals import clopper_pearson
from dermalert.evaluation.plots import BLUE, GREEN, GREY, ORANGE, STYLE

_WIDTH = 5.6  # inches


def figures(
    shown: WithLabels | None, figures: WithoutLabels, positive: np.ndarray, score: np.ndarray
) -> dict[str, str]:
    """The figures by name: what labels show, and what the images show without.

    Args:
        shown: None where there are no labels.
        figures: of the images.
        positive: (n,) which labelled images are positive.
        score: (n,) their probabilities.
    """
    drawn: dict[str, Figure] = {}
    with style.context(STYLE), rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        if figures.resemblance:
            drawn["resemblance"] = _resemblance(figures)
        if shown and shown.verdict.n:
            drawn["promise"] = _promise(shown.verdict, shown.positive)
            if 0 < positive.sum() < len(positive):
                drawn["probability"] = _probability(positive, score, shown.positive)
        if shown and shown.worth.at:
            drawn["worth"] = _worth(shown, positive)
        return {name: _svg(figure, name) for name, figure in drawn.items()}


def _svg(figure: Figure, name: str) -> str:
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name}):  # or two figures in one page would share the names of their parts
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text))
    return text[text.index("<svg") :]


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height))
    return figure, figure.subplots()


def _promise(verdict: Verdict, positive: str) -> Figure:
    """Draw the exact one-sided limits of the sensitivity beside the promise."""
    figure, axis = _figure(1.5)
    axis.plot([verdict.lower, verdict.upper], [0, 0], color=BLUE, linewidth=6, solid_capstyle="butt")
    axis.plot((verdict.n - verdict.missed) / verdict.n, 0, "o", color="white", markeredgecolor=BLUE, markersize=9)
    axis.axvline(verdict.promised, color=ORANGE, linestyle="--")
    axis.text(verdict.promised, 0.8, f"promised {verdict.promised:g} ", color=ORANGE, ha="right", va="center")
    axis.set(xlim=(min(verdict.lower - 0.05, 0.5), 1.005), ylim=(-0.8, 1.1), yticks=[])
    axis.set_xlabel(f"share of {positive} lesions flagged; line: exact one-sided 95% limits")
    axis.grid(False)
    axis.spines["left"].set_visible(False)
    return figure


def _probability(positive: np.ndarray, score: np.ndarray, name: str) -> Figure:
    """Draw how often an image is positive by the probability given to it."""
    figure, axis = _figure(3.4)
    bins = int(min(8, max(len(score) // 20, 1)))
    number = np.searchsorted(np.quantile(score, np.arange(1, bins) / bins), score, side="right")
    axis.plot([0, 1], [0, 1], ":", color=GREY)
    for each in np.unique(number):
        rows = number == each
        low, high = clopper_pearson(positive[rows].sum(), rows.sum())
        axis.plot([score[rows].mean()] * 2, [low, high], color=BLUE)
        axis.plot(score[rows].mean(), positive[rows].mean(), "o", color=BLUE)
    most = min(max(float(score.max()), 0.3) * 1.05, 1.02)
    axis.set(xlim=(-0.01, most), ylim=(-0.02, 1.02))
    axis.set(xlabel=f"probability of {name} that it gives", ylabel=f"share that are {name}")
    axis.set_title(f"{bins} parts of the images, as many in each; lines: 95% intervals")
    return figure


def _worth(shown: WithLabels, positive: np.ndarray) -> Figure:
    """Draw the net benefit of the alert and of flagging all, by the probability from which a look is worth it."""
    figure, axis = _figure(3.2)
    point = shown.report.melanoma
    sensitivity, specificity = point.sensitivity_refusals_missed.value, point.specificity_as_served.value
    thresholds = np.geomspace(0.005, 0.5, 200)
    odds, share = thresholds / (1 - thresholds), float(positive.mean())
    flag_all = 100 * (share - (1 - share) * odds)
    axis.plot(thresholds, flag_all, "--", color=ORANGE, label="flag every lesion")
    axis.axhline(0, color=GREY, linewidth=1, label="flag none")
    if sensitivity is not None and specificity is not None:
        alert = 100 * (share * sensitivity - (1 - share) * (1 - specificity) * odds)
        axis.plot(thresholds, alert, color=BLUE, label="the alert, as served")
    axis.set_xscale("log")
    axis.set_xticks([0.01, 0.02, 0.05, 0.1, 0.2, 0.5], ["1%", "2%", "5%", "10%", "20%", "50%"])
    axis.minorticks_off()
    axis.set(xlim=(0.005, 0.5), ylim=(-0.4 * 100 * share, 110 * share))
    axis.set(xlabel=f"probability of {shown.positive} from which you would look closer", ylabel="net benefit per 100")
    axis.legend(loc="lower left")
    return figure


def _resemblance(figures: WithoutLabels) -> Figure:
    """Draw how well the images are told from each training source, and these from each other."""
    rows: list[tuple[str, Estimate, str]] = [(f"yours, {one.source}", one.auroc, BLUE) for one in figures.resemblance]
    if figures.among_its_own:
        rows.append(("its own two sources", figures.among_its_own.auroc, GREEN))
    figure, axis = _figure(0.9 + 0.35 * len(rows))
    for place, (_, estimate, colour) in enumerate(rows):
        ends = [end for end in (estimate.low, estimate.value, estimate.high) if end is not None]
        axis.plot(ends, [place] * len(ends), color=colour)
        axis.plot(ends[len(ends) // 2 : len(ends) // 2 + 1], [place], "o", color=colour)
    axis.axvline(0.5, color=GREY, linestyle=":")
    axis.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axis.set(xlim=(0.4, 1.02), ylim=(len(rows) - 0.5, -0.5), xlabel="AUROC: 0.5 looks the same, 1 is always told apart")
    return figure
