import runpy
from collections import Counter

from support.paths import REPOSITORY

from dermalert.data import isic9
from dermalert.taxonomy import DIAGNOSES


def test_the_facts_are_about_2202_images_none_of_which_is_a_seborrheic_keratosis():
    counts = Counter(known["diagnosis"] for known in isic9.metadata().values())
    assert [counts[name] for name in DIAGNOSES] == [131, 392, 111, 456, 295, 478, 0, 197, 142]
    assert len({known["lesion_id"] for known in isic9.metadata().values()} - {None}) == 1062 + 5
    assert {known["sex"] for known in isic9.metadata().values()} == {"female", "male", None}


def test_an_image_is_known_by_its_number():
    assert isic9.diagnosis("ISIC_0010512") == isic9.diagnosis("ISIC_0010512_downsampled") == "actinic keratosis"
    assert isic9.diagnosis("ISIC_8000000") is isic9.diagnosis("mole") is None


def test_the_table_is_what_the_script_builds_from_the_official_lists(real_images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(isic9, "TABLE", tmp_path / "isic9.csv")
    script = runpy.run_path(str(REPOSITORY / "scripts" / "build_isic9.py"))
    script["main"](real_images / "metadata")
    assert (tmp_path / "isic9.csv").read_bytes() == (REPOSITORY / "dermalert" / "data" / "isic9.csv").read_bytes()
    assert "ISIC 2019: 1761 images in common, all of the same diagnosis" in capsys.readouterr().out
