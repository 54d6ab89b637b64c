"""Train as `train_hf.py` does, with settings that take a second."""

import json
from pathlib import Path

import train_hf
from dermalert.errors import run_command


def arguments(pictures, base, output_dir, *more: str) -> list[str]:
    plain = {"--dataset": pictures, "--base_model": base, "--output_dir": output_dir, "--epochs": 2}
    words = [word for flag, value in plain.items() if flag not in more for word in (flag, value)]
    # Most of these tests are about something else, and an export takes a second.
    words += [] if "--onnx" in more else ["--onnx", "none"]
    return [str(word) for word in [*words, *more]]


def train(*command) -> dict:
    return train_hf.main(train_hf.parse(arguments(*command)))


def without_speed(folder: Path) -> dict:
    figures = json.loads((folder / "release/evaluation/metrics.json").read_text())
    del figures["training"]["seconds"], figures["training"]["images_per_second"]
    return figures


def command(*parts) -> int:
    return run_command(lambda: train_hf.main(train_hf.parse(arguments(*parts))))
