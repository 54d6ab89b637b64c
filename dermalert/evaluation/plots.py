"""The figures of a release that a clinician reads: its metrics and predictions in, PNG files out.

All of them are as wide as a model card on the Hub, about 700 pixels, at twice that resolution, in letters that can be
read on a phone; the colour-blind can tell their colours apart (Okabe & Ito 2008). What is undefined (a split without
melanoma, a release without a threshold) is left out of its figure, or the figure is not drawn.
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from dermalert_space.contract import ALERT_POINT, Json
from dermalert_space.estimate import Estimate, format_estimate
from dermalert_space.prediction import threshold_share
from dermalert_space.reader_studies import AGAINST_NEVI, AMONG_PIGMENTED, READERS
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from dermalert.evaluation.intervals import Intervals, clopper_pearson
from dermalert.evaluation.metrics import predictive_values, roc_steps, top_label_bins
from dermalert.taxonomy import ALERT, DIAGNOSES, MELANOMA

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#595959"
_COLOURS = 40  # with those between two of them, at the edges of lines
_WIDTH = 5.6  # inches: 10 points are 9 pixels of a phone that is 360 wide, and 17 on a card of 700
STYLE: list[str | dict[str, object]] = [
    "default",  # whatever the reader's own matplotlibrc says
    {
        "axes.grid": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": "medium",
        "figure.constrained_layout.use": True,
        "font.size": 10,
        "grid.alpha": 0.3,
        "legend.frameon": False,
        "figure.titlesize": "large",
        "figure.titleweight": "bold",
        "savefig.dpi": 250,
    },
]

_NEVUS = DIAGNOSES.index("nevus")
_SHORT = ("AK", "BCC", "DF", "MEL", "NV", "BKL", "SK", "SCC", "VASC")  # as the ISIC challenges and HAM10000 write them
_FALSE_ALARMS = np.linspace(0, 1, 201)  # where the band around a ROC curve is computed
_PREVALENCES = {0.01: (BLUE, "-"), 0.05: (ORANGE, "--"), 0.20: (GREEN, "-.")}


class _Images(NamedTuple):
    truth: np.ndarray  # (n,) label ids
    probabilities: np.ndarray  # (n, 9)
    groups: np.ndarray  # (n,)


def draw(folder: Path, report: Json, predictions: pa.Table, history: Sequence[Json]) -> list[str]:
    """Draw what can be drawn of a release's held-out images and of its training.

    Args:
        folder: where the PNG files go; it exists.
        report: what `metrics.json` holds.
        predictions: what `predictions.parquet` holds.
        history: `log_history` of the Trainer's state; empty where nothing was trained.

    Returns:
        The names of the files.
    """
    with style.context(STYLE):
        figures = {"learning_curves.png": _learning_curves(history)}
        held_out, images = report["splits"].get("held_out"), _images(predictions, "held_out")
        threshold, generated = report[ALERT_POINT]["threshold"], report.get("data", {}).get("generated", False)
        if held_out and len(images.truth):
            figures |= {
                "roc.png": _roc_figure(held_out, images, threshold, readers=not generated),
                # What a prevalence of melanoma means for generated lesions nobody knows.
                "alert_trade_off.png": None if generated else _alert_trade_off(held_out, images, threshold),
                "per_class.png": _per_class(held_out),
                "confusion.png": _confusion(held_out),
                "reliability.png": _reliability(held_out, images),
                "artefacts.png": _artefacts(held_out),
            }
        drawn = {name: figure for name, figure in figures.items() if figure is not None}
        for name, figure in drawn.items():
            _save(figure, folder / name)
    return list(drawn)


def _save(figure: Figure, file: Path) -> None:
    """Write a figure in a few colours: a third of the bytes, which depend on what is drawn only.

    The octree keeps the colour of a small mark; the median cut would give it that of its neighbours.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer)
    picture = Image.open(buffer).convert("RGB").quantize(_COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    picture.save(file, optimize=True)


def _images(predictions: pa.Table, split: str) -> _Images:
    rows = predictions.filter(pc.equal(predictions["split"], split))
    truth = np.array([DIAGNOSES.index(name) for name in rows["truth"].to_pylist()], int)
    probabilities = np.stack([rows[name].to_numpy() for name in DIAGNOSES], axis=1)
    return _Images(truth, probabilities, np.array(rows["group"].to_pylist()))


def _figure(title: str, height: float) -> Figure:
    """An empty figure with a title, some inches high."""
    figure = Figure(figsize=(_WIDTH, height))
    figure.suptitle(title, x=0.02, horizontalalignment="left")
    return figure


def _learning_curves(history: Sequence[Json]) -> Figure | None:
    """Draw loss and balanced accuracy by epoch, of the validation split and of as many training images as they are."""
    if not any("eval_validation_loss" in row for row in history):
        return None
    figure = _figure("Learning curves", 3.0)
    axes = figure.subplots(1, 2)
    for axis, metric in zip(axes, ("loss", "balanced_accuracy"), strict=True):
        for part, colour, line in (("train", BLUE, "--"), ("validation", ORANGE, "-")):
            rows = [row for row in history if f"eval_{part}_{metric}" in row]
            epochs, values = [row["epoch"] for row in rows], [row[f"eval_{part}_{metric}"] for row in rows]
            name = "training images" if part == "train" else part
            axis.plot(epochs, values, line, color=colour, marker="o", markersize=3, label=name)
        axis.set(xlabel="epoch", ylabel=metric.replace("_", " "))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylim(bottom=0)
    axes[1].set_ylim(0, 1)
    axes[0].legend()
    return figure


def _roc_figure(held_out: Json, images: _Images, threshold: float | None, *, readers: bool) -> Figure | None:
    """Draw melanoma against all the others and against nevi, and what readers reached at the nearest task."""
    melanoma, nevus, score = images.truth == MELANOMA, images.truth == _NEVUS, images.probabilities[:, MELANOMA]
    panels = {
        "all other diagnoses": (~melanoma, "specificity", "auroc", AMONG_PIGMENTED),
        "nevi": (nevus, "specificity_nevi", "auroc_nevi", AGAINST_NEVI),
    }
    panels = {name: panel for name, panel in panels.items() if melanoma.any() and panel[0].any()}
    if not panels:
        return None
    figure = _figure("ROC of melanoma, held-out images", 5.6 if readers else 4.3)
    axes = np.ravel(figure.subplots(1, len(panels)))
    for axis, (name, (others, specificity, area, task)) in zip(axes, panels.items(), strict=True):
        among = melanoma | others
        _roc_curve(axis, melanoma[among], score[among], images.groups[among])
        if threshold is not None:
            label = f"its alert threshold ({threshold_share(threshold)}), without abstention"
            _point(axis, _read(held_out, specificity), _read(held_out, "sensitivity"), ORANGE, label=label)
        if readers:
            _readers(axis, task)
        counts = f"{melanoma.sum()} and {others.sum()} images"
        axis.set_title(f"Against {name}\n{counts}\nAUROC {format_estimate(held_out['melanoma'][area])}")
        axis.set(xlabel="specificity", ylabel="sensitivity", xlim=(1.02, -0.02), ylim=(-0.02, 1.02), box_aspect=1)
    entries = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside lower left")
    return figure


def _roc_curve(axis: Axes, positive: np.ndarray, score: np.ndarray, groups: np.ndarray) -> None:
    false_alarms, sensitivity = _roc(positive, score, np.ones(len(score)))
    low, high = _roc_band(positive, score, groups)
    axis.fill_between(1 - _FALSE_ALARMS, low, high, color=BLUE, alpha=0.2, linewidth=0, label="95% band, pointwise")
    axis.plot(1 - false_alarms, sensitivity, color=BLUE, label="this release on held-out images")


def _roc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """1 - specificity and sensitivity at every threshold, the highest first; images of one score go together."""
    ups, downs, *_ = roc_steps(positive, score, weights)
    false_alarms, sensitivity = (np.r_[0, np.cumsum(side[::-1]) / side.sum()] for side in (downs, ups))
    return false_alarms, sensitivity


def _roc_band(positive: np.ndarray, score: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of the sensitivity at each of `_FALSE_ALARMS`: the wider of the bootstrap and the exact ones.

    Groups are resampled, not photos. Where no positive is missed all draws agree, and only the exact bounds, over the
    groups of positives, tell how few they are.
    """
    names, member = np.unique(groups, return_inverse=True)
    rng, curves = np.random.default_rng(0), []
    for _ in range(1000):  # one at a time: a thousand times the weights of a large split need not fit in memory
        weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)))[member]
        if weights[positive].any() and weights[~positive].any():
            curves.append(np.interp(_FALSE_ALARMS, *_roc(positive, score, weights)))
    drawn = np.interp(_FALSE_ALARMS, *_roc(positive, score, np.ones(len(score))))
    n = len(np.unique(groups[positive]))
    exact = np.array([clopper_pearson(round(value * n), n) for value in drawn]).T
    low, high = np.percentile(curves, [2.5, 97.5], axis=0) if curves else exact
    return np.minimum(low, exact[0]), np.maximum(high, exact[1])


def _readers(axis: Axes, task: str) -> None:
    for readers, marker in zip(READERS, "^sD", strict=True):
        if readers.task != task:
            continue
        name = f"{readers.who}, {readers.task},\non other lesions ({readers.source.split(',')[0]})"
        axis.plot(readers.specificity, readers.sensitivity, marker, color="black", mfc="white", label=name, zorder=3)


def _alert_trade_off(held_out: Json, images: _Images, threshold: float | None) -> Figure | None:
    """Draw the melanomas missed against the images that raise the alert, as the threshold moves."""
    melanoma = images.truth == MELANOMA
    if not melanoma.any() or melanoma.all():
        return None
    false_alarms, sensitivity = _roc(melanoma, images.probabilities[:, MELANOMA], np.ones(len(melanoma)))
    at_threshold = [_read(held_out, name) for name in ("sensitivity", "specificity")]
    values = [figure.value for figure in at_threshold if figure.value is not None]
    marked = threshold is not None and len(values) == len(at_threshold)
    figure = _figure("What a threshold costs", 4.4)
    axis = figure.subplots()
    for prevalence, (colour, line) in _PREVALENCES.items():
        label = f"{100 * prevalence:.0f}% melanomas"
        if marked:
            alerts = float(_alerts(np.array(values[0]), np.array(values[1]), prevalence))
            _point(axis, Estimate(alerts), _in_percent(at_threshold[0].complement()), colour)
            label += f": {alerts:.0f} alerts at the threshold"
        axis.plot(
            _alerts(sensitivity, 1 - false_alarms, prevalence), 100 * (1 - sensitivity), line, color=colour, label=label
        )
    axis.set(xlabel="alerts per 100 images", ylabel="melanomas missed of 100 melanomas", xlim=(0, 101), ylim=(-2, 101))
    counts = f"{melanoma.sum()} melanomas and {(~melanoma).sum()} other held-out images"
    axis.set_title(counts)
    if marked and threshold is not None:
        axis.plot(
            [],
            [],
            "o-",
            color="black",
            label=f"the release's threshold ({threshold_share(threshold)}),\nwithout abstention, 95% interval",
        )
    axis.legend(title="If the images hold", alignment="left")
    return figure


def _alerts(sensitivity: np.ndarray, specificity: np.ndarray, prevalence: float) -> np.ndarray:
    return predictive_values(sensitivity, specificity, prevalence)["alerts_per_100"]


def _in_percent(share: Estimate) -> Estimate:
    return Estimate(*(None if end is None else 100 * end for end in dataclasses.astuple(share)))


def _per_class(held_out: Json) -> Figure:
    """Draw sensitivity and AUROC of each diagnosis."""
    per_class = held_out["per_class"]
    figure = _figure("Each diagnosis", 4.2)
    columns = {
        "sensitivity\n(top diagnosis)": [per_class[name]["sensitivity"] for name in DIAGNOSES],
        "AUROC\n(dots: chance)": [per_class[name]["auroc"] for name in DIAGNOSES],
    }
    axes = _forest(figure, [f"{name}, n = {per_class[name]['n']}" for name in DIAGNOSES], columns)
    axes[1].axvline(0.5, linestyle=":", color=GREY)
    for axis in axes:
        axis.set(xlim=(-0.03, 1.03), xticks=[0, 0.5, 1])
        axis.xaxis.set_major_formatter("{x:g}")
    return figure


def _artefacts(held_out: Json) -> Figure | None:
    """Draw how far each artefact that was laid over the images moves the melanoma probability and the alerts."""
    artefacts = held_out.get("artefacts")
    if not artefacts:
        return None
    first = next(iter(artefacts.values()))
    names = {
        "score_change": f"mean change\n(with its sign) of\nthe melanoma\nprobability,\n{first['n']} images",
        "alerts_gained": f"share of\n{first['quiet']} others\nthat gain\nan alert",
        "alerts_lost": f"share of\n{first['caught']} melanomas\nthat lose\ntheir alert",
    }
    columns = {text: [figures[name] for figures in artefacts.values()] for name, text in names.items()}
    figure = _figure("What artefacts do", 4.4)
    axes = _forest(figure, [name.replace("_", " ") for name in artefacts], columns)
    axes[0].axvline(0, linestyle=":", color=GREY)
    for axis in axes[1:]:
        axis.set(xlim=(-0.03, 1.03), xticks=[0, 0.5, 1])
    axes[0].xaxis.set_major_locator(MaxNLocator(3))
    return figure


def _forest(figure: Figure, names: Sequence[str], columns: Mapping[str, Sequence[Json]]) -> Sequence[Axes]:
    """Draw a forest plot, a row for each name, the first on top, and a panel for each column."""
    axes = figure.subplots(1, len(columns), sharey=True)
    for axis, (title, figures) in zip(axes, columns.items(), strict=True):
        for row, (name, estimate) in enumerate(zip(names, figures, strict=True)):
            _point(axis, Estimate.read(estimate), Estimate(row), ORANGE if name.startswith(ALERT) else BLUE)
            if estimate["value"] is None:
                place = axis.get_yaxis_transform()  # across the panel, whatever its scale
                text = axis.text(0.5, row, "not defined", color=GREY, ha="center", va="center", transform=place)
                text.set_bbox({"color": "white", "pad": 1})
        axis.set_xlabel(title)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel("held-out images; lines: 95% intervals", fontsize="medium", color=GREY)
    return axes


def _confusion(held_out: Json) -> Figure:
    """Draw the counts, truth down and prediction across, shaded by their share of the row."""
    counts = np.array(held_out["confusion"])
    images = np.array([held_out["per_class"][name]["n"] for name in DIAGNOSES])
    shares = counts / np.maximum(images, 1)[:, None]
    places, shades = range(len(DIAGNOSES)), LinearSegmentedColormap.from_list("", ["white", BLUE])
    figure = _figure("Which diagnosis was taken for which", 5.0)
    axis = figure.subplots()
    axis.pcolormesh(places, places, shares, cmap=shades, vmin=0, vmax=1, edgecolors="#d9d9d9", linewidth=0.5)
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.6 else "black"
        axis.text(column, row, counts[row, column], color=colour, ha="center", va="center")
    names = [f"{name}\n({short}), n = {n}" for name, short, n in zip(DIAGNOSES, _SHORT, images, strict=True)]
    axis.set_xticks(places, _SHORT, rotation=90)
    axis.set_yticks(places, names)
    axis.set(xlabel="prediction (top diagnosis)", ylabel="truth")
    figure.supxlabel("held-out images; shade: share of the row", fontsize="medium", color=GREY)
    axis.invert_yaxis()
    axis.grid(False)
    return figure


def _reliability(held_out: Json, images: _Images) -> Figure:
    """Draw how often the top label is right, and how often an image is a melanoma, by the probability given to it."""
    top, right = images.probabilities.max(1), images.probabilities.argmax(1) == images.truth
    melanoma, score = images.truth == MELANOMA, images.probabilities[:, MELANOMA]
    both = melanoma.any() and not melanoma.all()
    figure = _figure("Calibration, held-out images", 3.4)
    axes = np.ravel(figure.subplots(1, 1 + both))
    columns = top_label_bins(top)
    sizes, bins = _reliability_curve(axes[0], top, right, columns.argmax(1), images.groups), columns.shape[1]
    axes[0].text(0.5 / bins, -0.1, "n", ha="center", va="center")  # with nine labels no image is in the first bin
    for number, n in sizes.items():
        axes[0].text((number + 0.5) / bins, -0.1, n, rotation=90, ha="center", va="center", fontsize=9)
    axes[0].set(xlabel="probability of the top diagnosis", ylabel="share that are right")
    axes[0].set_title(f"Top diagnosis\nECE {format_estimate(held_out['calibration']['ece'], 3)}")
    if both:
        sizes = _reliability_curve(axes[1], score, melanoma, _quantile_bins(score), images.groups)
        axes[1].set(xlabel="melanoma probability", ylabel="share that are melanomas")
        axes[1].set_title(f"Melanoma, {melanoma.sum()} of {len(melanoma)}\nn = {_span(sizes)} a point")
    figure.supxlabel("lines: 95% intervals", fontsize="medium", color=GREY)
    return figure


def _reliability_curve(
    axis: Axes, probability: np.ndarray, hit: np.ndarray, bins: np.ndarray, groups: np.ndarray
) -> dict[int, int]:
    """Draw the share of hits in each bin over its mean probability, and return the images of each bin."""
    intervals = Intervals(groups)
    axis.plot([0, 1], [0, 1], ":", color=GREY)
    sizes = {}
    for number in np.unique(bins):
        among = bins == number
        sizes[int(number)] = int(among.sum())
        _point(axis, Estimate(probability[among].mean()), intervals.of_proportion(hit, among), BLUE)
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.18, 1.02), box_aspect=1)
    return sizes


def _quantile_bins(score: np.ndarray) -> np.ndarray:
    """The bin of each image: up to ten with as many images each, of 20 or more; one score is in one bin."""
    bins = min(10, max(len(score) // 20, 1))
    return np.searchsorted(np.quantile(score, np.arange(1, bins) / bins), score, side="right")


def _span(sizes: dict[int, int]) -> str:
    low, high = min(sizes.values()), max(sizes.values())
    return str(low) if low == high else f"{low} to {high}"


def _read(held_out: Json, figure: str) -> Estimate:
    return Estimate.read(held_out["melanoma"][figure])


def _point(axis: Axes, x: Estimate, y: Estimate, colour: str, label: str | None = None) -> None:
    """Mark a point with a line along each interval; nothing where it is undefined."""
    if x.value is None or y.value is None:
        return
    axis.plot(x.value, y.value, "o", color=colour, label=label, zorder=4)
    if x.low is not None and x.high is not None:
        axis.plot([x.low, x.high], [y.value] * 2, color=colour, zorder=4)
    if y.low is not None and y.high is not None:
        axis.plot([x.value] * 2, [y.low, y.high], color=colour, zorder=4)
