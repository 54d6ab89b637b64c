import shutil
from pathlib import Path

import pytest
from support.pictures import class_folders, picture
from typer.testing import CliRunner

from dermalert.cli import app
from dermalert.data import contamination, external, label_repair, loading, near_duplicates, schema, splits
from dermalert.data.audit import audit
from dermalert.data.prepare import prepare

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("cache")]


@pytest.fixture
def searches(monkeypatch) -> list[int]:
    """How many images each search for near duplicates compares."""
    sizes, search = [], near_duplicates.near_duplicates

    def counted(thumbnails, rows, **options):
        sizes.append(len(rows))
        return search(thumbnails, rows, **options)

    monkeypatch.setattr(near_duplicates, "near_duplicates", counted)
    return sizes


@pytest.fixture
def folder(tmp_path) -> Path:
    """A data set with a test split, a copy of an image and a picture that was scaled anew."""
    root = tmp_path / "clinic"
    class_folders(root / "Train", images=60, labels=("melanoma", "nevus"))
    class_folders(root / "Test", images=2, first_seed=1000, labels=("melanoma", "nevus"))
    first = min((root / "Train" / "melanoma").iterdir())
    shutil.copy(first, root / "Test" / "melanoma" / "copy.png")
    picture(1000).resize((80, 80)).save(root / "Train" / "nevus" / "again.png")
    return root


def test_a_preparation_and_its_audit_search_near_duplicates_once_among_different_images(folder, searches):
    prepared = prepare([str(folder)])
    report = prepared.audit()
    assert searches == [2 * 62 + 1]
    assert report["findings"]["near-duplicates"]["count"] == len(prepared.pairs.first) > 0
    assert report == audit(prepared.shipped)


def test_an_audit_and_a_published_data_set_search_near_duplicates_once(folder, searches):
    assert CliRunner().invoke(app, ["audit", str(folder)]).exit_code == 0
    assert len(searches) == 1
    from dermalert.publishing import datasets  # which imports torch

    datasets.prepare(loading.load([str(folder)]), "archive", "other")
    assert len(searches) == 2


def test_an_external_data_set_is_searched_for_pairs_with_an_image_of_its_own(folder, tmp_path, monkeypatch):
    sides = prepare([str(folder)]).split()
    other = class_folders(tmp_path / "other", images=2, first_seed=5000)
    sides["train"][0]["image"].resize((48, 48)).save(other / "nevus" / "again.png")
    laid, similarities = [], near_duplicates.similarities
    monkeypatch.setattr(
        near_duplicates, "similarities", lambda first, second: laid.append(len(first)) or similarities(first, second)
    )
    options = {"splits": sides, "exposure": contamination.of(sides), "policy": "none"}
    dataset = external.load([f"there={other}"], **options).splits["external/there"]
    assert len(dataset) == 18
    assert sum(laid) < len(sides["train"])


def test_near_duplicates_are_linked_before_the_repair_and_split_after_it(folder):
    prepared = prepare([str(folder)], "drop-conflicts")
    shipped = near_duplicates.link(loading.load([str(folder)]).dataset)
    dataset, report = label_repair.repair(shipped, "drop-conflicts")
    assert prepared.repair == report
    assert [list(prepared.shipped["group"]), list(prepared.dataset["group"])] == [
        list(shipped["group"]),
        list(dataset["group"]),
    ]
    assert splits.fingerprint(prepared.split()) == splits.fingerprint(splits.split(dataset, shipped=shipped))


def test_what_a_base_model_has_learnt_from_is_held_out_of_nothing(folder):
    prepared = prepare([str(folder)])
    held_out = prepared.split()["held_out"]
    exposure = dict.fromkeys(contamination.names(held_out)[0], "train")
    fresh = prepared.split(exposure=exposure)["held_out"]
    assert len(fresh) == len(held_out) - 1


def test_files_that_are_no_image_are_named_and_reported(folder):
    (folder / "Train" / "nevus" / "broken.png").write_bytes(b"")
    prepared = prepare([str(folder)])
    assert [Path(file).name for file in prepared.loaded.unreadable] == ["broken.png"]
    assert prepared.audit()["findings"]["unreadable"]["count"] == 1


def test_a_data_set_is_prepared_by_malignancy_where_it_names_no_diagnosis(tmp_path):
    class_folders(tmp_path / "two", images=3, labels=("benign", "malignant"))
    assert prepare([str(tmp_path / "two")], labels=None).dataset.features == schema.BINARY_FEATURES
