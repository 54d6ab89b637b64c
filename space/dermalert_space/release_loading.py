"""The files of a release: where they lie, whether they fit each other, and the model that is built of them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file

from dermalert_space import checks, prediction_sets
from dermalert_space.contract import (
    ALERT_POINT,
    ATTENTION_POINT,
    CONFIG,
    PREDICTION_SETS,
    PROCESSORS,
    WEIGHTS,
    HubName,
    Json,
    is_hub_name,
)
from dermalert_space.prediction import printable
from dermalert_space.pretrained import load_processor, missing_from_cache


class NoRelease(ValueError):
    """The model is no dermalert release, or cannot be reached; the text says what to do, in one line."""

    def __str__(self) -> str:
        return printable(super().__str__())  # it may quote what a stranger has written


def locate(name: str, revision: str | None, file: str) -> Path | None:
    """The path of a file of a release, see `Release.file`."""
    path = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
    if not path:
        return None
    try:
        return checks.regular(Path(path), file, Path(path).parents[file.count("/")])
    except checks.Unfit as error:
        raise NoRelease(f"{HubName(name, revision)} cannot be served: its {file} {error}.") from error


def read_config(name: str, revision: str | None) -> tuple[Json, checks.Tensors]:
    """The config of a release and the table of its weights, once all that a model is built of is checked.

    Raises:
        NoRelease: something is not there, damaged, wants code run, or asks for more than there is.
    """
    at = CONFIG
    if not Path(name).is_dir() and not is_hub_name(name):
        raise NoRelease(f"cannot load the release {name}: it is neither a folder nor USER/REPO of the Hub.")
    try:
        if (path := locate(name, revision, at)) is None:
            raise checks.Unfit("is not there")
        config = checks.json_object(path)
        checks.no_code(config)
        alert = config.get(ALERT_POINT)
        if not isinstance(alert, dict) or "threshold" not in alert or not isinstance(alert.get("label"), str):
            raise _no_alert(name, revision)
        if locate(name, revision, "adapter_config.json"):
            raise checks.Unfit("is that of an adapter, which other weights would be loaded for")
        at = WEIGHTS
        if (path := locate(name, revision, at)) is None:
            raise checks.Unfit("is not there")
        tensors = checks.tensors(path)
        at = CONFIG
        checks.config(config, len(tensors))
        if alert["label"] not in config["id2label"].values():
            raise _no_alert(name, revision)
        for at in PROCESSORS:
            if path := locate(name, revision, at):
                checks.processor(checks.json_object(path))
        return config, tensors
    except checks.Unfit as error:
        reason = missing_from_cache(name, revision) or f"its {at} {error}."
        raise NoRelease(f"cannot load the release {HubName(name, revision)}: {reason}") from error
    except NoRelease:
        raise
    except Exception as error:  # of the Hub, of the line to it, of the disk: not one type
        reason = missing_from_cache(name, revision) or first_line(error)
        raise NoRelease(f"cannot load the release {HubName(name, revision)}: {reason}") from error


def _no_alert(name: str, revision: str | None) -> NoRelease:
    return NoRelease(
        f"{HubName(name, revision)} is no dermalert release: its config.json has no usable 'alert'. "
        "Name one made by train_hf.py."
    )


def build_model(name: str, revision: str | None, tensors: checks.Tensors) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Build the model and the processor of a release; nothing of it is run as code.

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
        reason = missing_from_cache(name, revision) or first_line(error)
        raise NoRelease(f"cannot load the release {HubName(name, revision)}: {reason}") from error
    if not all(torch.isfinite(each).all() for each in network.state_dict().values()):
        raise NoRelease(f"{HubName(name, revision)} cannot be served: its weights are not all numbers, so damaged.")
    return network, processor


def first_line(error: Exception) -> str:
    """The first line of an error, 300 letters at most; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def problems(config: PretrainedConfig, threshold: float | None) -> Iterator[str]:
    """Why the config of a release gives no predictions that can be used, each as a clause."""
    if threshold is not None and not _is_share(threshold):
        yield f"the threshold of its alert is {threshold!r}, and no number above 0 and at most 1"
    problem = getattr(config, "problem_type", None)
    if problem not in (None, "single_label_classification"):
        yield f"by its config.json (problem_type {problem}) its answers are no probabilities that add up to 1"
    groups = getattr(config, "clinical_groups", None) or {}
    if not isinstance(groups, dict) or not all(isinstance(those, list) for those in groups.values()):
        yield "its 'clinical_groups' are no lists of diagnoses"
        return
    labels = [*(config.id2label or {}).values()]
    grouped = [label for those in groups.values() for label in those]
    if grouped and sorted(map(str, grouped)) != sorted(labels):
        yield "its 'clinical_groups' do not hold each of its diagnoses once"
    if not isinstance(getattr(config, "dermalert", None) or {}, dict):
        yield "its 'dermalert' says nothing of how it was made"
    if (point := getattr(config, ATTENTION_POINT, None)) is not None:
        yield from _problems_of_attention(point, labels)
    if (sets := getattr(config, PREDICTION_SETS, None)) is not None:
        yield from prediction_sets.problems(sets, labels)


def _problems_of_attention(point: object, diagnoses: list[str]) -> Iterator[str]:
    labels = point.get("labels") if isinstance(point, dict) else None
    if not isinstance(point, dict) or not isinstance(labels, list) or not labels or "threshold" not in point:
        yield "its 'attention' does not name diagnoses and a threshold"
    elif not all(isinstance(label, str) and label in diagnoses for label in labels) or len(set(labels)) < len(labels):
        yield f"its 'attention' names {labels}, which are not different diagnoses of its own"
    elif point["threshold"] is not None and not _is_share(point["threshold"]):
        yield f"the threshold of its attention is {point['threshold']!r}, and no number above 0 and at most 1"


def _is_share(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 < value <= 1
