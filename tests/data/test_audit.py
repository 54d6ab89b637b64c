import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from support.pictures import class_folders, picture, write_table
from typer.testing import CliRunner

from dermalert.cli import app
from dermalert.data import audit_report, isic9, loading
from dermalert.data.audit import KINDS, audit
from dermalert.imaging import synthetic_lesions
from dermalert.taxonomy import DIAGNOSES

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def drawn() -> list[Image.Image]:
    return [synthetic_lesions.lesion(DIAGNOSES[i % 9], lesion_seed=i, size=96) for i in range(54)]


@pytest.fixture(scope="module")
def sound(drawn, tmp_path_factory) -> Path:
    """A data set with nothing wrong: of each diagnosis 4 training and 2 test images, their ids mixed."""
    root = tmp_path_factory.mktemp("sound") / "lesions"
    for i, image in enumerate(drawn):
        place = root / ("Test" if i // 9 in (2, 5) else "Train") / DIAGNOSES[i % 9]
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"lesion_{i}.png")
    return root


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    """A copy of it to spoil."""
    return shutil.copytree(sound, tmp_path / "lesions")


@pytest.fixture(scope="module")
def dataset(sound) -> Dataset:
    return loading.load([str(sound)]).dataset


def report_on(folder: Path) -> dict:
    loaded = loading.load([str(folder)], labels=None)
    return audit(loaded.dataset, unreadable=loaded.unreadable)


def counts(report: dict) -> dict[str, int]:
    """How often each fault was found that was."""
    return {kind: finding["count"] for kind, finding in report["findings"].items() if finding["found"]}


def image_of(folder: Path, number: int) -> Path:
    return next(folder.rglob(f"lesion_{number}.png"))


def test_in_a_sound_set_nothing_is_found(sound):
    report = report_on(sound)
    assert counts(report) == {}
    assert list(report["findings"]) == list(KINDS)
    assert (report["files"], report["image_ids"], report["different_images"]) == (54, 54, 54)
    assert report["shipped_splits"] == {"test": 18, "train": 36}


def test_files_that_are_no_image_are_named(folder):
    image_of(folder, 0).write_bytes(image_of(folder, 0).read_bytes()[:500])
    (folder / "Train" / "nevus" / "empty.jpg").write_bytes(b"")
    (folder / "Train" / "nevus" / "notes.txt").write_text("no image is meant here")
    finding = report_on(folder)["findings"]["unreadable"]
    assert (finding["count"], finding["of"]) == (3, 56)
    assert [Path(case["file"]).name for case in finding["cases"]] == ["lesion_0.png", "empty.jpg", "notes.txt"]


def test_an_image_that_breaks_after_loading_is_named_too(folder, monkeypatch, tmp_path):
    dataset = loading.load([str(folder)]).dataset
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    image_of(folder, 0).write_bytes(b"")
    finding = audit(dataset)["findings"]["unreadable"]
    assert [case["images"][0]["image_id"] for case in finding["cases"]] == ["lesion_0"]


def test_tiny_and_blank_images_are_found(folder):
    image_of(folder, 0).unlink()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 100, 3), np.uint8)).save(
        folder / "Train" / DIAGNOSES[0] / "small.png"
    )
    Image.new("RGB", (100, 100), "pink").save(folder / "Train" / "nevus" / "pink.png")
    report = report_on(folder)
    assert counts(report) == {"tiny": 1, "blank": 1}
    assert report["findings"]["tiny"]["cases"][0]["pixels"] == [100, 40]
    assert report["findings"]["blank"]["cases"][0]["images"][0]["image_id"] == "pink"


def test_a_copy_is_found_with_its_other_id(folder):
    shutil.copy(image_of(folder, 0), image_of(folder, 0).parent / "another.png")
    assert counts(report_on(folder)) == {"exact-duplicates": 1, "several-ids": 1}


def test_an_image_under_two_labels_is_a_contradiction(folder):
    original = image_of(folder, 3)
    shutil.copy(original, folder / "Train" / "seborrheic keratosis" / original.name)
    report = report_on(folder)
    assert counts(report) == {"exact-duplicates": 1, "contradictions": 1}
    assert report["findings"]["contradictions"]["by_labels"] == {"melanoma / seborrheic keratosis": 1}


@pytest.mark.parametrize("label", ["melanoma", "nevus"])
def test_the_same_picture_in_other_bytes_is_found(folder, drawn, label):
    drawn[3].resize((80, 80)).save(folder / "Train" / label / "again.jpg", quality=70)
    report = report_on(folder)
    assert counts(report) == {"near-duplicates": 1} | ({"near-contradictions": 1} if label == "nevus" else {})
    names = [image["image_id"] for image in report["findings"]["near-duplicates"]["cases"][0]["images"]]
    assert sorted(names) == ["again", "lesion_3"]


def test_a_training_image_among_the_test_images_is_a_leak(folder):
    shutil.copy(image_of(folder, 3), folder / "Test" / "nevus" / "leak.png")
    report = report_on(folder)
    kinds = {"exact-duplicates": 1, "several-ids": 1, "contradictions": 1, "leaks": 1, "kin-leaks": 1}
    assert counts(report) == kinds
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["findings"]["leaks"]["text"] == "1 of them under another label there"
    assert report["findings"]["kin-leaks"]["by_tie"]["the same bytes"] == 1


def test_a_training_picture_among_the_test_images_is_kin(folder, drawn):
    drawn[3].transpose(Image.Transpose.ROTATE_90).save(folder / "Test" / "melanoma" / "turned.jpg")
    report = report_on(folder)
    assert counts(report) == {"near-duplicates": 1, "kin-leaks": 1}
    assert report["findings"]["kin-leaks"]["by_content_alone"] == 1
    assert report["findings"]["kin-leaks"]["known_from"] == "content"


@pytest.mark.parametrize("what", ["lesion", "patient"])
def test_a_lesion_or_patient_in_both_splits_is_found(dataset, what):
    ids = {name: f"{what} {name}" for name in dataset["image_id"]}
    ids["lesion_18"] = ids["lesion_0"]  # a test image, and a training image
    column = f"{what}_id"
    dataset = dataset.map(lambda row: {column: ids[row["image_id"]]}, features=dataset.features)
    report = audit(dataset)
    assert counts(report) == {f"{what}-leaks": 1, "kin-leaks": 1}
    assert report["findings"][f"{what}-leaks"]["known_from"] == "metadata"
    assert report["findings"]["kin-leaks"]["by_content_alone"] == 0
    assert report["findings"]["kin-leaks"]["known_from"] == "content, metadata"


def test_a_split_by_sorted_ids_is_told_from_a_random_one(drawn, tmp_path):
    def shipped(order: list[int]) -> dict:
        root = tmp_path / f"sorted {order[0]}"
        for name, numbers in (("Test", order[:5]), ("Train", order[5:])):
            (root / name / "nevus").mkdir(parents=True)
            for i in numbers:
                drawn[i].save(root / name / "nevus" / f"lesion_{i}.png")
        return report_on(root)["findings"]["sorted-split"]

    assert shipped(list(range(20)))["count"] == 1
    assert shipped(list(range(20))[::-1])["count"] == 1
    assert shipped([3, 14, 7, 0, 19, *(set(range(20)) - {3, 14, 7, 0, 19})])["count"] == 0


def test_without_a_shipped_split_there_are_no_leaks_to_find(folder):
    shutil.rmtree(folder / "Test")
    report = report_on(folder)
    for kind in ("leaks", "lesion-leaks", "patient-leaks", "kin-leaks", "sorted-split"):
        assert report["findings"][kind]["count"] is None
        assert report["findings"][kind]["text"] == "no test split is shipped"


def test_a_lesion_in_train_test_and_a_source_without_splits_is_found(dataset):
    rows = [row | {"lesion_id": "L1"} for row in dataset.select(range(3))]
    for row, split in zip(rows, ("train", "test", None), strict=True):
        row["shipped_split"] = split
    shared = Dataset.from_list(rows, features=dataset.features)
    found = audit(shared)["findings"]["lesion-leaks"]
    assert (found["count"], len(found["cases"][0]["images"])) == (1, 3)


def test_a_source_that_gives_the_melanomas_away_is_found(dataset):
    def confounding(source_of) -> dict:
        moved = dataset.map(lambda row: {"source": source_of(row)}, features=dataset.features)
        return audit(moved)["findings"]["source-confounding"]

    melanoma = DIAGNOSES.index("melanoma")
    telling = confounding(lambda row: "A" if row["label"] in (melanoma, 4) else "B")
    assert (telling["found"], telling["count"]) == (True, 9)
    assert telling["predicts_melanoma"]["files"] == {"n": 54, "melanomas": 6, "sensitivity": 1.0, "specificity": 0.875}
    mixed = confounding(lambda row: "A" if int(row["image_id"].split("_")[1]) // 9 % 2 else "B")
    assert (mixed["found"], mixed["count"]) == (False, 0)


def test_labels_that_the_archive_contradicts_are_found(folder, monkeypatch):
    table = {
        "ISIC_0000001": {"diagnosis": "melanoma", "lesion_id": "L1"},
        "ISIC_0000002": {"diagnosis": "nevus", "lesion_id": None},
    }
    monkeypatch.setattr(isic9, "metadata", lambda: table)
    nevi = folder / "Train" / "nevus"
    image_of(folder, 4).rename(nevi / "ISIC_0000001.png")
    image_of(folder, 13).rename(nevi / "ISIC_0000002.png")
    finding = report_on(folder)["findings"]["label-disagreement"]
    assert (finding["count"], finding["of"], finding["known_from"]) == (1, 2, "facts table")
    assert finding["text"] == "1 nevus, by the archive melanoma"
    assert finding["cases"][0]["archive"] == "melanoma"


def test_images_that_several_data_sets_hold_are_found(folder, drawn, tmp_path):
    other = tmp_path / "other" / "nevus"
    other.mkdir(parents=True)
    shutil.copy(image_of(folder, 4), other / "same bytes.png")
    drawn[13].resize((80, 80)).save(other / "same picture.jpg", quality=80)
    image_of(folder, 22).rename(image_of(folder, 22).with_name("ISIC_8000000.png"))
    # Another picture under the archive's number.
    synthetic_lesions.lesion("nevus", lesion_seed=99, size=96).save(other / "ISIC_8000000.png")
    drawn[40].transpose(Image.Transpose.FLIP_LEFT_RIGHT).rotate(7).save(other / "new.png")
    names = [str(folder), str(other.parent)]
    shared = audit(loading.load(names, merge=False).dataset)["findings"]["shared"]
    assert (shared["count"], shared["of"], shared["text"]) == (3, 55, "3 lesions / other")
    assert shared["known_from"] == "content, image ids"
    cases = [[(image["image_id"], image["named"]) for image in case["images"]] for case in shared["cases"]]
    for here, there in (("lesion_4", "same bytes"), ("lesion_13", "same picture"), ("ISIC_8000000", "ISIC_8000000")):
        assert [(here, "lesions"), (there, "other")] in cases
    assert audit(loading.load(names[:1], merge=False).dataset)["findings"]["shared"]["count"] is None


# The command.


def command(*arguments: object):
    return RUNNER.invoke(app, ["audit", *map(str, arguments)])


def test_the_command_prints_a_table_and_writes_json_and_sheets(folder, tmp_path):
    shutil.copy(image_of(folder, 3), folder / "Test" / "nevus" / "leak.png")
    result = command(folder, "--json", tmp_path / "new" / "audit.json", "--figures", tmp_path / "sheets")
    assert result.exit_code == 0
    assert "55 files, 55 different ids, 54 different images by their bytes; from lesions 55." in result.stdout
    for kind in KINDS:
        assert kind in result.stdout
    assert "e.g. leak (nevus, test), lesion_3 (melanoma, train)" in result.stdout
    assert "5 contact sheets in" in result.stdout
    report = json.loads((tmp_path / "new" / "audit.json").read_text())
    assert report["findings"]["leaks"]["count"] == 1
    drawn = {path.stem for path in (tmp_path / "sheets").iterdir()}
    assert drawn == {"exact-duplicates", "several-ids", "contradictions", "leaks", "kin-leaks"}
    for path in (tmp_path / "sheets").iterdir():
        with Image.open(path) as sheet:
            assert sheet.width > 300


def test_the_exit_code_is_1_when_what_must_not_be_is_found(folder):
    assert command(folder, "--fail-on", "any").exit_code == 0
    shutil.copy(image_of(folder, 0), image_of(folder, 0).parent / "another.png")
    assert command(folder).exit_code == 0
    assert command(folder, "--fail-on", "leaks").exit_code == 0
    result = command(folder, "--fail-on", "leaks", "--fail-on", "exact-duplicates")
    assert result.exit_code == 1
    assert "found exact-duplicates (--fail-on)" in result.stderr
    assert command(folder, "--fail-on", "any").exit_code == 1


def test_the_command_says_what_several_data_sets_share(folder, tmp_path):
    class_folders(tmp_path / "other", images=1, labels=("nevus",))
    shutil.copy(image_of(folder, 4), tmp_path / "other" / "nevus" / "again.png")
    result = command(folder, tmp_path / "other", "--figures", tmp_path / "sheets", "--fail-on", "shared")
    assert result.exit_code == 1
    assert "1 lesions / other" in result.stdout and "again (nevus, other)" in result.stdout
    assert (tmp_path / "sheets" / "shared.png").is_file()


def test_the_command_takes_columns(tmp_path):
    (tmp_path / "set").mkdir()
    picture(1).save(tmp_path / "set" / "a.png")
    write_table(tmp_path / "set" / "list.csv", [{"photo": "a.png", "finding": "nevus"}])
    (tmp_path / "columns.json").write_text('{"image": "photo", "label": "finding"}')
    named = ["--columns", "image=photo", "--columns", "label=finding"]
    assert command(tmp_path / "set", *named).exit_code == 0
    assert command(tmp_path / "set", "--columns", tmp_path / "columns.json").exit_code == 0
    result = command(tmp_path / "set", "--columns", "finding")
    assert result.exit_code == 2
    assert "--columns takes FIELD=COLUMN" in result.stderr


@pytest.mark.parametrize(
    ("option", "place", "sentence"),
    [
        ("--json", "folder", "--json 'folder' is a folder: name a file"),
        ("--json", "file/audit.json", "--json cannot be written to "),
        ("--json", "closed/new/audit.json", "--json cannot be written to "),
        ("--figures", "file", "--figures 'file' is a file: name a folder"),
        ("--figures", "closed", "--figures cannot be written to "),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(option, place, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "closed").mkdir()
    (tmp_path / "file").write_text("")
    # To whom the tests run as, root perhaps, no folder is closed.
    monkeypatch.setattr("os.access", lambda path, mode: mode == os.R_OK or Path(path).name != "closed")
    monkeypatch.setattr(loading, "load", lambda *_, **__: pytest.fail("the images were read"))
    result = command("demo", option, place)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["closed", "file", "folder"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["missing"], "'missing' is neither"),
        (["demo", "--fail-on", "leak"], "'leak' is no kind of finding. Did you mean 'leaks'"),
        (["demo", "--jason", "x"], "--jason"),
        ([], ""),
    ],
)
def test_the_exit_code_is_2_for_a_wrong_question(arguments, sentence):
    result = command(*arguments)
    assert (result.exit_code, sentence in result.stderr) == (2, True)


def test_a_sheet_shows_cases_from_everywhere_when_there_are_many(dataset, tmp_path):
    report = audit(dataset)
    case = {"row": 0, "image_id": "a very long name of an image", "label": "pigmented benign keratosis", "source": "x"}
    report["findings"]["blank"]["cases"] = [{"images": [case | {"row": i}]} for i in range(54)]
    (path,) = audit_report.contact_sheets(report, dataset, tmp_path / "sheets")
    with Image.open(path) as sheet:
        assert sheet.height < 1000
        assert np.asarray(sheet.convert("L")).std() > 10


def test_a_benign_and_malignant_set_is_audited_too(tmp_path):
    folder = class_folders(tmp_path / "set", images=3, labels=("benign", "malignant"))
    shutil.copy(next((folder / "benign").iterdir()), folder / "malignant" / "again.png")
    report = report_on(folder)
    assert report["labels"] == {"benign": 3, "malignant": 4}
    assert report["findings"]["contradictions"]["count"] == 1


def test_what_could_not_be_read_is_named_whatever_its_suffix_and_through_links(tmp_path):
    folder = class_folders(tmp_path / "elsewhere", images=3, labels=("nevus", "melanoma"))
    (folder / "nevus" / "bad.heic").write_bytes(b"no image")
    (tmp_path / "set").mkdir()
    for name in ("nevus", "melanoma"):
        (tmp_path / "set" / name).symlink_to(folder / name)
    finding = report_on(tmp_path / "set")["findings"]["unreadable"]
    assert ([case["file"] for case in finding["cases"]], finding["of"]) == (["set/nevus/bad.heic"], 7)
