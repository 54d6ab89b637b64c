import shutil

import pytest
from support.pictures import class_folders, put

from dermalert.data import label_repair, loading, schema
from dermalert.errors import UsageError
from dermalert.taxonomy import DIAGNOSES


@pytest.fixture
def contradicting(tmp_path):
    """Of what the archive calls actinic keratosis, one under nevus, one under both; two strangers, one under both."""
    for label, name, seed in [
        ("nevus", "ISIC_0010512", 1),
        ("nevus", "ISIC_0010889", 2),
        ("actinic keratosis", "ISIC_0010889", 2),
        ("nevus", "one", 3),
        ("nevus", "other", 4),
        ("melanoma", "other again", 4),
        ("nevus", "one again", 3),
    ]:
        put(tmp_path / label / f"{name}.png", seed)
    return loading.load([str(tmp_path)]).dataset


def rows(dataset):
    return sorted((row["image_id"], DIAGNOSES[row["label"]]) for row in dataset.remove_columns("image"))


def test_archive_takes_the_archives_diagnosis_and_drops_what_it_cannot_settle(contradicting):
    repaired, report = label_repair.repair(contradicting)
    keratoses = [(name, "actinic keratosis") for name in ("ISIC_0010512", "ISIC_0010889")]
    assert rows(repaired) == [*keratoses, ("one again", "nevus")]
    assert report.relabelled == {"nevus": {"actinic keratosis": 2}}
    assert report.dropped == {"melanoma / nevus": 1}
    assert (report.images_before, report.images, report.copies) == (7, 3, 2)
    assert repaired.features == schema.FEATURES
    assert repaired[0]["image"].size == (32, 32)


def test_drop_conflicts_drops_each_image_under_two_labels(contradicting):
    repaired, report = label_repair.repair(contradicting, "drop-conflicts")
    assert rows(repaired) == [("ISIC_0010512", "nevus"), ("one again", "nevus")]
    assert report.dropped == {"actinic keratosis / nevus": 1, "melanoma / nevus": 1}
    assert report.relabelled == {}
    assert sorted(report.emptied) == ["actinic keratosis", "melanoma"]


def test_none_leaves_everything_as_it_is(contradicting):
    repaired, report = label_repair.repair(contradicting, "none")
    assert rows(repaired) == rows(contradicting)
    assert report.copies == 0 and report.dropped == report.emptied == {}


def test_an_unknown_policy_is_refused_with_the_nearest(contradicting):
    with pytest.raises(UsageError, match=r"label repair 'archives' is none of archive, .*Did you mean 'archive'"):
        label_repair.repair(contradicting, "archives")


def test_a_set_of_nothing_but_contradictions_is_refused(tmp_path):
    class_folders(tmp_path, images=1, labels=("nevus",))
    shutil.copytree(tmp_path / "nevus", tmp_path / "melanoma")
    with pytest.raises(UsageError, match="label repair 'archive' leaves no image"):
        label_repair.repair(loading.load([str(tmp_path)]).dataset)


def test_a_seborrheic_keratosis_that_another_source_calls_benign_keratosis_is_no_contradiction(tmp_path):
    put(tmp_path / "2017" / "seborrheic keratosis" / "ISIC_8000000.png", 1)
    put(tmp_path / "2019" / "bkl" / "ISIC_8000000.png", 2)
    repaired, report = label_repair.repair(loading.load([str(tmp_path / "2017"), str(tmp_path / "2019")]).dataset)
    assert rows(repaired) == [("ISIC_8000000", "seborrheic keratosis")]
    assert report.dropped == {}


def test_a_copy_for_testing_is_the_one_that_stays(tmp_path):
    put(tmp_path / "Train" / "nevus" / "ISIC_0010512.png", 1)
    put(tmp_path / "Test" / "actinic keratosis" / "ISIC_0010512.png", 1)
    repaired, _ = label_repair.repair(loading.load([str(tmp_path)]).dataset)
    assert repaired["shipped_split"] == ["test"]
