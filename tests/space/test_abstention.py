"""What declines an image: the signals, the distance, and what a release with either says."""

import functools
import json
import re
import shutil

import numpy as np
import pytest
import torch
from dermalert_space import abstention
from dermalert_space.contract import STATISTICS
from dermalert_space.release import NoRelease, Release
from PIL import Image, ImageFilter
from safetensors.torch import load_file, save_file
from support.releases import make_release

from dermalert.data import loading, splits
from dermalert.imaging import non_lesions, synthetic_lesions
from dermalert.release import fit_abstention


def lesions(n: int, *, first: int = 0) -> list[Image.Image]:
    return [synthetic_lesions.lesion("nevus", lesion_seed=first + seed) for seed in range(n)]


@pytest.fixture(scope="module")
def sides():
    with pytest.MonkeyPatch.context() as patch:
        few = functools.partial(synthetic_lesions.demo_set, lesions_per_class=20)
        patch.setattr(synthetic_lesions, "demo_set", few)
        return splits.split(loading.load(["demo"]).dataset, seed=0)


@pytest.fixture(scope="module")
def folder(sides, tmp_path_factory):
    """A release that declines, by generated lesions."""
    folder = make_release(tmp_path_factory.mktemp("abstention"), image_size=64)
    fit_abstention.add(folder, Release.load(folder), sides["train"], sides["calibration"])
    return folder


@pytest.fixture(scope="module")
def release(folder):
    return Release.load(folder)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_signals_fall_with_what_they_are_named_after():
    for image in lesions(4):
        found = abstention.signals(image)
        assert abstention.signals(image.point(lambda value: value * 0.3))["light"] < 0.5 * found["light"]
        assert abstention.signals(image.filter(ImageFilter.GaussianBlur(8)))["detail"] < 0.7 * found["detail"]
        assert abstention.signals(Image.new("RGB", image.size, (200, 150, 120)))["contrast"] < 1e-9
        assert abstention.signals(image.crop((0, 0, 50, 90)))["side"] == 50


def test_the_distance_is_the_mahalanobis_distance_of_low_rank_plus_noise():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 40)) * 3 + rng.normal(size=(500, 40)) + 5
    statistics = fit_abstention.statistics_of(features)
    basis, variance = statistics["basis"].double().numpy(), statistics["variance"].double().numpy()
    noise = statistics["noise"].item()
    covariance = basis.T @ np.diag(variance - noise) @ basis + noise * np.eye(40)
    deviations = (features - features.mean(0)) / features.std(0)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", deviations, np.linalg.inv(covariance), deviations) / 40)
    assert abstention.Abstention({}, statistics).distances(features) == pytest.approx(expected, rel=0.01)
    assert np.mean(expected**2) == pytest.approx(1, rel=0.05)


def test_a_channel_that_is_always_the_same_harms_nothing():
    features = np.random.default_rng(0).normal(size=(50, 30))
    features[:, 3] = 2
    assert np.isfinite(abstention.Abstention({}, fit_abstention.statistics_of(features)).distances(features)).all()


@pytest.mark.integration
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda image: image.resize((30, 20)), r"too small \(20 pixels on its short side; this release needs 32\)"),
        (lambda image: image.point(lambda value: value * 0.05), "darker than any"),
        (lambda image: Image.new("RGB", image.size, (220, 170, 150)), "the same all over"),
        (lambda image: image.filter(ImageFilter.GaussianBlur(20)), "is blurred"),
    ],
)
def test_the_reason_is_named_and_the_probabilities_are_given_all_the_same(release, spoil, said):
    image = spoil(max(lesions(6), key=lambda image: abstention.signals(image)["light"]))
    prediction = release.predict(image)
    assert prediction.alert is None
    assert re.search(said, prediction.abstained), prediction.abstained
    assert prediction.sentence == f"Cannot be assessed: {prediction.abstained}"
    assert list(prediction.probabilities.values()) == pytest.approx(
        sorted(release.probabilities([image])[0].tolist(), reverse=True)
    )


@pytest.mark.integration
def test_an_image_beyond_the_distance_is_unlike_those_learnt_from(copy):
    config = json.loads((copy / "config.json").read_text())
    config["refusal"]["thresholds"]["distance"] = 0.1
    (copy / "config.json").write_text(json.dumps(config))
    assert "is unlike the dermoscopy images" in Release.load(copy).predict(lesions(1)[0]).abstained


@pytest.mark.integration
def test_as_many_calibration_images_are_declined_as_the_release_says(release, sides):
    told = release.model.config.refusal
    predictions = [release.predict(image) for image in sides["calibration"]["image"]]
    assert sum(answer.abstained is not None for answer in predictions) == told["refused"]
    assert told["images"] == len(predictions)
    n, beyond = told["images"], told["refused"]
    assert told["false_refusal_rate"] == pytest.approx((beyond + 5) / (n + 1))


@pytest.mark.integration
def test_lesions_like_those_are_judged(release, sides):
    predictions = release.predict_arrays(sides["validation"]["image"][:])
    assert np.mean([reason is not None for reason in predictions.abstained]) < 0.08


def test_thresholds_keep_the_promised_rate_on_images_never_seen():
    """By simulation, of distances alone: the mean over calibration sides is at most what is said."""
    rng, rates = np.random.default_rng(0), []
    for _ in range(300):
        threshold, beyond = fit_abstention.distance_threshold(rng.gamma(3, size=999))
        rates.append(np.mean(rng.gamma(3, size=4000) > threshold))
    assert beyond > 0
    assert np.mean(rates) == pytest.approx((beyond + 1) / 1000, rel=0.1)
    assert np.mean(rates) < fit_abstention.FALSE_ABSTENTIONS


def test_a_release_that_says_nothing_of_it_declines_nothing(tmp_path):
    release = Release.load(make_release(tmp_path / "release"))
    assert release.abstention is None
    assert release.predict(Image.new("RGB", (40, 40))).abstained is None


@pytest.mark.integration
@pytest.mark.parametrize("damage", ["missing", "empty", "another", "misshapen", "no threshold"])
def test_damaged_statistics_are_named(copy, damage):
    path = copy / STATISTICS
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "another":
        save_file({"x": torch.zeros(1)}, path)
    elif damage == "misshapen":
        save_file(load_file(path) | {"mean": torch.zeros(3)}, path)
    else:
        config = json.loads((copy / "config.json").read_text())
        del config["refusal"]["thresholds"]["distance"]
        (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(NoRelease, match=r"cannot read refusal\.safetensors of .*copy"):
        Release.load(copy)


@pytest.mark.integration
def test_statistics_of_another_model_are_named(copy):
    path = copy / STATISTICS
    statistics = load_file(path)
    save_file({name: t[..., :10].contiguous() if t.shape[-1] > 16 else t for name, t in statistics.items()}, path)
    with pytest.raises(NoRelease, match="refusal"):
        Release.load(copy)


@pytest.mark.integration
def test_what_is_unfit_is_declined_and_measured(release, sides, monkeypatch):
    monkeypatch.setattr(non_lesions, "_EACH", 10)
    monkeypatch.setattr(non_lesions, "draw_kind", functools.partial(non_lesions.draw_kind, n=10))
    abstained = np.array(
        [reason is not None for reason in release.predict_arrays(sides["held_out"]["image"][:]).abstained]
    )
    told = fit_abstention.measure(release, sides["held_out"], abstained)
    assert told["held_out"]["all"]["n"] == len(sides["held_out"])
    assert told["held_out"]["all"]["refused"]["value"] == abstained.mean()
    # The model is as it was initialised: it tells a page of text from a lesion by nothing.
    for kind in ("noise", "lesion out of focus", "lesion in the dark"):
        assert told["unfit"][kind]["refused"]["value"] >= 0.9, kind
    assert told["unfit"].keys() == {*non_lesions.GENERATED, *non_lesions.DEGRADED}
