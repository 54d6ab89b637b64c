"""A release: what is in its folder, and its card."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
from dermalert_space import files
from dermalert_space.contract import CARD, FIGURES, METRICS, Json

from dermalert.release import card

# What is asked of the figures of a release, wherever it is compared or listed.
_FIGURES = {"schema", "base_model", "data", "splits", "training"}
_HELD_OUT = {"n", "balanced_accuracy", "macro_auroc", "melanoma", "calibration"}


def compact(folder: Path) -> None:
    """Store in half precision what loses nothing by it; the config still asks for single precision to compute in.

    A config that asked for half precision would make inference on a CPU several times slower.
    """
    for path in folder.glob("model*.safetensors"):
        tensors = safetensors.torch.load_file(path)
        for name, tensor in tensors.items():
            if tensor.dtype == torch.float32 and torch.equal(tensor.half().float(), tensor):
                tensors[name] = tensor.half()
        safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[Path]:
    """Give a folder to write a release to, which takes its place when all of it is there."""
    staging = folder.with_name(folder.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    with files.atomic_write(folder, partial=staging):
        yield staging


def read_metrics(folder: Path) -> Json:
    """The figures of a release folder."""
    return json.loads((folder / METRICS).read_text())


def find_metrics(folder: Path) -> Json | None:
    """The figures of a release folder; None where it holds no release of ours."""
    try:
        figures = read_metrics(folder)
        ours = figures.keys() >= _FIGURES and figures["splits"]["held_out"].keys() >= _HELD_OUT
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):  # somebody else's may be anything
        return None
    return figures if ours else None


def write_card(folder: Path) -> None:
    """Write the card of a release folder, every number of it out of `metrics.json`."""
    pictures = frozenset(path.name for path in (folder / FIGURES).glob("*"))
    (folder / CARD).write_text(card.render_card(read_metrics(folder), pictures))
