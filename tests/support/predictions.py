"""Made-up predictions of nine diagnoses, and estimates to hold figures against."""

import dataclasses

import numpy as np
import pytest
from dermalert_space.estimate import Estimate
from scipy import special


def approx(estimate, **tolerance):
    """Make an estimate that equals others which are close to it."""
    return Estimate(*(pytest.approx(number, **tolerance) for number in dataclasses.astuple(estimate)))


def random_case(seed, n=60, classes=9, ties=False):
    """Truths (n,) and probabilities (n, 9) that are right more often than not."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, 9)) + 1.5 * np.eye(9)[truth]
    if ties:
        logits = logits.round()
    return truth, special.softmax(logits, axis=1)
