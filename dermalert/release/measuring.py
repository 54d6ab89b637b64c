"""The steps from a trained model to its release: which there are, and about how long they take."""

import time

from datasets import Dataset
from dermalert_space.release import Release

from dermalert.config import Config
from dermalert.data.development import Development, Reported
from dermalert.evaluation import stress_test
from dermalert.formatting import duration
from dermalert.imaging.stress_artefacts import ARTEFACTS
from dermalert.imaging.synthetic_lesions import lesion
from dermalert.progress import Steps
from dermalert.release import fit_abstention, onnx_files

ABSTENTION = "abstention"
OPERATING_POINTS = "operating points"
HELD_OUT = "images held out"
EXTERNAL = "external data"
ARTEFACTS_ADDED = "images with artefacts"
BASELINES = "shortcut baselines"
EXPORT = "export to ONNX"
CARD = "figures and card"

_SAMPLE = 16  # images that are timed
_REST = 1.5  # times the predictions, with intervals, baselines, export and figures: measured on generated lesions


def announce(config: Config, release: Release, data: Development, reported: Reported) -> Steps:
    """Print how many steps there are, and about how long they take; return them."""
    steps = Steps(_images(config, data.splits, reported.external.splits))
    seconds = _REST * sum(steps.totals.values()) * _seconds_an_image(release)
    print(f"Measuring: {len(steps.totals)} steps, about {duration(max(seconds, 60))}.", flush=True)
    return steps


def _images(config: Config, splits: dict[str, Dataset], external: dict[str, Dataset]) -> dict[str, int]:
    """By step, how many images will be predicted."""
    n = {name: len(split) for name, split in splits.items()}
    images = {
        ABSTENTION: min(n["train"], fit_abstention.TRAINING_IMAGES) + n["calibration"],
        OPERATING_POINTS: 0,
        HELD_OUT: n["held_out"] + n["official_test"],
        EXTERNAL: sum(map(len, external.values())),
        ARTEFACTS_ADDED: min(n["held_out"], stress_test.IMAGES) * len(ARTEFACTS),
        BASELINES: 0,
        EXPORT: onnx_files.images(config.onnx, n),
        CARD: 0,
    }
    left_out = [EXTERNAL] * (not external) + [EXPORT] * (config.onnx == "none")
    return {step: number for step, number in images.items() if step not in left_out}


def _seconds_an_image(release: Release) -> float:
    """How long a release takes to predict an image; the first ones, which allocate, are not timed."""
    images = [lesion("nevus", lesion_seed=0, size=512)] * _SAMPLE
    for few in (images[:1], images):
        started = time.perf_counter()
        release.predict_arrays(few)
    return (time.perf_counter() - started) / len(images)
