r"""What labels teach in the order of `triage --rank-for-labelling`, against other orders and against chance.

    python benchmarks/evaluation/labelling.py --dataset_name milk10k/ --leave_out metadata/same_lesion_as_ham10000.csv

plays a clinic that the release has not learnt from. Half of its lesions wait for a label, the other half tests; of
each lesion the first photo counts. After k labels: the melanomas among them; the AUROC of melanoma on the other half
once a correction of the logit, linear in the features of all layers, was fitted on them; and the loss there of an
intercept and a slope. The rule was chosen on MILK10k; the palms and soles are reported.
"""

import argparse
import csv
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from dermalert_space.contract import BUNDLED
from dermalert_space.release import Release
from scipy import optimize, special, stats

from dermalert.data import contamination
from dermalert.data.prepare import prepare
from dermalert.errors import run_command
from dermalert.evaluation import metrics, predict
from dermalert.taxonomy import MELANOMA

_LABELS = (25, 50, 100, 200)
_HALVES = 20
_SURE = 1e-7
_STRENGTH = 4.0  # of the ridge, a feature


class Lesions(NamedTuple):
    """A photo each of the lesions of a clinic."""

    positive: np.ndarray
    probabilities: np.ndarray
    distance: np.ndarray
    features: np.ndarray

    @property
    def logit(self) -> np.ndarray:
        """Of the melanoma probability."""
        return special.logit(np.clip(self.probabilities[:, MELANOMA].astype(float), _SURE, 1 - _SURE))


def main(arguments: argparse.Namespace) -> None:
    """Predict, play and print a table."""
    release = Release.load(arguments.model)
    lesions = collect(release, arguments.dataset_name, arguments.leave_out)
    score = special.expit(lesions.logit)
    true = (score[lesions.positive] >= release.threshold).mean()
    print(f"{len(score)} lesions, {lesions.positive.sum()} melanomas, sensitivity {true:.3f}\n")
    heads = [f"{what}, {k} labels" for what in ("melanomas", "AUROC", "loss") for k in _LABELS]
    print(f"| order | {' | '.join(heads)} | sensitivity among 200 |\n{'|---' * (len(heads) + 2)}|")
    for name, rank in {"chance": None, **orders(lesions, release.threshold)}.items():
        rows = np.array([play(lesions, rank, half, release.threshold) for half in range(_HALVES)])
        mean = np.nanmean(rows, 0)
        cells = [f"{value:.1f}" if i < len(_LABELS) else f"{value:.3f}" for i, value in enumerate(mean)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def collect(release: Release, dataset: list[str], leave_out: str | None) -> Lesions:
    """The first photo of each lesion that the release has not learnt from, nor the list names."""
    rows = prepare(dataset, "archive").dataset
    excluded = read_names(leave_out) if leave_out else set()
    unseen = contamination.are_unseen(rows, contamination.read(release.name, release.revision))
    ids = zip(unseen, rows["image_id"], rows["lesion_id"], strict=True)
    rows = rows.select([i for i, (fresh, *names) in enumerate(ids) if fresh and not excluded & set(names)])
    rows = rows.select(np.sort(np.unique(rows["group"], return_index=True)[1]))
    batches = [
        release.forward(batch, with_features=True) for batch in predict.inputs(release, rows, "Predicting", keep=False)
    ]
    features = np.concatenate([features.numpy() for _, features in batches])
    return Lesions(
        positive=np.array(rows["label"]) == MELANOMA,
        probabilities=np.concatenate([logits.softmax(-1).numpy() for logits, _ in batches]),
        distance=release.abstention.distances(features),
        features=(features - features.mean(0)) / (features.std(0) + 1e-6),
    )


def read_names(path: str) -> set[str]:
    """The images and lesions that a CSV names."""
    with Path(path).open(newline="") as file:
        return {row[key] for row in csv.DictReader(file) for key in ("image_id", "lesion_id")}


def orders(lesions: Lesions, threshold: float) -> Mapping[str, np.ndarray]:
    """By name, the rank of each lesion: the lower, the earlier it is labelled."""
    p, logit, rank = lesions.probabilities.astype(float), lesions.logit, stats.rankdata
    melanoma, entropy = np.abs(special.expit(logit) - 0.5), (p * np.log(np.maximum(p, 1e-12))).sum(1)
    return {
        "melanoma probability nearest to a half (the rule)": melanoma,
        "the same and novelty": rank(melanoma) + rank(-lesions.distance),
        "entropy of the nine": entropy,
        "entropy and novelty": rank(entropy) + rank(-lesions.distance),
        "novelty": -lesions.distance,
        "nearest to the alert's threshold": np.abs(logit - special.logit(threshold)),
        "highest melanoma probability": -logit,
    }


def play(lesions: Lesions, rank: np.ndarray | None, half: int, threshold: float) -> list[float]:
    """The figures of each number of labels, with half of the lesions waiting for one."""
    positive, logit = lesions.positive, lesions.logit
    shuffled = np.random.default_rng(half).permutation(len(positive))
    waiting, test = np.split(shuffled, [len(shuffled) // 2])
    order = waiting if rank is None else waiting[np.argsort(rank[waiting], kind="stable")]
    taken = [order[:k] for k in _LABELS]
    once = np.ones(len(test))
    aurocs = [float(metrics.auroc(positive[test], corrected(lesions, some, test), once)) for some in taken]
    losses = [loss(recalibrated(logit, positive, some)(logit[test]), positive[test]).mean() for some in taken]
    alerts = special.expit(logit[taken[-1]][positive[taken[-1]]]) >= threshold
    return [*(positive[some].sum() for some in taken), *aurocs, *losses, alerts.mean() if len(alerts) else np.nan]


def corrected(lesions: Lesions, some: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The logits of the test lesions after a ridge correction, linear in the features, by some lesions' labels."""
    strength = _STRENGTH * lesions.features.shape[1]
    kernel = lesions.features[some] @ lesions.features[some].T / strength + 1
    logit, positive = lesions.logit[some], lesions.positive[some]

    def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
        z = logit + kernel @ weights
        return loss(z, positive).sum() + weights @ kernel @ weights / 2, kernel @ (
            special.expit(z) - positive + weights
        )

    weights = optimize.minimize(objective, np.zeros(len(some)), jac=True, method="L-BFGS-B").x
    return lesions.logit[test] + (lesions.features[test] @ lesions.features[some].T / strength + 1) @ weights


def recalibrated(logit: np.ndarray, positive: np.ndarray, some: np.ndarray):
    """The logistic regression of some lesions, held near no change by a normal prior of one."""

    def objective(b: np.ndarray) -> float:
        return loss(b[0] + b[1] * logit[some], positive[some]).sum() + (b[0] ** 2 + (b[1] - 1) ** 2) / 2

    intercept, slope = optimize.minimize(objective, [0, 1], method="BFGS").x
    return lambda z: intercept + slope * z


def loss(logit: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The negative log-likelihood of each."""
    return np.logaddexp(0, np.where(positive, -logit, logit))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dataset_name", nargs="+", required=True, help="of a clinic that the release has not learnt from"
    )
    parser.add_argument("--model", default=str(BUNDLED), help="the release")
    parser.add_argument("--leave_out", help="CSV with image_id and lesion_id of what it has learnt from all the same")
    settings = parser.parse_args()
    sys.exit(run_command(lambda: main(settings)))
