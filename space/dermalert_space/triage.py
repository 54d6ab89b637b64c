"""Load a dermalert release and judge images with it: the only home of serving logic.

As a command it judges files, folders and zip archives, and lists them with the most urgent first:

    python triage.py IMAGES... --model MODEL[@TAG] [--csv FILE] [--json FILE]

Needs torch, transformers and Pillow, and nothing of the training side: all it knows of a model comes out of the
release, a folder or a Hub repository at a tag. A release with a graph for ONNX Runtime is asked by that on a CPU, which
takes `onnx` and `onnxruntime` too.
"""

import argparse
import dataclasses
import functools
import io
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import constants, try_to_load_from_cache
from PIL import Image, ImageOps
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    ImageProcessingMixin,
    PilBackend,
)
from transformers.utils import cached_file, logging

from dermalert_space import checks, decoder_limits, formats, onnx_graph
from dermalert_space.abstention import Refusal, STATISTICS, features

NOT_A_DEVICE = "For research and education only. Not a medical device; does not replace a dermatologist."

# A dermoscope's camera gives 12 to 24 million pixels; an image that claims far more is an accident or an attack.
MAX_PIXELS = 64_000_000

MAX_SIDE = 65_535
"""Pixels: that of a JPEG. Each row costs memory of its own, however short it is."""

MAX_ASPECT = 30
"""Of an image: its longer side by the shorter one."""

KINDS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
"""What is read, as Pillow calls it: what cameras and dermoscopes write. Pillow knows forty others, some of which start
a program (EPS), or take minutes or gigabytes for a small file (GIF, JPEG 2000)."""

REFERENCE = "evaluation/parity.safetensors"
"""In a release: `images`, uint8 (n, H, W, 3), and the `probabilities` (n, labels) that it must give of them."""

_NO_NUMBER = "what this release answers is not a number: its weights are damaged."

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""Files of a release that say how an image becomes pixels of the model; of the two, transformers prefers the latter."""

METRICS = "evaluation/metrics.json"

BUNDLED = Path(__file__).parents[1] / "model"
"""The release that is served where none is named."""

TOLERANCE = 1e-3
"""How far a probability may be from the recorded one on another machine; on the same one it is below 1e-5."""

STATES = {
    "melanoma_alert": "{label} alert",
    "malignant_likely": "needs attention",
    "cannot_assess": "cannot be assessed",
    "none": "no {label} alert",
    "unreadable": "not read",
}
"""What becomes of a file, and what it is called, the most urgent first; `{label}` is what the release alerts to."""

_SHRINK = f"shrink it below {MAX_PIXELS:,}, and its sides below {MAX_SIDE + 1:,}."


class UnreadableImage(ValueError):
    """The bytes are no image that can be judged; the text says which and why."""


class NoImage(UnreadableImage):
    """The bytes are something else than an image of those kinds that are read; the text says what, and what to do."""


class NoRelease(ValueError):
    """The model is no dermalert release, or cannot be reached; the text says what to do, in one line."""

    def __str__(self) -> str:
        return printable(super().__str__())  # it may quote what a stranger has written


class OtherAnswers(NoRelease):
    """The release gives other answers here than those that were measured; the text says by how much."""


def read_image(source: str | Path | bytes | Image.Image) -> Image.Image:
    """Return an image as 8-bit RGB, turned upright by its EXIF orientation.

    Transparent parts are laid on white, 16-bit grey is scaled to 8 bits, CMYK and palettes are converted.

    Raises:
        UnreadableImage: none of `KINDS`, cut short, or more than `MAX_PIXELS` or `MAX_SIDE`.
    """
    name = f"'{source}'" if isinstance(source, str | Path) else "the file"
    given = isinstance(source, Image.Image)
    try:
        image = source if given else open_image(source)
        if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE:
            raise UnreadableImage(f"it has {image.width} x {image.height} pixels; {_SHRINK}")
        # A processor that keeps the shape makes gigabytes of an image of 60,000 x 2 pixels.
        if max(image.size) > MAX_ASPECT * min(image.size):
            raise UnreadableImage(f"it has {image.width} x {image.height} pixels: too narrow to show a lesion.")
        image.load()
        # In place where nobody else has it: the largest takes 256 MB, and a copy as much again.
        return _to_rgb(ImageOps.exif_transpose(image, in_place=not given) or image)
    except NoImage as error:
        raise NoImage(f"{name} cannot be read as an image: {error}") from error
    except UnreadableImage as error:
        raise UnreadableImage(f"{name} cannot be read: {error}") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"{name} cannot be read: it has far too many pixels; {_SHRINK}") from error
    except FileNotFoundError as error:
        raise UnreadableImage(f"{name} does not exist.") from error
    # What Pillow raises on broken files is not one type: OSError (cut short), SyntaxError (broken PNG), ValueError,
    # struct.error, MemoryError, ...: any of them means that there is no picture.
    except Exception as error:
        raise UnreadableImage(f"{name} cannot be read as an image: it is damaged or cut short.") from error


def open_image(source: str | Path | bytes) -> Image.Image:
    """Return an image of which only the header is read.

    Raises:
        NoImage: it is something else, or holds several pictures.
        UnreadableImage: it is made to keep the decoder busy; and whatever Pillow raises on what is no image.
    """
    # Read whole, because Pillow leaves a file that it cannot read open.
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    if other := formats.other(content):
        raise NoImage(f"{other}.")
    if decoder_limits.asks_too_much(content):
        raise UnreadableImage("it is made of far more parts than pictures are: save it anew.")
    image = Image.open(io.BytesIO(content), formats=KINDS)
    if unfit := formats.unfit(image):
        raise NoImage(f"{unfit}.")
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, or 32 of which so many are used; Pillow would clip at 255
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise UnreadableImage("its values lie outside 16 bits: save it with 8 or 16 bits.")
        if image.mode != "I" or grey.max() > 255:
            grey = np.add(grey, 128, dtype=np.int32) // 257  # rounded
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise UnreadableImage("its pixels are fractions of no known range: save it with 8 or 16 bits.")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention:
    """The operating point of what is malignant or a precursor, beside the alert's own."""

    labels: tuple[str, ...]
    """The diagnoses whose probabilities are summed."""
    threshold: float | None
    """Of the sum, in (0, 1]; None where the calibration images held none of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a release says of one image."""

    state: str
    """One of `STATES`, but not `unreadable`."""
    alert: bool | None
    """Whether the melanoma probability reaches the threshold; None where it is refused or there is no threshold."""
    refused: str | None
    """Why the image cannot be assessed, in words; None where it is. The probabilities are then for the record."""
    sentence: str
    """What a visitor reads: an alert, no alert, or that it cannot be assessed and why."""
    probabilities: dict[str, float]
    """Each diagnosis with its calibrated probability in [0, 1], the largest first."""
    malignant: float | None
    """Summed probability of what is malignant or a precursor; None where the release does not say which these are."""
    attention: float | None
    """Summed probability of what the release asks for attention to; None where it has no such operating point."""
    urgency: float | None
    """How many times its threshold the alert's probability is, or that of attention where that is more; None where the
    release has no threshold."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """What a release answers to images."""

    probabilities: np.ndarray
    """(images, diagnoses) float32, calibrated, each row summing to 1."""
    refused: list[str | None]
    """Of each image why it cannot be assessed, in words; None where it is."""


class Release:
    """A model, its processor, its alert threshold and what it declines, as one tagged release holds them."""

    def __init__(self, model, processor, *, name: str, revision: str | None = None, refusal: Refusal | None = None):
        self.model, self.processor, self.name, self.revision = model, processor, name, revision
        self.refusal = refusal
        """What declines an image; None where the release declines none."""
        self.graph = None
        """ONNX Runtime's, which answers in place of `model` on a CPU: the same within `onnx_graph.CLOSE`, in less time."""
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
        name = str(model)
        if revision is None and not Path(name).exists() and "@" in name:
            name, revision = name.rsplit("@", 1)
        config, tensors = _checked_files(name, revision)
        network, processor = _built(name, revision, tensors)
        alert = config.get("alert")
        for problem in _problems(network.config, alert["threshold"]):
            raise NoRelease(f"{_tagged(name, revision)} cannot be served: {problem}.")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # Convolutions on a CPU take a quarter less with the channels last.
        network = network.eval().to(device, memory_format=torch.channels_last)
        release = cls(network, processor, name=name, revision=revision)
        release._try_out()
        release.graph = release._read_graph() if device == "cpu" else None
        release.refusal = release._read_refusal()
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
            path = self.file(onnx_graph.FILE)
            if path is None:
                return None
            pixels = onnx_graph.noise(self.processor)
            onnx_graph.try_out(path, self.model, pixels)
            found = onnx_graph.Graph(path, self.model)
            found.check(self.model, pixels)
            return found
        except onnx_graph.Unfit as error:
            raise NoRelease(f"{self} cannot be served: its {onnx_graph.FILE} {error}.") from error
        except OSError as error:
            raise NoRelease(f"cannot read {onnx_graph.FILE} of {self}: out of reach.") from error

    def _read_refusal(self) -> Refusal | None:
        told = getattr(self.model.config, "refusal", None)
        if told is None:
            return None
        try:
            path = self.file(STATISTICS)
            if path is None:
                raise KeyError(STATISTICS)
            _check_statistics(checks.tensors(path, few=True), self.features([Image.new("RGB", (64, 64))]).shape[1])
            refusal = Refusal.read(told["thresholds"], path)
            if not refusal.is_finite():
                raise ValueError("not numbers")
            return refusal
        except NoRelease:
            raise
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
            raise NoRelease(f"cannot read {STATISTICS} of {self}: damaged, not there, or out of reach.") from error

    def __str__(self) -> str:
        return _tagged(self.name, self.revision)

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
        return self.answers(images, batch_size=batch_size).probabilities

    @torch.inference_mode()
    def answers(self, images: Sequence[Image.Image], *, batch_size: int = 16) -> Answers:
        """Return the probabilities of RGB images, and which of them the release declines to judge."""
        rows, refused = [np.empty((0, len(self.labels)), np.float32)], []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            logits, found = self._forward(batch, with_features=self.refusal is not None)
            rows.append(logits.softmax(-1).numpy())
            refused += [None] * len(batch) if self.refusal is None else self.refusal.reasons(batch, found.numpy())
        rows = np.concatenate(rows)
        numbers = np.isfinite(rows).all(1)
        refused = [why if number else _NO_NUMBER for why, number in zip(refused, numbers, strict=True)]
        return Answers(probabilities=rows, refused=refused)

    @torch.inference_mode()
    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return what `Refusal.distances` looks at of a batch of RGB images: (images, d) float32."""
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

    def deviation(self) -> float | None:
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

    def check_answers(self, say: Callable[[str], object] = lambda _: None) -> None:
        """Refuse to go on where the answers differ by more than `TOLERANCE`; nothing is asked without reference images.

        Args:
            say: is told that there are none, in a sentence.

        Raises:
            OtherAnswers: they do.
            NoRelease: the reference images cannot be read.
        """
        deviation = self.deviation()
        if deviation is None:
            say(f"{self} has no {REFERENCE}: whether it answers here as it was measured is not checked.")
        elif deviation > TOLERANCE:
            raise OtherAnswers(
                f"{self} answers otherwise here than it was measured: a probability of a reference image is off by "
                f"{deviation:.2g}. Install the versions of requirements.txt, or load it anew."
            )

    def judge(self, image: str | Path | bytes | Image.Image) -> Judgement:
        """Judge one image.

        Raises:
            UnreadableImage: see `read_image`.
        """
        return self.judge_all([read_image(image)])[0]

    def judge_all(self, images: Sequence[Image.Image]) -> list[Judgement]:
        """Judge RGB images, as `read_image` returns them, together."""
        answers = self.answers(images)
        alerts, attentions = self.alerts(answers.probabilities), self.attentions(answers.probabilities)
        verdicts = [
            state(None if alerts is None else bool(alerts[i]), attentions is not None and bool(attentions[i]), refused)
            for i, refused in enumerate(answers.refused)
        ]
        return [self._judgement(*one) for one in zip(answers.probabilities, verdicts, answers.refused, strict=True)]

    def _judgement(self, row: np.ndarray, state: str, refused: str | None) -> Judgement:
        by_label = {self.labels[i]: float(row[i]) for i in np.argsort(-row, kind="stable")}
        watched = [label for name in ("malignant", "precursor") for label in self.groups.get(name, [])]
        attention = self.attention and float(self._attention_scores(row[None])[0])
        return Judgement(
            state=state,
            alert=None if refused or self.threshold is None else state == "melanoma_alert",
            refused=refused,
            sentence=f"Cannot be assessed: {refused}" if refused else self._sentence(state, by_label, attention),
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


def state(alert: bool | None, attention: bool, refused: str | None) -> str:
    """Return the state of an image that was read, one of `STATES`.

    Args:
        alert: whether it raises the alert; None where the release has no threshold.
        attention: whether it asks for attention; False where the release has no such threshold.
        refused: why it cannot be assessed; None where it can.
    """
    if refused:
        return "cannot_assess"
    if alert or attention:
        return "melanoma_alert" if alert else "malignant_likely"
    return "cannot_assess" if alert is None else "none"


def word(state: str, label: str) -> str:
    """Return what a state is called, given what the release alerts to."""
    return STATES[state].format(label=label)


def shares(value: float, threshold: float) -> tuple[str, str]:
    """Return a probability and a threshold in percent.

    They have so many digits that what is below the threshold does not look as if it had reached it.
    """
    first = threshold_digits(threshold)
    enough = (n for n in range(first, first + 7) if value >= threshold or share(value, n) != share(threshold, n))
    digits = next(enough, first + 7)
    return share(value, digits), share(threshold, digits)


def threshold_share(threshold: float) -> str:
    """Return a threshold in percent, as it is written everywhere: three digits that mean something."""
    return share(threshold, threshold_digits(threshold))


def threshold_digits(threshold: float) -> int:
    """Return how many digits behind the point show three digits of a threshold in percent: one at least, no zeros."""
    return max(1, -Decimal(f"{100 * threshold:.3g}").normalize().as_tuple().exponent)


def printable(text: str) -> str:
    """Return a text as it may be shown: what cannot be seen, or turns the line round, replaced."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def share(value: float, digits: int = 1) -> str:
    """Return a probability in percent; one that is not 0 is never shown as 0, and one below 1 never as 1."""
    least = 10.0 ** -(digits + 2)
    if 0 < value < least / 2:
        return f"<{least:.{digits}%}"
    return f">{1 - least:.{digits}%}" if 1 - least / 2 <= value < 1 else f"{value:.{digits}%}"


# The files of a release


def _file(name: str, revision: str | None, file: str) -> Path | None:
    """Return where a file of a release lies, see `Release.file`."""
    found = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
    if not found:
        return None
    try:
        return checks.regular(Path(found), file, Path(found).parents[file.count("/")])
    except checks.Unfit as error:
        raise NoRelease(f"{_tagged(name, revision)} cannot be served: its {file} {error}.") from error


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
        at = checks.WEIGHTS
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
        reason = lacking(name, revision) or f"its {at} {error}."
        raise NoRelease(f"cannot load the release {_tagged(name, revision)}: {reason}") from error
    except NoRelease:
        raise
    except Exception as error:  # of the Hub, of the line to it, of the disk: not one type
        reason = lacking(name, revision) or _reason(error)
        raise NoRelease(f"cannot load the release {_tagged(name, revision)}: {reason}") from error


def _no_alert(name: str, revision: str | None) -> NoRelease:
    return NoRelease(
        f"{_tagged(name, revision)} is no dermalert release: its config.json has no usable 'alert'. "
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
            raise ValueError(f"config.json describes {needed:,} numbers, {checks.WEIGHTS} has {held:,}")
        network, loaded = AutoModelForImageClassification.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **never
        )
        for kind in ("missing_keys", "mismatched_keys"):
            for key in loaded.get(kind) or ():
                raise ValueError(f"{checks.WEIGHTS} does not have '{key}' as its config.json describes it")
        processor = load_processor(name, revision)
    # Not one type either: OSError (not there), ValueError (no model), SafetensorError, RuntimeError (damaged), ...
    except Exception as error:
        reason = lacking(name, revision) or _reason(error)
        raise NoRelease(f"cannot load the release {_tagged(name, revision)}: {reason}") from error
    if not all(torch.isfinite(each).all() for each in network.state_dict().values()):
        raise NoRelease(f"{_tagged(name, revision)} cannot be served: its weights are not all numbers, so damaged.")
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


def load_processor(name: str, revision: str | None = None):
    """Load an image processor that resizes by Pillow, which does so alike on every machine; torchvision does otherwise.

    Args:
        name: a folder or `USER/REPO`.
        revision: tag, branch or commit of the repository.

    Raises:
        OSError, ValueError: there is none.
    """
    content, _ = ImageProcessingMixin.get_image_processor_dict(name, revision=revision)
    if content.get("image_processor_type") == PilBackend.__name__:  # by its name no backend is chosen
        return PilBackend.from_pretrained(name, revision=revision)
    return AutoImageProcessor.from_pretrained(name, revision=revision, backend="pil", trust_remote_code=False)


def lacking(name: str, revision: str | None = None) -> str | None:
    """Return what the cache lacks of a model of the Hub, as a clause, where HF_HUB_OFFLINE forbids to fetch it."""
    if not constants.HF_HUB_OFFLINE or Path(name).exists():
        return None

    def cached(file: str) -> str | None:
        try:
            found = try_to_load_from_cache(name, file, revision=revision)
        except ValueError:  # no name of a repository
            return None
        return found if isinstance(found, str) else None

    weights, index = ["model.safetensors"], cached("model.safetensors.index.json")
    if index:
        weights = sorted(set(json.loads(Path(index).read_text())["weight_map"].values()))
    missing = [file for file in ("config.json", "preprocessor_config.json", *weights) if not cached(file)]
    if not missing:
        return None
    command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    return f"HF_HUB_OFFLINE is set and the cache lacks {', '.join(missing)}: run '{command}' where there is a network"


def _tagged(name: str, revision: str | None) -> str:
    return f"{name}@{revision}" if revision else name


# The command


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge files, folders and zip archives, print the most urgent first, and return the exit code.

    0: each file was judged, or declined with a reason. 1: a file could not be read, or the release not be loaded.
    2: the command was wrong. 130: it was interrupted; nothing is written then.
    """
    from dermalert_space import batch
    options = _options(arguments)
    # What Pillow warns of (odd metadata) changes no answer.
    warnings.filterwarnings("ignore", module="PIL")
    logging.disable_progress_bar()
    interrupted = []

    def interrupt(*_) -> None:
        interrupted.append(True)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        rows, release = _judged(batch, options)
        for path, table in ((options.csv, batch.as_csv), (options.json, batch.as_json)):
            if path:
                _write_whole(path, table(rows, release))
    # Where it strikes in the middle of a library's work, an interruption may come out as another error.
    except (Exception, KeyboardInterrupt) as error:
        if interrupted:
            print("\nInterrupted: nothing was written.", file=sys.stderr)
            return 130
        if not isinstance(error, NoRelease | OSError):
            raise
        print(error, file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGINT, before)
    sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show each name
    print(batch.as_text(rows, release))
    return 1 if any(row.problem for row in rows) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="triage.py", allow_abbrev=False, description=f"Judge many dermoscopy images. {NOT_A_DEVICE}"
    )
    parser.add_argument("images", nargs="+", type=Path, help="files, folders with all below them, and zip archives")
    parser.add_argument(
        "--model",
        default=BUNDLED if BUNDLED.is_dir() else None,
        metavar="MODEL[@TAG]",
        help="the release: a folder, or USER/REPO of the Hub at a tag; by default the one beside this file",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there, for a spreadsheet")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it there, for a program")
    options = parser.parse_args(arguments)
    if options.model is None:
        parser.error("set --model to a release: a folder, or USER/REPO@TAG of the Hub.")
    for path in options.images:
        if not path.exists():
            parser.error(f"there is no file or folder '{path}'.")
    for path, ending in ((options.csv, ".csv"), (options.json, ".json")):
        if path and path.suffix.lower() != ending:  # or `--csv a.jpg b.jpg` would write over an image
            parser.error(f"--{ending[1:]} takes the name of the table to write, which ends in {ending}, not '{path}'.")
        if path and (path.is_dir() or not os.access(path.resolve().parent, os.W_OK)):
            parser.error(f"cannot write '{path}': name a file in a folder that is there and may be written to.")
    return options


def _judged(batch, options: argparse.Namespace) -> tuple[list, Release]:
    """Return the rows, the most urgent first, and what judged them; say on stderr how far it is."""
    release = Release.load(options.model)
    release.check_answers(functools.partial(print, file=sys.stderr))
    total, rows = batch.count(options.images), []
    for row in batch.judged(release, batch.expanded(options.images, full_names=True)):
        rows.append(row)
        print(f"\r{len(rows):,} of {total:,} files judged", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return batch.by_urgency(rows), release


def _write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.resolve().with_name(f"{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8", newline="")
        part.replace(path.resolve())
    finally:
        part.unlink(missing_ok=True)


if __name__ == "__main__":
    # By its name: `batch` knows the classes of the module, which are others than those of the script.
    import triage

    sys.exit(triage.main())
