"""What the recipe in `train_hf.py` needs beside the Trainer's own: sampling, a loss, averaged weights, when to stop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from dermalert_space.contract import Json
from torch import nn
from torch.nn import functional
from torch.utils.data import Sampler
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

from dermalert.errors import RunError
from dermalert.evaluation.trainer_metric import SkinLesionMetric
from dermalert.imaging.device import to_device
from dermalert.training import calibration, checkpoints, distributed, lora
from dermalert.training.epoch_table import EpochTable
from dermalert.training.sampling import Draws, WeightedSampler


def measure(prior: np.ndarray | None) -> Callable[[EvalPrediction], dict[str, float | None]]:
    """What the Trainer calls with the logits and labels of a split; the prior as `calibration.calibrate` takes it."""
    metric = SkinLesionMetric(keep_in_memory=True)

    def figures(output: EvalPrediction) -> dict[str, float | None]:
        logits, truth = np.asarray(output.predictions), np.asarray(output.label_ids)
        computed = metric.compute(predictions=logits, references=truth)
        return computed | {"calibrated_loss": calibration.calibrated_loss(logits.astype(float), truth, prior)}

    return figures


def keep_depthwise_single(model: nn.Module) -> None:
    """Have depthwise convolutions compute in single precision, whatever the others do.

    On a CPU their gradient takes four times as long in bfloat16, which eats what the others gain by it.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            # By its class, which a copy of the layer shares.
            layer.__class__ = type(type(layer).__name__, (_SinglePrecision, type(layer)), {})


class _SinglePrecision(nn.Conv2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


class WeightAverage(TrainerCallback):
    """Evaluates and saves the exponential moving average of the weights, and trains on with the weights themselves.

    Averaged weights lie in flatter parts of the loss and carry over better to other clinics (Izmailov 2018, arXiv
    1803.05407; Cha 2021, arXiv 2102.08604). A checkpoint's model is the average; the weights to train on from lie
    beside it.
    """

    FILE = "latest.safetensors"

    def __init__(self, decay: float):
        self.decay = decay
        self._latest: dict[str, torch.Tensor] = {}  # the model's own tensors, which stay where they are
        self.other: dict[str, torch.Tensor] = {}
        """Where `averaged`, the weights to train on with; else the average."""
        self.averaged = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start from the model as it is, or from a checkpoint."""
        self.averaged = False
        self._latest = {name: tensor.detach() for name, tensor in _trained(kwargs["model"]).items()}
        self.other = {name: tensor.clone() for name, tensor in self._latest.items()}
        if state.global_step:
            checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            _copy(safetensors.torch.load_file(checkpoint / self.FILE), self._latest)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put the weights to train with back."""
        self._swap(averaged=False)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take the new weights into the average, which looks back less far in the first steps."""
        weight = 1 - min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        # All at once: on an accelerator, starting a lerp for each tensor takes as long as a step.
        torch._foreach_lerp_(list(self.other.values()), list(self._latest.values()), weight)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put the average in the model's place, to be evaluated and saved."""
        self._swap(averaged=True)

    def save(self, checkpoint: Path) -> None:
        """Lay the weights to train on from beside the average, which stands in the model between two epochs."""
        tensors = {name: tensor.contiguous() for name, tensor in self.other.items()}  # not channels last
        safetensors.torch.save_file(tensors, checkpoint / self.FILE)

    def _swap(self, *, averaged: bool) -> None:
        if averaged != self.averaged:
            kept = {name: tensor.clone() for name, tensor in self._latest.items()}
            _copy(self.other, self._latest)
            self.other, self.averaged = kept, averaged


class Seal(TrainerCallback):
    """Has each checkpoint on the disk, with what its weights must hash to, before the training goes on."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Seal what was saved."""
        if distributed.is_main():
            checkpoints.seal(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")


class RecipeTrainer(Trainer):
    """A Trainer that draws its training images by weights, and evaluates and saves averaged weights."""

    def __init__(self, *, draws: Draws, average: float, **arguments: Any):
        super().__init__(**arguments)
        if self.args.bf16 and self.args.device.type == "cpu":
            keep_depthwise_single(arguments["model"])
        self.draws = draws
        self.average = WeightAverage(average) if average else None
        for kind in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):
            self.remove_callback(kind)
        self.add_callback(EpochTable(len(draws.weights)))
        self.add_callback(Seal())
        if self.average:
            self.add_callback(self.average)

    def _get_train_sampler(self, _train_dataset: object = None) -> Sampler[int]:
        return WeightedSampler(
            self.draws.weights, seed=self.args.seed if self.args.data_seed is None else self.args.data_seed
        )

    def floating_point_ops(self, inputs: object) -> int:
        """Count none: nobody reads the number, and to count all weights at each step takes milliseconds."""
        return 0

    def evaluate(self, *arguments: Any, **settings: Any) -> dict[str, float]:
        """Evaluate the main process's model in all of them: the others' running statistics are a little different."""
        assert self.model is not None
        distributed.share(_numbers(self.model).values())
        return super().evaluate(*arguments, **settings)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what a checkpoint holds of the model; before the Trainer's own state, which tells that it is whole."""
        super().save_model(output_dir, _internal_call)
        if not (_internal_call and self.args.should_save):
            return
        if self.average:
            self.average.save(Path(str(output_dir)))
        if lora.is_adapted(self.model):
            safetensors.torch.save_file(_trained(self.model), Path(str(output_dir)) / lora.FILE)

    def _save(self, output_dir: str | None = None, state_dict: Json | None = None) -> None:
        super()._save(output_dir, lora.merged(self.model) if lora.is_adapted(self.model) else state_dict)

    def _load_from_checkpoint(self, *_: object) -> None:
        """Load nothing: the model has been built from the checkpoint, see `run.start`."""


def _numbers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and running statistics of a model, those that are real numbers, by name."""
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def _trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Those of a model's numbers that a training changes: all but frozen parameters."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in _numbers(model).items() if name not in frozen}


@torch.no_grad()
def _copy(source: dict[str, torch.Tensor], target: dict[str, torch.Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])


@torch.no_grad()
def round_to_half(model: torch.nn.Module) -> None:
    """Round each tensor of a model to the numbers that half precision has; it still computes in single precision.

    Raises:
        RunError: a number is too large for half precision.
    """
    for name, tensor in _numbers(model).items():
        rounded = tensor.half()
        if not rounded.isfinite().all():
            raise RunError(f"'{name}' does not fit half precision: leave out --store_dtype float16.")
        tensor.copy_(rounded)


def balanced_softmax(shares: np.ndarray) -> Callable[..., torch.Tensor]:
    """The loss that takes the shares (9,) of the classes into account (Ren 2020, arXiv 2007.10740)."""
    log_prior = torch.tensor(np.log(shares), dtype=torch.float32)

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> torch.Tensor:
        logits = outputs.logits.float() + to_device(log_prior, labels.device)
        total = functional.cross_entropy(logits, labels, reduction="sum")
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    return loss


class EarlyStopping(EarlyStoppingCallback):
    """Stops on the validation split alone, where the Trainer evaluates several sets."""

    def on_evaluate(  # type: ignore[override]  # noqa: D102 - as in the class that it comes from
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Json, **kwargs: Any
    ) -> None:
        if args.metric_for_best_model in metrics:
            super().on_evaluate(  # type: ignore[no-untyped-call]
                args, state, control, metrics, **kwargs
            )

    def on_train_begin(self, *args: object, **kwargs: object) -> None:
        """Leave out the check that asks for `load_best_model_at_end`."""
