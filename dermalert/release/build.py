"""A release: what is in its folder, and its card."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import safetensors.torch
import torch
from dermalert_space.contract import FIGURES, METRICS, RELEASE

from dermalert.files import whole
from dermalert.release import card

# What is asked of the figures of a release, wherever it is compared or listed.
_FIGURES = {"schema", "base_model", "data", "splits", "training"}
_HELD_OUT = {"n", "balanced_accuracy", "macro_auroc", "melanoma", "calibration"}


def find(name: str | Path) -> Path:
    """Return the release folder that a run's folder holds, or the folder itself."""
    inside = Path(name) / "release"
    return inside if (inside / "config.json").is_file() else Path(name)


def about(model, *, base_model: str, data: dict, split_seed: int) -> dict:
    """Return what a release's config will say of its making; what its base was trained on is part of that.

    A base model's folder is named by its version or its last part, never by its path.
    """
    base, path = getattr(model.config, "dermalert", {}), Path(base_model)
    if path.exists():
        base_model = base.get("version") or public_name(path)
    return {
        "version": None,  # until it is published
        "base_model": base_model,
        "data": sorted({*base.get("data", []), *data["sources"]}),
        "generated": data["generated"] and base.get("generated", True),
        "split_seed": split_seed,
    }


def public_name(folder: Path) -> str:
    """Return the name of a release's or a model's folder, without where it lies on this machine."""
    return (folder.parent if folder.name == "release" else folder).resolve().name


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


def commit() -> str | None:
    """Return the commit of the code that runs, with `+` where files differ from it; None where it is no checkout."""

    def git(*words: str) -> str:
        found = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        return found.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # an installed copy may lie in another checkout
        return git("rev-parse", "HEAD") + "+" * bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None


@contextlib.contextmanager
def assembled(folder: Path) -> Iterator[Path]:
    """Give a folder to write a release to, which takes its place when all of it is there."""
    staging = folder.with_name(folder.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    with whole(folder, beside=staging):
        yield staging


def read_metrics(folder: Path) -> dict:
    """Return the figures of a release folder."""
    return json.loads((folder / METRICS).read_text())


def find_metrics(folder: Path) -> dict | None:
    """Return the figures of a release folder; None where it holds no release of ours."""
    try:
        figures = read_metrics(folder)
        ours = figures.keys() >= _FIGURES and figures["splits"]["held_out"].keys() >= _HELD_OUT
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):  # somebody else's may be anything
        return None
    return figures if ours else None


def write_card(folder: Path) -> None:
    """Write the card of a release folder, every number of it out of `metrics.json`."""
    pictures = frozenset(path.name for path in (folder / FIGURES).glob("*.png"))
    (folder / "README.md").write_text(card.render_card(read_metrics(folder), pictures))


def files(folder: Path) -> list[str]:
    """Return the files of a folder that belong to a release, by name; pickles, optimizers and notes do not.

    A link that leaves the folder is no file of it: what it points to was never meant to be published.
    """
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if belongs(name) and not leaves(folder / name, folder))


def leaves(path: Path, folder: Path) -> bool:
    """Tell whether a file lies elsewhere than in its folder, or in the Hub's cache in the `blobs` beside that."""
    home, real = folder.resolve(), path.resolve()
    blobs = [home.parent.parent / "blobs"] if home.parent.name == "snapshots" else []
    return not any(real.is_relative_to(each) for each in (home, *blobs))


def belongs(name: str) -> bool:
    """Tell whether a file of this name is part of the release contract."""
    # `fnmatch` lets a star stand for slashes too: what lies in other folders is not ours.
    return any(name.count("/") == pattern.count("/") and fnmatch(name, pattern) for pattern in RELEASE)
