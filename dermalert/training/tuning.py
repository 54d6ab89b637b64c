"""A search of the settings of the optimizer, by optuna: whole trainings, compared by their loss on validation alone.

What decides how well a model carries over to other clinics, such as the augmentation, is not searched: validation has
the same clinics as training, and would choose against it.

RUN/tuning/trials.json holds the trainings that have ended; a search that was stopped goes on after them.
"""

import dataclasses
import importlib.util
import math
from collections.abc import Callable

from datasets import Dataset
from dermalert_space import files
from dermalert_space.contract import Json
from transformers import PreTrainedModel, set_seed

from dermalert.config import Config
from dermalert.errors import RunError, UsageError
from dermalert.training import distributed
from dermalert.training.recipe_trainer import RecipeTrainer
from dermalert.training.run import Run, start
from dermalert.training.run_folder import TUNING, read_json

_STUDY = "tuning"
_LOGARITHMIC = "learning_rate"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """A training of the search."""

    settings: dict[str, float]
    loss: float | None
    """The lowest calibrated loss on validation of its epochs, in nats; None where none is a number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """A search that has ended."""

    ranges: dict[str, list[float]]
    trials: list[Trial]

    @property
    def best(self) -> Trial:
        """The training with the lowest loss.

        Raises:
            RunError: all of them diverged.
        """
        best = min(self.trials, key=_loss)
        if best.loss is None:
            raise RunError("each training of --tune diverged: try a lower --learning_rate.")
        return best

    def to_json(self) -> Json:
        """As `metrics.json` states it under `training`."""
        return dataclasses.asdict(self) | {"by": "validation_calibrated_loss"}


def check(config: Config) -> None:
    """Refuse a search that cannot be made, or that would not be of validation alone.

    Raises:
        UsageError: names the flag.
    """
    if config.tune < 0:
        raise UsageError(f"--tune {config.tune} makes no sense: it must be 0, for none, or more.")
    if not config.tune:
        return
    if importlib.util.find_spec("optuna") is None:
        raise UsageError("--tune needs optuna: pip install optuna.")
    if distributed.count() > 1:
        raise UsageError("--tune searches in one process: start without `accelerate launch`.")
    if config.folds:
        raise UsageError("--tune chooses by images that --folds would report: leave one of them out.")
    if config.checkpoints_to or config.resume_from_checkpoint:
        raise UsageError(
            "--tune cannot go on elsewhere: search without --checkpoints_to, --hub_strategy checkpoint and "
            "--resume_from_checkpoint, then train with what it has found."
        )


def search(run: Run, splits: dict[str, Dataset], data: Json, make_trainer: Callable[..., RecipeTrainer]) -> Config:
    """Train as often as `--tune` says, and give the run the settings of the lowest loss; all of its settings.

    Args:
        run: whose folder records the search.
        splits: of which the search is given training and validation.
        data: see `schema.describe`.
        make_trainer: as `train_hf.make_trainer`.
    """
    config, folder, record = run.config, run.folder / TUNING, run.folder / TUNING / "trials.json"
    recorded = (read_json(record) or {"trials": []})["trials"]
    tuning = Tuning(ranges=ranges(config), trials=[Trial(**trial) for trial in recorded])
    own = {name: splits[name] for name in ("train", "validation")}
    # Nothing is saved or recorded of such a training but its loss.
    quiet = dataclasses.replace(config, save_strategy="no", report_to=["none"])
    while len(tuning.trials) < config.tune:
        set_seed(config.seed)
        model, processor, _ = start(quiet, folder, data)
        print(f"Training {len(tuning.trials) + 1} of {config.tune} that --tune compares.")
        tuning.trials.append(_try(config, tuning, make_trainer(quiet, folder, model, processor, own), model))
        folder.mkdir(exist_ok=True)
        files.write_json(record, tuning.to_json())
        print(_sentence(tuning.trials[-1]))
    print(f"The lowest of {config.tune}: {_sentence(tuning.best)}")
    return run.adopt(tuning.best.settings, tuning.to_json())


def ranges(config: Config) -> dict[str, list[float]]:
    """What is searched, and from where to where: around what the flags say, which is tried first."""
    ranges = {
        "learning_rate": [config.learning_rate / 10, config.learning_rate * 10],
        "weight_decay": [0.0, max(0.1, 2 * config.weight_decay)],
    }
    if config.warmup_steps < 1:  # a share
        ranges["warmup_steps"] = [0.0, max(0.2, config.warmup_steps)]
    return ranges


def _try(config: Config, tuning: Tuning, trainer: RecipeTrainer, model: PreTrainedModel) -> Trial:
    """Train once more: with the settings of the flags first, then with those that the trainings before suggest."""
    import optuna  # an extra

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Made anew of the record each time, so that a search that was stopped goes on as if it had not been.
    memory = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=memory, study_name=_STUDY)
    scales: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(low, high, log=name == _LOGARITHMIC)
        for name, (low, high) in tuning.ranges.items()
    }
    for trial in tuning.trials:
        study.add_trial(optuna.trial.create_trial(params=trial.settings, distributions=scales, value=_loss(trial)))
    if not tuning.trials:
        study.enqueue_trial({name: getattr(config, name) for name in scales})
    settings: dict[str, float] = {}
    losses = [math.inf]

    def suggest(trial: optuna.Trial) -> dict[str, float]:
        for name, (low, high) in tuning.ranges.items():
            settings[name] = trial.suggest_float(name, low, high, log=name == _LOGARITHMIC)
        return settings

    def lowest(figures: dict[str, float]) -> float:
        losses.append(min(losses[-1], figures[str(config.metric_for_best_model)]))  # no number is below none
        return losses[-1]

    trainer.model_init = lambda: model
    trainer.hyperparameter_search(
        hp_space=suggest,
        compute_objective=lowest,
        n_trials=1,
        backend="optuna",
        storage=memory,
        study_name=_STUDY,
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=config.seed + len(tuning.trials)),
        pruner=optuna.pruners.NopPruner(),
    )
    return Trial(settings=settings, loss=losses[-1] if math.isfinite(losses[-1]) else None)


def _loss(trial: Trial) -> float:
    return math.inf if trial.loss is None else trial.loss


def _sentence(trial: Trial) -> str:
    settings = ", ".join(f"{name} {value:.3g}" for name, value in trial.settings.items())
    loss = "no number" if trial.loss is None else f"{trial.loss:.4f}"
    return f"{settings}: calibrated loss on validation {loss}."
