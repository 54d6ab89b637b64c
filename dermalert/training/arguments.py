"""What the Trainer is given of a run's settings."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, get_scheduler

from dermalert.config import Config
from dermalert.errors import UsageError, first_line
from dermalert.training import distributed

_OURS = ("push_to_hub", "hub_model_id", "hub_strategy", "resume_from_checkpoint", "do_train", "do_eval", "do_predict")
_ERRORS = (ValueError, TypeError, ImportError, RuntimeError, OSError, KeyError, AttributeError, NotImplementedError)


def training_arguments(config: Config, folder: Path) -> TrainingArguments:
    """The arguments of the Trainer whose checkpoints lie in a folder of the run; the processes are connected by now.

    Raises:
        UsageError: the Trainer refuses one, or a combination.
    """
    names = (field.name for field in dataclasses.fields(TrainingArguments) if field.init)
    precision = distributed.precision(config.requested_precision)
    arguments = {name: getattr(config, name) for name in names if name not in _OURS} | {
        "output_dir": str(folder / "checkpoints"),
        "use_cpu": not torch.accelerator.is_available(),  # or several processes without one would not find each other
        "per_device_eval_batch_size": config.per_device_eval_batch_size
        or config.per_device_train_batch_size * distributed.count(),
        "logging_strategy": config.logging_strategy if config.logging_steps is None else "steps",
        "logging_steps": 500 if config.logging_steps is None else config.logging_steps,
        "run_name": config.run_name or folder.name,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
    }
    for suffix in ("", "_kwargs"):  # the older name would be warned of
        older, newer = f"gradient_checkpointing{suffix}", f"activation_checkpointing{suffix}"
        arguments[newer] = arguments[older] if arguments[newer] is None else arguments[newer]
        arguments[older] = None
    try:
        return TrainingArguments(**arguments)
    except _ERRORS as error:
        raise _usage_error(error) from error


def check(config: Config) -> None:
    """Refuse, before the work is done, what the Trainer would refuse when it starts.

    Raises:
        UsageError: it does, or an optimizer or a schedule cannot be made.
    """
    arguments = training_arguments(config, Path(config.output_dir))
    weights = torch.nn.Parameter(torch.zeros(1))
    try:
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
        optimizer = kind([weights], **settings)
        steps: dict[str, Any] = {"num_warmup_steps": 1, "num_training_steps": 10}
        steps["scheduler_specific_kwargs"] = arguments.lr_scheduler_kwargs
        get_scheduler(arguments.lr_scheduler_type, optimizer, **steps)
    except _ERRORS as error:
        raise _usage_error(error) from error


def _usage_error(error: Exception) -> UsageError:
    return UsageError(f"the Trainer refuses these settings: {first_line(error)}.")
