"""Before and after a training: settings that make no sense are refused first; at last the release is published."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from dermalert_space.contract import RELEASE_FOLDER, Json
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from dermalert.config import Config
from dermalert.data import external
from dermalert.errors import RunError, UsageError, did_you_mean
from dermalert.publishing import models
from dermalert.release import release_folder, remeasure
from dermalert.release.summary import what_next
from dermalert.training import distributed, flags, lora, run_folder, tuning
from dermalert.training.run import Run

_ABOVE_ZERO = (
    *("num_train_epochs", "early_stopping_patience", "per_device_train_batch_size", "per_device_eval_batch_size"),
    *("learning_rate", "image_size", "gradient_accumulation_steps", "logging_steps", "lora_r", "lora_alpha"),
)
_NOT_BELOW_ZERO = ("weight_decay", "max_grad_norm")
_COMPILE_MODES = ("default", "lite", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
_JSON = ("lr_scheduler_kwargs", "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")


def check(config: Config) -> Config:
    """The settings, with those of the release that `weights_from` names; UsageError where one makes no sense."""
    if config.weights_from:
        config = remeasure.settings(config)
    flags.refuse(config)
    _check_numbers(config)
    _check_torch(config)
    if config.fp16 and config.bf16:
        raise UsageError("--bf16 and --fp16 exclude each other: leave one out.")
    if config.save_total_limit is not None and config.save_total_limit < 2:
        raise UsageError("--save_total_limit must be 2 or more: the last checkpoint and the best one are kept.")
    if config.folds == 1 or config.folds < 0:
        raise UsageError(f"--folds {config.folds} makes no sense: it must be 0, for none, or 2 and more.")
    lora.check(config)
    run_folder.check_name(Path(config.output_dir))
    external.check(config.external)
    _check_reports(config.report_to)
    config = _check_hub(config)
    tuning.check(config)
    return config


def _check_numbers(config: Config) -> None:
    """Refuse a number out of its range, or none."""
    for name in (*_ABOVE_ZERO, *_NOT_BELOW_ZERO):
        value, zero = getattr(config, name), name in _NOT_BELOW_ZERO
        if value is not None and not (0 < value < math.inf or (zero and value == 0)):
            raise UsageError(f"--{name} {value:g} makes no sense: it must be {'0 or ' if zero else ''}above 0.")
    if not 0 <= config.ema_decay < 1:
        raise UsageError(f"--ema_decay {config.ema_decay} makes no sense: it must be from 0 to below 1.")
    for name in ("seed", "data_seed"):
        value = getattr(config, name)
        if value is not None and not 0 <= value < 2**32:
            raise UsageError(f"--{name} {value} makes no sense: it must be from 0 to 2**32 - 1.")


def _check_torch(config: Config) -> None:
    """Refuse what torch and the Trainer would refuse late, or in words of their own code."""
    mode = config.torch_compile_mode
    if mode is not None and mode not in _COMPILE_MODES:
        hint = did_you_mean(mode, _COMPILE_MODES)
        raise UsageError(f"--torch_compile_mode {mode} is not one of {', '.join(_COMPILE_MODES)}.{hint}")
    for name in _JSON:
        value = getattr(config, name)
        if isinstance(value, str) and not _is_json_object(value):
            raise UsageError(f"--{name} {value} is no JSON object: write it as '{{\"NAME\": VALUE}}'.")


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _check_reports(names: list[str]) -> None:
    """Refuse to record curves where that cannot be done."""
    for name in names:
        if name not in (*INTEGRATION_TO_CALLBACK, "none", "all"):
            trackers = ["none", "all", *INTEGRATION_TO_CALLBACK]
            raise UsageError(f"--report_to {name} is not one of {', '.join(trackers)}.{did_you_mean(name, trackers)}")
        if name in INTEGRATION_TO_CALLBACK and name not in get_available_reporting_integrations():
            package = "-e '.[tracking]'" if name in ("tensorboard", "trackio") else name
            raise UsageError(f"--report_to {name} is not installed: pip install {package}.")
    if len(names) > 1 and {"none", "all"} & set(names):
        raise UsageError(f"--report_to {' '.join(names)} contradicts itself: leave out none and all.")


def _check_hub(config: Config) -> Config:
    """The settings, with the branch that `--hub_strategy checkpoint` stands for."""
    if config.hub_strategy not in ("end", "checkpoint"):
        raise UsageError(f"--hub_strategy {config.hub_strategy} is refused: {flags.HUB_STRATEGY}.")
    given = [name for name in ("hub_model_id", "tag") if getattr(config, name) is not None]
    if given and not config.push_to_hub:
        raise UsageError(f"--{given[0]} is of a release that is published: add --push_to_hub.")
    if config.push_to_hub and len(given) < 2:
        raise UsageError("--push_to_hub, --hub_model_id USER/REPO and --tag v1.0.0 need each other.")
    if not config.push_to_hub and (config.accept_regression is not None or config.hub_private_repo is not None):
        name = "hub_private_repo" if config.accept_regression is None else "accept_regression"
        raise UsageError(
            f"--{name} is said of a release that is published: add --push_to_hub, --hub_model_id and --tag."
        )
    if config.hub_strategy == "checkpoint":
        if not config.push_to_hub:
            raise UsageError("--hub_strategy checkpoint needs --push_to_hub; --checkpoints_to USER/REPO does without.")
        config = dataclasses.replace(config, checkpoints_to=config.checkpoints_to or config.hub_model_id)
    models.check_reason(config.accept_regression)
    return config


def can_publish(config: Config) -> bool:
    """Refuse, before the work is done, a release that could not be published; whether the repository exists."""
    repo_id, tag = config.hub_model_id, config.tag
    if repo_id is None or tag is None:  # `check` refuses one without the other
        return False
    return distributed.broadcast_from_main(lambda: models.check_can_publish(repo_id, tag))


def deliver(run: Run, *, must_exist: bool) -> Json:
    """Publish the release in a run's folder if that is asked for, and print what it is worth; its `metrics.json`.

    Raises:
        RunError: the release is refused, the Hub cannot be reached, or a branch lacks the last checkpoint.
    """
    config, release = run.config, run.folder / RELEASE_FOLDER
    if behind := run.finish():
        print(behind)  # here too, because the release may be refused
    if config.hub_model_id is not None and config.tag is not None:
        how: dict[str, Any] = {"accept": config.accept_regression, "private": config.hub_private_repo}
        print(models.publish(release, config.hub_model_id, config.tag, **how, must_exist=must_exist))
    metrics = release_folder.read_metrics(release)
    print(what_next(release, metrics, published=config.hub_model_id is not None))
    if behind:
        raise RunError(behind)
    return metrics
