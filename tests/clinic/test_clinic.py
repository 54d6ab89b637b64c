"""`dermalert clinic`: what a clinic is told, and what it is told about bad input."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from support.pictures import class_folders, picture, write_table
from support.releases import make_release
from typer.testing import CliRunner

from dermalert.cli import app
from dermalert.taxonomy import DIAGNOSES

pytestmark = pytest.mark.integration


def clinic(*words, output):
    return CliRunner().invoke(app, ["clinic", *map(str, words), "--output", str(output)])


def report_of(*words, tmp_path):
    done = clinic(*words, output=tmp_path / "report")
    assert done.exit_code == 0, done.output
    return json.loads((tmp_path / "report" / "report.json").read_text()), (
        tmp_path / "report" / "report.html"
    ).read_text(encoding="utf-8")


def flat_folder(root, n=12):
    """Pictures in one folder, and rows of labels for them: the first third are melanomas, two photos a lesion."""
    root.mkdir()
    rows = []
    for i in range(n):
        picture(i, tint=i % 9).save(root / f"case {i}.png")
        label = "Melanoma" if i < n // 3 else "Benign" if i % 2 else "nevus"
        rows.append({"file": f"case {i}.png", "diagnosis": label, "lesion_id": f"L{i // 2}"})
    return rows


@pytest.fixture(scope="module")
def alerting(tmp_path_factory):
    """A release that alerts to every image."""
    return make_release(tmp_path_factory.mktemp("release") / "alerting", melanoma_bias=20)


def test_labels_show_the_promise_by_lesion(alerting, tmp_path):
    rows = flat_folder(tmp_path / "images")
    write_table(tmp_path / "labels.csv", rows)
    report, page = report_of(alerting, tmp_path / "images", "--labels", tmp_path / "labels.csv", tmp_path=tmp_path)
    verdict = report["with_labels"]["verdict"]
    assert (verdict["outcome"], verdict["n"], verdict["missed"]) == ("cannot be told", 2, 0)
    assert report["with_labels"]["images"] == 12  # those that are only called benign too
    assert report["with_labels"]["lesions"] == 6
    assert "59 without a miss, or 93 with one, would show 0.95" in page
    assert report["with_labels"]["figures"]["melanoma"]["specificity_as_served"]["value"] == 0


def test_without_labels_it_cannot_be_told(alerting, tmp_path):
    flat_folder(tmp_path / "images")
    report, page = report_of(alerting, tmp_path / "images", tmp_path=tmp_path)
    assert report["verdict"]["outcome"] == "cannot be told"
    assert report["with_labels"] is None
    assert report["without_labels"]["alert_rate"]["here"]["value"] == 1
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


@pytest.mark.parametrize(
    ("classes", "positive"),
    [(("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"), "melanoma"), (("benign", "malignant"), "malignant")],
)
def test_a_foreign_model_is_asked_the_same(classes, positive, tmp_path):
    from transformers import ConvNextConfig, ConvNextForImageClassification, ViTImageProcessorPil

    config = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32, num_labels=len(classes))
    config.id2label = dict(enumerate(classes))
    ConvNextForImageClassification(config).save_pretrained(tmp_path / "foreign")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "foreign")
    class_folders(tmp_path / "images", images=3)
    report, _ = report_of(tmp_path / "foreign", tmp_path / "images", tmp_path=tmp_path)
    assert report["with_labels"]["positive"] == positive
    assert not report["model"]["is_release"]
    assert any(finding["level"] == "not known" for finding in report["findings"])


@pytest.mark.parametrize(("only", "n"), [("nevus", 0), ("melanoma", 4)])
def test_one_class_only_says_what_cannot_be_told(only, n, alerting, tmp_path):
    class_folders(tmp_path / "images", images=4, labels=(only,))
    report, page = report_of(alerting, tmp_path / "images", tmp_path=tmp_path)
    assert report["verdict"]["outcome"] == "cannot be told"
    assert f"n = {n}" in report["verdict"]["sentence"]
    assert "not defined here" in page


def test_photographs_of_a_telephone_are_reason_to_stop(alerting, tmp_path):
    (tmp_path / "images").mkdir()
    exif = Image.Exif()
    exif[271] = "Apple"
    for i in range(4):
        picture(i).save(tmp_path / "images" / f"IMG_{i}.jpg", exif=exif)
    report, _ = report_of(alerting, tmp_path / "images", tmp_path=tmp_path)
    camera = next(finding for finding in report["findings"] if finding["name"] == "Camera")
    assert camera["level"] == "stop"
    assert report["verdict"]["what_to_do"][0].startswith("Stop: 4 of 4 images were made by a telephone")


def test_unreadable_files_are_counted_and_named(alerting, tmp_path):
    class_folders(tmp_path / "images", images=2, labels=("melanoma", "nevus"))
    (tmp_path / "images" / "nevus" / "broken.png").write_bytes(b"no picture")
    report, _ = report_of(alerting, tmp_path / "images", tmp_path=tmp_path)
    assert report["images"]["unreadable"] == ["images/nevus/broken.png"]
    files = next(finding for finding in report["findings"] if finding["name"] == "Files")
    assert files["level"] == "take care"


def other_labels(root):
    flat_folder(root / "images")
    write_table(root / "labels.csv", [{"file": "somebody else.png", "diagnosis": "nevus"}])
    return "names none of the 12 images"


def no_diagnosis(root):
    flat_folder(root / "images")
    write_table(root / "labels.csv", [{"file": "case 0.png", "colour": "brown"}])
    return "is no table of labels"


def no_table(root):
    flat_folder(root / "images")
    return "is no file"


def empty(root):
    (root / "images").mkdir()
    write_table(root / "labels.csv", [{"file": "case 0.png", "diagnosis": "nevus"}])
    return "has no images"


def no_folder(root):
    write_table(root / "labels.csv", [{"file": "case 0.png", "diagnosis": "nevus"}])
    return "is no folder"


def strange_words(root):
    flat_folder(root / "images")
    write_table(root / "labels.csv", [{"file": "case 0.png", "diagnosis": "mellanoma"}])
    return "Did you mean 'melanoma'"


def all_broken(root):
    flat_folder(root / "images", n=0)
    (root / "images" / "a.jpg").write_bytes(b"no picture")
    write_table(root / "labels.csv", [{"file": "a.jpg", "diagnosis": "nevus"}])
    return "can be read as an image"


@pytest.mark.parametrize(
    "case",
    [other_labels, no_diagnosis, no_table, empty, no_folder, strange_words, all_broken],
    ids=lambda f: f.__name__,
)
def test_bad_input_gets_one_sentence(case, alerting, tmp_path):
    why = case(tmp_path)
    done = clinic(alerting, tmp_path / "images", "--labels", tmp_path / "labels.csv", output=tmp_path / "report")
    assert done.exit_code == 2
    said = [line for line in (done.stderr or done.output).splitlines() if line.startswith("dermalert: ")]
    assert len(said) == 1
    assert why in said[0]
    assert not (tmp_path / "report").exists()


def test_no_label_file_is_needed_where_folders_name_the_diagnoses(alerting, tmp_path):
    class_folders(tmp_path / "images", images=2)
    report, _ = report_of(alerting, tmp_path / "images", tmp_path=tmp_path)
    assert report["with_labels"]["verdict"]["n"] == 2
    assert set(DIAGNOSES) <= report["with_labels"]["figures"]["per_class"].keys()


def test_images_that_the_release_learnt_from_are_left_out(tmp_path):
    from dermalert.data import contamination, loading

    release = make_release(tmp_path / "release", melanoma_bias=20)
    class_folders(tmp_path / "images", images=3, labels=("melanoma", "nevus"))
    class_folders(tmp_path / "learnt", images=1, labels=("melanoma",))
    learnt = loading.load([str(tmp_path / "learnt")]).dataset
    (release / "evaluation").mkdir()
    contamination.write(contamination.of({"train": learnt, "validation": learnt, "calibration": learnt}), release)
    report, _ = report_of(release, tmp_path / "images", tmp_path=tmp_path)
    assert report["learnt_from"] == {"known": True, "left_out": 1}
    assert report["with_labels"]["verdict"]["n"] == 2
    assert np.isclose(report["with_labels"]["prevalence"]["value"], 2 / 5)


def test_the_labels_of_the_table_count_and_not_those_of_the_folder(alerting, tmp_path):
    class_folders(tmp_path / "images", images=2, labels=("nevus",))
    names = sorted(path.name for path in (tmp_path / "images" / "nevus").iterdir())
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "diagnosis"], *([name, "melanoma"] for name in names)])
    report, _ = report_of(alerting, tmp_path / "images", "--labels", tmp_path / "labels.csv", tmp_path=tmp_path)
    assert report["with_labels"]["verdict"]["n"] == 2
