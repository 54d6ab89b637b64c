r"""How many of the lesions that two sources share the audit finds by itself, how surely, and how long it takes.

    XDG_CACHE_HOME=$(mktemp -d) python benchmarks/data/cross_source_copies.py --pairs same_lesion_as_ham10000.csv \
        --sheet others.png --dataset_name isic9/ isic2017/ ham10000_224/ ham10000/ milk10k/ acral/

The table of pairs has the columns `image_id`, `ham10000_image` and `ham10000_lesion`; the search never sees it. A pair
of it counts as found where its image is joined to any photo of its lesion. The thresholds were chosen on half of the
pairs (see `copies.py`). The table is a lower bound: pairs that are not in it are drawn for a person to judge. Without
an empty cache the times say nothing.
"""

import argparse
import csv
import hashlib
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import datasets
import numpy as np
from dermalert_space.estimate import format_estimate
from dermalert_space.images import read_image
from matplotlib.figure import Figure

from dermalert.data import copies, loading
from dermalert.errors import run_command
from dermalert.evaluation.intervals import exact_proportion

_ACROSS = 4  # pairs in a line of the sheet

T = TypeVar("T")


def main(arguments: argparse.Namespace) -> None:
    """Print the tables that `docs/measurements.md` shows, and draw the sheet."""
    dataset = timed("loading", lambda: loading.load(arguments.dataset_name).dataset)
    pairs = timed("search", lambda: copies.search(dataset))
    print(f"\n{len(dataset):,} images of {len(set(dataset['source']))} sources, {len(pairs.first):,} pairs\n")
    with arguments.pairs.open(newline="") as file:
        table = list(csv.DictReader(file))
    print_recall(table, dataset, pairs)
    listed = are_listed(table, dataset, pairs)
    print_sources(dataset, pairs, listed)
    others = np.random.default_rng(arguments.seed).permutation(np.flatnonzero(~listed))[: arguments.drawn]
    if arguments.sheet and len(others):
        draw(dataset, pairs, np.sort(others), arguments.sheet)


def timed(task: str, run: Callable[[], T]) -> T:
    """What a task gives; print the time it takes and the memory that the process has had by then."""
    clock, processor = time.perf_counter(), time.process_time()
    result = run()
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{task}: {clock:.0f} s, {processor:.0f} s of CPU, peak memory {memory:.2f} GiB", flush=True)
    return result


def chose_thresholds(pair: dict) -> bool:
    """Whether a pair of the table belongs to the half on which the thresholds were chosen."""
    name = pair["image_id"] + pair["ham10000_image"]
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 2 == 0


def print_recall(table: list[dict], dataset: datasets.Dataset, pairs: copies.Copies) -> None:
    """Print which share of the table's pairs is joined: those whose image and a photo of whose lesion are there."""
    rows = {image: row for row, image in enumerate(dataset["image_id"])}
    photos = defaultdict(set)
    for row, lesion in enumerate(dataset["lesion_id"]):
        photos[lesion].add(row)
    joined = defaultdict(set)
    for a, b in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True):
        joined[a].add(b)
        joined[b].add(a)
    there = [pair for pair in table if pair["image_id"] in rows and photos[pair["ham10000_lesion"]]]
    same_photo = [pair for pair in there if pair["ham10000_image"] in rows]
    kinds = {
        "its very photo of HAM10000 is there": same_photo,
        "the same, not of the half that chose the thresholds": [p for p in same_photo if not chose_thresholds(p)],
        "only another photo of the lesion is there": [p for p in there if p["ham10000_image"] not in rows],
    }
    print("| pairs of the table | n | found | recall |\n|---|---|---|---|")
    for name, of_kind in kinds.items():
        hits = sum(bool(joined[rows[p["image_id"]]] & photos[p["ham10000_lesion"]]) for p in of_kind)
        print(f"| {name} | {len(of_kind)} | {hits} | {format_estimate(exact_proportion(hits, len(of_kind)))} |")


def are_listed(table: list[dict], dataset: datasets.Dataset, pairs: copies.Copies) -> np.ndarray:
    """Whether the table has each pair: its image, and the lesion of the other."""
    listed = {(pair["image_id"], pair["ham10000_lesion"]) for pair in table}
    images, lesions = list(dataset["image_id"]), list(dataset["lesion_id"])
    both = zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
    return np.array([bool({(images[a], lesions[b]), (images[b], lesions[a])} & listed) for a, b in both], bool)


def print_sources(dataset: datasets.Dataset, pairs: copies.Copies, listed: np.ndarray) -> None:
    """Print how many pairs each two sources share."""
    names = list(dataset["source"])
    sources = [tuple(sorted((names[a], names[b]))) for a, b in zip(pairs.first, pairs.second, strict=True)]
    in_table = Counter(both for both, of_table in zip(sources, listed, strict=True) if of_table)
    print("\n| sources | pairs | in the table |\n|---|---|---|")
    for (one, other), count in Counter(sources).most_common():
        print(f"| {one} / {other} | {count} | {in_table[one, other]} |")
    print(f"| all | {len(sources)} | {in_table.total()} |")


def draw(dataset: datasets.Dataset, pairs: copies.Copies, numbers: np.ndarray, path: Path) -> None:
    """Draw pairs side by side."""
    down = -(-len(numbers) // _ACROSS)
    figure = Figure(figsize=(4 * _ACROSS, 2.3 * down))
    axes = figure.subplots(down, 2 * _ACROSS, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    images = dataset.select_columns(["image", "image_id"]).cast_column("image", datasets.Image(decode=False))
    for place, number in enumerate(numbers):
        how = f"{number}: {pairs.matches[number]}, {pairs.similarity[number]:.2f}"
        for side, row in enumerate((pairs.first[number], pairs.second[number])):
            ax, file = axes[2 * place + side], images[int(row)]["image"]
            ax.imshow(read_image(file["path"] if file["bytes"] is None else file["bytes"]))
            ax.set_title(images[int(row)]["image_id"] if side else how, size=7)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", nargs="+", required=True, help="as for train_hf.py, of several sources")
    parser.add_argument("--pairs", type=Path, required=True, help="the table")
    parser.add_argument("--sheet", type=Path, help="where pairs that are not in the table are drawn")
    parser.add_argument("--drawn", type=int, default=20, help="pairs on the sheet, at most")
    parser.add_argument("--seed", type=int, default=0, help="that draws them")
    settings = parser.parse_args()
    sys.exit(run_command(lambda: main(settings)))
