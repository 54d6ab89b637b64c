import numpy as np
import pytest
from PIL import Image
from support.releases import make_image

from dermalert.imaging.stress_artefacts import ARTEFACTS, apply

PAINTED = ("ruler", "ink", "hair", "dark_corners", "bubbles")
ALIKE_FOR_ALL = ("jpeg", "blur", "darker", "brighter")


def difference(one, other):
    """By how much two pictures differ, of 255: (H, W), the largest of the three colours."""
    return np.abs(np.asarray(one, int) - np.asarray(other, int)).max(-1)


@pytest.mark.parametrize("name", ARTEFACTS)
def test_an_artefact_changes_a_copy_and_keeps_size_and_mode(name):
    for size in ((32, 24), (180, 180), (600, 450)):
        image = make_image(size)
        image.paste("black", (8, 8, 12, 12))  # something sharp, or a blur has nothing to take away
        before = image.tobytes()
        for image_id in ("a", "b", "c"):
            changed = apply(name, image, image_id=image_id)
            assert (changed.size, changed.mode) == (size, "RGB")
            assert difference(changed, image).max() > 3
        assert image.tobytes() == before


@pytest.mark.parametrize("name", ARTEFACTS)
def test_an_artefact_depends_on_the_id_and_on_nothing_else(name):
    image = make_image((64, 48))
    first = apply(name, image, image_id="a").tobytes()
    other = apply(name, image, image_id="b").tobytes()
    assert apply(name, image, image_id="a").tobytes() == first
    assert (other == first) == (name in ALIKE_FOR_ALL)


@pytest.mark.parametrize("name", ["ruler", "ink", "dark_corners"])
@pytest.mark.parametrize("size", [(180, 180), (600, 450)], ids=str)
def test_what_lies_beside_the_lesion_leaves_the_middle_alone(name, size):
    image = make_image(size)
    x, y = np.meshgrid(*(np.arange(side) - side / 2 for side in size))
    middle = np.hypot(x, y) < 0.25 * min(size)
    touched = [(difference(apply(name, image, image_id=str(i)), image)[middle] > 2).mean() for i in range(20)]
    assert np.mean(touched) < 0.001
    assert max(touched) < 0.02


@pytest.mark.parametrize("name", sorted(set(ARTEFACTS) - {"jpeg"}))  # its blocks are 8 pixels whatever the size
def test_an_artefact_looks_alike_at_any_size(name):
    large = make_image((600, 450))
    small = large.resize((200, 150), Image.Resampling.BOX)
    for image_id in ("a", "b", "c"):
        shrunk = apply(name, large, image_id=image_id).resize((200, 150), Image.Resampling.BOX)
        assert difference(shrunk, apply(name, small, image_id=image_id)).mean() < 3


@pytest.mark.parametrize("grey", [0, 128, 255])
@pytest.mark.parametrize("name", ARTEFACTS)
def test_a_uniform_picture_is_no_obstacle(name, grey):
    image = Image.new("RGB", (60, 45), (grey, grey, grey))
    changed = difference(apply(name, image, image_id="a"), image)
    if grey == 128:
        assert (changed.max() > 10) == (name in (*PAINTED, "darker", "brighter"))
    if name == "rotation":  # the edges are mirrored: nothing comes in from outside
        assert not changed.any()


def test_darker_and_brighter_change_the_light_as_they_say():
    image = make_image((40, 30))
    mean = np.asarray(image).mean()
    assert 0.69 < np.asarray(apply("darker", image, image_id="a")).mean() / mean < 0.71
    assert np.asarray(apply("brighter", image, image_id="a")).mean() > 1.1 * mean


def test_violet_ink_takes_away_more_green_than_blue():
    image = Image.new("RGB", (180, 180), (225, 180, 155))
    lost = np.asarray(image, int) - np.asarray(apply("ink", image, image_id="a"), int)
    marked = lost.max(-1) > 50
    assert 0.005 < marked.mean() < 0.2
    assert (lost[marked] / [225, 180, 155]).mean(0).argsort().tolist() == [2, 0, 1]
