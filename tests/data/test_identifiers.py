"""One thing under two spellings, and two things under nearly one: names of files, columns, people and numbers."""

import csv
import json
import os
import shutil
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.pictures import class_folders, picture, write_table

from dermalert import taxonomy
from dermalert.data import (
    identifiers,
    isic9,
    label_repair,
    loading,
    near_duplicates,
    shipped_splits,
    splits,
    table_cells,
    table_columns,
)
from dermalert.errors import UsageError


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("ISIC_0025818_jpg.rf.abc123", "ISIC_0025818"),
        ("isic_0025818", "ISIC_0025818"),
        ("ISIC-0025818", "ISIC_0025818"),
        ("ISIC_0025818_aug_0", "ISIC_0025818"),
        ("ISIC_0025818 (1)", "ISIC_0025818"),
        ("ISIC_0025818_resized_224", "ISIC_0025818"),
        ("ISIC_0025818_downsampled", "ISIC_0025818"),
        ("aug_3_ISIC_0025818", "ISIC_0025818"),
        ("mirrored-x_ISIC_0025818-Kopie", "ISIC_0025818"),
        ("ISIC_00258181", None),
        ("ISIC_002581", None),
        ("0025818", None),
        ("ISIC_0025818_ISIC_0025819", None),
        ("basic_photo_0025818", None),
        ("", None),
    ],
)
def test_the_archive_number_is_found_in_longer_names_and_not_in_other_numbers(name, number):
    assert identifiers.archive_number(name) == number


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a.JPG", "a"),
        ("Mole.jpeg.jpg", "mole.png"),
        ("0017.png", "17.0"),
        ("17", "0017.jfif"),
        ("re\u0301sume\u0301.tif", "R\u00c9SUM\u00c9"),
        ("a\u00a0b.jpg", "a b"),
        ("\ufeffscan_1", "scan_1.webp"),
        ("scan\u200b_1.jpg ", "scan_1"),
    ],
)
def test_two_spellings_of_one_name_have_one_normal_form(one, other):
    assert identifiers.key(identifiers.clean(one)) == identifiers.key(identifiers.clean(other))


@pytest.mark.parametrize(("one", "other"), [("1_1", "11"), ("a1", "a01"), ("a.b.jpg", "a.jpg"), ("0", "1")])
def test_two_names_stay_two(one, other):
    assert identifiers.key(one) != identifiers.key(other)


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("1,0", 1.0),
        ("0.5", 0.5),
        (" 1 ", 1.0),
        (True, 1.0),
        ("true", 1.0),
        (3, 3.0),
        ("", None),
        ("x", None),
        (None, None),
    ],
)
def test_numbers_are_read_with_either_decimal_mark(cell, number):
    assert identifiers.number(cell) == number


@pytest.mark.parametrize(
    "word", ["-1", "-1.0", "-99", "?", "Unknown", "N/A", "null", "", "patient_unknown", "NaN", "#N/A"]
)
def test_a_placeholder_is_nobody(word):
    assert identifiers.is_nobody(word)


@pytest.mark.parametrize("word", ["1", "0", "P1", "patient_1", "IP_0000001", "Nguyen", "unknown_7", "a-1"])
def test_an_id_is_somebody(word):
    assert not identifiers.is_nobody(word)


@pytest.mark.parametrize("word", ["HAM_0000118", "ip_0001234", "IL_1612768", "MSK4_0011191", "BCN_0000045"])
def test_ids_of_the_archive_are_shared(word):
    assert identifiers.is_archive_id(word)


@pytest.mark.parametrize("word", ["patient_1", "case_12", "PAT_8", "IP_1", "HAM_12", "ip-ward_0000001"])
def test_other_ids_are_their_sources_own(word):
    assert not identifiers.is_archive_id(word)


@pytest.mark.parametrize(
    ("raw", "known"),
    [
        (["Image ID", "LESION-ID", "Dx"], ["image_id", "lesion_id", "dx"]),
        (["\ufeffimage_name", " Patient_Id ", "Age Approx"], ["image_name", "patient_id", "age_approx"]),
        (["ImageName", "lesionId", "mel", "nv"], ["image_name", "lesion_id", "MEL", "NV"]),
        (["Image_ID", "image_id"], ["Image_ID", "image_id"]),
    ],
)
def test_columns_are_known_however_they_are_written(raw, known):
    assert table_columns.headers(raw) == known


def clinic(root: Path, *, spelt=lambda name: name) -> list[str]:
    """Two lesions, four photos each, in class folders; return the files."""
    files = []
    for i in range(8):
        path = root / ("nevus", "melanoma")[i % 2] / spelt(f"photo_{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(path)
        files.append(path.relative_to(root).as_posix())
    return files


SPELLINGS = {
    "drive and back slashes": lambda path: "D:\\export\\" + path.replace("/", "\\"),
    "mixed separators": lambda path: "./" + path.replace("/", "\\"),
    "another suffix": lambda path: path.rpartition(".")[0] + ".JPEG",
    "no suffix, blanks around": lambda path: f"\u00a0{Path(path).stem} ",
    "two suffixes": lambda path: path + ".jpg",
    "capitals": lambda path: Path(path).name.upper(),
    "byte order mark inside": lambda path: "\ufeff" + path,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_beside_class_folders_finds_its_images_however_it_spells_them(tmp_path, spelling, kind):
    root = tmp_path / "clinic"
    rows = [{"File Name": SPELLINGS[spelling](f), "Lesion ID": f"L{i % 2}"} for i, f in enumerate(clinic(root))]
    table = root / f"metadata.{kind}"
    if kind == "csv":
        write_table(table, rows)
    elif kind == "jsonl":
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), table)
    assert set(loading.load([str(root)])["group"]) == {"clinic: L0", "clinic: L1"}


def test_decomposed_file_names_meet_composed_ones(tmp_path):
    files = clinic(tmp_path / "clinic", spelt=lambda n: unicodedata.normalize("NFD", f"l\u00e9sion-\u00fc_{n}"))
    rows = [{"image": unicodedata.normalize("NFC", Path(f).stem), "lesion_id": i % 2} for i, f in enumerate(files)]
    write_table(tmp_path / "clinic" / "metadata.csv", rows)
    assert len(set(loading.load([str(tmp_path / "clinic")])["group"])) == 2


def test_numbers_that_a_spreadsheet_has_shortened_meet_their_files(tmp_path):
    files = clinic(tmp_path / "clinic", spelt=lambda n: f"{int(n[6]):04d}.png")
    rows = [{"image": f"{int(Path(f).stem)}.0", "lesion_id": i % 2} for i, f in enumerate(files)]
    write_table(tmp_path / "clinic" / "metadata.csv", rows)
    assert len(set(loading.load([str(tmp_path / "clinic")])["group"])) == 2


def test_two_files_whose_names_have_one_normal_form_stay_two(tmp_path):
    root = tmp_path / "clinic"
    (root / "nevus").mkdir(parents=True)
    for i, name in enumerate(("17.png", "0017.png", "a.png", "A.png")):
        picture(i).save(root / "nevus" / name)
    meant = {"17": "L1", "0017": "L2", "a": "L3", "A": "L4"}
    write_table(root / "metadata.csv", [{"image": n, "lesion_id": lesion} for n, lesion in meant.items()])
    found = loading.load([str(root)])
    lesions = dict(zip(found["image_id"], found["lesion_id"], strict=True))
    assert lesions == {name: f"clinic: {lesion}" for name, lesion in meant.items()}


def test_a_row_that_may_mean_two_files_is_taken_for_neither_and_that_is_said(tmp_path, caplog):
    root = tmp_path / "clinic"
    (root / "nevus").mkdir(parents=True)
    for i, name in enumerate(("017.png", "0017.png")):
        picture(i).save(root / "nevus" / name)
    write_table(root / "metadata.csv", [{"image": "17", "lesion_id": "L1"}])
    assert set(loading.load([str(root)])["lesion_id"]) == {None}
    assert "names are borne by different images" in caplog.text


def test_an_augmented_copy_takes_the_row_of_its_archive_number(tmp_path):
    (tmp_path / "set").mkdir()
    for i, mark in enumerate(("", "_jpg.rf.0a1b", "_aug_2", " (1)")):
        picture(i).save(tmp_path / "set" / f"ISIC_8000001{mark}.png")
    write_table(
        tmp_path / "set" / "metadata.csv", [{"isic_id": "ISIC_8000001", "diagnosis": "nevus", "age_approx": 50}]
    )
    found = loading.load([str(tmp_path / "set")])
    assert found["age"] == [50.0] * 4
    assert len(set(found["group"])) == 1


@pytest.mark.parametrize("marks", [("_jpg.rf.00aa", "_jpg.rf.11bb"), ("", "_aug_3"), ("", "-augmented")])
def test_augmented_copies_of_one_image_are_one_group(tmp_path, marks):
    for name in ("one", "two"):
        for i, mark in enumerate(marks):
            path = tmp_path / "set" / ("train", "test")[i] / "nevus" / f"{name}{mark}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(hash_of(path.name)).save(path)
    found = loading.load([str(tmp_path / "set")])
    assert len(found) == 4 and len(set(found["group"])) == 2
    assert len(splits.clean_test(found)) == 0


def hash_of(name: str) -> int:
    return sum(map(ord, name))


def test_pictures_that_windows_has_numbered_are_different_ones(tmp_path):
    (tmp_path / "nevus").mkdir()
    for i in range(3):
        picture(i).save(tmp_path / "nevus" / f"nevus ({i + 1}).png")
    assert len(set(loading.load([str(tmp_path)])["group"])) == 3


def test_pad_ufes_without_its_table_has_its_patients_and_lesions_from_the_names(tmp_path):
    (tmp_path / "bcc").mkdir()
    for i, name in enumerate(("PAT_8_15_820", "PAT_8_15_821", "PAT_8_16_4", "PAT_9_17_1")):
        picture(i).save(tmp_path / "bcc" / f"{name}.png")
    found = loading.load([str(tmp_path)])
    assert found["patient_id"] == ["PAT_8"] * 3 + ["PAT_9"]
    assert found["lesion_id"] == ["PAT_8_15"] * 2 + ["PAT_8_16", "PAT_9_17"]
    assert len(set(found["group"])) == 2


@pytest.mark.parametrize(
    "name",
    [
        "PAT_46_881_939",
        "PAT_46_881_939_jpg.rf.77cd01",
        "pat_46_881_939_flipped",
        "PAT-46-881-939 (2)",
        "augmented_3_PAT_46_881_939",
        "Copy of Pat 46 881 939.png",
        "PAT_046_881_939_224x224",
        "PAT\u201346\u2013881\u2013939",
    ],
)
def test_patient_and_lesion_of_pad_ufes_are_found_in_longer_names(name):
    assert identifiers.pad_ufes(name) == ("PAT_46", "PAT_46_881")


@pytest.mark.parametrize(
    "name", ["PAT_46_881", "PAT_2024_03_15_001", "spat_46_881_939", "PAT_4_8_9_PAT_5_8_9", "PAT_46_881_"]
)
def test_other_names_tell_no_patient_of_pad_ufes(name):
    assert identifiers.pad_ufes(name) is None


def test_a_file_whose_name_is_no_utf_8_is_read_under_a_name_that_can_be_written(tmp_path):
    clinic(tmp_path)
    source = next((tmp_path / "nevus").iterdir())
    for name in (b"L\xe4sion.png", b"\xffx.png"):
        shutil.copy(source, os.fsencode(tmp_path / "nevus") + b"/" + name)
    found = loading.load([str(tmp_path)])
    assert len(found) == 10 and "L\u00e4sion" in found["image_id"]


@pytest.mark.parametrize("name", ["common_nevus", "Atypical-Nevus", "naevus", "Naevi", "dysplastic naevus"])
def test_other_words_for_a_nevus(name):
    assert taxonomy.find(name) == "nevus"
    assert taxonomy.find("SK") == taxonomy.find("seborrhoeic keratosis") == "seborrheic keratosis"


def test_a_latin_1_table_is_read_as_it_was_written(tmp_path):
    files = clinic(tmp_path / "clinic", spelt=lambda n: f"l\u00e4sion_{n}")
    with (tmp_path / "clinic" / "metadata.csv").open("w", newline="", encoding="latin-1") as file:
        csv.writer(file, delimiter=";").writerows([("image", "lesion_id"), *((Path(f).stem, "L1") for f in files)])
    assert set(loading.load([str(tmp_path / "clinic")])["group"]) == {"clinic: L1"}


NAMES = {
    "Roboflow": lambda stem, i: f"{stem}_jpg.rf.{i:08x}",
    "small letters and dashes": lambda stem, _: stem.lower().replace("_", "-"),
    "resized, in front": lambda stem, _: f"x_{stem}_resized",
}


@pytest.mark.parametrize("how", NAMES)
def test_the_facts_of_the_nine_class_set_are_known_under_longer_names(how):
    for i, (image_id, row) in enumerate(isic9.metadata().items()):
        assert isic9.diagnosis(NAMES[how](image_id, i)) == row["diagnosis"]


@pytest.mark.long
@pytest.mark.parametrize("how", NAMES)
def test_the_nine_class_set_is_repaired_alike_under_longer_names(tmp_path, how, real_images):
    isic9 = real_images / "isic9"
    for i, path in enumerate(sorted(isic9.rglob("*.jpg"))):
        target = tmp_path / "set" / path.parent.relative_to(isic9) / f"{NAMES[how](path.stem, i)}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    found = near_duplicates.link(loading.load([str(tmp_path / "set")]))
    _, report = label_repair.repair(found)
    assert sum(sum(to.values()) for to in report.relabelled.values()) == 158
    assert len(splits.clean_test(found)) == 74


@pytest.mark.parametrize("word", ["-1", "?", "unknown", "0"])
def test_patients_whom_nobody_knows_are_not_one_person_and_that_is_said(tmp_path, word, caplog):
    files = clinic(tmp_path / "clinic")
    write_table(tmp_path / "clinic" / "metadata.csv", [{"file_name": f, "patient_id": word} for f in files])
    assert len(set(loading.load([str(tmp_path / "clinic")])["group"])) == 8
    assert f"'{word}'" in caplog.text


def test_a_patient_of_implausibly_many_images_is_nobody(tmp_path, caplog):
    root = class_folders(tmp_path / "clinic", images=40, labels=("nevus",))
    rows = [{"file_name": p.name, "patient_id": "P0" if i < 36 else f"P{i}"} for i, p in enumerate(root.rglob("*.png"))]
    write_table(root / "metadata.csv", rows)
    assert len(set(loading.load([str(root)])["group"])) == 40
    assert "'P0' is no patient: 36 images" in caplog.text


@pytest.mark.parametrize("column", ["split", "Partition", "data split"])
@pytest.mark.parametrize("word", ["test", "TESTING", "Test Set", "hold-out"])
def test_what_a_column_calls_the_test_is_never_trained_on(tmp_path, column, word, caplog):
    files = clinic(tmp_path / "clinic")
    rows = [{"file_name": f, column: word if i > 5 else "train"} for i, f in enumerate(files)]
    write_table(tmp_path / "clinic" / "metadata.csv", rows)
    assert loading.load([str(tmp_path / "clinic")])["shipped_split"].count("test") == 2
    assert "2 images of" in caplog.text and "are the test by its table's split" in caplog.text


def test_close_ups_are_left_out_of_class_folders(tmp_path, caplog):
    files = clinic(tmp_path / "clinic")
    kinds = ["clinical: close-up", "dermoscopic", "TBP tile: close-up", "Dermoscopy"] * 2
    rows = [{"file_name": f, "image_type": kind} for f, kind in zip(files, kinds, strict=True)]
    write_table(tmp_path / "clinic" / "metadata.csv", rows)
    assert len(loading.load([str(tmp_path / "clinic")])) == 4
    assert "that are no dermoscopy: 2 clinical: close-up, 2 TBP tile: close-up" in caplog.text


@pytest.mark.parametrize("place", ["split folders", "paths"])
def test_file_names_that_begin_anew_in_each_folder_are_told_apart_by_their_folders(tmp_path, place):
    for folder, label in (("train", "nevus"), ("test", "melanoma")):
        (tmp_path / folder).mkdir()
        rows = []
        for i in range(3):
            picture(i + 10 * len(label)).save(tmp_path / folder / f"{i}.png")
            rows.append({"file_name": f"{i}.png", "label": label})
        write_table(tmp_path / folder / "metadata.csv", rows)
    if place == "paths":
        for folder in ("train", "test"):
            (tmp_path / folder / "metadata.csv").unlink()
        rows = [("train", "nevus"), ("test", "melanoma")]
        rows = [{"file_name": f"{f}\\{i}.png", "label": label} for f, label in rows for i in range(3)]
        write_table(tmp_path / "metadata.csv", rows)
    found = loading.load([str(tmp_path)])
    assert sorted(zip(found["shipped_split"], found["label"], strict=True)) == [("test", 3)] * 3 + [("train", 4)] * 3


def test_what_is_not_used_is_said_with_a_count_and_the_first_names(tmp_path, caplog):
    files = clinic(tmp_path / "clinic")
    write_table(tmp_path / "clinic" / "other.csv", [{"image": f"q{i}", "age": 5} for i in range(3)])
    rows = [{"file_name": f, "lesion_id": 1, "patient_name_hash": 2} for f in [*files[:6], "nevus/gone.png"]]
    write_table(tmp_path / "clinic" / "metadata.csv", rows)
    (tmp_path / "clinic" / "scan.dcm").write_bytes(b"1")
    write_table(tmp_path / "clinic" / "notes.csv", [{"a": 1}])
    loading.load([str(tmp_path / "clinic")])
    for sentence in (
        "'other.csv' in '{}' means no image that is there, so that its 3 rows are not used: q0, q1, q2",
        "1 rows of '{}' have no image: nevus/gone.png",
        "2 images in '{}' have no row: ",
        "1 columns of 'metadata.csv' are not used (--columns FIELD=COLUMN reads one): patient_name_hash",
        "1 files in '{}' are neither images nor tables: scan.dcm",
        "1 tables have no column that names an image, and are not used: notes.csv",
    ):
        assert sentence.format(tmp_path / "clinic") in caplog.text


def test_a_ground_truth_whose_cells_cannot_be_read_is_not_taken_for_one_of_benign_and_malignant(tmp_path):
    (tmp_path / "set").mkdir()
    picture(1).save(tmp_path / "set" / "a.png")
    (tmp_path / "set" / "GroundTruth.csv").write_text("image,MEL,NV\na,high,low\n")
    with pytest.raises(UsageError, match=r"has no image of the nine diagnoses: 1 without a diagnosis"):
        loading.load([str(tmp_path / "set")])


@pytest.mark.parametrize("places", [("a/images", "b/images"), ("x/clinic", "y/ward")])
def test_patients_of_two_clinics_stay_two(tmp_path, places):
    for n, place in enumerate(places):
        root = class_folders(tmp_path / place, images=2, first_seed=100 * n, labels=("nevus",))
        rows = [{"image": p.stem, "patient_id": f"patient_{i}"} for i, p in enumerate(sorted(root.rglob("*.png")))]
        write_table(root / "metadata.csv", rows)
    found = loading.load([str(tmp_path / place) for place in places])
    assert len(set(found["patient_id"])) == len(set(found["group"])) == 4


@pytest.mark.parametrize(
    "name",
    [
        "\uff29\uff33\uff29\uff23\uff3f\uff10\uff10\uff12\uff15\uff18\uff11\uff18.jpg",
        "ISIC\u20110025818",
        "ISIC__0025818",
        "ISIC%5F0025818",
    ],
)
def test_an_archive_number_is_found_however_its_dash_is_written(name):
    assert identifiers.archive_number(name) == "ISIC_0025818"


def test_two_archive_numbers_in_one_name_are_no_number():
    assert identifiers.archive_number("ISIC_0025818_0025819.png") is None


@pytest.mark.parametrize("text", ["1,000", "2.000", "1.000"])
def test_thousands_are_not_taken_for_decimals(text):
    assert identifiers.person(text) == text


@pytest.mark.parametrize(
    "text", ["N.A.", "n.a.", "not applicable", "n/d", "(null)", "<null>", "keine Angabe", "\u2014"]
)
def test_words_for_nothing_are_nobody(text):
    assert identifiers.is_nobody(text)


@pytest.mark.parametrize("kind", ["non-dermoscopic", "not dermoscopy", "clinical (no dermatoscope)"])
def test_a_picture_that_is_called_no_dermoscopy_is_none(kind):
    assert table_cells.kind_of({"type": kind}, {"image_type": "type"}) == kind


@pytest.mark.parametrize(
    ("word", "split"),
    [("private_test", "test"), ("test1", "test"), ("train_1", "train"), ("Validate", "train"), ("evaluation", "train")],
)
def test_usual_words_for_a_split_are_known(word, split):
    assert shipped_splits.split_of({"part": word}, {"split": "part"}) == split


def test_an_unknown_word_for_a_split_is_said(caplog):
    assert shipped_splits.split_of({"part": "moonlight"}, {"split": "part"}) is None
    assert "a split column says 'moonlight'" in caplog.text


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("ISIC_25818", "ISIC_0025818"),
        ("isic-254321.jpg", "ISIC_0254321"),
        ("ISIC 10003_aug_1", "ISIC_0010003"),
        ("ISIC_2019", None),
        ("ISIC_7", None),
        ("isic_25818_25819", None),
        ("ISIC_02581", None),
    ],
)
def test_an_archive_number_without_its_leading_zeros_is_known_and_a_year_is_none(name, number):
    assert identifiers.archive_number(name) == number


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Scan-7 b", "scan_7_b"),
        ("left arm.png", "left_arm"),
        ("P 1", "p-1"),
        ("2020-01-02", "2020_01_02"),
        ("P1", "P_1"),
    ],
)
def test_what_parts_the_words_of_a_name_does_not_count(one, other):
    assert identifiers.key(one) == identifiers.key(other)


@pytest.mark.parametrize(("one", "other"), [("1-2", "12"), ("a1_2", "a12"), ("3 04", "304"), ("-1", "1")])
def test_what_parts_two_numbers_counts(one, other):
    assert identifiers.key(one) != identifiers.key(other)


@pytest.mark.parametrize("text", ["ip-1234567", "IP 1234567", "IP_1234567"])
def test_a_patient_of_the_archive_has_one_spelling(text):
    assert identifiers.is_archive_id(text) and identifiers.person(text) == "IP_1234567"


@pytest.mark.parametrize(
    "word",
    [
        "xxx",
        "XX",
        "P?",
        "patient ?",
        "patient_-1",
        "Pat -99",
        "case--1",
        "n.a.",
        "tbd",
        "T.B.D.",
        "anonymous",
        "N o n e",
    ]
    + ["not-known", "de-identified", "#REF!", "#VALUE!", "\u22121", "***", "inf", "Patient No.", "not_provided"],
)
def test_further_placeholders_are_nobody(word):
    assert identifiers.is_nobody(word)


@pytest.mark.parametrize("word", ["X", "x1", "P", "case-1", "NH", "patient_1?2", "Nan Li", "9-1", "unknown_7"])
def test_further_ids_are_somebody(word):
    assert not identifiers.is_nobody(word)


@pytest.mark.parametrize(
    "word",
    ["未知", "no consta", "sin identificar", "geen gegevens", "not yet entered", "to be assigned", "anonymous donor"]
    + ["нет данных", "مجهول", "미상", "ffffffff-ffff-ffff-ffff-ffffffffffff", "Undisclosed", "unknown (ask ward)"]
    + ["nicht bekannt", "non renseigné", "UNK-P", r"\N", "00000000-0000-0000-0000-000000000000"],
)
def test_words_for_nobody_are_known_in_several_languages(word):
    assert identifiers.is_nobody(identifiers.person(word))


@pytest.mark.parametrize(
    "word", ["No Min-ho", "Sin Wei", "Leer Hans", "trunk, unspecified", "김민수", "Not-7", "Nobel"]
)
def test_names_that_only_begin_like_a_word_for_nobody_are_somebody(word):
    assert not identifiers.is_nobody(word)


@pytest.mark.parametrize("mark", ["case-000", "ID 0", "00-00", "unbekannt 3", "99", "1e300", "x", "NN", "UNK-7"])
def test_a_mark_for_nobody_that_has_most_images_joins_none_and_is_said(tmp_path, mark, caplog):
    assert patients(tmp_path / "clinic", [mark] * 5 + ["K1", "K2"]) == 7
    assert f"'{mark}' is no patient: 5 images" in caplog.text


@pytest.mark.parametrize(
    "ids",
    [
        ["P000", "P000", "P001", "P001", "P002", "P002"],
        ["unknown_1", "unknown_1", "unknown_2", "unknown_2", "unknown_3"],
        ["u", "u", "u", "v", "w"],
        ["98", "98", "99", "99", "99", "99", "99", "99", "99", "1"],
    ],
)
def test_what_could_be_nobody_is_somebody_among_others_of_its_kind(tmp_path, ids):
    assert patients(tmp_path / "clinic", ids) == len(set(ids))


def patients(root: Path, ids: list[str]) -> int:
    """Return how many groups images of these patients are."""
    class_folders(root, images=len(ids), labels=("nevus",))
    rows = [{"file_name": p.name, "patient_id": one} for p, one in zip(sorted(root.rglob("*.png")), ids, strict=True)]
    write_table(root / "metadata.csv", rows)
    return len(set(loading.load([str(root)])["group"]))


@pytest.mark.parametrize("mark", ["9999", "99999", "P9999", "999"])
def test_a_number_of_nines_that_none_comes_before_is_nobody(tmp_path, mark, caplog):
    assert patients(tmp_path / "clinic", [mark] * 4 + ["1", "2", "2"]) == 6
    assert f"'{mark}' is no patient: 4 images" in caplog.text and "a mark for what is missing" in caplog.text


def test_a_number_of_nines_in_a_row_of_numbers_is_somebody(tmp_path):
    assert patients(tmp_path / "clinic", ["9998", "9999", "9999", "9999"]) == 2


def test_two_words_for_nobody_do_not_excuse_each_other(tmp_path):
    assert patients(tmp_path / "clinic", ["walk-in"] * 25 + ["street"] * 25 + ["1", "1", "2", "3", "4"]) == 54


def test_a_few_patients_of_many_images_each_are_people(tmp_path):
    assert patients(tmp_path / "clinic", ["1"] * 25 + ["2"] * 30 + ["3"] * 3) == 3


def test_ids_that_differ_by_what_parts_them_are_one_patient_and_that_is_said(tmp_path, caplog):
    assert patients(tmp_path / "clinic", ["P-1", "p 1", "P_1", "P1-2", "P12"]) == 3
    assert "are spelt in several ways, and taken for one: P-1, P_1, p 1" in caplog.text


@pytest.mark.parametrize(
    ("names_of_files", "row", "lesion_of"),
    [
        (("a_1", "a1"), "a1", {"a_1": None, "a1": "clinic: L1"}),
        (("scan-7", "scan_8"), "scan 7", {"scan-7": "clinic: L1", "scan_8": None}),
        (("b 1", "b-1"), "b_1", {"b 1": None, "b-1": None}),
    ],
)
def test_files_that_a_row_cannot_tell_apart_are_not_merged(tmp_path, names_of_files, row, lesion_of, caplog):
    (tmp_path / "clinic" / "nevus").mkdir(parents=True)
    for i, name in enumerate(names_of_files):
        picture(i).save(tmp_path / "clinic" / "nevus" / f"{name}.png")
    write_table(tmp_path / "clinic" / "metadata.csv", [{"image": row, "lesion_id": "L1"}])
    found = loading.load([str(tmp_path / "clinic")])
    assert dict(zip(found["image_id"], found["lesion_id"], strict=True)) == lesion_of
    assert ("names are borne by different images" in caplog.text) == (row == "b_1")


@pytest.mark.parametrize(
    "column", ["image_path", "Path", "img", "file path", "FILE", "filename", "image_name", "isic_id"]
)
def test_the_column_of_images_is_known_by_its_usual_names(tmp_path, column):
    files = clinic(tmp_path / "clinic")
    write_table(tmp_path / "clinic" / "meta.csv", [{column: f, "lesion_id": i % 2} for i, f in enumerate(files)])
    assert set(loading.load([str(tmp_path / "clinic")])["group"]) == {"clinic: 0", "clinic: 1"}


@pytest.mark.parametrize(
    ("column", "test", "train"),
    [
        ("is_test", "True", "False"),
        ("Is Test", "1", "0"),
        ("isTest", "yes", "no"),
        ("in_train", "f", "t"),
        ("Phase", "PublicTest", "Training"),
        ("usage", "holdout set", "dev"),
        ("fold", "test", "train"),
        ("split", "te", "tr"),
        ("Hold-out", "1", "0"),
        ("subset", "testset2", "trainset1"),
    ],
)
def test_a_column_that_plainly_says_a_split_is_one(tmp_path, column, test, train):
    files = clinic(tmp_path / "clinic")
    rows = [{"file_name": f, column: test if i > 5 else train} for i, f in enumerate(files)]
    write_table(tmp_path / "clinic" / "metadata.csv", rows)
    assert sorted(loading.load([str(tmp_path / "clinic")])["shipped_split"]) == ["test"] * 2 + ["train"] * 6


@pytest.mark.parametrize("column", ["fold", "split", "Set"])
def test_folds_by_number_are_no_split_and_are_said(tmp_path, column, caplog):
    files = clinic(tmp_path / "clinic")
    rows = [{"file_name": f, column: i % 5, "subset": "test" if i > 5 else "train"} for i, f in enumerate(files)]
    write_table(tmp_path / "clinic" / "metadata.csv", rows)
    assert loading.load([str(tmp_path / "clinic")])["shipped_split"].count("test") == 2
    assert "1 columns of 'metadata.csv' are not used" in caplog.text
    assert "a split column says" not in caplog.text


def test_every_column_that_is_not_used_is_said_in_one_line(tmp_path, caplog):
    files = clinic(tmp_path / "clinic")
    more = {"camera": "x", "": 1, "Biopsy": "yes", "lesion_code": "K1", "phase": 3, "lesion_id": 4, "sex": "f"}
    write_table(tmp_path / "clinic" / "metadata.csv", [{"file_name": f, **more} for f in files])
    loading.load([str(tmp_path / "clinic")])
    said = [m for m in caplog.messages if "columns" in m]
    assert len(said) == 1
    assert "5 columns of 'metadata.csv' are not used" in said[0]
    assert said[0].endswith(": lesion_code, phase, camera, (without a name), Biopsy")


def test_a_column_that_stands_twice_and_rows_that_are_too_long_are_said(tmp_path, caplog):
    files = clinic(tmp_path / "clinic")
    lines = ["file_name,lesion_id,lesion_id", *(f"{f},L{i % 2},K" + ",1" * (i == 3) for i, f in enumerate(files))]
    (tmp_path / "clinic" / "metadata.csv").write_text("\n".join(lines))
    assert set(loading.load([str(tmp_path / "clinic")])["group"]) == {"clinic: L0", "clinic: L1"}
    assert "1 columns of 'metadata.csv' are not used (--columns FIELD=COLUMN reads one): lesion_id (2)" in caplog.text
    assert (
        f"1 rows of 'metadata.csv' have more cells than it has columns, and may be shifted: {files[3]}" in caplog.text
    )


@pytest.mark.parametrize("column", ["case_id", "Case Number", "participant_id"])
def test_the_images_of_one_case_are_one_persons(tmp_path, column):
    files = clinic(tmp_path / "clinic")
    write_table(tmp_path / "clinic" / "metadata.csv", [{"file_name": f, column: i // 4} for i, f in enumerate(files)])
    assert len(set(loading.load([str(tmp_path / "clinic")])["group"])) == 2


def test_a_case_beside_a_patient_is_not_used_and_said(tmp_path, caplog):
    files = clinic(tmp_path / "clinic")
    rows = [{"file_name": f, "case_id": i, "patient_id": i % 2} for i, f in enumerate(files)]
    write_table(tmp_path / "clinic" / "metadata.csv", rows)
    assert len(set(loading.load([str(tmp_path / "clinic")])["group"])) == 2
    assert "1 columns of 'metadata.csv' are not used (--columns FIELD=COLUMN reads one): case_id" in caplog.text


@pytest.mark.parametrize(
    "places",
    [
        ("north/images_2024", "south/images_2024"),
        ("a/derm", "b/derm"),
        ("x/ward/derm", "y/ward/derm"),
        ("a/b/2024", "c/2024"),
    ],
)
def test_two_folders_of_one_name_share_no_patients(tmp_path, places):
    for n, place in enumerate(places):
        root = class_folders(tmp_path / place, images=2, first_seed=100 * n, labels=("nevus",))
        write_table(root / "metadata.csv", [{"image": p.stem, "patient_id": 1} for p in root.rglob("*.png")])
    found = loading.load([str(tmp_path / place) for place in places])
    assert len(set(found["group"])) == 2 and found["group"][0] == found["group"][1]


@pytest.mark.parametrize(
    "places",
    [
        ("main1", "main2"),
        ("export1", "export2"),
        ("raw 2018", "raw 2021", "raw"),
        ("3/photos", "4/photos"),
        ("train1", "train2", "test"),
        ("pictures", "images"),
    ],
)
def test_folders_that_are_given_together_share_no_patients_whatever_their_names_and_that_is_said(
    tmp_path, places, caplog
):
    for n, place in enumerate(places):
        root = class_folders(tmp_path / place, images=2, first_seed=100 * n, labels=("nevus",))
        rows = [{"image": p.stem, "patient_id": i} for i, p in enumerate(sorted(root.rglob("*.png")))]
        write_table(root / "metadata.csv", rows)
    found = loading.load([str(tmp_path / place) for place in places])
    assert len(set(found["group"])) == len(set(found["patient_id"])) == 2 * len(places)
    assert "count as different people's" in caplog.text


def test_two_folders_of_one_clinic_share_its_patients(tmp_path):
    for n, place in enumerate(("clinic/train", "clinic/test_2024")):
        root = class_folders(tmp_path / place, images=2, first_seed=100 * n, labels=("nevus",))
        write_table(root / "metadata.csv", [{"image": p.stem, "patient_id": "P1"} for p in root.rglob("*.png")])
    found = loading.load([str(tmp_path / "clinic" / name) for name in ("train", "test_2024")])
    assert set(found["group"]) == {"clinic: P1"}


def test_what_a_folders_ids_are_called_does_not_hang_on_its_place_where_no_other_has_its_name(tmp_path):
    for place in ("a/derm", "b/skin"):
        root = class_folders(tmp_path / place, images=2, labels=("nevus",))
        write_table(root / "metadata.csv", [{"image": p.stem, "patient_id": 1} for p in root.rglob("*.png")])
    found = loading.load([str(tmp_path / "a/derm"), str(tmp_path / "b/skin")], merge=False)
    assert set(found["patient_id"]) == {"derm: 1", "skin: 1"}
    beside = loading.load([str(tmp_path / "a/derm")], beside=[str(tmp_path / "c"), str(tmp_path / "a/derm")])
    assert set(beside["patient_id"]) == {"derm: 1"}


LISTS = {
    "metadata.jsonl": lambda rows, path: path.write_text("".join(json.dumps(row) + "\n" for row in rows)),
    "metadata.parquet": lambda rows, path: pq.write_table(pa.Table.from_pylist(rows), path),
    "metadata.csv": lambda rows, path: write_table(path, rows),
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("label", [["melanoma"], ["nevus", "melanoma"]])
def test_a_list_as_a_label_is_refused_as_a_list(tmp_path, kind, label):
    (tmp_path / "set").mkdir()
    for i in range(2):
        picture(i).save(tmp_path / "set" / f"{i}.png")
    LISTS[kind]([{"file_name": f"{i}.png", "label": label} for i in range(2)], tmp_path / "set" / kind)
    with pytest.raises(UsageError, match=r"a list .*, not one name: give each image one") as error:
        loading.load([str(tmp_path / "set")])
    assert "none of the nine" not in str(error.value)


def test_of_two_columns_of_splits_the_one_that_has_a_test_counts(tmp_path, caplog):
    files = clinic(tmp_path / "clinic")
    rows = [{"file_name": f, "split": "train", "is_test": i > 5} for i, f in enumerate(files)]
    write_table(tmp_path / "clinic" / "metadata.csv", rows)
    assert loading.load([str(tmp_path / "clinic")])["shipped_split"].count("test") == 2
    assert "1 columns of 'metadata.csv' are not used (--columns FIELD=COLUMN reads one): split" in caplog.text


@pytest.mark.parametrize("number", ["25818", "0025818", "25818.0", "ISIC_25818"])
@pytest.mark.parametrize("file", ["ISIC_0025818.png", "ISIC_25818.png", "isic_0025818_resized.png"])
def test_a_number_in_the_archives_own_column_is_the_archives(tmp_path, number, file):
    (tmp_path / "set").mkdir()
    picture(1).save(tmp_path / "set" / file)
    write_table(tmp_path / "set" / "metadata.csv", [{"isic_id": number, "diagnosis": "nevus"}])
    assert loading.load([str(tmp_path / "set")])["label"] == [4]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_line_that_tells_spreadsheets_what_parts_columns_is_no_header(tmp_path, encoding):
    files = clinic(tmp_path / "clinic")
    lines = ["sep=;", "image;lesion_id", *(f"{f};{i % 2}" for i, f in enumerate(files))]
    (tmp_path / "clinic" / "metadata.csv").write_text("\n".join(lines), encoding=encoding)
    assert set(loading.load([str(tmp_path / "clinic")])["group"]) == {"clinic: 0", "clinic: 1"}


def test_a_table_as_json_is_not_read_and_said(tmp_path, caplog):
    files = clinic(tmp_path / "clinic")
    (tmp_path / "clinic" / "metadata.json").write_text(json.dumps([{"file_name": f, "lesion_id": 1} for f in files]))
    assert len(set(loading.load([str(tmp_path / "clinic")])["group"])) == 8
    assert "1 files in" in caplog.text and "are neither images nor tables: metadata.json" in caplog.text


@pytest.mark.parametrize("cell", ["999", "-1", "inf", "nan", "250", "unknown", ""])
def test_an_age_that_nobody_has_is_not_known(cell):
    assert "age" not in table_cells.facts_of({"image_id": "a", "age": cell})


@pytest.mark.parametrize(("cell", "years"), [("85+", 85), ("0", 0), ("47,5", 47.5), ("61 years", 61), ("103", 103)])
def test_an_age_is_read_as_people_write_it(cell, years):
    assert table_cells.facts_of({"image_id": "a", "age": cell})["age"] == years


@pytest.mark.parametrize(
    "copy",
    ["{}_png.rf.0f3a9c", "{}_aug_7", "augmented_2_{}", "{}-aug1_jpg.rf.77", "nevus_original_{}.png_0a1b2c3d-11aa"],
)
@pytest.mark.parametrize("with_originals", [True, False])
def test_an_augmented_copy_takes_its_originals_row_of_a_clinics_own_table(tmp_path, copy, with_originals):
    root = tmp_path / "clinic"
    (root / "images").mkdir(parents=True)
    for i in range(4):
        for name in [copy.format(f"scan{i}")] + [f"scan{i}"] * with_originals:
            picture(i + 10 * len(name)).save(root / "images" / f"{name}.png")
    rows = [{"image": f"scan{i}.png", "dx": "nv", "patient_id": i // 2, "split": "test"} for i in range(3)]
    write_table(root / "list.csv", [*rows, rows[0] | {"image": "scan3.png", "split": "train", "patient_id": 9}])
    found = loading.load([str(root)])
    assert len(found) == 4 * (1 + with_originals)
    assert list(found["shipped_split"]).count("test") == 3 * (1 + with_originals)
    assert set(found["group"]) == {"clinic: 0", "clinic: 1", "clinic: 9"}


def test_copies_of_two_images_of_one_name_take_no_row(tmp_path, caplog):
    for i, place in enumerate(("nevus", "melanoma")):
        (tmp_path / "clinic" / place).mkdir(parents=True)
        picture(i).save(tmp_path / "clinic" / place / "7_aug_1.png")
    write_table(tmp_path / "clinic" / "list.csv", [{"image": "7.png", "patient_id": "P"}])
    assert len(set(loading.load([str(tmp_path / "clinic")])["group"])) == 2
    assert "borne by different images" in caplog.text


@pytest.mark.parametrize(
    ("row", "files", "known"),
    [
        ("DSC_42", ["DSC_0042", "DSC_0420"], ["DSC_0042"]),
        ("wart 007.0", ["wart7", "wart70"], ["wart7"]),
        ("a-2020-1-3", ["a_2020_01_03"], ["a_2020_01_03"]),
        ("DSC_42", ["DSC_0042", "DSC_042"], []),
        ("x1", ["x1", "x01"], ["x1"]),
    ],
)
def test_a_row_that_has_lost_its_leading_zeros_means_the_one_file_of_that_number(tmp_path, row, files, known):
    (tmp_path / "clinic" / "nevus").mkdir(parents=True)
    for i, name in enumerate(files):
        picture(i).save(tmp_path / "clinic" / "nevus" / f"{name}.png")
    write_table(tmp_path / "clinic" / "list.csv", [{"image": row, "patient_id": "P"}])
    found = loading.load([str(tmp_path / "clinic")])
    assert [name for name, p in zip(found["image_id"], found["patient_id"], strict=True) if p] == known


@pytest.mark.parametrize("ids", [["M007", "M7", "m 07"], ["12-03", "12-3", "012-3"], ["case 0400", "case400", "400.0"]])
def test_ids_that_differ_by_leading_zeros_are_one_and_that_is_said(tmp_path, ids, caplog):
    assert patients(tmp_path / "clinic", [*ids, "Z1", "Z10"]) == (3 if "400.0" not in ids else 4)
    assert "are spelt in several ways, and taken for one" in caplog.text


def test_ids_that_differ_by_leading_zeros_are_two_where_their_sexes_tell(tmp_path):
    root = class_folders(tmp_path / "clinic", images=4, labels=("nevus",))
    rows = [{"file_name": p.name} for p in sorted(root.rglob("*.png"))]
    for row, one, sex in zip(rows, ["P01", "P01", "P1", "P1"], ["male", "male", "female", ""], strict=True):
        row |= {"patient_id": one, "sex": sex}
    write_table(root / "metadata.csv", rows)
    assert len(set(loading.load([str(root)])["group"])) == 2


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("ISIC_031246", "ISIC_0031246"),
        ("isic31246.jpg", "ISIC_0031246"),
        ("ISIC_00031246_aug_1", "ISIC_0031246"),
        ("ISIC:0031246", "ISIC_0031246"),
        ("ISIC%200031246", "ISIC_0031246"),
        ("isic201912", None),
        ("ISIC_2019", None),
        ("isic_00312461", None),
        ("ISIC_031246_031247", None),
        ("music31246", None),
        ("ISIC_0031246_7654321", None),
    ],
)
def test_an_archive_number_with_a_zero_too_few_or_too_many_is_known(name, number):
    assert identifiers.archive_number(name) == number


@pytest.mark.parametrize("column", ["image_id", "image", "file_name"])
@pytest.mark.parametrize("spelt", [str, "{:07d}".format, "{}.0".format])
def test_bare_archive_numbers_in_a_column_of_images_are_the_archives(tmp_path, column, spelt):
    root = tmp_path / "set"
    root.mkdir()
    for i in range(3):
        picture(i).save(root / f"ISIC_{31246 + i:07d}.png")
    write_table(root / "metadata.csv", [{column: spelt(31246 + i), "diagnosis": "nevus"} for i in range(3)])
    assert list(loading.load([str(root)])["label"]) == [4, 4, 4]


def test_a_running_count_beside_archive_images_is_no_archive_number(tmp_path):
    root = tmp_path / "set" / "nevus"
    root.mkdir(parents=True)
    picture(1).save(root / "ISIC_0010002.png")
    write_table(root.parent / "list.csv", [{"image_id": i, "patient_id": "P"} for i in range(9998, 10008)])
    assert loading.load([str(root.parent)])["patient_id"][0] is None


@pytest.mark.parametrize("one", ["IP_200000{}", "HAM_000000{}", "IL-2024050{}", "MSK 77777{}", "bcn_123456{}"])
def test_a_clinics_own_ids_of_the_archives_form_are_its_own(tmp_path, one):
    for n, place in enumerate(("north", "south")):
        (tmp_path / place / "nevus").mkdir(parents=True)
        for i in range(3):
            picture(10 * n + i).save(tmp_path / place / "nevus" / f"scan{n}{i}.png")
        rows = [{"image": f"scan{n}{i}.png", "patient_id": one.format(i)} for i in range(3)]
        write_table(tmp_path / place / "list.csv", rows)
    assert len(set(loading.load([str(tmp_path / place) for place in ("north", "south")])["group"])) == 6


def test_the_archives_ids_are_shared_by_all_images_of_a_source_of_its_images(tmp_path):
    for n, file in enumerate(("ISIC_9100000", "ISIC_9100001")):
        (tmp_path / f"set{n}" / "nevus").mkdir(parents=True)
        for i, name in enumerate((file, f"scan{n}")):
            picture(10 * n + i).save(tmp_path / f"set{n}" / "nevus" / f"{name}.png")
        rows = [{"image": f"{name}.png", "patient_id": "IP_2000001"} for name in (file, f"scan{n}")]
        write_table(tmp_path / f"set{n}" / "list.csv", rows)
    found = loading.load([str(tmp_path / "set0"), str(tmp_path / "set1")])
    assert set(found["group"]) == {"IP_2000001"}
