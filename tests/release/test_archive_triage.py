"""An archive of parquet shards: the answers, what is left after a crash, and the same on several processes."""

import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, Value
from dermalert_space import batch, decoder_limits, images
from dermalert_space.release import Release
from support.releases import LABELS, make_image, make_release

from dermalert.errors import RunError, UsageError
from dermalert.release import archive_triage
from dermalert.training import locks

pytestmark = pytest.mark.integration

NEEDS_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `archive` is not installed")


def encoded(seed: int) -> bytes:
    content = io.BytesIO()
    make_image((60 + seed % 9, 50), seed=seed).save(content, "PNG")
    return content.getvalue()


def shards(folder: Path, n: int, *, rows: int = 70) -> Path:
    """So many shards of datasets' own kind, with images of different sizes."""
    folder.mkdir()
    for shard in range(n):
        names = [f"ISIC_{shard}_{row}" for row in range(rows)]
        images = [{"bytes": encoded(shard * rows + row), "path": None} for row in range(rows)]
        features = Features({"image": Image(), "image_id": Value("string")})
        Dataset.from_dict({"image": images, "image_id": names}, features=features).to_parquet(
            folder / f"{shard}.parquet"
        )
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> str:
    return str(make_release(tmp_path_factory.mktemp("release"), threshold=0.0135, groups=True))


@pytest.fixture(scope="module")
def taken(tmp_path_factory) -> Path:
    return shards(tmp_path_factory.mktemp("archive") / "shards", 6)


def triaged(shards: Path, release: str, output: Path, *, workers: int = 1) -> list[str]:
    said = []
    archive_triage.triage([shards], release, output, workers=workers, say=said.append)
    return said


@pytest.fixture(scope="module")
def expected(taken, release, tmp_path_factory) -> dict[str, pa.Table]:
    """What a single process makes of it."""
    output = tmp_path_factory.mktemp("expected")
    triaged(taken, release, output)
    return results(output)


def results(output: Path) -> dict[str, pa.Table]:
    return {path.name: pq.read_table(path) for path in sorted(output.glob("[!.]*"))}


HELD = """
import os, sys, time
from pathlib import Path
from dermalert.release import archive_triage
from dermalert.cli import app

read_for_real = archive_triage.read_rows
begun, go_on = map(Path, sys.argv.pop().split(","))

def held(shard, model, output):  # in a process where it is as it was
    def read_rows(path):
        for row in read_for_real(path):
            if list(output.glob("*.parquet")):
                (begun / str(os.getpid())).touch()
                while not go_on.exists():
                    time.sleep(0.02)
            yield row

    archive_triage.read_rows = read_rows
    return archive_triage.triage_shard(shard, model, output)

archive_triage.triage_shard = held
app()
"""
"""The command; once there is a result, each process stops in its next shard, says so in one folder, and waits."""


@contextlib.contextmanager
def command(
    shards: Path, release: str, output: Path, workers: int, *, held: tuple[Path, Path] | None = None
) -> Iterator[subprocess.Popen]:
    options = ["--model", release, "--output", output, "--workers", str(workers)]
    program = ["-c", HELD] if held else ["-m", "dermalert"]
    line = [sys.executable, *program, "triage-archive", shards, *options]
    line += [",".join(map(str, held))] if held else []
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def wait_for(found, running: subprocess.Popen, *, seconds: int = 200):
    until = time.monotonic() + seconds
    while not found():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    return found()


def test_each_image_is_answered_as_by_the_release_itself(expected, taken, release):
    loaded = Release.load(release)
    for name, table in expected.items():
        rows = pq.read_table(taken / name).to_pylist()
        assert table["image_id"].to_pylist() == [row["image_id"] for row in rows]
        for told, row in zip(table.to_pylist()[::10], rows[::10], strict=True):
            alone = loaded.predict(row["image"]["bytes"])
            assert {label: told[label] for label in LABELS} == pytest.approx(alone.probabilities, abs=1e-5)
            assert told["malignant"] == pytest.approx(alone.malignant, abs=1e-5)
            assert (told["alert"], told["refused"], told["problem"]) == (alone.alert, None, None)
            assert (told["state"], told["attention"]) == (alone.state, None)
    assert {told["alert"] for table in expected.values() for told in table.to_pylist()} == {True, False}


def test_a_row_without_a_picture_is_a_row_with_a_reason(release, tmp_path, monkeypatch):
    monkeypatch.setattr("dermalert_space.images.MAX_BYTES", 50_000)
    images = [encoded(1), None, b"Dear colleague", encoded(2)[:300], bytes(60_000), encoded(3)]
    (tmp_path / "shards").mkdir()
    table = pa.table({"image_id": list("abcdef"), "image": pa.array(images, pa.binary())})
    pq.write_table(table, tmp_path / "shards" / "0.parquet")
    triaged(tmp_path / "shards", release, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "0.parquet").to_pylist()
    assert [row["image_id"] for row in rows] == list("abcdef")
    assert [row["problem"] for row in rows][:2] == [None, "the row holds no image."]
    assert all("cannot be read as an image" in row["problem"] for row in rows[2:4])
    assert rows[4]["problem"].startswith("the file has 0 MB: shrink it")
    assert [row["melanoma"] is None for row in rows] == [False, True, True, True, True, False]
    assert [row["alert"] is None for row in rows] == [False, True, True, True, True, False]
    assert [row["state"] == "unreadable" for row in rows] == [row["problem"] is not None for row in rows]


def of_ids(folder: Path, ids: pa.Array) -> Path:
    folder.mkdir()
    images = pa.array([encoded(i) for i in range(len(ids))], pa.binary())
    pq.write_table(pa.table({"image_id": ids, "image": images}), folder / "0.parquet")
    return folder


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([b"a-1", "é 2".encode()]),
        pa.array([b"a-1", "é 2".encode()], pa.large_binary()),
        pa.array(["a-1", "é 2"]).dictionary_encode(),
    ],
    ids=["binary", "large binary", "dictionary"],
)
def test_ids_of_bytes_come_out_as_text(release, tmp_path, ids):
    triaged(of_ids(tmp_path / "shards", ids), release, tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / "0.parquet")["image_id"].to_pylist() == ["a-1", "é 2"]


@pytest.mark.parametrize(
    ("ids", "why"),
    [
        (pa.array(["a", None]), "a row has no image_id"),
        (pa.array(["  ", "b"]), "a row has no image_id"),
        (pa.array([1.0, float("nan")]), "a row has no image_id"),
        (pa.array([["a"], ["b"]]), "a row has no image_id, or more than one"),
        (pa.array([b"a", b"\xff\xfe"]), "no text in UTF-8"),
    ],
    ids=["null", "blank", "nan", "list", "no text"],
)
def test_a_shard_with_a_row_that_has_no_id_is_refused_with_the_reason(release, tmp_path, ids, why):
    with pytest.raises(RunError, match=f"0.parquet .*{why}"):
        triaged(of_ids(tmp_path / "shards", ids), release, tmp_path / "out")
    assert not results(tmp_path / "out")


def test_a_second_run_judges_what_is_missing_and_nothing_else(taken, release, expected, tmp_path):
    triaged(taken, release, tmp_path)
    (tmp_path / "3.parquet").unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.parquet")}
    said = triaged(taken, release, tmp_path)
    assert said == ["6 shards, of which 5 are triaged already.", "1 of 1: 3.parquet, 70 images."]
    assert before.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}.items()
    assert results(tmp_path) == expected


def test_a_process_that_is_killed_leaves_whole_results_and_the_next_goes_on(taken, release, expected, tmp_path):
    output = tmp_path / "out"
    with command(taken, release, output, 1) as running:
        wait_for(lambda: list(output.glob("*.parquet")) and list(output.glob("*.part")), running)
        running.kill()
    assert list(output.glob("*.part")) and (output / archive_triage._LOCK).exists()
    left = {path.name: pq.read_table(path) for path in tmp_path.glob("out/*.parquet")}
    assert left and left.items() <= expected.items()
    triaged(taken, release, tmp_path / "out")
    assert results(tmp_path / "out") == expected


def test_a_damaged_shard_is_named_and_the_others_are_judged(taken, release, expected, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for path in taken.iterdir():
        content = path.read_bytes()
        (folder / path.name).write_bytes(content if path.name != "0.parquet" else content[: len(content) // 2])
    with pytest.raises(RunError, match=r"1 of 6 shards could not be triaged: 0.parquet \(it cannot be read"):
        triaged(folder, release, tmp_path / "out")
    assert results(tmp_path / "out") == {name: table for name, table in expected.items() if name != "0.parquet"}


# What counts as done


def triaged_anew(taken: Path, release: str, output: Path) -> list[str]:
    """Triage what was triaged already but for what a test has changed; return what is printed."""
    total, *said = triaged(taken, release, output)
    assert re.fullmatch(r"\d+ shards, of which \d+ are triaged already\.", total)
    return said


@pytest.fixture(scope="module")
def small(release, tmp_path_factory) -> Path:
    """Two small shards in one folder, and their results in another."""
    root = tmp_path_factory.mktemp("small")
    triaged(shards(root / "in", 2, rows=40), release, root / "out")
    return root


@pytest.fixture
def done(small, tmp_path) -> tuple[Path, Path]:
    """The same, to be changed."""
    return tuple(Path(shutil.copytree(small / name, tmp_path / name)) for name in ("in", "out"))


def other_rows(shard: Path) -> None:
    """As many rows of the same names, whose pictures are others."""
    rows = pq.read_table(shard)
    pq.write_table(rows.set_column(0, "image", rows["image"].take(list(reversed(range(len(rows)))))), shard)


def fewer_rows(shard: Path) -> None:
    pq.write_table(pq.read_table(shard)[:-1], shard)


def same_size(shard: Path) -> None:
    """One byte of one picture, and the time at which the file was written is the former."""
    content, before = bytearray(shard.read_bytes()), shard.stat()
    content[content.index(b"IDAT") + 20] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [other_rows, fewer_rows, same_size])
def test_a_shard_that_was_replaced_under_its_name_is_judged_anew(done, release, change):
    shards, output = done
    change(shards / "1.parquet")
    said = triaged_anew(shards, release, output)
    assert said[0] == "1 are triaged anew, because of the result: its shard has changed."
    assert [line.partition(",")[0] for line in said[1:]] == ["1 of 1: 1.parquet"]
    triaged(shards, release, output.parent / "fresh")
    assert results(output) == results(output.parent / "fresh")
    assert triaged_anew(shards, release, output) == []


def cut_short(result: Path) -> None:
    result.write_bytes(result.read_bytes()[:-200])


def emptied(result: Path) -> None:
    result.write_bytes(b"")


def one_bit(result: Path) -> None:
    """In the middle of its data, of which Arrow would say nothing without the sums of the pages."""
    content = bytearray(result.read_bytes())
    content[len(content) // 3] ^= 8
    result.write_bytes(content)


def rows_lost(result: Path) -> None:
    pq.write_table(pq.read_table(result)[:-3], result)


@pytest.mark.parametrize("change", [cut_short, emptied, one_bit, rows_lost])
def test_a_damaged_result_is_made_anew(done, release, small, change):
    shards, output = done
    change(output / "0.parquet")
    said = triaged_anew(shards, release, output)
    assert said[0] == "1 are triaged anew, because of the result: it is damaged."
    assert results(output) == results(small / "out")


def other_weights(folder: Path) -> None:
    make_release(folder, threshold=0.0135, groups=True, seed=1)


def other_threshold(folder: Path) -> None:
    make_release(folder, threshold=0.02, groups=True)


def other_processor(folder: Path) -> None:
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"resample": 0}))


def second_processor(folder: Path) -> None:
    """Of the two files transformers prefers this one."""
    nested = json.loads((folder / "preprocessor_config.json").read_text()) | {"resample": 0}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": nested}))


@pytest.mark.parametrize("change", [other_weights, other_threshold, other_processor, second_processor])
def test_what_another_release_has_judged_is_judged_anew_whatever_its_name(done, release, tmp_path, change):
    shards, output = done
    same = shutil.copytree(release, tmp_path / "the same under another name")
    assert triaged_anew(shards, str(same), output) == []
    change(same)
    archive_triage._release.cache_clear()
    said = triaged_anew(shards, str(same), output)
    assert said[0] == "2 are triaged anew, because of the result: it is of another release."
    assert triaged_anew(shards, str(same), output) == []


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (images, "MAX_BYTES", 1_000_000),
        (archive_triage, "KINDS", ("JPEG", "PNG")),
        (decoder_limits, "MAX_SCANS", 5),
        (archive_triage.features, "check", lambda codec: codec != "webp"),
    ],
    ids=["size", "kinds", "parts", "a Pillow without WebP"],
)
def test_what_other_settings_have_made_is_made_anew(done, release, monkeypatch, where, name, value):
    shards, output = done
    monkeypatch.setattr(where, name, value)
    said = triaged_anew(shards, release, output)
    assert said[0] == "2 are triaged anew, because of the result: it was made with other settings."


def test_the_state_follows_from_the_numbers_of_a_result(taken, tmp_path):
    loaded = Release.load(make_release(tmp_path / "release", threshold=0.0135, groups=True, attention=0.5))
    sums = sorted(each.attention for each in loaded.predict_all([make_image(seed=i) for i in range(9)]))
    make_release(tmp_path / "release", threshold=0.0135, groups=True, attention=sums[4])
    triaged(taken / "0.parquet", str(tmp_path / "release"), tmp_path / "out")
    result = pq.read_table(tmp_path / "out" / "0.parquet")
    thresholds = json.loads(result.schema.metadata[b"dermalert.thresholds"])
    assert thresholds == {"alert": 0.0135, "attention": sums[4]}
    for row in result.to_pylist():
        asks = row["attention"] >= thresholds["attention"]
        state = "melanoma_alert" if row["melanoma"] >= 0.0135 else "malignant_likely" if asks else "none"
        assert row["state"] == state
        assert row["attention"] == sum(row[name] for name in loaded.attention.labels)


# A folder that others use too


def test_files_of_others_stay_whatever_their_names(done, release):
    shards, output = done
    others = [
        "thesis.tex.part",
        "0.parquet.part",
        "1.parquet.abc.part",
        ".lock",
        "x.lock",
        f"0.parquet.{'0' * 32}.1.part",
    ]
    for name in others:
        (output / name).write_text("the only copy")
    (output / "0.parquet").unlink()
    triaged(shards, release, output)
    assert all((output / name).read_text() == "the only copy" for name in others)
    assert sorted(path.name for path in output.iterdir()) == sorted(
        [*others, archive_triage._LIST, "0.parquet", "1.parquet"]
    )


def of_another_command(result: Path, taken: Path) -> None:
    """A whole table, cut short as it was copied."""
    result.write_bytes((taken / "2.parquet").read_bytes()[:-300])


def text(result: Path, _: Path) -> None:
    result.write_text("the only copy")


def link_to_nothing(result: Path, taken: Path) -> None:
    result.unlink()
    result.symlink_to(taken / "nothing")


def pipe(result: Path, _: Path) -> None:
    result.unlink()
    os.mkfifo(result)


@pytest.mark.parametrize("listed", [True, False], ids=["where a result was", "where none was"])
@pytest.mark.parametrize("change", [of_another_command, text, link_to_nothing, pipe])
def test_a_damaged_file_of_another_is_not_written_over(done, taken, release, change, listed):
    shards, output = done
    if not listed:
        (output / archive_triage._LIST).unlink()
    change(output / "1.parquet", taken)
    before = (output / "1.parquet").lstat()
    with pytest.raises(UsageError, match=r"1\.parquet' is no result of this command, .*name another --output"):
        triaged(shards, release, output)
    assert os.path.samestat(before, (output / "1.parquet").lstat())
    assert before.st_mtime_ns == (output / "1.parquet").lstat().st_mtime_ns


def test_a_damaged_result_that_no_list_names_is_not_written_over(done, release):
    shards, output = done
    cut_short(output / "1.parquet")
    (output / archive_triage._LIST).write_bytes(b"[\n{}\n[1, 2]\n\xff\n")
    with pytest.raises(UsageError, match=r"1\.parquet' is no result of this command"):
        triaged(shards, release, output)


def test_a_file_that_appears_while_its_shard_is_judged_is_not_written_over(done, release, monkeypatch):
    shards, output = done
    (output / "1.parquet").unlink()
    predict_files, theirs = batch.predict_files, output / "1.parquet"
    monkeypatch.setattr(batch, "predict_files", lambda *of: theirs.write_text("the only copy") and predict_files(*of))
    with pytest.raises(RunError, match=r"1\.parquet \(.*is no result of this command"):
        triaged(shards, release, output)
    assert theirs.read_text() == "the only copy"
    assert not list(output.glob("*.part"))


@pytest.mark.parametrize("kind", ["another table", "the shards themselves", "a folder"])
def test_what_is_no_result_is_not_written_over(done, release, kind):
    shards, output = done
    if kind == "the shards themselves":
        output = shards
    (output / "2.parquet").mkdir() if kind == "a folder" else None
    if kind == "another table":
        pq.write_table(pa.table({"mine": [1]}), output / "0.parquet")
    if kind == "a folder":
        shutil.copy(shards / "1.parquet", shards / "2.parquet")
    before = {path: path.read_bytes() for path in output.iterdir() if path.is_file()}
    with pytest.raises(UsageError, match=r"parquet' is no result of this command, .*name another --output"):
        triaged(shards, release, output)
    assert {path: path.read_bytes() for path in output.iterdir() if path.is_file()} == before


@pytest.mark.long
def test_a_second_command_on_the_same_output_waits_for_the_first_by_name(taken, release, expected, tmp_path):
    output, said = tmp_path / "out", []
    with command(taken, release, output, 1) as running:
        wait_for(lambda: list(output.glob("*.part")), running)
        archive_triage.triage([taken], release, output, workers=1, say=said.append)
        assert running.wait(60) == 0
    assert [re.sub(r"since .* UTC", "since SOME TIME", sentence) for sentence in said] == [
        f"'{output}' is in use by process {running.pid} on '{socket.gethostname()}' since SOME TIME: waiting until it "
        "ends.",
        "6 shards, of which 6 are triaged already.",
    ]
    assert results(output) == expected


@pytest.mark.parametrize("pid", [1, 99_999_999, os.getpid()], ids=["first", "none", "own"])
def test_a_lock_of_another_host_is_refused_with_what_to_do(taken, release, tmp_path, pid):
    lock = tmp_path / archive_triage._LOCK
    lock.write_text(json.dumps({"host": "node-7", "pid": pid, "token": "a" * 32}))
    with pytest.raises(UsageError, match=rf"in use by process {pid} on 'node-7'\. Wait .*delete '.*archive.lock'"):
        triaged(taken, release, tmp_path)
    assert list(tmp_path.iterdir()) == [lock]


@pytest.mark.parametrize("content", ["", "no JSON", '{"host": "node-7"}', '{"host": "h", "pid": 1, "token": "*"}'])
def test_a_lock_that_names_nobody_is_taken_over(taken, release, expected, tmp_path, monkeypatch, content):
    monkeypatch.setattr(locks, "_CREATION", 0.3)
    (tmp_path / archive_triage._LOCK).write_text(content)
    (tmp_path / "0.parquet.b.c.part").write_text("the only copy")
    triaged(taken, release, tmp_path)
    (tmp_path / "0.parquet.b.c.part").unlink()
    assert results(tmp_path) == expected


def test_without_locks_of_the_system_the_process_decides(tmp_path, monkeypatch):
    """As on a network file system that has none."""
    monkeypatch.setattr(locks, "_flock", lambda _: None)
    lock, said = tmp_path / "lock", []
    lock.write_text(json.dumps({"host": socket.gethostname(), "pid": 99_999_999, "token": "a" * 32}))
    with locks.held(lock, say=said.append) as (own, dead):
        assert dead.pid == 99_999_999 and locks.holder(lock) == own
        waiting = threading.Thread(target=lambda: locks.held(lock, say=said.append).__enter__(), daemon=True)
        waiting.start()
        waiting.join(1)
        assert waiting.is_alive() and len(said) == 1
    waiting.join(5)
    assert not waiting.is_alive()


def test_what_is_asked_wrongly_is_said(release, tmp_path):
    pq.write_table(pa.table({"picture": [b""], "image_id": ["a"]}), tmp_path / "a.parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "b").mkdir()
    pq.write_table(pa.table({"image": [b""], "image_id": ["a"]}), tmp_path / "b" / "a.parquet")
    for paths, model, said in (
        ([tmp_path], release, r"a.parquet' has no column image but picture, image_id: rename them"),
        ([tmp_path / "empty"], release, r"no parquet files in .*empty: name shards, or folders"),
        ([tmp_path / "nowhere.parquet"], release, r"no parquet files in .*nowhere.parquet"),
        ([tmp_path, tmp_path / "b"], release, r"several shards are called a.parquet"),
        ([tmp_path / "b"], str(tmp_path), r"cannot load the release"),
    ):
        with pytest.raises(UsageError, match=said):
            archive_triage.triage(paths, model, tmp_path / "out", workers=1)


@pytest.mark.long
@NEEDS_RAY
def test_on_two_processes_one_of_which_is_killed_the_results_are_those_of_one(taken, release, expected, tmp_path):
    begun, go_on = tmp_path / "begun", tmp_path / "go on"
    begun.mkdir()
    with command(taken, release, tmp_path / "out", 2, held=(begun, go_on)) as running:
        wait_for(lambda: len(list(begun.iterdir())) == 2, running)
        assert len(list(tmp_path.glob("out/*.part"))) == 2
        before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*.parquet")}
        killed = int(next(begun.iterdir()).name)
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: not psutil.pid_exists(killed), running)
        go_on.touch()
        said, errors = running.communicate(timeout=300)
    assert before
    assert running.returncode == 0, errors
    assert "6 of 6: " in said and "Traceback" not in errors
    assert before.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*")}.items()
    assert results(tmp_path / "out") == expected


@NEEDS_RAY
@pytest.mark.long
def test_a_shard_that_kills_its_process_each_time_is_named_and_the_others_are_judged(
    taken, release, expected, tmp_path, monkeypatch
):
    def triage_shard(shard, model, output):
        if shard.name == "2.parquet":
            os.kill(os.getpid(), signal.SIGKILL)
        return triage_for_real(shard, model, output)

    triage_for_real = archive_triage.triage_shard
    monkeypatch.setattr(archive_triage, "triage_shard", triage_shard)
    with pytest.raises(RunError, match=r"1 of 6 shards could not be triaged: 2.parquet \(its process died, 4 times"):
        triaged(taken, release, tmp_path, workers=2)
    assert {p.name: pq.read_table(p) for p in tmp_path.glob("*.parquet")}.items() == {
        name: table for name, table in expected.items() if name != "2.parquet"
    }.items()


def test_without_ray_it_says_what_to_do(taken, release, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install -e '.\[archive\]', or take --workers 1"):
        triaged(taken, release, tmp_path, workers=2)
