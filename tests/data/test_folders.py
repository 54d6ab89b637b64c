"""Each layout, on a small copy of the true one with generated pictures, and with each kind of fault."""

import csv
import dataclasses
import itertools
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.loading import load
from support.pictures import class_folders, put, write_table

from dermalert.data import schema
from dermalert.errors import UsageError
from dermalert.taxonomy import DIAGNOSES


def one_hot(columns: str, rows: list[dict], key: str = "image") -> list[dict]:
    return [{key: row["id"]} | {c: float(c == row["name"]) for c in columns.split()} for row in rows]


def ham10000(root: Path, rows: list[dict]) -> None:
    table = [
        {"lesion_id": r["lesion"], "image_id": r["id"], "dx": r["name"], "dx_type": "histo", "age": "80.0"}
        | {"sex": "male", "localization": "scalp"}
        for r in rows
    ]
    write_table(root / "HAM10000_metadata.csv", table)
    # Kaggle adds the pixels as tables, which are none.
    write_table(root / "hmnist_8_8_L.csv", [{"pixel0000": 1, "label": 2}])


def isic_2017(root: Path, rows: list[dict]) -> None:
    columns = "melanoma seborrheic_keratosis"
    write_table(root / "ISIC-2017_Training_Part3_GroundTruth.csv", one_hot(columns, rows, "image_id"))
    table = [{"image_id": r["id"], "age_approximate": "80", "sex": "male"} for r in rows]
    write_table(root / "ISIC-2017_Training_Data_metadata.csv", table)
    put(root / "ISIC-2017_Training_Data" / f"{rows[0]['id']}_superpixels.png", 1)


def isic_2018(root: Path, rows: list[dict]) -> None:
    # Each archive unpacks into a folder of its own.
    name = "ISIC2018_Task3_Training_GroundTruth"
    write_table(root / name / f"{name}.csv", one_hot("MEL NV BCC AKIEC BKL DF VASC", rows))
    table = [{"image": r["id"], "lesion_id": r["lesion"], "diagnosis_confirm_type": "histopathology"} for r in rows]
    write_table(root / "ISIC2018_Task3_Training_LesionGroupings.csv", table)


def isic_2019(root: Path, rows: list[dict]) -> None:
    write_table(root / "ISIC_2019_Training_GroundTruth.csv", one_hot("MEL NV BCC AK BKL DF VASC SCC UNK", rows))
    facts = {"age_approx": 80, "anatom_site_general": "head/neck", "sex": "male"}
    table = [{"image": r["id"], "lesion_id": r["lesion"]} | facts for r in rows]
    write_table(root / "ISIC_2019_Training_Metadata.csv", table)


def isic_2020(root: Path, rows: list[dict]) -> None:
    facts = {"sex": "male", "age_approx": 80, "anatom_site_general_challenge": "head/neck"}
    facts |= {"benign_malignant": "benign", "target": 0}
    table = [{"image_name": r["id"], "patient_id": r["lesion"], "diagnosis": r["name"]} | facts for r in rows]
    write_table(root / "train.csv", table)
    write_table(root / "sample_submission.csv", [{"image_name": "ISIC_0052060", "target": 0}])


def archive(root: Path, rows: list[dict]) -> None:
    facts = {"attribution": "somebody", "copyright_license": "CC-0", "age_approx": 80, "sex": "male"}
    facts |= {"anatom_site_general": "head/neck", "patient_id": "IP_0000001"}
    table = []
    for r in rows:
        names = [*r["name"].split(":"), "", "", "", ""][:5]
        levels = {f"diagnosis_{i}": name for i, name in enumerate(names, 1)}
        own = {"isic_id": r["id"], "lesion_id": r["lesion"], "image_type": r.get("kind", "dermoscopic")}
        table.append(own | levels | facts)
    write_table(root / "metadata.csv", table)
    (root / "attribution.txt").write_text("somebody")
    (root / "licenses").mkdir()
    (root / "licenses" / "CC-0.txt").write_text("none")


def archive_before_levels(root: Path, rows: list[dict]) -> None:
    facts = {"age_approx": 80, "anatom_site_general": "head/neck", "benign_malignant": "benign", "sex": "male"}
    table = [{"isic_id": r["id"], "diagnosis": r["name"], "lesion_id": r["lesion"]} | facts for r in rows]
    write_table(root / "metadata.csv", table)


def pad_ufes_20(root: Path, rows: list[dict]) -> None:
    table = []
    for r in rows:
        patient, lesion = r["id"].split("_")[1:3]
        facts = {"patient_id": f"PAT_{patient}", "lesion_id": lesion, "age": 80, "gender": "MALE", "fitspatrick": 2.0}
        table.append(facts | {"region": "NOSE", "diagnostic": r["name"], "img_id": f"{r['id']}.png", "biopsed": True})
    write_table(root / "metadata.csv", table)


@dataclasses.dataclass(frozen=True)
class Layout:
    write: Callable[[Path, list[dict]], None]
    images: str
    names: tuple[str, ...]  # of the four images, in the source's words
    labels: tuple[str, ...]
    outside: str | None = None  # a name that fits none of the nine
    suffix: str = "jpg"

    def rows(self) -> list[dict]:
        pad = self.write is pad_ufes_20
        ids = [f"PAT_{i}_{10 + i}_530" if pad else f"ISIC_80000{10 + i}" for i in range(4)]
        return [
            {"id": image_id, "name": name, "lesion": f"HAM_900000{i // 2}"}
            for i, (image_id, name) in enumerate(zip(ids, self.names, strict=True))
        ]

    def build(self, root: Path, rows: list[dict] | None = None, images: list[str] | None = None) -> Path:
        """Write these rows and images, or those of `rows()`."""
        rows = self.rows() if rows is None else rows
        root.mkdir(parents=True)
        self.write(root, rows)
        for i, image_id in enumerate(ids(rows) if images is None else images):
            put(root / self.images / f"{image_id}.{self.suffix}", i)
        return root


LEVEL = "Benign:Benign melanocytic proliferations:Nevus:Nevus, Spitz"
LAYOUTS = {
    "HAM10000, flat": Layout(ham10000, ".", ("mel", "nv", "bkl", "vasc"), (3, 4, 5, 8)),
    "HAM10000, in parts": Layout(ham10000, "HAM10000_images_part_1", ("mel", "df", "bkl", "bcc"), (3, 2, 5, 1)),
    "ISIC 2017": Layout(
        isic_2017, "ISIC-2017_Training_Data", ("melanoma", "nevus", "seborrheic_keratosis", "nevus"), (3, 4, 6, 4)
    ),
    "ISIC 2018": Layout(isic_2018, "ISIC2018_Task3_Training_Input", ("MEL", "NV", "BKL", "DF"), (3, 4, 5, 2)),
    "ISIC 2019": Layout(
        isic_2019, "ISIC_2019_Training_Input", ("SCC", "NV", "AK", "VASC"), (7, 4, 0, 8), outside="UNK"
    ),
    "ISIC 2020": Layout(
        isic_2020, "jpeg/train", ("melanoma", "nevus", "nevus", "seborrheic keratosis"), (3, 4, 4, 6), outside="unknown"
    ),
    "archive": Layout(
        archive,
        ".",
        (LEVEL, "Malignant:Malignant melanocytic proliferations (Melanoma):Melanoma, NOS", LEVEL, LEVEL),
        (4, 3, 4, 4),
        outside="Benign:Benign epidermal proliferations:Verruca",
    ),
    "archive, before levels": Layout(
        archive_before_levels, ".", ("melanoma", "nevus", "angioma", "nevus"), (3, 4, 8, 4), outside="lentigo NOS"
    ),
    "PAD-UFES-20": Layout(pad_ufes_20, "images/imgs_part_1", ("ACK", "SEK", "SCC", "NEV"), (0, 6, 7, 4), suffix="png"),
}
ONE_HOT = ("ISIC 2017", "ISIC 2018", "ISIC 2019")
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def some(*names: str):
    """A mark: for these layouts, by default one of each kind: a column of diagnoses, a column for each, two tables."""
    names = names or ("HAM10000, in parts", "ISIC 2019", "PAD-UFES-20")
    return pytest.mark.parametrize("layout", [LAYOUTS[name] for name in names], ids=names)


def ids(rows: list[dict]) -> list[str]:
    return [row["id"] for row in rows]


@each_layout
def test_a_layout_is_recognised_and_read_into_the_schema(tmp_path, layout):
    dataset = load(layout.build(tmp_path / "set"), strict=True)
    assert dataset.features == schema.FEATURES
    labels = dict(zip(ids(layout.rows()), layout.labels, strict=True))
    assert dict(zip(dataset["image_id"], dataset["label"], strict=True)) == labels
    assert {image.size for image in dataset["image"]} == {(32, 32)}


@some("HAM10000, flat", "ISIC 2019", "ISIC 2020", "archive", "PAD-UFES-20")
def test_age_sex_and_site_are_in_one_vocabulary(tmp_path, layout):
    dataset = load(layout.build(tmp_path / "set")).remove_columns("image")
    assert {(row["age"], row["sex"], row["site"]) for row in dataset} == {(80.0, "male", "head/neck")}


@some("HAM10000, flat", "ISIC 2018", "ISIC 2019", "archive, before levels")
def test_photos_of_one_lesion_are_one_group(tmp_path, layout):
    dataset = load(layout.build(tmp_path / "set"))
    assert sorted(dataset["group"]) == ["HAM_9000000"] * 2 + ["HAM_9000001"] * 2


def test_images_come_in_the_order_of_their_paths_a_folder_after_the_other(tmp_path):
    layout = LAYOUTS["HAM10000, flat"]
    root = layout.build(tmp_path / "set")
    *moved, stayed = ids(layout.rows())
    for image_id, folder in zip(moved, ("part", "part 2", "part-1"), strict=True):
        (root / folder).mkdir()
        (root / f"{image_id}.jpg").rename(root / folder / f"{image_id}.jpg")
    assert list(load(root)["image_id"]) == [stayed, *moved]


@pytest.mark.parametrize(("name", "groups"), [("ISIC 2020", 2), ("archive", 1), ("PAD-UFES-20", 4)])
def test_photos_of_one_patient_are_one_group(tmp_path, name, groups):
    dataset = load(LAYOUTS[name].build(tmp_path / "set"))
    assert len(set(dataset["group"])) == groups
    if name == "PAD-UFES-20":  # a bare number would be another lesion elsewhere
        assert (min(dataset["lesion_id"]), set(dataset["source"])) == ("PAT_0_10", {name})


@some()
def test_an_unreadable_file_is_named_and_skipped_or_refused(tmp_path, layout, caplog):
    root = layout.build(tmp_path / "set")
    cut = next(root.rglob(f"{layout.rows()[1]['id']}.{layout.suffix}"))
    cut.write_bytes(cut.read_bytes()[:200])
    assert len(load(root)) == 3
    assert f"skipped 1 of 4 files in '{root}'" in caplog.text and cut.name in caplog.text
    with pytest.raises(UsageError, match=rf"1 of 4 files in '.*' are no images: .*{cut.name}.*--strict"):
        load(root, strict=True)


@some()
def test_a_row_without_an_image_and_an_image_without_a_row_are_said(tmp_path, layout, caplog):
    rows = layout.rows()
    assert len(load(layout.build(tmp_path / "set", rows[1:], ids(rows)[:-1]))) == 2
    assert f"1 rows of '{tmp_path / 'set'}' have no image: {rows[-1]['id']}" in caplog.text
    assert f"1 images in '{tmp_path / 'set'}' have no row: {rows[0]['id']}.{layout.suffix}" in caplog.text


@some(*(name for name in LAYOUTS if name not in ONE_HOT))
def test_a_name_that_nobody_knows_is_refused(tmp_path, layout):
    rows = layout.rows()
    rows[2]["name"] = "freckle"
    with pytest.raises(UsageError, match=r"'freckle' is none of the nine diagnoses"):
        load(layout.build(tmp_path / "set", rows))


@some(*(name for name, layout in LAYOUTS.items() if layout.outside))
def test_a_name_that_fits_none_of_the_nine_is_left_out_and_counted(tmp_path, layout, caplog):
    rows = layout.rows()
    rows[0]["name"] = rows[2]["name"] = layout.outside
    assert len(load(layout.build(tmp_path / "set", rows))) == 2
    assert f"left out 2 images of '{tmp_path / 'set'}' that are none of the nine" in caplog.text
    assert f"2 {layout.outside.split(':')[-1]}" in caplog.text


@some(*(name for name in LAYOUTS if name != "ISIC 2017"))  # there it is a nevus
def test_a_row_without_a_diagnosis_is_left_out_and_counted(tmp_path, layout, caplog):
    rows = layout.rows()
    rows[0]["name"] = ""
    assert len(load(layout.build(tmp_path / "set", rows))) == 3
    # The other columns of ISIC 2020, and of the archive of then, still say "benign".
    assert "1 without a diagnosis" in caplog.text


@some()
def test_a_row_that_stands_there_twice_is_one_image(tmp_path, layout):
    rows = layout.rows()
    assert len(load(layout.build(tmp_path / "set", [*rows, rows[0]], ids(rows)))) == 4


@each_layout
def test_an_image_under_two_diagnoses_in_one_table_is_refused(tmp_path, layout):
    rows = layout.rows()
    other = rows[1]["name"]
    root = layout.build(tmp_path / "set", [*rows, rows[0] | {"name": other}], ids(rows))
    with pytest.raises(UsageError, match=rf"csv' lists {rows[0]['id']} as '.*' and as '{re.escape(other)}': keep one"):
        load(root)


@each_layout
def test_a_cell_that_is_no_age_sex_or_site_is_not_recorded(tmp_path, layout):
    root = layout.build(tmp_path / "set")
    for table in root.rglob("*.csv"):
        text = table.read_text()
        for good, bad in {",80": ",eighty", ",male": ",?", ",MALE": ",7", ",scalp": ",", ",head/neck": ",nan"}.items():
            text = text.replace(good, bad)
        table.write_text(text)
    dataset = load(root)
    assert len(dataset) == 4
    cells = {name: set(dataset[name]) for name in ("age", "sex", "site")}
    assert cells["age"] <= {None} and cells["sex"] <= {None} and cells["site"] <= {None, "head/neck"}


@pytest.mark.parametrize(
    ("name", "way"),
    list(zip(LAYOUTS, itertools.product(["latin-1", "utf-8-sig", "utf-16"], [",", ";", "\t"]), strict=True)),
)
def test_tables_are_read_in_whatever_way_a_spreadsheet_writes_them(tmp_path, name, way):
    encoding, delimiter = way
    root = LAYOUTS[name].build(tmp_path / "set")
    for table in root.rglob("*.csv"):
        with table.open(newline="") as file:
            header, *lines = csv.reader(file)
        with table.open("w", newline="", encoding=encoding) as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerows([[*header, "Anmerkung"], *([*line, "bestätigt, für immer"] for line in lines)])
    assert sorted(load(root)["label"]) == sorted(LAYOUTS[name].labels)


def test_akiec_is_what_the_archive_says_of_the_image_and_left_out_where_it_says_nothing(tmp_path, caplog):
    rows = [
        {"id": "ISIC_0024468", "name": "akiec", "lesion": "HAM_0006301"},  # actinic keratosis
        {"id": "ISIC_0024710", "name": "akiec", "lesion": "HAM_0004609"},  # squamous cell carcinoma
        {"id": "ISIC_8000000", "name": "akiec", "lesion": "HAM_9000000"},
    ]
    dataset = load(LAYOUTS["HAM10000, flat"].build(tmp_path / "set", rows))
    assert [DIAGNOSES[i] for i in dataset["label"]] == ["actinic keratosis", "squamous cell carcinoma"]
    assert "1 akiec ('akiec' stands for actinic keratosis or squamous cell carcinoma)" in caplog.text


def test_what_is_no_dermoscopy_is_left_out_of_an_archive_download(tmp_path, caplog):
    rows = LAYOUTS["archive"].rows()
    rows[0]["kind"] = "clinical: close-up"
    assert len(load(LAYOUTS["archive"].build(tmp_path / "set", rows))) == 3
    assert "that are no dermoscopy: 1 clinical: close-up" in caplog.text


@pytest.mark.parametrize(
    ("name", "file"),
    [("HAM10000, flat", "HAM10000_metadata.csv"), ("ISIC 2019", "ISIC_2019_Training_GroundTruth.csv")],
)
def test_the_official_table_may_lie_beside_the_folder(tmp_path, name, file):
    root = LAYOUTS[name].build(tmp_path / "images")
    shutil.move(root / file, root.parent / file)
    assert len(load(root)) == 4


@pytest.mark.parametrize("place", ["ham10000", "metadata"])
def test_class_folders_take_their_lesions_from_the_official_table_in_them_or_in_a_folder_beside(tmp_path, place):
    class_folders(tmp_path / "ham10000", images=2, labels=("mel", "nv"))
    ids = [path.stem for path in tmp_path.rglob("*.png")]
    ham10000(tmp_path / place, [{"id": one, "name": "nv", "lesion": "HAM_9000000"} for one in ids])
    dataset = load(tmp_path / "ham10000")
    assert set(dataset["group"]) == {"HAM_9000000"}
    assert sorted(dataset["label"]) == [3, 3, 4, 4]


def test_a_challenge_test_set_is_a_shipped_test_split(tmp_path):
    root = LAYOUTS["ISIC 2019"].build(tmp_path / "set")
    table = root / "ISIC_2019_Training_GroundTruth.csv"
    table.rename(root / "ISIC_2019_Test_GroundTruth.csv")
    assert set(load(root)["shipped_split"]) == {"test"}
    (root / "ISIC_2019_Test_GroundTruth.csv").rename(root / "latest.csv")
    (root / "ISIC_2019_Training_Input").rename(root / "images")
    assert set(load(root)["shipped_split"]) == {None}


@pytest.mark.parametrize("tables", ["one", "one in each folder"])
def test_images_under_train_validation_and_test_are_shipped_splits(tmp_path, tables):
    rows = [{"file_name": f"{i}.png", "label": "nv"} for i in range(3)]
    for i, folder in enumerate(["Train", "Test", "val"]):
        put(tmp_path / folder / f"{i}.png", i)
        if tables != "one":
            write_table(tmp_path / folder / "metadata.csv", [rows[i]])
    if tables == "one":
        write_table(tmp_path / "metadata.csv", rows)
    dataset = load(tmp_path)
    shipped = {"0": "train", "1": "test", "2": "train"}
    assert dict(zip(dataset["image_id"], dataset["shipped_split"], strict=True)) == shipped


def test_a_challenges_list_for_validation_is_shipped_for_training(tmp_path):
    root = LAYOUTS["ISIC 2017"].build(tmp_path / "2017")
    table = root / "ISIC-2017_Training_Part3_GroundTruth.csv"
    table.rename(root / "ISIC-2017_Validation_Part3_GroundTruth.csv")
    assert set(load(root)["shipped_split"]) == {"train"}


@pytest.mark.parametrize("folders", [("p1", "p2"), ("train", "test")])
def test_different_images_of_one_name_are_refused(tmp_path, folders):
    for i, folder in enumerate(folders):
        put(tmp_path / folder / "1.png", i)
    write_table(tmp_path / "metadata.csv", [{"file_name": "1.png", "label": "nv"}])
    first, second = sorted(folders)
    with pytest.raises(UsageError, match=rf"'.*{first}/1.png' and '.*{second}/1.png' are different images of one name"):
        load(tmp_path)


def test_an_image_that_lies_there_twice_is_one_row(tmp_path):
    root = LAYOUTS["HAM10000, in parts"].build(tmp_path / "set")
    shutil.copytree(root / "HAM10000_images_part_1", root / "ham10000_images_part_1 (copy)")
    assert len(load(root)) == 4


def test_another_word_for_the_same_diagnosis_is_no_contradiction(tmp_path):
    rows = LAYOUTS["HAM10000, flat"].rows()
    root = LAYOUTS["HAM10000, flat"].build(tmp_path / "set", [*rows, rows[0] | {"name": "melanoma"}], ids(rows))
    assert len(load(root)) == 4


@some(*ONE_HOT)
def test_a_row_with_empty_cells_or_cut_short_has_no_diagnosis(tmp_path, layout, caplog):
    root = layout.build(tmp_path / "set")
    table = next(root.rglob("*GroundTruth.csv"))
    header, first, second, *rest = table.read_text().splitlines()
    empty = first.split(",")[0] + "," * header.count(",")
    table.write_text("\n".join([header, empty, second.split(",")[0], *rest]))
    assert len(load(root)) == 2
    assert "2 without a diagnosis" in caplog.text


def test_two_tables_that_disagree_are_refused(tmp_path):
    rows = LAYOUTS["ISIC 2019"].rows()
    root = LAYOUTS["ISIC 2019"].build(tmp_path / "set", rows)
    ham10000(root, [rows[0] | {"name": "mel"}, rows[1] | {"name": "nv"}])
    with pytest.raises(UsageError, match=rf"two tables disagree about {rows[0]['id']}: 'mel' in .*'SCC' in"):
        load(root)


@pytest.mark.parametrize(
    ("ham", "challenge", "label"),
    [("akiec", "SCC", 7), ("akiec", "AK", 0), ("bkl", "BKL", 5), ("nv", "UNK", 4), ("nv", "", 4)],
)
def test_of_two_tables_that_do_not_contradict_each_other_the_one_that_says_more_counts(
    tmp_path, ham, challenge, label, caplog
):
    for name in ("flat", "folders"):
        root = tmp_path / name / "set"
        rows = [{"id": "ISIC_8000010", "name": challenge, "lesion": "HAM_9000000"}]
        isic_2019(root.parent / "metadata", rows)
        ham10000(root.parent / "metadata", [rows[0] | {"name": ham}])
        put((root if name == "flat" else root / ham) / "ISIC_8000010.png", 1)
        assert load(root)["label"] == [label]
    assert "something else" not in caplog.text


def test_a_keratosis_of_isic_2019_is_of_the_kind_that_isic_2017_says(tmp_path):
    rows = LAYOUTS["ISIC 2017"].rows()
    root = LAYOUTS["ISIC 2017"].build(tmp_path / "set", rows)
    isic_2019(root, [row | {"name": {"melanoma": "MEL", "nevus": "NV"}.get(row["name"], "BKL")} for row in rows])
    assert sorted(load(root)["label"]) == [3, 4, 4, 6]


def test_a_folders_name_counts_where_a_table_contradicts_it_and_the_difference_is_said(tmp_path, caplog):
    class_folders(tmp_path / "set", images=3, labels=("nevus", "melanoma"))
    nevi, melanomas = (sorted(path.stem for path in (tmp_path / "set" / n).iterdir()) for n in ("nevus", "melanoma"))
    names = dict.fromkeys(nevi, "mel") | {melanomas[0]: "solar lentigo", melanomas[1]: "7", melanomas[2]: "unknown"}
    ham10000(tmp_path / "set", [{"id": i, "name": name, "lesion": i} for i, name in names.items()])
    assert sorted(load(tmp_path / "set")["label"]) == [3, 3, 3, 4, 4, 4]
    sentence = f"4 images in '{tmp_path / 'set'}' are something else by a table, and keep their folder's name: "
    assert sentence + "3 nevus (mel), 1 melanoma (solar lentigo)" in caplog.text


def test_a_row_is_taken_for_no_image_of_a_name_that_several_bear(tmp_path, caplog):
    for i, label in enumerate(["nevus", "melanoma"]):
        put(tmp_path / "set" / label / "1.png", i)
        put(tmp_path / "set" / label / "same.png", 2)
    ham10000(tmp_path / "set", [{"id": n, "name": "nv", "lesion": f"HAM_900000{n}"} for n in ("1", "same")])
    dataset = load(tmp_path / "set")
    assert dict(zip(dataset["image_id"], dataset["lesion_id"], strict=True)) == {"1": None, "same": "HAM_900000same"}
    assert "1 names are borne by different images, so that no table's row is taken for them: 1" in caplog.text


@pytest.mark.parametrize("place", ["with the images", "beside"])
def test_the_copies_that_isic_2020_lists_are_one_group(tmp_path, place):
    rows = LAYOUTS["ISIC 2020"].rows()
    for i, row in enumerate(rows):
        row["lesion"] = f"IP_000000{i}"  # the patients, all different
    root = LAYOUTS["ISIC 2020"].build(tmp_path / "set", rows)
    pairs = [(rows[0]["id"], rows[2]["id"]), (rows[1]["id"], "ISIC_8999999")]
    where = root if place == "with the images" else tmp_path
    table = [{"image_name_1": first, "image_name_2": second} for first, second in pairs]
    write_table(where / "ISIC_2020_Training_Duplicates.csv", table)
    dataset = load(root)
    groups = dict(zip(dataset["image_id"], dataset["group"], strict=True))
    assert groups == {row["id"]: f"IP_000000{0 if i == 2 else i}" for i, row in enumerate(rows)}


def test_images_of_which_nothing_says_what_they_show_are_refused(tmp_path):
    put(tmp_path / "mole.png", 1)
    with pytest.raises(UsageError, match="has images and nothing that says what they show"):
        load(tmp_path)


@pytest.mark.parametrize(("column", "cell"), [("benign_malignant", "malignant"), ("target", "1"), ("folders", "")])
def test_a_table_or_folders_of_benign_and_malignant_are_refused(tmp_path, column, cell):
    if column == "folders":
        class_folders(tmp_path, images=1, labels=("benign", "malignant"))
    else:
        put(tmp_path / "ISIC_8000000.png", 1)
        write_table(tmp_path / "train.csv", [{"image_name": "ISIC_8000000", column: cell}])
    with pytest.raises(UsageError, match="says of its images only whether they are malignant"):
        load(tmp_path)


def test_a_folder_that_fits_none_of_the_nine_is_left_out(tmp_path, caplog):
    assert len(load(class_folders(tmp_path, images=2, labels=("nevus", "scar")))) == 2
    assert "2 scar" in caplog.text


def test_a_folder_with_none_of_the_nine_is_refused(tmp_path):
    class_folders(tmp_path, images=2, labels=("scar", "akiec"))
    with pytest.raises(UsageError, match=r"no image of the nine diagnoses: (2 scar, 2|2) akiec"):
        load(tmp_path)


def test_masks_in_a_class_folder_are_no_images(tmp_path):
    class_folders(tmp_path, images=1, labels=("nevus",))
    put(tmp_path / "nevus" / "ISIC_9000000_superpixels.png", 7)
    assert load(tmp_path)["image_id"] == ["ISIC_9000000"]


def test_columns_with_names_of_their_own_can_be_named(tmp_path):
    put(tmp_path / "set" / "a.png", 1)
    write_table(tmp_path / "set" / "list.csv", [{"photo": "sub/a.png", "finding": "nevus", "naevus_no": "L1"}])
    columns = {"image_id": "photo", "label": "finding", "lesion_id": "naevus_no"}
    dataset = load(tmp_path / "set", columns=columns)
    assert (dataset["label"], dataset["group"]) == ([4], ["set: L1"])
    assert load(tmp_path / "set", columns={"image": "photo", "label": "finding"})["image_id"] == ["a"]
    with pytest.raises(UsageError, match=r"no column 'findings' for 'label'. Did you mean 'finding'"):
        load(tmp_path / "set", columns=columns | {"label": "findings"})
    with pytest.raises(UsageError, match=r"'lesion' is no field of an image. Did you mean 'lesion_id'"):
        load(tmp_path / "set", columns={"lesion": "naevus_no"})


def test_a_folder_of_tables_beside_the_class_folders_is_no_class(tmp_path):
    class_folders(tmp_path / "set", images=2, labels=("nevus", "melanoma"))
    (tmp_path / "set" / "metadata").mkdir()
    (tmp_path / "set" / "metadata" / "notes.csv").write_text("a,b\n1,2\n")
    assert len(load(tmp_path / "set")) == 4


def test_a_table_with_a_cell_without_end_is_one_sentence(tmp_path):
    class_folders(tmp_path / "set", images=2, labels=("nevus", "melanoma"))
    (tmp_path / "set" / "notes.csv").write_text("image_id,text\nx," + "y" * 200_000 + "\n")
    with pytest.raises(UsageError, match=r"notes.csv' cannot be read as a table \(field larger than field limit"):
        load(tmp_path / "set")


def test_many_unknown_names_are_counted(tmp_path):
    class_folders(tmp_path / "set", images=1, labels=tuple(f"mystery {letter}" for letter in "abcdefgh"))
    with pytest.raises(UsageError, match="And 3 more such names"):
        load(tmp_path / "set")
