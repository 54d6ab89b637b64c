"""Load a dermalert release and predict images with it: the only home of serving logic.

Needs torch, transformers and Pillow, and nothing of the training side: all it knows of a model comes out of the
release, a folder or a Hub repository at a tag. A release with a graph for ONNX Runtime is asked by that on a CPU, which
takes `onnx` and `onnxruntime` too.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
)
from transformers.utils import cached_file

from dermalert_space import checks, contract, onnx_graph
from dermalert_space.abstention import Abstention, features
from dermalert_space.contract import GRAPH, METRICS, PROCESSORS, REFERENCE, STATISTICS, TOLERANCE, WEIGHTS, HubName
from dermalert_space.images import read_image
from dermalert_space.prediction import Attention, Prediction, printable, share, shares, state
from dermalert_space.pretrained import load_processor, missing_from_cache

_NO_NUMBER = "what this release answers is not a number: its weights are damaged."

BUNDLED = Path(__file__).parents[1] / "model"
"""The release that is served where none is named."""


class NoRelease(ValueError):
    """The model is no dermalert release, or cannot be reached; the text says what to do, in one line."""

    def __str__(self) -> str:
        return printable(super().__str__())  # it may quote what a stranger has written


class ParityError(NoRelease):
    """The release gives other answers here than those that were measured; the text says by how much."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a release answers to images."""

    probabilities: np.ndarray
    """(images, diagnoses) float32, calibrated, each row summing to 1."""
    abstained: list[str | None]
    """Of each image why it cannot be assessed, in words; None where it is."""


class Release:
    """A model, its processor, its alert threshold and what it declines, as one tagged release holds them."""

    def __init__(
        self, model, processor, *, name: str, revision: str | None = None, abstention: Abstention | None = None
    ):
        self.model, self.processor, self.name, self.revision = model, processor, name, revision
        self.abstention = abstention
        """What declines an image; None where the release declines none."""
        self.graph = None
        """ONNX Runtime's, which predicts in place of `model` on a CPU: within `onnx_graph.CLOSE` of it, faster."""
        self.labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
        self.alert_label = model.config.alert["label"]
        self.threshold = model.config.alert["threshold"]
        self.groups: dict[str, list[str]] = getattr(model.config, "clinical_groups", None) or {}
        """`malignant`, `precursor` and `benign`, each with its diagnoses; empty where the release says nothing."""
        point = getattr(model.config, "attention", None)
        self.attention = point and Attention(labels=tuple(point["labels"]), threshold=point["threshold"])
        """None where the release was made before there was such an operating point."""

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
        config, tensors = _checked_files(name, revision)
        network, processor = _built(name, revision, tensors)
        alert = config.get("alert")
        for problem in _problems(network.config, alert["threshold"]):
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
            found = self.features([Image.new("RGB", (64, 64))])
            if self.probabilities([Image.new("RGB", (64, 64))]).shape == (1, len(self.labels)) and found.ndim == 2:
                return
            raise ValueError("answers of another shape")
        except Exception as error:
            raise NoRelease(
                f"{self} cannot be served: it cannot judge an image ({_reason(error)}): its files are damaged, or do "
                "not belong together."
            ) from error

    def _read_graph(self) -> onnx_graph.Graph | None:
        try:
            path = self.file(GRAPH)
            if path is None:
                return None
            pixels = onnx_graph.noise(self.processor)
            onnx_graph.try_out(path, self.model, pixels)
            found = onnx_graph.Graph(path, self.model)
            found.check(self.model, pixels)
            return found
        except onnx_graph.Unfit as error:
            raise NoRelease(f"{self} cannot be served: its {GRAPH} {error}.") from error
        except OSError as error:
            raise NoRelease(f"cannot read {GRAPH} of {self}: out of reach.") from error

    def _read_abstention(self) -> Abstention | None:
        told = getattr(self.model.config, "refusal", None)
        if told is None:
            return None
        try:
            path = self.file(STATISTICS)
            if path is None:
                raise KeyError(STATISTICS)
            _check_statistics(checks.tensors(path, few=True), self.features([Image.new("RGB", (64, 64))]).shape[1])
            abstention = Abstention.read(told["thresholds"], path)
            if not abstention.is_finite():
                raise ValueError("not numbers")
            return abstention
        except NoRelease:
            raise
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
            raise NoRelease(f"cannot read {STATISTICS} of {self}: damaged, not there, or out of reach.") from error

    def __str__(self) -> str:
        return str(HubName(self.name, self.revision))

    def metrics(self) -> dict | None:
        """Return the figures of the release's evaluation, `evaluation/metrics.json`; None where it has none.

        Raises:
            NoRelease: they cannot be read.
        """
        path = self.file(METRICS)
        try:
            found = None if path is None else checks.json_object(path)
            if found is not None:
                _ = found["splits"]["held_out"]["melanoma"]["n"]  # another kind of file has none
            return found
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NoRelease(f"cannot read {METRICS} of {self}: damaged, cut short, or of another kind.") from error

    def file(self, name: str) -> Path | None:
        """Return where a file of the release lies on this machine; None where the release has none of that name.

        Raises:
            NoRelease: it is a link that leaves the release, no file, or far too large.
        """
        return _file(self.name, self.revision, name)

    def probabilities(self, images: Sequence[Image.Image], *, batch_size: int = 16) -> np.ndarray:
        """Return the calibrated probabilities of RGB images: float32, images x diagnoses, each row summing to 1."""
        return self.predict_arrays(images, batch_size=batch_size).probabilities

    @torch.inference_mode()
    def predict_arrays(self, images: Sequence[Image.Image], *, batch_size: int = 16) -> Predictions:
        """Return the probabilities of RGB images, and which of them the release declines to judge."""
        rows, abstained = [np.empty((0, len(self.labels)), np.float32)], []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            logits, found = self._forward(batch, with_features=self.abstention is not None)
            rows.append(logits.softmax(-1).numpy())
            abstained += (
                [None] * len(batch) if self.abstention is None else self.abstention.reasons(batch, found.numpy())
            )
        rows = np.concatenate(rows)
        numbers = np.isfinite(rows).all(1)
        abstained = [why if number else _NO_NUMBER for why, number in zip(abstained, numbers, strict=True)]
        return Predictions(probabilities=rows, abstained=abstained)

    @torch.inference_mode()
    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return what `Abstention.distances` looks at of a batch of RGB images: (images, d) float32."""
        return self._forward(images, with_features=True)[1].numpy()

    def _forward(
        self, images: Sequence[Image.Image], *, with_features: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return logits (n, labels) of a batch, and its features (n, d) if they are asked for."""
        pixels = self.processor(images, return_tensors="pt")
        if self.graph is not None:
            return self.graph(pixels["pixel_values"])
        wanted = {"output_hidden_states": True} if with_features else {}
        found = self.model(**pixels.to(self.model.device), **wanted)
        return found.logits.cpu(), features(found.hidden_states).cpu() if with_features else None

    def parity_error(self) -> float | None:
        """Return by how much the answers to the release's reference images differ from the recorded ones, at most.

        A number above `TOLERANCE` says that another library, processor or damaged weights give other answers here than
        those that were measured. None where the release has no reference images.

        Raises:
            NoRelease: they cannot be read.
        """
        try:
            path = self.file(REFERENCE)
            if path is None:
                return None
            _check_reference(checks.tensors(path, few=True), len(self.labels))
            reference = load_file(path)
            images, recorded = reference["images"].numpy(), reference["probabilities"].numpy()
            if not np.isfinite(recorded).all():
                raise KeyError("probabilities")
        except NoRelease:
            raise
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise NoRelease(f"cannot read {REFERENCE} of {self}: damaged, cut short, or out of reach.") from error
        found = self.probabilities([Image.fromarray(pixels) for pixels in images])
        return float(np.nan_to_num(np.abs(found - recorded), nan=1.0).max())

    def verify_parity(self, say: Callable[[str], object] = lambda _: None) -> None:
        """Refuse to go on where the answers differ by more than `TOLERANCE`; nothing is asked without reference images.

        Args:
            say: is told that there are none, in a sentence.

        Raises:
            ParityError: they do.
            NoRelease: the reference images cannot be read.
        """
        parity_error = self.parity_error()
        if parity_error is None:
            say(f"{self} has no {REFERENCE}: whether it answers here as it was measured is not checked.")
        elif parity_error > TOLERANCE:
            raise ParityError(
                f"{self} answers otherwise here than it was measured: a probability of a reference image is off by "
                f"{parity_error:.2g}. Install the versions of requirements.txt, or load it anew."
            )

    def predict(self, image: str | Path | bytes | Image.Image) -> Prediction:
        """Judge one image.

        Raises:
            UnreadableImage: see `read_image`.
        """
        return self.predict_all([read_image(image)])[0]

    def predict_all(self, images: Sequence[Image.Image]) -> list[Prediction]:
        """Judge RGB images, as `read_image` returns them, together."""
        predictions = self.predict_arrays(images)
        alerts, attentions = self.alerts(predictions.probabilities), self.attentions(predictions.probabilities)
        verdicts = [
            state(
                None if alerts is None else bool(alerts[i]), attentions is not None and bool(attentions[i]), abstained
            )
            for i, abstained in enumerate(predictions.abstained)
        ]
        return [
            self._prediction(*one)
            for one in zip(predictions.probabilities, verdicts, predictions.abstained, strict=True)
        ]

    def _prediction(self, row: np.ndarray, state: str, abstained: str | None) -> Prediction:
        by_label = {self.labels[i]: float(row[i]) for i in np.argsort(-row, kind="stable")}
        watched = [label for name in ("malignant", "precursor") for label in self.groups.get(name, [])]
        attention = self.attention and float(self._attention_scores(row[None])[0])
        return Prediction(
            state=state,
            alert=None if abstained or self.threshold is None else state == "melanoma_alert",
            abstained=abstained,
            sentence=f"Cannot be assessed: {abstained}" if abstained else self._sentence(state, by_label, attention),
            probabilities=by_label,
            malignant=sum(by_label[label] for label in watched) if watched else None,
            attention=attention,
            urgency=self._urgency(by_label[self.alert_label], attention),
        )

    def _urgency(self, probability: float, attention: float | None) -> float | None:
        pairs = [(probability, self.threshold), (attention, self.attention and self.attention.threshold)]
        return max((value / threshold for value, threshold in pairs if threshold), default=None)

    def alerts(self, probabilities: np.ndarray) -> np.ndarray | None:
        """Return which rows of probabilities raise the alert; None when the release has no threshold."""
        if self.threshold is None:
            return None
        return probabilities[:, self.labels.index(self.alert_label)].astype(np.float64) >= self.threshold

    def attentions(self, probabilities: np.ndarray) -> np.ndarray | None:
        """Return which rows of probabilities ask for attention; None when the release has no such threshold."""
        if self.attention is None or self.attention.threshold is None:
            return None
        return self._attention_scores(probabilities) >= self.attention.threshold

    def _attention_scores(self, probabilities: np.ndarray) -> np.ndarray:
        watched = [self.labels.index(label) for label in self.attention.labels]
        return probabilities[:, watched].astype(np.float64).sum(1)

    def _sentence(self, state: str, probabilities: dict[str, float], attention: float | None) -> str:
        probability = probabilities[self.alert_label]
        measured = f"the probability of {self.alert_label} is"
        if state == "cannot_assess":
            return f"Cannot be assessed: this release has no alert threshold; {measured} {share(probability)}."
        if state == "malignant_likely":
            value, threshold = shares(attention, self.attention.threshold)
            likely = "likely" if attention > 0.5 else "possible"
            if self.threshold is None:
                what = f"{self.alert_label}, a carcinoma or precursor is {likely}: {value} together"
                return f"Needs attention: {what} (attention from {threshold}). This release has no alert threshold."
            return (
                f"Needs attention: no {self.alert_label} alert, but a carcinoma or precursor is {likely}: {value} "
                f"together with {self.alert_label} (attention from {threshold})."
            )
        value, threshold = shares(probability, self.threshold)
        word = f"{self.alert_label.capitalize()} alert" if state == "melanoma_alert" else f"No {self.alert_label} alert"
        return f"{word}: {measured} {value}; this release alerts from {threshold}."


# The files of a release


def _file(name: str, revision: str | None, file: str) -> Path | None:
    """Return where a file of a release lies, see `Release.file`."""
    found = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
    if not found:
        return None
    try:
        return checks.regular(Path(found), file, Path(found).parents[file.count("/")])
    except checks.Unfit as error:
        raise NoRelease(f"{HubName(name, revision)} cannot be served: its {file} {error}.") from error


def _checked_files(name: str, revision: str | None) -> tuple[dict, dict]:
    """Return the config of a release and the table of its weights, after a look at all that a model is built of.

    Raises:
        NoRelease: something is not there, damaged, wants code run, or asks for more than there is.
    """
    at = "config.json"
    try:
        if (path := _file(name, revision, at)) is None:
            raise checks.Unfit("is not there")
        config = checks.json_object(path)
        checks.no_code(config)
        alert, labels = config.get("alert"), config.get("id2label")
        if not isinstance(alert, dict) or "threshold" not in alert or not isinstance(alert.get("label"), str):
            raise _no_alert(name, revision)
        if _file(name, revision, "adapter_config.json"):
            raise checks.Unfit("is that of an adapter, which other weights would be loaded for")
        at = WEIGHTS
        if (path := _file(name, revision, at)) is None:
            raise checks.Unfit("is not there")
        tensors = checks.tensors(path)
        at = "config.json"
        checks.config(config, len(tensors))
        if alert["label"] not in labels.values():
            raise _no_alert(name, revision)
        for at in PROCESSORS:
            if path := _file(name, revision, at):
                checks.processor(checks.json_object(path))
        return config, tensors
    except checks.Unfit as error:
        reason = missing_from_cache(name, revision) or f"its {at} {error}."
        raise NoRelease(f"cannot load the release {HubName(name, revision)}: {reason}") from error
    except NoRelease:
        raise
    except Exception as error:  # of the Hub, of the line to it, of the disk: not one type
        reason = missing_from_cache(name, revision) or _reason(error)
        raise NoRelease(f"cannot load the release {HubName(name, revision)}: {reason}") from error


def _no_alert(name: str, revision: str | None) -> NoRelease:
    return NoRelease(
        f"{HubName(name, revision)} is no dermalert release: its config.json has no usable 'alert'. "
        "Name one made by train_hf.py."
    )


def _built(name: str, revision: str | None, tensors: dict) -> tuple:
    """Return the model and the processor of a release; nothing of it is run as code.

    Raises:
        NoRelease: they cannot be built, or the weights are not those of the model, or no numbers.
    """
    never = {"revision": revision, "trust_remote_code": False}
    try:
        with torch.device("meta"):  # which takes no memory
            described = AutoModelForImageClassification.from_config(
                AutoConfig.from_pretrained(name, **never), trust_remote_code=False
            )
        needed = sum(each.numel() for each in (*described.parameters(), *described.buffers()))
        held = sum(int(np.prod(shape)) for _, shape in tensors.values())
        if needed > 2 * held + 10_000_000:
            raise ValueError(f"config.json describes {needed:,} numbers, {WEIGHTS} has {held:,}")
        network, loaded = AutoModelForImageClassification.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **never
        )
        for kind in ("missing_keys", "mismatched_keys"):
            for key in loaded.get(kind) or ():
                raise ValueError(f"{WEIGHTS} does not have '{key}' as its config.json describes it")
        processor = load_processor(name, revision)
    # Not one type either: OSError (not there), ValueError (no model), SafetensorError, RuntimeError (damaged), ...
    except Exception as error:
        reason = missing_from_cache(name, revision) or _reason(error)
        raise NoRelease(f"cannot load the release {HubName(name, revision)}: {reason}") from error
    if not all(torch.isfinite(each).all() for each in network.state_dict().values()):
        raise NoRelease(f"{HubName(name, revision)} cannot be served: its weights are not all numbers, so damaged.")
    return network, processor


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _check_reference(found: dict, labels: int) -> None:
    """Refuse reference images that are no few RGB images, each with a probability of each label."""
    (kind, shape), (number, recorded) = found["images"], found["probabilities"]
    if kind != "U8" or len(shape) != 4 or shape[3] != 3 or not 1 <= shape[0] <= 1_000 or min(shape[1:3]) < 1:
        raise checks.Unfit("has no RGB images")
    if number not in ("F32", "F64") or recorded != (shape[0], labels):
        raise checks.Unfit("has no probabilities")


def _check_statistics(found: dict, d: int) -> None:
    """Refuse statistics that are not those of so many features."""
    k = found["variance"][1][0]
    shapes = {"mean": (d,), "scale": (d,), "basis": (k, d), "variance": (k,), "noise": (1,)}
    for name, shape in shapes.items():
        if found[name] not in [(kind, shape) for kind in ("F16", "F32", "F64")]:
            raise checks.Unfit(f"has no '{name}' of this model")


def _problems(config, threshold) -> Iterator[str]:
    """Yield what a release says that nothing can be judged by."""
    if threshold is not None and not _is_share(threshold):
        yield f"the threshold of its alert is {threshold!r}, and no number above 0 and at most 1"
    problem = getattr(config, "problem_type", None)
    if problem not in (None, "single_label_classification"):
        yield f"by its config.json (problem_type {problem}) its answers are no probabilities that add up to 1"
    groups = getattr(config, "clinical_groups", None) or {}
    if not isinstance(groups, dict) or not all(isinstance(those, list) for those in groups.values()):
        yield "its 'clinical_groups' are no lists of diagnoses"
        return
    labels = [*config.id2label.values()]
    grouped = [label for those in groups.values() for label in those]
    if grouped and sorted(map(str, grouped)) != sorted(labels):
        yield "its 'clinical_groups' do not hold each of its diagnoses once"
    if not isinstance(getattr(config, "dermalert", None) or {}, dict):
        yield "its 'dermalert' says nothing of how it was made"
    if (point := getattr(config, "attention", None)) is not None:
        yield from _problems_of_attention(point, labels)


def _problems_of_attention(point: object, known: list[str]) -> Iterator[str]:
    labels = point.get("labels") if isinstance(point, dict) else None
    if not (isinstance(labels, list) and labels and "threshold" in point):
        yield "its 'attention' does not name diagnoses and a threshold"
    elif not all(isinstance(label, str) and label in known for label in labels) or len(set(labels)) < len(labels):
        yield f"its 'attention' names {labels}, which are not different diagnoses of its own"
    elif point["threshold"] is not None and not _is_share(point["threshold"]):
        yield f"the threshold of its attention is {point['threshold']!r}, and no number above 0 and at most 1"


def _is_share(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 < value <= 1
