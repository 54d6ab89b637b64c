"""The table of a training: a row an epoch, whole when it goes on after a stop."""

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from dermalert.training import epoch_table
from dermalert.training.epoch_table import LOSS, EpochTable


def evaluated(step: int, loss: float) -> list[dict]:
    figures = {LOSS: loss, "eval_validation_balanced_accuracy": 0.5, "eval_validation_melanoma_auroc": None}
    return [
        {"loss": 3.0, "epoch": step / 10, "step": step},
        {"eval_train_calibrated_loss": loss / 2, "epoch": step / 10, "step": step},
        figures | {"epoch": step / 10, "step": step},
    ]


def state(*losses: float, of: int = 4, best: int | None = None, **options) -> TrainerState:
    history = [entry for i, loss in enumerate(losses) for entry in evaluated(10 * (i + 1), loss)]
    step = 10 * len(losses)
    options |= {"global_step": step, "max_steps": 10 * of, "num_train_epochs": of, "epoch": step / 10}
    return TrainerState(log_history=history, best_global_step=best, **options)


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(epoch_table.time, "monotonic", lambda: now[0])
    return now


def train(clock: list[float], table: EpochTable, *losses: float, after: int = 0, of: int = 4, **options) -> None:
    """Call the table as the Trainer does, from an epoch on; each takes a minute."""
    arguments, control = TrainingArguments(use_cpu=True), TrainerControl()
    table.on_train_begin(arguments, state(*losses[:after], of=of, **options), control)
    for epoch in range(after, len(losses)):
        now = state(*losses[: epoch + 1], of=of, **options)
        before = state(*losses[:epoch], of=of, **options)
        table.on_epoch_begin(arguments, before, control, train_dataloader=range(10))
        table.on_step_end(arguments, before, control)
        clock[0] += 60
        table.on_evaluate(arguments, now, control, metrics={"eval_train_calibrated_loss": 1.0})
        table.on_evaluate(arguments, now, control, metrics={LOSS: losses[epoch]})


HEAD = "  epoch  train loss  val. loss  bal. accuracy  mel. AUROC  images/s  time left"


def test_an_epoch_has_one_row_under_one_head_and_the_best_so_far_is_marked(clock, capsys):
    train(clock, EpochTable(600), 2.0, 1.5, 1.6)
    legend, *rows = capsys.readouterr().out.splitlines()
    assert "calibration" in legend
    assert rows == [
        HEAD,
        "    1/4       1.000      2.000          0.500           -      10.0      3 min  *",
        "    2/4       0.750      1.500          0.500           -      10.0      2 min  *",
        "    3/4       0.800      1.600          0.500           -      10.0       60 s",
    ]


def test_a_run_that_goes_on_shows_the_epochs_before_the_stop_too(clock, capsys):
    train(clock, EpochTable(600), 2.0, 1.5, 1.6, after=2)
    _, *rows = capsys.readouterr().out.splitlines()
    assert rows == [
        HEAD,
        "    1/4       1.000      2.000          0.500           -                       *",
        "    2/4       0.750      1.500          0.500           -                       *",
        "    3/4       0.800      1.600          0.500           -      10.0       60 s",
    ]


def test_other_processes_print_nothing(clock, capsys):
    train(clock, EpochTable(600), 2.0, 1.5, is_world_process_zero=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("losses", "best", "sentence"),
    [
        ([2.0, 1.5], 20, "Training done: epoch 2 of 2 is kept."),
        ([2.0], 10, "Training done, stopped early: epoch 1 of 1 is kept."),
        ([float("nan")] * 2, None, "Training done."),
    ],
)
def test_the_end_says_which_epoch_is_kept(losses, best, sentence, capsys):
    epoch_table.print_end(state(*losses, of=2, best=best))
    assert capsys.readouterr().out == f"{sentence}\n"
