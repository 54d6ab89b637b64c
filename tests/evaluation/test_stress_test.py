import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from dermalert_space.estimate import Estimate
from dermalert_space.release import Release
from PIL import Image
from support.releases import make_release

from dermalert.data import schema
from dermalert.evaluation import stress_test
from dermalert.evaluation.predict import predict
from dermalert.imaging.stress_artefacts import ARTEFACTS
from dermalert.taxonomy import DIAGNOSES

MELANOMA, NEVUS = DIAGNOSES.index("melanoma"), DIAGNOSES.index("nevus")
UNDEFINED = Estimate()
COUNTS = ("n", "groups", "melanomas", "caught", "quiet")


class Darkness(torch.nn.Module):
    """A model that calls melanoma what is darker than 0.75 (of 1, on average), and nevus what is brighter."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.images = 0

    def forward(self, pixel_values):
        self.images += len(pixel_values)
        brightness = pixel_values.mean((1, 2, 3)) / 2 + 0.5
        logits = torch.full((len(pixel_values), len(DIAGNOSES)), -20.0)
        logits[:, NEVUS], logits[:, MELANOMA] = 0, 20 * (0.75 - brightness)
        return SimpleNamespace(logits=logits)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_release(tmp_path_factory.mktemp("release"))


@pytest.fixture
def release(folder):
    """A release that calls melanoma what is dark, and alerts from a probability of one half."""
    release = Release.load(folder)
    release.model, release.threshold = Darkness(), 0.5
    return release


def stress(release, side, **options):
    return stress_test.stress(release, predict(release, side, name="side"), **options)


def plain(brightness):
    return Image.new("RGB", (48, 48), (round(255 * brightness),) * 3)


def a_side(images, labels, *, photos_a_group=1):
    blank = {name: [None] * len(images) for name in schema.FEATURES}
    columns = {
        "image": [{"path": None, "bytes": as_png(image)} for image in images],
        "label": labels,
        "image_id": [f"ISIC_{i:07d}" for i in range(len(images))],
        "group": [f"g{i // photos_a_group}" for i in range(len(images))],
    }
    return Dataset.from_dict(blank | columns, features=schema.FEATURES)


def as_png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def side():
    """Twelve dark melanomas and eighteen bright nevi, two photos a group."""
    brightness = np.r_[np.linspace(0.5, 0.6, 12), np.linspace(0.8, 0.9, 18)]
    return a_side([plain(x) for x in brightness], [MELANOMA] * 12 + [NEVUS] * 18, photos_a_group=2)


def test_less_light_raises_and_more_light_lowers_the_score_of_a_model_that_looks_for_the_dark(release, side):
    figures = stress(release, side)
    assert list(figures) == list(ARTEFACTS)
    darker, brighter = figures["darker"], figures["brighter"]
    assert 0 < darker.score_change.low < darker.score_change.value < darker.score_change.high < 1
    assert darker.score_change_absolute.value == pytest.approx(darker.score_change.value)
    assert (darker.alerts_gained.value, darker.alerts_gained.high) == (1, 1)
    assert darker.alerts_lost.value == 0 < darker.alerts_lost.high < 0.5
    assert darker.prediction_changed.value == 0.6  # all nevi
    assert -1 < brighter.score_change.high < 0
    assert brighter.score_change_absolute.value == pytest.approx(-brighter.score_change.value)
    assert brighter.alerts_gained.value == 0
    assert brighter.alerts_lost.value > 0.3
    assert figures["rotation"].score_change_absolute.value < 0.01
    assert figures["blur"].score_change_absolute.value < 0.01


def test_the_counts_are_of_the_images_that_were_looked_at(release, side):
    for figure in stress(release, side).values():
        assert [getattr(figure, name) for name in COUNTS] == [30, 15, 12, 12, 18]
    assert {figure.n for figure in stress(release, side, limit=7).values()} == {7}


def test_the_order_of_a_side_does_not_change_which_images_are_looked_at(release, side):
    figures = stress(release, side, limit=10)
    shuffled = stress(release, side.shuffle(seed=1), limit=10)
    for name, figure in figures.items():
        for key in COUNTS:
            assert getattr(shuffled[name], key) == getattr(figure, key)
        assert shuffled[name].score_change.value == pytest.approx(figure.score_change.value)


def test_the_pictures_without_artefacts_are_not_predicted_again(release, side):
    predictions = predict(release, side, name="side")
    release.model.images = 0
    stress_test.stress(release, predictions, limit=10)
    assert release.model.images == 10 * len(ARTEFACTS)


def test_without_a_threshold_nothing_is_said_of_alerts(release, side):
    release.threshold = None
    for figure in stress(release, side).values():
        assert figure.alerts_gained == figure.alerts_lost == UNDEFINED
        assert figure.quiet == figure.caught == 0
        assert figure.score_change.value is not None


def test_what_concerns_no_image_is_undefined(release):
    nevi = a_side([plain(0.6), plain(0.62)], [NEVUS, NEVUS])
    for figure in stress(release, nevi).values():
        assert figure.alerts_lost == UNDEFINED  # no melanoma
        assert figure.alerts_gained == UNDEFINED  # both raise the alert already
        assert figure.melanomas == 0


def test_a_model_that_is_not_moved_is_said_not_to_be(folder, side):
    release = Release.load(folder)
    with torch.no_grad():
        release.model.classifier.weight.zero_()  # the same answer to every picture
    for figure in stress(release, side, limit=6).values():
        assert figure.score_change.value == figure.score_change_absolute.value == 0
        assert figure.prediction_changed.value == 0


def test_one_image_gives_values_without_an_interval_of_a_mean(release):
    figure = stress(release, a_side([plain(0.8)], [NEVUS]))["darker"]
    assert figure.score_change.value > 0.1
    assert figure.score_change.low is None
