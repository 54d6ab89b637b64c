"""From a trained model to a release: abstention, operating points, what was measured, exports and card."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from dermalert_space import files
from dermalert_space.contract import ABSTENTION, ALERT_POINT, ATTENTION_POINT, AUDIT, REFERENCE, RELEASE_FOLDER, Json
from dermalert_space.release import Release
from transformers import BaseImageProcessor, PreTrainedModel

from dermalert import commit
from dermalert.config import Config, published
from dermalert.data import contamination
from dermalert.data.development import Development, Reported
from dermalert.evaluation import baselines, evaluate, operating_points, predict, stress_test
from dermalert.evaluation.evaluate import Evaluation
from dermalert.evaluation.predict import SplitPredictions
from dermalert.progress import Steps
from dermalert.release import fit_abstention, measuring, onnx_export, onnx_files, release_folder, remeasure
from dermalert.training import backbones, distributed, lora, run_folder, sampling
from dermalert.training.run import Run, Trained


def gather(config: Config, data: Development, model: PreTrainedModel, processor: BaseImageProcessor) -> Reported:
    """The data that is reported beside the splits; whatever could be refused is refused here, before the training.

    Raises:
        UsageError: the model cannot be exported, the images are not those of `weights_from`; see `Development.report`.
    """
    if config.weights_from:
        remeasure.check_images(config.weights_from, data.splits)
    elif config.lora:
        lora.layers(model, processor, config.model_name_or_path)
    if config.onnx != "none":
        onnx_export.check(model, processor, config.onnx)
    return data.report(config)


def predict_fold(
    run: Run, data: Development, number: int, learn: Callable[..., Trained | None]
) -> SplitPredictions | None:
    """The predictions of a fold by a model trained on the other folds; read where an earlier start has written them.

    Args:
        run: to whose folder it belongs.
        data: with its folds.
        number: of the fold.
        learn: trains and calibrates a model, as `train_hf.learn`.
    """
    folder, fold = run.folder / "folds" / str(number), data.folds[number]
    print(f"Fold {number + 1} of {run.config.folds}.", flush=True)
    predictions = predict.read_predictions(folder / "answers.npz", fold["held_out"]) if distributed.is_main() else None
    missing = distributed.broadcast_from_main(lambda: predictions is None)
    trained = learn(run.config, folder, fold, data.description) if missing else None
    if not distributed.is_main():
        return None
    if trained:
        release = Release(trained.model.eval(), trained.processor, name=f"fold {number}")
        calibration = predict.predict(release, fold["calibration"], name="calibration images", keep=True)
        release.model.config.update({**operating_points.fit(release, calibration)})
        release = Release(release.model, release.processor, name=release.name)
        predictions = predict.predict(release, fold["held_out"], name=release.name, keep=True)
        predict.write_predictions(folder / "answers.npz", predictions)
    run_folder.drop_checkpoints(folder)
    return predictions


def assemble(
    run: Run, trained: Trained, data: Development, reported: Reported, out_of_fold: Sequence[SplitPredictions | None]
) -> None:
    """Write the release of a run; it appears whole, or not at all.

    Args:
        run: its configuration, folder and settings.
        trained: the calibrated model.
        data: what it was developed on.
        reported: what is reported beside that.
        out_of_fold: of each fold, the predictions of a model trained on the others.
    """
    config, splits = run.config, data.splits
    with release_folder.stage(run.folder / RELEASE_FOLDER) as staging:
        release = _store(trained, staging, half_precision=config.store_dtype == "float16")
        steps = measuring.announce(config, release, data, reported)
        with steps.step(measuring.ABSTENTION):
            release, calibration = fit_abstention.add(staging, release, splits["train"], splits["calibration"])
        with steps.step(measuring.OPERATING_POINTS):
            release = operating_points.add(staging, release, calibration)
        measured = _measure(steps, release, trained, splits, reported.external.splits)
        if folds := [fold for fold in out_of_fold if fold]:
            measured["out_of_fold"] = evaluate.measure(predict.pool(folds))
        predictions = {name: split.predictions for name, split in measured.items()}
        with steps.step(measuring.BASELINES):
            metrics = _metrics(run, trained, data, reported, release, measured)
        if config.onnx != "none":
            with steps.step(measuring.EXPORT):
                metrics["onnx"] = onnx_files.write(staging, release, predictions["held_out"], splits, config.onnx)
        with steps.step(measuring.CARD):
            evaluate.write_reference(staging / REFERENCE, release)
            evaluate.write(staging, metrics, predictions, trained.state.log_history)
            if config.weights_from:
                remeasure.copy_learning_curves(config.weights_from, staging)
            files.write_json(staging / AUDIT, reported.audit, indent=None)  # of several sets it is large
            contamination.write(data.exposure, staging)
            release_folder.write_card(staging)


def _store(trained: Trained, folder: Path, *, half_precision: bool) -> Release:
    """Write model and processor, and return the release that a serving side loads from the files."""
    backbones.save(trained.model, trained.processor, folder)
    if half_precision:
        release_folder.compact(folder)
    return Release.load(folder)


def _measure(
    steps: Steps, release: Release, trained: Trained, splits: dict[str, Dataset], external: dict[str, Dataset]
) -> dict[str, Evaluation]:
    """The evaluation of every reported split and external set as a serving side predicts them, by name."""
    own = {name: splits[name] for name in ("held_out", "official_test", "clean_test")}
    prior = sampling.class_frequencies(splits["train"]["label"][:])  # that of the calibration split, but for chance
    options: dict[str, Any] = {"undone": trained.calibration.undone, "prior": prior}
    with steps.step(measuring.HELD_OUT):
        measured = evaluate.evaluate(release, own, **options, keep=True)
    if external:
        with steps.step(measuring.EXTERNAL):
            measured |= evaluate.evaluate(release, external, **options)
    held_out = measured["held_out"]
    with steps.step(measuring.ARTEFACTS_ADDED):
        artefacts = stress_test.stress(release, held_out.predictions)
    return measured | {"held_out": held_out.with_artefacts(artefacts)}


def _metrics(
    run: Run,
    trained: Trained,
    data: Development,
    reported: Reported,
    release: Release,
    measured: dict[str, Evaluation],
) -> Json:
    """The content of `metrics.json`, but for the exports."""
    held_out, about, config = measured["held_out"].predictions, trained.model.config.dermalert, release.model.config
    assert held_out.abstained is not None  # every release that is assembled can abstain
    shortcuts = baselines.baselines(data.splits, held_out.probabilities)
    return {
        "schema": 1,
        "version": None,  # until it is published
        "base_model": about["base_model"],
        "data": data.describe(run.config.split_seed, reported.external.report)
        | {"generated": about["generated"], "trained_on": about["data"]},
        "splits": {name: split.report.to_json() for name, split in measured.items()},
        "baselines": {name: baseline.to_json() for name, baseline in shortcuts.items()},
        "shortcut": baselines.shortcuts(shortcuts).to_json(),
        "calibration": dataclasses.asdict(trained.calibration),
        ALERT_POINT: config.alert,
        ATTENTION_POINT: config.attention,
        ABSTENTION: config.refusal | fit_abstention.measure(release, held_out.dataset, held_out.abstained),
        "training": trained.speed
        | {"epochs": trained.state.epoch, "best_step": trained.state.best_global_step, "folds": run.config.folds}
        | {"measured_by": commit()}
        | {"settings": published(run.settings)}
        | ({"tuning": run.tuning} if run.tuning else {}),
    }
