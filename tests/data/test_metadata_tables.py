"""What rows say of images: which split, which kind of picture, which file, and what of a table is not used."""

import pytest
import support.loading
from datasets import Dataset
from support.pictures import put, write_table

from dermalert.data import hub_datasets, loading, table_cells, table_columns
from dermalert.data.records import Selection

LABELS = ("melanoma", "nevus")
TEST_WORDS = ["Hold-Out 2", "blind_test", "testB", "ISIC2016 Test Images", "TESTSET"]


def clinic(root, n: int = 6, folders: bool = False):
    """Write so many images, `im0.png` and on, in turn of a melanoma and of a nevus."""
    for i in range(n):
        put((root / LABELS[i % 2] if folders else root) / f"im{i}.png", i)
    return root


def of(i: int, **cells) -> dict:
    return {"file_name": f"im{i}.png", "dx": LABELS[i % 2]} | cells


def records(rows: list[dict], split: str) -> list:
    """What is read of rows of a data set of the Hub."""
    columns = table_columns.columns_of(list(rows[0]))
    return list(hub_datasets._records(Dataset.from_list(rows), split, columns, [""] * len(rows), Selection(), first=0))


def load(root):
    return {row["image_id"]: row for row in loading.load([str(root)]).dataset.remove_columns("image")}


@pytest.mark.parametrize("word", TEST_WORDS)
def test_a_word_for_the_test_is_one_in_a_cell_a_folder_and_a_split_of_the_hub(tmp_path, word):
    rows = [of(i, split=word if i < 2 else "train") for i in range(6)]
    write_table(clinic(tmp_path / "cells") / "m.csv", rows)
    for i in range(6):
        put(tmp_path / "folders" / (word if i < 2 else "training_input") / f"im{i}.png", i)
    write_table(tmp_path / "folders" / "m.csv", [of(i) for i in range(6)])
    for root in (tmp_path / "cells", tmp_path / "folders"):
        assert [row["shipped_split"] for _, row in sorted(load(root).items())] == ["test"] * 2 + ["train"] * 4
    (record,) = records([of(0)], f"user/x/{word}")
    assert record.shipped_split == "test"


@pytest.mark.parametrize("folder", ["contest", "te_anau", "train_test_split", "untested", "pretesting"])
def test_a_folder_whose_name_only_looks_like_a_split_is_none(tmp_path, folder):
    for i in range(4):
        put(tmp_path / folder / f"im{i}.png", i)
    write_table(tmp_path / "m.csv", [of(i) for i in range(4)])
    assert {row["shipped_split"] for row in load(tmp_path).values()} == {None}


@pytest.mark.parametrize("folder", TEST_WORDS)
def test_class_folders_under_a_word_for_the_test_are_the_test(tmp_path, folder):
    for i in range(6):
        put(tmp_path / ("Training-Set" if i < 4 else folder) / LABELS[i % 2] / f"im{i}.png", i)
    images = load(tmp_path)
    assert [name for name in sorted(images) if images[name]["shipped_split"] == "test"] == ["im4", "im5"]


def test_of_rows_that_list_an_image_twice_any_test_and_any_other_kind_counts(tmp_path):
    root = clinic(tmp_path, 8, folders=True)
    sure = {"image_type": "dermoscopic", "split": "train"}
    twice = [of(0) | sure | {"split": "Test"}, of(1) | sure | {"image_type": "TBP tile"}, of(2) | sure]
    write_table(root / "a.csv", [*twice, *(of(i) | sure for i in range(8))])
    write_table(root / "b.csv", [of(2) | sure | {"split": "private test", "image_type": ""}, of(3, **sure)])
    images = load(root)
    assert {name for name, row in images.items() if row["shipped_split"] == "test"} == {"im0", "im2"}
    assert images.keys() == {f"im{i}" for i in (0, 2, 3, 4, 5, 6, 7)}


@pytest.mark.parametrize(
    ("field", "files"),
    [("lesion_id", ("a.csv", "a.csv")), ("patient_id", ("a.csv", "b.csv")), ("lesion_id", ("z/a.csv", "z/b.csv"))],
)
def test_two_patients_or_lesions_of_an_image_are_said_and_the_first_counts(tmp_path, caplog, field, files):
    root = clinic(tmp_path, 6, folders=True)
    rows = [of(i, **{field: f"K{i}"}) for i in range(6)]
    others = [of(i, **{field: ["k0", "Q7", "Q7", "", "unknown"][i]}) for i in range(5)]
    if files[0] == files[1]:
        write_table(root / files[0], rows + others)
    else:
        write_table(root / files[0], rows)
        write_table(root / files[1], others)
    images = load(root)
    assert [images[f"im{i}"][field].split(": ")[1] for i in range(6)] == [f"K{i}" for i in range(6)]
    (line,) = [r.getMessage() for r in caplog.records if "several lesions or patients" in r.getMessage()]
    assert line.startswith("2 images") and "im1.png" in line and "im2.png" in line


def test_a_lesions_number_with_and_without_its_patient_is_no_contradiction(tmp_path, caplog):
    root = clinic(tmp_path, 4, folders=True)
    write_table(root / "a.csv", [of(i, lesion_id=i, patient_id="P7") for i in range(4)])
    write_table(root / "b.csv", [of(i, lesion_id=i) for i in range(4)])
    load(root)
    assert "several lesions" not in caplog.text


@pytest.mark.parametrize(
    ("word", "left"),
    [("N/A", 4), ("null", 4), ("not available", 4), ("?", 4), ("#N/A", 4), ("", 4), ("Dermoscopy", 4)]
    + [("nondermoscopic", 2), ("macro (pre-dermoscopic)", 2), ("prior to dermoscopy", 2), ("other", 2), ("Others", 2)],
)
def test_a_word_for_nothing_is_no_other_kind_of_picture(tmp_path, word, left):
    rows = [of(i, image_type=word if i < 2 else "dermoscopic") for i in range(4)]
    write_table(clinic(tmp_path, 4) / "m.csv", rows)
    assert len(load(tmp_path)) == left
    assert len(records(rows, "user/x/train")) == left


@pytest.mark.parametrize(
    ("column", "others", "folders"),
    [
        ("file_name", {"image_id": "zz{}"}, True),
        ("FileName", {"isic_id": "{}", "img_id": "P{}"}, False),
        ("photo_file_name", {"image_name": "im0"}, True),
        ("Derm file name", {}, False),
        ("photo_file_name", {"image_id": "zz{}"}, False),
        ("Derm file name", {"isic_id": "{}", "img_id": "P{}"}, True),
    ],
)
def test_a_column_of_file_names_that_are_there_is_the_images(tmp_path, column, others, folders):
    root = clinic(tmp_path, 6, folders=folders)
    rows = [
        {name: word.format(i) for name, word in others.items()}
        | {"mask_file_name": f"m{i}.png", column: f"{LABELS[i % 2] + '/' if folders else ''}im{i}.png"}
        | {"dx": LABELS[i % 2], "lesion_id": f"K{i}"}
        for i in range(6)
    ]
    write_table(root / "metadata.csv", rows)
    images = load(root)
    assert [images[f"im{i}"]["lesion_id"].split(": ")[1] for i in range(6)] == [f"K{i}" for i in range(6)]


def test_another_column_names_the_images_where_the_file_names_are_not_those_here(tmp_path):
    write_table(clinic(tmp_path, 4) / "m.csv", [of(i, file_name=f"raw{i}.dng", img_id=f"im{i}") for i in range(4)])
    assert len(load(tmp_path)) == 4


def test_a_column_that_a_person_names_is_the_images_whatever_a_column_of_file_names_holds(tmp_path):
    rows = [of(i, shot=f"im{3 - i}", lesion_id=f"K{i}") for i in range(4)]
    write_table(clinic(tmp_path, 4) / "m.csv", [row | {"dx": "nevus"} for row in rows])
    dataset = support.loading.load(tmp_path, columns={"image": "shot"})
    assert dataset["lesion_id"] == [f"{tmp_path.name}: K{3 - i}" for i in range(4)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.txt", "file_name;lesion_id\nother0.png;K0\n"),
        ("ground_truth.tsv.txt", "im0.png\tnevus\nim1.png\tmelanoma\n"),
        ("test.txt", "melanoma/im0\nmelanoma/im2\n"),
        ("info.md", "'im1.png'  K1\n'im2.png'  K1\n"),
        ("Splits.TXT", "\ufeffimage name|split\nim0|test\n"),
    ],
)
def test_a_text_that_holds_a_table_or_list_of_images_is_said(tmp_path, caplog, name, content):
    (clinic(tmp_path, 6, folders=True) / name).write_text(content, encoding="utf-8")
    assert len(load(tmp_path)) == 6
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith("1 texts in") and line.endswith(name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("LICENSE.txt", ""),
        ("README.md", "Images of a clinic, with labels.\nim0.png is a melanoma.\nAll else\nis\nnot.\n"),
        ("attribution.txt", "1. 2\n2. 3\n"),
    ],
)
def test_texts_in_prose_are_not_said(tmp_path, caplog, name, content):
    (clinic(tmp_path, 6, folders=True) / name).write_text(content)
    load(tmp_path)
    assert not caplog.records


@pytest.mark.parametrize(
    ("places", "named"),
    [(("", ""), "x.png"), (("Train", ""), "IMG_0001.JPG"), (("Train", "Train"), "nevus 3.png")],
)
def test_images_beside_class_folders_are_said(tmp_path, caplog, places, named):
    clinic(tmp_path / places[0], 6, folders=True)
    put(tmp_path / places[1] / named, 77)
    assert len(load(tmp_path)) == 6
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith("left out 1 images") and "no folder of a diagnosis" in line and line.endswith(named)


@pytest.mark.parametrize(
    ("name", "folders"),
    [("face_mask.png", True), ("K7_Segmentation.png", False), ("42_superpixels.png", True)]
    + [("ISIC_0000001_mask.png", False)],
)
def test_an_image_that_is_called_a_mask_without_its_photo_is_said(tmp_path, caplog, name, folders):
    root = clinic(tmp_path, 4, folders=folders)
    if not folders:
        write_table(root / "m.csv", [of(i) for i in range(4)])
    for mask in (name, "im0_mask.png", "ISIC_0000000_superpixels.png", "im1_segmentation.png"):
        put((root / "melanoma" if folders else root) / mask, 77)
    assert len(load(root)) == 4
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith("left out 1 images") and line.endswith(name)


def test_rows_without_an_image_and_tables_without_rows_are_said(tmp_path, caplog):
    root = clinic(tmp_path, 4, folders=True)
    rows = [of(i, lesion_id=f"K{i}") for i in range(4)]
    rows += [of(0, lesion_id="L") | {"file_name": name} for name in ("", " ")]
    write_table(root / "a.csv", [*rows, dict.fromkeys(rows[0], "")])
    (root / "b.csv").write_text("image,patient_id\n")
    (root / "c.tsv").write_text("img_name\tlesion\n\n")
    assert len(load(root)) == 4
    assert "2 rows of 'a.csv' name no image: row 5, row 6" in caplog.messages
    assert f"2 tables in '{root}' have a header and no rows: b.csv, c.tsv" in caplog.messages
    assert len(caplog.messages) == 2


@pytest.mark.parametrize(
    ("column", "word", "confirmation"),
    [
        ("dx_type", "histo", "histopathology"),
        ("dx_type", "follow_up", "follow-up"),
        ("dx_type", "confocal", "confocal microscopy"),
        ("diagnosis_confirm_type", "serial imaging showing no change", "follow-up"),
        ("diagnosis_confirm_type", "single image expert consensus", "expert consensus"),
        ("diagnosis_confirm_type", "single contributor clinical assessment", "clinical assessment"),
        ("biopsed", "True", "histopathology"),
        ("biopsed", "False", None),
        ("dx_type", "", None),
    ],
)
def test_how_a_diagnosis_was_confirmed_is_read_in_the_words_of_each_source(column, word, confirmation):
    assert table_cells.metadata_of({"image_id": "a", column: word}).get("confirmation") == confirmation
