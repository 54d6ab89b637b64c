"""What is learnt from our training input and from that of the usual recipe: right answers to held-out images, by seed.

    python benchmarks/training/training_accuracy.py --dataset isic9/

The usual recipe is that of `training_input.py`, which measures how fast they are.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
import training_input
from datasets import Dataset
from dermalert_space.estimate import format_estimate
from transformers import set_seed

import train_hf
from dermalert.config import Config
from dermalert.data import label_repair, loading, splits
from dermalert.errors import run_command
from dermalert.evaluation.report import report
from dermalert.training import image_dataset
from dermalert.training.run import load_model


def main(arguments: argparse.Namespace) -> None:
    """Measure and print what `benchmarks/README.md` shows."""
    torch.set_num_threads(arguments.threads)
    print(accuracies(arguments))


def accuracies(arguments: argparse.Namespace) -> str:
    """Return, as a table, how many held-out images are answered rightly after the kinds of input, by seed.

    Loss, sampling, schedule and split are the same: only what the network sees in training differs.
    """
    dataset, _ = label_repair.repair(loading.load(arguments.dataset), "archive")
    sides = splits.split(dataset)
    lines = [f"| seed | {training_input.OURS}, plain | robust | {training_input.USUAL} |", "|---|---|---|---|"]
    for seed in range(arguments.seeds):
        cells = [right(sides, arguments, seed, how) for how in ("plain", "robust", "usual")]
        lines.append(f"| {seed} | " + " | ".join(cells) + " |")
        print(lines[-1], file=sys.stderr)
    return "\n".join(lines)


def right(sides: dict[str, Dataset], arguments: argparse.Namespace, seed: int, how: str) -> str:
    """Train, and return the accuracy and the balanced accuracy on held-out images with their intervals."""
    config = Config(
        base_model=arguments.base_model,
        image_size=arguments.image_size,
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        seed=seed,
        augment="plain" if how == "usual" else how,
        sampling="natural",
        rebalance=False,
        average=0.0,
    )
    set_seed(seed)
    model, processor = load_model(config)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = train_hf.make_trainer(config, Path(scratch), model, processor, sides)
        trainer.args.eval_strategy, trainer.args.save_strategy = "no", "no"
        if how == "usual":
            trainer.train_dataset = training_input.image_by_image(sides["train"], processor, config.image_size)
            trainer.data_collator = partial(training_input.collated, layout=torch.channels_last)
        trainer.train()
        trainer.data_collator = image_dataset.collate
        logits = trainer.predict(
            image_dataset.ImageDataset(sides["held_out"], processor, device=training_input.DEVICE)
        ).predictions
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    figures = report(
        np.array(sides["held_out"]["label"]), probabilities, np.array(sides["held_out"]["group"]), alert=None
    )
    return ", ".join(format_estimate(figure, 3) for figure in (figures.accuracy, figures.balanced_accuracy))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", default=["demo"], help="where the images are from")
    parser.add_argument("--base_model", default="efficientnet-lite0", help="as of train_hf.py")
    parser.add_argument("--image_size", type=int, default=160, help="side of the input in pixels")
    parser.add_argument("--batch_size", type=int, default=32, help="images a step")
    parser.add_argument("--epochs", type=int, default=4, help="of each training")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    settings = parser.parse_args()
    sys.exit(run_command(lambda: main(settings)))
