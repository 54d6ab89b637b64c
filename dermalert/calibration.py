"""Temperature, folded into the last linear layer, and the alert threshold: both set on the calibration side."""

import numpy as np
import torch
from datasets import Dataset
from scipy import optimize, special, stats
from torch import nn

from dermalert.diagnoses import ALERT, DIAGNOSES
from dermalert.errors import RunError
from dermalert.evaluation import predict
from space.triage import Release, read_image

TARGET_SENSITIVITY = 0.95
CONFIDENCE = 0.95  # one-sided


def calibrate(model: nn.Module, processor, dataset: Dataset) -> tuple[float, dict]:
    """Fold the temperature into a model by its calibration images; return it and the alert.

    Raises:
        RunError: the model gives no numbers.
    """
    model.config.alert = {"label": ALERT, "threshold": None}
    serving = Release(model, processor, name="calibration")
    # Logarithms of probabilities are logits up to a constant an image, which no softmax sees.
    probabilities = predict(serving, dataset, name="calibration images")
    if not np.isfinite(probabilities).all():
        raise RunError("the training diverged: the model's answers are not numbers. Try a lower --learning_rate.")
    logits = np.log(np.maximum(probabilities, 1e-30))
    truth, lesions = np.array(dataset["label"]), np.array(dataset["group"])
    temperature = fit_temperature(logits, truth)
    fold_temperature(
        model, temperature, processor(read_image(dataset[0]["image"]), return_tensors="pt")["pixel_values"]
    )
    melanoma = truth == DIAGNOSES.index(ALERT)
    scores = special.softmax(logits / temperature, axis=1)[:, DIAGNOSES.index(ALERT)]
    return temperature, alert_threshold(scores[melanoma], lesions[melanoma])


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """Return the temperature, in [0.05, 20], that minimises the negative log-likelihood (Guo 2017, arXiv 1706.04599).

    Args:
        logits: (n, classes).
        truth: (n,) label ids.
    """

    def loss(log_temperature: float) -> float:
        return -special.log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(len(truth)), truth].mean()

    return float(np.exp(optimize.minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


@torch.no_grad()
def fold_temperature(model: nn.Module, temperature: float, pixels: torch.Tensor) -> None:
    """Divide a classifier's logits by a temperature (above 0), for good, in its last linear layer.

    Raises:
        ValueError: see `last_linear`.
    """
    layer = last_linear(model, pixels)
    layer.weight /= temperature
    if layer.bias is not None:
        layer.bias /= temperature


@torch.no_grad()
def last_linear(model: nn.Module, pixels: torch.Tensor) -> nn.Linear:
    """Return the linear layer whose output is what a classifier gives as its logits.

    Args:
        model: any transformers image classifier.
        pixels: (n, 3, H, W) images to run it on.

    Raises:
        ValueError: there is none.
    """
    outputs = {}
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_hook(lambda layer, _, output: outputs.update({layer: output})) for layer in layers]
    logits = model.eval()(pixels).logits
    for hook in hooks:
        hook.remove()
    for layer, output in reversed(outputs.items()):
        if output.shape == logits.shape and torch.equal(output.nan_to_num(), logits.nan_to_num()):
            return layer
    raise ValueError(f"the logits of {type(model).__name__} are not the output of a linear layer")


def alert_threshold(scores: np.ndarray, lesions: np.ndarray) -> dict:
    """Return the largest threshold whose bound on the sensitivity meets the target, as the release states it.

    Each lesion counts once, with the lowest score of its photos. The bound is the exact one-sided lower limit
    (Clopper & Pearson 1934) of the share of melanomas that score at least the threshold. It holds for lesions drawn
    like those of the calibration side.

    Args:
        scores: (n,) melanoma probabilities of the photos of melanomas.
        lesions: (n,) the lesion of each.
    """
    lowest = np.array(sorted(scores[lesions == lesion].min() for lesion in np.unique(lesions)))
    n = len(lowest)
    bounds = [_lower_bound(n, missed) for missed in range(n)]
    allowed = sum(bound >= TARGET_SENSITIVITY for bound in bounds) - 1  # -1: not even with none missed
    missed = int((lowest < lowest[max(allowed, 0)]).sum()) if n else None  # fewer than allowed where scores tie
    return {
        "label": ALERT,
        # A hair below the lowest score that must be caught, so that rounding in another batch cannot lose it.
        "threshold": float(lowest[missed] * (1 - 1e-4)) if n else None,
        "target_sensitivity": TARGET_SENSITIVITY,
        "confidence": CONFIDENCE,
        "lesions": n,
        "missed": missed,
        "lower_bound": bounds[missed] if n else None,
        "bound_met": allowed >= 0,
        "lesions_needed": int(np.ceil(np.log(1 - CONFIDENCE) / np.log(TARGET_SENSITIVITY))),
    }


def _lower_bound(n: int, missed: int) -> float:
    """Return the one-sided exact lower confidence limit of a sensitivity of (n - missed) of n."""
    return float(stats.beta.ppf(1 - CONFIDENCE, n - missed, missed + 1))
