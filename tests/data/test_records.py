"""Which images of a source are taken, and what is said of the others."""

import json
from pathlib import Path

import pytest
from support.loading import load
from support.pictures import picture, write_table
from typer.testing import CliRunner

from dermalert.cli import app
from dermalert.data import loading
from dermalert.data.prepare import prepare
from dermalert.data.records import Selection
from dermalert.errors import UsageError
from dermalert.training.flags import parse

LEVELS = ("diagnosis_1", "diagnosis_2", "diagnosis_3")
NEVUS = ("Benign", "Benign melanocytic proliferations", "Nevus")
CARCINOMA = ("Malignant", "Malignant epidermal proliferations", "Keratoacanthoma")
LICHENOID = ("Benign", "Benign epidermal proliferations", "Lichen planus like keratosis")
INFLAMED = ("Benign", "Inflammatory or infectious diseases", "")
TEXTS = (NEVUS, CARCINOMA, LICHENOID, INFLAMED)


@pytest.fixture
def pairs(tmp_path) -> Path:
    """Four lesions as MILK10k ships them: dermoscopy and close-up of each beside one table."""
    rows = []
    for i, levels in enumerate(TEXTS):
        for j, kind in enumerate(("dermoscopic", "clinical: close-up")):
            name = f"ISIC_{5000000 + 10 * i + j}"
            rows.append({"isic_id": name, "attribution": "MILK study team", "image_type": kind})
            rows[-1] |= {"lesion_id": f"IL_{1000000 + i}", **dict(zip(LEVELS, levels, strict=True))}
    write_table(tmp_path / "milk" / "metadata.csv", rows)
    for i, row in enumerate(rows):
        picture(i).save(tmp_path / "milk" / f"{row['isic_id']}.png")
    return tmp_path / "milk"


def test_dermoscopy_alone_is_taken_and_the_rest_is_counted(pairs, caplog):
    loaded = loading.load([str(pairs)])
    dataset = loaded.dataset
    assert dataset["source"] == ["MILK10k"] * 3
    assert dataset["label"] == [4, 7, 5]
    assert loaded.left_out == {
        "milk": {
            "image_type": {"clinical: close-up": 4},
            "label": {"Inflammatory or infectious diseases": 1},
        }
    }
    assert "that are no dermoscopy: 4 clinical: close-up" in caplog.text
    assert "none of the nine diagnoses: 1 Inflammatory or infectious diseases" in caplog.text


def test_close_ups_that_are_admitted_stay_with_their_lesion(pairs):
    dataset = load(pairs, image_types=["dermoscopic", "clinical"])
    assert sorted(set(dataset["source"])) == ["MILK10k", "MILK10k, clinical: close-up"]
    assert len(dataset) == 6 and len(set(dataset["group"])) == 3
    by_group = {(group, source) for group, source in zip(dataset["group"], dataset["source"], strict=True)}
    assert len(by_group) == 6


def test_close_ups_can_be_taken_alone(pairs):
    assert set(load(pairs, image_types=["clinical"])["source"]) == {"MILK10k, clinical: close-up"}


def test_an_audit_says_what_was_left_out(pairs, tmp_path):
    path = tmp_path / "audit.json"
    assert CliRunner().invoke(app, ["audit", str(pairs), "--json", str(path)]).exit_code == 0
    left_out = json.loads(path.read_text())["left_out"]
    assert left_out["milk"]["image_type"] == {"clinical: close-up": 4}
    assert prepare([str(pairs)]).audit()["left_out"] == left_out


def test_an_audit_takes_the_kinds_of_pictures_that_are_named(pairs, tmp_path):
    path = tmp_path / "audit.json"
    words = ["--image-types", "dermoscopic", "--image-types", "clinical"]
    assert CliRunner().invoke(app, ["audit", str(pairs), *words, "--json", str(path)]).exit_code == 0
    report = json.loads(path.read_text())
    assert report["files"] == 6 and "image_type" not in report["left_out"]["milk"]


@pytest.mark.parametrize(
    ("kind", "types", "admitted"),
    [
        ("dermoscopic", ["dermoscopic"], True),
        ("dermoscopic", ["clinical"], False),
        ("dermoscopic: none", ["dermoscopic"], False),
        ("clinical: overview", ["clinical"], True),
        ("TBP tile: close-up", ["tbp"], True),
        ("RCM: tile", ["dermoscopic", "clinical", "tbp"], False),
    ],
)
def test_a_kind_of_picture_is_taken_where_it_is_named(kind, types, admitted):
    assert Selection(types).admits(kind) == admitted


def test_an_image_type_that_there_is_not_is_refused():
    with pytest.raises(UsageError, match=r"'clinicl' is no image type. Did you mean 'clinical'"):
        Selection(["clinicl"])


def test_a_training_takes_the_kinds_of_pictures_that_are_named():
    demo = ["--dataset_name", "demo"]
    assert parse(demo).image_types == ["dermoscopic"]
    assert parse([*demo, "--image_types", "dermoscopic", "clinical"]).image_types == ["dermoscopic", "clinical"]
