"""What a person reads of a training: a table with a row an epoch, and a bar of the epoch under way."""

import math
import time
from collections.abc import Iterator
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dermalert import progress
from dermalert.formatting import duration

LOSS = "eval_validation_calibrated_loss"

_FIGURES = {
    "train loss": "eval_train_calibrated_loss",
    "val. loss": LOSS,
    "bal. accuracy": "eval_validation_balanced_accuracy",
    "mel. AUROC": "eval_validation_melanoma_auroc",
}
_COLUMNS = ("  epoch", *_FIGURES, "images/s", "time left")
_LEGEND = "Losses are those that a calibration leaves; * marks the lowest on validation so far."


class EpochTable(TrainerCallback):
    """Prints a row when an epoch has been evaluated; rows of epochs before a stop come first.

    Args:
        images: that an epoch draws.
    """

    def __init__(self, images: int):
        self.images = images
        self._bar = progress.Bar(0, "", "")
        self._began = self._epoch_began = 0.0
        self._first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Print the head, and what is recorded already."""
        if state.is_world_process_zero:
            print_recorded(state)
        self._began, self._first_step = time.monotonic(), state.global_step

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar of an epoch."""
        self._epoch_began = time.monotonic()
        steps = math.ceil(len(kwargs["train_dataloader"]) / args.gradient_accumulation_steps)
        title = f"Epoch {math.floor(state.epoch or 0) + 1}"
        if state.is_world_process_zero:
            self._bar = progress.bar(min(steps, state.max_steps - state.global_step), title, "steps", stays=False)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count a step."""
        self._bar.update()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Print the row of an epoch, once validation is measured too."""
        if LOSS not in kwargs["metrics"] or not state.is_world_process_zero:
            return
        self._bar.close()
        now = time.monotonic()
        a_step = (now - self._began) / (state.global_step - self._first_step)
        left = duration(a_step * (state.max_steps - state.global_step)) if state.global_step < state.max_steps else ""
        *_, row = _rows(state)
        _print(*row, speed=f"{self.images / (now - self._epoch_began):.1f}", left=left)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say how the training has ended."""
        self._bar.close()
        if state.is_world_process_zero:
            print_end(state)


def print_recorded(state: TrainerState) -> None:
    """Print the head of the table, and the epochs that a state has recorded."""
    print(_LEGEND, "  ".join(_COLUMNS), sep="\n", flush=True)
    for epoch, figures, best in _rows(state):
        _print(epoch, figures, best)


def print_end(state: TrainerState) -> None:
    """Print which epoch is kept."""
    epochs = {int(entry["step"]): entry["epoch"] for entry in state.log_history if LOSS in entry}
    kept = epochs.get(state.best_global_step or -1)
    after = "" if kept is None else f": epoch {_number(kept)} of {_number(state.epoch or 0)} is kept"
    early = ", stopped early" if state.global_step < state.max_steps else ""
    print(f"Training done{early}{after}.", flush=True)


def _rows(state: TrainerState) -> Iterator[tuple[str, list[float | None], bool]]:
    """Yield of each epoch its number, its figures and whether it was the best so far."""
    of_step: dict[int, dict[str, Any]] = {}
    for entry in state.log_history:
        of_step.setdefault(int(entry["step"]), {}).update(entry)
    lowest = math.inf
    for entry in of_step.values():
        if LOSS in entry:
            best = entry[LOSS] < lowest
            lowest = min(lowest, entry[LOSS])
            epoch = f"{_number(entry['epoch'])}/{_number(state.num_train_epochs)}"
            yield epoch, [entry.get(name) for name in _FIGURES.values()], best


def _print(epoch: str, figures: list[float | None], best: bool, *, speed: str = "", left: str = "") -> None:
    cells = [epoch, *("-" if figure is None else f"{figure:.3f}" for figure in figures), speed, left]
    row = "  ".join(cell.rjust(len(column)) for cell, column in zip(cells, _COLUMNS, strict=True))
    print(f"{row}{'  *' if best else ''}".rstrip(), flush=True)


def _number(epoch: float) -> str:
    return f"{round(epoch, 2):g}"
