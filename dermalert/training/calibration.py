"""Temperature and prior, fitted on the calibration split and folded into the last linear layer."""

import dataclasses

import numpy as np
from datasets import Dataset
from dermalert_space import onnx_graph
from dermalert_space.release import Release
from scipy import optimize, special
from transformers import BaseImageProcessor, PreTrainedModel

from dermalert.errors import RunError
from dermalert.evaluation.predict import predict_images
from dermalert.taxonomy import ALERT
from dermalert.training import head

_TINY = 1e-30  # keeps the logarithm of a probability that float32 rounded to 0 finite
_LOG_TEMPERATURES = (np.log(0.05), np.log(20))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was folded into the last layer: logits / temperature + bias."""

    temperature: float
    bias: list[float]
    """One a class, in nats; zeros where the training had no prior to give back."""
    images: int

    def undone(self, probabilities: np.ndarray) -> np.ndarray:
        """The probabilities (n, classes) that the model gave before."""
        logits = np.log(np.maximum(probabilities, _TINY)) - np.array(self.bias)
        return special.softmax(logits * self.temperature, axis=1)


def calibrate(
    model: PreTrainedModel, processor: BaseImageProcessor, dataset: Dataset, *, prior: np.ndarray | None = None
) -> Calibration:
    """Fold temperature and prior into a model by its calibration images, and return them.

    Args:
        model: any transformers image classifier that ends in a linear layer.
        processor: its own.
        dataset: the calibration split.
        prior: (classes,) the shares that a rebalanced training took out of the logits, to be given back; a last layer
            without a bias cannot take them, and keeps the balanced answers.

    Raises:
        RunError: the model gives no numbers.
    """
    model.config.alert = {"label": ALERT, "threshold": None}
    serving = Release(model, processor, name="calibration")
    # Logarithms of probabilities are logits up to a constant an image, which no softmax sees.
    probabilities = predict_images(serving, dataset, name="calibration images", keep=True).probabilities
    if not np.isfinite(probabilities).all():
        raise RunError("the training diverged: the model's answers are not numbers. Try a lower --learning_rate.")
    logits = np.log(np.maximum(probabilities, _TINY))
    truth = np.array(dataset["label"][:])
    layer = head.last_linear(model, onnx_graph.noise(processor))
    temperature, bias = fit(logits, truth, None if layer.bias is None else prior)
    head.fold(layer, temperature, bias)
    return Calibration(temperature=temperature, bias=bias.tolist(), images=len(truth))


def fit(logits: np.ndarray, truth: np.ndarray, prior: np.ndarray | None) -> tuple[float, np.ndarray]:
    """The temperature and the bias a class, zeros without a prior, that calibrate logits (n, classes)."""
    if prior is None:
        return fit_temperature(logits, truth), np.zeros(logits.shape[1])
    return fit_prior(logits, truth, prior)


def calibrated_loss(logits: np.ndarray, truth: np.ndarray, prior: np.ndarray | None) -> float:
    """The mean negative log-likelihood, in nats, that is left once logits are calibrated on these same images.

    By it the epochs of a training are compared: the loss as it is rises as a model grows too sure of itself, while it
    still learns to tell the classes apart (Ranjan 2024, arXiv 2404.07815); a calibration takes that back. NaN where the
    logits are not all numbers.

    Args:
        logits: (n, classes).
        truth: (n,) label ids.
        prior: (classes,) as `calibrate` takes it.
    """
    if not np.isfinite(logits).all():
        return float("nan")
    temperature, bias = fit(logits, truth, prior)
    return float(_likelihood_loss(logits / temperature + bias, truth).mean())


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The temperature, in [0.05, 20], that minimises the negative log-likelihood (Guo 2017, arXiv 1706.04599).

    Args:
        logits: (n, classes).
        truth: (n,) label ids.
    """

    def loss(log_temperature: float) -> float:
        return _likelihood_loss(logits / np.exp(log_temperature), truth).mean()

    return float(np.exp(optimize.minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded").x))


def fit_prior(logits: np.ndarray, truth: np.ndarray, prior: np.ndarray) -> tuple[float, np.ndarray]:
    """The temperature and the bias a class that minimise the negative log-likelihood.

    A classifier trained as if all classes were equally common answers for that mix; the logarithm of the shares gives
    the mix of the data back (Menon 2021, arXiv 2007.07314). The biases start there and are held there by a normal
    prior of one nat, so that a class with few calibration images, or none, stays near its share.

    Args:
        logits: (n, classes).
        truth: (n,) label ids.
        prior: (classes,) the shares among the training images; at least one image is reckoned for a class without.
    """
    centre = np.log(prior)

    def loss(parameters: np.ndarray) -> float:
        log_temperature, bias = parameters[0], parameters[1:]
        return _likelihood_loss(logits / np.exp(log_temperature) + bias, truth).sum() + ((bias - centre) ** 2).sum() / 2

    start = np.concatenate([[0.0], centre])
    bounds = [_LOG_TEMPERATURES, *[(None, None)] * len(prior)]
    best = optimize.minimize(loss, start, method="L-BFGS-B", bounds=bounds).x
    return float(np.exp(best[0])), best[1:] - best[1:].mean()


def _likelihood_loss(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return -special.log_softmax(logits, axis=1)[np.arange(len(truth)), truth]
