"""Shortcut baselines of a clinic's own pictures: what colour, frame or sharpness alone tells of melanoma there."""

import dataclasses
from collections.abc import Iterable

import numpy as np
from datasets import Dataset
from dermalert_space.estimate import Estimate
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dermalert.evaluation import metrics
from dermalert.evaluation.intervals import Intervals
from dermalert.imaging import thumbnail
from dermalert.imaging.shortcut_features import FEATURES

FEWEST = 10
"""Lesions with and without melanoma below which there is nothing to learn a shortcut from."""

TEXTS = {
    "mean_colour": "mean colour",
    "frame_only": "colour of the frame",
    "sharpness_only": "sharpness",
    "lesion_hidden": "the picture without its middle",
}
_FOLDS = 5
_MOST = 3000  # images that a fold learns from: more make a linear model of a few colours no better
_STRENGTH = 0.1  # 1 / regularisation, as that of `evaluation.baselines`


Fold = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnShortcut:
    """What one shortcut reaches at the clinic, each image scored by a model that has not seen its lesion."""

    name: str
    auroc: Estimate
    margin: Estimate
    """By how much the model's AUROC exceeds it."""

    @property
    def is_exceeded(self) -> bool:
        """Whether the model is shown to do better."""
        return self.margin.low is not None and self.margin.low > 0


def measure(dataset: Dataset, positive: np.ndarray, score: np.ndarray, intervals: Intervals) -> list[OwnShortcut]:
    """Each shortcut against a model's score (n,) of the positive images (n,); none where lesions are too few."""
    if min(intervals.groups_of(positive), intervals.groups_of(~positive)) < FEWEST:
        return []
    rows, folds = thumbnail.shortcut_features(dataset), folds_of(positive, np.array(dataset["group"]))
    assert FEATURES.names is not None
    shortcuts = []
    for name in FEATURES.names:
        shortcut = cross_fitted(rows[name], positive, folds)
        margin = _margin(positive, score, shortcut, intervals)
        auroc = intervals.of_area(metrics.auroc, positive, shortcut)
        shortcuts.append(OwnShortcut(name=name, auroc=auroc, margin=margin))
    return shortcuts


def _margin(positive: np.ndarray, score: np.ndarray, shortcut: np.ndarray, intervals: Intervals) -> Estimate:
    return intervals.of(lambda w: metrics.auroc(positive, score, w) - metrics.auroc(positive, shortcut, w))


def folds_of(positive: np.ndarray, groups: np.ndarray) -> list[Fold]:
    """Which images are learnt from and which are scored, a pair of rows a fold; no group is in both.

    Args:
        positive: (n,), both kinds with at least as many groups as there are folds.
        groups: (n,) the group of each image.
    """
    return list(StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0).split(positive, positive, groups))


def cross_fitted(features: np.ndarray, positive: np.ndarray, folds: Iterable[Fold]) -> np.ndarray:
    """The log-odds (n,) that a linear model of features (n, d) gives each image after learning from other groups."""
    scores = np.zeros(len(positive))
    for train, scored in folds:
        drawn = _drawn(train, positive)
        scores[scored] = _fit(features[drawn], positive[drawn]).decision_function(features[scored])
    return scores


def _drawn(rows: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """At most `_MOST` of the rows, at random; of the rarer kind up to half of these."""
    rows = np.random.default_rng(0).permutation(rows)
    kinds = sorted((rows[positive[rows]], rows[~positive[rows]]), key=len)
    rarer = kinds[0][: _MOST // 2]
    return np.concatenate([rarer, kinds[1][: _MOST - len(rarer)]])


def _fit(features: np.ndarray, positive: np.ndarray) -> ClassifierMixin:
    model = LogisticRegression(C=_STRENGTH, class_weight="balanced", max_iter=5000, random_state=0)
    return make_pipeline(StandardScaler(), model).fit(features, positive)
