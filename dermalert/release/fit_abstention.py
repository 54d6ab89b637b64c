"""Fit on which images a release abstains, by its training and calibration images; measure it on those held out."""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from datasets import Dataset
from dermalert_space import abstention
from dermalert_space.contract import ABSTENTION, CONFIG, STATISTICS, Json
from dermalert_space.release import Predictions, Release
from PIL import Image
from safetensors.torch import save_file

from dermalert.evaluation.intervals import Intervals
from dermalert.evaluation.predict import SplitPredictions, inputs, of_split, predict_images
from dermalert.imaging import non_lesions

FALSE_ABSTENTIONS = 0.0075
"""Share of images like those of the calibration split on which a release may abstain, in the mean over such splits."""

TRAINING_IMAGES = 2500
"""Images that the statistics are of, at most: more hardly move them."""

_DIRECTIONS = 16  # of the normal distribution that are its own; chosen, as the rate above, on the validation split
_RANKED = ("light", "contrast", "detail")  # whose thresholds are the lowest value of the calibration split
_SPENT = len(_RANKED) + 1  # images of the rate that these and the short side may take
_MARGIN = 1e-4  # so that rounding in another batch or on another machine costs no image that set a threshold


def add(folder: Path, release: Release, train: Dataset, calibration: Dataset) -> tuple[Release, SplitPredictions]:
    """Fit the abstention of the release in a folder: `ABSTENTION` in its config, and its file.

    Returns:
        The release, loaded anew, and its predictions of the calibration split.
    """
    few = train.shuffle(seed=0).select(range(min(len(train), TRAINING_IMAGES)))
    statistics = statistics_of(features_of(release, few, name="training images"))
    save_file(statistics, folder / STATISTICS)
    predictions, signals = examine(release, statistics, calibration)
    path = folder / CONFIG
    config = json.loads(path.read_text()) | {ABSTENTION: thresholds(release, signals)}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    release = Release.load(folder)
    assert release.abstention is not None  # just written
    reasons = map(release.abstention.reason, signals)
    abstained = [why or reason for why, reason in zip(predictions.abstained, reasons, strict=True)]
    return release, of_split(release, calibration, dataclasses.replace(predictions, abstained=abstained))


def statistics_of(features: np.ndarray) -> dict[str, torch.Tensor]:
    """The normal distribution of features (n, d), as `abstention.Abstention` takes it.

    Directions with the largest variance keep it; all others share the mean of theirs, which is the most likely value
    (Tipping & Bishop 1999).
    """
    mean, scale = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    scale = np.where(scale > 1e-6, scale, 1)  # a channel that is always the same
    deviations = (features - mean) / scale
    # The n x n products have the same largest eigenvalues as the covariance, and n is often far below d.
    variance, vectors = np.linalg.eigh(deviations @ deviations.T / len(features))
    k = int(min(_DIRECTIONS, (variance > 1e-6).sum() // 2))  # fewer where the images are few, or copies of each other
    variance, vectors = variance[::-1][:k], vectors[:, ::-1][:, :k]
    basis = (deviations.T @ vectors / np.sqrt(len(features) * variance)).T
    rest = (deviations**2).sum() / len(features) - variance.sum()
    noise = max(rest / (features.shape[1] - k), 1e-6)
    arrays = {"mean": mean, "scale": scale, "variance": variance, "noise": np.array([noise])}
    statistics = {name: torch.from_numpy(np.ascontiguousarray(array)).float() for name, array in arrays.items()}
    return statistics | {"basis": torch.from_numpy(np.ascontiguousarray(basis)).half()}


class _Examination(abstention.Abstention):
    """Abstains on no image, and keeps the signals of each."""

    def __init__(self, statistics: dict[str, torch.Tensor]):
        super().__init__({}, statistics)
        self.signals: list[dict[str, float]] = []

    def reasons(self, signals: Sequence[Mapping[str, float]], features: np.ndarray) -> list[str | None]:
        distances = self.distances(features).tolist()
        self.signals += [{**each, "distance": d} for each, d in zip(signals, distances, strict=True)]
        return [None] * len(signals)


def examine(
    release: Release, statistics: dict[str, torch.Tensor], dataset: Dataset
) -> tuple[Predictions, list[dict[str, float]]]:
    """A release's predictions of a data set, without abstention, and the signals of each image for one."""
    examination = _Examination(statistics)
    examining = Release(release.model, release.processor, name=release.name, abstention=examination)
    return predict_images(examining, dataset, name="calibration images", keep=True), examination.signals


class AbstentionThresholds(TypedDict):
    """The key `refusal` of a release's config: thresholds by signal, and what they promise."""

    thresholds: dict[str, float]
    images: int
    refused: int
    false_refusal_rate: float
    target_false_refusal_rate: float


class Share(TypedDict):
    """The share of n images on which a release abstains, with its interval."""

    n: int
    refused: Json


class Abstentions(TypedDict):
    """On how many images a release abstains: by source of the held-out ones, and by kind of the unusable ones."""

    held_out: dict[str, Share]
    unfit: dict[str, Share]


def thresholds(release: Release, signals: Sequence[dict[str, float]]) -> AbstentionThresholds:
    """The thresholds by the calibration images' signals, and their promise.

    Of n images and one more like them, each is the most extreme with probability 1 / (n + 1). Light, contrast, detail
    and the short side may be as low as in any calibration image, the side as low as half of the model's input too; the
    distance takes what is left of `FALSE_ABSTENTIONS`, and at least as much.
    """
    n = len(signals)
    values = {name: np.array([row[name] for row in signals]) for name in abstention.REASONS}
    distance, beyond = distance_threshold(values["distance"])
    limits = {name: values[name].min() * (1 - _MARGIN) for name in _RANKED}
    # Copies of one archive come in many sizes: an image as small as half of the model's input shows enough of a lesion.
    limits |= {"side": min(values["side"].min(), _input_side(release) / 2), "distance": distance * (1 + _MARGIN)}
    return {
        "thresholds": {name: float(limits[name]) for name in abstention.REASONS},
        "images": n,
        "refused": int((values["distance"] > limits["distance"]).sum()),
        "false_refusal_rate": (beyond + 1 + _SPENT) / (n + 1),
        "target_false_refusal_rate": FALSE_ABSTENTIONS,
    }


def distance_threshold(distances: np.ndarray) -> tuple[float, int]:
    """The distance beyond which a release abstains, and the number of calibration images (n,) beyond it."""
    beyond = max(int(FALSE_ABSTENTIONS * (len(distances) + 1)) - _SPENT - 1, 0)
    return float(np.sort(distances)[-1 - beyond]), beyond


def _input_side(release: Release) -> int:
    picture = Image.new("RGB", (512, 512))
    return min(release.processor(picture, return_tensors="pt")["pixel_values"].shape[-2:])


def features_of(release: Release, dataset: Dataset, *, name: str) -> np.ndarray:
    """The features that `abstention.Abstention` looks at, float32 (n, d), of a data set's images."""
    batches = inputs(release, dataset, f"Features of {name}")
    return np.concatenate([release.features(batch) for batch in batches])


def measure(release: Release, held_out: Dataset, abstained: np.ndarray) -> Abstentions:
    """The share of images on which a release abstains: held-out ones, by source, and some that cannot be assessed.

    Args:
        release: any that can abstain.
        held_out: in the schema of `schema.FEATURES`.
        abstained: (n,) whether it has abstained on each.
    """
    sources, intervals = np.array(held_out["source"][:]), Intervals(np.array(held_out["group"][:]))
    unfit: dict[str, list[bool]] = defaultdict(list)
    for kind, image in non_lesions.unusable_images(held_out):
        unfit[kind] += [reason is not None for reason in release.predict_arrays([image]).abstained]
    whose = {"all": np.ones(len(sources), bool)} | {str(name): sources == name for name in np.unique(sources)}
    return {
        "held_out": {
            name: {"n": int(among.sum()), "refused": intervals.of_proportion(abstained, among).to_json()}
            for name, among in whose.items()
        },
        "unfit": {kind: _share(np.array(those)) for kind, those in unfit.items()},
    }


def _share(abstained: np.ndarray) -> Share:
    """The share of independent pictures (n,) on which a release has abstained, with an interval."""
    n = len(abstained)
    share = Intervals(np.arange(n)).of_proportion(abstained, np.ones(n, bool))
    return {"n": n, "refused": share.to_json()}
