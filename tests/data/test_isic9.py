from collections import Counter

from dermalert.data import isic9
from dermalert.taxonomy import DIAGNOSES


def test_the_facts_are_about_2202_images_none_of_which_is_a_seborrheic_keratosis():
    rows = isic9.metadata().values()
    counts = Counter(row["diagnosis"] for row in rows)
    assert [counts[name] for name in DIAGNOSES] == [131, 392, 111, 456, 295, 478, 0, 197, 142]
    assert len({row["lesion_id"] for row in rows} - {None}) == 1062 + 5
    assert {row["sex"] for row in rows} == {"female", "male", None}


def test_an_image_is_known_by_its_number():
    assert isic9.diagnosis("ISIC_0010512") == isic9.diagnosis("ISIC_0010512_downsampled") == "actinic keratosis"
    assert isic9.diagnosis("ISIC_8000000") is isic9.diagnosis("mole") is None
