"""The settings of a training run, one field each; imported without what a training needs, so that --help is quick."""

import dataclasses
import sys
from argparse import RawDescriptionHelpFormatter
from typing import Literal

from transformers import HfArgumentParser

Augmentation = Literal["robust", "plain", "none"]
Export = Literal["all", "serving", "none"]
Sampling = Literal["classes-and-sources", "classes", "natural"]


def _setting(default, help: str):
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: default, metadata={"help": help})
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a run."""

    dataset: list[str] = _setting(
        ["demo"], "'demo' (generated lesions), folders, or data sets of the Hub (USER/NAME[@REVISION])"
    )
    base_model: str = _setting(
        "efficientnet-lite0",
        "efficientnet-lite0|1|2, a folder, a run, or an image classifier of the Hub (USER/REPO[@TAG])",
    )
    weights_from: str | None = _setting(
        None,
        "a release whose weights are taken as they are instead of a training: abstention, operating points and figures "
        "are made anew from its own images, which --dataset names; its settings are taken too",
    )
    output_dir: str = _setting("runs/demo", "folder of the run")
    repair: Literal["archive", "drop-conflicts", "none"] = _setting(
        "archive", "what is done about wrong labels: take the ISIC archive's, drop images under two labels, or nothing"
    )
    image_size: int | None = _setting(None, "side of the input in pixels; by default the base model's own")
    epochs: int = _setting(15, "passes over the training images, at most")
    patience: int = _setting(8, "epochs without a lower calibrated loss on validation after which training stops")
    batch_size: int = _setting(32, "images a step")
    learning_rate: float = _setting(3e-4, "peak of the cosine schedule")
    augment: Augmentation = _setting(
        "robust",
        "'plain' turns, mirrors, scales, shifts and recolours training images; 'robust' more so, and varies what tells "
        "one clinic from another: sharpness, light, frame, dark corners, hair, rulers, JPEG",
    )
    sampling: Sampling = _setting(
        "classes-and-sources",
        "which training images are drawn: rare diagnoses more often, and the sources of one alike; or all alike",
    )
    rebalance: bool = _setting(
        True, "train as if all diagnoses were equally common (balanced softmax); the calibration gives their mix back"
    )
    average: float = _setting(0.999, "decay, a step, of the moving average of the weights that is kept; 0: none")
    half_precision: bool = _setting(
        False, "round the weights to half precision before the calibration, so that the release has half the size"
    )
    onnx: Export = _setting(
        "all",
        "'serving' adds what the release is served by on a CPU; 'all' also the model for Transformers.js and others' "
        "ONNX Runtime, in 8 bits too if that pays; 'none' is for a base model that cannot be exported",
    )
    seed: int = _setting(0, "of the weights, the order of images and the augmentation; never of the split")
    split_seed: int = _setting(0, "of the split; two releases can be compared only if it is the same")
    folds: int = _setting(
        0, "train so many models more, each without one part of the data, and report their answers to it"
    )
    external: list[str] = _setting(
        [], "data sets that are only reported, as NAME=DATASET; images with kin among those learnt from are left out"
    )
    columns: list[str] | None = _setting(
        None,
        "columns that a data set names in its own way, as FIELD=COLUMN such as label=dx, or a .json file that maps "
        "fields to columns; each counts in the data sets that have such a column",
    )
    image_types: list[str] = _setting(
        ["dermoscopic"],
        "kinds of pictures that are taken where a table's image_type tells: dermoscopic, clinical (close-ups and "
        "overviews) or tbp (of total body photography); others are left out with a count",
    )
    streaming: bool = _setting(False, "read data sets of the Hub row by row, without their files on the disk")
    strict: bool = _setting(False, "refuse a data set with a file that is no image, instead of skipping it")
    report_to: Literal["none", "tensorboard", "trackio"] = _setting("none", "where curves are recorded as they grow")
    push_to_hub: str | None = _setting(None, "model repository, as USER/REPO")
    version: str | None = _setting(None, "tag of the release, such as v1.0.0")
    accept_regression: str | None = _setting(
        None, "why a release is published that is worse than the one before; its card says it"
    )
    checkpoints_to: str | None = _setting(
        None,
        "branch that each checkpoint is pushed to, as USER/REPO[@BRANCH], by default run- and the name of the folder; "
        "a repository that is not there is created, private",
    )
    resume_from: str | None = _setting(
        None, "branch to go on from, as for --checkpoints_to, where --output_dir has no checkpoint of its own"
    )


def parse(arguments: list[str] | None = None, *, manual: str | None = None) -> Config:
    """The settings that a command line gives; a bad one ends with argparse's message and exit code 2."""
    parser = HfArgumentParser(
        [Config],  # type: ignore[list-item]  # transformers calls the instance's type a `DataClassType`
        allow_abbrev=False,
        description=manual,
        formatter_class=RawDescriptionHelpFormatter,
    )
    words = sys.argv[1:] if arguments is None else arguments
    for flag in ("--dataset", "--external", "--columns", "--image_types"):
        if words.count(flag) > 1:  # argparse would keep the last alone
            parser.error(f"{flag} stands twice: name all of them after one")
    return Config(**vars(parser.parse_args(arguments)))
