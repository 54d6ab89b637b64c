"""Abstain on an image that a release cannot assess: too small, too dark, no lesion, blurred, unlike all it knows.

Thresholds and statistics travel in the release (`refusal` in its config, `refusal.safetensors`); the training side sets
them with the functions of this file, on calibration images.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

_SIDE = 128  # pixels of the thumbnail that light, contrast and detail are read from

REASONS = {
    "side": "the image is too small ({value:.0f} pixels on its short side; this release needs {threshold:.0f}).",
    "light": "the image, or the skin in it, is darker than any that this release was set on.",
    "contrast": "the image is much the same all over: it shows no lesion.",
    "detail": "the image is blurred.",
    "distance": "the image is unlike the dermoscopy images that this release has learnt from.",
}
"""What is wrong, the first that applies, by the signal that says so."""


def signals(image: Image.Image) -> dict[str, float]:
    """What an RGB image shows without a model; the lower, the worse.

    Returns:
        `side`, pixels of the shorter side; `light`, the 95th percentile of the luminance, 0 to 1; `contrast`, the
        standard deviation, 0 to 1, of the colour that varies most, in eighths of the image; `detail`, how much of the
        variation of the luminance is between neighbouring pixels of a thumbnail.
    """
    thumbnail = image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    grey = np.asarray(thumbnail.convert("L"), np.float64) / 255
    coarse = np.asarray(thumbnail.resize((8, 8), Image.Resampling.BOX), np.float64) / 255
    edges = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]  # Laplacian
    return {
        "side": float(min(image.size)),
        "light": float(np.quantile(grey, 0.95)),
        "contrast": float(coarse.std((0, 1)).max()),
        "detail": float(edges.std() / max(grey.std(), 1 / 255)),
    }


def features(hidden_states: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean of each channel of each layer of a model, (n, d) float32.

    The early layers see colour and texture and tell a street from a lesion; the last ones alone hardly do.

    Args:
        hidden_states: of a transformers model, (n, channels, height, width) or (n, tokens, channels) each.
    """
    means = [states.mean((2, 3)) if states.ndim == 4 else states.mean(1) for states in hidden_states]
    return torch.cat(means, 1).float()


class Abstention:
    """The thresholds of a release, and how it tells how far an image is from those that it has learnt from."""

    def __init__(self, thresholds: dict[str, float], statistics: dict[str, torch.Tensor]):
        self.thresholds = thresholds
        self._statistics = {name: tensor.numpy().astype(np.float64) for name, tensor in statistics.items()}

    @classmethod
    def read(cls, thresholds: dict[str, float], path: Path) -> "Abstention":
        """Read the statistics of a release, whose shapes `checks.statistics` has checked.

        Raises:
            OSError, SafetensorError, KeyError, ValueError: they are not there, damaged, or no distance follows.
        """
        statistics = load_file(path)
        limits = {name: float(thresholds[name]) for name in REASONS}
        finite = all(map(math.isfinite, limits.values())) and all(each.isfinite().all() for each in statistics.values())
        if not finite or not all((statistics[name] > 0).all() for name in ("scale", "variance", "noise")):
            raise ValueError("these are not numbers that a distance can be made of")
        return cls(limits, statistics)

    def distances(self, features: np.ndarray) -> np.ndarray:
        """The distances of features (n, d) from those of the training images, (n,); about 1 for those themselves.

        The Mahalanobis distance by the root of d, under a normal distribution that has a few directions of its own and
        one variance for all others (Tipping & Bishop 1999, probabilistic principal components; for networks' layers
        Lee 2018, arXiv 1807.03888).
        """
        statistics = self._statistics
        deviations = (features.astype(np.float64) - statistics["mean"]) / statistics["scale"]
        along = deviations @ statistics["basis"].T
        rest = np.maximum((deviations**2).sum(1) - (along**2).sum(1), 0)
        squares = (along**2 / statistics["variance"]).sum(1) + rest / statistics["noise"]
        return np.sqrt(squares / deviations.shape[1])

    def reasons(self, signals: Sequence[Mapping[str, float]], features: np.ndarray) -> list[str | None]:
        """Why each image, by its signals and features (n, d), cannot be assessed; None where it can."""
        distances = self.distances(features).tolist()
        return [self.reason({**each, "distance": d}) for each, d in zip(signals, distances, strict=True)]

    def reason(self, values: Mapping[str, float]) -> str | None:
        """Why an image with these signals, `distance` among them, cannot be assessed; None where it can."""
        name = self.failing(values)
        return name and REASONS[name].format(value=values[name], threshold=self.thresholds[name])

    def failing(self, values: Mapping[str, float]) -> str | None:
        """The first of `REASONS` for which an image with these signals cannot be assessed; None where it can."""
        for name in REASONS:
            value, threshold = values[name], self.thresholds[name]
            # The other way round, so that a distance that is no number is refused.
            if not (value <= threshold if name == "distance" else value >= threshold):
                return name
        return None
