"""Which training images are drawn, how often, and what a model trained on the draws expects."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from dermalert.config import Sampling
from dermalert.taxonomy import DIAGNOSES

_AT_MOST = 8
"""How many times its part in its class a rare source gets at most, before the parts are made to add up to one again.

Without it a stray image would be drawn all the time.
"""


def sampling_weights(labels: Sequence[int], sources: Sequence[str | None], how: Sampling) -> np.ndarray:
    """How often each image is drawn, (n,), as a share of all draws.

    Args:
        labels: label ids.
        sources: where each picture was made.
        how: `natural`: all alike. `classes`: each diagnosis by the square root of its count, a middle between the mix
            as it is and equal shares, in which a few dozen pictures would be seen too often. `classes-and-sources`:
            also, within a diagnosis, each source alike, so that where a picture was made tells less of what it shows.
    """
    label_ids = np.asarray(labels)
    weights = np.ones(len(label_ids))
    if how != "natural":
        weights /= np.sqrt(np.bincount(label_ids, minlength=len(DIAGNOSES)))[label_ids]
    if how == "classes-and-sources":
        names = np.array([source or "not known" for source in sources])
        for label in np.unique(label_ids):
            own = label_ids == label
            _, place, counts = np.unique(names[own], return_inverse=True, return_counts=True)
            parts = np.minimum(1 / len(counts), _AT_MOST * counts / own.sum())
            weights[own] *= (parts / parts.sum() / counts)[place] * own.sum()
    return weights / weights.sum()


def class_frequencies(labels: Sequence[int], weights: np.ndarray | None = None) -> np.ndarray:
    """The share of each diagnosis (9,) among the draws; one without images counts as having one."""
    weights = np.full(len(labels), 1 / max(len(labels), 1)) if weights is None else weights
    drawn = np.bincount(labels, weights=weights * len(labels), minlength=len(DIAGNOSES))
    counts = np.where(np.bincount(labels, minlength=len(DIAGNOSES)) > 0, drawn, 1)
    return counts / counts.sum()


class WeightedSampler(Sampler[int]):
    """Draws with replacement, as many as there are images; an epoch's draws depend on the seed and its number alone."""

    def __init__(self, weights: np.ndarray, *, seed: int):
        self.weights, self.seed, self.epoch = weights, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Take the draws of an epoch; the Trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        """The number of draws."""
        return len(self.weights)

    def __iter__(self) -> Iterator[int]:
        """The rows, drawn by systematic sampling: each as often as its weight asks, give or take one."""
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self))
        points = (rng.random() + np.arange(len(self))) / len(self)
        drawn = order[np.minimum(np.searchsorted(self.weights[order].cumsum(), points), len(self) - 1)]
        return iter(rng.permutation(drawn).tolist())


@dataclasses.dataclass(frozen=True)
class Draws:
    """How the images of a training are drawn, and what a model learns to expect by it."""

    labels: Sequence[int]
    sources: Sequence[str | None]
    how: Sampling
    rebalance: bool
    """Whether the loss takes the frequencies of the diagnoses out: see `recipe_trainer.balanced_softmax`."""

    @functools.cached_property
    def weights(self) -> np.ndarray:
        """The chance (n,) of each image at each draw."""
        return sampling_weights(self.labels, self.sources, self.how)

    @property
    def frequencies(self) -> np.ndarray:
        """The share (9,) of each diagnosis among the draws."""
        return class_frequencies(self.labels, self.weights)

    @property
    def training_prior(self) -> np.ndarray:
        """The frequencies (9,) of the diagnoses that a model learns to expect."""
        return np.full(len(DIAGNOSES), 1 / len(DIAGNOSES)) if self.rebalance else self.frequencies

    @property
    def prior_correction(self) -> np.ndarray | None:
        """The frequencies (9,) in the data over those that a model learns to expect; None: they are the same."""
        if not self.rebalance and self.how == "natural":
            return None
        return class_frequencies(self.labels) / self.training_prior
