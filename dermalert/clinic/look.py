"""One look of a model at a clinic's images, as served: probabilities, alert, and why it abstains."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from datasets import Dataset
from dermalert_space.abstention import Abstention
from dermalert_space.release import Release

from dermalert.evaluation import predict
from dermalert.evaluation.predict import SplitPredictions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """The predictions of a model of its images, under its own classes."""

    predictions: SplitPredictions
    failing: list[str | None]
    """The signal for which it abstains on each image, one of `abstention.REASONS`; None where it does not."""
    distances: np.ndarray | None
    """(n,) from the training images, about 1 for these themselves; None where the model knows no distance."""


class _Recorder(Abstention):
    """Abstains as another does, and keeps the signals of each image."""

    def __init__(self, other: Abstention):
        self.__dict__.update(vars(other))
        self.signals: list[dict[str, float]] = []

    def reasons(self, signals: Sequence[Mapping[str, float]], features: np.ndarray) -> list[str | None]:
        distances = self.distances(features).tolist()
        rows = [{**each, "distance": distance} for each, distance in zip(signals, distances, strict=True)]
        self.signals += rows
        return [self.reason(row) for row in rows]


def look(release: Release, dataset: Dataset, *, name: str) -> Look:
    """Predict each image once, with a progress bar."""
    abstention = release.abstention
    recorder = release.abstention = _Recorder(abstention) if abstention else None
    try:
        arrays = predict.predict_images(release, dataset, name=name)
        predictions = predict.of_split(release, dataset, arrays)
    finally:
        release.abstention = abstention
    return Look(
        predictions=predictions,
        failing=[recorder.failing(row) for row in recorder.signals] if recorder else [None] * len(dataset),
        distances=np.array([row["distance"] for row in recorder.signals]) if recorder else None,
    )
