"""Load a dermalert release and predict images with it: the only home of serving logic.

Needs torch, transformers and Pillow, and nothing of the training side: all it knows of a model comes out of the
release, a folder or a Hub repository at a tag. A release with a graph for ONNX Runtime is asked by that on a CPU, which
takes `onnx` and `onnxruntime` too.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import BaseImageProcessor, PreTrainedModel

from dermalert_space import abstention, checks, contract, onnx_graph, release_loading
from dermalert_space.abstention import Abstention
from dermalert_space.contract import (
    ABSTENTION,
    ALERT_POINT,
    ATTENTION_POINT,
    GRAPH,
    METRICS,
    PREDICTION_SETS,
    REFERENCE,
    STATISTICS,
    TOLERANCE,
    HubName,
    Json,
    State,
)
from dermalert_space.frequencies import Frequencies, read_frequencies
from dermalert_space.images import read_image
from dermalert_space.prediction import Attention, Prediction, share, shares, state
from dermalert_space.prediction_sets import PredictionSets
from dermalert_space.release_loading import NoRelease, first_line

NO_NUMBER = "what this release answers is not a number: its weights are damaged."


class ParityError(NoRelease):
    """The release gives other answers here than those that were measured; the text says by how much."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions:
    """The predictions of a release as arrays, a row each image."""

    probabilities: np.ndarray
    """(images, diagnoses) float32, calibrated, each row summing to 1."""
    abstained: list[str | None]
    """Why an image cannot be assessed, in words; None where it can."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a release looks at of a batch of images."""

    pixels: Mapping[str, torch.Tensor]
    """As its processor makes them: `pixel_values` (images, 3, height, width), and for some models more."""
    signals: Sequence[Mapping[str, float]]
    """Of each image, see `abstention.signals`; a release that never abstains needs none."""


class Release:
    """A model with its processor, operating points and abstention, as one tagged release holds them."""

    def __init__(
        self,
        model: PreTrainedModel,
        processor: BaseImageProcessor,
        *,
        name: str,
        revision: str | None = None,
        abstention: Abstention | None = None,
    ):
        config: Any = model.config  # has the keys of a release
        self.model, self.processor, self.name, self.revision = model, processor, name, revision
        self.abstention = abstention
        """None where the release abstains from no image."""
        self.graph: onnx_graph.Graph | None = None
        """ONNX Runtime's graph, which predicts in place of `model` on a CPU: faster, within `onnx_graph.CLOSE`."""
        self.labels = [config.id2label[i] for i in range(config.num_labels)]
        self.alert_label = config.alert["label"]
        self.threshold = config.alert["threshold"]
        self.groups: dict[str, list[str]] = getattr(config, "clinical_groups", None) or {}
        """`malignant`, `precursor` and `benign`, each with its diagnoses; empty where the release says nothing."""
        point = getattr(config, ATTENTION_POINT, None)
        self.attention: Attention | None = None
        if point:
            self.attention = Attention(labels=tuple(point["labels"]), threshold=point["threshold"])
        """None where the release was made before there was such an operating point."""
        sets = getattr(model.config, PREDICTION_SETS, None)
        self.prediction_sets = PredictionSets.read(sets) if sets else None
        """None where the release was made before there were any."""

    @classmethod
    def load(cls, model: str | Path, revision: str | None = None) -> "Release":
        """Load a release from a folder or from the Hub at a tag.

        Args:
            model: a folder, `USER/REPO`, or `USER/REPO@TAG`.
            revision: the tag, branch or commit, where `model` does not name it.

        Raises:
            NoRelease: it is not there, cannot be reached, or says nothing of an alert.
        """
        name, revision = (str(model), revision) if revision else contract.locate(model)
        config, tensors = release_loading.read_config(name, revision)
        network, processor = release_loading.build_model(name, revision, tensors)
        for problem in release_loading.problems(network.config, config[ALERT_POINT]["threshold"]):
            raise NoRelease(f"{HubName(name, revision)} cannot be served: {problem}.")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # Convolutions on a CPU take a quarter less with the channels last.
        network = network.eval().to(device, memory_format=torch.channels_last)
        release = cls(network, processor, name=name, revision=revision)
        release._try_out()
        release.graph = release._read_graph() if device == "cpu" else None
        release.abstention = release._read_abstention()
        return release

    def _try_out(self) -> None:
        """Refuse a release that cannot answer to an image, whatever in its files is the cause."""
        try:
            black = [Image.new("RGB", (64, 64))]
            features = self.features(self.inputs(black))
            if self.probabilities(black).shape == (1, len(self.labels)) and features.ndim == 2:
                return
            raise ValueError("answers of another shape")
        except Exception as error:
            raise NoRelease(
                f"{self} cannot be served: it cannot assess an image ({first_line(error)}): its files are damaged, or "
                "do not belong together."
            ) from error

    def _read_graph(self) -> onnx_graph.Graph | None:
        try:
            path = self.file(GRAPH)
            if path is None:
                return None
            pixels = onnx_graph.noise(self.processor)
            onnx_graph.try_out(path, self.model, pixels)
            graph = onnx_graph.Graph(path, self.model)
            graph.check(self.model, pixels)
            return graph
        except onnx_graph.Unfit as error:
            raise NoRelease(f"{self} cannot be served: its {GRAPH} {error}.") from error
        except OSError as error:
            raise NoRelease(f"cannot read {GRAPH} of {self}: out of reach.") from error

    def _read_abstention(self) -> Abstention | None:
        config = getattr(self.model.config, ABSTENTION, None)
        if config is None:
            return None
        try:
            path = self.file(STATISTICS)
            if path is None:
                raise KeyError(STATISTICS)
            features = self.features(self.inputs([Image.new("RGB", (64, 64))]))
            checks.statistics(checks.tensors(path, few=True), features.shape[1])
            return Abstention.read(config["thresholds"], path)
        except NoRelease:
            raise
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
            raise NoRelease(f"cannot read {STATISTICS} of {self}: damaged, not there, or out of reach.") from error

    def __str__(self) -> str:
        return str(HubName(self.name, self.revision))

    @property
    def public_name(self) -> str:
        """The name without its tag; of a folder only the last part: where it lies is nobody's business."""
        return Path(self.name).resolve().name if Path(self.name).is_dir() else self.name

    def metrics(self) -> Json | None:
        """The content of `METRICS`; None where the release has none."""
        path = self.file(METRICS)
        try:
            figures = None if path is None else checks.json_object(path)
            if figures is not None:
                _ = figures["splits"]["held_out"]["melanoma"]["n"]  # another kind of file has none
            return figures
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NoRelease(f"cannot read {METRICS} of {self}: damaged, cut short, or of another kind.") from error

    @functools.cached_property
    def frequencies(self) -> Frequencies:
        """How many of the held-out lesions with a like probability were what was looked for."""
        return read_frequencies(self)

    def file(self, name: str) -> Path | None:
        """The path of a file on this machine, None where the release lacks it; a link that leaves is a `NoRelease`."""
        return release_loading.locate(self.name, self.revision, name)

    def probabilities(self, images: Sequence[Image.Image], *, batch_size: int = 16) -> np.ndarray:
        """The calibrated probabilities of RGB images: float32, images x diagnoses, each row summing to 1."""
        return self.predict_arrays(images, batch_size=batch_size).probabilities

    def predict_arrays(self, images: Sequence[Image.Image], *, batch_size: int = 16) -> Predictions:
        """Predict RGB images as arrays, and say from which of them the release abstains."""
        batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
        return self.predict_batches(map(self.inputs, batches))

    def inputs(self, images: Sequence[Image.Image]) -> Inputs:
        """What the release looks at of RGB images."""
        signals = [] if self.abstention is None else [abstention.signals(image) for image in images]
        return Inputs(pixels=self.processor(list(images), return_tensors="pt"), signals=signals)

    def predict_batches(self, batches: Iterable[Inputs]) -> Predictions:
        """Predict batches of images as arrays, and say from which of them the release abstains."""
        rows = [np.empty((0, len(self.labels)), np.float32)]
        reasons: list[str | None] = []
        for batch in batches:
            logits, features = self.forward(batch, with_features=self.abstention is not None)
            rows.append(logits.softmax(-1).numpy())
            reasons += self._reasons(batch, features)
        probabilities = np.concatenate(rows)
        numbers = np.all(np.isfinite(probabilities), axis=1)
        abstained = [reason if number else NO_NUMBER for reason, number in zip(reasons, numbers, strict=True)]
        return Predictions(probabilities=probabilities, abstained=abstained)

    def _reasons(self, batch: Inputs, features: torch.Tensor | None) -> Sequence[str | None]:
        if self.abstention is None or features is None:
            return [None] * len(batch.pixels["pixel_values"])
        return self.abstention.reasons(batch.signals, features.numpy())

    def features(self, batch: Inputs) -> np.ndarray:
        """The features of a batch, (images, d) float32, see `Abstention.distances`."""
        _, features = self.forward(batch, with_features=True)
        assert features is not None  # they were asked for
        return features.numpy()

    @torch.inference_mode()
    def forward(self, batch: Inputs, *, with_features: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The logits (n, labels) of a batch, and its features (n, d) if they are asked for, both on the CPU."""
        if self.graph is not None:
            return self.graph(batch.pixels["pixel_values"])
        hidden = {"output_hidden_states": True} if with_features else {}
        pixels = {name: tensor.to(self.model.device) for name, tensor in batch.pixels.items()}
        output = self.model(**pixels, **hidden)
        return output.logits.cpu(), abstention.features(output.hidden_states).cpu() if with_features else None

    def parity_error(self) -> float | None:
        """The largest difference of a probability of the reference images from the recorded one.

        Above `TOLERANCE`, another library, another processor or damaged weights give other predictions here than those
        that were measured. None where the release has no reference images.

        Raises:
            NoRelease: the reference images cannot be read.
        """
        try:
            path = self.file(REFERENCE)
            if path is None:
                return None
            checks.reference(checks.tensors(path, few=True), len(self.labels))
            reference = load_file(path)
            images, recorded = reference["images"].numpy(), reference["probabilities"].numpy()
            if not np.isfinite(recorded).all():
                raise KeyError("probabilities")
        except NoRelease:
            raise
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise NoRelease(f"cannot read {REFERENCE} of {self}: damaged, cut short, or out of reach.") from error
        probabilities = self.probabilities([Image.fromarray(pixels) for pixels in images])
        return float(np.nan_to_num(np.abs(probabilities - recorded), nan=1.0).max())

    def verify_parity(self, say: Callable[[str], object] = lambda _: None) -> None:
        """Check that the reference images, if there are any, get the recorded probabilities, within `TOLERANCE`.

        Raises:
            ParityError: a probability is further off.
            NoRelease: the reference images cannot be read.
        """
        error = self.parity_error()
        if error is None:
            say(f"{self} has no {REFERENCE}: whether it answers here as it was measured is not checked.")
        elif error > TOLERANCE:
            raise ParityError(
                f"{self} answers otherwise here than it was measured: a probability of a reference image is off by "
                f"{error:.2g}. Install the versions of requirements.txt, or load it anew."
            )

    def predict(self, image: str | Path | bytes | Image.Image) -> Prediction:
        """Predict one image, or raise what `read_image` raises."""
        return self.predict_all([read_image(image)])[0]

    def predict_all(self, images: Sequence[Image.Image]) -> list[Prediction]:
        """Predict RGB images, as `read_image` returns them, together."""
        arrays = self.predict_arrays(images)
        alerts, attentions = self.alerts(arrays.probabilities), self.attentions(arrays.probabilities)
        predictions = []
        for i, (row, abstained) in enumerate(zip(arrays.probabilities, arrays.abstained, strict=True)):
            alert = None if alerts is None else bool(alerts[i])
            attention = attentions is not None and bool(attentions[i])
            predictions.append(self._prediction(row, state(alert, attention, abstained), abstained))
        return predictions

    def _prediction(self, row: np.ndarray, state: str, abstained: str | None) -> Prediction:
        by_label = {self.labels[i]: float(row[i]) for i in np.argsort(-row, kind="stable")}
        malignant = [label for name in ("malignant", "precursor") for label in self.groups.get(name, [])]
        attention = float(self._attention_scores(row[None], self.attention)[0]) if self.attention else None
        return Prediction(
            state=state,
            alert=None if abstained or self.threshold is None else state == State.MELANOMA_ALERT,
            abstained=abstained,
            sentence=f"Cannot be assessed: {abstained}" if abstained else self._sentence(state, by_label, attention),
            probabilities=by_label,
            malignant=sum(by_label[label] for label in malignant) if malignant else None,
            attention=attention,
            urgency=self._urgency(by_label[self.alert_label], attention),
        )

    def _urgency(self, probability: float, attention: float | None) -> float | None:
        multiples = [probability / self.threshold] if self.threshold else []
        if attention is not None and self.attention and self.attention.threshold:
            multiples.append(attention / self.attention.threshold)
        return max(multiples, default=None)

    def prediction_set(self, prediction: Prediction | None) -> list[str] | None:
        """The diagnoses that an image may show, see `PredictionSets`; None where it is not assessed, or there are none.

        A set without a diagnosis is an empty list: none of them fits.
        """
        if self.prediction_sets is None or prediction is None or prediction.abstained:
            return None
        return self.prediction_sets.of(prediction.probabilities)

    def alerts(self, probabilities: np.ndarray) -> np.ndarray | None:
        """Whether each row of probabilities raises the alert, (n,) bool; None when the release has no threshold."""
        if self.threshold is None:
            return None
        return probabilities[:, self.labels.index(self.alert_label)].astype(np.float64) >= self.threshold

    def attentions(self, probabilities: np.ndarray) -> np.ndarray | None:
        """Whether each row of probabilities asks for attention, (n,) bool; None without such a threshold."""
        if self.attention is None or self.attention.threshold is None:
            return None
        return self._attention_scores(probabilities, self.attention) >= self.attention.threshold

    def _attention_scores(self, probabilities: np.ndarray, point: Attention) -> np.ndarray:
        columns = [self.labels.index(label) for label in point.labels]
        return probabilities[:, columns].astype(np.float64).sum(1)

    def _sentence(self, state: str, probabilities: dict[str, float], attention: float | None) -> str:
        probability = probabilities[self.alert_label]
        measured = f"the probability of {self.alert_label} is"
        if state == State.CANNOT_ASSESS:
            return f"Cannot be assessed: this release has no alert threshold; {measured} {share(probability)}."
        if state == State.MALIGNANT_LIKELY:
            assert attention is not None and self.attention and self.attention.threshold  # else there is no such state
            value, threshold = shares(attention, self.attention.threshold)
            likely = "likely" if attention > 0.5 else "possible"
            if self.threshold is None:
                what = f"{self.alert_label}, a carcinoma or precursor is {likely}: {value} together"
                what = f"{what} (attention threshold {threshold})"
                return f"Needs attention: {what}. This release has no alert threshold."
            return (
                f"Needs attention: no {self.alert_label} alert, but a carcinoma or precursor is {likely}: {value} "
                f"together with {self.alert_label} (attention threshold {threshold})."
            )
        assert self.threshold is not None  # such a release has no other state
        value, threshold = shares(probability, self.threshold)
        raised = state == State.MELANOMA_ALERT
        word = f"{self.alert_label.capitalize()} alert" if raised else f"No {self.alert_label} alert"
        return f"{word}: {measured} {value}; alert threshold {threshold}."
