import csv
import io
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import dermalert_space
import numpy as np
import pytest
from dermalert_space import batch, cli, images, inputs, tables, zip_archives
from dermalert_space.cli import main
from dermalert_space.contract import BUNDLED, NOT_A_DEVICE
from dermalert_space.page import api
from dermalert_space.prediction import STATES, Prediction, state
from dermalert_space.release import Release
from PIL import Image
from support import hostile
from support.releases import LABELS, make_image, make_release

pytestmark = pytest.mark.integration

SPACE = Path(dermalert_space.__file__).parents[1]
SENTENCE = re.compile(r"(the file|the name|the folder|no file) .*[.]", re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_release(tmp_path_factory.mktemp("release"), threshold=0.0135)


@pytest.fixture(scope="module")
def release(folder) -> Release:
    return Release.load(folder)


def rows_of(release: Release, *paths: Path, limit: int = inputs.LIMIT, **settings) -> list[batch.Row]:
    return list(batch.predict_files(release, inputs.expand(paths, limit=limit), **settings))


def problems(release: Release, *paths: Path, **settings) -> dict[str, str | None]:
    return {row.file: row.problem for row in rows_of(release, *paths, **settings)}


def pictures(folder: Path, n: int) -> list[Path]:
    """So many different pictures, of different sizes and types."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:03}.{('jpg', 'png', 'tif', 'webp')[i % 4]}" for i in range(n)]
    for i, path in enumerate(paths):
        make_image((60 + 7 * i % 50, 50 + 3 * i % 20), seed=i).save(path)
    return paths


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Answers


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_each_image_is_judged_as_if_it_were_alone(release, tmp_path, batch_size):
    paths = pictures(tmp_path, 20)
    rows = rows_of(release, *paths, batch_size=batch_size)
    assert [row.file for row in rows] == [path.name for path in paths]
    for row, path in zip(rows, paths, strict=True):
        alone = release.predict(path)
        assert row.prediction.probabilities == pytest.approx(alone.probabilities, abs=1e-5)
        assert row.watched == row.prediction.probabilities["melanoma"]
        assert row.prediction.alert is alone.alert
        assert row.problem is row.thumbnail is None
    assert len({round(row.watched, 4) for row in rows}) > 10, "or the order would not show"
    assert {row.prediction.alert for row in rows} == {True, False}


def test_large_images_are_judged_in_smaller_groups_alike(release, tmp_path, monkeypatch):
    paths = pictures(tmp_path, 9)
    expected = [row.watched for row in rows_of(release, *paths)]
    monkeypatch.setattr(batch, "WEIGHT", 30_000)
    groups = list(batch._groups(inputs.expand(paths), 16))
    assert len(groups) > 3 and sum(map(len, groups)) == 9
    assert [row.watched for row in rows_of(release, *paths)] == pytest.approx(expected, abs=1e-5)


def test_images_of_a_pixel_or_few_are_judged_as_images_of_one_colour(release, tmp_path):
    answers = []
    for number, size in enumerate([(1, 1), (3, 3), (1, 3), (3, 1), (30, 900), (900, 30), (3, 64), (64, 64)]):
        Image.new("RGB", size, (200, 150, 120)).save(tmp_path / f"{number}.png")
        answers.append(rows_of(release, tmp_path / f"{number}.png")[0].prediction.probabilities)
    for answer in answers[:-1]:
        assert answer == pytest.approx(answers[-1], abs=1e-5)


def test_bad_files_are_rows_and_the_batch_goes_on(release, tmp_path):
    first, second = pictures(tmp_path, 2)
    (tmp_path / "letter.jpg").write_text("Dear colleague")
    rows = rows_of(release, first, tmp_path / "letter.jpg", tmp_path / "nowhere.png", second)
    assert [row.prediction is None for row in rows] == [False, True, True, False]
    assert rows[1].problem.startswith("the file cannot be read as an image")
    assert rows[2].problem == "the file does not exist."


def test_nobody_waits_for_a_pipe(release, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert problems(release, tmp_path / "pipe.png") == {"pipe.png": "the file is no file."}


def test_a_file_that_is_too_large_is_not_read(release, tmp_path, monkeypatch):
    monkeypatch.setattr("dermalert_space.images.MAX_BYTES", 1_000_000)
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(3_000_000)
    assert problems(release, tmp_path / "large.png") == {"large.png": "the file has 3 MB: shrink it below 1 MB."}


def test_a_consumer_that_stops_stops_the_reading(release, tmp_path):
    read = []

    def files():
        for path in pictures(tmp_path, 8) * 30:
            read.append(path)
            yield path.name, path

    rows = batch.predict_files(release, files(), batch_size=4)
    next(rows)
    rows.close()
    assert len(read) < 20


def test_thumbnails_are_small_and_know_nothing_of_the_patient(release, tmp_path):
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "Jane Doe", 6
    make_image((1000, 500)).save(tmp_path / "a.jpg", exif=exif, comment="Jane Doe", icc_profile=b"Jane Doe")
    make_image((50, 40)).save(tmp_path / "b.png", exif=exif)
    Image.new("RGB", (4800, 160)).save(tmp_path / "c.png")
    rows = rows_of(release, *(tmp_path / name for name in ("a.jpg", "b.png", "c.png")), thumbnails=batch.THUMBNAIL)
    assert [row.thumbnail.size for row in rows] == [(80, 160), (40, 50), (160, 5)]
    for row in rows:
        assert row.thumbnail.mode == "RGB"
        assert not row.thumbnail.getexif() and not row.thumbnail.info
        for format in ("PNG", "JPEG", "WEBP"):
            assert b"Jane" not in hostile.saved(row.thumbnail, format)


# Folders


def test_a_folder_gives_all_below_it_in_order(release, tmp_path):
    pictures(tmp_path / "a" / "deep" / "er", 2)
    pictures(tmp_path / "b", 1)
    for name in (".hidden.png", "Thumbs.db", ".git/config", "__MACOSX/._000.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"left by a system")
    (tmp_path / "c.zip").write_bytes(hostile.archive({"d.png": (tmp_path / "a/deep/er/001.png").read_bytes()}))
    names = [
        f"{tmp_path.name}/{name}" for name in ("c.zip/d.png", "a/deep/er/000.jpg", "a/deep/er/001.png", "b/000.jpg")
    ]
    assert list(problems(release, tmp_path).items()) == [(name, None) for name in names]
    assert inputs.count([tmp_path]) == 4
    assert [name for name, _ in inputs.expand([tmp_path / "b"], full_names=True)] == [f"{tmp_path}/b/000.jpg"]


def test_links_in_folders_have_an_end(release, tmp_path):
    (picture,) = pictures(tmp_path / "far", 1)
    near = tmp_path / "near"
    near.mkdir()
    (near / "picture.jpg").symlink_to(picture)
    (near / "round").symlink_to(near)
    (near / "broken.png").symlink_to(tmp_path / "nowhere")
    (near / "itself.png").symlink_to(near / "itself.png")
    found = problems(release, near)
    assert found["near/picture.jpg"] is None
    assert found["near/round"] == "the name is a link to a folder: name the folder itself."
    assert found["near/broken.png"] == "the file does not exist."
    assert found["near/itself.png"].startswith("the file ")
    assert len(found) == 4


def test_an_empty_folder_is_said(release, tmp_path):
    (tmp_path / "empty").mkdir()
    assert problems(release, tmp_path / "empty") == {"empty": "no file lies in it."}


def test_a_batch_has_a_bound(release, tmp_path):
    paths = pictures(tmp_path, 5)
    (tmp_path / "z.zip").write_bytes(hostile.archive({f"{i}.png": paths[1].read_bytes() for i in range(50)}))
    rows = rows_of(release, *paths, tmp_path / "z.zip", limit=7)
    assert [row.problem is None for row in rows] == [True] * 7 + [False]
    assert rows[-1].file == "z.zip/2.png"
    assert rows[-1].problem == "the file and all that follow were left out: a batch takes at most 7 files."
    assert inputs.count([tmp_path], limit=7) == 8


# Archives


@pytest.fixture
def picture() -> bytes:
    return hostile.saved(make_image(), "PNG")


def zipped(release: Release, folder: Path, content: bytes) -> dict[str, str | None]:
    (folder / "x.zip").write_bytes(content)
    return problems(release, folder / "x.zip")


def test_an_archive_is_judged_as_its_files_are(release, tmp_path):
    paths = pictures(tmp_path / "loose", 6)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            archive.write(path, f"folder/{path.name}")
        archive.writestr("folder/", b"")
        archive.writestr("__MACOSX/folder/._000.jpg", b"left by a system")
    rows = rows_of(release, tmp_path / "x.zip")
    assert [row.file for row in rows] == [f"x.zip/folder/{path.name}" for path in paths]
    for row, path in zip(rows, paths, strict=True):
        assert row.prediction.probabilities == pytest.approx(release.predict(path).probabilities, abs=1e-5)


def test_names_in_an_archive_are_shown_and_never_paths(release, tmp_path, monkeypatch, picture):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    content = hostile.archive(dict.fromkeys(hostile.NAMES, picture))
    (tmp_path / "x.zip").write_bytes(content)
    before = everything_in(tmp_path)
    rows = rows_of(release, tmp_path / "x.zip")
    assert len(rows) == len(hostile.NAMES) and not any(row.problem for row in rows)
    assert rows[0].file == "x.zip/../../../../etc/passwd.png"
    assert all(row.file.isprintable() and len(row.file) <= inputs.LONGEST_NAME for row in rows)
    assert everything_in(tmp_path) == before


def test_a_damaged_archive_is_one_row(release, tmp_path, picture):
    content = hostile.archive({"a.png": picture})
    for damaged in (content[:-30], content[:200], b"PK\3\4", content.replace(b"PK\1\2", b"PK\1\3")):
        assert list(zipped(release, tmp_path, damaged)) == ["x.zip"]


def test_a_damaged_member_leaves_the_others_alone(release, tmp_path, picture):
    content = bytearray(hostile.archive({"a.png": picture, "b.png": picture[:-1] + b"x"}))
    content[60] ^= 0xFF
    assert zipped(release, tmp_path, bytes(content)) == {
        "x.zip/a.png": "the file is damaged in its archive.",
        "x.zip/b.png": None,
    }


def test_what_is_not_unpacked_says_why(release, tmp_path, picture):
    content = hostile.archive({"a.png": picture})
    only = {
        name: zipped(release, tmp_path, made)
        for name, made in {
            "locked": hostile.with_flags(content, flags=1),
            "lzma": hostile.archive({"a.png": picture}, compression=zipfile.ZIP_LZMA),
            "nested": hostile.archive({"a.png": content}),
            "huge": hostile.archive({"a.png": bytes(images.MAX_BYTES + 1)}),
            "bomb": hostile.archive({"a.png": bytes(20_000_000)}),
            "less": hostile.with_flags(hostile.archive({"a.png": bytes(20_000_000)}), size=10),
            "empty": hostile.archive({}),
        }.items()
    }
    assert only.pop("empty") == {"x.zip": "no file lies in it."}
    assert {name: found["x.zip/a.png"] for name, found in only.items()} == {
        "locked": "the file is encrypted: unpack the archive first.",
        "lzma": "the file is packed in a way that is not read here: make an ordinary zip archive.",
        "nested": "the file is an archive in an archive: unpack it first.",
        "huge": "the file has 200 MB: shrink it below 200 MB.",
        "bomb": "the file unpacks to far more than pictures do: it is not read.",
        "less": "the file is damaged in its archive.",
    }


def test_an_archive_as_a_whole_is_bounded_too(release, tmp_path, monkeypatch, picture):
    monkeypatch.setattr(zip_archives, "MAX_RATIO", 5)
    monkeypatch.setattr(zip_archives, "FREE", 10)
    content = hostile.archive({"a.png": picture})
    start, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    entries = content[start:end] * 30  # of one and the same file
    content = content[:start] + entries + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 30, 30, len(entries), start, 0)
    (tmp_path / "x.zip").write_bytes(content)
    found = [row.problem for row in rows_of(release, tmp_path / "x.zip")]
    judged = found.count(None)
    assert 0 < judged <= 5 * len(content) / len(picture)
    assert set(found[judged:]) == {"the file unpacks to far more than pictures do: it is not read."}


def test_an_archive_of_too_many_names_is_not_opened(release, tmp_path):
    content = hostile.archive({"a": b""})
    start, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    entries = content[start:end] * 100_000
    content = content[:start] + entries + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 9, 9, len(entries), start, 0)
    assert zipped(release, tmp_path, content) == {
        "x.zip": "the file is a damaged zip archive, or one with far too many files."
    }


def test_a_picture_with_an_archive_behind_it_is_a_picture(release, tmp_path, picture):
    (tmp_path / "both.png").write_bytes(picture + hostile.archive({"../evil.png": picture}))
    assert problems(release, tmp_path / "both.png") == {"both.png": None}


# Hostile files


def test_hostile_files_are_the_same_each_time(tmp_path):
    first, second = ([path.read_bytes() for path in hostile.files(tmp_path / name, 24, seed=1)] for name in "ab")
    assert first == second
    assert first != [path.read_bytes() for path in hostile.files(tmp_path / "c", 24, seed=2)]


def check_hostile(release: Release, folder: Path, *, n: int, seed: int) -> None:
    paths = hostile.files(folder / "hostile", n, seed=seed)
    before = everything_in(folder)
    for path in paths:
        rows = rows_of(release, path, thumbnails=batch.THUMBNAIL)
        assert rows, path
        for row in rows:
            assert row.file.isprintable() and len(row.file) <= inputs.LONGEST_NAME
            assert (row.prediction is None) == (row.problem is not None)
            assert row.problem is None or SENTENCE.fullmatch(row.problem), row.problem
            assert str(folder) not in (row.problem or "")
    assert everything_in(folder) == before


def test_each_hostile_file_has_its_sentence(release, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    check_hostile(release, tmp_path, n=len(hostile.KINDS), seed=0)


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_a_thousand_hostile_files_have_their_sentences(release, tmp_path, monkeypatch, seed):
    monkeypatch.chdir(tmp_path)
    check_hostile(release, tmp_path, n=500, seed=seed)


def test_hostile_files_in_one_batch_do_not_hide_the_good_ones(release, tmp_path, picture):
    paths = []
    for number, path in enumerate(hostile.files(tmp_path / "hostile", 100, seed=3)):
        if path.stat().st_size < 60_000 and path.suffix != ".zip":
            good = tmp_path / f"good {number}.png"
            good.write_bytes(picture)
            paths += [path, good]
    rows = [row for row in rows_of(release, *paths) if row.file.startswith("good ")]
    expected = release.predict(picture).probabilities
    assert len(rows) == len(paths) // 2 > 50
    assert all(row.prediction.probabilities == pytest.approx(expected, abs=1e-5) for row in rows)


MEASURED = """
import resource, sys, warnings
from dermalert_space import batch, inputs
from dermalert_space.release import Release
warnings.simplefilter("ignore")
release = Release.load(sys.argv[1])
for path in sys.argv[2:]:
    rows = sum(row.problem is None for row in batch.predict_files(release, inputs.expand([path]), thumbnails=160))
    print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def memory(folder: Path, *paths: Path) -> list[tuple[int, int]]:
    """How many images of each path are judged, and the megabytes that they take beyond the first's."""
    command = [sys.executable, "-c", MEASURED, str(folder), *map(str, paths)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=SPACE.parent)
    found = [tuple(map(int, line.split())) for line in run.stdout.splitlines()]
    return [(judged, megabytes - found[0][1]) for judged, megabytes in found[1:]]


@pytest.mark.long
def test_neither_large_photos_nor_bombs_fill_the_memory(folder, tmp_path):
    (first,) = pictures(tmp_path / "first", 1)
    (tmp_path / "photos").mkdir()
    make_image((4000, 3000)).save(tmp_path / "photo.jpg")
    for i in range(20):
        os.link(tmp_path / "photo.jpg", tmp_path / "photos" / f"{i}.jpg")
    bomb = hostile.png(8000, 8000)
    members = {f"{i}.png": bomb for i in range(3)} | {"zeros.bmp": bytes(190_000_000)}
    (tmp_path / "x.zip").write_bytes(hostile.archive(members))
    photos, bombs = memory(folder, first, tmp_path / "photos", tmp_path / "x.zip")
    assert photos[0] == 20 and bombs[0] == 3
    assert photos[1] < 550, "of 48 MB each, in groups of at most 128 MB"
    assert bombs[1] < 1500, "of 256 MB each, with the processor's two copies, while the next is decoded"


@pytest.mark.long
def test_many_files_take_no_more_memory_than_few(folder, tmp_path):
    paths = pictures(tmp_path / "few", 40)
    (tmp_path / "many").mkdir()
    for i in range(6000):
        os.link(paths[i % 40], tmp_path / "many" / f"{i}{paths[i % 40].suffix}")
    ((judged, megabytes),) = memory(folder, tmp_path / "few", tmp_path / "many")
    assert judged == 6000
    assert megabytes < 60


# The order


POINTS = {"melanoma": 0.04, "attention": 0.05}


def row(
    file: str, *, alert: bool | None, melanoma: float, malignant: float | None = None, attention=None, abstained=None
) -> batch.Row:
    asks = attention is not None and attention >= POINTS["attention"]
    prediction = Prediction(
        state=state(alert, asks, abstained),
        alert=alert,
        abstained=abstained,
        sentence="...",
        probabilities={"melanoma": melanoma},
        malignant=malignant,
        attention=attention,
        urgency=max(melanoma / POINTS["melanoma"], (attention or 0) / POINTS["attention"]),
    )
    return batch.Row(file=file, prediction=prediction, watched=melanoma, problem=None)


def test_the_most_urgent_come_first():
    unread = batch.Row(file="unread", prediction=None, watched=None, problem="the file is no file.")
    rows = [
        row("likely alert", alert=True, melanoma=0.9, attention=0.91),
        row("carcinoma", alert=False, melanoma=0.001, attention=0.95),
        row("alert", alert=True, melanoma=0.2, attention=0.3),
        row("perhaps a carcinoma", alert=False, melanoma=0.03, attention=0.07),
        row("alert, just", alert=True, melanoma=0.04, attention=0.041),
        row("dark and suspicious", alert=None, melanoma=0.5, attention=0.5, abstained="too dark."),
        row("dark", alert=None, melanoma=0.01, attention=0.01, abstained="too dark."),
        row("no number", alert=None, melanoma=float("nan"), abstained="no number."),
        row("keratosis", alert=False, melanoma=0.01, attention=0.045),
        row("nevus", alert=False, melanoma=0.03, attention=0.04),
        unread,
    ]
    for seed in range(10):
        shuffled = random.Random(seed).sample(rows, len(rows))
        assert [r.file for r in tables.by_urgency(shuffled)] == [r.file for r in rows]


def test_a_release_without_a_point_of_attention_sorts_what_is_left_by_what_is_malignant():
    rows = [row("a", alert=False, melanoma=0.03, malignant=0.04), row("b", alert=False, melanoma=0.01, malignant=0.9)]
    assert [r.file for r in tables.by_urgency(rows)] == ["b", "a"]


def test_without_clinical_groups_the_order_is_that_of_melanoma():
    rows = [row("a", alert=False, melanoma=0.01), row("b", alert=False, melanoma=0.02)]
    assert [r.file for r in tables.by_urgency(rows)] == ["b", "a"]


# Tables


def test_the_csv_table_holds_what_was_judged(release, tmp_path):
    paths = pictures(tmp_path, 3)
    (tmp_path / "letter, a long one.jpg").write_text("Dear colleague")
    rows = rows_of(release, *paths, tmp_path / "letter, a long one.jpg")
    table = list(csv.DictReader(io.StringIO(tables.as_csv(rows, release))))
    fixed = ["file", "state", "sentence", "alert", "refused", "problem", "melanoma probability"]
    fixed += ["malignant probability", "attention probability", "diagnosis"]
    assert list(table[0]) == [*fixed, *LABELS, "alert threshold", "attention threshold", "release", "tag"]
    for line, judged in zip(table[:3], rows, strict=False):
        assert line["sentence"] == judged.prediction.sentence
        assert line["alert"] == str(judged.prediction.alert).lower()
        assert {k: float(line[k]) for k in LABELS} == pytest.approx(judged.prediction.probabilities, abs=1e-6)
        assert line["melanoma probability"] == line["melanoma"]
        assert line["refused"] == line["problem"] == line["tag"] == line["malignant probability"] == ""
        assert line["release"] == Path(release.name).name, "and not where it lies"
    assert table[3]["file"] == "letter, a long one.jpg"
    assert table[3]["problem"] == rows[3].problem
    assert {table[3][key] for key in ["sentence", "alert", *LABELS]} == {""}


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "  =1", "\uff1d1", "\uff20SUM(1)"])
def test_a_spreadsheet_runs_no_file_name(release, name):
    table = tables.as_csv([row(f"{name}.png", alert=True, melanoma=0.5)], release)
    assert next(csv.DictReader(io.StringIO(table)))["file"] == f"'{name}.png"


def test_a_semicolon_or_quote_in_a_name_opens_no_cell(release):
    names = ["a;=1+1.png", 'a","=2.png']
    lines = tables.as_csv([row(name, alert=True, melanoma=0.5) for name in names], release).splitlines()[1:]
    assert lines[0].startswith('"a;=1+1.png",')
    assert lines[1].startswith('"a"",""=2.png",')


def test_the_json_is_strict_and_holds_what_was_judged(release, tmp_path):
    paths = pictures(tmp_path, 2)
    rows = rows_of(release, *paths, tmp_path / "nowhere.png")
    text = tables.as_json(rows, release)
    table = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert table["notice"] == NOT_A_DEVICE and text.count(NOT_A_DEVICE) == 1
    assert table["release"] == Path(release.name).name and table["tag"] is None
    assert table["alert"] == {"label": "melanoma", "threshold": 0.0135}
    assert [file["file"] for file in table["files"]] == ["000.jpg", "001.png", "nowhere.png"]
    for file, judged in zip(table["files"][:2], rows, strict=False):
        assert file["probabilities"] == pytest.approx(judged.prediction.probabilities, abs=1e-6)
        assert file["alert"] is judged.prediction.alert and file["problem"] is None
    assert table["files"][2]["probabilities"] is None
    assert table["files"][2]["problem"] == "the file does not exist."


@pytest.mark.parametrize(
    ("point", "nudge"), [("alert", 0.0), ("alert", 1e-9), ("attention", -1e-9), ("attention", 1e-9)]
)
def test_a_state_follows_from_the_numbers_beside_it(tmp_path, point, nudge):
    """Also where probability and threshold differ in the ninth decimal alone."""
    path = make_release(tmp_path / "release", threshold=0.99, attention=0.99) / "config.json"
    config, image = json.loads(path.read_text()), make_image(seed=4)
    first = Release.load(path.parent).predict(image)
    value = first.probabilities["melanoma"] if point == "alert" else first.attention
    config[point]["threshold"] = value + nudge
    path.write_text(json.dumps(config))
    release = Release.load(path.parent)
    image.save(tmp_path / "lesion.png")
    rows = rows_of(release, tmp_path / "lesion.png")
    (line,) = csv.DictReader(io.StringIO(tables.as_csv(rows, release)))
    table = json.loads(tables.as_json(rows, release))
    (file,), told = table["files"], api.prediction_record(release, rows[0].prediction)
    served = api.release_record(release, None)
    thresholds = {f"{name} threshold": table[name]["threshold"] for name in ("alert", "attention")}
    file = file | file["probabilities"] | thresholds
    told = told | told["probabilities"] | {"attention probability": told["attention"]}
    told |= {"alert threshold": served["threshold"], "attention threshold": served["attention_threshold"]}
    keys = ("state", "melanoma", "attention probability", "alert threshold", "attention threshold")
    found = [[one[key] for key in keys] for one in (line, file, told)]
    for name, *numbers in found:
        melanoma, attention, alert_from, attention_from = map(float, numbers)
        follows = "malignant_likely" if attention >= attention_from else "none"
        assert name == ("melanoma_alert" if melanoma >= alert_from else follows)
    fires = {"alert": "melanoma_alert", "attention": "malignant_likely"}[point]
    assert {name for name, *_ in found} == {"none" if nudge > 0 else fires}


def test_a_number_that_is_none_is_null_in_json_and_empty_in_the_table(release):
    rows = [row("a", alert=None, melanoma=float("nan"), abstained="no number.")]
    (file,) = json.loads(tables.as_json(rows, release), parse_constant=lambda name: pytest.fail(name))["files"]
    assert file["melanoma probability"] is file["probabilities"]["melanoma"] is None
    (line,) = csv.DictReader(io.StringIO(tables.as_csv(rows, release)))
    assert line["melanoma probability"] == line["melanoma"] == ""


# The command


def test_the_command_lists_and_writes_the_most_urgent_first(folder, tmp_path, capsys):
    paths = pictures(tmp_path / "lesions", 12)
    (tmp_path / "lesions" / "letter.txt").write_text("Dear colleague")
    tables = tmp_path / "table.csv", tmp_path / "table.json"
    letter = command(tmp_path / "lesions", "--model", folder, "--csv", tables[0], "--json", tables[1])
    assert letter == 1, "a letter cannot be judged"
    out, err = capsys.readouterr()
    assert NOT_A_DEVICE in out
    assert "13 of 13 files assessed" in err
    with tables[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    assert {row["file"] for row in rows} == {str(path) for path in [*paths, tmp_path / "lesions" / "letter.txt"]}
    states = [row["state"] for row in rows]
    assert states == sorted(states, key=list(STATES).index) and states[-1] == "unreadable"
    assert [row["file"] for row in rows] == [file["file"] for file in json.loads(tables[1].read_text())["files"]]
    lines = out.splitlines()
    assert lines[13:15] == ["", "1 file could not be read as an image:"]
    assert [row["file"] in line for row, line in zip(rows, lines[1:13] + lines[15:16], strict=True)] == [True] * 13
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lesions", "table.csv", "table.json"]


def command(*arguments: str | Path) -> int:
    """Run the command in this process."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as error:
        return error.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{images}", "--csv", "{images}/000.jpg"], "--csv takes the name of the table to write, which ends in .csv"),
        (["{images}", "--json", "a.csv"], "--json takes the name of the table to write, which ends in .json"),
        (["{images}", "--csv", "nowhere/a.csv"], "cannot write 'nowhere/a.csv'"),
        (["nowhere.jpg"], "there is no file or folder 'nowhere.jpg'"),
        ([], "the following arguments are required: images"),
        (["{images}", "--modle", "x"], "unrecognized arguments: --modle"),
    ],
)
def test_a_wrong_command_is_told_before_anything_is_loaded(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Release, "load", lambda *_: pytest.fail("loaded"))
    (picture,) = pictures(tmp_path / "images", 1)
    before = picture.read_bytes()
    assert command(*(argument.format(images=tmp_path / "images") for argument in arguments)) == 2
    assert message in capsys.readouterr().err
    assert picture.read_bytes() == before


def test_without_a_release_the_command_says_what_to_set(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "BUNDLED", tmp_path / "nowhere")
    assert command(*pictures(tmp_path, 1)) == 2
    error = capsys.readouterr().err
    assert error.endswith("error: set --model to a release: a folder, or USER/REPO@TAG of the Hub.\n")


def test_a_model_that_is_no_release_is_told_in_a_sentence(tmp_path, capsys):
    (picture,) = pictures(tmp_path / "images", 1)
    assert command(picture, "--model", make_release(tmp_path / "plain", alert=False)) == 1
    assert "is no dermalert release" in capsys.readouterr().err


def test_a_release_that_answers_otherwise_judges_nothing(tmp_path, folder, capsys, monkeypatch):
    (picture,) = pictures(tmp_path / "images", 1)
    monkeypatch.setattr(Release, "parity_error", lambda _: 0.5)
    assert command(picture, "--model", folder, "--csv", tmp_path / "a.csv") == 1
    assert (
        "answers otherwise here than it was measured: a probability of a reference image is off by 0.5"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "a.csv").exists()


def test_a_table_that_cannot_be_written_leaves_the_last_one(tmp_path, folder, capsys, monkeypatch):
    (picture,) = pictures(tmp_path / "images", 1)
    (tmp_path / "a.csv").write_text("of yesterday")

    def full(self, *_, **__):
        self.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert command(picture, "--model", folder, "--csv", tmp_path / "a.csv") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert everything_in(tmp_path).pop("a.csv") == b"of yesterday"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "images"]


def test_the_command_needs_no_gradio_and_nothing_beside_its_folder_and_interrupted_leaves_nothing_half(
    tmp_path, folder
):
    (picture,) = pictures(tmp_path / "images", 1)
    for i in range(20_000):
        os.link(picture, tmp_path / "images" / f"{i}.jpg")
    (alone := tmp_path / "alone").mkdir()
    (alone / "triage.py").write_bytes((SPACE / "triage.py").read_bytes())
    shutil.copytree(SPACE / "dermalert_space", alone / "dermalert_space", ignore=shutil.ignore_patterns("page"))
    (alone / "gradio.py").write_text("raise SystemExit('gradio was imported')")
    arguments = [sys.executable, alone / "triage.py", tmp_path / "images", "--model", folder]
    arguments += ["--csv", tmp_path / "a.csv"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        seen = b""
        while b"files assessed" not in seen:
            seen += process.stderr.read(1)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        output, errors = process.communicate(timeout=60)
    assert time.monotonic() - start < 30
    assert process.returncode == 130, errors.decode()[-2000:]
    assert errors.decode().endswith("\nInterrupted: nothing was written.\n")
    assert output == b""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "images"]


def test_a_terminal_is_sent_no_control_characters(tmp_path, folder, capsys):
    pictures(tmp_path / "images", 1)[0].rename(tmp_path / "images" / "\x1b[31mred\u202e\udcff.jpg")
    assert command(tmp_path / "images", "--model", folder, "--csv", tmp_path / "a.csv") == 0
    assert "\x1b" not in capsys.readouterr().out
    assert "\ufffd[31mred\ufffd\ufffd.jpg" in (tmp_path / "a.csv").read_text(encoding="utf-8")


# Real images


@pytest.mark.long
def test_real_images_are_judged_as_alone(real_images):
    bundled = Release.load(BUNDLED)
    paths = random.Random(0).sample(sorted(real_images.glob("*/*/*.jpg")), 60)
    rows = rows_of(bundled, *paths)
    found = np.array([[row.prediction.probabilities[label] for label in bundled.labels] for row in rows])
    alone = np.array([[bundled.predict(path).probabilities[label] for label in bundled.labels] for path in paths])
    np.testing.assert_allclose(found, alone, atol=1e-5)


def test_ranked_for_labelling_the_least_certain_about_melanoma_come_first_and_files_that_are_none_last():
    def given(name: str, melanoma: float | None) -> batch.Row:
        return batch.Row(file=name, prediction=None, watched=melanoma, problem=None)

    rows = [given("sure", 0.99), given("none", None), given("nan", float("nan")), given("low", 0.01)]
    rows += [given("unsure", 0.45), given("half", 0.5), given("alert", 0.7)]
    expected = ["half", "unsure", "alert", "sure", "low", "none", "nan"]
    assert [row.file for row in tables.for_labelling(rows)] == expected
    assert [row.file for row in tables.for_labelling(rows[::-1])][:3] == expected[:3]


def test_the_command_ranks_for_labelling_and_says_what_such_labels_do_not_measure(folder, tmp_path, capsys):
    pictures(tmp_path / "images", 12)
    words = ["--model", folder, "--csv", tmp_path / "a.csv", "--rank-for-labelling"]
    assert command(tmp_path / "images", *words) == 0
    with (tmp_path / "a.csv").open(newline="") as file:
        probabilities = [float(row["melanoma"]) for row in csv.DictReader(file)]
    assert probabilities == sorted(probabilities, key=lambda p: abs(p - 0.5)) and len(set(probabilities)) > 5
    assert "label images drawn at random" in capsys.readouterr().out
