"""A run of `train_hf.py`: its folder, its processes, the checkpoint that it goes on from, its branch of the Hub."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar

from dermalert_space import contract
from dermalert_space.contract import Json, Making, public_name
from dermalert_space.release import Release
from transformers import BaseImageProcessor, PreTrainedModel, TrainerCallback, TrainerState

from dermalert import commit
from dermalert.config import Config, of_the_result
from dermalert.errors import RunError, UsageError
from dermalert.taxonomy import CLINICAL_GROUPS, DIAGNOSES
from dermalert.training import (
    backbones,
    checkpoint_pushes,
    checkpoint_sync,
    checkpoints,
    distributed,
    epoch_table,
    lora,
    run_folder,
)
from dermalert.training.calibration import Calibration
from dermalert.training.recipe_trainer import RecipeTrainer
from dermalert.training.run_folder import Speed

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training leaves: a calibrated model, and how it came about."""

    model: PreTrainedModel
    processor: BaseImageProcessor
    calibration: Calibration
    state: TrainerState
    speed: Speed


class Run:
    """A run in its folder, alone there while it trains; in each of its processes, of which the main one writes."""

    def __init__(self, config: Config):
        self.config, self.folder = config, Path(config.output_dir)
        precision = distributed.requested_precision(config.requested_precision)
        self.settings = of_the_result(config, processes=distributed.count(), mixed_precision=precision)
        """What the result depends on: called again with others, the run is another one."""
        self.tuning: Json | None = None
        """The search that the settings come from, as `metrics.json` states it."""
        self._pushes = None
        if config.checkpoints_to and distributed.is_main():
            self._pushes = checkpoint_pushes.Pushes(config.checkpoints_to, self.folder)
        self.callbacks: list[TrainerCallback] = [self._pushes] if self._pushes else []
        self._alone = run_folder.Alone(self.folder)
        self._resumed: checkpoint_sync.Snapshot | None = None
        self.is_finished: bool = distributed.broadcast_from_main(
            lambda: run_folder.is_finished(self.folder, self.settings)
        )

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep the folder to this run, and find the checkpoint that `--resume_from_checkpoint` names.

        Raises:
            UsageError: another process has the folder, or the checkpoint is another run's.
        """
        if self.settings["mixed_precision"]:
            by = "a flag" if self.config.requested_precision else "accelerate's configuration"
            precision = self.settings["mixed_precision"].replace("no", "single precision")
            print(f"Training in {precision}, as {by} asks.")
        with self._alone, self._pushes or contextlib.nullcontext():
            distributed.run_on_main(self._alone.hold)
            self._resumed = distributed.broadcast_from_main(self._find_checkpoint)
            yield

    def adopt(self, best: Json, tuning: Json) -> Config:
        """Take the settings that a search has found as the run's, and return all; its folder keeps those of the flags.

        Args:
            best: by the names of their fields.
            tuning: the search, as `metrics.json` states it.
        """
        self.config, self.tuning = dataclasses.replace(self.config, **best), tuning
        self.settings |= best | {"tune": 0}  # the release was trained once, with these
        return self.config

    def _find_checkpoint(self) -> checkpoint_sync.Snapshot | None:
        name = self.config.resume_from_checkpoint
        resumed = checkpoint_sync.find(name, self.folder, self.settings) if name else None
        if self._pushes:
            self._pushes.check(self.settings, resumed)
        return resumed

    def claim(self, model: PreTrainedModel, fingerprints: dict[str, str], prepare: Callable[[], _T]) -> _T | None:
        """Make the folder this run's, once nothing is left that could be asked wrongly.

        Args:
            model: that is trained, by whose size the disk is checked.
            fingerprints: `data` and `sides`, of the images and their splits.
            prepare: what the main process has to do first, and may refuse.

        Returns:
            What `prepare` returns; in the other processes None.
        """
        identity = self.settings | fingerprints

        def claim() -> _T:
            prepared = prepare()
            if self._resumed:
                where = str(self._resumed.source)
                run_folder.check_images(self._resumed.run or {}, identity, where, "name another one")
            needed = run_folder.disk_needed(model, pushed=bool(self.config.checkpoints_to), adapters=self.config.lora)
            run_folder.claim(self.folder, identity, needed_bytes=needed, hold=self._alone.hold)
            return prepared

        prepared = distributed.run_on_main(claim)
        run_folder.check_shared(self.folder, identity)
        return prepared

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Bring the checkpoint of a branch into the folder, and say in one sentence where writing fails."""
        with run_folder.writing(self.folder):
            resumed = self._resumed
            if resumed:
                distributed.run_on_main(lambda: checkpoint_sync.fetch(resumed, self.folder))
            yield

    def finish(self) -> str | None:
        """Push what the branch lacks, and drop the checkpoints; return what the branch still lacks, in a sentence."""
        behind = self._pushes.finish() if self._pushes else None
        if not behind:
            run_folder.drop_checkpoints(self.folder)
        return behind


def start(config: Config, folder: Path, data: Json) -> tuple[PreTrainedModel, BaseImageProcessor, Path | None]:
    """The model to train, its processor, and the checkpoint that it comes from where the run was stopped.

    A stopped run's model is built from the checkpoint: transformers 5.23 leaves most tensors of a ViT, DeiT, DINOv2 or
    Swin at fresh values if only `train(resume_from_checkpoint=)` loads it.

    Args:
        config: of the run.
        folder: of the run, or of a fold.
        data: see `schema.describe`.
    """
    checkpoint = distributed.broadcast_from_main(lambda: checkpoints.last_checkpoint(folder))
    model, processor = load_model(config, None if config.lora else checkpoint)
    if config.lora:  # a checkpoint has the adapters merged, and they are trained apart from what is frozen
        lora.add(model, processor, config, checkpoint)
    if checkpoint:
        print(f"Going on from '{checkpoint}'.")
    if config.lora or not checkpoint:
        base = str(contract.find(config.model_name_or_path))
        model.config.dermalert = about(model, base_model=base, data=data, split_seed=config.split_seed)
    return model, processor, checkpoint


def load_best(config: Config, folder: Path, state: TrainerState) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """The model of the best epoch, and its processor; not by `load_best_model_at_end`, which loads as `start` says.

    Raises:
        RunError: the training diverged.
    """
    model, processor = load_model(config, checkpoints.best_checkpoint(folder, state.best_global_step))
    model.config.clinical_groups = CLINICAL_GROUPS
    # Those of a release that was trained on from are of another model.
    model.config.refusal = model.config.attention = None
    return model, processor


def fit(trainer: RecipeTrainer, folder: Path, checkpoint: Path | None) -> tuple[TrainerState, Speed]:
    """Train to the end, or from a checkpoint on; return the state at the end and how fast it was."""
    ended = distributed.broadcast_from_main(lambda: run_folder.read_end(folder))
    if ended:  # the run was stopped after the training
        epoch_table.print_recorded(ended[0])
        epoch_table.print_end(ended[0])
        return ended
    before = 0.0
    if checkpoint:
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        before = state.epoch
        # Stopped after the last checkpoint: the Trainer would forget that it had decided to end, and train on.
        control = state.stateful_callbacks.get("TrainerControl", {}).get("args", {})
        if control.get("should_training_stop"):
            return _note_end(trainer, folder, state, None, None)
    started = time.perf_counter()
    distributed.vary_chance()
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except UnpicklingError as error:  # of the optimizer's state, damaged or none at all
        raise RunError(f"'{checkpoint}' cannot be gone on from: its files hold something else than tensors.") from error
    seconds = time.perf_counter() - started
    # The evaluation after each epoch is part of the time, the decoding before it not. What a stopped run took before is
    # not known.
    rate = (trainer.state.epoch - before) * len(trainer.draws.labels) / seconds
    return _note_end(trainer, folder, trainer.state, rate, None if checkpoint else seconds)


def _note_end(
    trainer: RecipeTrainer, folder: Path, state: TrainerState, rate: float | None, seconds: float | None
) -> tuple[TrainerState, Speed]:
    """Remember that a training has ended, so that it is not trained again; return the state and how fast it was."""
    speed: Speed = {
        "images_per_second": rate,
        "seconds": seconds,
        "mixed_precision": "bf16" if trainer.args.bf16 else "fp16" if trainer.args.fp16 else "no",
        "device": str(trainer.args.device),
        "processes": distributed.count(),
        "trained_by": commit(),
    }
    if distributed.is_main():
        run_folder.write_end(folder, state, speed)
    return state, speed


def load_model(config: Config, checkpoint: Path | None = None) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Load the base model, a checkpoint of it, or the release that `weights_from` takes as it is, with its processor.

    Raises:
        UsageError: the base model was trained with another split.
    """
    if config.weights_from:
        served = Release.load(contract.find(config.weights_from))
        return served.model.float(), served.processor
    name = str(checkpoint or contract.find(config.model_name_or_path))
    model, processor = backbones.load(name, labels=DIAGNOSES, image_size=config.image_size)
    split_seed = getattr(model.config, "dermalert", {}).get("split_seed", config.split_seed)
    if split_seed != config.split_seed:
        raise UsageError(
            f"--model_name_or_path '{name}' was trained with --split_seed {split_seed}: with {config.split_seed} some "
            f"of its training images would be held out. Use --split_seed {split_seed}."
        )
    return model, processor


def about(model: PreTrainedModel, *, base_model: str, data: Json, split_seed: int) -> Making:
    """What a release's config will say of its making; what its base was trained on is part of that.

    A base model's folder is named by its version or its last part, never by its path.
    """
    base, path = getattr(model.config, "dermalert", {}), Path(base_model)
    if path.exists():
        base_model = base.get("version") or public_name(path)
    return {
        "version": None,  # until it is published
        "base_model": base_model,
        "data": sorted({*base.get("data", []), *data["sources"]}),
        "generated": data["generated"] and base.get("generated", True),
        "split_seed": split_seed,
    }
