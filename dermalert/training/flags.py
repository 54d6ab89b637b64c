"""The command line of a training: flags in groups, a YAML file of them, names that they had, and which are refused."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser, TrainingArguments

from dermalert.config import Config, DataArguments, ModelArguments, RecipeArguments, default
from dermalert.errors import UsageError, did_you_mean, first_line

RENAMED = {
    "dataset": "--dataset_name",
    "base_model": "--model_name_or_path",
    "repair": "--label_repair",
    "epochs": "--num_train_epochs",
    "patience": "--early_stopping_patience",
    "batch_size": "--per_device_train_batch_size",
    "augment": "--augmentation",
    "rebalance": "--logit_adjustment",
    "no_rebalance": "--no_logit_adjustment",
    "no_onnx": "--onnx none",
    "lr": "--learning_rate",
    "average": "--ema_decay",
    "half_precision": "--store_dtype float16",
    "version": "--tag",
    "resume_from": "--resume_from_checkpoint",
    "warmup_ratio": "--warmup_steps, which below 1 is a share of all steps",
    "per_gpu_train_batch_size": "--per_device_train_batch_size",
    "model": "--model_name_or_path",
    "use_peft": "--lora",
    "dtype": "--bf16",
    "torch_dtype": "--bf16",
    "evaluation_strategy": "--eval_strategy, which is always epoch",
    "no_cuda": "--use_cpu, in whose place stands CUDA_VISIBLE_DEVICES=",
}
"""Flags by the names that they had here or in the Trainer, or have in TRL, and what they are called here."""

_ONCE_PER_EPOCH = "the moving average of the weights is evaluated and saved once per epoch"
_CHOSEN = "the epoch that is kept is the one with the lowest calibrated loss on validation"
_NO_WORKERS = "pixels are decoded once, and augmented a batch at a time on the device: there is no process to load them"
_IN_PARTS = "a model is trained whole in each process"
_METRIC = "the figures of an epoch are computed from all predictions at once"
_TEXT = "it is of language models"
_BY_LAUNCHER = "accelerate's configuration, or torchrun, connects the processes"
_HUB = "a release goes to main, in one commit, at --tag"
_MIXED = "weights are measured as they are served, in single precision"

REFUSED = {
    "eval_strategy": _ONCE_PER_EPOCH,
    "eval_steps": _ONCE_PER_EPOCH,
    "eval_delay": _ONCE_PER_EPOCH,
    "eval_on_start": _ONCE_PER_EPOCH,
    "save_strategy": _ONCE_PER_EPOCH,
    "save_steps": _ONCE_PER_EPOCH,
    "enable_jit_checkpoint": _ONCE_PER_EPOCH,
    "load_best_model_at_end": f"{_CHOSEN}, without it",
    "metric_for_best_model": _CHOSEN,
    "greater_is_better": _CHOSEN,
    "save_only_model": "a run could not go on from such a checkpoint",
    "ignore_data_skip": "a run that goes on would not end as if it had never been stopped",
    "restore_callback_states_from_checkpoint": "a run that goes on would forget its patience",
    "save_on_each_node": "the main process alone writes",
    "auto_find_batch_size": "the images of a step are part of what a release states",
    "label_smoothing_factor": "the loss is the recipe's own, and smoothing would undo its calibration",
    "neftune_noise_alpha": _TEXT,
    "use_liger_kernel": _TEXT,
    "liger_kernel_config": _TEXT,
    "use_cache": _TEXT,
    "include_num_input_tokens_seen": _TEXT,
    "optim_target_modules": _TEXT,
    "length_column_name": _TEXT,
    "train_sampling_strategy": "--sampling says which images are drawn",
    "remove_unused_columns": "the images are columns that no model's forward names",
    "label_names": "the labels are the nine diagnoses",
    "dataloader_num_workers": _NO_WORKERS,
    "dataloader_pin_memory": _NO_WORKERS,
    "dataloader_persistent_workers": _NO_WORKERS,
    "dataloader_prefetch_factor": _NO_WORKERS,
    "dataloader_multiprocessing_context": _NO_WORKERS,
    "dataloader_in_order": _NO_WORKERS,
    "dataloader_drop_last": "images of validation would be dropped too",
    "prediction_loss_only": _METRIC,
    "eval_do_concat_batches": _METRIC,
    "eval_use_gather_object": _METRIC,
    "include_for_metrics": _METRIC,
    "batch_eval_metrics": _METRIC,
    "bf16_full_eval": _MIXED,
    "fp16_full_eval": _MIXED,
    "use_cpu": "the release is measured on the same device: hide the GPU with CUDA_VISIBLE_DEVICES= instead",
    "accelerator_config": "each of its parts that works here is a flag of its own",
    "parallelism_config": _IN_PARTS,
    "fsdp": _IN_PARTS,
    "fsdp_config": _IN_PARTS,
    "deepspeed": _IN_PARTS,
    "ddp_backend": _BY_LAUNCHER,
    "ddp_timeout": _BY_LAUNCHER,
    "local_rank": _BY_LAUNCHER,
    "do_train": "a run trains, evaluates and predicts; --weights_from leaves out the training",
    "do_eval": "a run trains, evaluates and predicts",
    "do_predict": "a run trains, evaluates and predicts",
    "hub_token": "others can read a command line: use `hf auth login` or HF_TOKEN",
    "hub_always_push": _HUB,
    "hub_revision": _HUB,
}
"""Flags of the Trainer that would break a promise, or do nothing, with the reason; none is refused at its default."""

HUB_STRATEGY = "'checkpoint' pushes the last and the best"
"""Why the Trainer's others are refused."""

_AS_IF_DEFAULT = {"include_num_input_tokens_seen": (False,)}  # as HfArgumentParser reads its default, "no"
HUB = (
    *("push_to_hub", "hub_model_id", "hub_private_repo", "hub_strategy", "tag", "accept_regression"),
    *("checkpoints_to", "resume_from_checkpoint"),
)
_USAGE = "%(prog)s --dataset_name NAME [NAME ...] [--output_dir RUN] [--image_size N] [--FLAG VALUE ...]"


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The manual as it is written, and the default of each flag that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        stated = action.default not in (None, "", argparse.SUPPRESS) and action.default != []
        return super()._get_help_string(action) if stated else action.help

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """One spelling of a flag: with underscores, as the Trainer's documentation has it."""
        spellings = action.option_strings
        action.option_strings = spellings[:1] if spellings[0] != "-h" else spellings
        line = super()._format_action_invocation(action)
        action.option_strings = spellings
        return line


def parse(arguments: list[str] | None = None, *, manual: str | None = None, prog: str | None = None) -> Config:
    """The settings that a command line gives; a bad one ends with argparse's message and exit code 2."""
    parser = _parser(manual, prog)
    words = sys.argv[1:] if arguments is None else arguments
    _check_names(parser, words)
    _check_twice(parser, words)
    given, words = _config_parser().parse_known_args(words)
    if given.config:
        words = [*_words_of(parser, Path(given.config)), *words]  # the last one counts
    namespace, unknown = parser.parse_known_args(words)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}.{_nearest(parser, unknown[0])}")
    if not namespace.dataset_name:
        parser.error("the following arguments are required: --dataset_name, such as demo or my-lesions/")
    settings = vars(namespace)
    del settings["config"]
    return Config(**settings)


def refuse(config: Config) -> None:
    """Refuse a flag of the Trainer that would break a promise.

    Raises:
        UsageError: names the flag, and says why.
    """
    for field in dataclasses.fields(Config):
        value = getattr(config, field.name)
        if field.name in REFUSED and value not in (default(field.name), *_AS_IF_DEFAULT.get(field.name, ())):
            raise UsageError(f"--{field.name} {value} is refused: {REFUSED[field.name]}.")


def _parser(manual: str | None, prog: str | None) -> HfArgumentParser:
    parser = HfArgumentParser(
        [DataArguments, ModelArguments, RecipeArguments],  # type: ignore[list-item]  # of instances, it says
        allow_abbrev=False,
        prog=prog,
        usage=_USAGE,
        description=manual,
        formatter_class=_Help,
    )
    parser.add_argument("--config", metavar="FILE.yaml", help="read flags there; those of the command line win")
    for action in parser._actions:
        action.required = False  # `parse` requires it: argparse would miss it before it looks at a mistyped flag
    _arrange(parser)
    return parser


def _arrange(parser: argparse.ArgumentParser) -> None:
    """Sort the flags into groups: argparse has no way to say where the flag of a base class belongs."""
    names = ("data", "model", "recipe", "Hub", "other flags of the Trainer")
    groups = {name: parser.add_argument_group(name) for name in names}
    home = {field.name: "data" for field in dataclasses.fields(DataArguments)}
    home |= {field.name: "model" for field in dataclasses.fields(ModelArguments)}
    home |= dict.fromkeys(RecipeArguments.__annotations__, "recipe") | dict.fromkeys(HUB, "Hub")
    inherited = {field.name for field in dataclasses.fields(TrainingArguments)}
    for action in list(parser._optionals._group_actions):
        if action.dest in REFUSED or action.option_strings[0].startswith("--no_"):  # of `--flag false`
            action.help = argparse.SUPPRESS
        name = home.get(action.dest, "other flags of the Trainer" if action.dest in inherited else None)
        if name:
            parser._optionals._group_actions.remove(action)
            groups[name]._group_actions.append(action)


def _config_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    return parser


def _names(parser: argparse.ArgumentParser) -> list[str]:
    """The flags that a person may have meant, each in one spelling."""
    actions = (action for action in parser._actions if action.help != argparse.SUPPRESS)
    return [action.option_strings[0] for action in actions]


def _nearest(parser: argparse.ArgumentParser, word: str) -> str:
    # Two letters, the dashes, are alike in all of them.
    return did_you_mean("--" + _name(word), _names(parser), likeness=0.75)


def _name(word: str) -> str:
    return word[2:].partition("=")[0].replace("-", "_") if word.startswith("--") else ""


def _check_names(parser: argparse.ArgumentParser, words: list[str], where: str = "") -> None:
    """Refuse a flag by the name that it had."""
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if now := RENAMED.get(_name(word)):
            parser.error(f"{where}{word.partition('=')[0]} has another name: did you mean {now}?")
        value = word.partition("=")[2] or following
        if _name(word) == "push_to_hub" and "/" in value and not value.startswith("--"):
            parser.error(f"{where}--push_to_hub takes no name: did you mean --push_to_hub --hub_model_id {value}?")


def _check_twice(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Refuse a list that is given in two parts: argparse would keep the last alone."""
    lists = [action.dest for action in parser._actions if action.nargs == "+"]
    names = [_name(word) for word in words]
    for name in lists:
        if names.count(name) > 1:
            parser.error(f"--{name} stands twice: name all of them after one")


def _words_of(parser: argparse.ArgumentParser, path: Path) -> list[str]:
    """The flags that a YAML file holds, as a command line; a flag of it may have no value, or several."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        parser.error(f"--config '{path}' cannot be read: {error.strerror or error}")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        parser.error(f"--config '{path}' is no YAML file: {first_line(error)}")
    if not isinstance(content, dict):
        parser.error(f"--config '{path}' must name flags, such as num_train_epochs: 6")
    if "config" in content:
        parser.error(f"--config '{path}' names another file: put all flags into one")
    _check_names(parser, [f"--{name}={value}" for name, value in content.items()], f"--config '{path}': ")
    words: list[str] = []
    for name, value in content.items():
        action = parser._option_string_actions.get(f"--{name}")
        if action is None:
            parser.error(f"--config '{path}' has the key '{name}', which is no flag.{_nearest(parser, f'--{name}')}")
        if isinstance(value, list) or (isinstance(value, dict) and action.nargs == "+"):
            words += [f"--{name}", *_items(value)] if value else []
        elif value is not None:
            words.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return words


def _items(value: Any) -> list[str]:
    """The values of a flag that takes several: a mapping as NAME=VALUE, such as label=dx."""
    if isinstance(value, dict):
        return [f"{name}={of_it}" for name, of_it in value.items()]
    return [item for each in value for item in (_items(each) if isinstance(each, dict) else [str(each)])]
