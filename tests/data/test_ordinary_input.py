"""What is in order stays as it is, however many odd inputs the readers understand beside it."""

from collections import Counter

import pytest
from support.pictures import class_folders, write_table

from dermalert.data import (
    folders,
    id_spaces,
    identifiers,
    loading,
    patients,
    shipped_splits,
    table_cells,
    table_columns,
)
from dermalert.data.records import Record


def settled(ids: list[str]) -> list[str | None]:
    records = [
        Record(image_id=str(i), name="nevus", source="x", metadata={"patient_id": one}) for i, one in enumerate(ids)
    ]
    patients.settle(records, "x")
    return [record.metadata.get("patient_id") for record in records]


@pytest.mark.parametrize(
    "ids",
    [
        ["anon_a", "anon_b", "anon_c", "anon_a"],
        ["anon_A12", "anon_A12", "anon_B7", "anon_C3"],
        ["TBC", "TBC", "KLM"],
        ["EJ-IN", "AB-CD", "EJ-IN"],
        ["ABC_0", "ABC_0", "ABC_0", "DEF_0", "DEF_0", "GHI_0"],
        ["A0", "B0", "C0", "A0", "A0", "A0", "A0"],
        ["12", "45", "99", "99", "99", "99"],
    ],
)
def test_pseudonyms_initials_and_numbers_name_people(ids):
    assert not any(identifiers.is_nobody(one) for one in ids)
    assert Counter(settled(ids)) == Counter(ids)


@pytest.mark.parametrize("ids", [["anonymous", "P1"], ["unknown_1", "unknown_1", "P1"], ["not in records", "P1"]])
def test_words_for_nobody_name_nobody(ids):
    assert identifiers.is_nobody(ids[0]) or settled(ids)[0] is None


def test_many_ids_are_settled_in_a_moment():
    ids = [f"patient_{i}" for i in range(1, 20_001)]
    assert settled(ids) == ids


@pytest.mark.parametrize("other", ["clinical_filename", "overview_file_name", "thumbnail_filename"])
def test_a_column_of_other_files_does_not_name_the_images(tmp_path, other):
    class_folders(tmp_path / "all", images=2, labels=("nevus",))
    files = sorted(p.name for p in (tmp_path / "all").rglob("*.png"))
    for path in list((tmp_path / "all").rglob("*.png")):
        path.rename(tmp_path / "all" / path.name)
    (tmp_path / "all/nevus").rmdir()
    rows = [{"image_id": files[0][:-4], "dx": "nevus", other: files[1]}]
    write_table(tmp_path / "all/metadata.csv", rows)
    (record,) = folders.records(tmp_path / "all", table_columns.Columns(None))
    assert record.image_id == files[0][:-4]


@pytest.mark.parametrize(
    ("first", "second"), [("train_images", "test_images"), ("training data", "test"), ("train_v2", "test_v2")]
)
def test_parts_of_one_split_share_their_patients(tmp_path, first, second):
    for name in (first, second):
        (tmp_path / "clinic" / name).mkdir(parents=True)
    owners = id_spaces.owners([tmp_path / "clinic" / first, tmp_path / "clinic" / second])
    assert len({place for place, _ in owners.values()}) == 1


@pytest.mark.parametrize("folder", ["evaluation/figures", "tests/unit", "dev/plots"])
def test_a_folder_called_like_a_split_that_holds_no_classes_is_none(tmp_path, folder):
    class_folders(tmp_path, images=3)
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "roc.png").write_bytes(next(tmp_path.rglob("*.png")).read_bytes())
    records = folders.records(tmp_path, table_columns.Columns(None))
    assert sum(identifiers.clean(record.name) != "figures" for record in records) >= 27


@pytest.mark.parametrize("name", ["BiopsyTest", "patch_test", "patch-testing", "TR"])
def test_a_name_that_holds_a_splits_word_by_chance_is_no_split(name):
    assert shipped_splits.shipped_as([name]) is None


@pytest.mark.parametrize("kind", ["dermoscopy before excision", "dermoscopic, pre-op", "dermoscopy prior to biopsy"])
def test_dermoscopy_before_something_is_dermoscopy(kind):
    assert table_cells.kind_of({"image_type": kind}, {"image_type": "image_type"}) == "dermoscopic"


def test_a_broken_link_beside_the_classes_stops_nothing(tmp_path):
    class_folders(tmp_path, images=2)
    (tmp_path / "README.txt").symlink_to(tmp_path / "gone")
    assert len(loading.load([str(tmp_path)]).dataset) == 18
