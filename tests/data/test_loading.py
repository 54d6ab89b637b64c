import shutil

import numpy as np
import pytest
from dermalert_space.images import read_image
from PIL import Image
from support.pictures import class_folders, picture, write_table

from dermalert.data import label_repair, loading, near_duplicates, schema, table_columns
from dermalert.errors import UsageError
from dermalert.taxonomy import DIAGNOSES, MALIGNANCIES, diagnosis
from train_hf import parse


def test_train_and_test_folders_are_kept_apart(tmp_path):
    class_folders(tmp_path / "Train", images=2)
    class_folders(tmp_path / "Test", images=1, first_seed=100)
    dataset = loading.load([str(tmp_path)])
    assert dataset.features == schema.FEATURES
    assert len(dataset) == 27
    assert dataset["shipped_split"].count("test") == 9


def test_a_missing_class_does_not_shift_the_label_ids(tmp_path):
    class_folders(tmp_path, images=1, labels=("nevus", "vascular lesion"))
    assert sorted(loading.load([str(tmp_path)])["label"]) == [4, 8]


def test_the_names_of_ham10000_stand_for_the_diagnoses(tmp_path):
    class_folders(tmp_path, images=1, labels=("mel", "nv", "bkl"))
    assert sorted(DIAGNOSES[i] for i in loading.load([str(tmp_path)])["label"]) == [
        "melanoma",
        "nevus",
        "pigmented benign keratosis",
    ]
    assert diagnosis("Basal_Cell  carcinoma") == "basal cell carcinoma"


def test_a_left_over_folder_inside_a_class_folder_does_not_disturb(tmp_path, caplog):
    class_folders(tmp_path, images=2)
    class_folders(tmp_path / "melanoma" / "output", images=1, labels=("nevus",))
    assert len(loading.load([str(tmp_path)])) == 18
    assert "left out 1 files below" in caplog.text


def test_a_folder_that_names_no_diagnosis_is_refused_with_the_nearest(tmp_path):
    class_folders(tmp_path, images=1, labels=("melanomas",))
    with pytest.raises(UsageError, match=r"'melanomas' is none of the nine diagnoses. Did you mean 'melanoma'"):
        loading.load([str(tmp_path)])


def test_an_unknown_data_set_is_refused_with_the_nearest(tmp_path):
    class_folders(tmp_path / "isic9", images=1)
    with pytest.raises(UsageError, match=r"isic-9' is neither 'demo' nor a folder. Did you mean '.*isic9'"):
        loading.load([str(tmp_path / "isic-9")])
    with pytest.raises(UsageError, match="Did you mean 'demo'"):
        loading.load(["demmo"])


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match="has no images: it must hold one folder a diagnosis"):
        loading.load([str(tmp_path)])


def damaged(root):
    class_folders(root, images=2)
    whole = (root / "nevus").glob("*.png").__next__().read_bytes()
    (root / "nevus" / "cut.png").write_bytes(whole[:200])
    (root / "nevus" / "notes.txt").write_text("no image")
    (root / "nevus" / ".DS_Store").write_text("hidden")
    return root


def test_damaged_files_are_named_and_skipped(tmp_path, caplog):
    assert len(loading.load([str(damaged(tmp_path))])) == 18
    assert "skipped 2 of 20 files" in caplog.text
    assert "cut.png" in caplog.text
    assert "notes.txt" in caplog.text


def test_damaged_files_are_refused_under_strict(tmp_path):
    with pytest.raises(UsageError, match=r"2 of 20 files in '.*' are no images: .*cut.png.*notes.txt"):
        loading.load([str(damaged(tmp_path))], strict=True)


def test_a_folder_of_nothing_but_damaged_files_is_refused(tmp_path):
    (tmp_path / "nevus").mkdir()
    (tmp_path / "nevus" / "a.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="none of the 1 files"):
        loading.load([str(tmp_path)])


def test_images_of_every_mode_come_out_right(tmp_path):
    folder = class_folders(tmp_path, images=1, labels=("nevus",)) / "nevus"
    picture(1).convert("CMYK").save(folder / "cmyk.jpg")
    picture(2).convert("L").save(folder / "grey.png")
    picture(3).convert("RGBA").save(folder / "alpha.png")
    Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(folder / "deep.png")
    turned = Image.Exif()
    turned[274] = 6
    Image.new("RGB", (20, 10)).save(folder / "turned.jpg", exif=turned)
    dataset = loading.load([str(tmp_path)])
    assert len(dataset) == 6
    read = {row["image_id"]: read_image(row["image"]) for row in dataset}
    assert {image.mode for image in read.values()} == {"RGB"}
    assert read["turned"].size == (10, 20)


def test_one_image_under_two_labels_is_said_and_is_one_group(tmp_path, caplog):
    class_folders(tmp_path, images=2)
    original = next((tmp_path / "melanoma").iterdir())
    shutil.copy(original, tmp_path / "seborrheic keratosis" / original.name)
    dataset = loading.load([str(tmp_path)])
    assert "19 files hold 18 different images; 1 images stand under two labels: 1 melanoma / seborrheic" in caplog.text
    assert len(set(dataset["group"])) == 18
    assert schema.describe(dataset)["contradictions"] == 1


def test_the_fingerprint_changes_with_the_content_and_not_with_the_order(tmp_path):
    dataset = loading.load([str(class_folders(tmp_path, images=2))])
    found = schema.describe(dataset)["fingerprint"]
    assert schema.describe(dataset.shuffle(seed=1))["fingerprint"] == found
    assert schema.describe(dataset.select(range(17)))["fingerprint"] != found


def test_an_image_of_several_sources_is_one_row_with_what_each_knows(tmp_path):
    for name, label in [("a", "nevus"), ("b", "nv"), ("c", "melanoma")]:
        (tmp_path / name / label).mkdir(parents=True)
        picture(1).save(tmp_path / name / label / f"{name}.png")
    write_table(tmp_path / "b" / "HAM10000_metadata.csv", [{"image_id": "b", "lesion_id": "HAM_9000000", "age": 40}])
    picture(2).save(tmp_path / "b" / "nv" / "more.png")
    dataset = loading.load([str(tmp_path / name) for name in "abc"])
    rows = [(row["image_id"], row["label"], row["lesion_id"], row["age"]) for row in dataset.remove_columns("image")]
    assert rows == [("a", 4, "HAM_9000000", 40), ("more", 4, None, None), ("c", 3, None, None)]
    assert dataset["group"][0] == dataset["group"][2] == "HAM_9000000"
    assert dataset[0]["image"].tobytes() == picture(1).tobytes()


def test_the_archives_number_makes_two_scalings_one_image(tmp_path):
    for name, size in [("small", 16), ("large", 32)]:
        (tmp_path / name / "nevus").mkdir(parents=True)
        picture(1, size=size).save(tmp_path / name / "nevus" / "ISIC_8000000.png")
        picture(2, size=size).save(tmp_path / name / "nevus" / "mole.png")
    dataset = loading.load([str(tmp_path / "large"), str(tmp_path / "small")])
    assert dataset["image_id"] == ["ISIC_8000000", "mole", "mole"]
    assert dataset[0]["image"].size == (32, 32)
    assert loading.load([str(tmp_path / "small")])["group"][0] == dataset["group"][0]  # whatever the scaling


def test_a_shipped_test_image_stays_one_whatever_other_source_holds_it(tmp_path):
    class_folders(tmp_path / "first", images=1)
    class_folders(tmp_path / "shipped" / "Test", images=1)
    dataset = loading.load([str(tmp_path / "first"), str(tmp_path / "shipped")])
    assert dataset["shipped_split"] == ["test"] * 9


def test_what_is_known_of_the_nine_class_set_is_filled_in(tmp_path):
    folder = class_folders(tmp_path, images=0, labels=("actinic keratosis",)) / "actinic keratosis"
    picture(1).save(folder / "ISIC_0024468.png")
    row = loading.load([str(tmp_path)]).remove_columns("image")[0]
    assert [row[name] for name in ("lesion_id", "age", "sex", "site")] == ["HAM_0006301", 75, "male", "head/neck"]


def test_isic_numbers_tell_where_an_image_was_made(tmp_path):
    folder = class_folders(tmp_path, images=0) / "nevus"
    for i, name in enumerate(["ISIC_0024305", "ISIC_0024306", "ISIC_0034320", "ISIC_0034321", "mole"]):
        picture(i).save(folder / f"{name}.png")
    dataset = loading.load([str(tmp_path)])
    assert dict(zip(dataset["image_id"], dataset["source"], strict=True)) == {
        "ISIC_0024305": "older ISIC archive",
        "ISIC_0024306": "HAM10000",
        "ISIC_0034320": "HAM10000",
        "ISIC_0034321": "newer ISIC archive",
        "mole": tmp_path.name,
    }


def test_of_a_folder_whose_ids_do_not_tell_the_source_is_its_name(tmp_path):
    class_folders(tmp_path / "my clinic", images=0, labels=("nevus",))
    picture(1).save(tmp_path / "my clinic" / "nevus" / "mole.png")
    assert loading.load([f"{tmp_path}/my clinic/"])["source"] == ["my clinic"]


@pytest.mark.parametrize("name", ["val", "Valid", "validation", "Training"])
def test_a_shipped_validation_split_is_part_of_the_training_data(tmp_path, name):
    class_folders(tmp_path / name, images=1)
    class_folders(tmp_path / "train", images=1, first_seed=100)
    class_folders(tmp_path / "test", images=1, first_seed=200)
    shipped = loading.load([str(tmp_path)])["shipped_split"]
    assert (shipped.count("train"), shipped.count("test")) == (18, 9)


# Copies, merged or not.


def test_without_merging_copies_stay_with_the_name_of_their_data_set(tmp_path):
    for name in ("a/x", "b/x", "c"):
        class_folders(tmp_path / name, images=1, labels=("nevus",))
    dataset = loading.load([str(tmp_path / name) for name in ("a/x", "b/x", "c")], merge=False)
    assert dataset["named"] == ["x", "x (2)", "c"]
    assert len(set(dataset["group"])) == 1
    assert len(loading.load([str(tmp_path / "a/x"), str(tmp_path / "c")])) == 1


# Benign or malignant.


def binary(root, **options):
    dataset = loading.load([str(root)], labels=MALIGNANCIES, **options)
    assert dataset.features == schema.BINARY_FEATURES
    return {row["image_id"]: MALIGNANCIES[row["label"]] for row in dataset.remove_columns("image")}


def test_folders_of_benign_and_malignant_can_be_loaded_as_such(tmp_path):
    class_folders(tmp_path, images=1, labels=("Benign", "malignant"))
    assert list(binary(tmp_path).values()) == ["benign", "malignant"]
    assert loading.load([str(tmp_path)], labels=None).features == schema.BINARY_FEATURES


@pytest.mark.parametrize("column", ["target", "benign_malignant", "evil"])
def test_a_column_of_benign_and_malignant_can_be_loaded_as_such(tmp_path, column):
    (tmp_path / "set").mkdir()
    words = ["benign", "malignant", "malignant", "", "indeterminate"]
    numbers = {"benign": "0", "malignant": "1.0"}
    rows = []
    for i, word in enumerate(words):
        picture(i).save(tmp_path / "set" / f"{i}.png")
        cell = word if column == "benign_malignant" else numbers.get(word, word)
        # Of an image whose diagnosis is known, ISIC 2020 says the other too.
        rows.append({"image_name": f"{i}.png", "diagnosis": "melanoma" if i == 2 else "unknown", column: cell})
    write_table(tmp_path / "set" / "train.csv", rows)
    options = {"columns": {"malignancy": "evil"}} if column == "evil" else {}
    assert binary(tmp_path / "set", **options) == {"0": "benign", "1": "malignant", "2": "malignant"}


def test_a_list_whose_diagnoses_are_all_unknown_names_none(tmp_path):
    (tmp_path / "set").mkdir()
    picture(1).save(tmp_path / "set" / "1.png")
    write_table(tmp_path / "set" / "train.csv", [{"image_name": "1", "diagnosis": "unknown", "target": 1}])
    assert loading.load([str(tmp_path / "set")], labels=None).features == schema.BINARY_FEATURES


def test_a_malignancy_that_nobody_knows_is_refused(tmp_path):
    class_folders(tmp_path, images=1, labels=("benign", "malign"))
    with pytest.raises(UsageError, match=r"'malign' is none of the nine diagnoses. Did you mean 'malignant'"):
        loading.load([str(tmp_path)], labels=MALIGNANCIES)
    (tmp_path / "malign").rename(tmp_path / "other")
    assert list(binary(tmp_path).values()) == ["benign"]
    shutil.rmtree(tmp_path / "benign")
    with pytest.raises(UsageError, match="says of no image whether it is malignant: 1 other"):
        loading.load([str(tmp_path)], labels=MALIGNANCIES)


def test_diagnoses_are_benign_or_malignant_too(tmp_path):
    class_folders(tmp_path, images=1, labels=(*DIAGNOSES, "solar lentigo"))
    found = dict(zip(DIAGNOSES, binary(tmp_path).values(), strict=True))
    malignant = {"melanoma", "basal cell carcinoma", "squamous cell carcinoma"}
    assert {name for name, word in found.items() if word == "malignant"} == malignant
    assert loading.load([str(tmp_path)], labels=None).features == schema.FEATURES


def test_of_sources_of_which_one_names_no_diagnosis_all_are_benign_or_malignant(tmp_path):
    class_folders(tmp_path / "nine", images=1)
    class_folders(tmp_path / "two", images=1, first_seed=100, labels=("benign", "malignant"))
    both = loading.load([str(tmp_path / "nine"), str(tmp_path / "two")], labels=None)
    assert (both.features, both["label"].count(1)) == (schema.BINARY_FEATURES, 4)


def test_a_binary_set_is_grouped_and_repaired_like_any(tmp_path):
    class_folders(tmp_path, images=0, labels=("benign", "malignant"))
    picture(1).save(tmp_path / "benign" / "ISIC_0000002.png")  # a melanoma by the archive
    for folder in ("benign", "malignant"):
        picture(2).save(tmp_path / folder / f"{folder}.png")
    dataset, report = label_repair.repair(near_duplicates.link(loading.load([str(tmp_path)], labels=MALIGNANCIES)))
    assert report.relabelled == {"benign": {"malignant": 1}}
    assert report.dropped == {"benign / malignant": 1}
    assert (dataset["label"], dataset.features) == ([1], schema.BINARY_FEATURES)


# Columns.


def test_columns_are_named_as_pairs_or_in_a_file(tmp_path):
    (tmp_path / "columns.json").write_text('{"label": "finding", "image": "photo"}')
    named = {"label": "finding", "image": "photo"}
    assert (
        table_columns.mapping(["label=finding", "image=photo"])
        == table_columns.mapping([f"{tmp_path}/columns.json"])
        == named
    )
    assert table_columns.mapping(["label=a=b"]) == {"label": "a=b"}
    assert table_columns.mapping([]) == {}
    assert parse(["--columns", "label=finding", "image=photo"]).columns == ["label=finding", "image=photo"]
    assert (parse([]).columns, parse([]).streaming, parse(["--streaming"]).streaming) == (None, False, True)


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
        (tmp_path / name).mkdir()
        picture(i).save(tmp_path / name / "1.png")
        write_table(tmp_path / name / "list.csv", [{"photo": "1.png", "image": "1.png", column: ["nv", "mel"][i]}])
    names = [str(tmp_path / name) for name in "ab"]
    assert loading.load(names, columns={"label": "finding", "image": "photo"})["label"] == [4, 3]
    with pytest.raises(UsageError, match=r"no column 'lesion' for 'lesion_id'. There are: dx, finding, image, photo"):
        loading.load(names, columns={"label": "finding", "lesion_id": "lesion"})
    class_folders(tmp_path / "c", images=1)
    with pytest.raises(UsageError, match=r"no column 'lesion' for 'lesion_id'. There is no table"):
        loading.load([str(tmp_path / "c")], columns={"lesion_id": "lesion"})


def test_the_real_nine_class_set_is_read_whole(real_images):
    found = schema.describe(loading.load([str(real_images / "isic9")], strict=True))
    assert (found["images"], found["contradictions"]) == (2357, 155)
    assert found["sources"] == ["HAM10000", "older ISIC archive"]


def test_the_real_sources_merge_into_one_row_an_image(real_images):
    dataset = loading.load([str(real_images / name) for name in ("isic9", "isic2017", "ham10000")])
    # That the two images of ham10000/akiec are carcinomas, the ground truth of ISIC 2019 tells.
    assert len(dataset) == 2357 + 1579 + 6657
    assert set(dataset["source"]) == {"HAM10000", "older ISIC archive"}


@pytest.mark.parametrize("numbers", [[0, 1, 2], [1, 3], [3, 0, 2]])
def test_rows_stand_beside_their_images_and_are_let_go(numbers):
    images = loading.Dataset.from_dict({"image": [{"bytes": b"%d" % i, "path": None} for i in range(4)]})
    rows = [{"image_id": f"of {number}"} for number in numbers]
    source = loading._Source("there", rows, images, numbers)
    features = loading.Features({"image_id": loading.Value("string")})
    found = source.dataset(features).cast_column("image", loading.Image(decode=False))
    assert found["image_id"][:] == [f"of {number}" for number in numbers]
    assert [image["bytes"] for image in found["image"]] == [b"%d" % number for number in numbers]
    assert not source.rows
