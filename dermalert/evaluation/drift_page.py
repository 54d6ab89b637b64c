"""The page of a drift report: one HTML file that needs no other, to read and to print."""

import io
from pathlib import Path

import jinja2
from dermalert_space import files
from dermalert_space.contract import NOT_A_DEVICE
from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dermalert.evaluation import drift
from dermalert.evaluation.drift import KINDS, DriftReport, Statistic

_DRAWN = ("alert", "attention", "abstention", "score")
_ORANGE, _BLUE, _GREY = "#d55e00", "#0072b2", "#595959"
_LONGEST = 16  # letters of a period's name in the chart


def write(path: Path, report: DriftReport) -> None:
    """Write the page whole or not at all, and make its folder."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    environment.filters["number"] = lambda value: "not defined" if value is None else f"{value:.3f}"
    text = environment.get_template("drift_page.html").render(
        report=report,
        sentences=drift.sentences(report),
        out=any(period.out for period in report.periods),
        chart=Markup(_chart(report)),
        kinds=KINDS,
        notice=NOT_A_DEVICE,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _chart(report: DriftReport) -> str:
    """A control chart of each rate and of the score, as SVG."""
    with style.context(["default", {"svg.hashsalt": "drift", "figure.constrained_layout.use": True, "font.size": 8}]):
        figure = Figure(figsize=(8, 5))
        names = [_short(period.name) for period in report.periods]
        for axes, kind in zip(figure.subplots(2, 2, sharex=True).flat, _DRAWN, strict=True):
            of_kind = [next(s for s in period.statistics if s.kind == kind) for period in report.periods]
            _draw(axes, of_kind, KINDS[kind], names)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _draw(axes: Axes, statistics: list[Statistic], title: str, names: list[str]) -> None:
    places = range(len(statistics))
    axes.bar(places, [s.high - s.low for s in statistics], 0.9, bottom=[s.low for s in statistics], color="#e6e6e6")
    if statistics[0].kind != "score" and statistics[0].reference is not None:
        axes.axhline(statistics[0].reference, color=_GREY, linestyle="--", linewidth=1)
    for place, statistic in zip(places, statistics, strict=True):
        if statistic.value is not None:
            axes.plot(place, statistic.value, "o", color=_ORANGE if statistic.is_out else _BLUE)
    axes.set_title(title, loc="left", parse_math=False)
    axes.set_ylim(bottom=0)
    axes.set_xticks(places, names, rotation=30, ha="right", parse_math=False)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"
