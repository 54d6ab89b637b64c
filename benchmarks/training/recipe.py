r"""What each part of the default recipe of `train_hf.py` is worth, on the validation side: the side that chooses.

    python benchmarks/training/recipe.py --dataset_name isic9/ isic2017/ ham10000/ --output_dir runs/recipe

trains each row of `ROWS` and compares its answers to the validation images with those of the first row, image by
image, as they are and altered. The splits calibration and held_out are not looked at. The last epoch counts, so that no
row gains by choosing one. Rows that are done are not trained again; `--rows 0 3` trains those alone, so that several
processes can share the work.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import inspect
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
from datasets import Dataset
from dermalert_space.estimate import format_estimate
from dermalert_space.images import read_image
from dermalert_space.release import Release
from torch import nn
from transformers import set_seed

import train_hf
from dermalert.config import Config
from dermalert.data import prepare
from dermalert.errors import UsageError, run_command
from dermalert.evaluation import metrics, predict
from dermalert.evaluation.intervals import Intervals
from dermalert.imaging import augmentation, sharpness, stress_artefacts
from dermalert.publishing import deliver
from dermalert.taxonomy import MELANOMA
from dermalert.training import image_dataset, recipe_trainer, sampling
from dermalert.training.run import load_model
from dermalert.training.sampling import Draws


@contextlib.contextmanager
def frozen_norms(model: nn.Module) -> Iterator[None]:
    """Keep the batch norms at the statistics of the pretraining."""
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.eval()
        norm.train = lambda _mode=True, norm=norm: norm
    yield


def sharpness_kept(_model: nn.Module | None = None) -> contextlib.AbstractContextManager:
    """Leave out of the robust augmentation that each picture gets a sharpness by chance."""
    return mock.patch.object(sharpness, "randomize_sharpness", lambda pixels: pixels)


def as_it_is(_model: nn.Module) -> contextlib.AbstractContextManager:
    """Change nothing."""
    return contextlib.nullcontext()


ROWS = {
    "the defaults": ({}, as_it_is),
    "plain augmentation": ({"augmentation": "plain"}, as_it_is),
    "natural sampling": ({"sampling": "natural"}, as_it_is),
    "sampling by class alone": ({"sampling": "classes"}, as_it_is),
    "without averaged weights": ({"ema_decay": 0.0}, as_it_is),
    "frozen batch norms": ({}, frozen_norms),
    "without balanced softmax": ({"logit_adjustment": False}, as_it_is),
    "three times the learning rate": ({"learning_rate": 1e-3}, as_it_is),
    "efficientnet-lite2": ({"model_name_or_path": "efficientnet-lite2"}, as_it_is),
    "160 pixels": ({"image_size": 160}, as_it_is),
    "sharpness as it is": ({}, sharpness_kept),
}

ALTERED = ("ink", "bubbles", "darker", "brighter")
"""Artefacts of the comparison: the first two are in no training picture, the light of the others varies in all."""


def main(arguments: argparse.Namespace) -> None:
    """Train what is missing, then compare what is there."""
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    splits = load(arguments.dataset_name)
    configs = {
        (number, seed): Config(
            dataset_name=arguments.dataset_name,
            **{"image_size": arguments.image_size, "num_train_epochs": arguments.num_train_epochs} | settings,
            seed=seed,
        )
        for number, (settings, _) in enumerate(ROWS.values())
        for seed in range(arguments.seeds)
    }
    for (number, seed), config in configs.items():
        config = deliver.check(config)
        if number in arguments.rows and not path_of(folder, number, seed).is_file():
            train(number, config, splits, path_of(folder, number, seed))
    kept = {key: read_predictions(path_of(folder, *key), key[0], config, splits) for key, config in configs.items()}
    table = compare({key: run for key, run in kept.items() if run}, splits["validation"])
    (folder / "table.json").write_text(json.dumps(table, indent=1) + "\n")
    print(as_markdown(table))


def path_of(folder: Path, row: int, seed: int) -> Path:
    """The file of a row's answers."""
    return folder / f"row{row}-seed{seed}.npz"


def load(names: list[str]) -> dict[str, Dataset]:
    """The splits of data sets as `train_hf.py` makes them."""
    return prepare.prepare(names, Config.label_repair).split(seed=Config.split_seed)


def train(row: int, config: Config, splits: dict[str, Dataset], path: Path) -> None:
    """Train one row and keep its answers to the validation images."""
    _, change = list(ROWS.values())[row]
    release, draws, seconds = fit(config, splits, path, change)
    validation = splits["validation"]
    probabilities = {"plain": predict.predict_images(release, validation, name="validation").probabilities}
    for name in ALTERED:
        predicted = predict.predict_images(release, with_artefact(validation, name), name=f"validation with {name}")
        probabilities[name] = predicted.probabilities
    # As if all diagnoses were equally common, whatever mix the row has learnt.
    probabilities = {name: at_mix(p, 1 / draws.training_prior) for name, p in probabilities.items()}
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, seconds=seconds, of=provenance(row, config, splits), **probabilities)
    partial.replace(path)


def fit(config: Config, splits: dict[str, Dataset], path: Path, change: Callable) -> tuple[Release, Draws, float]:
    """A model that `train_hf.py` would train, under a change; what it drew, and the seconds that it took."""
    set_seed(config.seed)
    model, processor = load_model(config)
    checkpoints = path.with_suffix("")
    trainer = train_hf.make_trainer(config, checkpoints, model, processor, splits)
    started = time.perf_counter()
    with change(model):
        trainer.train()
    seconds = time.perf_counter() - started
    shutil.rmtree(checkpoints, ignore_errors=True)
    model.config.alert = {"label": "melanoma", "threshold": None}
    return Release(model.eval(), processor, name=path.stem), trainer.draws, seconds


def at_mix(probabilities: np.ndarray, mix: np.ndarray) -> np.ndarray:
    """The probabilities (n, 9) that hold where diagnoses are so many times (9,) as common."""
    weighed = probabilities * mix
    return weighed / weighed.sum(axis=1, keepdims=True)


def provenance(row: int, config: Config, splits: dict[str, Dataset]) -> str:
    """What answers depend on, as text: the row, the settings, the images and what is done to them."""
    contents = {split: splits[split]["content"][:] for split in ("train", "validation")}
    digest = hashlib.sha256(json.dumps(contents).encode()).hexdigest()
    code = "".join(map(inspect.getsource, (image_dataset, augmentation, sharpness, recipe_trainer)))
    parts = {"row": list(ROWS)[row], "images": digest, "code": hashlib.sha256(code.encode()).hexdigest()}
    return json.dumps(dataclasses.asdict(config) | parts)


def read_predictions(path: Path, row: int, config: Config, splits: dict[str, Dataset]) -> dict | None:
    """The answers that were kept of a row and a seed, or None.

    Raises:
        UsageError: they were made with other settings, or of other images.
    """
    if not path.is_file():
        return None
    kept = dict(np.load(path))
    if str(kept["of"]) != provenance(row, config, splits):
        raise UsageError(f"'{path}' was made with other settings or of other images: name a new --output_dir.")
    return kept


def with_artefact(dataset: Dataset, artefact: str) -> Dataset:
    """A data set whose pictures get an artefact when they are read."""

    def transform(rows: dict) -> dict:
        images = [read_image(image) for image in rows["image"]]
        pairs = zip(images, rows["image_id"], strict=True)
        return {"image": [stress_artefacts.apply(artefact, image, image_id=image_id) for image, image_id in pairs]}

    return dataset.select_columns(["image", "image_id"]).with_transform(transform)


def compare(runs: dict[tuple[int, int], dict], validation: Dataset) -> dict:
    """The figures of each row, the mean of its seeds, and the difference from the first row's same seeds.

    Args:
        runs: answers by row and seed.
        validation: the side that they are to.

    Raises:
        UsageError: the first row lacks a seed that another has.
    """
    truth, origin = np.array(validation["label"]), np.array(validation["source"])
    intervals = Intervals(np.array(validation["group"]))
    both = [s for s in np.unique(origin) if ((truth == MELANOMA) & (origin == s)).any()]

    mix = sampling.class_frequencies(truth)

    def within(p: np.ndarray, w: np.ndarray) -> np.ndarray:
        served = at_mix(p, mix)[:, MELANOMA]  # a release gives the mix of the data back
        areas = [metrics.auroc(truth == MELANOMA, served, w * (origin == source)) for source in both]
        return np.mean(areas, axis=0)

    measures = {
        "melanoma AUROC, mean of the sources": lambda a, w: within(a["plain"], w),
        f"the same with {', '.join(ALTERED)}": lambda a, w: np.mean([within(a[name], w) for name in ALTERED], axis=0),
        "balanced accuracy": lambda a, w: metrics.balanced_accuracy(truth, a["plain"].argmax(1), w),
        "macro AUROC": lambda a, w: metrics.macro_auroc(truth, a["plain"], w),
    }
    table = {"images": len(truth), "groups": intervals.groups, "sources": both, "rows": {}}
    for number in sorted({number for number, _ in runs}):
        seeds = sorted(seed for row, seed in runs if row == number)
        row = [runs[number, seed] for seed in seeds]
        if any((0, seed) not in runs for seed in seeds):
            raise UsageError("the first row is missing, with which all others are compared: add it to --rows.")
        paired = list(zip(row, (runs[0, seed] for seed in seeds), strict=True))
        figures = table["rows"][list(ROWS)[number]] = {"seeds": seeds, "seconds": [float(a["seconds"]) for a in row]}
        for measure, figure in measures.items():
            estimate = intervals.of(lambda w, row=row, f=figure: np.mean([f(a, w) for a in row], axis=0))
            figures[measure] = estimate.to_json()
            if number:
                figures[measure]["difference"] = intervals.of(
                    lambda w, paired=paired, f=figure: np.mean([f(a, w) - f(b, w) for a, b in paired], axis=0)
                ).to_json()
    return table


def as_markdown(table: dict) -> str:
    """The table that `docs/results.md` shows."""
    names = [name for name in next(iter(table["rows"].values())) if name not in ("seeds", "seconds")]
    lines = [f"n = {table['images']} images in {table['groups']} groups\n", "| | minutes | " + " | ".join(names) + " |"]
    lines += ["|---" * (len(names) + 2) + "|"]
    for name, row in table["rows"].items():
        minutes = ", ".join(f"{seconds / 60:.0f}" for seconds in row["seconds"])
        lines.append(f"| {name} | {minutes} | " + " | ".join(cell(row[measure]) for measure in names) + " |")
    return "\n".join(lines)


def cell(figure: dict) -> str:
    """A figure with its interval, and in bold the difference from the first row."""
    return format_estimate(figure) + (
        f"; **{format_estimate(figure['difference'])}**" if "difference" in figure else ""
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", nargs="+", required=True, help="as for train_hf.py")
    parser.add_argument("--output_dir", default="runs/recipe", help="folder of the answers")
    parser.add_argument("--image_size", type=int, default=128, help="side of the input in pixels")
    parser.add_argument("--num_train_epochs", type=int, default=2, help="of each row")
    parser.add_argument("--seeds", type=int, default=1, help="runs a row")
    parser.add_argument("--rows", type=int, nargs="+", choices=range(len(ROWS)), default=range(6), help="which ones")
    settings = parser.parse_args()
    sys.exit(run_command(lambda: main(settings)))
