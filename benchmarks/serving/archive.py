r"""An archive assessed by one process and by several: the price of the engine, and what more processes gain.

    python benchmarks/serving/archive.py --model space/model --dataset_name ham10000/ isic9/

makes parquet shards of real images and a release with a graph for ONNX Runtime, and assesses them by `triage-archive`,
in turns. Beside the seconds of the whole command stand those from the first result on, without what comes once a run.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from dermalert_space import contract
from serving import images, releases, spread
from tqdm.auto import tqdm

from dermalert.errors import RunError, run_command


def main(arguments: argparse.Namespace) -> None:
    """Measure and print what `docs/measurements.md` shows."""
    paths = images(arguments.dataset_name, arguments.images)
    with tempfile.TemporaryDirectory() as scratch:
        _, model = releases(contract.find(arguments.model), Path(scratch))
        shards = write_shards(paths, arguments.shards, Path(scratch) / "shards")
        print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, {arguments.shards} shards")
        runs = {workers: [] for workers in arguments.workers}
        for turn in tqdm(range(arguments.turns), desc="Turns"):
            for workers in runs:
                runs[workers].append(time_triage(shards, model, Path(scratch) / f"{turn} {workers}", workers))
        check_same([Path(scratch) / f"0 {workers}" for workers in runs])
    print(as_table({workers: np.array(each) for workers, each in runs.items()}, arguments.images))


def write_shards(paths: list[Path], count: int, folder: Path) -> Path:
    """Write images as so many shards."""
    folder.mkdir()
    for shard in range(count):
        some = paths[shard::count]
        columns = {"image_id": [path.stem for path in some], "image": [path.read_bytes() for path in some]}
        pq.write_table(pa.table(columns), folder / f"{shard:05}.parquet")
    return folder


def time_triage(shards: Path, model: Path, output: Path, workers: int) -> tuple[float, float, float]:
    """The seconds of a run: the whole by the clock and by the processor, and from its first result on."""
    options = ["--model", model, "--output", output, "--workers", str(workers)]
    line = [sys.executable, "-m", "dermalert", "triage-archive", shards, *options]
    before, began, first = os.times(), time.perf_counter(), None
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as running:
        while running.poll() is None:
            time.sleep(0.02)
            if first is None and list(output.glob("*.part")):
                first = time.perf_counter()
        if running.returncode:
            raise RunError(running.stderr.read().decode())
    ended, after = time.perf_counter(), os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return ended - began, used, ended - first


def check_same(outputs: list[Path]) -> None:
    """Refuse results that are not those of the first run, to the bit."""
    for path in outputs[0].iterdir():
        if any(pq.read_table(path) != pq.read_table(other / path.name) for other in outputs[1:]):
            raise RunError(f"{path.name} has other answers on other numbers of processes.")


def as_table(runs: dict[int, np.ndarray], count: int) -> str:
    """Medians and quartiles of the runs, and of the efficiency: the gain by the number of processes."""
    one = next(iter(runs.values()))
    lines = [
        f"| {count} images, n = {len(one)} turns [quartiles] | s, all | s once judging | images a second then "
        "| efficiency then |",
        "|---|---|---|---|---|",
    ]
    for workers, each in runs.items():
        cells = [spread(each[:, 0], 1), spread(each[:, 2], 1), spread(count / each[:, 2], 1)]
        cells.append(spread(one[:, 2] / each[:, 2] / (workers / next(iter(runs))), 2))
        lines.append(f"| {' | '.join([f'{workers} process' + 'es' * (workers > 1), *cells])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="space/model", help="a run or a release's folder")
    parser.add_argument("--dataset_name", nargs="+", required=True, help="folders of JPEGs")
    parser.add_argument("--images", type=int, default=1200, help="in all")
    parser.add_argument("--shards", type=int, default=12, help="that they are cut into")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of processes")
    parser.add_argument("--turns", type=int, default=3, help="of all of them")
    settings = parser.parse_args()
    sys.exit(run_command(lambda: main(settings)))
