"""How often the intervals of calibration hold the truth, in worlds whose truth is known: print a table.

    python benchmarks/evaluation/calibration_intervals.py [--draws 400]

The expected calibration error is held at 0, 0.02, 0.05 and 0.15 by four ways of being wrong: every top label too sure,
the surer half, the surer and the less sure half in opposite ways, or a quarter of the images alone. Images are 118, 311
or 1583; photos come alone or as one to four of a lesion, right or wrong together (correlation 0.7). The logistic
figures of the probability of melanoma are held at slopes of 1 and 0.7 and intercepts of 0 and -0.5.
"""

import argparse
import itertools
from collections.abc import Callable

import numpy as np
from scipy import special, stats

from dermalert.evaluation.intervals import Intervals

CORRELATION = 0.7  # of two photos of one lesion
ERRORS = (0.0, 0.02, 0.05, 0.15)
SIZES = (118, 311, 1583)


def lesions(rng: np.random.Generator, n: int, *, alone: bool) -> np.ndarray:
    """The lesion of each of n photos."""
    return np.arange(n) if alone else np.repeat(np.arange(n), rng.integers(1, 5, n))[:n]


def draw_normal(rng: np.random.Generator, lesion: np.ndarray) -> np.ndarray:
    """A standard normal value a photo, shared in part by those of a lesion."""
    shared = rng.normal(size=lesion.max() + 1)[lesion]
    return shared * CORRELATION**0.5 + rng.normal(size=len(lesion)) * (1 - CORRELATION) ** 0.5


SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "all too sure": lambda rank: -np.ones_like(rank),
    "the surer half": lambda rank: -2.0 * (rank > 0.5),
    "both ways": lambda rank: np.where(rank > 0.5, -1.0, 1.0),
    "a quarter alone": lambda rank: -4.0 * ((rank > 0.4) & (rank < 0.65)),
}
"""By how much the top label is less often right than it says, as a multiple of the error, by the rank of its
probability (0 to 1)."""


def world(rng: np.random.Generator, n: int, shape: str, error: float, *, alone: bool) -> tuple[np.ndarray, ...]:
    """Truth (n,), probabilities (n, 9) and lesions (n,) of images with about that calibration error."""
    lesion = lesions(rng, n, alone=alone)
    rank = stats.norm.cdf(draw_normal(rng, lesion))
    top = 0.4 + 0.58 * rank
    right = stats.norm.cdf(draw_normal(rng, lesion)) < np.clip(top + error * SHAPES[shape](rank), 0, 1)
    return (~right).astype(int), np.column_stack([top, *[(1 - top) / 8] * 8]), lesion


def true_error(shape: str, error: float) -> float:
    """The error of a world to three digits: a bin may hold images of both kinds."""
    rank = (np.arange(200_000) + 0.5) / 200_000
    top = 0.4 + 0.58 * rank
    gaps = np.clip(top + error * SHAPES[shape](rank), 0, 1) - top
    return float(np.abs(np.bincount((top * 15).astype(int), gaps)).sum() / len(rank))


def coverage_of_error(n: int, shape: str, error: float, *, alone: bool, draws: int, seed: int = 0) -> dict[str, float]:
    """How often the interval of the calibration error holds it, and where it begins and ends on average."""
    rng, truth = np.random.default_rng([n, seed]), true_error(shape, error)
    figures = np.empty((draws, 3))
    for row in figures:
        images, probabilities, lesion = world(rng, n, shape, error, alone=alone)
        figure = Intervals(lesion, draws=200).of_calibration_error(images, probabilities)
        row[:] = figure.low, figure.value, figure.high
    low, value, high = figures.T
    held = (low <= truth + 1e-9) & (truth <= high)
    means = {"value": value.mean(), "low": low.mean(), "high": high.mean()}
    return {"true": truth, "held": held.mean(), "too high": (low > truth + 1e-9).mean()} | means


def coverage_of_logistic(
    n: int, share: float, slope: float, intercept: float, *, alone: bool, draws: int, seed: int = 0
) -> dict[str, float]:
    """How often the intervals hold the slope, and intercept and ratio of what was observed and expected.

    Args:
        n: images.
        share: about that of melanomas.
        slope: of the logit of what is true on that of what is said.
        intercept: of the same.
        alone: whether each photo is of a lesion of its own.
        draws: data sets.
        seed: of them.
    """
    rng = np.random.default_rng([n, seed])

    def draw(lesion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logit = special.logit(share) - 1.0 + 1.8 * draw_normal(rng, lesion)
        return logit, special.expit(intercept + slope * logit)

    logit, true = draw(np.arange(1_000_000))
    large = _intercept(logit, true)
    truth = {"observed_over_expected": true.sum() / special.expit(logit).sum(), "slope": slope, "intercept": large}
    held, defined = dict.fromkeys(truth, 0), 0
    for _ in range(draws):
        lesion = lesions(rng, n, alone=alone)
        logit, true = draw(lesion)
        positive = stats.norm.cdf(draw_normal(rng, lesion)) < true
        figures = Intervals(lesion, draws=1).of_logistic(positive, special.expit(logit))
        if figures.slope.value is None:
            continue
        defined += 1
        for name, value in truth.items():
            figure = getattr(figures, name)
            held[name] += figure.low <= value <= figure.high
    return {"melanomas": true.mean() * n, "defined": defined / draws} | {
        name: count / max(defined, 1) for name, count in held.items()
    }


def _intercept(logit: np.ndarray, true: np.ndarray) -> float:
    """The intercept that makes the mean of what is said that of what is true."""
    low, high = -10.0, 10.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if special.expit(logit + middle).mean() > true.mean() else (middle, high)
    return low


def table(title: str, columns: str) -> None:
    """Print the head of a table."""
    print(f"\n{title}\n\n| {columns} |\n|{'---|' * len(columns.split('|'))}", flush=True)


def line(*cells) -> None:
    """Print a row of it."""
    print("| " + " | ".join(f"{x:.3f}" if isinstance(x, float) else str(x) for x in cells) + " |", flush=True)


def main(draws: int) -> None:
    """Measure and print what `docs/measurements.md` shows.

    Args:
        draws: data sets a row.
    """
    table("expected calibration error", "images | photos | wrong | true | held | above it | mean value | from | to")
    ways = {"one a lesion": True, "one to four": False}
    for n, photos, error in itertools.product(SIZES, ways, ERRORS):
        for shape in SHAPES if error else list(SHAPES)[:1]:
            row = coverage_of_error(n, shape, error, alone=ways[photos], draws=draws)
            line(n, photos, shape if error else "nothing", *map(float, row.values()))
    columns = "images | photos | true slope | intercept | melanomas | defined | O/E held | slope held | intercept held"
    table("probability of melanoma", columns)
    worlds = ((118, 0.05), (118, 0.15), (311, 0.15), (1583, 0.15)), ways, ((1.0, 0.0), (0.7, -0.5))
    for (n, share), photos, (slope, intercept) in itertools.product(*worlds):
        row = coverage_of_logistic(n, share, slope, intercept, alone=ways[photos], draws=draws)
        line(n, photos, slope, intercept, *map(float, row.values()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--draws", type=int, default=400, help="data sets a row")
    main(parser.parse_args().draws)
