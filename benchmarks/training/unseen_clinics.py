r"""Which recipe does best at a clinic that it was not shown: each row of `ROWS` with each source left out in turn.

    python -m benchmarks.training.unseen_clinics --dataset_name isic9/ isic2017/ ham10000_224/ milk10k/ acral/ \
        --output_dir runs/unseen

A row is to be chosen by the column of validation, which is of the sources left in; the other columns are of the source
left out. The last epoch counts. Each source gives at most `--per_source` images to training, and as many to the
figures, so that none decides alone. Rows that are done are not trained again.

Two rows cost no training: the predictions of a model for four mirrored views, averaged, and those of several seeds.
"""

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from dermalert_space.images import read_image
from PIL import ImageOps

from benchmarks.evaluation.sources import of_source, with_melanomas
from benchmarks.training.recipe import as_it_is, at_mix, cell, fit, frozen_norms
from dermalert.config import Config
from dermalert.data import contamination, prepare
from dermalert.data.loading import Reading
from dermalert.errors import UsageError, run_command
from dermalert.evaluation import metrics, predict
from dermalert.evaluation.intervals import Intervals
from dermalert.publishing import deliver
from dermalert.taxonomy import DIAGNOSES, MALIGNANT, MELANOMA, PRECURSOR
from dermalert.training import sampling

CLOSE_UP = "clinical"  # what the sources of close-ups end in


@dataclasses.dataclass(frozen=True)
class Row:
    """What is changed in the recipe: settings, what is done to the model, and which training images are taken."""

    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    change: Callable[..., contextlib.AbstractContextManager] = as_it_is
    close_ups: bool = False


ROWS = {
    "the defaults": Row(),
    "plain augmentation": Row({"augmentation": "plain"}),
    "natural sampling": Row({"sampling": "natural"}),
    "sampling by class alone": Row({"sampling": "classes"}),
    "without averaged weights": Row({"ema_decay": 0.0}),
    "frozen batch norms": Row(change=frozen_norms),
    "close-ups too": Row(close_ups=True),
    "160 pixels": Row({"image_size": 160}),
    "192 pixels": Row({"image_size": 192}),
    "efficientnet-lite2": Row({"model_name_or_path": "efficientnet-lite2"}),
}
VIEWS: dict[str, Callable] = {
    "mirrored": ImageOps.mirror,
    "flipped": ImageOps.flip,
    "turned": lambda image: ImageOps.mirror(ImageOps.flip(image)),
}

_MALIGNANT = np.isin(DIAGNOSES, [*MALIGNANT, PRECURSOR])


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Of the images of a source left out, and of the validation images of the others."""

    left_out: np.ndarray
    """(n, 9), for the mix of the training images."""
    views: np.ndarray
    """(n, 9), the geometric mean over four mirrored views."""
    validation: np.ndarray
    """(m, 9)"""
    seconds: float


@dataclasses.dataclass(frozen=True)
class Fold:
    """A source left out: what is learnt from, and what is predicted."""

    train: Dataset
    validation: Dataset
    left_out: Dataset


def main(arguments: argparse.Namespace) -> None:
    """Train what is missing, then compare what is there."""
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    reading = Reading(image_types=["dermoscopic", CLOSE_UP])
    splits = prepare.prepare(arguments.dataset_name, Config.label_repair, reading).split(seed=0)
    folds = {name: fold(splits, name, most=arguments.per_source) for name in with_melanomas(splits["train"])}
    folds = {name: parts for name, parts in folds.items() if not name.endswith(CLOSE_UP)}
    if len(folds) < 2:
        raise UsageError("--dataset_name: two sources with enough melanomas are needed.")
    results: dict[tuple[str, int, str], Predictions] = {}
    for row in arguments.rows or ROWS:
        for seed in range(arguments.seeds):
            for name, parts in folds.items():
                path = folder / f"{name} - {row} - {seed}.npz".replace(" ", "_")
                if not path.is_file():
                    train(ROWS[row], _config(arguments, row, seed), parts, path)
                results[row, seed, name] = Predictions(**np.load(path))
    table = compare(results, folds)
    (folder / "table.json").write_text(json.dumps(table, indent=1) + "\n")
    print(as_markdown(table))


def _config(arguments: argparse.Namespace, row: str, seed: int) -> Config:
    common = {"image_size": arguments.image_size, "num_train_epochs": arguments.num_train_epochs, "seed": seed}
    # The last epoch counts: nothing is chosen by the few validation images that the Trainer is given.
    common |= {"early_stopping_patience": arguments.num_train_epochs, "disable_tqdm": True}
    return deliver.check(Config(dataset_name=arguments.dataset_name, **common | ROWS[row].settings))


def fold(splits: dict[str, Dataset], name: str, *, most: int) -> Fold:
    """What is learnt from and predicted where a source is left out, at most so many images of each source."""
    own = {split: of_source(splits[split], name, inside=False) for split in contamination.SPLITS if split in splits}
    own_groups = {group for rows in own.values() for group in rows["group"]}  # of a lesion that two sources hold
    foreign = concatenate_datasets(
        [of_source(splits[s], name, inside=True) for s in ("train", "calibration", "held_out")]
    )
    foreign = foreign.select([i for i, group in enumerate(foreign["group"]) if group not in own_groups])
    dermoscopic = [i for i, source in enumerate(own["validation"]["source"]) if not _is_close_up(source)]
    return Fold(
        capped(own["train"], most),
        capped(own["validation"].select(dermoscopic), most),
        capped(foreign, most),
    )


def _is_close_up(source: str | None) -> bool:
    return (source or "").endswith(CLOSE_UP)


def capped(dataset: Dataset, most: int) -> Dataset:
    """At most so many images of each source, drawn at random, in their order."""
    order = np.random.default_rng(0).permutation(len(dataset))
    sources, taken, count = dataset["source"][:], [], dict[str, int]()
    for i in order.tolist():
        count[sources[i]] = count.get(sources[i], 0) + 1
        if count[sources[i]] <= most:
            taken.append(i)
    return dataset.select(sorted(taken))


def train(row: Row, config: Config, parts: Fold, path: Path) -> None:
    """Train one row without one source, and keep its predictions."""
    images = parts.train
    if not row.close_ups:
        images = images.select([i for i, source in enumerate(images["source"]) if not _is_close_up(source)])
    few = parts.validation.select(range(min(64, len(parts.validation))))
    release, draws, seconds = fit(config, {"train": images, "validation": few}, path, row.change)
    mix = sampling.class_frequencies(images["label"][:]) / draws.training_prior

    def predicted(dataset: Dataset, name: str) -> np.ndarray:
        return at_mix(predict.predict_images(release, dataset, name=name).probabilities, mix)

    plain = predicted(parts.left_out, "the source left out")
    others = [predicted(viewed(parts.left_out, view), f"the same, {name}") for name, view in VIEWS.items()]
    kept = Predictions(plain, together([plain, *others]), predicted(parts.validation, "validation"), seconds)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **vars(kept))
    partial.replace(path)


def viewed(dataset: Dataset, view: Callable) -> Dataset:
    """A data set whose pictures are changed when they are read."""
    columns = dataset.select_columns(["image"])
    return columns.with_transform(lambda rows: {"image": [view(read_image(image)) for image in rows["image"]]})


def together(predictions: list[np.ndarray]) -> np.ndarray:
    """The geometric mean of probabilities (n, 9), made to add up to one."""
    mean = np.exp(np.mean([np.log(np.maximum(p, 1e-12)) for p in predictions], axis=0))
    return mean / mean.sum(axis=1, keepdims=True)


def compare(results: dict[tuple[str, int, str], Predictions], folds: dict[str, Fold]) -> dict:
    """The figures of each row, the mean of its seeds, and the difference from the defaults with the same seeds."""
    names = list(folds)
    rows = {row: sorted({seed for other, seed, _ in results if other == row}) for row, _, _ in results}
    variants = {row: [{n: results[row, s, n].left_out for n in names} for s in seeds] for row, seeds in rows.items()}
    first = next(iter(rows))
    for row, seeds in list(rows.items()):
        if row == first:
            views = [{n: results[row, s, n].views for n in names} for s in seeds]
            variants[f"{row}, four mirrored views"] = views
        if len(seeds) > 1:
            mean = {n: together([results[row, s, n].left_out for s in seeds]) for n in names}
            variants[f"{row}, {len(seeds)} seeds averaged"] = [mean] * len(seeds)
    truth = {n: np.array(folds[n].left_out["label"]) for n in names}
    groups = np.concatenate([[f"{n}/{group}" for group in folds[n].left_out["group"]] for n in names])
    ends = np.cumsum([len(truth[n]) for n in names])
    parts = {n: slice(end - len(truth[n]), end) for n, end in zip(names, ends, strict=True)}
    intervals = Intervals(groups)

    def melanoma(p: dict, w: np.ndarray, n: str) -> np.ndarray:
        return metrics.auroc(truth[n] == MELANOMA, p[n][:, MELANOMA], w[..., parts[n]])

    def malignant(p: dict, w: np.ndarray, n: str) -> np.ndarray:
        return metrics.auroc(_MALIGNANT[truth[n]], p[n][:, _MALIGNANT].sum(axis=1), w[..., parts[n]])

    both_kinds = [n for n in names if 0 < _MALIGNANT[truth[n]].sum() < len(truth[n])]
    measures: dict[str, Callable] = {f"melanoma AUROC, {n}": lambda p, w, n=n: melanoma(p, w, n) for n in names}
    measures["melanoma AUROC, mean"] = lambda p, w: np.mean([melanoma(p, w, n) for n in names], axis=0)
    measures["malignant or precursor AUROC, mean"] = lambda p, w: np.mean(
        [malignant(p, w, n) for n in both_kinds], axis=0
    )
    table: dict[str, Any] = {"images": {n: len(truth[n]) for n in names}, "rows": {}}
    for name, runs in variants.items():
        seeds = rows.get(name, rows[next(row for row in rows if name.startswith(row))])
        against = [variants[first][rows[first].index(s)] for s in seeds if s in rows[first]]
        figures = table["rows"][name] = {"seeds": seeds, "validation": _validation(results, folds, name, seeds)}
        for measure, figure in measures.items():
            figures[measure] = intervals.of(lambda w, f=figure, r=runs: np.mean([f(p, w) for p in r], axis=0)).to_json()
            if name != first and len(against) == len(runs):
                paired = list(zip(runs, against, strict=True))
                figures[measure]["difference"] = intervals.of(
                    lambda w, f=figure, q=paired: np.mean([f(a, w) - f(b, w) for a, b in q], axis=0)
                ).to_json()
    return table


def _validation(results: dict, folds: dict[str, Fold], row: str, seeds: list[int]) -> float | None:
    """The melanoma AUROC on the sources left in, the mean over folds, seeds and the sources with both."""
    areas = []
    for name, parts in folds.items():
        truth, origin = np.array(parts.validation["label"]) == MELANOMA, np.array(parts.validation["source"])
        for seed in seeds if (row, seeds[0], name) in results else ():
            score = results[row, seed, name].validation[:, MELANOMA]
            for source in np.unique(origin):
                inside = origin == source
                if 10 <= truth[inside].sum() < inside.sum():
                    areas.append(float(metrics.auroc(truth[inside], score[inside], np.ones(inside.sum()))))
    return float(np.mean(areas)) if areas else None


def as_markdown(table: dict) -> str:
    """The table that `docs/results.md` shows."""
    measures = [name for name in next(iter(table["rows"].values())) if name not in ("seeds", "validation")]
    lines = [f"left out, images: {table['images']}\n", "| | seeds | validation | " + " | ".join(measures) + " |"]
    lines += ["|---" * (len(measures) + 3) + "|"]
    for name, row in table["rows"].items():
        validation = "" if row["validation"] is None else f"{row['validation']:.2f}"
        cells = [name, str(len(row["seeds"])), validation, *(cell(row[measure]) for measure in measures)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", nargs="+", required=True, help="as for train_hf.py")
    parser.add_argument("--output_dir", default="runs/unseen", help="folder of the predictions")
    parser.add_argument("--image_size", type=int, default=128, help="side of the input in pixels")
    parser.add_argument("--num_train_epochs", type=int, default=5, help="of each row")
    parser.add_argument("--per_source", type=int, default=2000, help="images of a source, at most")
    parser.add_argument("--seeds", type=int, default=1, help="runs a row")
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="by default all")
    settings = parser.parse_args()
    sys.exit(run_command(lambda: main(settings)))
