r"""Whether copies of one clinic's pictures can be told apart by their sharpness, as they are and as training sees them.

    python benchmarks/data/copies.py --dataset_name isic9/ isic2017/ ham10000/

Where one source's images of one diagnosis stand in two data sets, the way they were copied tells which is which. A
linear model of `sharpness.spectral_profile` is cross-validated on the images as they are, after the plain augmentation,
after the robust one without its random sharpness, and after the whole of it. An AUROC of 0.5 is the aim; a network can
tell at least what a linear model tells.
"""

import argparse
import itertools
import sys
from collections import defaultdict
from collections.abc import Callable
from unittest import mock

import numpy as np
import torch
from datasets import Dataset
from dermalert_space.images import read_image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dermalert.data import label_repair, loading
from dermalert.errors import UsageError, run_command
from dermalert.imaging import augmentation, sharpness
from dermalert.taxonomy import DIAGNOSES

_BATCH = 32
_FEWEST = 40  # images of a copy: with less nothing is said
_FOLDS = 5


def without_chance_sharpness(pixels: torch.Tensor) -> torch.Tensor:
    """What the robust augmentation makes of pixels if it leaves their sharpness to the copies."""
    with mock.patch.object(sharpness, "randomize_sharpness", lambda pixels: pixels):
        return augmentation.augment(pixels)


VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "as they are": lambda pixels: pixels,
    "plain augmentation": lambda pixels: augmentation.augment(pixels, robust=False),
    "robust, without chance sharpness": without_chance_sharpness,
    "robust": augmentation.augment,
}


def main(arguments: argparse.Namespace) -> None:
    """Print the table that `docs/results.md` shows."""
    dataset, _ = label_repair.repair(loading.load(arguments.dataset_name, merge=False).dataset, "archive")
    copies = pairs(dataset, arguments.images)
    if not copies:
        raise UsageError(f"--dataset_name: no diagnosis of one source has {_FEWEST} images in two of these.")
    print("| source, diagnosis | copies | images | " + " | ".join(VIEWS) + " |")
    print("|---" * (len(VIEWS) + 3) + "|")
    for (source, label, names), rows in copies.items():
        torch.manual_seed(0)
        pixels = torch.cat([_pixels(dataset.select(part), arguments.image_size) for part in rows])
        which = np.repeat([0, 1], [len(part) for part in rows])
        areas = [f"{separability(change, pixels, which):.2f}" for change in VIEWS.values()]
        sizes = " + ".join(str(len(part)) for part in rows)
        print(f"| {source}, {DIAGNOSES[label]} | {' / '.join(names)} | {sizes} | " + " | ".join(areas) + " |")


def pairs(dataset: Dataset, most: int) -> dict[tuple, tuple[np.ndarray, np.ndarray]]:
    """Rows of each two data sets that hold pictures of one diagnosis from one source: at most so many of each.

    Args:
        dataset: with the column `named`, of `sources.load(merge=False)`.
        most: images of each of the two.
    """
    where = defaultdict(list)
    for i, key in enumerate(zip(*(dataset[name] for name in ("source", "label", "named")), strict=True)):
        where[key].append(i)
    rng, rows_of = np.random.default_rng(0), {}
    for (one, rows), (other, others) in itertools.combinations(sorted(where.items()), 2):
        if one[:2] == other[:2] and min(len(rows), len(others)) >= _FEWEST:
            chosen = (rng.permutation(rows)[:most], rng.permutation(others)[:most])
            rows_of[(*one[:2], (one[2], other[2]))] = chosen
    return rows_of


def _pixels(dataset: Dataset, side: int) -> torch.Tensor:
    """Pictures as the network's input would be without normalisation: (n, 3, side, side) in [0, 1]."""
    squares = [np.asarray(read_image(image).resize((side, side), 3)) for image in dataset["image"]]  # bicubic
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() / 255


def separability(change: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor, which: np.ndarray) -> float:
    """The cross-validated AUROC of a linear model that tells which (n,) of two copies pictures are of."""
    levels = torch.cat([sharpness.spectral_profile(change(part)) for part in pixels.split(_BATCH)]).numpy()
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, class_weight="balanced", max_iter=5000))
    scores = cross_val_predict(model, levels, which, cv=_FOLDS, method="decision_function")
    return float(roc_auc_score(which, scores))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", nargs="+", required=True, help="as for train_hf.py, at least two")
    parser.add_argument("--image_size", type=int, default=160, help="side of the input in pixels")
    parser.add_argument("--images", type=int, default=150, help="of each copy and diagnosis, at most")
    settings = parser.parse_args()
    sys.exit(run_command(lambda: main(settings)))
