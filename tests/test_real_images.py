"""What the real images, lists and labels of the ISIC archive show; loaded once for all tests here.

Each finding of an audit has its test on generated images in `data/test_audit.py`: that of the real set is long.
"""

import csv
import runpy
from collections import Counter

import pytest
from support.loading import load
from support.paths import REPOSITORY

from dermalert.data import isic9, label_repair, loading, schema, splits, table_cells
from dermalert.data.audit import audit
from dermalert.evaluation.baselines import baselines
from dermalert.taxonomy import find

pytestmark = pytest.mark.integration
SK, PBK = "seborrheic keratosis", "pigmented benign keratosis"


@pytest.fixture(scope="module")
def nine_classes(real_images):
    return load(real_images / "isic9", strict=True)


@pytest.fixture(scope="module")
def with_isic_2017(real_images):
    return loading.load([str(real_images / name) for name in ("isic9", "isic2017")]).dataset


@pytest.fixture(scope="module")
def findings(nine_classes) -> dict:
    return audit(nine_classes)["findings"]


# Loading.


def test_the_nine_class_set_is_read_whole(nine_classes):
    description = schema.describe(nine_classes)
    assert (description["images"], description["contradictions"]) == (2357, 155)
    assert description["sources"] == ["HAM10000", "older ISIC archive"]
    # Two pairs of ids hold the same bytes each.
    assert [len(set(nine_classes[column])) for column in ("image_id", "content")] == [2202, 2200]


def test_two_sources_merge_into_one_row_an_image(with_isic_2017):
    assert len(with_isic_2017) == 2357 + 1579
    assert set(with_isic_2017["source"]) == {"HAM10000", "older ISIC archive"}


@pytest.mark.long
def test_three_sources_merge_into_one_row_an_image(real_images):
    dataset = loading.load([str(real_images / name) for name in ("isic9", "isic2017", "ham10000")]).dataset
    # That the two images of ham10000/akiec are carcinomas, the ground truth of ISIC 2019 tells.
    assert len(dataset) == 2357 + 1579 + 6657
    assert set(dataset["source"]) == {"HAM10000", "older ISIC archive"}


# Audit.


@pytest.mark.long
def test_what_is_wrong_with_the_nine_class_set_is_found_by_content_alone(findings):
    counts = {"several-ids": 2, "contradictions": 155, "leaks": 18, "sorted-split": 9, "tiny": 0, "blank": 0}
    assert {kind: findings[kind]["count"] for kind in counts} == counts
    assert findings["contradictions"]["by_labels"] == {f"melanoma / {SK}": 78, "actinic keratosis / nevus": 77}
    by_source = findings["source-confounding"]["predicts_melanoma"]["files"]
    assert (by_source["sensitivity"], by_source["specificity"]) == (1.0, pytest.approx(0.80, abs=0.01))


@pytest.mark.long
def test_what_is_wrong_with_the_nine_class_set_is_found_with_the_archives_metadata(findings):
    leaks, labels = findings["kin-leaks"], findings["label-disagreement"]
    assert (leaks["count"], leaks["of"], leaks["by_content_alone"]) == (44, 118, 19)
    assert (labels["count"], labels["none_right"]) == (158, [SK])
    assert f"none of the 80 {SK} files is one" in labels["text"]
    known_from = {"contradictions": "content", "lesion-leaks": "facts table", "label-disagreement": "facts table"}
    known_from |= {"kin-leaks": "content, facts table"}
    assert {kind: findings[kind]["known_from"] for kind in known_from} == known_from


@pytest.mark.long
def test_the_known_near_duplicates_of_the_nine_class_set_are_found(findings):
    cases = findings["near-duplicates"]["cases"]
    pairs = {tuple(sorted(image["image_id"] for image in case["images"])) for case in cases}
    assert {
        ("ISIC_0000521", "ISIC_0010990"),
        ("ISIC_0000399", "ISIC_0001124"),
        ("ISIC_0000520", "ISIC_0010302"),
        ("ISIC_0025434", "ISIC_0028165"),
    } <= pairs
    assert len(pairs) < 12


# Repair and splits.


def test_the_nine_class_set_gets_the_labels_of_the_archive(nine_classes, caplog):
    repaired, report = label_repair.repair(nine_classes)
    assert report.relabelled == {"nevus": {"actinic keratosis": 78}, SK: {"melanoma": 80}}
    # 2202 numbers, 456 melanomas and 295 nevi, are 2200 images: the archive holds one of each under two numbers.
    assert list(report.classes.values()) == [131, 392, 111, 455, 294, 478, 0, 197, 142]
    assert (report.copies, report.dropped) == (157, {})
    assert len(repaired) == len(set(repaired["content"])) == len(set(repaired["image_id"])) == 2200
    assert "no image of seborrheic keratosis is left of 80: add ISIC 2017" in caplog.text
    assert "training goes on with 8 diagnoses" in caplog.text


@pytest.mark.parametrize(
    ("policy", "excluded"), [("archive", 43), ("drop-conflicts", 39), pytest.param("none", 65, marks=pytest.mark.long)]
)
def test_no_image_is_in_two_splits(with_isic_2017, policy, excluded):
    repaired, report = label_repair.repair(with_isic_2017, policy)
    sides = splits.split(repaired, shipped=with_isic_2017)
    for key in ("content", "group"):
        values = [set(rows[key]) for name, rows in sides.items() if name not in ("set_aside", "clean_test")]
        assert sum(map(len, values)) == len(set().union(*values))
    # 44 test images have kin in Train: 18 under another label there, 26 by another photo of their lesion.
    assert (len(sides["official_test"]), len(sides["clean_test"])) == (118, 74)
    # The kin: 65 files, of which 22 are copies of a test image or of each other.
    assert len(sides["set_aside"]) == excluded
    described = splits.describe(sides, 0)
    assert sum(described["sides"].values()) == excluded + 118 + sum(len(sides[n]) for n in splits.SHARES)
    assert (described["clean_test"], described["classes"]["melanoma"]["clean_test"]) == (74, 16)
    if policy == "archive":  # ISIC 2017 refills the class that the repair empties
        assert report.emptied == {}
        # 1105 nevi more, two of them one image under two numbers.
        assert list(report.classes.values()) == [131, 392, 111, 633, 1398, 478, 296, 197, 142]
        assert len(repaired) == len(set(repaired["content"]))


@pytest.mark.long
def test_the_nine_class_set_is_read_off_frame_and_source(nine_classes):
    auroc = {name: figure.melanoma_auroc.value for name, figure in baselines(splits.split(nine_classes)).items()}
    assert 0.75 < auroc["frame_only"] < 0.97
    assert 0.75 < auroc["lesion_hidden"] < 0.97
    assert auroc["source_only"] > 0.8


# Lists.


@pytest.mark.long
def test_the_table_of_the_nine_class_set_is_what_the_script_builds_from_the_official_lists(
    real_images, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(isic9, "TABLE", tmp_path / "isic9.csv")
    script = runpy.run_path(str(REPOSITORY / "scripts" / "build_isic9.py"))
    script["main"](real_images / "metadata")
    assert (tmp_path / "isic9.csv").read_bytes() == (REPOSITORY / "dermalert" / "data" / "isic9.csv").read_bytes()
    assert "ISIC 2019: 1761 images in common, all of the same diagnosis" in capsys.readouterr().out


def labels_of(path, key: str) -> dict[str, str]:
    with path.open(newline="") as lines:
        return {row[key]: table_cells.label_of(row) for row in csv.DictReader(lines)}


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("HAM10000_metadata.csv", "image_id"),
        ("ISIC-2017_Training_Part3_GroundTruth.csv", "image_id"),
        ("ISIC-2017_Validation_Part3_GroundTruth.csv", "image_id"),
        ("ISIC_2019_Training_GroundTruth.csv", "image"),
        ("isic_archive_diagnosis_41725.csv", "name"),
    ],
)
def test_each_name_of_the_official_lists_has_a_diagnosis(real_images, file, key):
    names = set(labels_of(real_images / "metadata" / file, key).values())
    assert {name for name in names if find(name) is None} <= {"akiec"}


def test_the_archive_and_isic_2019_agree(real_images):
    archive = labels_of(real_images / "metadata" / "isic_archive_diagnosis_41725.csv", "name")
    challenge = labels_of(real_images / "metadata" / "ISIC_2019_Training_GroundTruth.csv", "image")
    pairs = Counter((find(archive[i]), find(challenge[i])) for i in archive.keys() & challenge.keys())
    # The challenge's BKL holds what the archive keeps apart; apart from that not one image differs.
    assert {pair for pair in pairs if pair[0] != pair[1]} == {(SK, PBK)}
