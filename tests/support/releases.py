"""Make a release folder in a second, without training: a tiny classifier with random weights; and figures for one."""

import copy
import functools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from dermalert_space import files
from dermalert_space.contract import REFERENCE
from dermalert_space.release import Release
from PIL import Image
from transformers import ConvNextConfig, ConvNextForImageClassification, ViTImageProcessorPil

from dermalert.data import contamination
from dermalert.evaluation import evaluate, prediction_sets
from dermalert.evaluation.intervals import Intervals
from dermalert.evaluation.predict import SplitPredictions
from dermalert.evaluation.report import calibration
from dermalert.release import release_folder
from dermalert.taxonomy import CLINICAL_GROUPS, DIAGNOSES

LABELS = list(DIAGNOSES)

ALERT = {
    "label": "melanoma",
    "threshold": 0.1,
    "target_sensitivity": 0.95,
    "confidence": 0.95,
    "lesions": 59,
    "missed": 0,
    "bound_met": True,
}


def make_release(
    folder: Path,
    *,
    melanoma_bias: float = 0.0,
    threshold: float | None = 0.1,
    alert: bool = True,
    generated: bool | None = None,
    groups: bool = False,
    attention: float | None = None,
    image_size: int = 32,
    seed: int = 0,
) -> Path:
    """Save a release into `folder` and return it.

    Args:
        folder: where; made if need be.
        melanoma_bias: added to the logit of melanoma: 20 makes every image a melanoma, -20 none.
        threshold: that of the alert; None for a release that found none.
        alert: False leaves the key `alert` out, as in a model that is no dermalert release.
        generated: what the key `dermalert` says of the training pictures; None leaves that key out.
        groups: whether it says which diagnoses are malignant, a precursor or benign.
        attention: the threshold of what is malignant or a precursor; None for a release made before there was one.
        image_size: side in pixels of what the processor hands to the model.
        seed: of the weights.
    """
    config = ConvNextConfig(
        hidden_sizes=[8, 16],
        depths=[1, 1],
        num_stages=2,
        patch_size=4,
        image_size=image_size,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    if alert:
        config.alert = ALERT | {"threshold": threshold}
    if attention is not None:
        labels = sorted(CLINICAL_GROUPS["malignant"] + CLINICAL_GROUPS["precursor"])
        config.attention = ALERT | {"labels": labels, "threshold": attention}
        del config.attention["label"]
    if groups:
        config.clinical_groups = CLINICAL_GROUPS
    if generated is not None:
        config.dermalert = {"version": "0.1.0", "data": ["demo"], "generated": generated}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ConvNextForImageClassification(config)
        # As it is initialised the model hardly looks at the picture: these make its answers differ.
        torch.nn.init.normal_(model.classifier.weight, std=0.3)
    with torch.no_grad():
        model.classifier.bias[LABELS.index("melanoma")] += melanoma_bias
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": image_size, "width": image_size}).save_pretrained(folder)
    return folder


def make_image(size: tuple[int, int] = (64, 48), *, seed: int = 0) -> Image.Image:
    """A brown blob on skin colour, so soft that JPEG keeps it, and with no two sides alike."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    cx, cy, radius = np.random.default_rng(seed).uniform(0.25, 0.45, 3)
    lesion = np.exp(-(((x - cx) / radius) ** 2 + ((y - cy) / radius / 0.6) ** 2))[..., None]
    pixels = (1 - lesion) * [225, 180, 155] + lesion * [90, 50, 35]
    return Image.fromarray(pixels.round().astype(np.uint8))


def side(truth, probabilities, *, threshold) -> dict:
    """The figures of 80 images, as `evaluate.measure` gives them."""
    n = len(truth)
    columns = {
        "label": truth.tolist(),
        "group": [str(i) for i in range(n)],
        "image_id": [f"ISIC_{i}" for i in range(n)],
    }
    columns |= {"source": ["HAM10000"] * n, "age": [float(i) for i in range(n)], "sex": ["male", "female"] * (n // 2)}
    dataset = Dataset.from_dict(columns | {"site": [None] * n})
    alert = None if threshold is None else probabilities[:, 3] >= threshold
    sets = prediction_sets.fit_arrays(truth, probabilities, np.arange(n), alpha=0.12, split="calibration")
    predictions = SplitPredictions(dataset=dataset, probabilities=probabilities, alert=alert, sets=sets)
    return evaluate.measure(predictions, undone=lambda p: p**2 / (p**2).sum(1, keepdims=True)).report.to_json()


def figures(*, melanomas: bool = True, official_test: bool = True) -> dict:
    """The content of a `metrics.json`."""
    return copy.deepcopy(_figures(melanomas, official_test))


@functools.cache
def _figures(melanomas: bool, official_test: bool) -> dict:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 9, 80) if melanomas else np.full(80, 4)
    probabilities = rng.dirichlet(np.ones(9), 80)
    report = side(truth, probabilities, threshold=0.1 if melanomas else None)
    moved = {"n": 80, "groups": 80, "melanomas": 9, "quiet": 30, "caught": 7 if melanomas else 0}
    change = {"value": -0.02, "low": -0.03, "high": 0.01}
    same = dict.fromkeys(("alerts_changed", "melanomas_lost"), 0 if melanomas else None)
    moved |= {"score_change": change, "score_change_absolute": change}
    moved |= dict.fromkeys(("prediction_changed", "alerts_gained", "alerts_lost"), report["accuracy"])
    held_out = report | {"artefacts": {"ruler": moved, "dark_corners": moved}}
    baseline = {
        "n": 80,
        "balanced_accuracy": report["balanced_accuracy"],
        "melanoma_auroc": report["melanoma"]["auroc"],
        "margin": {"balanced_accuracy": report["accuracy"], "melanoma_auroc": report["melanoma"]["auroc"]},
        "by_source": {
            name: {"melanoma_auroc": report["accuracy"], "margin": report["balanced_accuracy"]}
            for name in report["melanoma"].get("by_source", {})
        },
        "features": "mean colour",
    }
    return {
        "schema": 1,
        "version": "v1.0.0",
        "base_model": "efficientnet-lite0",
        "data": {
            "sources": ["HAM10000"],
            "generated": False,
            "images": 500,
            "different_images": 490,
            "contradictions": 10,
            "groups": 480,
            "fingerprint": "0123456789abcdef",
            "trained_on": ["HAM10000"],
            "external": {"clinic": {"sources": ["clinic"], "images": 80, "fingerprint": "fedcba", "left_out": 3}},
            "base_model_learnt_from": "not known",
            "official_test_known_to_base": 2,
            "shipped": {"images": 520, "different_images": 495, "contradictions": 11},
            "repair": {
                "policy": "archive",
                "relabelled": {"nevus": {"actinic keratosis": 7}},
                "dropped": {"melanoma / nevus": 2},
                "emptied": {"seborrheic keratosis": "no image of seborrheic keratosis is left of 80."},
            },
            "split_seed": 0,
            "sides": {"train": 300, "held_out": 80},
            "classes": {"melanoma": {"train": 300, "held_out": 80}, "seborrheic keratosis": {"official_test": 3}},
        },
        "splits": {"held_out": held_out}
        | ({"official_test": report, "external/clinic": report} if official_test else {}),
        "baselines": {"mean_colour": baseline, "frame_only": baseline},
        "shortcut": {
            "found": True,
            "not_measured": [],
            "balanced_accuracy": ["mean_colour", "frame_only"],
            "melanoma_auroc": [],
        },
        "calibration": {"temperature": 1.5, "bias": [0.0] * 9, "images": 60},
        "alert": {
            "label": "melanoma",
            "threshold": 0.1 if melanomas else None,
            "target_sensitivity": 0.95,
            "confidence": 0.95,
            "lesions": 60 if melanomas else 0,
            "missed": 0,
            "lower_bound": 0.951,
            "bound_met": melanomas,
            "lesions_needed": 59,
        },
        "refusal": {
            "thresholds": {"side": 64.0, "light": 0.3, "contrast": 0.02, "detail": 0.1, "distance": 1.7},
            "images": 60,
            "refused": 0,
            "false_refusal_rate": 0.0123,
            "target_false_refusal_rate": 0.0075,
            "held_out": {"all": {"n": 80, "refused": change}, "a clinic": {"n": 80, "refused": change}},
            "unfit": {"noise": {"n": 40, "refused": change}},
        },
        "onnx": {
            "images": 80,
            "batch_size": 16,
            "graph": same | {"megabytes": 0.176143, "difference": 1.6e-6, "speed": {"single": 3.14, "batch": 3.38}},
            "model": same | {"megabytes": 19.264403, "difference": 2.6e-6, "speed": {"single": 3.24, "batch": 3.48}},
            "quantized": {
                "megabytes": 5.471785,
                "difference": 0.22,
                "alerts_changed": 4 if melanomas else None,
                "melanomas_lost": 1 if melanomas else None,
                "speed": {"single": 2.06, "batch": 2.26},
                "auroc_change": change if melanomas else dict.fromkeys(change),
                "validation_auroc_change": change if melanomas else dict.fromkeys(change),
                "kept": melanomas,
            },
        },
        "training": {
            "images_per_second": 20.0,
            "seconds": 60.0,
            "device": "cpu",
            "epochs": 3.0,
            "best_step": 30,
            "trained_by": "0123abcd",
            "measured_by": "4567cdef+",
            "settings": {"rebalance": False, "augment": "robust"},
        },
    }


IMAGES = 600
"""Held out of a `measured_release`: 67 melanomas among them."""


def measured_release(
    folder: Path,
    *,
    seed: int = 0,
    blind: float = 0.0,
    threshold: float | None = 0.1,
    images: int = IMAGES,
    over_sure: float = 1.0,
    learnt_from: tuple[str, ...] = (),
) -> Path:
    """Save a release with all that a published one holds, whose answers to its held-out images are made up.

    Args:
        folder: where.
        seed: of the weights.
        blind: the share of images of which it knows no more than the mix of diagnoses; the more, the worse it is, and
            as well calibrated.
        threshold: of the alert.
        images: held out, the first of `IMAGES`.
        over_sure: the power to which the odds are raised; above 1 the calibration is off.
        learnt_from: names of what it has learnt from, as `contamination.names` has them before they are hashed.
    """
    make_release(folder, seed=seed, generated=False, threshold=threshold, groups=True)
    truth, probabilities = made_up_answers(blind)
    probabilities = probabilities**over_sure / (probabilities**over_sure).sum(1, keepdims=True)
    truth, probabilities = truth[:images], probabilities[:images].astype(np.float32)
    report = figures()
    groups = np.array([str(i) for i in range(images)])
    report["splits"]["held_out"] |= {"n": images, "groups": images}
    report["splits"]["held_out"]["calibration"] |= calibration(truth, probabilities, Intervals(groups)).to_json()
    evaluate.write_reference(folder / REFERENCE, Release.load(folder))
    files.write_json(folder / "evaluation" / "metrics.json", report | {"version": None})
    columns = {
        "image_id": [f"ISIC_{9000000 + i:07d}" for i in range(images)],
        "source": ["HAM10000"] * images,
        "group": [contamination.hash_name(group) for group in groups],
        "split": ["held_out"] * images,
        "truth": [LABELS[label] for label in truth],
        "refused": [False] * images,
    }
    table = pa.table(columns | {label: probabilities[:, i] for i, label in enumerate(LABELS)})
    pq.write_table(table, folder / "evaluation" / "predictions.parquet")
    contamination.write(
        dict.fromkeys([contamination.hash_name(name) for name in ("a lesion", *learnt_from)], "train"), folder
    )
    release_folder.write_card(folder)
    return folder


@functools.cache
def made_up_answers(blind: float) -> tuple[np.ndarray, np.ndarray]:
    """Truth, and probabilities that it is drawn from: calibrated, whatever share of images nothing is known of."""
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.full(9, 0.15), IMAGES)
    truth = np.array([rng.choice(9, p=row) for row in probabilities])
    return truth, np.where(rng.random((IMAGES, 1)) < blind, 1 / 9, probabilities)
