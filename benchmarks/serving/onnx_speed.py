r"""A release in ONNX Runtime beside the same in torch: answers to real images, speed and size, in 8 bits too.

    python benchmarks/serving/onnx_speed.py --model space/model --dataset_name isic9/ isic2017/ ham10000/

exports the release to a temporary folder as `train_hf.py` does, and asks both about held-out images of the split.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from dermalert_space import contract
from dermalert_space.estimate import format_estimate
from dermalert_space.release import Release

from dermalert.config import Config
from dermalert.data import prepare
from dermalert.errors import run_command
from dermalert.evaluation.predict import predict
from dermalert.release import onnx_files

_COLUMNS = {"graph": "the graph, with torch's weights", "model": "single precision", "quantized": "8 bits"}


def main(arguments: argparse.Namespace) -> None:
    """Export, compare, and print the two tables."""
    splits = prepare.prepare(arguments.dataset_name, Config.label_repair).split(seed=Config.split_seed)
    held_out = splits["held_out"].shuffle(seed=0)
    held_out = held_out.select(range(min(arguments.images, len(held_out))))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "release"
        shutil.copytree(contract.find(arguments.model), folder, ignore=shutil.ignore_patterns("onnx"))
        release = Release.load(folder)
        pixels = onnx_files.prepare(folder, release, splits["train"], "all")
        differences = onnx_files.compare(folder, release, predict(release, held_out, name="held out"))
        speeds = {threads: onnx_files.speeds(folder, release, pixels, threads=threads) for threads in arguments.threads}
    print(as_markdown(differences, speeds, images=len(held_out), batch_size=len(pixels)))


def as_markdown(differences: dict[str, dict], speeds: dict[int, dict], *, images: int, batch_size: int) -> str:
    """The tables that `docs/measurements.md` shows."""
    files = [differences[name] for name in _COLUMNS]
    lines = [
        _line(f"n = {images} held-out images", list(_COLUMNS.values())),
        _line("---", ["---"] * len(_COLUMNS)),
        _line("MB", [f"{each['megabytes']:.2f}" for each in files]),
        _line("largest difference of a probability from torch", [f"{each['difference']:.2g}" for each in files]),
        _line("alerts changed", [each["alerts_changed"] for each in files]),
        _line("alerts to melanomas lost", [each["melanomas_lost"] for each in files]),
        _line("change of melanoma AUROC", [format_estimate(each["auroc_change"], 4) for each in files]),
    ]
    for threads, speed in speeds.items():
        for kind, title in (("single", "one image"), ("batch", f"{batch_size} images at once")):
            times = {name: each[kind] for name, each in speed.items()}
            times["quantized"] *= times["model"]
            cells = [f"{times[name]:.1f} times as fast as torch" for name in _COLUMNS]
            lines.append(_line(f"{title}, {threads} thread{'s' * (threads > 1)}", cells))
    return "\n".join(lines)


def _line(title: str, cells: list) -> str:
    return "| " + " | ".join([title, *map(str, cells)]) + " |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="space/model", help="a run or a release's folder")
    parser.add_argument("--dataset_name", nargs="+", required=True, help="what it was trained on, as for train_hf.py")
    parser.add_argument("--images", type=int, default=200, help="held-out images, at most")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of torch and of ONNX Runtime")
    settings = parser.parse_args()
    sys.exit(run_command(lambda: main(settings)))
