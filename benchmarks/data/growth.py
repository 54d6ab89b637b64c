r"""Whether a hundred times the images cost a hundred times as much, and no more memory: load, stream, train, triage.

    python benchmarks/data/growth.py --images 1000 10000 100000

makes images of 64 pixels, as files and as parquet shards of 1,000, and a tiny model. Each step is a program of its own,
told by the seconds of the clock and of the processor that it takes beyond its start, and by the most memory that it
held: of its own (anonymous), and all of it, with what it maps from files, which the system may drop at any time.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dermalert.config import Config
from dermalert.errors import RunError, run_command
from dermalert.taxonomy import DIAGNOSES
from dermalert.training.run import load_model

SHARD = 1000
STEPS = ("load", "stream", "epoch", "triage")


def main(arguments: argparse.Namespace) -> None:
    """Measure and print what `docs/measurements.md` shows."""
    print(f"load average {os.getloadavg()[0]:.1f}")
    print("| images | step | ms of the clock an image | of the processor | MB of its own | MB of all |")
    print("|---|---|---|---|---|---|")
    for count in arguments.images:
        with tempfile.TemporaryDirectory() as scratch:
            write_images(count, Path(scratch))
            save_model(Path(scratch) / "model")
            for step in arguments.steps:
                clock, used, own, everything = np.median([run(step, scratch) for _ in range(arguments.repeats)], axis=0)
                cells = f"{1000 * clock / count:.2f} | {1000 * used / count:.2f} | {own:.0f} | {everything:.0f}"
                print(f"| {count:,} | {step} | {cells} |", flush=True)


def write_images(count: int, folder: Path) -> None:
    """Write images as files, a folder a diagnosis, and as shards."""
    (folder / "shards").mkdir()
    for name in DIAGNOSES:
        (folder / "files" / name).mkdir(parents=True)
    for start in range(0, count, SHARD):
        rows = [draw_image(number) for number in range(start, min(start + SHARD, count))]
        for row in rows:
            (folder / "files" / row["label"] / f"{row['image_id']}.jpg").write_bytes(row["image"]["bytes"])
        pq.write_table(pa.Table.from_pylist(rows), folder / "shards" / f"{start // SHARD:05}.parquet")


def draw_image(number: int) -> dict:
    """An image unlike all others, even when it is small, with its name and label."""
    coarse = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
    # Numbers that the archive has not given out, or the pictures would be taken for its images.
    name = f"ISIC_{9_000_000 + number}"
    return {"image_id": name, "label": DIAGNOSES[number % 9], "image": {"bytes": file.getvalue(), "path": None}}


def save_model(folder: Path) -> None:
    """Save a release of random weights."""
    from transformers import ConvNextConfig, ConvNextForImageClassification, ViTImageProcessorPil

    names = {"id2label": dict(enumerate(DIAGNOSES)), "label2id": {name: i for i, name in enumerate(DIAGNOSES)}}
    config = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=4, image_size=64, **names)
    config.alert = {"label": "melanoma", "threshold": 0.1}
    ConvNextForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)


def run(step: str, scratch: str) -> list[float]:
    """Take a step in a program of its own, without anything kept of an earlier one, and return what it tells."""
    with tempfile.TemporaryDirectory() as kept:
        environment = os.environ | {"XDG_CACHE_HOME": kept, "HF_HOME": kept, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, __file__, "--step", step, "--folder", scratch]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RunError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def step(name: str, folder: Path) -> None:
    """Take a step and tell what it took, as JSON."""
    work = prepare_step(name, folder)
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            peak[0] = max(peak[0], memory("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter(), time.process_time()
    try:
        work()
    finally:
        over.set()
    print(json.dumps([time.perf_counter() - began[0], time.process_time() - began[1], peak[0], memory("VmHWM")]))


def memory(kind: str) -> float:
    """A line of what the system says of this program's memory, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(kind))


def prepare_step(name: str, folder: Path) -> Callable[[], object]:
    """Import what a step needs, and return what does it."""
    import torch

    torch.set_num_threads(1)
    if name == "triage":
        from dermalert.release import archive_triage

        shards = [folder / "shards"]
        return lambda: archive_triage.triage(
            shards, str(folder / "model"), Path(tempfile.mkdtemp(dir=folder)), workers=1
        )
    from dermalert.data import hub_datasets, loading, near_duplicates, splits

    if name == "stream":
        return lambda: read_stream(hub_datasets, folder)

    def load() -> dict:
        shipped = near_duplicates.link(loading.load([str(folder / "files")]).dataset)
        return splits.split(shipped, shipped=shipped, seed=0)

    return load if name == "load" else epoch(load(), folder)


def read_stream(hub, folder: Path) -> None:
    """Read the shards as `--streaming` reads those of the Hub, but from the disk."""
    from datasets import Features, Value, load_dataset
    from datasets import Image as Picture

    from dermalert.data.table_columns import Columns

    files = {"train": sorted(map(str, (folder / "shards").iterdir()))}
    features = Features({"image_id": Value("string"), "label": Value("string"), "image": Picture()})
    stream = {"train": load_dataset("parquet", data_files=files, split="train", streaming=True, features=features)}
    with (
        mock.patch.object(hub, "_commit", lambda _: "0"),
        mock.patch.object(hub, "load_dataset", lambda *_, **__: stream),
    ):
        hub.load("a/b", Columns(None), streaming=True)


def epoch(sides: dict, folder: Path) -> Callable[[], object]:
    """What trains one epoch."""
    import train_hf

    config = Config(
        dataset_name=["growth"], model_name_or_path=str(folder / "model"), image_size=64, num_train_epochs=1
    )
    model, processor = load_model(config)
    trainer = train_hf.make_trainer(config, Path(tempfile.mkdtemp(dir=folder)), model, processor, sides)
    trainer.args.eval_strategy, trainer.args.save_strategy = "no", "no"
    return trainer.train


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000], help="numbers of them")
    parser.add_argument("--steps", nargs="+", default=STEPS, choices=STEPS, help="to take")
    parser.add_argument("--repeats", type=int, default=1, help="of each, of which the median counts")
    parser.add_argument("--step", choices=STEPS, help="take one step and tell: the programs that are started")
    parser.add_argument("--folder", type=Path, help="with --step")
    settings = parser.parse_args()
    sys.exit(run_command(lambda: step(settings.step, settings.folder) if settings.step else main(settings)))
