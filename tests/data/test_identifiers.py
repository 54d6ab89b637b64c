"""One thing under two spellings, and two things under nearly one: names of files, columns, people and numbers."""

import csv
import itertools
import json
import shutil
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import support.loading
from datasets import Dataset
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


def photos(folder: Path, *names: str, first_seed: int = 0) -> Path:
    """Write a picture under each name; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        picture(first_seed + i).save(folder / name, "PNG")
    return folder


def clinic(root: Path, *, spelt=lambda name: name) -> list[str]:
    """The files of two lesions, four photos each, in class folders."""
    files = [f"{('nevus', 'melanoma')[i % 2]}/{spelt(f'photo_{i}.png')}" for i in range(8)]
    for i, file in enumerate(files):
        photos((root / file).parent, Path(file).name, first_seed=i)
    return files


def write_rows(path: Path, rows: list[dict]) -> None:
    """Write a table in the format that its suffix says."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write_table(path, rows)


def load(root: Path, rows: list[dict] | None = None, name: str = "metadata.csv") -> Dataset:
    """A data set, after these rows are written beside its images."""
    if rows:
        write_rows(root / name, rows)
    return loading.load([str(root)]).dataset


def groups(dataset: Dataset) -> int:
    return len(set(dataset["group"]))


def patients(root: Path, ids: list[str]) -> int:
    """How many groups images of these patients are."""
    class_folders(root, images=len(ids), labels=("nevus",))
    files = sorted(root.rglob("*.png"))
    return groups(load(root, [{"file_name": p.name, "patient_id": one} for p, one in zip(files, ids, strict=True)]))


# Names and numbers.


@pytest.mark.parametrize(
    "name",
    ["ISIC_0025818_jpg.rf.abc123", "isic_0025818", "ISIC-0025818", "ISIC_0025818_aug_0", "ISIC_0025818 (1)"]
    + ["ISIC_0025818_resized_224", "ISIC_0025818_downsampled", "aug_3_ISIC_0025818", "mirrored-x_ISIC_0025818-Kopie"]
    + ["\uff29\uff33\uff29\uff23\uff3f\uff10\uff10\uff12\uff15\uff18\uff11\uff18.jpg", "ISIC\u20110025818"]
    + ["ISIC__0025818", "ISIC%5F0025818", "ISIC:0025818", "ISIC%200025818"]
    # Without its leading zeros, or with one too few or too many.
    + ["ISIC_25818", "isic25818.jpg", "ISIC 25818_aug_1", "ISIC_025818", "ISIC_00025818_aug_1"],
)
def test_the_archives_number_is_read_from_longer_names_however_it_is_written(name):
    assert identifiers.archive_number(name) == "ISIC_0025818"


@pytest.mark.parametrize(
    "name",
    ["ISIC_00258181", "ISIC_002581", "ISIC_02581", "ISIC_7", "0025818", "", "basic_photo_0025818", "music31246"]
    + ["ISIC_2019", "isic201912"]  # years
    + ["ISIC_0025818_ISIC_0025819", "ISIC_0025818_0025819.png", "isic_25818_25819", "ISIC_031246_031247"],
)
def test_other_numbers_and_two_of_them_are_not_the_archives(name):
    assert identifiers.archive_number(name) is None
    assert identifiers.archive_number("isic-254321.jpg") == "ISIC_0254321"


@pytest.mark.parametrize(
    ("one", "other"),
    [("a.JPG", "a"), ("Mole.jpeg.jpg", "mole.png"), ("0017.png", "17.0"), ("17", "0017.jfif")]
    + [("re\u0301sume\u0301.tif", "R\u00c9SUM\u00c9"), ("a\u00a0b.jpg", "a b")]
    + [("\ufeffscan_1", "scan_1.webp"), ("scan\u200b_1.jpg ", "scan_1")]
    # What parts the words of a name does not count.
    + [("Scan-7 b", "scan_7_b"), ("left arm.png", "left_arm"), ("P 1", "p-1"), ("2020-01-02", "2020_01_02")]
    + [("P1", "P_1")],
)
def test_two_spellings_of_one_name_have_one_normal_form(one, other):
    assert identifiers.key(identifiers.clean(one)) == identifiers.key(identifiers.clean(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [("1_1", "11"), ("a1", "a01"), ("a.b.jpg", "a.jpg"), ("0", "1")]
    # What parts two numbers counts.
    + [("1-2", "12"), ("a1_2", "a12"), ("3 04", "304"), ("-1", "1")],
)
def test_two_names_stay_two(one, other):
    assert identifiers.key(one) != identifiers.key(other)


@pytest.mark.parametrize(
    ("cell", "number"),
    [("1,0", 1.0), ("0.5", 0.5), (" 1 ", 1.0), (True, 1.0), ("true", 1.0), (3, 3.0)]
    + [("", None), ("x", None), (None, None)],
)
def test_numbers_are_read_with_either_decimal_mark(cell, number):
    assert identifiers.number(cell) == number


@pytest.mark.parametrize("text", ["1,000", "2.000", "1.000"])
def test_thousands_are_not_taken_for_decimals(text):
    assert identifiers.person(text) == text


@pytest.mark.parametrize(
    "word",
    ["-1", "-1.0", "-99", "\u22121", "?", "***", "\u2014", "", "xxx", "XX", "P?", "inf", "NaN", r"\N"]
    + ["Unknown", "N/A", "#N/A", "N.A.", "n.a.", "n/d", "null", "(null)", "<null>", "#REF!", "#VALUE!", "tbd", "T.B.D."]
    + ["N o n e", "anonymous", "anonymous donor", "not applicable", "not-known", "not_provided", "de-identified"]
    + ["Undisclosed", "not yet entered", "to be assigned", "unknown (ask ward)", "UNK-P", "Patient No."]
    + ["patient_unknown", "patient ?", "patient_-1", "Pat -99", "case--1"]
    + ["keine Angabe", "nicht bekannt", "no consta", "sin identificar", "geen gegevens", "non renseigné"]
    + ["未知", "нет данных", "مجهول", "미상"]
    + ["ffffffff-ffff-ffff-ffff-ffffffffffff", "00000000-0000-0000-0000-000000000000"],
)
def test_a_placeholder_is_nobody(word):
    assert identifiers.is_nobody(word) and identifiers.is_nobody(identifiers.person(word))


@pytest.mark.parametrize(
    "word",
    ["1", "0", "P1", "P", "X", "x1", "NH", "9-1", "a-1", "patient_1", "case-1", "IP_0000001", "patient_1?2"]
    + ["unknown_7", "Not-7", "trunk, unspecified"]
    + ["Nguyen", "Nan Li", "No Min-ho", "Sin Wei", "Leer Hans", "김민수", "Nobel"],
)
def test_an_id_is_somebody_even_if_it_begins_like_a_word_for_nobody(word):
    assert not identifiers.is_nobody(word)


@pytest.mark.parametrize(
    ("word", "shared"),
    [(word, True) for word in ("HAM_0000118", "ip_0001234", "IL_1612768", "MSK4_0011191", "BCN_0000045")]
    + [(word, True) for word in ("ip-1234567", "IP 1234567")]
    + [(word, False) for word in ("patient_1", "case_12", "PAT_8", "IP_1", "HAM_12", "ip-ward_0000001")],
)
def test_ids_of_the_archive_are_shared_and_others_their_sources_own(word, shared):
    assert identifiers.is_archive_id(word) == shared


@pytest.mark.parametrize("text", ["ip-1234567", "IP 1234567", "IP_1234567"])
def test_a_patient_of_the_archive_has_one_spelling(text):
    assert identifiers.person(text) == "IP_1234567"


@pytest.mark.parametrize(
    ("raw", "fields"),
    [
        (["Image ID", "LESION-ID", "Dx"], ["image_id", "lesion_id", "dx"]),
        (["\ufeffimage_name", " Patient_Id ", "Age Approx"], ["image_name", "patient_id", "age_approx"]),
        (["ImageName", "lesionId", "mel", "nv"], ["image_name", "lesion_id", "MEL", "NV"]),
        (["Image_ID", "image_id"], ["Image_ID", "image_id"]),
    ],
)
def test_columns_are_recognised_however_they_are_written(raw, fields):
    assert table_columns.headers(raw) == fields


@pytest.mark.parametrize(
    "name",
    ["PAT_46_881_939", "PAT_46_881_939_jpg.rf.77cd01", "pat_46_881_939_flipped", "PAT-46-881-939 (2)"]
    + ["augmented_3_PAT_46_881_939", "Copy of Pat 46 881 939.png", "PAT_046_881_939_224x224"]
    + ["PAT\u201346\u2013881\u2013939"],
)
def test_patient_and_lesion_of_pad_ufes_are_found_in_longer_names(name):
    assert identifiers.pad_ufes(name) == ("PAT_46", "PAT_46_881")


@pytest.mark.parametrize(
    "name", ["PAT_46_881", "PAT_2024_03_15_001", "spat_46_881_939", "PAT_4_8_9_PAT_5_8_9", "PAT_46_881_"]
)
def test_other_names_tell_no_patient_of_pad_ufes(name):
    assert identifiers.pad_ufes(name) is None


@pytest.mark.parametrize("name", ["common_nevus", "Atypical-Nevus", "naevus", "Naevi", "dysplastic naevus"])
def test_other_words_for_a_nevus(name):
    assert taxonomy.find(name) == "nevus"
    assert taxonomy.find("SK") == taxonomy.find("seborrhoeic keratosis") == "seborrheic keratosis"


NAMES = {
    "Roboflow": lambda stem, i: f"{stem}_jpg.rf.{i:08x}",
    "small letters and dashes": lambda stem, _: stem.lower().replace("_", "-"),
    "resized, in front": lambda stem, _: f"x_{stem}_resized",
}


@pytest.mark.parametrize("how", NAMES)
def test_the_metadata_of_the_nine_class_set_is_found_under_longer_names(how):
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
    dataset = near_duplicates.link(load(tmp_path / "set"))
    _, report = label_repair.repair(dataset)
    assert sum(sum(to.values()) for to in report.relabelled.values()) == 158
    assert len(splits.clean_test(dataset)) == 74


# Rows and the files that they mean.

SPELLINGS = {
    "drive and back slashes": lambda path: "D:\\export\\" + path.replace("/", "\\"),
    "mixed separators": lambda path: "./" + path.replace("/", "\\"),
    "another suffix": lambda path: path.rpartition(".")[0] + ".JPEG",
    "no suffix, blanks around": lambda path: f"\u00a0{Path(path).stem} ",
    "two suffixes": lambda path: path + ".jpg",
    "capitals": lambda path: Path(path).name.upper(),
    "byte order mark inside": lambda path: "\ufeff" + path,
}


@pytest.mark.parametrize(
    ("spelling", "kind"), list(zip(SPELLINGS, itertools.cycle(["csv", "jsonl", "parquet"]), strict=False))
)
def test_a_table_beside_class_folders_finds_its_images_however_it_spells_them(tmp_path, spelling, kind):
    files = clinic(tmp_path / "clinic")
    rows = [{"File Name": SPELLINGS[spelling](f), "Lesion ID": f"L{i % 2}"} for i, f in enumerate(files)]
    assert set(load(tmp_path / "clinic", rows, f"metadata.{kind}")["group"]) == {"clinic: L0", "clinic: L1"}


@pytest.mark.parametrize(
    ("spelt", "row"),
    [
        (lambda n: unicodedata.normalize("NFD", f"l\u00e9sion-\u00fc_{n}"), lambda n: unicodedata.normalize("NFC", n)),
        (lambda n: f"{int(n[6]):04d}.png", lambda n: f"{int(n)}.0"),
    ],
    ids=["composed accents", "shortened by a spreadsheet"],
)
def test_names_that_a_program_has_changed_meet_their_files(tmp_path, spelt, row):
    files = clinic(tmp_path / "clinic", spelt=spelt)
    rows = [{"image": row(Path(f).stem), "lesion_id": i % 2} for i, f in enumerate(files)]
    assert groups(load(tmp_path / "clinic", rows)) == 2


def test_two_files_whose_names_have_one_normal_form_stay_two(tmp_path):
    lesions = {"17": "L1", "0017": "L2", "a": "L3", "A": "L4"}
    photos(tmp_path / "clinic" / "nevus", *(f"{name}.png" for name in lesions))
    dataset = load(tmp_path / "clinic", [{"image": n, "lesion_id": lesion} for n, lesion in lesions.items()])
    assert dict(zip(dataset["image_id"], dataset["lesion_id"], strict=True)) == {
        name: f"clinic: {lesion}" for name, lesion in lesions.items()
    }


@pytest.mark.parametrize(
    ("files", "row", "matched"),
    [
        (["017", "0017"], "17", None),
        (["a_1", "a1"], "a1", "a1"),
        (["scan-7", "scan_8"], "scan 7", "scan-7"),
        (["b 1", "b-1"], "b_1", None),
        # A row that has lost its leading zeros means the one file of that number.
        (["DSC_0042", "DSC_0420"], "DSC_42", "DSC_0042"),
        (["wart7", "wart70"], "wart 007.0", "wart7"),
        (["a_2020_01_03"], "a-2020-1-3", "a_2020_01_03"),
        (["DSC_0042", "DSC_042"], "DSC_42", None),
        (["x1", "x01"], "x1", "x1"),
    ],
)
def test_a_row_means_the_one_file_that_it_can_mean_or_none_and_that_is_said(tmp_path, files, row, matched, caplog):
    photos(tmp_path / "clinic" / "nevus", *(f"{name}.png" for name in files))
    dataset = load(tmp_path / "clinic", [{"image": row, "lesion_id": "L1"}])
    lesions = dict(zip(dataset["image_id"], dataset["lesion_id"], strict=True))
    assert lesions == dict.fromkeys(files) | ({matched: "clinic: L1"} if matched else {})
    sentences = ("names are borne by different images", "means no image that is there")
    assert any(sentence in caplog.text for sentence in sentences) == (matched is None)


def test_an_augmented_copy_takes_the_row_of_its_archive_number(tmp_path):
    photos(tmp_path / "set", *(f"ISIC_8000001{mark}.png" for mark in ("", "_jpg.rf.0a1b", "_aug_2", " (1)")))
    dataset = load(tmp_path / "set", [{"isic_id": "ISIC_8000001", "diagnosis": "nevus", "age_approx": 50}])
    assert dataset["age"] == [50.0] * 4
    assert groups(dataset) == 1


@pytest.mark.parametrize(
    ("copy", "with_originals"),
    [("{}_png.rf.0f3a9c", True), ("{}_aug_7", False), ("augmented_2_{}", True), ("{}-aug1_jpg.rf.77", False)]
    + [("nevus_original_{}.png_0a1b2c3d-11aa", True), ("nevus_original_{}.png_0a1b2c3d-11aa", False)],
)
def test_an_augmented_copy_takes_its_originals_row_of_a_clinics_own_table(tmp_path, copy, with_originals):
    names = [copy.format(f"scan{i}") for i in range(4)] + [f"scan{i}" for i in range(4)] * with_originals
    photos(tmp_path / "clinic" / "images", *(f"{name}.png" for name in names))
    rows = [{"image": f"scan{i}.png", "dx": "nv", "patient_id": i // 2, "split": "test"} for i in range(3)]
    rows.append(rows[0] | {"image": "scan3.png", "split": "train", "patient_id": 9})
    dataset = load(tmp_path / "clinic", rows, "list.csv")
    assert len(dataset) == 4 * (1 + with_originals)
    assert list(dataset["shipped_split"]).count("test") == 3 * (1 + with_originals)
    assert set(dataset["group"]) == {"clinic: 0", "clinic: 1", "clinic: 9"}


@pytest.mark.parametrize("marks", [("_jpg.rf.00aa", "_jpg.rf.11bb"), ("", "_aug_3"), ("", "-augmented")])
def test_augmented_copies_of_one_image_are_one_group(tmp_path, marks):
    for i, mark in enumerate(marks):
        folder = tmp_path / "set" / ("train", "test")[i] / "nevus"
        photos(folder, f"one{mark}.png", f"two{mark}.png", first_seed=10 * i)
    dataset = load(tmp_path / "set")
    assert len(dataset) == 4 and groups(dataset) == 2
    assert len(splits.clean_test(dataset)) == 0


def test_copies_of_two_images_of_one_name_take_no_row(tmp_path, caplog):
    for i, place in enumerate(("nevus", "melanoma")):
        photos(tmp_path / "clinic" / place, "7_aug_1.png", first_seed=i)
    assert groups(load(tmp_path / "clinic", [{"image": "7.png", "patient_id": "P"}], "list.csv")) == 2
    assert "borne by different images" in caplog.text


def test_pictures_that_windows_has_numbered_are_different_ones(tmp_path):
    photos(tmp_path / "nevus", *(f"nevus ({i + 1}).png" for i in range(3)))
    assert groups(load(tmp_path)) == 3


def test_pad_ufes_without_its_table_has_its_patients_and_lesions_from_the_names(tmp_path):
    photos(tmp_path / "bcc", *(f"{name}.png" for name in ("PAT_8_15_820", "PAT_8_15_821", "PAT_8_16_4", "PAT_9_17_1")))
    dataset = load(tmp_path)
    assert dataset["patient_id"] == ["PAT_8"] * 3 + ["PAT_9"]
    assert dataset["lesion_id"] == ["PAT_8_15"] * 2 + ["PAT_8_16", "PAT_9_17"]
    assert groups(dataset) == 2


@pytest.mark.parametrize("place", ["split folders", "paths"])
def test_file_names_that_begin_anew_in_each_folder_are_told_apart_by_their_folders(tmp_path, place):
    rows = []
    for folder, label in (("train", "nevus"), ("test", "melanoma")):
        photos(tmp_path / folder, "0.png", "1.png", "2.png", first_seed=10 * len(label))
        rows += [{"file_name": f"{folder}\\{i}.png", "label": label} for i in range(3)]
        if place == "split folders":
            write_table(
                tmp_path / folder / "metadata.csv", [row | {"file_name": row["file_name"][-5:]} for row in rows[-3:]]
            )
    dataset = load(tmp_path, rows if place == "paths" else None)
    assert (
        sorted(zip(dataset["shipped_split"], dataset["label"], strict=True)) == [("test", 3)] * 3 + [("train", 4)] * 3
    )


@pytest.mark.parametrize(
    ("number", "file"),
    [("25818", "ISIC_0025818.png"), ("0025818", "ISIC_25818.png"), ("25818.0", "isic_0025818_resized.png")]
    + [("ISIC_25818", "ISIC_0025818.png")],
)
def test_a_number_in_the_archives_own_column_is_the_archives(tmp_path, number, file):
    photos(tmp_path / "set", file)
    assert load(tmp_path / "set", [{"isic_id": number, "diagnosis": "nevus"}])["label"] == [4]


@pytest.mark.parametrize(
    ("column", "spelt"), [("image_id", str), ("image", "{:07d}".format), ("file_name", "{}.0".format)]
)
def test_bare_archive_numbers_in_a_column_of_images_are_the_archives(tmp_path, column, spelt):
    photos(tmp_path / "set", *(f"ISIC_{31246 + i:07d}.png" for i in range(3)))
    rows = [{column: spelt(31246 + i), "diagnosis": "nevus"} for i in range(3)]
    assert list(load(tmp_path / "set", rows)["label"]) == [4, 4, 4]


def test_a_running_count_beside_archive_images_is_no_archive_number(tmp_path):
    photos(tmp_path / "set" / "nevus", "ISIC_0010002.png")
    rows = [{"image_id": i, "patient_id": "P"} for i in range(9998, 10008)]
    assert load(tmp_path / "set", rows, "list.csv")["patient_id"][0] is None


# Tables and their columns.


def test_a_latin_1_table_is_read_as_it_was_written(tmp_path):
    files = clinic(tmp_path / "clinic", spelt=lambda n: f"l\u00e4sion_{n}")
    with (tmp_path / "clinic" / "metadata.csv").open("w", newline="", encoding="latin-1") as file:
        csv.writer(file, delimiter=";").writerows([("image", "lesion_id"), *((Path(f).stem, "L1") for f in files)])
    assert set(load(tmp_path / "clinic")["group"]) == {"clinic: L1"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_line_that_tells_spreadsheets_what_parts_columns_is_no_header(tmp_path, encoding):
    files = clinic(tmp_path / "clinic")
    lines = ["sep=;", "image;lesion_id", *(f"{f};{i % 2}" for i, f in enumerate(files))]
    (tmp_path / "clinic" / "metadata.csv").write_text("\n".join(lines), encoding=encoding)
    assert set(load(tmp_path / "clinic")["group"]) == {"clinic: 0", "clinic: 1"}


def test_a_table_as_json_is_not_read_and_said(tmp_path, caplog):
    files = clinic(tmp_path / "clinic")
    (tmp_path / "clinic" / "metadata.json").write_text(json.dumps([{"file_name": f, "lesion_id": 1} for f in files]))
    assert groups(load(tmp_path / "clinic")) == 8
    assert "are neither images nor tables: metadata.json" in caplog.text


@pytest.mark.parametrize(
    "column", ["image_path", "Path", "img", "file path", "FILE", "filename", "image_name", "isic_id"]
)
def test_the_column_of_images_is_known_by_its_usual_names(tmp_path, column):
    rows = [{column: f, "lesion_id": i % 2} for i, f in enumerate(clinic(tmp_path / "clinic"))]
    assert set(load(tmp_path / "clinic", rows, "meta.csv")["group"]) == {"clinic: 0", "clinic: 1"}


@pytest.mark.parametrize(
    ("column", "test", "train"),
    [("is_test", "True", "False"), ("Is Test", "1", "0"), ("isTest", "yes", "no"), ("in_train", "f", "t")]
    + [("Phase", "PublicTest", "Training"), ("usage", "holdout set", "dev"), ("fold", "test", "train")]
    + [("split", "te", "tr"), ("Hold-out", "1", "0"), ("subset", "testset2", "trainset1")]
    + [("split", "test", "train"), ("Partition", "TESTING", "train"), ("data split", "Test Set", "train")]
    + [("split", "hold-out", "train")],
)
def test_what_a_column_calls_the_test_is_never_trained_on_and_that_is_said(tmp_path, column, test, train, caplog):
    rows = [{"file_name": f, column: test if i > 5 else train} for i, f in enumerate(clinic(tmp_path / "clinic"))]
    assert sorted(load(tmp_path / "clinic", rows)["shipped_split"]) == ["test"] * 2 + ["train"] * 6
    assert "2 images of" in caplog.text and "are the test by its table's split" in caplog.text


@pytest.mark.parametrize("column", ["fold", "split", "Set"])
def test_folds_by_number_are_no_split_and_are_said(tmp_path, column, caplog):
    files = clinic(tmp_path / "clinic")
    rows = [{"file_name": f, column: i % 5, "subset": "test" if i > 5 else "train"} for i, f in enumerate(files)]
    assert load(tmp_path / "clinic", rows)["shipped_split"].count("test") == 2
    assert "1 columns of 'metadata.csv' are not used" in caplog.text
    assert "a split column says" not in caplog.text


def test_of_two_columns_of_splits_the_one_that_has_a_test_counts(tmp_path, caplog):
    rows = [{"file_name": f, "split": "train", "is_test": i > 5} for i, f in enumerate(clinic(tmp_path / "clinic"))]
    assert load(tmp_path / "clinic", rows)["shipped_split"].count("test") == 2
    assert "are not used (--columns FIELD=COLUMN reads one): split" in caplog.text


@pytest.mark.parametrize(
    ("word", "split"),
    [("private_test", "test"), ("test1", "test"), ("train_1", "train"), ("Validate", "train"), ("evaluation", "train")],
)
def test_usual_words_for_a_split_are_known(word, split):
    assert shipped_splits.split_of({"part": word}, {"split": "part"}) == split


def test_an_unknown_word_for_a_split_is_said(caplog):
    assert shipped_splits.split_of({"part": "moonlight"}, {"split": "part"}) is None
    assert "a split column says 'moonlight'" in caplog.text


def test_close_ups_are_left_out_of_class_folders(tmp_path, caplog):
    kinds = ["clinical: close-up", "dermoscopic", "TBP tile: close-up", "Dermoscopy"] * 2
    rows = [{"file_name": f, "image_type": kind} for f, kind in zip(clinic(tmp_path / "clinic"), kinds, strict=True)]
    assert len(load(tmp_path / "clinic", rows)) == 4
    assert "that are no dermoscopy: 2 clinical: close-up, 2 TBP tile: close-up" in caplog.text


@pytest.mark.parametrize("kind", ["non-dermoscopic", "not dermoscopy", "clinical (no dermatoscope)"])
def test_a_picture_that_is_called_no_dermoscopy_is_none(kind):
    assert table_cells.kind_of({"type": kind}, {"image_type": "type"}) == kind


@pytest.mark.parametrize("cell", ["999", "-1", "inf", "nan", "250", "unknown", ""])
def test_an_age_that_nobody_has_is_not_recorded(cell):
    assert "age" not in table_cells.metadata_of({"image_id": "a", "age": cell})


@pytest.mark.parametrize(("cell", "years"), [("85+", 85), ("0", 0), ("47,5", 47.5), ("61 years", 61), ("103", 103)])
def test_an_age_is_read_as_people_write_it(cell, years):
    assert table_cells.metadata_of({"image_id": "a", "age": cell})["age"] == years


def test_what_is_not_used_is_said_with_a_count_and_the_first_names(tmp_path, caplog):
    root = tmp_path / "clinic"
    files = clinic(root)
    write_table(root / "other.csv", [{"image": f"q{i}", "age": 5} for i in range(3)])
    (root / "scan.gif").write_bytes(b"1")
    write_table(root / "notes.csv", [{"a": 1}])
    load(root, [{"file_name": f, "lesion_id": 1, "patient_name_hash": 2} for f in [*files[:6], "nevus/gone.png"]])
    for sentence in (
        "'other.csv' in '{}' means no image that is there, so that its 3 rows are not used: q0, q1, q2",
        "1 rows of '{}' have no image: nevus/gone.png",
        "2 images in '{}' have no row: ",
        "1 columns of 'metadata.csv' are not used (--columns FIELD=COLUMN reads one): patient_name_hash",
        "1 files in '{}' are neither images nor tables: scan.gif",
        "1 tables have no column that names an image, and are not used: notes.csv",
    ):
        assert sentence.format(root) in caplog.text


def test_every_column_that_is_not_used_is_said_in_one_line(tmp_path, caplog):
    more = {"camera": "x", "": 1, "Biopsy": "yes", "lesion_code": "K1", "phase": 3, "lesion_id": 4, "sex": "f"}
    load(tmp_path / "clinic", [{"file_name": f, **more} for f in clinic(tmp_path / "clinic")])
    (line,) = [message for message in caplog.messages if "columns" in message]
    assert "5 columns of 'metadata.csv' are not used" in line
    assert line.endswith(": lesion_code, phase, camera, (without a name), Biopsy")


def test_a_column_that_stands_twice_and_rows_that_are_too_long_are_said(tmp_path, caplog):
    files = clinic(tmp_path / "clinic")
    lines = ["file_name,lesion_id,lesion_id", *(f"{f},L{i % 2},K" + ",1" * (i == 3) for i, f in enumerate(files))]
    (tmp_path / "clinic" / "metadata.csv").write_text("\n".join(lines))
    assert set(load(tmp_path / "clinic")["group"]) == {"clinic: L0", "clinic: L1"}
    assert "are not used (--columns FIELD=COLUMN reads one): lesion_id (2)" in caplog.text
    assert f"have more cells than it has columns, and may be shifted: {files[3]}" in caplog.text


def test_a_ground_truth_whose_cells_cannot_be_read_is_not_taken_for_one_of_benign_and_malignant(tmp_path):
    photos(tmp_path / "set", "a.png")
    (tmp_path / "set" / "GroundTruth.csv").write_text("image,MEL,NV\na,high,low\n")
    with pytest.raises(UsageError, match="no image of the nine diagnoses: 1 without a diagnosis"):
        load(tmp_path / "set")


@pytest.mark.parametrize(
    ("kind", "label"),
    [("jsonl", ["melanoma"]), ("parquet", ["nevus", "melanoma"]), ("csv", ["melanoma"]), ("jsonl", ["nevus", "mel"])],
)
def test_a_list_as_a_label_is_refused_as_a_list(tmp_path, kind, label):
    photos(tmp_path / "set", "0.png", "1.png")
    with pytest.raises(UsageError, match=r"a list .*, not one name: give each image one") as error:
        load(tmp_path / "set", [{"file_name": f"{i}.png", "label": label} for i in range(2)], f"metadata.{kind}")
    assert "none of the nine" not in str(error.value)


# People.


@pytest.mark.parametrize("word", ["-1", "?", "unknown", "0"])
def test_patients_whom_nobody_knows_are_not_one_person_and_that_is_said(tmp_path, word, caplog):
    assert patients(tmp_path / "clinic", [word] * 8) == 8
    assert f"'{word}'" in caplog.text


def test_a_patient_of_implausibly_many_images_is_nobody(tmp_path, caplog):
    assert patients(tmp_path / "clinic", ["P0"] * 36 + ["P36", "P37", "P38", "P39"]) == 40
    assert "'P0' is no patient: 36 images" in caplog.text


@pytest.mark.parametrize("mark", ["case-000", "ID 0", "00-00", "unbekannt 3", "99", "1e300", "x", "NN", "UNK-7"])
def test_a_mark_for_nobody_that_has_most_images_joins_none_and_is_said(tmp_path, mark, caplog):
    assert patients(tmp_path / "clinic", [mark] * 5 + ["K1", "K2"]) == 7
    assert f"'{mark}' is no patient: 5 images" in caplog.text


@pytest.mark.parametrize("mark", ["9999", "99999", "P9999", "999"])
def test_a_number_of_nines_that_none_comes_before_is_nobody(tmp_path, mark, caplog):
    assert patients(tmp_path / "clinic", [mark] * 4 + ["1", "2", "2"]) == 6
    assert f"'{mark}' is no patient: 4 images" in caplog.text and "a mark for what is missing" in caplog.text


def test_two_words_for_nobody_do_not_excuse_each_other(tmp_path):
    assert patients(tmp_path / "clinic", ["walk-in"] * 25 + ["street"] * 25 + ["1", "1", "2", "3", "4"]) == 54


@pytest.mark.parametrize(
    "ids",
    [
        ["P000", "P000", "P001", "P001", "P002", "P002"],
        ["unknown_1", "unknown_1", "unknown_2", "unknown_2", "unknown_3"],
        ["u", "u", "u", "v", "w"],
        ["98", "98", "99", "99", "99", "99", "99", "99", "99", "1"],
        ["9998", "9999", "9999", "9999"],
        ["1"] * 25 + ["2"] * 30 + ["3"] * 3,
    ],
)
def test_what_could_be_nobody_is_somebody_among_others_of_its_kind(tmp_path, ids):
    assert patients(tmp_path / "clinic", ids) == len(set(ids))


@pytest.mark.parametrize(
    ("ids", "people"),
    [(["P-1", "p 1", "P_1", "P1-2", "P12"], 3), (["M007", "M7", "m 07"], 1), (["12-03", "12-3", "012-3"], 1)]
    + [(["case 0400", "case400", "400.0"], 2)],
)
def test_ids_that_differ_by_what_parts_them_or_by_leading_zeros_are_one_and_that_is_said(tmp_path, ids, people, caplog):
    assert patients(tmp_path / "clinic", [*ids, "Z1", "Z10"]) == people + 2
    assert "are spelt in several ways, and taken for one" in caplog.text


def test_ids_that_differ_by_leading_zeros_are_two_where_their_sexes_tell(tmp_path):
    root = class_folders(tmp_path / "clinic", images=4, labels=("nevus",))
    people = [("P01", "male"), ("P01", "male"), ("P1", "female"), ("P1", "")]
    files = sorted(root.rglob("*.png"))
    rows = [{"file_name": f.name, "patient_id": p, "sex": sex} for f, (p, sex) in zip(files, people, strict=True)]
    assert groups(load(root, rows)) == 2


@pytest.mark.parametrize("column", ["case_id", "Case Number", "participant_id"])
def test_the_images_of_one_case_are_one_persons(tmp_path, column):
    rows = [{"file_name": f, column: i // 4} for i, f in enumerate(clinic(tmp_path / "clinic"))]
    assert groups(load(tmp_path / "clinic", rows)) == 2


def test_a_case_beside_a_patient_is_not_used_and_said(tmp_path, caplog):
    rows = [{"file_name": f, "case_id": i, "patient_id": i % 2} for i, f in enumerate(clinic(tmp_path / "clinic"))]
    assert groups(load(tmp_path / "clinic", rows)) == 2
    assert "are not used (--columns FIELD=COLUMN reads one): case_id" in caplog.text


# Folders that are given together.


def several(tmp_path: Path, places, ids, **options) -> Dataset:
    """Data sets at these places, whose images have these patients, loaded together."""
    for n, place in enumerate(places):
        root = class_folders(tmp_path / place, images=len(ids), first_seed=100 * n, labels=("nevus",))
        files = sorted(root.rglob("*.png"))
        rows = [{"image": p.stem, "patient_id": one} for p, one in zip(files, ids, strict=True)]
        write_table(root / "metadata.csv", rows)
    return support.loading.load(*(tmp_path / place for place in places), **options)


@pytest.mark.parametrize(
    ("places", "in_doubt"),
    [
        (("north/images_2024", "south/images_2024"), False),
        (("a/derm", "b/derm"), False),
        (("a/b/2024", "c/2024"), False),
    ]
    + [(("x/ward/derm", "y/ward/derm"), False), (("a/images", "b/images"), False), (("x/clinic", "y/ward"), False)]
    # Of one home, in which they may be parts of one clinic.
    + [(("main1", "main2"), True), (("export1", "export2"), True), (("raw 2018", "raw 2021", "raw"), True)]
    + [(("3/photos", "4/photos"), True), (("pictures", "images"), True), (("train1", "train2", "test"), True)],
)
def test_folders_that_are_given_together_share_no_patients_and_where_that_is_in_doubt_it_is_said(
    tmp_path, places, in_doubt, caplog
):
    dataset = several(tmp_path, places, [1, 1, 2])
    assert groups(dataset) == len(set(dataset["patient_id"])) == 2 * len(places)
    assert ("count as different people's" in caplog.text) == in_doubt


def test_two_folders_of_one_clinic_share_its_patients(tmp_path):
    dataset = several(tmp_path / "clinic", ("train", "test_2024"), ["P1", "P1"])
    assert set(dataset["group"]) == {"clinic: P1"}


def test_what_a_folders_ids_are_called_does_not_hang_on_its_place_where_no_other_has_its_name(tmp_path):
    assert set(several(tmp_path, ("a/derm", "b/skin"), [1, 1], merge=False)["patient_id"]) == {"derm: 1", "skin: 1"}
    beside = loading.load([str(tmp_path / "a/derm")], beside=[str(tmp_path / "c"), str(tmp_path / "a/derm")]).dataset
    assert set(beside["patient_id"]) == {"derm: 1"}


@pytest.mark.parametrize("one", ["IP_200000{}", "HAM_000000{}", "IL-2024050{}", "MSK 77777{}", "bcn_123456{}"])
def test_a_clinics_own_ids_of_the_archives_form_are_its_own(tmp_path, one):
    for n, place in enumerate(("north", "south")):
        names = [f"scan{n}{i}.png" for i in range(3)]
        photos(tmp_path / place / "nevus", *names, first_seed=10 * n)
        write_table(
            tmp_path / place / "list.csv",
            [{"image": name, "patient_id": one.format(i)} for i, name in enumerate(names)],
        )
    assert groups(loading.load([str(tmp_path / place) for place in ("north", "south")]).dataset) == 6


def test_the_archives_ids_are_shared_by_all_images_of_a_source_of_its_images(tmp_path):
    for n, file in enumerate(("ISIC_9100000.png", "ISIC_9100001.png")):
        names = (file, f"scan{n}.png")
        photos(tmp_path / f"set{n}" / "nevus", *names, first_seed=10 * n)
        write_table(tmp_path / f"set{n}" / "list.csv", [{"image": n, "patient_id": "IP_2000001"} for n in names])
    assert set(loading.load([str(tmp_path / "set0"), str(tmp_path / "set1")]).dataset["group"]) == {"IP_2000001"}
