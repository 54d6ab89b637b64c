r"""What serving costs beside what a user would write instead: one image, many, the first answer, the Space's API.

    python benchmarks/serving/serving.py --model space/model --dataset_name ham10000/ isic9/

copies the release to a temporary folder, without a graph for ONNX Runtime and with one, exported as `train_hf.py` does,
and asks both. All ways have the same images and threads and take turns; a ratio is that of one turn, by the clock and
by the time of the processor alone, which other work on the machine disturbs less.
"""

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import dermalert_space
import httpx
import numpy as np
import torch
from dermalert_space import batch, contract, inputs
from dermalert_space.images import read_image
from dermalert_space.release import Release
from gradio_client import Client, handle_file
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
from transformers.utils import logging

from dermalert.errors import RunError, UsageError, run_command
from dermalert.release import onnx_export

SPACE = Path(dermalert_space.__file__).parents[1]

COLD = {
    "triage": "from dermalert_space.release import Release; Release.load(sys.argv[1]).predict(sys.argv[2])",
    "pipeline": "from transformers import pipeline; pipeline('image-classification', sys.argv[1])(sys.argv[2])",
}
"""To the first answer, as a program of its own."""

_PRINT_MEMORY = "; print([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0].split()[1])"

Way = Callable[[list[Path]], np.ndarray]
"""Gives the probabilities (n, labels) of images."""


def main(arguments: argparse.Namespace) -> None:
    """Measure and print what `docs/measurements.md` shows."""
    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    paths = images(arguments.dataset_name, arguments.images)
    with tempfile.TemporaryDirectory() as scratch:
        plain, fast = releases(contract.find(arguments.model), Path(scratch))
        print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, {arguments.threads} threads of torch\n")
        some = paths[: arguments.singles]
        print(as_table(*in_turns(singles(plain, fast), [[path] for path in some]), "decode, process, torch forward"))
        size = -(-len(paths) // arguments.turns)
        turns = [paths[start : start + size] for start in range(0, len(paths), size)]
        print(as_table(*in_turns(batches(plain, fast), turns), "pipeline, one by one"))
        print(cold_starts({"torch": plain, "ONNX Runtime": fast}, paths[0], arguments.starts))
        print(through_the_api({"torch": plain, "ONNX Runtime": fast}, some, Path(scratch)))
    print(f"\nload average {os.getloadavg()[0]:.1f} at the end")


def images(folders: list[str], count: int) -> list[Path]:
    """JPEGs of some folders, so many by chance."""
    paths = sorted(path for folder in folders for path in Path(folder).rglob("*.jpg"))
    if len(paths) < count:
        raise UsageError(f"{', '.join(folders)} hold {len(paths)} JPEGs, fewer than --images {count}.")
    return random.Random(0).sample(paths, count)


def releases(folder: Path, scratch: Path) -> tuple[Path, Path]:
    """A release without a graph for ONNX Runtime, and the same with one."""
    plain, fast = (scratch / name / folder.name for name in ("plain", "fast"))
    for to in (plain, fast):
        shutil.copytree(folder, to, ignore=shutil.ignore_patterns("onnx"))
    (fast / "onnx").mkdir()
    onnx_export.export(fast, Release.load(plain).processor, "graph")
    return plain, fast


def singles(plain: Path, fast: Path) -> dict[str, Way]:
    """Ways to assess one image."""
    processor = AutoImageProcessor.from_pretrained(plain, backend="pil", trust_remote_code=False)
    never = {"trust_remote_code": False}
    network = AutoModelForImageClassification.from_pretrained(plain, dtype=torch.float32, **never).eval()

    @torch.inference_mode()
    def bare(paths: list[Path]) -> np.ndarray:
        pixels = processor(read_image(paths[0]), return_tensors="pt")
        return network(**pixels).logits.softmax(-1).numpy()

    ways = {"`Release.predict`, torch": plain, "`Release.predict`, ONNX Runtime": fast}
    return {"decode, process, torch forward": bare} | {name: one_by_one(at) for name, at in ways.items()}


def one_by_one(folder: Path) -> Way:
    """What assesses images alone."""
    release = Release.load(folder)
    return lambda paths: rows([release.predict(path).probabilities for path in paths], release.labels)


def rows(predictions: Iterable[dict[str, float]], labels: list[str]) -> np.ndarray:
    """Probabilities by name as an array (n, labels)."""
    return np.array([[each[label] for label in labels] for each in predictions])


def batches(plain: Path, fast: Path) -> dict[str, Way]:
    """Ways to assess many images."""
    processor = AutoImageProcessor.from_pretrained(plain, backend="pil", trust_remote_code=False)
    own = {"image_processor": processor, "dtype": torch.float32, "trust_remote_code": False}
    classify = pipeline("image-classification", model=str(plain), **own)
    labels = list(classify.model.config.id2label.values())

    def scores(predictions: list) -> np.ndarray:
        return rows(({one["label"]: one["score"] for one in each} for each in predictions), labels)

    return {
        "pipeline, one by one": lambda paths: scores([classify(str(path), top_k=len(labels)) for path in paths]),
        "pipeline, batch_size=16": lambda paths: scores(
            classify([str(path) for path in paths], top_k=len(labels), batch_size=16)
        ),
        "`batch.predict_files`, torch": together(plain),
        "`batch.predict_files`, ONNX Runtime": together(fast),
    }


def together(folder: Path) -> Way:
    """What assesses files as `triage.py` does."""
    release = Release.load(folder)

    def predicted(paths: list[Path]) -> np.ndarray:
        predictions = batch.predict_files(release, inputs.expand(paths))
        return rows((row.prediction.probabilities for row in predictions), release.labels)

    return predicted


def in_turns(ways: dict[str, Way], turns: list[list[Path]]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The seconds an image of each way in each turn, by clock and processor, and how far its answers are off."""
    seconds, off = {name: [] for name in ways}, dict.fromkeys(ways, 0.0)
    for way in ways.values():
        way(turns[0][:16])  # the first one allocates
    for paths in tqdm(turns, desc="Turns"):
        answers = {}
        for name, way in ways.items():
            began = clocks()
            answers[name] = way(paths)
            seconds[name].append((clocks() - began) / len(paths))
        first = next(iter(answers.values()))
        off = {name: max(off[name], float(np.abs(answer - first).max())) for name, answer in answers.items()}
    return {name: np.array(each) for name, each in seconds.items()}, off


def clocks() -> np.ndarray:
    """The seconds of the clock and those of the processor."""
    return np.array([time.perf_counter(), time.process_time()])


def as_table(seconds: dict[str, np.ndarray], off: dict[str, float], base: str) -> str:
    """Medians and quartiles of the time an image, and of its share of that of one of the ways."""
    n = len(seconds[base])
    lines = [
        f"| medians of n = {n} turns [quartiles] | ms of the clock | ms of the processor | times as fast, by the clock "
        "| by the processor | probabilities off by at most |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in seconds.items():
        cells = [spread(1000 * each[:, 0], 1), spread(1000 * each[:, 1], 1)]
        cells += [spread((seconds[base] / each)[:, clock], 2) for clock in (0, 1)]
        lines.append(f"| {' | '.join([name, *cells, f'{off[name]:.1g}'])} |")
    return "\n".join([*lines, ""])


def spread(values: np.ndarray, digits: int) -> str:
    """A median with the quartiles."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.{digits}f} [{low:.{digits}f}-{high:.{digits}f}]"


def cold_starts(folders: dict[str, Path], image: Path, repeats: int) -> str:
    """How long a new program takes to its first answer, and its memory then."""
    programs = {f"`release.Release`, {name}": ("triage", at) for name, at in folders.items()}
    programs |= {"`pipeline`": ("pipeline", folders["torch"])}
    figures = {name: [] for name in programs}
    for _ in tqdm(range(repeats), desc="Starts"):
        for name, (kind, folder) in programs.items():
            figures[name].append(time_start(kind, folder, image))
    lines = [
        f"| from nothing to the first answer, n = {repeats} [quartiles] | s of the clock | s of the processor | MB |"
    ]
    lines.append("|---|---|---|---|")
    for name, each in figures.items():
        each = np.array(each)
        lines.append(f"| {name} | {spread(each[:, 0], 1)} | {spread(each[:, 1], 1)} | {spread(each[:, 2], 0)} |")
    return "\n".join([*lines, ""])


def time_start(kind: str, folder: Path, image: Path) -> tuple[float, float, float]:
    """The seconds of the clock and of the processor that a program takes, and its peak of memory in MB."""
    command = [sys.executable, "-c", f"import sys; {COLD[kind]}{_PRINT_MEMORY}", folder, image]
    environment = os.environ | {"PYTHONPATH": str(SPACE.parent)}
    before, began = os.times(), time.perf_counter()
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, used, int(output.split()[-1]) / 1024


def through_the_api(folders: dict[str, Path], paths: list[Path], scratch: Path) -> str:
    """What an answer of a Space on this machine takes, upload included, by gradio_client."""
    lines = [f"| through the API, medians of n = {len(paths)} images [quartiles] | ms of the clock |", "|---|---|"]
    for name, folder in folders.items():
        with serve(folder, scratch) as ask:
            ask(paths[0])
            seconds = [seconds_of(lambda path=path: ask(path)) for path in tqdm(paths, desc="API")]
        lines.append(f"| `/judge`, {name} | {spread(1000 * np.array(seconds), 0)} |")
    return "\n".join(lines)


@contextlib.contextmanager
def serve(folder: Path, scratch: Path) -> Iterator[Callable[[Path], dict]]:
    """Start the Space with a release, and give what asks it about an image."""
    environment = os.environ | {
        "MODEL_ID": str(folder),
        "GRADIO_SERVER_PORT": "7987",
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    with (scratch / "log").open("w") as log:
        server = subprocess.Popen([sys.executable, SPACE / "app.py"], env=environment, stdout=log, stderr=log)
    try:
        client = None
        while client is None:
            if server.poll() is not None:
                raise RunError(f"the Space did not start: {(scratch / 'log').read_text()}")
            time.sleep(0.5)
            with contextlib.suppress(httpx.TransportError):
                client = Client("http://127.0.0.1:7987", verbose=False)
        yield lambda path: client.predict(handle_file(path), api_name="/judge")
    finally:
        server.terminate()
        server.wait()


def seconds_of(call: Callable[[], object]) -> float:
    """The seconds of the clock that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="space/model", help="a run or a release's folder")
    parser.add_argument("--dataset_name", nargs="+", required=True, help="folders of JPEGs")
    parser.add_argument("--images", type=int, default=1000, help="assessed as a batch")
    parser.add_argument("--turns", type=int, default=10, help="that they are cut into")
    parser.add_argument("--singles", type=int, default=50, help="of them, assessed alone")
    parser.add_argument("--starts", type=int, default=5, help="of new programs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch and of ONNX Runtime")
    settings = parser.parse_args()
    sys.exit(run_command(lambda: main(settings)))
