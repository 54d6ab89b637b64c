"""The examples that the Space offers: what they show, whose they are, and that no release has learnt from them."""

import csv
import runpy

import numpy as np
import pyarrow.parquet as pq
import pytest
from dermalert_space.contract import BUNDLED, EXPOSURE
from dermalert_space.page import examples
from dermalert_space.release import Release
from PIL import Image
from support.paths import DATA, REPOSITORY

from dermalert.data import contamination, space_examples

NAMES = {"CC-0": "CC0 1.0", "CC-BY": "CC BY 4.0"}


def rows() -> list[dict[str, str]]:
    return list(csv.DictReader((examples.FOLDER / examples.TABLE).read_text(encoding="utf-8").splitlines()))


REAL = [row for row in rows() if row["isic_id"]]


def test_the_drawn_examples_of_the_project_are_those_that_its_script_draws_and_say_so():
    drawn = runpy.run_path(str(REPOSITORY / "scripts" / "build_examples.py"))["DRAWN"]
    table = {row["file"]: row for row in rows() if not row["isic_id"]}
    assert set(table) == set(drawn)
    for name, draw in drawn.items():
        assert "drawn by a program" in table[name]["attribution"].lower()
        kept, anew = (np.asarray(image.convert("RGB"), int) for image in (Image.open(examples.FOLDER / name), draw()))
        assert np.abs(kept - anew).max() <= 1, "the last bit, which another processor may round otherwise"


def test_the_real_ones_have_an_open_licence_and_a_truth_and_are_never_learnt_from():
    assert len(REAL) >= 4
    for row in REAL:
        assert NAMES[row["licence"]] in row["attribution"]
        assert row["truth"] and row["confirmation"] and row["isic_id"] in row["url"]
        assert row["isic_id"] in space_examples.EXAMPLES


def test_the_archives_own_table_says_the_same_of_them():
    table = DATA / "acral" / "metadata.csv"
    if not table.is_file():
        pytest.skip(f"needs {table}")
    archive = {row["isic_id"]: row for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines())}
    for row in REAL:
        of = archive[row["isic_id"]]
        assert of["copyright_license"] == row["licence"] and row["attribution"].startswith(of["attribution"])
        assert row["confirmation"] in of["diagnosis_confirm_type"]
        assert row["truth"] in f"{of['diagnosis_2']} {of['diagnosis_3']}".lower()


@pytest.mark.integration
def test_the_bundled_release_has_not_learnt_from_them_and_shows_each_state():
    if not BUNDLED.is_dir():
        pytest.skip("needs the bundled release")
    learnt = set(pq.read_table(BUNDLED / EXPOSURE, columns=["name"])["name"].to_pylist())
    assert learnt.isdisjoint(map(contamination.hash_name, space_examples.EXAMPLES))
    release = Release.load(BUNDLED)
    states = {row["file"]: release.predict(examples.FOLDER / row["file"]).state for row in rows()}
    assert (states["melanoma.jpg"], states["no-lesion.png"]) == ("melanoma_alert", "cannot_assess")
    assert set(states.values()) == {"melanoma_alert", "malignant_likely", "cannot_assess", "none"}
