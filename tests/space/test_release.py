import dataclasses
import io
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from dermalert_space import tables
from dermalert_space.images import MAX_PIXELS, UnreadableImage, read_image
from dermalert_space.page import markup
from dermalert_space.prediction import Prediction, threshold_share
from dermalert_space.release import NoRelease, Predictions, Release
from PIL import Image
from support import hostile
from support.releases import LABELS, make_image, make_release
from transformers import pipeline

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def release(folder) -> Release:
    return Release.load(folder)


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


# Reading


def test_a_plain_picture_is_read_as_it_is(tmp_path):
    make_image().save(tmp_path / "plain.png")
    expected = pixels(make_image())
    path = tmp_path / "plain.png"
    for source in (path, str(path), path.read_bytes(), make_image()):
        np.testing.assert_array_equal(pixels(read_image(source)), expected)


# How a camera stores the upright picture for each value of the EXIF orientation.
STORED = {
    1: None,
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_90",
    7: "TRANSVERSE",
    8: "ROTATE_270",
}


@pytest.mark.parametrize(("orientation", "turn"), STORED.items())
def test_a_picture_is_turned_upright(tmp_path, orientation, turn):
    stored = make_image().transpose(Image.Transpose[turn]) if turn else make_image()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(pixels(read_image(tmp_path / "turned.png")), pixels(make_image()))


def test_cmyk_keeps_its_colours(tmp_path):
    make_image().convert("CMYK").save(tmp_path / "print.jpg", quality=98, subsampling=0)
    assert np.abs(pixels(read_image(tmp_path / "print.jpg")) - pixels(make_image())).max() < 8


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_to_8_bits(tmp_path, suffix):
    values = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"grey.{suffix}")
    expected = (values / 257).round().astype(int)
    np.testing.assert_array_equal(pixels(read_image(tmp_path / f"grey.{suffix}")), np.stack([expected] * 3, axis=-1))


def test_8_bit_grey_becomes_three_equal_channels(tmp_path):
    make_image().convert("L").save(tmp_path / "grey.png")
    read = pixels(read_image(tmp_path / "grey.png"))
    np.testing.assert_array_equal(read, np.stack([np.asarray(make_image().convert("L"))] * 3, axis=-1))


def test_transparent_parts_lie_on_white(tmp_path):
    image = make_image().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 32, 48))
    image.save(tmp_path / "alpha.png")
    read = pixels(read_image(tmp_path / "alpha.png"))
    assert (read[:, :32] == 255).all()
    np.testing.assert_array_equal(read[:, 32:], pixels(make_image())[:, 32:])


def test_the_transparent_colour_of_a_palette_becomes_white(tmp_path):
    image = make_image().quantize(16)
    transparent = image.getpixel((0, 0))
    image.save(tmp_path / "palette.png", transparency=transparent)
    read, index = pixels(read_image(tmp_path / "palette.png")), np.asarray(image)
    assert (read[index == transparent] == 255).all()
    np.testing.assert_array_equal(read[index != transparent], pixels(image.convert("RGB"))[index != transparent])


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(UnreadableImage, match=r"nowhere\.png. does not exist"):
        read_image(tmp_path / "nowhere.png")


def test_too_many_pixels_are_refused_before_they_are_unpacked():
    side = int(MAX_PIXELS**0.5)
    with pytest.raises(UnreadableImage, match=f"{side + 1} x {side} pixels; shrink it below 64,000,000"):
        read_image(hostile.png(side + 1, side, pixels=b""))
    with pytest.raises(UnreadableImage, match="far too many pixels; shrink it"):  # Pillow's own limit comes first
        read_image(hostile.png(60_000, 60_000, pixels=b""))
    with pytest.raises(UnreadableImage, match=r"1 x 65536 pixels; .* its sides below 65,536"):
        read_image(hostile.png(1, 65_536, pixels=b""))


def test_no_program_is_started_for_a_drawing(tmp_path, monkeypatch):
    (tmp_path / "gs").write_text(f"#!/bin/sh\n: > {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # not looked for yet
    content = hostile.saved(make_image(), "EPS")
    with pytest.raises(UnreadableImage):
        read_image(content)
    assert not (tmp_path / "started").exists()
    with pytest.raises(OSError):
        Image.open(io.BytesIO(content)).load()
    assert (tmp_path / "started").exists(), "the test would not see it"


SCANS = hostile.honest(random.Random(0), "JPEG", size=(64, 64), progressive=True)
OVERLONG = {
    "scans": hostile.scans(SCANS, 101),
    "segments": SCANS[:2] + b"\xff\xfe\0\2" * 3000 + SCANS[2:],
    "chunks": hostile.png(8, 8, hostile.chunk(b"abCd", b"") * 30_001),
    "strips": hostile.tiff(8, 8, strips=70_000, data=bytes(100)),
    "runs": hostile.KINDS["bmp of short runs"](random.Random(0)) + bytes(5_000_000),
}


@pytest.mark.parametrize("parts", OVERLONG)
def test_a_picture_of_too_many_parts_is_refused_before_it_is_opened(monkeypatch, parts):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(UnreadableImage, match="made of far more parts than pictures are: save it anew"):
        read_image(OVERLONG[parts])


def test_pictures_of_many_parts_are_read():
    profile = hostile.saved(make_image(), "JPEG", icc_profile=bytes(3_000_000), progressive=True)
    rows = hostile.saved(Image.new("L", (200, 5000)), "TIFF", strip_size=200)
    tiles = hostile.saved(Image.new("L", (640, 640)), "TIFF", compression="tiff_lzw", big_tiff=True)
    chunks = hostile.png(8, 8, hostile.chunk(b"abCd", b"") * 6000)
    behind = hostile.saved(make_image(), "JPEG") + b"\xff\xda\0\2" * 3000  # as the film of a phone's photo
    for content in (SCANS, hostile.scans(SCANS, 50), profile, rows, tiles, chunks, behind):
        assert read_image(content).mode == "RGB"


def test_turning_a_picture_leaves_the_given_one_as_it_was():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    given = Image.open(io.BytesIO(hostile.saved(make_image(), "PNG", exif=exif)))
    assert read_image(given).size == (48, 64)
    assert given.size == (64, 48) and given.getexif()[ORIENTATION] == 6


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_each_16_bit_grey_goes_to_the_nearest_of_8(dtype):
    values = np.arange(65536, dtype=dtype).reshape(256, 256)
    read = pixels(read_image(Image.fromarray(values)))[..., 0]
    np.testing.assert_array_equal(read, (values / 257).round())


# Predicting


@pytest.mark.parametrize("seed", range(3))
def test_the_probabilities_are_those_of_a_bare_pipeline(folder, release, tmp_path, seed):
    make_image((90, 70), seed=seed).save(tmp_path / "lesion.png")
    plain = pipeline("image-classification", model=str(folder))(str(tmp_path / "lesion.png"), top_k=9)
    probabilities = release.predict(tmp_path / "lesion.png").probabilities
    assert list(probabilities) == [row["label"] for row in plain]  # the largest first
    assert list(probabilities.values()) == pytest.approx([row["score"] for row in plain], abs=1e-6)
    assert sorted(probabilities) == sorted(LABELS)
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_an_image_is_judged_alike_alone_and_in_a_batch(release):
    images = [make_image((90, 70 + seed), seed=seed) for seed in range(5)]
    together = release.probabilities(images, batch_size=2)
    assert together.shape == (5, 9)
    for image, row in zip(images, together, strict=True):
        np.testing.assert_allclose(release.probabilities([image])[0], row, atol=1e-6)
    assert release.probabilities([]).shape == (0, 9)


def test_the_alert_begins_at_the_threshold(folder):
    release = Release.load(folder)
    probability = release.predict(make_image()).probabilities["melanoma"]
    for threshold, alert in ((probability - 1e-7, True), (probability, True), (probability + 1e-7, False)):
        release.threshold = threshold
        prediction = release.predict(make_image())
        assert prediction.alert is alert
        word = "Melanoma alert: " if alert else "No melanoma alert: "
        assert prediction.sentence.startswith(f"{word}the probability of melanoma is ")


def test_without_a_threshold_nothing_is_judged(tmp_path):
    prediction = Release.load(make_release(tmp_path, threshold=None)).predict(make_image())
    assert prediction.alert is None
    assert prediction.sentence.startswith("Cannot be assessed: this release has no alert threshold")
    assert len(prediction.probabilities) == 9


def test_a_melanoma_bias_turns_the_alert(tmp_path):
    for bias, alert in ((20, True), (-20, False)):
        release = Release.load(make_release(tmp_path / str(bias), melanoma_bias=bias))
        assert release.predict(make_image()).alert is alert


# Loading


@pytest.mark.usefixtures("hub")
def test_a_missing_release_is_named(tmp_path):
    with pytest.raises(NoRelease, match=r"cannot load the release .*nowhere"):
        Release.load(tmp_path / "nowhere")
    with pytest.raises(NoRelease, match=r"cannot load the release tester/none@v9"):
        Release.load("tester/none@v9")


def test_a_model_without_a_usable_alert_is_no_release(tmp_path):
    plain = make_release(tmp_path / "plain", alert=False)
    with pytest.raises(NoRelease, match=r"no dermalert release: its config\.json has no usable 'alert'.*train_hf\.py"):
        Release.load(plain)
    foreign = make_release(tmp_path / "foreign")
    config = json.loads((foreign / "config.json").read_text())
    for alert in ({"label": "melanoma"}, {"threshold": 0.1}, {"label": "a cat", "threshold": 0.1}, "yes"):
        (foreign / "config.json").write_text(json.dumps(config | {"alert": alert}))
        with pytest.raises(NoRelease, match="no usable 'alert'"):
            Release.load(foreign)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_damaged_release_is_named(tmp_path, name):
    path = make_release(tmp_path / "damaged") / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(NoRelease, match=r"cannot load the release .*damaged"):
        Release.load(tmp_path / "damaged")


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = make_release(tmp_path / "other") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_sizes": [8, 24]}))
    with pytest.raises(NoRelease, match=r"cannot load the release .*other"):
        Release.load(tmp_path / "other")


def with_config(folder: Path, **changed) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    return folder


@pytest.mark.parametrize("threshold", [0, -1, 1.5, float("nan"), "0.1", [0.1]])
def test_a_threshold_that_is_none_is_named(tmp_path, threshold):
    folder = with_config(make_release(tmp_path / "odd"), alert={"label": "melanoma", "threshold": threshold})
    with pytest.raises(
        NoRelease, match=r"odd cannot be served: the threshold of its alert is .*, and no number above 0"
    ):
        Release.load(folder)


def test_clinical_groups_that_leave_a_diagnosis_out_are_named(tmp_path):
    folder = make_release(tmp_path / "odd", groups=True)
    groups = json.loads((folder / "config.json").read_text())["clinical_groups"]
    with_config(folder, clinical_groups=groups | {"malignant": ["melanoma"]})
    with pytest.raises(NoRelease, match="'clinical_groups' do not hold each of its diagnoses once"):
        Release.load(folder)


def test_an_answer_that_is_no_number_is_no_answer(tmp_path):
    release = Release.load(make_release(tmp_path / "release"))
    with torch.no_grad():
        release.model.classifier.bias.fill_(float("nan"))
    prediction = release.predict(Image.new("RGB", (40, 40)))
    assert prediction.alert is None
    assert prediction.sentence.startswith("Cannot be assessed: what this release answers is not a number")


@pytest.mark.parametrize(
    ("probability", "said"),
    [
        (0.0397, "No melanoma alert: the probability of melanoma is 3.97%; alert threshold 4.00%."),
        (0.0003, "No melanoma alert: the probability of melanoma is <0.1%; alert threshold 4.0%."),
        (0.99996, "Melanoma alert: the probability of melanoma is >99.9%; alert threshold 4.0%."),
        (0.5, "Melanoma alert: the probability of melanoma is 50.0%; alert threshold 4.0%."),
    ],
)
def test_the_sentence_never_contradicts_itself(tmp_path, probability, said):
    release = Release.load(make_release(tmp_path / "release", threshold=0.039978))
    state = "melanoma_alert" if probability >= release.threshold else "none"
    assert release._sentence(state, {"melanoma": probability}, None) == said


@pytest.mark.parametrize(
    ("threshold", "said"),
    [
        (0.0274997, "2.75%"),
        (0.0441273, "4.41%"),
        (0.1, "10.0%"),
        (0.039978, "4.0%"),
        (0.00051234, "0.0512%"),
        (0.3333, "33.3%"),
        (2e-7, "0.00002%"),
        (1, "100.0%"),
    ],
)
def test_a_threshold_is_written_alike_wherever_it_stands(threshold, said, tmp_path):
    release = Release.load(make_release(tmp_path / "release", threshold=threshold))
    assert f" alerts from {said}" in tables.as_text([], release)
    assert release._sentence("melanoma_alert", {"melanoma": 1.0}, None).endswith(f"alert threshold {said}.")
    assert threshold_share(threshold) == said


# The states


ATTENTION = ["actinic keratosis", "basal cell carcinoma", "melanoma", "squamous cell carcinoma"]


@pytest.fixture(scope="module")
def with_both_points(tmp_path_factory) -> Release:
    return Release.load(make_release(tmp_path_factory.mktemp("both"), threshold=0.04, attention=0.05, groups=True))


def predicted_as(release: Release, monkeypatch, *, abstained: str | None = None, **shares: float) -> Prediction:
    """What a release says where its model gives these shares, and the rest to nevus."""
    row = np.zeros(9, np.float32)
    for name, value in shares.items():
        row[LABELS.index(name.replace("_", " "))] = value
    row[LABELS.index("nevus")] = 1 - row.sum()
    predictions = Predictions(probabilities=row[None], abstained=[abstained])
    monkeypatch.setattr(release, "predict_arrays", lambda _: predictions)
    return release.predict(make_image())


@pytest.mark.parametrize(
    ("shares", "state", "begins"),
    [
        ({"melanoma": 0.3}, "melanoma_alert", "Melanoma alert: the probability of melanoma is 30.0%"),
        (
            {"melanoma": 0.05, "basal_cell_carcinoma": 0.9},
            "melanoma_alert",
            "Melanoma alert: the probability of melanoma is 5.0%",
        ),
        (
            {"melanoma": 0.01, "basal_cell_carcinoma": 0.86},
            "malignant_likely",
            "Needs attention: no melanoma alert, but a carcinoma or precursor is likely: 87.0% together with melanoma "
            "(attention threshold 5.0%).",
        ),
        (
            {"actinic_keratosis": 0.03, "squamous_cell_carcinoma": 0.03},
            "malignant_likely",
            "Needs attention: no melanoma alert, but a carcinoma or precursor is possible: 6.0% together with",
        ),
        ({"melanoma": 0.03, "basal_cell_carcinoma": 0.019}, "none", "No melanoma alert: "),
        ({"vascular_lesion": 0.99}, "none", "No melanoma alert: "),
    ],
)
def test_the_state_follows_from_the_two_thresholds(with_both_points, monkeypatch, shares, state, begins):
    prediction = predicted_as(with_both_points, monkeypatch, **shares)
    assert prediction.state == state
    assert prediction.sentence.startswith(begins)
    assert prediction.alert is (state == "melanoma_alert")
    summed = sum(prediction.probabilities[name] for name in ATTENTION)
    assert prediction.attention == pytest.approx(summed, abs=1e-12)
    assert prediction.urgency == max(prediction.probabilities["melanoma"] / 0.04, prediction.attention / 0.05)


def test_what_is_declined_cannot_be_assessed_however_malignant_it_looks(with_both_points, monkeypatch):
    prediction = predicted_as(with_both_points, monkeypatch, abstained="it is too dark.", melanoma=0.9)
    assert (prediction.state, prediction.alert) == ("cannot_assess", None)
    assert prediction.sentence == "Cannot be assessed: it is too dark."


def test_attention_begins_at_its_threshold(tmp_path):
    release = Release.load(make_release(tmp_path, threshold=1.0, attention=0.5))
    summed = release.predict(make_image()).attention
    for threshold, state in ((summed * (1 + 1e-12), "none"), (summed, "malignant_likely"), (0.001, "malignant_likely")):
        release.attention = dataclasses.replace(release.attention, threshold=threshold)
        assert release.predict(make_image()).state == state


def test_a_release_made_before_there_was_attention_is_served_as_before(tmp_path, monkeypatch):
    release = Release.load(make_release(tmp_path, threshold=0.04, groups=True))
    assert release.attention is None
    prediction = predicted_as(release, monkeypatch, basal_cell_carcinoma=0.9)
    assert (prediction.state, prediction.attention) == ("none", None)
    assert prediction.malignant == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("shares", "abstained", "state", "begins"),
    [
        (
            {"basal_cell_carcinoma": 0.9},
            None,
            "malignant_likely",
            "Needs attention: melanoma, a carcinoma or precursor is likely: 90.0% together (attention threshold 5.0%). "
            "This release has no alert threshold.",
        ),
        ({"melanoma": 0.9}, None, "malignant_likely", "Needs attention: melanoma, a carcinoma or precursor is likely"),
        ({"actinic_keratosis": 0.06}, None, "malignant_likely", "Needs attention: melanoma, a carcinoma or precursor"),
        ({"nevus": 0.97}, None, "cannot_assess", "Cannot be assessed: this release has no alert threshold; the"),
        ({"melanoma": 0.9}, "it is too dark.", "cannot_assess", "Cannot be assessed: it is too dark."),
    ],
)
def test_without_a_threshold_of_the_alert_attention_alone_decides(
    tmp_path, monkeypatch, shares, abstained, state, begins
):
    release = Release.load(make_release(tmp_path, threshold=None, attention=0.05, groups=True))
    prediction = predicted_as(release, monkeypatch, abstained=abstained, **shares)
    assert (prediction.state, prediction.alert) == (state, None)
    assert prediction.sentence.startswith(begins)
    assert prediction.urgency == prediction.attention / 0.05
    shown = markup.answer(release, prediction)
    assert f'data-state="{state}"' in shown and "no melanoma alert" not in shown.lower()


def test_without_either_threshold_nothing_can_be_assessed(tmp_path, monkeypatch):
    release = Release.load(make_release(tmp_path, threshold=None, attention=0.05))
    release.attention = dataclasses.replace(release.attention, threshold=None)
    prediction = predicted_as(release, monkeypatch, basal_cell_carcinoma=0.9)
    assert (prediction.state, prediction.urgency) == ("cannot_assess", None)


def test_names_that_only_label2id_has_are_none_of_a_release(tmp_path):
    folder = with_config(make_release(tmp_path / "odd", attention=0.1), label2id={"wart": 0, "melanoma": 1})
    assert Release.load(folder).predict(make_image()).attention is not None
    folder = with_config(folder, attention={"labels": ["wart"], "threshold": 0.1})
    with pytest.raises(NoRelease, match=r"its 'attention' names \['wart'\], which are not different diagnoses"):
        Release.load(folder)


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ("yes", "its 'attention' does not name diagnoses and a threshold"),
        ([], "its 'attention' does not name diagnoses and a threshold"),
        ({"labels": ["melanoma"]}, "its 'attention' does not name diagnoses and a threshold"),
        ({"labels": [], "threshold": 0.1}, "its 'attention' does not name diagnoses and a threshold"),
        ({"labels": "melanoma", "threshold": 0.1}, "its 'attention' does not name diagnoses and a threshold"),
        ({"labels": ["wart"], "threshold": 0.1}, "its 'attention' names ['wart'], which are not different diagnoses"),
        ({"labels": [["melanoma"]], "threshold": 0.1}, "which are not different diagnoses of its own."),
        ({"labels": ["melanoma"] * 2, "threshold": 0.1}, "which are not different diagnoses of its own."),
        ({"labels": ["melanoma"], "threshold": 0}, "the threshold of its attention is 0, and no number above 0"),
        ({"labels": ["melanoma"], "threshold": float("nan")}, "the threshold of its attention is nan"),
        ({"labels": ["melanoma"], "threshold": True}, "the threshold of its attention is True"),
        ({"labels": ["melanoma"], "threshold": "0.1"}, "the threshold of its attention is '0.1'"),
    ],
)
def test_a_damaged_point_of_attention_is_named(tmp_path, point, said):
    folder = with_config(make_release(tmp_path / "odd"), attention=point)
    with pytest.raises(NoRelease, match=f"odd cannot be served: .*{re.escape(said)}"):
        Release.load(folder)


@pytest.mark.parametrize("name", ["mela\x1b[31mnoma", "nevus\u202e", "nev\nus", "nev\u200bus"])
def test_a_diagnosis_that_cannot_be_shown_is_named(tmp_path, name):
    labels = dict(enumerate(LABELS)) | {4: name}
    folder = with_config(
        make_release(tmp_path / "odd"), id2label=labels, label2id={label: i for i, label in labels.items()}
    )
    with pytest.raises(NoRelease, match=r"the name of a diagnosis, .*, holds characters that cannot be shown"):
        Release.load(folder)


def test_an_image_too_narrow_for_a_lesion_is_refused_before_it_grows():
    with pytest.raises(UnreadableImage, match=r"3000 x 2 pixels: too narrow to show a lesion"):
        read_image(Image.new("RGB", (3000, 2)))


@pytest.mark.parametrize("content", ["{}", "[]", '{"splits": {}}', '{"splits": {"held_out": {"melanoma": {}}}}'])
def test_figures_of_another_kind_are_named(tmp_path, content):
    folder = make_release(tmp_path / "release")
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "metrics.json").write_text(content)
    with pytest.raises(NoRelease, match=r"cannot read evaluation/metrics\.json of .*release: .* of another kind"):
        Release.load(folder).metrics()
