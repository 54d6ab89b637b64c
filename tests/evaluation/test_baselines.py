import hashlib
import io

import numpy as np
import pytest
from datasets import Dataset
from dermalert_space.estimate import Estimate
from PIL import Image

from dermalert.data import schema
from dermalert.evaluation import metrics
from dermalert.evaluation.baselines import baselines, shortcuts
from dermalert.taxonomy import DIAGNOSES

pytestmark = pytest.mark.integration

MELANOMA, NEVUS = DIAGNOSES.index("melanoma"), DIAGNOSES.index("nevus")
UNDEFINED = Estimate()
NAMES = {"mean_colour", "frame_only", "source_only", "sharpness_only", "lesion_hidden"}
RED, BLUE = (190, 110, 110), (110, 110, 190)


def canvas(seed, *, frame=None, centre=None):
    """Noise, 64 pixels a side; a frame of 3 pixels and a square in the centre, of as many pixels, in other colours."""
    pixels = np.full((64, 64, 3), (150, 110, 150))
    if frame:
        pixels[[0, 1, 2, -1, -2, -3]] = pixels[:, [0, 1, 2, -1, -2, -3]] = frame
    if centre:
        pixels[19:46, 19:46] = centre
    return np.uint8(pixels + np.random.default_rng(seed).normal(0, 15, pixels.shape))


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"path": None, "bytes": buffer.getvalue()}


def sides(draw, *, images=120, source=lambda _, rng: rng.choice(["here", "there"]), labels=(MELANOMA, NEVUS)):
    """Two sides of random diagnoses: `draw(seed, label)` gives the pixels, two photos a group."""

    def side(first):
        rng = np.random.default_rng(first)
        truth = rng.choice(labels, images).tolist()
        blank = {name: [None] * images for name in schema.FEATURES}
        files = [png(draw(first + i, label)) for i, label in enumerate(truth)]
        columns = {
            "image": files,
            "content": [hashlib.sha256(file["bytes"]).hexdigest() for file in files],
            "label": truth,
            "source": [source(label, rng) for label in truth],
            "group": [f"{first}-{i // 2}" for i in range(images)],
        }
        return Dataset.from_dict(blank | columns, features=schema.FEATURES)

    return {"train": side(0), "held_out": side(1000)}


def plain(seed, _label):
    return canvas(seed)


def auroc(figures):
    return {name: figure.melanoma_auroc.value for name, figure in figures.items()}


def test_a_label_in_the_frame_is_found_by_what_sees_the_frame():
    def framed(seed, label):  # as much red and as much blue under both labels
        return canvas(seed, frame=RED, centre=BLUE) if label == MELANOMA else canvas(seed, frame=BLUE, centre=RED)

    figures = baselines(sides(framed))
    assert set(figures) == NAMES
    assert auroc(figures)["frame_only"] > 0.99
    assert auroc(figures)["lesion_hidden"] > 0.99
    assert figures["frame_only"].balanced_accuracy.value > 0.99
    assert auroc(figures)["mean_colour"] < 0.7
    assert auroc(figures)["source_only"] < 0.65


def test_a_label_in_the_lesion_is_hidden_from_what_sees_the_surroundings():
    figures = baselines(sides(lambda seed, label: canvas(seed, centre=RED if label == MELANOMA else BLUE)))
    assert auroc(figures)["mean_colour"] > 0.99
    assert max(auroc(figures)["frame_only"], auroc(figures)["lesion_hidden"]) < 0.65


def test_a_label_in_the_sharpness_is_found_by_what_sees_nothing_else():
    def blurred(seed, label):  # grain as strong as before, but of neighbours that resemble each other
        pixels = canvas(seed).astype(float)
        if label == MELANOMA:
            mean = (pixels[:-2] + 2 * pixels[1:-1] + pixels[2:]) / 4
            pixels[1:-1] = mean.mean((0, 1)) + (mean - mean.mean((0, 1))) * 0.375**-0.5
        return np.uint8(pixels.clip(0, 255))

    figures = baselines(sides(blurred))
    assert auroc(figures)["sharpness_only"] > 0.99
    assert max(auroc(figures)[name] for name in ("frame_only", "source_only")) < 0.9


def test_a_label_in_the_source_is_found_by_the_source_alone():
    figures = baselines(sides(plain, source=lambda label, _: "old" if label == MELANOMA else "new"))
    assert auroc(figures)["source_only"] == 1
    assert figures["source_only"].balanced_accuracy.value == 1
    assert max(value for name, value in auroc(figures).items() if name != "source_only") < 0.65


def test_where_nothing_tells_the_label_all_are_near_chance():
    figures = baselines(sides(plain))
    for figure in figures.values():
        assert figure.n == 120
        assert figure.features
        for name in ("melanoma_auroc", "balanced_accuracy"):
            assert getattr(figure, name).low < 0.5 < getattr(figure, name).high


@pytest.mark.parametrize("held_out", ["here", None])  # None: a source that training had not
def test_a_single_source_tells_nothing(held_out):
    both = sides(plain, images=60, source=lambda *_: "here")
    both["held_out"] = sides(plain, images=60, source=lambda *_: held_out)["held_out"]
    figure = baselines(both)["source_only"]
    assert figure.melanoma_auroc.value == figure.balanced_accuracy.value == 0.5


def test_of_one_diagnosis_nothing_is_defined():
    for figure in baselines(sides(plain, images=6, labels=(NEVUS,))).values():
        assert (figure.n, figure.melanoma_auroc, figure.balanced_accuracy) == (6, UNDEFINED, UNDEFINED)


def test_without_melanomas_on_either_side_there_is_no_auroc():
    both, nevi = sides(plain, images=20), sides(plain, images=20, labels=(NEVUS,))
    others = sides(plain, images=20, labels=(NEVUS, 0))
    for untold in (both | {"held_out": nevi["held_out"]}, both | {"train": others["train"]}):
        for figure in baselines(untold).values():
            assert figure.melanoma_auroc == UNDEFINED
            assert figure.balanced_accuracy.value is not None


def test_an_empty_side_leaves_all_undefined():
    both = sides(plain, images=6)
    for empty in both:
        figures = baselines(both | {empty: both[empty].select([])})
        assert all(f.melanoma_auroc == f.balanced_accuracy == UNDEFINED for f in figures.values())


def test_the_figures_are_the_same_every_time():
    both = sides(plain, images=40)
    assert baselines(both) == baselines(both)


def answers(dataset, right):
    """The probabilities of a model that is right where `right` (n,) says so, and at random elsewhere."""
    truth = np.array(dataset["label"])
    return 0.05 + 0.55 * np.eye(9)[np.where(right, truth, np.random.default_rng(0).permutation(truth))]


def test_a_model_that_reads_no_more_than_the_frame_is_called_a_shortcut():
    both = sides(lambda seed, label: canvas(seed, frame=RED if label == MELANOMA else BLUE))
    figures = baselines(both, answers(both["held_out"], np.ones(120, bool)))
    verdict = shortcuts(figures)
    assert verdict.found
    assert {"frame_only", "lesion_hidden"} <= set(verdict.melanoma_auroc)
    assert "source_only" not in verdict.melanoma_auroc


def test_a_model_that_reads_the_lesion_is_not_called_a_shortcut():
    both = sides(lambda seed, label: canvas(seed, centre=RED if label == MELANOMA else BLUE))
    both |= {"held_out": sides(plain)["held_out"]}  # whose lesions the mean colour cannot tell
    figures = baselines(both, answers(both["held_out"], np.ones(120, bool)))
    assert not shortcuts(figures).found
    for figure in figures.values():
        for name in ("balanced_accuracy", "melanoma_auroc"):
            assert 0 < getattr(figure.margin, name).low <= getattr(figure.margin, name).value


def test_a_margin_is_the_difference_of_the_two_figures():
    both = sides(plain)
    right = np.random.default_rng(1).random(120) < 0.5
    probabilities = answers(both["held_out"], right)
    truth = np.array(both["held_out"]["label"])
    for figure in baselines(both, probabilities).values():
        mine = metrics.balanced_accuracy(truth, probabilities.argmax(1), np.ones(120))
        assert figure.margin.balanced_accuracy.value == mine - figure.balanced_accuracy.value


def test_an_undefined_margin_accuses_nobody():
    both = sides(plain, images=6, labels=(NEVUS,))
    verdict = shortcuts(baselines(both, answers(both["held_out"], np.ones(6, bool))))
    assert verdict.not_measured == ["balanced_accuracy", "melanoma_auroc"]
    assert not verdict.found and verdict.balanced_accuracy == verdict.melanoma_auroc == []
