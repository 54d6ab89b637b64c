"""What N labelled lesions tell a clinic: how often the verdict is right, and what adapting the release is worth.

    python -m benchmarks.evaluation.clinic --output_dir runs/clinic \
        --clinic "MILK10k" space/model milk10k/ --clinic "MILK10k, close-ups" space/model milk10k/ \
        --clinic "like its own" space/model held_out --clinic "acral" space/model acral/ \
        --leave_out metadata/same_lesion_as_ham10000.csv --reported acral

plays clinics that a release has not learnt from; of each lesion the first photo counts. In each draw N lesions get
their labels, and the others are the patients to come, on whom all is measured. The truth that a verdict is held against
is the sensitivity of all lesions of the clinic. The rule for an intercept is chosen on the clinics that are not
`--reported`: of those that make the loss worse in at most 5% of the draws, at every N, the one that gains most.
`held_out` stands for the held-out lesions of the release itself, a clinic where nothing is to be adapted. A clinic
whose name ends in "close-ups" is one of pictures without a dermoscope.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from dermalert_space.contract import PREDICTIONS
from dermalert_space.release import Release
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.evaluation.labelling import read_names
from dermalert import progress
from dermalert.clinic import adaptation, verdict
from dermalert.clinic.adaptation import Change
from dermalert.data import contamination
from dermalert.data.loading import Reading
from dermalert.data.prepare import prepare
from dermalert.errors import run_command
from dermalert.evaluation import metrics, predict
from dermalert.evaluation.intervals import Intervals
from dermalert.evaluation.operating_points import TARGET_SENSITIVITY
from dermalert.evaluation.plots import BLUE, GREEN, GREY, ORANGE, STYLE
from dermalert.taxonomy import ALERT, DIAGNOSES

_MELANOMA = DIAGNOSES.index(ALERT)
_LABELLED = (0, 25, 50, 100, 200, 500)
_FEWEST = (1, 3, 5, 10, 20)
_ALWAYS, _SHOWN, _SHOWN_AND_BETTER = "always", "if shown", "if shown and better"
_WORSE = 0.05  # of the draws
_TINY = 1e-9


class Clinic(NamedTuple):
    """The lesions of a clinic, as a release predicts their first photo."""

    name: str
    probabilities: np.ndarray
    positive: np.ndarray
    abstained: np.ndarray
    threshold: float

    def select(self, rows: np.ndarray) -> "Clinic":
        """Some of the lesions."""
        return self._replace(
            probabilities=self.probabilities[rows], positive=self.positive[rows], abstained=self.abstained[rows]
        )


class Draw(NamedTuple):
    """What one draw of labelled lesions led to, and the figures of the others by what was done with the labels."""

    melanomas: int
    outcome: str
    intercept: Change
    shown: bool
    better: bool
    default: Change
    new_threshold: bool
    figures: dict[str, tuple[float, float, float, float]]
    """Sensitivity and specificity as served, observed over expected, and loss: kept, defaults, own threshold."""
    loss_with_intercept: float


def main(arguments: argparse.Namespace) -> None:
    """Predict, play, and print the tables; draw the figure."""
    leave_out = read_names(arguments.leave_out) if arguments.leave_out else set()
    folder = Path(arguments.output_dir)
    clinics = [collect(*named, leave_out=leave_out, folder=folder) for named in arguments.clinic]
    played = {clinic.name: play(clinic, arguments.draws) for clinic in clinics}
    for clinic in clinics:
        print_clinic(clinic, played[clinic.name])
    print_rules(played, arguments.reported)
    draw_figure(clinics, played).savefig(folder / "clinic.svg", metadata={"Date": None})


def collect(name: str, model: str, dataset: str, *, leave_out: set[str], folder: Path) -> Clinic:
    """A clinic's lesions that the release has not learnt from, nor the list names; predicted once for all calls."""
    path = folder / f"{name}.npz"
    release = Release.load(model)
    if dataset == "held_out":
        return _held_out(name, release)
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        kinds = ("clinical",) if name.endswith("close-ups") else ("dermoscopic",)
        rows = prepare([dataset], "archive", Reading(image_types=kinds)).dataset
        unseen = contamination.are_unseen(rows, contamination.read(release.name, release.revision))
        ids = zip(unseen, rows["image_id"], rows["lesion_id"], strict=True)
        rows = rows.select([i for i, (fresh, *names) in enumerate(ids) if fresh and not leave_out & set(names)])
        rows = rows.select(np.sort(np.unique(rows["group"], return_index=True)[1]))
        predictions = predict.predict(release, rows, name=name)
        assert predictions.abstained is not None
        positive = np.array(rows["label"]) == _MELANOMA
        np.savez(path, probabilities=predictions.probabilities, positive=positive, abstained=predictions.abstained)
    with np.load(path) as kept:
        return Clinic(name, threshold=release.threshold or 1.0, **kept)


def _held_out(name: str, release: Release) -> Clinic:
    """The release's own held-out lesions, as its evaluation predicted them."""
    table = pq.read_table(Path(release.name) / PREDICTIONS)
    table = table.filter(pc.equal(table["split"], "held_out"))
    table = table.take(np.sort(np.unique(table["group"].to_numpy(), return_index=True)[1]))
    return Clinic(
        name,
        probabilities=np.column_stack([table[label].to_numpy() for label in DIAGNOSES]),
        positive=pc.equal(table["truth"], ALERT).to_numpy(),
        abstained=table["refused"].to_numpy(),
        threshold=release.threshold or 1.0,
    )


def play(clinic: Clinic, draws: int) -> dict[int, list[Draw]]:
    """The draws by their number of labelled lesions."""
    sizes = [n for n in _LABELLED if n <= len(clinic.positive) // 2]
    with progress.bar(len(sizes) * draws, clinic.name) as bar:
        played: dict[int, list[Draw]] = {n: [] for n in sizes}
        for n in sizes:
            for seed in range(draws):
                shuffled = np.random.default_rng([seed, n]).permutation(len(clinic.positive))
                played[n].append(draw(clinic.select(shuffled[:n]), clinic.select(shuffled[n:])))
                bar.update(1)
        return played


def draw(labelled: Clinic, others: Clinic) -> Draw:
    """What labelled lesions lead to, and what that is worth for the others."""
    melanomas = int(labelled.positive.sum())
    missed = int((labelled.positive & ~_flagged(labelled)).sum())
    outcome = verdict.outcome_of(melanomas, missed, TARGET_SENSITIVITY)
    intercept, shown, better = _fit_intercept(labelled)
    default, point = Change(), None
    if melanomas:
        adapted = adaptation.adapt(labelled.probabilities, labelled.positive, _each(labelled), labelled.abstained)
        default, point = adapted.change, adapted.point
    moved = default.moved(others.threshold) if point is None else point["threshold"]
    return Draw(
        melanomas=melanomas,
        outcome=outcome,
        intercept=intercept,
        shown=shown,
        better=better,
        default=default,
        new_threshold=point is not None,
        figures={
            "kept": _measure(others, Change(), others.threshold),
            "defaults": _measure(others, default, moved),
            "own threshold": _measure(others, Change(), _own_threshold(labelled)),
        },
        loss_with_intercept=_measure(others, intercept, others.threshold)[3],
    )


def _each(clinic: Clinic) -> np.ndarray:
    return np.arange(len(clinic.positive))  # each lesion is a group of its own


def _flagged(clinic: Clinic) -> np.ndarray:
    return (clinic.probabilities[:, _MELANOMA] >= clinic.threshold) & ~clinic.abstained


def _fit_intercept(labelled: Clinic) -> tuple[Change, bool, bool]:
    """An intercept, whether its need is shown, and whether it does better on lesions that it was not fitted on."""
    probabilities, positive, groups = labelled.probabilities, labelled.positive, _each(labelled)
    if not 0 < positive.sum() < len(positive):
        return Change(), False, False
    change = adaptation.fit(probabilities, positive, groups, temperature=False)
    of = Intervals(groups).of_logistic(positive, probabilities[:, _MELANOMA]).intercept
    shown = of.low is not None and of.high is not None and not of.low <= 0 <= of.high
    better = False
    if min(positive.sum(), (~positive).sum()) >= 5:  # there are five folds
        fitted = adaptation.cross_fitted(probabilities, positive, groups, temperature=False)
        better = _loss(fitted, positive) < _loss(probabilities, positive)
    return change, shown, better


def _own_threshold(labelled: Clinic) -> float:
    """The threshold that flags 95% of the labelled melanomas, however few; the old one where there are none."""
    scores = labelled.probabilities[labelled.positive, _MELANOMA]
    return float(np.quantile(scores, 1 - TARGET_SENSITIVITY, method="lower")) if len(scores) else labelled.threshold


def _measure(clinic: Clinic, change: Change, threshold: float) -> tuple[float, float, float, float]:
    """Sensitivity, specificity, observed over expected and loss of a changed release."""
    changed = clinic._replace(probabilities=change.of(clinic.probabilities), threshold=threshold)
    flagged, positive = _flagged(changed), clinic.positive
    expected = changed.probabilities[:, _MELANOMA].sum()
    loss = _loss(changed.probabilities, positive)
    return flagged[positive].mean(), 1 - flagged[~positive].mean(), positive.sum() / expected, loss


def _loss(probabilities: np.ndarray, positive: np.ndarray) -> float:
    score = np.clip(probabilities[:, _MELANOMA].astype(np.float64), _TINY, 1 - _TINY)
    return float(-np.log(np.where(positive, score, 1 - score)).mean())


def print_clinic(clinic: Clinic, played: dict[int, list[Draw]]) -> None:
    """Print what a clinic learns from its labels: medians of the draws, and the middle 90%."""
    positive = clinic.positive
    sensitivity, specificity, ratio, _ = _measure(clinic, Change(), clinic.threshold)
    auroc = metrics.auroc(positive, clinic.probabilities[:, _MELANOMA], np.ones(len(positive)))
    print(f"\n### {clinic.name}\n\n{len(positive)} lesions, {positive.sum()} melanomas; of all of them: ", end="")
    print(f"sensitivity {sensitivity:.3f}, specificity {specificity:.3f}, O/E {ratio:.2f}, AUROC {float(auroc):.3f}\n")
    heads = ["labelled", "melanomas", "holds", "does not hold", "cannot be told", "wrong", "O/E kept", "O/E adapted"]
    heads += ["adapted", "sensitivity kept", "with a threshold of its own", "specificity kept", "of its own"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    holds = sensitivity >= TARGET_SENSITIVITY
    for n, draws in played.items():
        outcomes = [each.outcome for each in draws]
        shares = [outcomes.count(one) / len(draws) for one in (verdict.HOLDS, verdict.DOES_NOT_HOLD)]
        wrong = shares[1] if holds else shares[0]
        kept, adapted, own = (np.array([d.figures[k] for d in draws]) for k in ("kept", "defaults", "own threshold"))
        changed = np.mean([each.default != Change() for each in draws])
        cells = [n, f"{np.median([each.melanomas for each in draws]):.0f}"]
        cells += [f"{share:.1%}" for share in (*shares, 1 - sum(shares), wrong)]
        cells += [_middle(kept[:, 2]), _middle(adapted[:, 2]), f"{changed:.1%}"]
        cells += [_middle(kept[:, 0]), _middle(own[:, 0]), _middle(kept[:, 1]), _middle(own[:, 1])]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def _middle(values: np.ndarray) -> str:
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return f"{middle:.2f} [{low:.2f}-{high:.2f}]"


def rules() -> Iterator[tuple[int, str]]:
    """When an intercept is taken: from so many lesions of either kind, and under a condition."""
    return ((fewest, condition) for condition in (_ALWAYS, _SHOWN, _SHOWN_AND_BETTER) for fewest in _FEWEST)


def gain_of_rule(draws: list[Draw], n: int, fewest: int, condition: str) -> np.ndarray:
    """The gain in loss (nats a lesion) of each draw by an intercept under a rule; 0 where the rule takes none."""
    taken = [
        min(each.melanomas, n - each.melanomas) >= fewest
        and (condition == _ALWAYS or each.shown)
        and (condition != _SHOWN_AND_BETTER or each.better)
        for each in draws
    ]
    gains = [each.figures["kept"][3] - each.loss_with_intercept for each in draws]
    return np.where(taken, gains, 0.0)


def print_rules(played: dict[str, dict[int, list[Draw]]], reported: list[str]) -> None:
    """Print what each rule for an intercept gains, and name the one that gains most where it may be chosen."""
    columns = [(name, n) for name, sizes in played.items() for n in sizes if n]
    print("\n### Rules for an intercept: mean gain in thousandths of a nat a lesion (and draws that it makes worse)\n")
    print(f"| rule | {' | '.join(f'{name}, {n}' for name, n in columns)} |\n{'|---' * (len(columns) + 1)}|")
    mean_gain = {}
    for fewest, condition in rules():
        gains = {key: gain_of_rule(played[key[0]][key[1]], key[1], fewest, condition) for key in columns}
        cells = [f"{1000 * gain.mean():.1f} ({(gain < 0).mean():.0%})" for gain in gains.values()]
        print(f"| {condition}, {fewest} of either | {' | '.join(cells)} |")
        choosing = [gain for (name, _), gain in gains.items() if name not in reported]
        if all((gain < 0).mean() <= _WORSE for gain in choosing):
            mean_gain[fewest, condition] = np.mean([gain.mean() for gain in choosing])
    fewest, condition = max(mean_gain, key=lambda rule: mean_gain[rule])
    print(f"\nChosen: {condition}, {fewest} of either.")


def draw_figure(clinics: list[Clinic], played: dict[str, dict[int, list[Draw]]]) -> Figure:
    """Draw the verdicts, the calibration and the operating point over the number of labelled lesions."""
    with style.context(STYLE):
        figure = Figure(figsize=(9, 2.6 * len(clinics) + 0.5), layout="constrained")
        axes = figure.subplots(len(clinics), 3, squeeze=False)
        for (verdicts, calibration, alert), clinic in zip(axes, clinics, strict=True):
            draws = played[clinic.name]
            _draw_verdicts(verdicts, draws)
            verdicts.set_ylabel(clinic.name, fontweight="bold")
            _draw_middles(calibration, draws, 2, {"kept": GREY, "defaults": BLUE}, truth=1)
            _draw_middles(alert, draws, 0, {"kept": GREY, "own threshold": ORANGE}, truth=TARGET_SENSITIVITY)
            for axis in (verdicts, calibration, alert):
                axis.set_xticks(range(len(draws)), map(str, draws))
        heads = ("share of verdicts", "melanoma, observed over expected", "sensitivity of the others")
        for axis, head in zip(axes[0], heads, strict=True):
            axis.set_title(head, loc="left")
            axis.legend(loc="best", fontsize="small", framealpha=0.9, frameon=True)
        for axis in axes[-1]:
            axis.set_xlabel("labelled lesions")
        return figure


def _draw_middles(
    axis: Axes, played: dict[int, list[Draw]], index: int, series: dict[str, str], *, truth: float
) -> None:
    """Draw the median and the middle 90% of the draws."""
    axis.axhline(truth, color=GREY, linestyle=":")
    for shift, (name, colour) in enumerate(series.items()):
        values = [[each.figures[name][index] for each in draws] for draws in played.values()]
        low, middle, high = np.quantile(values, [0.05, 0.5, 0.95], axis=1)
        x = np.arange(len(played)) + 0.16 * shift - 0.08
        axis.vlines(x, low, high, color=colour)
        axis.plot(x, middle, "o-", color=colour, label={"defaults": "adapted"}.get(name, name))


def _draw_verdicts(axis: Axes, played: dict[int, list[Draw]]) -> None:
    bottom = np.zeros(len(played))
    colours = {verdict.HOLDS: GREEN, verdict.DOES_NOT_HOLD: ORANGE, verdict.UNDECIDED: "#d0d0d0"}
    for outcome, colour in colours.items():
        share = np.array([np.mean([each.outcome == outcome for each in draws]) for draws in played.values()])
        axis.bar(range(len(played)), share, bottom=bottom, color=colour, label=outcome)
        bottom += share


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clinic", nargs=3, action="append", required=True, metavar=("NAME", "RELEASE", "FOLDER"))
    parser.add_argument("--reported", nargs="+", default=[], help="clinics that choose no rule")
    parser.add_argument("--leave_out", help="CSV with image_id and lesion_id of what a release has learnt from")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--output_dir", required=True, help="keeps the predictions, and gets the figure")
    settings = parser.parse_args()
    sys.exit(run_command(lambda: main(settings)))
