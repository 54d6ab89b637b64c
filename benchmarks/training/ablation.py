r"""What rebalancing, augmentation, pretraining and architecture are worth: the questions of a course assignment.

    python benchmarks/training/ablation.py --dataset isic9/ --output_dir runs/ablation

trains each row of `ROWS` with three seeds on the same sides, compares the held-out probabilities with those of the
first row, image by image, and prints a table. Each run is one of `train_hf.py`, so that the same command goes on where
it was stopped.

The small CNN stands for the assignment's: a few convolutions, trained from scratch on the nine-class set. It has more
epochs and a higher learning rate than the pretrained model, because from scratch it needs them; "without pretraining"
differs from the default in nothing but the weights that it starts from. Nothing is chosen by this table: the defaults
of `train_hf.py` were set before, on validation curves.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from dermalert_space.estimate import format_estimate
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, set_seed

from dermalert.errors import UsageError, run_command
from dermalert.evaluation import metrics
from dermalert.evaluation.intervals import Intervals
from dermalert.taxonomy import DIAGNOSES
from dermalert.training import backbones

REPOSITORY = Path(__file__).parents[2]
FROM_SCRATCH = {"learning_rate": 1e-3}
ROWS = {
    "pretrained, augmented (the default)": {},
    "with rebalancing": {"rebalance": True},
    "without augmentation": {"augment": False},
    "without pretraining": {"base_model": "untrained-lite0"},
    "small CNN from scratch, plain": {"base_model": "small-cnn", "augment": False, "epochs": 20} | FROM_SCRATCH,
    "small CNN, augmented and rebalanced": {"base_model": "small-cnn", "rebalance": True, "epochs": 20} | FROM_SCRATCH,
}
MELANOMA = DIAGNOSES.index("melanoma")


def main(arguments: argparse.Namespace) -> None:
    """Train what is missing, then compare."""
    for name, settings in ROWS.items():
        for seed in range(arguments.seeds):
            train(arguments, settings, folder(arguments, name, seed), seed)
    runs = {name: [Run(folder(arguments, name, seed)) for seed in range(arguments.seeds)] for name in ROWS}
    table = compare(runs)
    (Path(arguments.output_dir) / "table.json").write_text(json.dumps(table, indent=1) + "\n")
    print(as_markdown(table))


def folder(arguments: argparse.Namespace, name: str, seed: int) -> Path:
    """Return where the run of a row and a seed lies."""
    return Path(arguments.output_dir) / f"row{list(ROWS).index(name)}-seed{seed}"


def train(arguments: argparse.Namespace, settings: dict, run: Path, seed: int) -> None:
    """Run `train_hf.py` in a process of its own, unless the run is finished."""
    if (run / "release" / "config.json").is_file():
        return
    settings = {"epochs": arguments.epochs} | settings
    if "base_model" in settings:
        settings |= {"base_model": untrained(settings["base_model"], Path(arguments.output_dir), seed)}
    rebalance, augment = settings.pop("rebalance", False), settings.pop("augment", True)
    command = [sys.executable, REPOSITORY / "train_hf.py", "--dataset", *arguments.dataset, "--output_dir", run]
    command += ["--image_size", arguments.image_size, "--seed", seed]
    command += [word for setting, value in settings.items() for word in (f"--{setting}", value)]
    command += [] if rebalance else ["--no_rebalance"]
    command += ["--augment", "plain" if augment else "none", "--sampling", "natural", "--average", 0]
    if subprocess.run([str(word) for word in command], check=False).returncode:
        raise UsageError(f"the run in '{run}' did not end well, see above; the same command goes on from there.")


def untrained(name: str, output_dir: Path, seed: int) -> Path:
    """Return the folder of a model with random weights, made if it is not there yet."""
    path = output_dir / f"{name}-seed{seed}"
    if not (path / "preprocessor_config.json").is_file():
        model, processor = backbones.load("efficientnet-lite0", labels=DIAGNOSES)
        set_seed(seed)
        config = small_cnn(model.config) if name == "small-cnn" else model.config
        type_of = ResNetForImageClassification if name == "small-cnn" else type(model)
        fresh = type_of(config)
        if name != "small-cnn":
            make_trainable(fresh, model)
        fresh.save_pretrained(path)
        processor.save_pretrained(path)
    return path


def small_cnn(like) -> ResNetConfig:
    """Return a network of seven convolutions with 0.3 million weights."""
    return ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 128],
        depths=[1, 1, 1],
        layer_type="basic",
        id2label=like.id2label,
        label2id=like.label2id,
    )


def make_trainable(model, pretrained) -> None:
    """Repair what transformers makes of a fresh EfficientNet, and keep the gates that `backbones` holds open.

    Its batch norms start at weights of about 0.02 instead of 1, so that nothing of an image is left after a few blocks.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.ones_(norm.weight)
        nn.init.zeros_(norm.bias)
    gates = {key: value for key, value in pretrained.state_dict().items() if ".squeeze_excite." in key}
    model.load_state_dict(gates, strict=False)
    model.eval()
    for norm in norms:
        norm.train()  # normalises by the batch, as in training
    with torch.no_grad():
        spread = model(torch.randn(8, 3, 128, 128)).logits.std(0).max()
    if spread < 1e-3:
        raise UsageError("the untrained model gives one answer to all images.")
    for norm in norms:
        norm.reset_running_stats()


class Run:
    """The predictions of a run by side, in the order of the ids; `p_balanced` is without the prior of its training."""

    def __init__(self, run: Path):
        table = pq.read_table(run / "release" / "evaluation" / "predictions.parquet").sort_by("image_id")
        self.figures = json.loads((run / "release" / "evaluation" / "metrics.json").read_text())
        counts = [self.figures["data"]["classes"][name].get("train", 0) for name in DIAGNOSES]
        self.sides = {side: self._side(table, side) for side in ("held_out", "official_test")}
        for side in self.sides.values():
            side["p_balanced"] = side["p"] / np.maximum(counts, 1)

    @staticmethod
    def _side(table, side: str) -> dict:
        rows = table.filter(np.array(table["split"]) == side)
        probabilities = np.stack([rows[name].to_numpy() for name in DIAGNOSES], axis=1)
        truth = np.array([DIAGNOSES.index(name) for name in rows["truth"].to_pylist()])
        return {
            "ids": rows["image_id"].to_pylist(),
            "groups": np.array(rows["group"]),
            "truth": truth,
            "p": probabilities,
        }


METRICS: dict[str, Callable] = {
    "accuracy": lambda side, w: metrics.proportion(right(side), np.ones(len(side["truth"]), bool), w),
    "balanced accuracy": lambda side, w: metrics.balanced_accuracy(side["truth"], side["p"].argmax(1), w),
    # The likeliest diagnosis if all were equally common: what rebalancing is after, had here by a division.
    "balanced accuracy, prior divided out": lambda side, w: metrics.balanced_accuracy(
        side["truth"], side["p_balanced"].argmax(1), w
    ),
    "macro AUROC": lambda side, w: metrics.macro_auroc(side["truth"], side["p"], w),
    "melanoma AUROC": lambda side, w: metrics.auroc(side["truth"] == MELANOMA, side["p"][:, MELANOMA], w),
}


def right(side: dict) -> np.ndarray:
    """Return which images got their own diagnosis."""
    return side["p"].argmax(1) == side["truth"]


def compare(runs: dict[str, list[Run]]) -> dict:
    """Return each metric of each row, the mean of its seeds, and the paired difference from the first row.

    The 95 % intervals resample groups (lesions), the same ones for both rows of a difference; the spread over the seeds
    stands beside them, because a resampling of images does not know it.
    """
    reference = next(iter(runs.values()))
    sides = {name: side for name, side in reference[0].sides.items() if len(side["truth"])}
    for run in (run for row in runs.values() for run in row):
        if any(run.sides[name]["ids"] != side["ids"] for name, side in sides.items()):
            raise UsageError("the runs were not held to the same images: name a new --output_dir.")
    table = {"images": {name: len(side["truth"]) for name, side in sides.items()}, "rows": {}}
    for side, content in sides.items():
        intervals = Intervals(content["groups"])
        table.setdefault("groups", {})[side] = intervals.groups
        for name, row in runs.items():
            known = table["rows"].setdefault(name, {"seconds": [run.figures["training"]["seconds"] for run in row]})
            known[side] = {metric: figures(metric, side, row, reference, intervals) for metric in METRICS}
    return table


def figures(metric: str, side: str, row: list[Run], reference: list[Run], intervals: Intervals) -> dict:
    """Return a metric of a row, with the values of its seeds and the difference from the reference."""

    def mean(runs: list[Run], weights: np.ndarray) -> np.ndarray:
        return np.mean([METRICS[metric](run.sides[side], weights) for run in runs], axis=0)

    once = np.ones(len(reference[0].sides[side]["truth"]))
    found = intervals.of(lambda w: mean(row, w)).to_json()
    found["seeds"] = [float(METRICS[metric](run.sides[side], once)) for run in row]
    if row is not reference:
        found["difference"] = intervals.of(lambda w: mean(row, w) - mean(reference, w)).to_json()
    return found


def as_markdown(table: dict) -> str:
    """Return the tables that the README shows."""
    lines = []
    for side, n in table["images"].items():
        lines += [f"\n{side}: n = {n} images in {table['groups'][side]} groups\n", "| | " + " | ".join(METRICS) + " |"]
        lines += ["|---" * (len(METRICS) + 1) + "|"]
        for name, row in table["rows"].items():
            lines.append(f"| {name} | " + " | ".join(cell(row[side][metric]) for metric in METRICS) + " |")
    return "\n".join(lines)


def cell(figure: dict) -> str:
    """Return a figure with its interval, the spread of its seeds, and the difference from the first row, in words."""
    text = f"{format_estimate(figure)}, seeds {min(figure['seeds']):.2f} to {max(figure['seeds']):.2f}"
    return text + (f"; **{format_estimate(figure['difference'])}**" if "difference" in figure else "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", required=True, help="as for train_hf.py")
    parser.add_argument("--output_dir", default="runs/ablation", help="folder of the runs")
    parser.add_argument("--image_size", type=int, default=128, help="side of the input in pixels")
    parser.add_argument("--epochs", type=int, default=8, help="of EfficientNet-Lite0")
    parser.add_argument("--seeds", type=int, default=3, help="runs a row")
    settings = parser.parse_args()
    sys.exit(run_command(lambda: main(settings)))
