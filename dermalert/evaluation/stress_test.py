"""How far each artefact of dermoscopy, laid over real images, moves a release's predictions.

Rulers, ink, hair and dark corners say nothing of the lesion: a prediction that moves with them leans on something else.
Ink alone raised the false positives of a marketed network among nevi by about 40% (Winkler 2019, doi
10.1001/jamadermatol.2019.1735). What is drawn is a likeness: where it moves nothing, the real thing still may.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from dermalert_space.estimate import Estimate
from dermalert_space.images import read_image
from dermalert_space.prediction import likeliest
from dermalert_space.release import Release

from dermalert import progress
from dermalert.evaluation.intervals import Intervals
from dermalert.evaluation.predict import SplitPredictions
from dermalert.imaging.stress_artefacts import ARTEFACTS, apply, stable_hash
from dermalert.taxonomy import DIAGNOSES, MELANOMA

IMAGES = 200
"""Of a split that are looked at, at most."""

_CHUNK = 16  # images in memory at once, and in a batch of the model


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArtefactReport:
    """How far one artefact moves the predictions; a share is undefined where there is nothing that it could be of."""

    n: int
    groups: int
    melanomas: int
    score_change: Estimate
    """Mean change of the melanoma probability, from -1 to 1."""
    score_change_absolute: Estimate
    """The mean of its size."""
    prediction_changed: Estimate
    """Share of the images whose likeliest diagnosis becomes another."""
    quiet: int
    """Images that show no melanoma and raise no alert."""
    alerts_gained: Estimate
    """Share of these that now raise one."""
    caught: int
    """Melanomas that raise the alert."""
    alerts_lost: Estimate
    """Share of these that no longer do."""


def stress(release: Release, predictions: SplitPredictions, *, limit: int = IMAGES) -> dict[str, ArtefactReport]:
    """Measure how far each artefact moves a release's predictions of a split.

    Args:
        release: what predicts.
        predictions: its own of the split, of at least one image, without artefacts.
        limit: images to look at, at most; which ones depends on their ids alone.
    """
    dataset = predictions.dataset
    rows = _choose(dataset["image_id"][:], limit)
    split, before = dataset.select(rows), predictions.probabilities[rows]
    truth, intervals = np.array(split["label"][:], int), Intervals(np.array(split["group"][:]))
    return {
        name: _effect(release, truth, before, after, intervals)
        for name, after in _with_each_artefact(release, split).items()
    }


def _choose(image_ids: Sequence[str], limit: int) -> np.ndarray:
    """Choose the `limit` images whose ids have the lowest hashes: their rows, in order."""
    return np.sort(sorted(range(len(image_ids)), key=lambda row: stable_hash(image_ids[row]))[:limit]).astype(int)


def _with_each_artefact(release: Release, dataset: Dataset) -> dict[str, np.ndarray]:
    """Predict the probabilities (n, 9) under each artefact."""
    parts = {name: [np.empty((0, len(DIAGNOSES)), np.float32)] for name in ARTEFACTS}
    with progress.bar(len(dataset) * len(parts), "Predicting images with artefacts") as bar:
        for start in range(0, len(dataset), _CHUNK):
            rows = dataset[start : start + _CHUNK]
            images = [read_image(image) for image in rows["image"]]
            for name, part in parts.items():
                pairs = zip(images, rows["image_id"], strict=True)
                part.append(release.probabilities([apply(name, image, image_id=i) for image, i in pairs]))
                bar.update(len(images))
    return {name: np.concatenate(part) for name, part in parts.items()}


def _effect(
    release: Release, truth: np.ndarray, before: np.ndarray, after: np.ndarray, intervals: Intervals
) -> ArtefactReport:
    """Measure one artefact; `before` and `after` are the probabilities (n, 9) without and with it."""
    melanoma, everywhere = truth == MELANOMA, np.ones(len(truth), bool)
    change = after[:, MELANOMA].astype(float) - before[:, MELANOMA]
    alerted, alerts = release.alerts(before), release.alerts(after)
    if alerted is None or alerts is None:
        quiet = caught = alerts = ~everywhere
    else:
        quiet, caught = ~melanoma & ~alerted, melanoma & alerted
    return ArtefactReport(
        n=len(truth),
        groups=intervals.groups,
        melanomas=int(melanoma.sum()),
        score_change=intervals.of_mean(change),
        score_change_absolute=intervals.of_mean(np.abs(change)),
        prediction_changed=intervals.of_proportion(likeliest(after) != likeliest(before), everywhere),
        quiet=int(quiet.sum()),
        alerts_gained=intervals.of_proportion(alerts, quiet),
        caught=int(caught.sum()),
        alerts_lost=intervals.of_proportion(~alerts, caught),
    )
