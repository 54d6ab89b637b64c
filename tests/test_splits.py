import shutil

import pytest
from pictures import class_folders

from dermalert import sources, splits
from dermalert.errors import UsageError


def sides_of(sides):
    return {i: name for name, rows in sides.items() for i in rows["image_id"]}


def test_the_sides_have_their_shares():
    counts = dict.fromkeys(splits.SHARES, 0)
    for i in range(20_000):
        counts[splits.side(f"lesion-{i}")] += 1
    assert {name: n / 20_000 for name, n in counts.items()} == pytest.approx(splits.SHARES, abs=0.01)


def test_neither_order_nor_more_images_move_an_image(tmp_path):
    class_folders(tmp_path / "a", images=40)
    class_folders(tmp_path / "b", images=5, first_seed=1000)
    alone = sources.load([str(tmp_path / "a")])
    together = sources.load([str(tmp_path / "b"), str(tmp_path / "a")])
    before, after = sides_of(splits.split(alone)), sides_of(splits.split(together.shuffle(seed=3)))
    assert all(after[i] == side for i, side in before.items())
    assert sides_of(splits.split(alone, seed=1)) != before


def test_no_group_stands_on_two_sides(tmp_path):
    class_folders(tmp_path / "Train", images=40)
    class_folders(tmp_path / "Test", images=4, first_seed=1000)
    for original in sorted((tmp_path / "Train" / "melanoma").iterdir())[:10]:
        shutil.copy(original, tmp_path / "Train" / "nevus" / f"{original.stem}_again.png")
    leak = sorted((tmp_path / "Test" / "nevus").iterdir())[0]
    shutil.copy(leak, tmp_path / "Train" / "melanoma" / "leak.png")
    sides = splits.split(sources.load([str(tmp_path)]))
    groups = [set(rows["group"]) for name, rows in sides.items() if name != "set_aside"]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert len(sides["official_test"]) == 36
    assert sides["set_aside"]["image_id"] == ["leak"]


def test_a_class_with_too_few_groups_is_refused_by_name(tmp_path):
    class_folders(tmp_path, images=40)
    for path in sorted((tmp_path / "dermatofibroma").iterdir())[2:]:
        path.unlink()
    with pytest.raises(UsageError, match=r"'dermatofibroma' has 2 groups .* none of them falls on the side .*: add"):
        splits.split(sources.load([str(tmp_path)]))


def test_no_real_image_stands_on_two_sides(real_images):
    sides = splits.split(sources.load([str(real_images / "isic9")]))
    contents = [set(rows["content"]) for name, rows in sides.items() if name != "set_aside"]
    assert sum(map(len, contents)) == len(set().union(*contents))
    assert len(sides["official_test"]) == 118
    assert len(sides["set_aside"]) == 18
