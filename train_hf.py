r"""Fine-tune an image classifier on skin lesions, measure it on images held out, and leave a release to publish.

    python train_hf.py --dataset_name isic9/ --model_name_or_path efficientnet-lite0 --output_dir runs/isic9 \
        --push_to_hub --hub_model_id USER/REPO --tag v1.0.0

docs/results.md has what came out of it, on this set and on three together. In two minutes, on generated lesions (`make
demo`):

    python train_hf.py --dataset_name demo --output_dir runs/demo --image_size 96 --num_train_epochs 6

The same command again goes on where it was stopped, and does nothing once it has finished. What comes out is
`OUTPUT_DIR/release`, which `transformers.pipeline("image-classification")` loads. Every flag of the Trainer works, or
is refused with the reason.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from dermalert_space import process
from dermalert_space.contract import Json

if __name__ == "__main__":
    process.configure()

from dermalert.config import Config
from dermalert.training.flags import parse

if __name__ == "__main__":
    CONFIG = parse(manual=__doc__)  # before most of what takes seconds to import: --help and a bad flag answer sooner

import torch
from datasets import Dataset
from transformers import BaseImageProcessor, PreTrainedModel, TrainerCallback, set_seed

from dermalert import progress
from dermalert.data import development
from dermalert.errors import run_command
from dermalert.publishing import deliver
from dermalert.release import remeasure
from dermalert.release.assemble import assemble, gather, predict_fold
from dermalert.training import arguments, calibration, distributed, image_dataset, recipe_trainer, sampling, tuning
from dermalert.training.run import Run, Trained, fit, load_best, load_model, start

_NO_IMPROVEMENT = 1e-4
"""Nats of the calibrated loss; the fit of a calibration does not settle more of it."""


def main(config: Config) -> Json:
    """Run the recipe, or what is left of it, and return the content of `metrics.json`: in the main process alone."""
    config = deliver.check(config)
    with distributed.connected(), progress.ours_alone(shown=distributed.is_main() and not config.disable_tqdm):
        arguments.check(config)
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
        model, processor = load_model(config)  # first: what is no model is refused before images are read or drawn
        data = development.load(config)
    # All that can be refused is refused here, before the first file is written and the first hour is spent.
    reported = run.claim(model, data.fingerprints, lambda: gather(config, data, model, processor))
    with run.writing():
        if config.weights_from:
            trained = remeasure.reuse(config)
        else:
            if config.tune:  # by trainings that are compared on validation
                config = tuning.search(run, data.splits, data.description, make_trainer)
            trained = learn(config, run.folder, data.splits, data.description, callbacks=run.callbacks)
        # With folds, every image is predicted once by a model that has not learnt from it.
        out_of_fold = [predict_fold(run, data, fold, learn) for fold in range(config.folds)]
        # The main process alone measures, by the code that serves: what is measured is what is served.
        if trained and reported:
            assemble(run, trained, data, reported, out_of_fold)


def learn(
    config: Config, folder: Path, splits: dict[str, Dataset], data: Json, *, callbacks: Sequence[TrainerCallback] = ()
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
    if config.store_dtype == "float16":  # before the calibration, which is of the weights that are served
        recipe_trainer.round_to_half(model)
    # Temperature and prior are folded into the last layer: a plain `pipeline` gives calibrated probabilities.
    prior = trainer.draws.prior_correction
    calibrated = calibration.calibrate(model, processor, splits["calibration"], prior=prior)
    return Trained(model=model, processor=processor, calibration=calibrated, state=state, speed=speed)


def make_trainer(
    config: Config, folder: Path, model: PreTrainedModel, processor: BaseImageProcessor, splits: dict[str, Dataset]
) -> recipe_trainer.RecipeTrainer:
    """The recipe: how a model is trained, by which images, and which epoch of it is kept."""
    train, validation = splits["train"], splits["validation"]
    args = arguments.training_arguments(config, folder)  # `RecipeArguments` is the other half of the recipe
    with distributed.local_main_process_first():
        augmented = image_dataset.ImageDataset(train, processor, augmented=config.augmentation, device=args.device)
        # As many training images as validation ones, not augmented: the curves differ by what is learnt by heart.
        sample = train.shuffle(seed=0).select(range(min(len(train), len(validation))))
        evaluated = {"train": sample, "validation": validation}
        evaluated = {
            name: image_dataset.ImageDataset(split, processor, device=args.device) for name, split in evaluated.items()
        }
    # Rare diagnoses are drawn more often, and the loss takes out what that and the data teach of their frequencies.
    draws = sampling.Draws(
        train["label"][:], train["source"][:], how=config.sampling, rebalance=config.logit_adjustment
    )
    return recipe_trainer.RecipeTrainer(
        draws=draws,
        average=config.ema_decay,
        model=model.to(memory_format=torch.channels_last),  # type: ignore[call-arg]  # faster convolutions
        args=args,
        train_dataset=augmented,
        eval_dataset=evaluated,
        data_collator=image_dataset.collate,
        processing_class=processor,
        compute_loss_func=recipe_trainer.balanced_softmax(draws.frequencies) if config.logit_adjustment else None,
        # Epochs are compared as if calibrated: the plain loss rises while a model still learns to tell classes apart.
        compute_metrics=recipe_trainer.measure(draws.prior_correction),
        callbacks=[recipe_trainer.EarlyStopping(config.early_stopping_patience, _NO_IMPROVEMENT)],
    )


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(CONFIG)))
