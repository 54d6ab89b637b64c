"""An audit as a person reads it: a table, and contact sheets of the offending images."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from dermalert_space.contract import Json
from dermalert_space.images import read_image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dermalert.data.audit import KINDS, Report
from dermalert.data.audit_rows import Finding

_SHOWN = (
    "tiny",
    "blank",
    "exact-duplicates",
    "several-ids",
    "contradictions",
    "near-duplicates",
    "near-contradictions",
    "cross-source-copies",
    "shared",
    "leaks",
    "lesion-leaks",
    "patient-leaks",
    "kin-leaks",
    "label-disagreement",
)
_ACROSS, _DOWN = 4, 5  # cases on a sheet
_INK, _GREY, _BLUE, _ORANGE = "#222222", "#777777", "#0072b2", "#d55e00"  # the last two by Okabe & Ito (2008)


def headline(report: Report) -> str:
    """Return in one sentence what a data set holds."""
    sources = ", ".join(f"{name} {n}" for name, n in report["sources"].items())
    return (
        f"{report['files']} files, {report['image_ids']} different ids, {report['different_images']} different images "
        f"by their bytes; from {sources}."
    )


def table(report: Report) -> Table:
    """The report as a table: what was found, how often, from where that is known, and an example."""
    lines = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    lines.add_column("", width=1)
    lines.add_column("finding", no_wrap=True)
    lines.add_column("how many", justify="right", no_wrap=True)
    lines.add_column("known from", max_width=12)
    lines.add_column("what, and an example", ratio=1)
    for kind, finding in report["findings"].items():
        mark, style = ("!", "bold") if finding["found"] else ("", "dim")
        count = "-" if finding["count"] is None else f"{finding['count']} of {finding['of']}"
        known_from = finding["known_from"].replace(", ", ",\n")
        lines.add_row(mark, f"[{style}]{kind}[/]", count, known_from, "\n".join(_lines(kind, finding)))
    return lines


def _lines(kind: str, finding: Finding) -> list[str]:
    if finding["count"] is None:
        return [f"[dim]cannot tell: {escape(finding['text'])}[/dim]"]
    if not finding["found"]:
        return [f"[dim]{KINDS[kind]}[/dim]"]
    lines = [KINDS[kind]] + ([escape(finding["text"])] if finding["text"] else [])
    return lines + ([f"[dim]e.g. {escape(_example(finding['cases'][0]))}[/dim]"] if finding["cases"] else [])


def show(report: Report) -> None:
    """Print the table, as wide as the terminal and at least readable in a log."""
    wide = shutil.get_terminal_size((120, 0)).columns
    Console(width=max(wide, 100), highlight=False).print(table(report))


def _example(case: Json) -> str:
    images = [f"{image['image_id']} ({_label_and_split(image)})" for image in case["images"][:3]]
    return "; ".join(filter(None, (", ".join(images), _details(case))))


def _details(case: Json) -> str:
    """What a case says beside its images."""
    details = [(name.replace("_", " "), value) for name, value in case.items() if name != "images" and value]
    return ", ".join(f"{name} {' and '.join(map(str, v)) if isinstance(v, list) else v}" for name, v in details)


def _label_and_split(image: Json) -> str:
    return ", ".join(filter(None, (image["label"], image.get("shipped_split"), image.get("named"))))


@dataclass(frozen=True)
class _Picture:
    row: int
    caption: str
    note: str
    colour: str


def contact_sheets(report: Report, dataset: datasets.Dataset, folder: Path) -> list[Path]:
    """Draw a sheet of each kind of finding that has images: up to 20 cases, spread over all of them.

    Args:
        report: of `audit`.
        dataset: the same that was audited.
        folder: in which the PNG files are written, one a kind.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = dataset.select_columns("image").cast_column("image", datasets.Image(decode=False))
    written = []
    for kind in _SHOWN:
        cases = report["findings"][kind]["cases"]
        if cases:
            written.append(folder / f"{kind}.png")
            _draw(kind, cases, images, written[-1])
    return written


def _draw(kind: str, cases: list[Json], images: datasets.Dataset, path: Path) -> None:
    most = _ACROSS * _DOWN
    shown = cases if len(cases) <= most else [cases[k * len(cases) // most] for k in range(most)]
    wide = 1 if all(len(_pictures(kind, case)) == 1 for case in shown) else 2
    across = _ACROSS * 2 // wide
    down = -(-len(shown) // across)
    step_x, step_y, top = wide * 1.08 + 0.22, 1.5, 0.55
    width, height = across * step_x, down * step_y + top
    figure = Figure(figsize=(1.32 * width, 1.32 * height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    count = f"{len(cases)}" if len(shown) == len(cases) else f"{len(shown)} of {len(cases)}"
    axes.text(0.12, 0.3, kind, size=14, weight="bold", color=_INK, va="center")
    axes.text(width - 0.12, 0.3, f"{KINDS[kind]} ({count} shown)", size=10, color=_GREY, va="center", ha="right")
    for k, case in enumerate(shown):
        x, y = k % across * step_x + 0.12, k // across * step_y + top
        axes.text(x, y + 0.04, _relation(kind, case), size=7, color=_GREY, va="center")
        for j, picture in enumerate(_pictures(kind, case)):
            _place(axes, images[picture.row]["image"], picture, x + 1.08 * j, y + 0.12)
    figure.savefig(path, dpi=110)


def _pictures(kind: str, case: Json) -> list[_Picture]:
    images = case["images"][:2]
    if kind == "label-disagreement":
        return [_Picture(images[0]["row"], images[0]["label"], f"archive: {case['archive']}", _ORANGE)]
    differ = len({image["label"] for image in images}) > 1
    colours = (_BLUE, _ORANGE) if differ else (_INK, _INK)
    return [
        _Picture(image["row"], image["label"] or "no label", _name(image), colour)
        for image, colour in zip(images, colours, strict=False)
    ]


def _name(image: Json) -> str:
    return "  ".join(filter(None, (image["image_id"], image.get("shipped_split"), image.get("named"))))


def _relation(kind: str, case: Json) -> str:
    if kind == "label-disagreement":
        return _name(case["images"][0])
    others = len(case["images"]) - 2
    return ", ".join(filter(None, (_details(case), f"{others} more such" if others > 0 else "")))


def _place(axes: Axes, source: Json, picture: _Picture, x: float, y: float) -> None:
    image = read_image(source["bytes"] if source["bytes"] is not None else source["path"])
    image.thumbnail((200, 200))
    wide, high = image.width / max(image.size), image.height / max(image.size)
    left, upper = x + (1 - wide) / 2, y + (1 - high) / 2
    axes.imshow(
        np.asarray(image), extent=(left, left + wide, upper + high, upper), aspect="auto", interpolation="lanczos"
    )
    size = min(7.5, 150 / len(picture.caption))  # the longest diagnosis still stays under its picture
    axes.text(x, y + 1.08, picture.caption, size=size, weight="bold", color=picture.colour, va="center")
    axes.text(x, y + 1.19, picture.note, size=6.5, color=_GREY, va="center")
