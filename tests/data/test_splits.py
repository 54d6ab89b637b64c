import shutil

import networkx
import numpy as np
import pytest
from datasets import Dataset
from support.pictures import class_folders, picture

from dermalert.data import groups, label_repair, loading, schema, space_examples, splits
from dermalert.errors import UsageError

TWO = ("melanoma", "nevus")


def sides_of(sides):
    return {i: name for name, rows in sides.items() for i in rows["image_id"]}


def test_rows_that_share_a_name_are_one_group_under_its_most_telling_name():
    names = [("L2", "P1", None, "a"), ("L1", None, None, "b"), (None, "P1", "I1", "c"), (None, None, "I1", "d")]
    assert groups.group_keys([*names, (None, None, None, "e")]) == ["L2", "L1", "L2", "L2", "e"]
    assert groups.group_keys(reversed(names)) == ["L2", "L2", "L1", "L2"]


def test_identical_bytes_are_one_group_even_if_only_one_copy_knows_its_lesion():
    assert groups.group_keys([(None, "a"), ("L1", "a"), ("L1", "b"), (None, "b")]) == ["L1"] * 4


def test_a_group_keeps_its_key_unless_another_joins_it():
    names = [(f"L{i}" if i % 3 else None, f"{i // 2}") for i in range(40)]
    more = [(None, "new"), ("L99", "also new"), ("L50", "0")]
    alone, together = groups.group_keys(names), groups.group_keys([*more, *names])[len(more) :]
    assert [(a, b) for a, b in zip(alone, together, strict=True) if a != b] == []
    joined = groups.group_keys([("L0", "3"), *names])[1:]
    assert [(a, b) for a, b in zip(alone, joined, strict=True) if a != b] == [("L7", "L0")] * 2


@pytest.mark.parametrize("seed", range(10))
def test_groups_are_the_connected_components_under_their_first_name_in_order(seed):
    rng = np.random.default_rng(seed)
    names = [[f"{k}" if rng.random() < 0.5 else None for k in rng.integers(0, 25, 3)] + [f"{i}"] for i in range(40)]
    links = [tuple(pair) for pair in rng.integers(0, 40, (3, 2)).tolist()]
    graph = networkx.Graph(links)
    nodes = [[(rank, name) for rank, name in enumerate(row) if name is not None] for row in names]
    graph.add_edges_from((i, node) for i, row in enumerate(nodes) for node in row)
    keys = {
        node: min(name for name in part if isinstance(name, tuple))[1]
        for part in networkx.connected_components(graph)
        for node in part
    }
    assert groups.group_keys(names, links) == [keys[i] for i in range(40)]


def test_links_join_groups_for_a_reason_without_a_name():
    assert groups.group_keys([("L2",), ("L1",), ("L3",)], links=[(0, 1)]) == ["L1", "L1", "L3"]


def test_the_sides_have_their_shares():
    counts = dict.fromkeys(splits.SHARES, 0)
    for i in range(20_000):
        counts[splits.split_of(f"lesion-{i}")] += 1
    assert {name: n / 20_000 for name, n in counts.items()} == pytest.approx(splits.SHARES, abs=0.01)


def test_neither_order_nor_more_images_move_an_image(tmp_path):
    class_folders(tmp_path / "a", images=60, labels=TWO)
    class_folders(tmp_path / "b", images=15, first_seed=1000, labels=TWO)
    alone = loading.load([str(tmp_path / "a")]).dataset
    together = loading.load([str(tmp_path / "b"), str(tmp_path / "a")]).dataset
    before, after = sides_of(splits.split(alone)), sides_of(splits.split(together.shuffle(seed=3)))
    assert all(after[i] == side for i, side in before.items())
    assert sides_of(splits.split(alone, seed=1)) != before


def test_the_fingerprint_changes_with_side_label_and_order_of_an_image():
    def of(train: str, held_out: str, labels: list[int]) -> str:
        sides = {"train": {"content": list(train), "label": labels}, "held_out": {"content": [held_out], "label": [0]}}
        return splits.fingerprint({name: Dataset.from_dict(side) for name, side in sides.items()})

    assert of("ab", "c", [0, 1]) == of("ab", "c", [0, 1])
    others = [of("ba", "c", [0, 1]), of("ac", "b", [0, 1]), of("ab", "c", [1, 0])]
    assert len({of("ab", "c", [0, 1]), *others}) == 4


def test_no_group_stands_on_two_sides(tmp_path):
    class_folders(tmp_path / "Train", images=40, labels=TWO)
    class_folders(tmp_path / "Test", images=18, first_seed=1000, labels=TWO)
    for original in sorted((tmp_path / "Train" / "melanoma").iterdir())[:10]:
        shutil.copy(original, tmp_path / "Train" / "nevus" / f"{original.stem}_again.png")
    leak = sorted((tmp_path / "Test" / "nevus").iterdir())[0]
    shutil.copy(leak, tmp_path / "Train" / "melanoma" / "leak.png")
    sides = splits.split(loading.load([str(tmp_path)]).dataset)
    groups = [set(rows["group"]) for name, rows in sides.items() if name not in ("set_aside", "clean_test")]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert len(sides["official_test"]) == 36
    assert sides["set_aside"]["image_id"] == ["leak"]


def test_a_class_with_too_few_groups_is_refused_by_name(tmp_path):
    class_folders(tmp_path, images=40, labels=("dermatofibroma", "nevus"))
    for path in sorted((tmp_path / "dermatofibroma").iterdir())[2:]:
        path.unlink()
    with pytest.raises(UsageError, match=r"'dermatofibroma' has 2 groups .* none of them falls into the split .*: add"):
        splits.split(loading.load([str(tmp_path)]).dataset)


def test_clean_test_has_no_kin_in_train_and_the_labels_of_the_archive(tmp_path):
    for split, label, name in [
        ("Train", "nevus", "ISIC_0010512"),  # an actinic keratosis
        ("Test", "actinic keratosis", "ISIC_0010512"),  # the same image
        ("Test", "nevus", "ISIC_0010889"),  # an actinic keratosis without kin
        ("Train", "basal cell carcinoma", "mole"),
        ("Test", "basal cell carcinoma", "another"),  # the same bytes
        ("Test", "melanoma", "unheard of"),
    ]:
        folder = tmp_path / split / label
        folder.mkdir(parents=True, exist_ok=True)
        seeds = {"mole": 1, "another": 1, "unheard of": 2, "ISIC_0010512": 3, "ISIC_0010889": 4}
        picture(seeds[name]).save(folder / f"{name}.png")
    dataset = loading.load([str(tmp_path)]).dataset
    clean = splits.clean_test(dataset)
    assert dict(zip(clean["image_id"], clean["label"], strict=True)) == {"ISIC_0010889": 0, "unheard of": 3}
    assert sorted(row for row in dataset["shipped_split"] if row == "test") == ["test"] * 4


def test_the_official_test_is_as_shipped_whatever_the_repair_did(tmp_path):
    class_folders(tmp_path / "Train", images=60, labels=TWO)
    class_folders(tmp_path / "Test", images=9, first_seed=1000, labels=TWO)
    original = next((tmp_path / "Train" / "nevus").iterdir())
    shutil.copy(original, tmp_path / "Test" / "melanoma" / original.name)
    dataset = loading.load([str(tmp_path)]).dataset
    repaired, _ = label_repair.repair(dataset, "drop-conflicts")
    sides = splits.split(repaired, shipped=dataset)
    assert (len(repaired), len(sides["official_test"]), len(sides["clean_test"])) == (60 * 2 + 18 - 1, 19, 18)
    assert sides["official_test"]["image_id"].count(original.stem) == 1


def test_each_group_is_held_out_in_one_fold_and_learnt_from_in_the_others(tmp_path):
    dataset = loading.load([str(class_folders(tmp_path / "clinic", images=160, labels=TWO))]).dataset
    sides = splits.split(dataset)
    folds = [splits.fold(sides, i, 3) for i in range(3)]
    held_out = [set(fold["held_out"]["group"]) for fold in folds]
    assert sum(map(len, held_out)) == len(set().union(*held_out)) == len(dataset)
    for fold in folds:
        groups = [set(fold[name]["group"]) for name in splits.SHARES]
        assert sum(map(len, groups)) == len(set().union(*groups)) == len(dataset)
        assert 0.6 < len(fold["train"]) / (len(dataset) - len(fold["held_out"])) < 0.8


def test_what_is_set_aside_is_in_no_fold(tmp_path):
    class_folders(tmp_path / "Train", images=80, labels=TWO)
    class_folders(tmp_path / "Test", images=2, first_seed=7000, labels=TWO)
    fold = splits.fold(splits.split(loading.load([str(tmp_path)]).dataset), 0, 3)
    assert sum(len(fold[name]) for name in splits.SHARES) == 160


def test_the_examples_of_the_space_and_their_kin_are_learnt_from_nowhere(tmp_path):
    class_folders(tmp_path / "clinic", images=80, labels=TWO)
    names = [*space_examples.EXAMPLES, "ISIC_0000001"]
    for i, name in enumerate(names):
        picture(9000 + i).save(tmp_path / "clinic" / "melanoma" / f"{name}.png")
    dataset = loading.load([str(tmp_path / "clinic")]).dataset
    one_lesion = {"ISIC_6090497", "ISIC_0000001"}
    groups = [
        "IL_6446523" if name in one_lesion else group
        for name, group in zip(dataset["image_id"], dataset["group"], strict=True)
    ]
    dataset = schema.with_columns(dataset, {"group": groups})
    for seed in range(3):
        sides = splits.split(dataset, seed=seed)
        assert set(names) <= set(sides["held_out"]["image_id"])
        for fold in (splits.fold(sides, number, 3, seed=seed) for number in range(3)):
            assert set(names) <= {*fold["held_out"]["image_id"], *fold["set_aside"]["image_id"]}
