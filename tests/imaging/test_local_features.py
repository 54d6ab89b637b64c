import numpy as np
import pytest
from PIL import Image

from dermalert.imaging import local_features, synthetic_lesions


@pytest.fixture(scope="module")
def lesion() -> Image.Image:
    return synthetic_lesions.lesion("melanoma", lesion_seed=1)


def look(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    grey = local_features.square(image)
    return grey, local_features.features(grey)


def test_a_cropped_image_lies_where_it_was_cut_from(lesion):
    w, h = lesion.size
    grey, record = look(lesion)
    part_grey, part = look(lesion.crop((round(0.1 * w), round(0.2 * h), round(0.9 * w), h)))
    placed = local_features.registration(part, record)
    side = local_features.SIDE
    corners = (placed.affine @ np.array([[0, 0, 1], [side, side, 1]]).T).T / side
    assert corners.ravel() == pytest.approx([0.1, 0.2, 0.9, 1.0], abs=0.02)
    assert local_features.agreement(part_grey, grey, placed.affine) > 0.8


def test_the_details_of_an_image_laid_elsewhere_do_not_agree(lesion):
    grey, _ = look(lesion)
    aside = np.array([[1.0, 0, 25], [0, 1, 10]])
    assert local_features.agreement(grey, grey, aside) < 0.5
    assert local_features.agreement(grey, grey, np.eye(2, 3)) == pytest.approx(1)
    assert local_features.agreement(grey, grey, aside + 1000) == 0


def test_another_lesion_does_not_lie_on_it(lesion):
    _, record = look(lesion)
    for seed in range(2, 12):
        _, other = look(synthetic_lesions.lesion("melanoma", lesion_seed=seed))
        placed = local_features.registration(record, other)
        assert placed is None or placed.matches < 8


def test_a_blank_image_has_no_features_and_lies_on_nothing(lesion):
    _, blank = look(Image.new("RGB", (90, 60), "pink"))
    assert blank["count"] == 0
    assert local_features.registration(blank, blank) is None
    assert local_features.registration(blank, look(lesion)[1]) is None


def test_features_are_so_many_and_the_same_each_time(lesion):
    _, record = look(lesion)
    assert record["count"] == local_features.MOST
    assert record.tobytes() == look(lesion)[1].tobytes()
