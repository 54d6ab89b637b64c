r"""Fine-tune an image classifier on skin lesions, measure it on images held out, and leave a release to publish.

    python train_hf.py --dataset isic9/ --base_model efficientnet-lite0 --output_dir runs/isic9 \
        --push_to_hub USER/REPO --version v1.0.0

README.md tells what came out of it, on this set and on three together. In two minutes, on generated lesions (`make
demo`):

    python train_hf.py --dataset demo --output_dir runs/demo --image_size 96 --epochs 6

The same command again goes on where it was stopped, and does nothing once it has finished. What comes out is
`OUTPUT_DIR/release`, which `transformers.pipeline("image-classification")` loads.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

from dermalert.config import Config, parse

if __name__ == "__main__":
    CONFIG = parse(manual=__doc__)  # before all that takes seconds to import: --help and a bad flag answer at once

import numpy as np
import torch
from datasets import Dataset
from dermalert_space import contract
from dermalert_space.contract import REFERENCE
from dermalert_space.estimate import format_estimate
from dermalert_space.release import Release
from transformers import (
    BaseImageProcessor,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from dermalert.data import (
    audit,
    contamination,
    external,
    metadata_tables,
    schema,
    splits,
)
from dermalert.data.prepare import prepare
from dermalert.errors import RunError, UsageError, run_command
from dermalert.evaluation import baselines, evaluate, metrics, operating_points, stress_test
from dermalert.formatting import percent
from dermalert.imaging import device
from dermalert.publishing import models
from dermalert.release import build, fit_abstention, onnx_export, remeasure
from dermalert.taxonomy import CLINICAL_GROUPS, DIAGNOSES
from dermalert.training import (
    backbones,
    calibration,
    checkpoint_sync,
    distributed,
    image_dataset,
    recipe_trainer,
    run_folder,
)

# What a run may be called again with, and still be the same run.
_ON_THE_HUB = ("push_to_hub", "version", "accept_regression", "checkpoints_to", "resume_from")
_NOT_OF_THE_RESULT = ("output_dir", *_ON_THE_HUB, "report_to", "strict", "streaming", "onnx")

_NO_IMPROVEMENT = 1e-4
"""Nats of the calibrated loss; the fit of a calibration does not settle more of it."""


def main(config: Config) -> dict:
    """Run the recipe, or what is left of it, and return the content of `metrics.json`."""
    if config.weights_from:
        config = remeasure.settings(config)
    check(config)
    with distributed.together():
        return run(config)


def run(config: Config) -> dict:
    """Do what `main` does, in each of the processes; the main one alone has figures to return."""
    folder = Path(config.output_dir)
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in _NOT_OF_THE_RESULT}
    settings["mixed_precision"] = device.asked_precision()
    exists = False
    pushes = checkpoint_sync.Pushes(config.checkpoints_to if distributed.is_main() else None, folder)
    if distributed.decided(lambda: run_folder.is_finished(folder, settings)):
        print(f"The run in '{folder}' is finished: nothing is left to train.")
    else:
        if config.push_to_hub:
            exists = distributed.decided(lambda: models.check_can_publish(config.push_to_hub, config.version))
        if settings["mixed_precision"]:
            print(f"Training in {settings['mixed_precision']}, as accelerate's configuration asks.")
        with run_folder.Alone(folder) as alone, pushes:
            distributed.by_main(alone.hold)
            train(config, folder, settings, pushes, alone)
    if not distributed.is_main():
        return {}
    behind = pushes.finish()
    if behind:
        print(behind)  # here too, because the release may be refused
    else:
        run_folder.drop_checkpoints(folder)
    if config.push_to_hub:
        how = {"accept": config.accept_regression, "must_exist": exists}
        print(models.publish(folder / "release", config.push_to_hub, config.version, **how))
    figures = build.read_metrics(folder / "release")
    print(what_next(folder / "release", figures))
    if behind:
        raise RunError(behind)
    return figures


def check(config: Config) -> None:
    """Refuse settings that make no sense."""
    for name in ("epochs", "patience", "batch_size", "learning_rate", "image_size"):
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"--{name} {value} makes no sense: it must be above 0.")
    if config.batch_size % distributed.count():
        raise UsageError(f"--batch_size {config.batch_size} cannot be shared by {distributed.count()} processes.")
    if not 0 <= config.average < 1:
        raise UsageError(f"--average {config.average} makes no sense: it must be from 0 to below 1.")
    if not 0 <= config.seed < 2**32:
        raise UsageError(f"--seed {config.seed} makes no sense: it must be from 0 to 2**32 - 1.")
    if config.folds == 1 or config.folds < 0:
        raise UsageError(f"--folds {config.folds} makes no sense: it must be 0, for none, or 2 and more.")
    run_folder.check_name(Path(config.output_dir))
    external.check(config.external)
    if config.report_to != "none" and find_spec(config.report_to) is None:
        raise UsageError(f"--report_to {config.report_to} is not installed: pip install -e '.[tracking]'.")
    if (config.push_to_hub is None) != (config.version is None):
        raise UsageError("--push_to_hub USER/REPO and --version v1.0.0 (the release's tag) need each other.")
    if config.accept_regression is not None and config.push_to_hub is None:
        raise UsageError("--accept_regression is said of a release that is published: add --push_to_hub and --version.")
    models.check_reason(config.accept_regression)


def train(
    config: Config, folder: Path, settings: dict, pushes: checkpoint_sync.Pushes, alone: run_folder.Alone
) -> None:
    """Fine-tune, calibrate and measure; the release appears in the folder when all is done."""
    resumed = distributed.decided(lambda: find_checkpoint(config, folder, settings, pushes))
    columns = metadata_tables.Columns(metadata_tables.mapping(config.columns or []))
    options = {"columns": columns, "streaming": config.streaming, "strict": config.strict}
    with distributed.one_a_machine_first():
        prepared = prepare(config.dataset, config.repair, **options)
        model, processor = load_model(config, taken=config.weights_from)  # refused before anything is written
    known = contamination.read(contract.find(config.base_model))
    sides = prepared.split(seed=config.split_seed, exposure=known)
    folds = [splits.fold(sides, i, config.folds, seed=config.split_seed) for i in range(config.folds)]
    folds = [contamination.set_apart(fold, known) for fold in folds]
    if config.weights_from:
        remeasure.check_images(config.weights_from, sides)
    data = schema.describe(prepared.dataset)
    whose = settings | {"data": data["fingerprint"], "sides": splits.fingerprint(sides)}
    learnt_from = contamination.of(sides, known)

    def claim() -> tuple[dict, dict[str, Dataset], dict]:
        if config.onnx != "none":
            onnx_export.check(model, processor, config.onnx)
        audited = prepared.audit()
        more = options | {"beside": config.dataset}
        others, told = external.load(config.external, sides=sides, learnt=learnt_from, policy=config.repair, **more)
        columns.check()
        if resumed:
            run_folder.check_images(resumed.run, whose, str(resumed.branch), "name another branch")
        needed = run_folder.disk_needed(model, pushed=bool(config.checkpoints_to))
        run_folder.claim(folder, whose, needed_bytes=needed, hold=alone.hold)
        return audited, others, told

    audited, others, told = distributed.by_main(claim) or (None, None, None)
    run_folder.check_shared(folder, whose)
    with run_folder.writing(folder):
        if resumed:
            distributed.by_main(lambda: checkpoint_sync.fetch(resumed, folder))
        learnt = learn(config, folder, sides, data, callbacks=[pushes]) if not config.weights_from else reuse(config)
        out_of_fold = [fold_predictions(config, folder / "folds" / str(i), fold, data) for i, fold in enumerate(folds)]
        if not distributed.is_main():
            return
        with build.assembled(folder / "release") as staging:
            release = stored(learnt, staging, half_precision=config.half_precision)
            release = fit_abstention.add(staging, release, sides["train"], sides["calibration"])
            release = operating_points.add(staging, release, sides["calibration"])
            measured = measure(release, learnt, sides, others, out_of_fold)
            found = {"shipped": schema.describe(prepared.shipped), "repair": prepared.repair, "external": told}
            found |= {
                "base_model_learnt_from": "known" if known else "not known",
                "official_test_known_to_base": int((~contamination.are_unseen(sides["official_test"], known)).sum()),
            }
            figures = report(config, settings, data | found, sides, learnt, release, measured)
            if config.onnx != "none":
                figures["onnx"] = onnx_export.write(staging, release, measured["held_out"], sides, config.onnx)
            evaluate.write_reference(staging / REFERENCE, release)
            evaluate.write(staging / "evaluation", figures, measured, learnt.state.log_history)
            if config.weights_from:
                remeasure.copy_learning_curves(config.weights_from, staging)
            audit.write(audited, staging / "evaluation" / "audit.json")
            contamination.write(learnt_from, staging)
            build.write_card(staging)


def find_checkpoint(
    config: Config, folder: Path, settings: dict, pushes: checkpoint_sync.Pushes
) -> checkpoint_sync.Held | None:
    """Return the checkpoint on the Hub to go on from, if one is asked for, and check where new ones are to go."""
    resumed = checkpoint_sync.find(config.resume_from, folder, settings) if config.resume_from else None
    pushes.check(settings, resumed)
    return resumed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learnt:
    """What a training leaves: a calibrated model, and how it came about."""

    model: PreTrainedModel
    processor: BaseImageProcessor
    calibrated: calibration.Calibration
    state: TrainerState
    speed: dict


def learn(
    config: Config, folder: Path, sides: dict[str, Dataset], data: dict, *, callbacks: Sequence[TrainerCallback] = ()
) -> Learnt | None:
    """Train on `train`, stop by `validation`, calibrate on `calibration`; go on from a checkpoint in the folder.

    Of several processes the main one alone returns something.
    """
    set_seed(config.seed)
    # Where the run was stopped, the model is built from the checkpoint: transformers 5.23 leaves most tensors of a ViT,
    # DeiT, DINOv2 or Swin at fresh values if only `train(resume_from_checkpoint=)` loads it.
    checkpoint = distributed.decided(lambda: run_folder.last_checkpoint(folder))
    if checkpoint:
        print(f"Going on from '{checkpoint}'.")
        model, processor = load_model(config, checkpoint)
    else:
        model, processor = load_model(config)
        base = str(contract.find(config.base_model))
        model.config.dermalert = build.about(model, base_model=base, data=data, split_seed=config.split_seed)
    prior = prior_to_give_back(config, sides["train"])
    trainer = make_trainer(config, folder, model, processor, sides, prior=prior)
    for callback in callbacks:
        trainer.add_callback(callback)
    state, speed = fit(trainer, folder, checkpoint)
    if not distributed.is_main():
        return None
    # The best epoch's weights; not by `load_best_model_at_end`, which has the same defect.
    model, processor = load_model(config, run_folder.best_checkpoint(folder, state.best_global_step))
    if config.half_precision:
        recipe_trainer.round_to_half(model)
    calibrated = calibration.calibrate(model, processor, sides["calibration"], prior=prior)
    model.config.clinical_groups = CLINICAL_GROUPS
    # Those of a release that was trained on from are of another model; see `declining` and `operating_points`.
    model.config.refusal = model.config.attention = None
    return Learnt(model=model, processor=processor, calibrated=calibrated, state=state, speed=speed)


def reuse(config: Config) -> Learnt | None:
    """Return the weights of a release as they are, calibrated, with what it says of its training."""
    if not distributed.is_main():
        return None
    figures = build.read_metrics(contract.find(config.weights_from))
    model, processor = load_model(config, taken=config.weights_from)
    model.config.dermalert["version"] = None  # until it is published anew
    model.config.alert |= {"threshold": None}
    model.config.refusal = model.config.attention = None
    of = figures["training"]
    return Learnt(
        model=model,
        processor=processor,
        calibrated=calibration.Calibration(**figures["calibration"]),
        state=TrainerState(epoch=of["epochs"], best_global_step=of["best_step"]),
        speed={key: value for key, value in of.items() if key not in ("epochs", "best_step", "folds", "settings")},
    )


def stored(learnt: Learnt, folder: Path, *, half_precision: bool) -> Release:
    """Write model and processor, and return what a serving side makes of the files."""
    learnt.model.save_pretrained(folder)
    backbones.save_processor(learnt.processor, folder)
    if half_precision:
        build.compact(folder)
    return Release.load(folder)


def measure(
    release: Release,
    learnt: Learnt,
    sides: dict[str, Dataset],
    others: dict[str, Dataset],
    out_of_fold: list[evaluate.Side],
) -> dict[str, evaluate.Side]:
    """Return answers to and figures of all that is reported, by name: what a serving side makes of the release."""
    reported = {name: sides[name] for name in ("held_out", "official_test", "clean_test")} | others
    mix = recipe_trainer.shares(sides["train"]["label"])  # that of the calibration side, but for chance
    measured = evaluate.evaluate(release, reported, undone=learnt.calibrated.undone, prior=mix)
    held_out = measured["held_out"]
    held_out.figures["artefacts"] = stress_test.stress(release, held_out.dataset, unaltered=held_out.probabilities)
    return measured | evaluate.pooled(out_of_fold)


def report(
    config: Config,
    settings: dict,
    data: dict,
    sides: dict[str, Dataset],
    learnt: Learnt,
    release: Release,
    measured: dict[str, evaluate.Side],
) -> dict:
    """Return what `metrics.json` holds."""
    held_out, about = measured["held_out"], learnt.model.config.dermalert
    shortcuts = baselines.baselines(sides, held_out.probabilities)
    return {
        "schema": 1,
        "version": None,  # until it is published
        "base_model": about["base_model"],
        "data": data
        | splits.describe(sides, config.split_seed)
        | {"generated": about["generated"], "trained_on": about["data"]},
        "splits": {name: side.figures for name, side in measured.items()},
        "baselines": shortcuts,
        "shortcut": baselines.shortcuts(shortcuts),
        "calibration": dataclasses.asdict(learnt.calibrated),
        "alert": release.model.config.alert,
        "attention": release.model.config.attention,
        "refusal": release.model.config.refusal | fit_abstention.measure(release, held_out.dataset, held_out.abstained),
        "training": learnt.speed
        | {"epochs": learnt.state.epoch, "best_step": learnt.state.best_global_step, "folds": config.folds}
        | {"measured_by": build.commit()}
        | {"settings": {k: v for k, v in settings.items() if k not in run_folder.MAY_NAME_FOLDERS}},
    }


def fold_predictions(config: Config, folder: Path, sides: dict[str, Dataset], data: dict) -> evaluate.Side | None:
    """Return the answers to one fold of a model that has learnt from the others; read where they were kept."""
    kept = evaluate.read_predictions(folder / "answers.npz", sides["held_out"]) if distributed.is_main() else None
    learnt = learn(config, folder, sides, data) if distributed.decided(lambda: kept is None) else None
    if not distributed.is_main():
        return None
    if learnt:
        name = f"fold {folder.name}"
        model, processor = learnt.model.eval(), learnt.processor
        model.config.update(operating_points.fit(Release(model, processor, name=name), sides["calibration"]))
        kept = evaluate.ask(Release(model, processor, name=name), sides["held_out"], name=name)
        evaluate.write_predictions(folder / "answers.npz", kept)
    run_folder.drop_checkpoints(folder)
    return kept


def make_trainer(
    config: Config, folder: Path, model, processor, sides: dict[str, Dataset], *, prior: np.ndarray | None = None
) -> Trainer:
    """Return the Trainer: the recipe; the epochs are compared as if calibrated with the prior."""
    train = sides["train"]
    # As many training images as validation ones, not augmented: the two curves differ by what was learnt by heart.
    sample = train.shuffle(seed=0).select(range(min(len(train), len(sides["validation"]))))
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=config.epochs,
        use_cpu=not torch.accelerator.is_available(),  # or several processes without one would not find each other
        per_device_train_batch_size=config.batch_size // distributed.count(),
        per_device_eval_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,  # as a share of all steps
        weight_decay=0.01,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=2,
        # Not balanced accuracy: it hangs on a handful of images of the rare diagnoses, and jumps from epoch to epoch.
        metric_for_best_model="eval_validation_calibrated_loss",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,  # so that the patience survives a kill
        remove_unused_columns=False,
        seed=config.seed,
        report_to=config.report_to,
        project="dermalert",
        run_name=folder.name,
        bf16=device.precision() == "bf16",
        fp16=device.precision() == "fp16",
        dataloader_pin_memory=False,  # what is loaded lies on the device
        logging_nan_inf_filter=False,  # it would wait for the device at each step, and hide what it finds
        disable_tqdm=False,
    )
    with distributed.one_a_machine_first():
        augmented = image_dataset.WithPixels(train, processor, augmented=config.augment, device=arguments.device)
        measured = {"train": sample, "validation": sides["validation"]}
        measured = {
            name: image_dataset.WithPixels(side, processor, device=arguments.device) for name, side in measured.items()
        }
    weights = recipe_trainer.sampling_weights(train["label"], train["source"], config.sampling)
    drawn = recipe_trainer.shares(train["label"], weights)
    return recipe_trainer.RecipeTrainer(
        sampling_weights=weights,
        average=config.average,
        model=model.to(memory_format=torch.channels_last),
        args=arguments,
        train_dataset=augmented,
        eval_dataset=measured,
        data_collator=image_dataset.collate,
        processing_class=processor,
        compute_loss_func=recipe_trainer.balanced_softmax(drawn) if config.rebalance else None,
        compute_metrics=recipe_trainer.measure(metrics.SkinLesionMetric(keep_in_memory=True), prior),
        callbacks=[recipe_trainer.EarlyStopping(config.patience, _NO_IMPROVEMENT)],
    )


def learnt_mix(config: Config, train: Dataset) -> np.ndarray:
    """Return the shares (9,) of the diagnoses that a model learns to expect."""
    if config.rebalance:
        return np.full(len(DIAGNOSES), 1 / len(DIAGNOSES))
    return recipe_trainer.shares(
        train["label"], recipe_trainer.sampling_weights(train["label"], train["source"], config.sampling)
    )


def prior_to_give_back(config: Config, train: Dataset) -> np.ndarray | None:
    """Return the mix of the diagnoses (9,) in the data over the one that a model learns to expect; None: the same."""
    if not config.rebalance and config.sampling == "natural":
        return None
    return recipe_trainer.shares(train["label"]) / learnt_mix(config, train)


def fit(trainer: Trainer, folder: Path, checkpoint: Path | None) -> tuple[TrainerState, dict]:
    """Train to the end, or from a checkpoint on; return the state at the end and how fast it was."""
    done = distributed.decided(lambda: run_folder.ended(folder))
    if done:  # the run was stopped after the training
        return done
    before = 0.0
    if checkpoint:
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        before = state.epoch
        # Stopped after the last checkpoint: the Trainer would forget that it had decided to end, and train on.
        control = state.stateful_callbacks.get("TrainerControl", {}).get("args", {})
        if control.get("should_training_stop"):
            return note_end(trainer, folder, state, images_per_second=None, seconds=None)
    started = time.perf_counter()
    distributed.vary_chance()
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except UnpicklingError as error:  # of the optimizer's state, damaged or none at all
        raise RunError(f"'{checkpoint}' cannot be gone on from: its files hold something else than tensors.") from error
    seconds = time.perf_counter() - started
    # The evaluation after each epoch is part of the time, the decoding before it not. What a stopped run took before is
    # not known.
    rate = (trainer.state.epoch - before) * len(trainer.train_dataset) / seconds
    return note_end(trainer, folder, trainer.state, images_per_second=rate, seconds=None if checkpoint else seconds)


def note_end(trainer: Trainer, folder: Path, state: TrainerState, **speed: float | None) -> tuple[TrainerState, dict]:
    """Remember that a training has ended, so that it is not trained again; return the state and how fast it was."""
    speed |= {"mixed_precision": device.precision()}
    speed |= {"device": str(trainer.args.device), "processes": distributed.count(), "trained_by": build.commit()}
    if distributed.is_main():
        run_folder.note_ended(folder, state, speed)
    return state, speed


def load_model(config: Config, checkpoint: Path | None = None, *, taken: str | None = None):
    """Return model and processor of the base model, a checkpoint, or a release that is taken as it is.

    Raises:
        UsageError: the base model was trained with another split.
    """
    if taken:
        served = Release.load(contract.find(taken))
        return served.model.float(), served.processor
    name = str(checkpoint or contract.find(config.base_model))
    model, processor = backbones.load(name, labels=DIAGNOSES, image_size=config.image_size)
    split_seed = getattr(model.config, "dermalert", {}).get("split_seed", config.split_seed)
    if split_seed != config.split_seed:
        raise UsageError(
            f"--base_model '{name}' was trained with --split_seed {split_seed}: with {config.split_seed} some of its "
            f"training images would be held out. Use --split_seed {split_seed}."
        )
    return model, processor


def what_next(folder: Path, figures: dict) -> str:
    """Return what a person wants to know at the end: how good, where it is, what to type."""
    held_out = figures["splits"]["held_out"]
    accuracy = format_estimate(held_out["balanced_accuracy"])
    subgroups = "".join(f"{sentence}\n" for sentence in held_out.get("subgroup_sensitivity", {}).get("sentences", []))
    return (
        f"Held out: balanced accuracy {accuracy}, n = {held_out['n']} images in {held_out['groups']} groups.\n"
        f"{alert_in_short(figures)}"
        f"{subgroups}"
        f"The release: {folder}\n"
        f"Next: make space RELEASE={folder}"
    )


def alert_in_short(figures: dict) -> str:
    """Return what the alert does as served, in a line; nothing where there is no threshold or no melanoma."""
    alert, melanoma = figures["alert"], figures["splits"]["held_out"]["melanoma"]
    if alert["threshold"] is None or not melanoma["n"]:
        return ""
    lesions = melanoma["lesions"]
    sensitivity = format_estimate(lesions["sensitivity_as_served"])
    specificity = format_estimate(melanoma["specificity_as_served"])
    return (
        f"Melanoma alert as served: sensitivity {sensitivity}, n = {lesions['n']} lesions; specificity {specificity}. "
        f"The bound of {percent(alert['target_sensitivity'])} is {'' if alert['bound_met'] else 'not '}met.\n"
    )


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(CONFIG)))
