import shutil

import numpy as np
import pytest
from pictures import class_folders, picture, write_table
from PIL import Image

from dermalert import sources
from dermalert.diagnoses import DIAGNOSES, diagnosis
from dermalert.errors import UsageError


def test_train_and_test_folders_are_kept_apart(tmp_path):
    class_folders(tmp_path / "Train", images=2)
    class_folders(tmp_path / "Test", images=1, first_seed=100)
    dataset = sources.load([str(tmp_path)])
    assert dataset.features == sources.FEATURES
    assert len(dataset) == 27
    assert dataset["shipped_split"].count("test") == 9


def test_a_missing_class_does_not_shift_the_label_ids(tmp_path):
    class_folders(tmp_path, images=1, labels=("nevus", "vascular lesion"))
    assert sorted(sources.load([str(tmp_path)])["label"]) == [4, 8]


def test_the_names_of_ham10000_stand_for_the_diagnoses(tmp_path):
    class_folders(tmp_path, images=1, labels=("mel", "nv", "bkl"))
    assert sorted(DIAGNOSES[i] for i in sources.load([str(tmp_path)])["label"]) == [
        "melanoma",
        "nevus",
        "pigmented benign keratosis",
    ]
    assert diagnosis("Basal_Cell  carcinoma") == "basal cell carcinoma"


def test_a_left_over_folder_inside_a_class_folder_does_not_disturb(tmp_path, caplog):
    class_folders(tmp_path, images=2)
    class_folders(tmp_path / "melanoma" / "output", images=1, labels=("nevus",))
    assert len(sources.load([str(tmp_path)])) == 18
    assert "left out 1 files below" in caplog.text


def test_a_folder_that_names_no_diagnosis_is_refused_with_the_nearest(tmp_path):
    class_folders(tmp_path, images=1, labels=("melanomas",))
    with pytest.raises(UsageError, match=r"'melanomas' is none of the nine diagnoses. Did you mean 'melanoma'"):
        sources.load([str(tmp_path)])


def test_an_unknown_data_set_is_refused_with_the_nearest(tmp_path):
    class_folders(tmp_path / "isic9", images=1)
    with pytest.raises(UsageError, match=r"isic-9' is neither 'demo' nor a folder. Did you mean '.*isic9'"):
        sources.load([str(tmp_path / "isic-9")])
    with pytest.raises(UsageError, match="Did you mean 'demo'"):
        sources.load(["demmo"])


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match="has no images: it must hold one folder a diagnosis"):
        sources.load([str(tmp_path)])


def damaged(root):
    class_folders(root, images=2)
    whole = (root / "nevus").glob("*.png").__next__().read_bytes()
    (root / "nevus" / "cut.png").write_bytes(whole[:200])
    (root / "nevus" / "notes.txt").write_text("no image")
    (root / "nevus" / ".DS_Store").write_text("hidden")
    return root


def test_damaged_files_are_named_and_skipped(tmp_path, caplog):
    assert len(sources.load([str(damaged(tmp_path))])) == 18
    assert "skipped 2 of 20 files" in caplog.text
    assert "cut.png" in caplog.text
    assert "notes.txt" in caplog.text


def test_damaged_files_are_refused_under_strict(tmp_path):
    with pytest.raises(UsageError, match=r"2 of 20 files in '.*' are no images: .*cut.png.*notes.txt"):
        sources.load([str(damaged(tmp_path))], strict=True)


def test_a_folder_of_nothing_but_damaged_files_is_refused(tmp_path):
    (tmp_path / "nevus").mkdir()
    (tmp_path / "nevus" / "a.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="none of the 1 files"):
        sources.load([str(tmp_path)])


def test_images_of_every_mode_come_out_right(tmp_path):
    folder = class_folders(tmp_path, images=1, labels=("nevus",)) / "nevus"
    picture(1).convert("CMYK").save(folder / "cmyk.jpg")
    picture(2).convert("L").save(folder / "grey.png")
    picture(3).convert("RGBA").save(folder / "alpha.png")
    Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(folder / "deep.png")
    turned = Image.Exif()
    turned[274] = 6
    Image.new("RGB", (20, 10)).save(folder / "turned.jpg", exif=turned)
    dataset = sources.load([str(tmp_path)])
    assert len(dataset) == 6
    from dermalert.images import with_pixels

    sizes = []

    def processor(images, **_):
        sizes.extend((image.size, image.mode) for image in images)
        return {"pixel_values": np.zeros((len(images), 3, 2, 2))}

    rows = with_pixels(dataset, processor)[:]
    assert len(rows["labels"]) == 6
    assert {mode for _, mode in sizes} == {"RGB"}
    assert dict(zip(dataset["image_id"], sizes, strict=True))["turned"][0] == (10, 20)


def test_one_image_under_two_labels_is_said_and_is_one_group(tmp_path, caplog):
    class_folders(tmp_path, images=2)
    original = next((tmp_path / "melanoma").iterdir())
    shutil.copy(original, tmp_path / "seborrheic keratosis" / original.name)
    dataset = sources.load([str(tmp_path)])
    assert "19 files hold 18 different images; 1 images stand under two labels: 1 melanoma / seborrheic" in caplog.text
    assert len(set(dataset["group"])) == 18
    assert sources.describe(dataset)["contradictions"] == 1


def test_the_fingerprint_changes_with_the_content_and_not_with_the_order(tmp_path):
    dataset = sources.load([str(class_folders(tmp_path, images=2))])
    found = sources.describe(dataset)["fingerprint"]
    assert sources.describe(dataset.shuffle(seed=1))["fingerprint"] == found
    assert sources.describe(dataset.select(range(17)))["fingerprint"] != found


def test_an_image_of_several_sources_is_one_row_with_what_each_knows(tmp_path):
    for name, label in [("a", "nevus"), ("b", "nv"), ("c", "melanoma")]:
        (tmp_path / name / label).mkdir(parents=True)
        picture(1).save(tmp_path / name / label / f"{name}.png")
    write_table(tmp_path / "b" / "HAM10000_metadata.csv", [{"image_id": "b", "lesion_id": "HAM_9000000", "age": 40}])
    picture(2).save(tmp_path / "b" / "nv" / "more.png")
    dataset = sources.load([str(tmp_path / name) for name in "abc"])
    rows = [(row["image_id"], row["label"], row["lesion_id"], row["age"]) for row in dataset.remove_columns("image")]
    assert rows == [("a", 4, "HAM_9000000", 40), ("more", 4, None, None), ("c", 3, None, None)]
    assert dataset["group"][0] == dataset["group"][2] == "HAM_9000000"
    assert dataset[0]["image"].tobytes() == picture(1).tobytes()


def test_the_archives_number_makes_two_scalings_one_image(tmp_path):
    for name, size in [("small", 16), ("large", 32)]:
        (tmp_path / name / "nevus").mkdir(parents=True)
        picture(1, size=size).save(tmp_path / name / "nevus" / "ISIC_8000000.png")
        picture(2, size=size).save(tmp_path / name / "nevus" / "mole.png")
    dataset = sources.load([str(tmp_path / "large"), str(tmp_path / "small")])
    assert dataset["image_id"] == ["ISIC_8000000", "mole", "mole"]
    assert dataset[0]["image"].size == (32, 32)
    assert sources.load([str(tmp_path / "small")])["group"][0] == dataset["group"][0]  # whatever the scaling


def test_a_shipped_test_image_stays_one_whatever_other_source_holds_it(tmp_path):
    class_folders(tmp_path / "first", images=1)
    class_folders(tmp_path / "shipped" / "Test", images=1)
    dataset = sources.load([str(tmp_path / "first"), str(tmp_path / "shipped")])
    assert dataset["shipped_split"] == ["test"] * 9


def test_what_is_known_of_the_nine_class_set_is_filled_in(tmp_path):
    folder = class_folders(tmp_path, images=0, labels=("actinic keratosis",)) / "actinic keratosis"
    picture(1).save(folder / "ISIC_0024468.png")
    row = sources.load([str(tmp_path)]).remove_columns("image")[0]
    assert [row[name] for name in ("lesion_id", "age", "sex", "site")] == ["HAM_0006301", 75, "male", "head/neck"]


def test_isic_numbers_tell_where_an_image_was_made(tmp_path):
    folder = class_folders(tmp_path, images=0) / "nevus"
    for i, name in enumerate(["ISIC_0024305", "ISIC_0024306", "ISIC_0034320", "ISIC_0034321", "mole"]):
        picture(i).save(folder / f"{name}.png")
    dataset = sources.load([str(tmp_path)])
    assert dict(zip(dataset["image_id"], dataset["source"], strict=True)) == {
        "ISIC_0024305": "older ISIC archive",
        "ISIC_0024306": "HAM10000",
        "ISIC_0034320": "HAM10000",
        "ISIC_0034321": "newer ISIC archive",
        "mole": "unknown",
    }


def test_the_real_nine_class_set_is_read_whole(real_images):
    found = sources.describe(sources.load([str(real_images / "isic9")], strict=True))
    assert (found["images"], found["contradictions"]) == (2357, 155)
    assert found["sources"] == ["HAM10000", "older ISIC archive"]


def test_the_real_sources_merge_into_one_row_an_image(real_images):
    dataset = sources.load([str(real_images / name) for name in ("isic9", "isic2017", "ham10000")])
    # ham10000/akiec holds two images of which nothing says whether they are a keratosis or a carcinoma.
    assert len(dataset) == 2357 + 1579 + 6657 - 2
    assert set(dataset["source"]) == {"HAM10000", "older ISIC archive"}
