"""A release whose weights are taken as they are: abstention, operating points and figures of it are made anew.

So a release that was made before something is asked of releases can be given it, without training.
"""

import dataclasses
import shutil
from collections import Counter
from pathlib import Path
from typing import cast

import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset
from dermalert_space import contract
from dermalert_space.contract import FIGURES, PREDICTIONS
from transformers import TrainerState

from dermalert.config import Config, default, from_published
from dermalert.errors import UsageError, first_few
from dermalert.release import release_folder
from dermalert.training import distributed
from dermalert.training.calibration import Calibration
from dermalert.training.run import Trained, load_model
from dermalert.training.run_folder import Speed

_CURVES = f"{FIGURES}/learning_curves.png"  # of the training, which nothing else in a release can draw


def settings(config: Config) -> Config:
    """The settings, with those of the release that `weights_from` names in the place of the recipe's.

    Raises:
        UsageError: it is no release with figures, or settings are given that it decides.
    """
    figures = release_folder.find_metrics(_source(config))
    if figures is None:
        raise UsageError(f"--weights_from '{config.weights_from}' is no dermalert release: name a release's folder.")
    own = {"lora": False, "tune": 0} | from_published(figures["training"]["settings"], processes=distributed.count())
    given = [f"--{name}" for name, value in own.items() if getattr(config, name) not in (value, default(name))]
    if given:
        raise UsageError(f"--weights_from takes the settings of the release: leave out {first_few(given)}.")
    if own.get("folds"):
        raise UsageError("--weights_from cannot make a release with --folds anew: their models are not part of it.")
    return dataclasses.replace(config, **own)


def _source(config: Config) -> Path:
    assert config.weights_from is not None  # nothing here is asked without it
    return contract.find(config.weights_from)


def reuse(config: Config) -> Trained | None:
    """The weights of a release as they are, calibrated, with its record of the training."""
    if not distributed.is_main():
        return None
    figures = release_folder.read_metrics(_source(config))
    model, processor = load_model(config)
    model.config.dermalert["version"] = None  # until it is published anew
    model.config.alert |= {"threshold": None}
    model.config.refusal = model.config.attention = None
    of = figures["training"]
    return Trained(
        model=model,
        processor=processor,
        calibration=Calibration(**figures["calibration"]),
        state=TrainerState(epoch=of["epochs"], best_global_step=of["best_step"]),
        speed=cast(Speed, {name: of[name] for name in of if name not in ("epochs", "best_step", "folds", "settings")}),
    )


def check_images(name: str, splits: dict[str, Dataset]) -> None:
    """Refuse images other than those that the release was made of: its figures would be of something else.

    Raises:
        UsageError: other images are held out, or the splits have other sizes.
    """
    folder = contract.find(name)
    recorded = pq.read_table(folder / PREDICTIONS, columns=["image_id", "split"])
    held_out = recorded.filter(pc.equal(recorded["split"], "held_out"))["image_id"].to_pylist()
    sizes = release_folder.read_metrics(folder)["data"]["sides"]
    if Counter(held_out) != Counter(splits["held_out"]["image_id"]) or any(
        len(splits[split]) != n for split, n in sizes.items()
    ):
        raise UsageError(
            f"the data sets are not those that '{name}' was made of (it has {sizes['held_out']} images held out, these "
            f"give {len(splits['held_out'])}): name the same in the same order, and the same --model_name_or_path."
        )


def copy_learning_curves(name: str, folder: Path) -> None:
    """Copy the picture of the training to the release that is made anew, where there is one."""
    picture = contract.find(name) / _CURVES
    if picture.is_file():
        shutil.copyfile(picture, folder / _CURVES)
