"""Whether a map of `dermalert_space.attribution` marks what counts: its places are deleted, and others beside them.

    python benchmarks/evaluation/attribution.py --model space/model --dataset isic9/ isic2017/ ham10000/

prints two tables. Deletion (Samek 2017, arXiv 1509.06321): how far the log-odds and the probability of the alert's
diagnosis fall when the k % of an image that the map marks most are replaced, and when the very same shapes are replaced
elsewhere, mirrored and moved by chance. Cascading randomisation (Adebayo 2018, arXiv 1810.03292): how much of a map is
left once the weights are shuffled, from the last layer on.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from dermalert_space import attribution, contract
from dermalert_space.estimate import format_estimate
from dermalert_space.images import read_image
from dermalert_space.release import Release
from PIL import Image, ImageFilter
from scipy import stats
from torch import nn
from tqdm.auto import tqdm

from dermalert.config import Config
from dermalert.data import prepare
from dermalert.errors import run_command
from dermalert.evaluation.intervals import Intervals

SHARES = (0.05, 0.1, 0.2, 0.3)
"""How much of an image is deleted, at most: a map marks no more than it gives a colour."""

MOVES = 3
"""Random places of each shape; the mean of them counts."""

MEASURES = {
    "fall of the log-odds": lambda change: change[..., 0],
    "fall of the probability": lambda change: change[..., 1],
    "change of the log-odds, either way": lambda change: np.abs(change[..., 0]),
}
"""Of falls of log-odds and probability, (..., 2)."""

STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How much of a network is shuffled, from its end, in shares of its layers; 0 is the last linear layer alone."""

_SIGMA = 0.08  # of the blur, as a share of the short side: as wide as the coarsest place that a map tells apart
_TINY = 1e-7  # keeps the log-odds of a probability that float32 rounded to 0 or 1 finite


def of_border(image: Image.Image) -> Image.Image:
    """Return nothing but the median colour of the border: skin, in most images; what it hides gets an edge."""
    pixels = np.asarray(image)
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return Image.new("RGB", image.size, tuple(np.median(edges, axis=0).round().astype(int).tolist()))


def blurred(image: Image.Image) -> Image.Image:
    """Return the image without its structures, and with its colours: no edge, and the lesion stays a lesion."""
    return image.filter(ImageFilter.GaussianBlur(_SIGMA * min(image.size)))


REPLACED_BY = {"median colour of the border": of_border, "the image blurred": blurred}


def main(arguments: argparse.Namespace) -> None:
    """Measure, and print the tables."""
    parts = prepare.prepare(arguments.dataset, Config.repair).split(seed=Config.split_seed)
    side = parts[arguments.side].shuffle(seed=0)
    release = Release.load(contract.find(arguments.model))
    dataset = side.select(range(min(arguments.images, len(side))))
    images = [shown(read_image(row["image"])) for row in dataset]
    maps = [attribution.attribute(release, image) for image in tqdm(images, desc="Explaining", unit=" images")]
    coverage = {share: np.mean([most(found, share).mean() for found in maps]) for share in SHARES}
    print("On average marked: " + ", ".join(f"{known:.1%} of at most {share:.0%}" for share, known in coverage.items()))
    print(as_markdown(deletion(release, images, maps), np.array(dataset["group"])))
    few = range(min(arguments.shuffled, len(images)))
    print(kept_as_markdown(cascade(release, [images[i] for i in few], [maps[i] for i in few])))


def shown(image: Image.Image) -> Image.Image:
    """Return an image at the size of its map, at which pixels are deleted."""
    scale = min(1, attribution.SIDE / max(image.size))
    return image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)


def deletion(release: Release, images: list[Image.Image], maps: list[np.ndarray]) -> dict[tuple, np.ndarray]:
    """Return the answers by what was deleted, how much of it, and what replaced it: (n, tries, 2).

    The last axis is log-odds and probability; the key `()` stands for the images as they are, (n, 2).

    Args:
        release: the release.
        images: at the size of their maps.
        maps: of the images.
    """
    rows: dict[tuple, list] = {}
    for i, (image, found) in enumerate(zip(tqdm(images, desc="Deleting", unit=" images"), maps, strict=True)):
        rng = np.random.default_rng(i)
        keys, altered = zip(*_altered(image, found, maps[i - 1], rng), strict=True)
        for key, answer in zip(keys, scores(release, altered), strict=True):
            rows.setdefault(key, [[] for _ in images])[i].append(answer)
    found = {key: np.array(answers) for key, answers in rows.items()}
    return found | {(): found[()][:, 0]}


def _altered(image: Image.Image, found: np.ndarray, other: np.ndarray, rng) -> Iterator[tuple[tuple, Image.Image]]:
    yield (), image
    others = np.asarray(Image.fromarray(other).resize(image.size, Image.Resampling.BILINEAR))
    for share in SHARES:
        mask = most(found, share)
        masks = [("marked", mask), ("another image's map", most(others, share))]
        masks += [("moved", moved(mask, rng)) for _ in range(MOVES)]
        for name, instead in REPLACED_BY.items():
            hidden = instead(image)
            for what, where in masks:
                yield (what, share, name), Image.composite(hidden, image, Image.fromarray(where))


def most(found: np.ndarray, share: float) -> np.ndarray:
    """Return which pixels a map marks most: bool, its shape; so many of them, or all that it marks at all."""
    marks = np.nan_to_num(found)
    return (marks > 0) & (marks >= np.quantile(marks, 1 - share))


def moved(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the same shapes mirrored and moved by chance; what leaves at one edge comes in at the other."""
    mirrored = mask[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    return np.roll(mirrored, [rng.integers(side) for side in mask.shape], axis=(0, 1))


def scores(release: Release, images: list[Image.Image]) -> np.ndarray:
    """Return log-odds and probability of the alert's diagnosis, (n, 2)."""
    answers = release.probabilities(list(images), batch_size=4)
    p = answers[:, release.labels.index(release.alert_label)].astype(float).clip(_TINY, 1 - _TINY)
    return np.stack([np.log(p / (1 - p)), p], axis=1)


def as_markdown(found: dict[tuple, np.ndarray], groups: np.ndarray) -> str:
    """Return the tables of the deletion, with the paired differences of what was marked from the others."""
    intervals = Intervals(groups)
    lines = [f"n = {len(groups)} images in {intervals.groups} groups"]
    for name in REPLACED_BY:
        for title, measure in MEASURES.items():
            lines += [
                f"\n| replaced by {name}: {title} | marked | same shapes elsewhere | **marked more by** | "
                "another image's map | **marked more by** |",
                "|---|---|---|---|---|---|",
            ]
            lines += [_line(found, intervals, share, name, measure) for share in SHARES]
    return "\n".join(lines)


def _line(found: dict, intervals: Intervals, share: float, name: str, measure: Callable) -> str:
    def cell(values: np.ndarray) -> str:
        return format_estimate(intervals.of_mean(values), 3)

    marked, moved, other = (
        measure(found[()][:, None] - found[what, share, name]).mean(axis=1)
        for what in ("marked", "moved", "another image's map")
    )
    cells = [cell(marked), cell(moved), f"**{cell(marked - moved)}**", cell(other), f"**{cell(marked - other)}**"]
    return f"| {share:.0%} | " + " | ".join(cells) + " |"


def cascade(release: Release, images: list[Image.Image], maps: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return how alike maps are, (n,), to those that a network gives with a part of it shuffled, by which part that is.

    Beside them stands how alike a map is to another image's: that is no likeness.
    """
    found = {"another image's map": np.array([likeness(a, b) for a, b in zip(maps, maps[1:] + maps[:1], strict=True)])}
    for share in tqdm(STEPS, desc="Shuffling", unit=" steps"):
        network, name = shuffled(release.model, share)
        other = Release(network, release.processor, name="shuffled")
        pairs = zip(images, maps, strict=True)
        found[name] = np.array([likeness(known, attribution.attribute(other, image)) for image, known in pairs])
    return found


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """Return the rank correlation of two maps, the second at the first one's size; 0 where one marks nothing."""
    second = Image.fromarray(np.nan_to_num(second)).resize(first.shape[::-1], Image.Resampling.BILINEAR)
    first, second = np.nan_to_num(first).ravel(), np.asarray(second).ravel()
    return float(stats.spearmanr(first, second).statistic) if np.ptp(first) > 0 and np.ptp(second) > 0 else 0.0


def shuffled(network: nn.Module, share: float) -> tuple[nn.Module, str]:
    """Return a copy of which each weight's values are shuffled in so many layers from the end, one at least."""
    other, chance = copy.deepcopy(network), torch.Generator().manual_seed(0)
    layers = [layer for layer in other.modules() if list(layer.parameters(recurse=False))]
    count = max(1, round(share * len(layers)))
    for layer in layers[-count:]:
        for weight in layer.parameters(recurse=False):
            mixed = weight.detach().flatten()[torch.randperm(weight.numel(), generator=chance)]
            weight.data.copy_(mixed.view_as(weight))
    return other, f"the last {count} of {len(layers)} layers" if count > 1 else "the last layer"


def kept_as_markdown(found: dict[str, np.ndarray]) -> str:
    """Return the table of the cascading randomisation."""
    lines = [
        f"| n = {len(next(iter(found.values())))} images | mean rank correlation with the map | lowest to highest |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {r.mean():.2f} | {r.min():.2f} to {r.max():.2f} |" for name, r in found.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="space/model", help="a run or a release's folder")
    parser.add_argument("--dataset", nargs="+", required=True, help="what it was trained on, as for train_hf.py")
    parser.add_argument("--side", default="held_out", choices=("validation", "held_out"), help="whose images")
    parser.add_argument("--images", type=int, default=200, help="of the side, at most")
    parser.add_argument("--shuffled", type=int, default=30, help="images of the cascading randomisation, at most")
    settings = parser.parse_args()
    sys.exit(run_command(lambda: main(settings)))
