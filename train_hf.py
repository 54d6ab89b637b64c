r"""Fine-tune an image classifier on skin lesions, measure it on images held out, and leave a release to publish.

    python train_hf.py --dataset isic9/ --base_model efficientnet-lite0 --output_dir runs/isic9 \
        --push_to_hub USER/REPO --version v1.0.0

docs/results.md has what came out of it, on this set and on three together. In two minutes, on generated lesions (`make
demo`):

    python train_hf.py --dataset demo --output_dir runs/demo --image_size 96 --epochs 6

The same command again goes on where it was stopped, and does nothing once it has finished. What comes out is
`OUTPUT_DIR/release`, which `transformers.pipeline("image-classification")` loads.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from dermalert.config import Config, parse

if __name__ == "__main__":
    CONFIG = parse(manual=__doc__)  # before all that takes seconds to import: --help and a bad flag answer at once

import torch
from datasets import Dataset
from transformers import BaseImageProcessor, PreTrainedModel, TrainerCallback, TrainingArguments, set_seed

from dermalert.data import development
from dermalert.errors import run_command
from dermalert.publishing import deliver
from dermalert.release import remeasure
from dermalert.release.assemble import assemble, gather, predict_fold
from dermalert.training import calibration, distributed, image_dataset, recipe_trainer
from dermalert.training.image_dataset import ImageDataset
from dermalert.training.recipe_trainer import RecipeTrainer
from dermalert.training.run import Run, Trained, fit, load_best, load_model, start
from dermalert.training.sampling import Draws

_NO_IMPROVEMENT = 1e-4
"""Nats of the calibrated loss; the fit of a calibration does not settle more of it."""


def main(config: Config) -> dict:
    """Run the recipe, or what is left of it, and return the content of `metrics.json`: in the main process alone."""
    config = deliver.check(config)
    with distributed.connected():
        run, exists = Run(config), False
        if run.is_finished:
            print(f"The run in '{run.folder}' is finished: nothing is left to train.")
        else:
            exists = deliver.can_publish(config)
            with run.alone():
                train(config, run)
        return deliver.deliver(run, must_exist=exists) if distributed.is_main() else {}


def train(config: Config, run: Run) -> None:
    """Fine-tune, calibrate and measure; the release appears in the folder when all is done."""
    # Load, link near duplicates, repair labels, split by lesion. Each split has one job: `train` fits the weights,
    # `validation` picks the epoch, `calibration` sets temperature and thresholds, `held_out` is reported and picks
    # nothing. One process of each machine goes first: what it decodes is kept, and the others find it.
    with distributed.local_main_process_first():
        data = development.load(config)
        model, processor = load_model(config)
    # All that can be refused is refused here, before the first file is written and the first hour is spent.
    reported = run.claim(model, data.fingerprints, lambda: gather(config, data, model, processor))
    with run.writing():
        if config.weights_from:
            trained = remeasure.reuse(config)
        else:
            trained = learn(config, run.folder, data.splits, data.description, callbacks=run.callbacks)
        # With folds, every image is predicted once by a model that has not learnt from it.
        out_of_fold = [predict_fold(run, data, fold, learn) for fold in range(config.folds)]
        # The main process alone measures, by the code that serves: what is measured is what is served.
        if trained and reported:
            assemble(run, trained, data, reported, out_of_fold)


def learn(
    config: Config, folder: Path, splits: dict[str, Dataset], data: dict, *, callbacks: Sequence[TrainerCallback] = ()
) -> Trained | None:
    """Train on `train`, stop by `validation`, calibrate on `calibration`; go on from a checkpoint in the folder.

    Of several processes the main one alone returns something.
    """
    set_seed(config.seed)
    model, processor, checkpoint = start(config, folder, data)
    trainer = make_trainer(config, folder, model, processor, splits)
    for callback in callbacks:  # after the Trainer's own, so that a checkpoint is whole when it is pushed
        trainer.add_callback(callback)
    state, speed = fit(trainer, folder, checkpoint)
    if not distributed.is_main():
        return None
    model, processor = load_best(config, folder, state)
    if config.half_precision:  # before the calibration, so that thresholds are set for the weights that are served
        recipe_trainer.round_to_half(model)
    # Temperature and prior are folded into the last layer: a plain `pipeline` gives calibrated probabilities.
    prior = trainer.draws.prior_correction
    calibrated = calibration.calibrate(model, processor, splits["calibration"], prior=prior)
    return Trained(model=model, processor=processor, calibration=calibrated, state=state, speed=speed)


def make_trainer(
    config: Config, folder: Path, model: PreTrainedModel, processor: BaseImageProcessor, splits: dict[str, Dataset]
) -> RecipeTrainer:
    """The recipe: how a model is trained, by which images, and which epoch of it is kept."""
    train, validation = splits["train"], splits["validation"]
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=config.epochs,
        use_cpu=not torch.accelerator.is_available(),  # or several processes without one would not find each other
        per_device_train_batch_size=config.batch_size // distributed.count(),
        per_device_eval_batch_size=config.batch_size,
        # A short warm-up, because the new head's first gradients are large; then down to nothing, in one curve.
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,  # as a share of all steps
        weight_decay=0.01,
        # What is evaluated and saved after each epoch is a moving average of the weights: see `RecipeTrainer`.
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=2,
        # Not balanced accuracy: it hangs on a handful of images of the rare diagnoses, and jumps from epoch to epoch.
        metric_for_best_model="eval_validation_calibrated_loss",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,  # so that the patience survives a kill
        remove_unused_columns=False,  # the images are columns that no model's forward names
        seed=config.seed,
        report_to=config.report_to,
        project="dermalert",
        run_name=folder.name,
        bf16=distributed.precision() == "bf16",
        fp16=distributed.precision() == "fp16",
        dataloader_pin_memory=False,  # what is loaded lies on the device
        logging_nan_inf_filter=False,  # it would wait for the device at each step, and hide what it finds
        disable_tqdm=False,
    )
    with distributed.local_main_process_first():
        augmented = ImageDataset(train, processor, augmented=config.augment, device=arguments.device)
        # As many training images as validation ones, not augmented: the curves differ by what is learnt by heart.
        sample = train.shuffle(seed=0).select(range(min(len(train), len(validation))))
        evaluated = {"train": sample, "validation": validation}
        evaluated = {name: ImageDataset(split, processor, device=arguments.device) for name, split in evaluated.items()}
    # Rare diagnoses are drawn more often, and the loss takes out what that and the data teach of their frequencies.
    draws = Draws(train["label"][:], train["source"][:], how=config.sampling, rebalance=config.rebalance)
    return RecipeTrainer(
        draws=draws,
        average=config.average,
        model=model.to(memory_format=torch.channels_last),  # type: ignore[call-arg]  # faster convolutions
        args=arguments,
        train_dataset=augmented,
        eval_dataset=evaluated,
        data_collator=image_dataset.collate,
        processing_class=processor,
        compute_loss_func=recipe_trainer.balanced_softmax(draws.frequencies) if config.rebalance else None,
        # Epochs are compared as if calibrated: the plain loss rises while a model still learns to tell classes apart.
        compute_metrics=recipe_trainer.measure(draws.prior_correction),
        callbacks=[recipe_trainer.EarlyStopping(config.patience, _NO_IMPROVEMENT)],
    )


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(CONFIG)))
