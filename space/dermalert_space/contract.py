"""The release contract: file names, keys and tolerances that training and serving share.

A name that both sides need stands here once.
"""

import os
import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final, NamedTuple, TypedDict

NOT_A_DEVICE = "For research and education only. Not a medical device; does not replace a dermatologist."

Json = dict[str, Any]
"""A JSON object as it is published; docs/release.md has the keys."""

RELEASE_FOLDER = "release"
"""In the folder of a run."""

BUNDLED = Path(__file__).parents[1] / "model"
"""The release that is served where none is named."""

CARD = "README.md"
CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
METRICS = "evaluation/metrics.json"
AUDIT = "evaluation/audit.json"
FIGURES = "evaluation/figures"

REFERENCE = "evaluation/parity.safetensors"
"""In a release: `images`, uint8 (n, H, W, 3), and the `probabilities` (n, labels) that it must give of them."""

PROCESSORS = (PROCESSOR, "processor_config.json")
"""Files of a release that say how an image becomes pixels of the model; of the two, transformers prefers the latter."""

TOLERANCE = 1e-3
"""How far a probability may be from the recorded one on another machine; on the same one it is below 1e-5."""

PREDICTIONS = "evaluation/predictions.parquet"
"""A row for each image of a measured split: its id, group, truth, abstention and a probability for each diagnosis."""

EXPOSURE = "evaluation/seen.parquet"
"""A row for each image that the release was developed on, by hashes: what no later release may be measured on."""

ALERT_POINT: Final = "alert"
ATTENTION_POINT: Final = "attention"
"""Keys of `CONFIG` and `METRICS`: the operating points of melanoma, and of all that is malignant or a precursor."""

ABSTENTION: Final = "refusal"
"""Key of `CONFIG` and `METRICS`: from which images a release abstains, and how often."""

ABSTAINED: Final = "refused"
"""Key and column of a prediction: whether, or why, the release abstains from the image."""


class State:
    """The states of an image, the most urgent first."""

    MELANOMA_ALERT: Final = "melanoma_alert"
    MALIGNANT_LIKELY: Final = "malignant_likely"
    CANNOT_ASSESS: Final = "cannot_assess"
    NO_ALERT: Final = "none"
    UNREADABLE: Final = "unreadable"


PREDICTION_SETS = "prediction_sets"
"""Optional key of `CONFIG`: from which probability on each diagnosis is in an image's set, see `PredictionSets`."""

STATISTICS = "refusal.safetensors"
"""In a release: `mean` and `scale` (d,), `basis` (k, d), `variance` (k,) and `noise` (1,) of the training features."""

GRAPH = "onnx/graph.onnx"
"""`logits` (n, labels) and `features` (n, d) of `pixel_values`, for ONNX Runtime; its weights are `WEIGHTS`."""

MODEL = (CONFIG, "model*.safetensors", WEIGHTS_INDEX, PROCESSOR)
"""Patterns of what `pipeline` loads."""

RELEASE = (CARD, *MODEL, STATISTICS, "evaluation/*", f"{FIGURES}/*", "onnx/*.onnx")
"""Patterns of all that belongs to a release: nothing else is uploaded, nor deleted from a repository."""

SERVED = (*MODEL, STATISTICS, GRAPH, REFERENCE, METRICS, PREDICTIONS, EXPOSURE, f"{FIGURES}/*.png")
"""Of these, what the Space reads."""


class Making(TypedDict, total=False):
    """The key `dermalert` of `CONFIG`: what a release says of its making."""

    version: str | None
    """None until it is published."""
    base_model: str
    data: list[str]
    """The sources that it and its base were trained on."""
    generated: bool
    split_seed: int


class HubName(NamedTuple):
    """`USER/REPO` or `USER/REPO@REVISION`; or a folder, which has no revision."""

    repo: str
    revision: str | None = None
    """Tag, branch or commit; None for the Hub's default, `main`."""

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}" if self.revision else self.repo

    @property
    def how_to_cache(self) -> str:
        """What to do where HF_HUB_OFFLINE is set and the cache lacks its files, as a clause."""
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"run 'hf download {self.repo}{revision}' where there is a network"

    @classmethod
    def parse(cls, text: str) -> "HubName":
        """Split the name of a repository from its revision; an empty revision is none."""
        repo, _, revision = text.partition("@")
        return cls(repo, revision or None)


def locate(name: str | Path) -> HubName:
    """The name of a folder that exists, which may have an @ in it, or else the parts of a name of the Hub."""
    return HubName(str(name)) if Path(name).exists() else HubName.parse(str(name))


def is_hub_name(text: str) -> bool:
    """Whether a text is written as `USER/REPO` or `USER/REPO@REVISION`."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?", text) is not None


def find(name: str | Path) -> Path:
    """The release folder that a run's folder holds, or the folder itself."""
    inside = Path(name) / RELEASE_FOLDER
    return inside if (inside / CONFIG).is_file() else Path(name)


def public_name(folder: Path) -> str:
    """The name of a release's or a model's folder, without where it lies on this machine."""
    return (folder.parent if folder.name == RELEASE_FOLDER else folder).resolve().name


def files(folder: Path) -> list[str]:
    """The files of a folder that belong to a release, by name; pickles, optimizers and notes do not.

    A link that leaves the folder is no file of it: what it points to was never meant to be published.
    """
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if belongs(name) and not leaves(folder / name, folder))


def leaves(path: Path, folder: Path) -> bool:
    """Whether a file lies elsewhere than in its folder, or in the Hub's cache in the `blobs` beside that."""
    home, real = (Path(os.path.realpath(each)) for each in (folder, path))
    blobs = [home.parent.parent / "blobs"] if home.parent.name == "snapshots" else []
    return not any(real.is_relative_to(each) for each in (home, *blobs))


def belongs(name: str, patterns: Iterable[str] = RELEASE) -> bool:
    """Whether a file of this name is part of the release contract, or of what else is named by patterns."""
    # `fnmatch` lets a star stand for slashes too: what lies in other folders is not ours.
    return any(name.count("/") == pattern.count("/") and fnmatch(name, pattern) for pattern in patterns)
