"""Train as `train_hf.py` does, with settings that take a second."""

import contextlib
import functools
import json
from pathlib import Path
from unittest import mock

import train_hf
from dermalert.errors import run_command
from dermalert.evaluation import plots, stress_test
from dermalert.evaluation.intervals import Intervals
from dermalert.imaging import non_lesions


def arguments(pictures, base, output_dir, *more: str) -> list[str]:
    plain = {
        "--dataset_name": pictures,
        "--model_name_or_path": base,
        "--output_dir": output_dir,
        "--num_train_epochs": 1,
    }
    words = [word for flag, value in plain.items() if flag not in more for word in (flag, value)]
    # Most of these tests are about something else, and an export takes a second.
    words += [] if "--onnx" in more else ["--onnx", "none"]
    return [str(word) for word in [*words, *more]]


@contextlib.contextmanager
def quick():
    """Draw no figures, few samples, alter few images, make few pictures of no lesion: few tests read these."""
    few = functools.partial(non_lesions.draw_kind, n=4)
    with (
        mock.patch.object(Intervals.__init__, "__kwdefaults__", {"draws": 50, "seed": 0}),
        mock.patch.object(plots, "draw"),
        mock.patch.object(stress_test, "stress", functools.partial(stress_test.stress, limit=8)),
        mock.patch.object(non_lesions, "draw_kind", few),
        mock.patch.object(non_lesions, "_EACH", 4),
    ):
        yield


def train(*command, whole: bool = False) -> dict:
    """Run the recipe; `whole`: with all that is measured and drawn."""
    with contextlib.nullcontext() if whole else quick():
        return train_hf.main(train_hf.parse(arguments(*command)))


def without_speed(folder: Path) -> dict:
    figures = json.loads((folder / "release/evaluation/metrics.json").read_text())
    del figures["training"]["seconds"], figures["training"]["images_per_second"]
    return figures


def command(*parts) -> int:
    return run_command(lambda: train(*parts))
