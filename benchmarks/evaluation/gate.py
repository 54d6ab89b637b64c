"""How often the gate refuses an equal release, and finds one that is worse: print a table by the number of melanomas.

    python benchmarks/evaluation/gate.py [--pairs 400]

A pair of releases answers to the same photos, one to three of a lesion. Their scores have most in common with each
other (correlation 0.9) and something with those of other photos of the lesion; one photo in a hundred is abstained on,
by each by itself. Equal pairs are exchangeable: for each lesion a coin decides whose answers are whose. The alert's and
the malignant threshold find about 0.95 of the photos; the worse release misses 0.05 more at one of them, or its AUROC
is lower by 0.05.
"""

import argparse
import time

import numpy as np
from scipy import stats

from dermalert.release import regression_gate, release_comparison
from dermalert.taxonomy import DIAGNOSES, MELANOMA

MELANOMAS = (50, 100, 200)
WORSE = {"equal": {}, "sensitivity": {"alert": 0.05}, "malignant": {"attention": 0.05}, "auroc": {"area": 0.05}}
SHARED = 0.9  # of the scores of two releases
LESION = 0.5  # of what they share, of photos of one lesion
ABSTAINED = 0.01
SEPARATION = 2.1  # of melanomas and of malignant lesions: an AUROC of 0.93
SENSITIVITY = 0.95


def pair(rng: np.random.Generator, melanomas: int, *, alert: float = 0, attention: float = 0, area: float = 0):
    """A pair of releases, the second worse by so much in one thing.

    Args:
        rng: what decides.
        melanomas: lesions; as many others are malignant, and six times as many harmless.
        alert: by how much the sensitivity of its alert is lower.
        attention: the same for malignant or precursor.
        area: by how much its melanoma AUROC is lower.
    """
    labels = np.repeat(["melanoma", "basal cell carcinoma", "nevus"], [melanomas, melanomas, 6 * melanomas])
    lesion = np.repeat(np.arange(len(labels)), rng.integers(1, 4, len(labels)))
    truth = np.array([DIAGNOSES.index(name) for name in labels])[lesion]
    melanoma, malignant = labels[lesion] == "melanoma", labels[lesion] != "nevus"
    weaker = stats.norm.ppf(stats.norm.cdf(SEPARATION / 2**0.5) - area) * 2**0.5
    flags, scores = {"alert": [], "attention": []}, []
    common = {name: _common(rng, lesion) for name in flags}
    for new, separation in enumerate((SEPARATION, weaker)):
        abstained = rng.random(len(lesion)) < ABSTAINED
        for name, positive, loss in (("alert", melanoma, alert), ("attention", malignant, attention)):
            score = common[name] + rng.normal(size=len(lesion)) * (1 - SHARED) ** 0.5
            places = separation if name == "alert" else SEPARATION
            flags[name].append((score >= -stats.norm.ppf(SENSITIVITY - new * loss)) & ~abstained)
            flags[name][-1] = np.where(positive, flags[name][-1], score >= 1)
            if name == "alert":
                scores.append(score + places * positive)
    if not (alert or attention or area):
        swapped = (rng.random(len(labels)) < 0.5)[lesion]
        scores = _swap(scores, swapped)
        flags = {name: _swap(both, swapped) for name, both in flags.items()}
    probabilities = [np.zeros((len(lesion), len(DIAGNOSES))) for _ in scores]
    for table, score in zip(probabilities, scores, strict=True):
        table[:, MELANOMA] = score
    return release_comparison.Pair(
        image_ids=lesion,
        truth=truth,
        groups=lesion,
        probabilities=tuple(probabilities),
        alerts=tuple(flags["alert"]),
        attentions=tuple(flags["attention"]),
        left_out={},
    )


def _common(rng: np.random.Generator, lesion: np.ndarray) -> np.ndarray:
    shared, own = rng.normal(size=lesion.max() + 1)[lesion], rng.normal(size=len(lesion))
    return (shared * LESION**0.5 + own * (1 - LESION) ** 0.5) * SHARED**0.5


def _swap(both: list[np.ndarray], swapped: np.ndarray) -> list[np.ndarray]:
    old, new = both
    return [np.where(swapped, new, old), np.where(swapped, old, new)]


def failure_rates(melanomas: int, worse: str, pairs: int, seed: int = 0) -> dict[str, float]:
    """How often pairs are refused, by any rule and by each, and the power that the gate states on average."""
    rng = np.random.default_rng([melanomas, seed])
    rows = []
    for _ in range(pairs):
        tests = regression_gate.run_tests(pair(rng, melanomas, **WORSE[worse]))
        rows.append(
            [any(test.loss_shown for test in tests.values())]
            + [getattr(test, key) for key in ("loss_shown", "power") for test in tests.values()]
        )
    names = ["AUROC", "sensitivity", "malignant"]
    return dict(zip(["any", *names, *(f"power {name}" for name in names)], np.mean(rows, axis=0), strict=True))


def main(pairs: int) -> None:
    """Measure and print what `docs/measurements.md` shows.

    Args:
        pairs: of releases a row.
    """
    names = "any rule | AUROC | sensitivity | malignant | power stated: AUROC | sensitivity | malignant"
    print(f"| melanomas | the new release is | refused by {names} |\n|{'---|' * 9}")
    start = time.perf_counter()
    for melanomas in MELANOMAS:
        for worse in WORSE:
            row = failure_rates(melanomas, worse, pairs)
            name = "equal" if worse == "equal" else f"worse by 0.05: {worse}"
            print(f"| {melanomas} | {name} | " + " | ".join(f"{x:.3f}" for x in row.values()) + " |", flush=True)
    print(f"\n{pairs} pairs a row, {time.perf_counter() - start:.0f} seconds")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--pairs", type=int, default=400, help="pairs of releases a row")
    main(parser.parse_args().pairs)
