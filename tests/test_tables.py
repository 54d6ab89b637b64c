"""What rows say of images: which split, which kind of picture, which file, and what of a table is not used."""

import pytest
from datasets import Dataset
from pictures import picture, write_table

from dermalert import hub, sources, tables

LABELS = ("melanoma", "nevus")
TEST_WORDS = ["Hold-Out 2", "blind_test", "testB", "ISIC2016 Test Images", "TESTSET"]


def put(path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path)


def clinic(root, n: int = 6, folders: bool = False):
    """Write so many images, `im0.png` and on, in turn of a melanoma and of a nevus."""
    for i in range(n):
        put((root / LABELS[i % 2] if folders else root) / f"im{i}.png", i)
    return root


def of(i: int, **cells) -> dict:
    return {"file_name": f"im{i}.png", "dx": LABELS[i % 2]} | cells


def load(root):
    return {row["image_id"]: row for row in sources.load([str(root)]).remove_columns("image")}


@pytest.mark.parametrize("word", TEST_WORDS)
def test_a_word_for_the_test_is_one_in_a_cell_a_folder_and_a_split_of_the_hub(tmp_path, word):
    rows = [of(i, split=word if i < 2 else "train") for i in range(6)]
    write_table(clinic(tmp_path / "cells") / "m.csv", rows)
    for i in range(6):
        put(tmp_path / "folders" / (word if i < 2 else "training_input") / f"im{i}.png", i)
    write_table(tmp_path / "folders" / "m.csv", [of(i) for i in range(6)])
    for root in (tmp_path / "cells", tmp_path / "folders"):
        assert [row["shipped_split"] for _, row in sorted(load(root).items())] == ["test"] * 2 + ["train"] * 4
    row = Dataset.from_list([of(0)])
    (record,) = hub._records(row, f"user/x/{word}", tables.columns_of(row.column_names), [""], first=0)
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
    found = load(tmp_path)
    assert [name for name in sorted(found) if found[name]["shipped_split"] == "test"] == ["im4", "im5"]
