import shutil

import numpy as np
import pytest
from dermalert_space.images import read_image
from PIL import Image
from support.loading import load
from support.pictures import class_folders, picture, put, write_table

from dermalert.data import label_repair, loading, near_duplicates, schema, table_columns
from dermalert.errors import UsageError
from dermalert.taxonomy import DIAGNOSES, MALIGNANCIES


@pytest.mark.parametrize(
    ("names", "labels"), [(("nevus", "vascular lesion"), [4, 8]), (("mel", "nv", "Basal_Cell  carcinoma"), [1, 3, 4])]
)
def test_a_label_id_is_that_of_the_diagnosis_which_a_folders_name_stands_for(tmp_path, names, labels):
    assert sorted(load(class_folders(tmp_path, images=1, labels=names))["label"]) == labels


def test_a_left_over_folder_inside_a_class_folder_does_not_disturb(tmp_path, caplog):
    class_folders(tmp_path, images=2)
    class_folders(tmp_path / "melanoma" / "output", images=1, labels=("nevus",))
    assert len(load(tmp_path)) == 18
    assert "left out 1 files below" in caplog.text


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("{}/isic9", "'melanomas' is none of the nine diagnoses. Did you mean 'melanoma'"),
        ("{}/isic-9", "isic-9' is neither 'demo' nor a folder. Did you mean '.*isic9'"),
        ("demmo", "Did you mean 'demo'"),
        ("{}/empty", "has no images: it must hold one folder a diagnosis"),
        ("{}/broken", "none of the 1 files"),
    ],
)
def test_what_is_no_data_set_is_refused_with_the_nearest(tmp_path, name, sentence):
    class_folders(tmp_path / "isic9", images=1, labels=("melanomas",))
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken" / "nevus").mkdir(parents=True)
    (tmp_path / "broken" / "nevus" / "a.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match=sentence):
        load(name.format(tmp_path))


def test_damaged_files_are_named_and_skipped_or_refused_under_strict(tmp_path, caplog):
    nevi = class_folders(tmp_path, images=2) / "nevus"
    (nevi / "cut.png").write_bytes(next(nevi.iterdir()).read_bytes()[:200])
    (nevi / "notes.txt").write_text("no image")
    (nevi / ".DS_Store").write_text("hidden")
    assert len(load(tmp_path)) == 18
    assert all(words in caplog.text for words in ("skipped 2 of 20 files", "cut.png", "notes.txt"))
    with pytest.raises(UsageError, match=r"2 of 20 files in '.*' are no images: .*cut.png.*notes.txt"):
        load(tmp_path, strict=True)


def test_images_of_every_mode_come_out_right(tmp_path):
    folder = class_folders(tmp_path, images=1, labels=("nevus",)) / "nevus"
    picture(1).convert("CMYK").save(folder / "cmyk.jpg")
    picture(2).convert("L").save(folder / "grey.png")
    picture(3).convert("RGBA").save(folder / "alpha.png")
    Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(folder / "deep.png")
    turned = Image.Exif()
    turned[274] = 6
    Image.new("RGB", (20, 10)).save(folder / "turned.jpg", exif=turned)
    dataset = load(tmp_path)
    assert len(dataset) == 6
    read = {row["image_id"]: read_image(row["image"]) for row in dataset}
    assert {image.mode for image in read.values()} == {"RGB"}
    assert read["turned"].size == (10, 20)


def test_one_image_under_two_labels_is_said_and_is_one_group(tmp_path, caplog):
    class_folders(tmp_path, images=2)
    original = next((tmp_path / "melanoma").iterdir())
    shutil.copy(original, tmp_path / "seborrheic keratosis" / original.name)
    dataset = load(tmp_path)
    assert "19 files hold 18 different images; 1 images stand under two labels: 1 melanoma / seborrheic" in caplog.text
    assert len(set(dataset["group"])) == 18
    assert schema.describe(dataset)["contradictions"] == 1


def test_the_fingerprint_changes_with_the_content_and_not_with_the_order(tmp_path):
    dataset = load(class_folders(tmp_path, images=2))
    fingerprint = schema.describe(dataset)["fingerprint"]
    assert schema.describe(dataset.shuffle(seed=1))["fingerprint"] == fingerprint
    assert schema.describe(dataset.select(range(17)))["fingerprint"] != fingerprint


def test_an_image_of_several_sources_is_one_row_with_what_each_knows(tmp_path):
    for name, label in [("a", "nevus"), ("b", "nv"), ("c", "melanoma")]:
        put(tmp_path / name / label / f"{name}.png", 1)
    write_table(tmp_path / "b" / "HAM10000_metadata.csv", [{"image_id": "b", "lesion_id": "HAM_9000000", "age": 40}])
    picture(2).save(tmp_path / "b" / "nv" / "more.png")
    dataset = load(*(tmp_path / name for name in "abc"))
    rows = [(row["image_id"], row["label"], row["lesion_id"], row["age"]) for row in dataset.remove_columns("image")]
    assert rows == [("a", 4, "HAM_9000000", 40), ("more", 4, None, None), ("c", 3, None, None)]
    assert dataset["group"][0] == dataset["group"][2] == "HAM_9000000"
    assert dataset[0]["image"].tobytes() == picture(1).tobytes()


def test_the_archives_number_makes_two_scalings_one_image(tmp_path):
    for name, size in [("small", 16), ("large", 32)]:
        put(tmp_path / name / "nevus" / "ISIC_8000000.png", 1, size=size)
        put(tmp_path / name / "nevus" / "mole.png", 2, size=size)
    dataset = load(tmp_path / "large", tmp_path / "small")
    assert dataset["image_id"] == ["ISIC_8000000", "mole", "mole"]
    assert dataset[0]["image"].size == (32, 32)
    assert load(tmp_path / "small")["group"][0] == dataset["group"][0]  # whatever the scaling


def test_a_shipped_test_image_stays_one_whatever_other_source_holds_it(tmp_path):
    class_folders(tmp_path / "first", images=1)
    class_folders(tmp_path / "shipped" / "Test", images=1)
    dataset = load(tmp_path / "first", tmp_path / "shipped")
    assert dataset["shipped_split"] == ["test"] * 9


def test_what_is_known_of_the_nine_class_set_is_filled_in(tmp_path):
    put(tmp_path / "actinic keratosis" / "ISIC_0024468.png", 1)
    row = load(tmp_path).remove_columns("image")[0]
    assert [row[name] for name in ("lesion_id", "age", "sex", "site")] == ["HAM_0006301", 75, "male", "head/neck"]


def test_the_source_is_where_an_archive_number_was_given_out_or_else_the_folders_name(tmp_path):
    sources = {"ISIC_0024305": "older ISIC archive", "ISIC_0024306": "HAM10000", "ISIC_0034320": "HAM10000"}
    sources |= {"ISIC_0034321": "newer ISIC archive", "mole": "my clinic"}
    for i, name in enumerate(sources):
        put(tmp_path / "my clinic" / "nevus" / f"{name}.png", i)
    dataset = load(f"{tmp_path}/my clinic/")
    assert dict(zip(dataset["image_id"], dataset["source"], strict=True)) == sources


@pytest.mark.parametrize("name", ["val", "Valid", "validation", "Training"])
def test_a_shipped_test_split_is_kept_apart_and_one_for_validation_is_part_of_the_training_data(tmp_path, name):
    for i, folder in enumerate((name, "train", "Test")):
        class_folders(tmp_path / folder, images=1, first_seed=100 * i)
    dataset = load(tmp_path)
    assert dataset.features == schema.FEATURES
    assert [dataset["shipped_split"].count(split) for split in ("train", "test")] == [18, 9]


# Copies, merged or not.


def test_without_merging_copies_stay_with_the_name_of_their_data_set(tmp_path):
    for name in ("a/x", "b/x", "c"):
        class_folders(tmp_path / name, images=1, labels=("nevus",))
    dataset = load(*(tmp_path / name for name in ("a/x", "b/x", "c")), merge=False)
    assert dataset["named"] == ["x", "x (2)", "c"]
    assert len(set(dataset["group"])) == 1
    assert len(load(tmp_path / "a/x", tmp_path / "c")) == 1


# Benign or malignant.


def binary(root, **options):
    dataset = load(root, labels=MALIGNANCIES, **options)
    assert dataset.features == schema.BINARY_FEATURES
    return {row["image_id"]: MALIGNANCIES[row["label"]] for row in dataset.remove_columns("image")}


def test_folders_of_benign_and_malignant_can_be_loaded_as_such(tmp_path):
    class_folders(tmp_path, images=1, labels=("Benign", "malignant"))
    assert list(binary(tmp_path).values()) == ["benign", "malignant"]
    assert load(tmp_path, labels=None).features == schema.BINARY_FEATURES


@pytest.mark.parametrize("column", ["target", "benign_malignant", "evil"])
def test_a_column_of_benign_and_malignant_can_be_loaded_as_such(tmp_path, column):
    words = ["benign", "malignant", "malignant", "", "indeterminate"]
    numbers = {"benign": "0", "malignant": "1.0"}
    rows = []
    for i, word in enumerate(words):
        put(tmp_path / "set" / f"{i}.png", i)
        cell = word if column == "benign_malignant" else numbers.get(word, word)
        # Of an image whose diagnosis is known, ISIC 2020 says the other too.
        rows.append({"image_name": f"{i}.png", "diagnosis": "melanoma" if i == 2 else "unknown", column: cell})
    write_table(tmp_path / "set" / "train.csv", rows)
    options = {"columns": {"malignancy": "evil"}} if column == "evil" else {}
    assert binary(tmp_path / "set", **options) == {"0": "benign", "1": "malignant", "2": "malignant"}


def test_a_list_whose_diagnoses_are_all_unknown_names_none(tmp_path):
    put(tmp_path / "set" / "1.png", 1)
    write_table(tmp_path / "set" / "train.csv", [{"image_name": "1", "diagnosis": "unknown", "target": 1}])
    assert load(tmp_path / "set", labels=None).features == schema.BINARY_FEATURES


def test_a_malignancy_that_nobody_knows_is_refused(tmp_path):
    class_folders(tmp_path, images=1, labels=("benign", "malign"))
    with pytest.raises(UsageError, match=r"'malign' is none of the nine diagnoses. Did you mean 'malignant'"):
        load(tmp_path, labels=MALIGNANCIES)
    (tmp_path / "malign").rename(tmp_path / "other")
    assert list(binary(tmp_path).values()) == ["benign"]
    shutil.rmtree(tmp_path / "benign")
    with pytest.raises(UsageError, match="says of no image whether it is malignant: 1 other"):
        load(tmp_path, labels=MALIGNANCIES)


def test_diagnoses_are_benign_or_malignant_too(tmp_path):
    class_folders(tmp_path, images=1, labels=(*DIAGNOSES, "scar"))
    words = dict(zip(DIAGNOSES, binary(tmp_path).values(), strict=True))
    malignant = {"melanoma", "basal cell carcinoma", "squamous cell carcinoma"}
    assert {name for name, word in words.items() if word == "malignant"} == malignant
    assert load(tmp_path, labels=None).features == schema.FEATURES


def test_of_sources_of_which_one_names_no_diagnosis_all_are_benign_or_malignant(tmp_path):
    class_folders(tmp_path / "nine", images=1)
    class_folders(tmp_path / "two", images=1, first_seed=100, labels=("benign", "malignant"))
    both = load(tmp_path / "nine", tmp_path / "two", labels=None)
    assert (both.features, both["label"].count(1)) == (schema.BINARY_FEATURES, 4)


def test_a_binary_set_is_grouped_and_repaired_like_any(tmp_path):
    put(tmp_path / "benign" / "ISIC_0000002.png", 1)  # a melanoma by the archive
    for folder in ("benign", "malignant"):
        put(tmp_path / folder / f"{folder}.png", 2)
    dataset, report = label_repair.repair(near_duplicates.link(load(tmp_path, labels=MALIGNANCIES)))
    assert report.relabelled == {"benign": {"malignant": 1}}
    assert report.dropped == {"benign / malignant": 1}
    assert (dataset["label"], dataset.features) == ([1], schema.BINARY_FEATURES)


# Columns.


def test_columns_are_named_as_pairs_or_in_a_file(tmp_path):
    (tmp_path / "columns.json").write_text('{"label": "finding", "image": "photo"}')
    for arguments in (["label=finding", "image=photo"], [f"{tmp_path}/columns.json"]):
        assert table_columns.mapping(arguments) == {"label": "finding", "image": "photo"}
    assert table_columns.mapping(["label=a=b"]) == {"label": "a=b"}
    assert table_columns.mapping([]) == {}
    from dermalert.training.flags import parse  # which imports torch

    demo = ["--dataset_name", "demo"]
    assert parse([*demo, "--columns", "label=finding", "image=photo"]).columns == ["label=finding", "image=photo"]
    assert (parse(demo).columns, parse(demo).streaming, parse([*demo, "--streaming"]).streaming) == (None, False, True)


WRONG_COLUMNS = {
    "no pair": (["finding"], "--columns takes FIELD=COLUMN, such as label=dx, or one .json file, not finding"),
    "no column": (["label="], "--columns takes FIELD=COLUMN, .* not label="),
    "a file and a pair": (["x.json", "label=dx"], "--columns takes FIELD=COLUMN, .* not x.json"),
    "twice": (["label=a", "label=b"], "--columns names a column of 'label' twice"),
    "no field": (["lesion=no"], "'lesion' is no field of an image. Did you mean 'lesion_id'.* The fields are: image, "),
    "no file": (["no.json"], "--columns 'no.json' cannot be read: No such file"),
    "no JSON": (["bad.json"], "--columns 'bad.json' is no JSON file: Expecting value"),
    "not UTF-8": (["latin.json"], "--columns 'latin.json' is no JSON file: 'utf-8'"),
    "no mapping": (["list.json"], """--columns 'list.json' must map fields to columns, such as {"label": "dx"}"""),
    "no text": (["number.json"], "--columns 'number.json' must map fields to columns"),
}


@pytest.mark.parametrize(("arguments", "sentence"), WRONG_COLUMNS.values(), ids=WRONG_COLUMNS)
def test_columns_that_are_named_wrongly_are_refused(arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text("label: dx")
    (tmp_path / "latin.json").write_bytes('{"label": "Diagnose für"}'.encode("latin-1"))
    (tmp_path / "list.json").write_text('["label"]')
    (tmp_path / "number.json").write_text('{"label": 3}')
    with pytest.raises(UsageError, match=sentence):
        table_columns.mapping(arguments)


def test_of_several_data_sets_a_column_counts_where_it_is(tmp_path):
    for i, (name, column) in enumerate([("a", "finding"), ("b", "dx")]):
        put(tmp_path / name / "1.png", i)
        write_table(tmp_path / name / "list.csv", [{"photo": "1.png", "image": "1.png", column: ["nv", "mel"][i]}])
    names = [str(tmp_path / name) for name in "ab"]
    assert load(*names, columns={"label": "finding", "image": "photo"})["label"] == [4, 3]
    with pytest.raises(UsageError, match=r"no column 'lesion' for 'lesion_id'. There are: dx, finding, image, photo"):
        load(*names, columns={"label": "finding", "lesion_id": "lesion"})
    class_folders(tmp_path / "c", images=1)
    with pytest.raises(UsageError, match=r"no column 'lesion' for 'lesion_id'. There is no table"):
        load(tmp_path / "c", columns={"lesion_id": "lesion"})


@pytest.mark.parametrize("numbers", [[0, 1, 2], [1, 3], [3, 0, 2]])
def test_rows_stand_beside_their_images(numbers):
    images = loading.Dataset.from_dict({"image": [{"bytes": b"%d" % i, "path": None} for i in range(4)]})
    rows = loading._table(({"image_id": f"of {number}", "number": number} for number in numbers), loading._ROWS)
    features = loading.Features(
        {"image": loading.Image(), "image_id": loading.Value("string"), "age": loading.Value("float32")}
    )
    found = loading._with_images(rows, images, features)
    assert found.features == features
    assert found["image_id"][:] == [f"of {number}" for number in numbers]
    assert found["age"][:] == [None] * len(numbers)
    files = found.cast_column("image", loading.Image(decode=False))["image"]
    assert [image["bytes"] for image in files] == [b"%d" % number for number in numbers]


def test_a_lesion_under_two_of_the_archives_ids_is_one_group(tmp_path, caplog):
    for folder, number in (("newer", "ISIC_0029306"), ("ham", "ISIC_0029307")):
        (tmp_path / folder).mkdir()
        picture(int(number[-1])).save(tmp_path / folder / f"{number}.png")
    write_table(
        tmp_path / "newer" / "metadata.csv", [{"isic_id": "ISIC_0029306", "dx": "nv", "lesion_id": "IL_5004938"}]
    )
    rows = [{"image_id": f"ISIC_002930{i}", "dx": "nv", "lesion_id": "HAM_0000897"} for i in (6, 7)]
    write_table(tmp_path / "HAM10000_metadata.csv", rows)
    write_table(tmp_path / "ham" / "HAM10000_metadata.csv", rows[1:])
    dataset = loading.load([str(tmp_path / "newer"), str(tmp_path / "ham")]).dataset
    assert dataset["lesion_id"] == ["IL_5004938", "HAM_0000897"]
    assert len(set(dataset["group"])) == 1
    assert "several lesions" not in caplog.text
