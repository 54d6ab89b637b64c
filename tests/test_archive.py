"""An archive of parquet shards: the answers, what is left after a crash, and the same on several processes."""

import contextlib
import importlib.util
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, Value
from releases import LABELS, make_image, make_release

from dermalert import archive
from dermalert.errors import RunError, UsageError
from space import batch
from space.triage import Release

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


def judged(shards: Path, release: str, output: Path, *, workers: int = 1) -> list[str]:
    said = []
    archive.judge([shards], release, output, workers=workers, say=said.append)
    return said


@pytest.fixture(scope="module")
def expected(taken, release, tmp_path_factory) -> dict[str, pa.Table]:
    """What a single process makes of it."""
    output = tmp_path_factory.mktemp("expected")
    judged(taken, release, output)
    return results(output)


def results(output: Path) -> dict[str, pa.Table]:
    return {path.name: pq.read_table(path) for path in sorted(output.iterdir())}


@contextlib.contextmanager
def command(shards: Path, release: str, output: Path, workers: int) -> Iterator[subprocess.Popen]:
    options = ["--model", release, "--output", output, "--workers", str(workers)]
    line = [sys.executable, "-m", "dermalert", "triage-archive", shards, *options]
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
    judge = Release.load(release)
    for name, table in expected.items():
        rows = pq.read_table(taken / name).to_pylist()
        assert table["image_id"].to_pylist() == [row["image_id"] for row in rows]
        for told, row in zip(table.to_pylist()[::10], rows[::10], strict=True):
            alone = judge.judge(row["image"]["bytes"])
            assert {label: told[label] for label in LABELS} == pytest.approx(alone.probabilities, abs=1e-5)
            assert told["malignant"] == pytest.approx(alone.malignant, abs=1e-5)
            assert (told["alert"], told["refused"], told["problem"]) == (alone.alert, None, None)
    assert {told["alert"] for table in expected.values() for told in table.to_pylist()} == {True, False}


def test_a_row_without_a_picture_is_a_row_with_a_reason(release, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "MAX_BYTES", 50_000)
    images = [encoded(1), None, b"Dear colleague", encoded(2)[:300], bytes(60_000), encoded(3)]
    (tmp_path / "shards").mkdir()
    table = pa.table({"image_id": list("abcdef"), "image": pa.array(images, pa.binary())})
    pq.write_table(table, tmp_path / "shards" / "0.parquet")
    judged(tmp_path / "shards", release, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "0.parquet").to_pylist()
    assert [row["image_id"] for row in rows] == list("abcdef")
    assert [row["problem"] for row in rows][:2] == [None, "the row holds no image."]
    assert all("cannot be read as an image" in row["problem"] for row in rows[2:4])
    assert rows[4]["problem"].startswith("the file has 0 MB: shrink it")
    assert [row["melanoma"] is None for row in rows] == [False, True, True, True, True, False]
    assert [row["alert"] is None for row in rows] == [False, True, True, True, True, False]


def test_a_second_run_judges_what_is_missing_and_nothing_else(taken, release, expected, tmp_path):
    judged(taken, release, tmp_path)
    (tmp_path / "3.parquet").unlink()
    (tmp_path / "3.parquet.abc.part").write_bytes(b"left by a run that was killed")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.parquet")}
    said = judged(taken, release, tmp_path)
    assert said == ["6 shards, of which 5 are judged already.", "1 of 1: 3.parquet, 70 images."]
    assert before.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}.items()
    assert results(tmp_path) == expected


def test_a_process_that_is_killed_leaves_whole_results_and_the_next_goes_on(taken, release, expected, tmp_path):
    with command(taken, release, tmp_path / "out", 1) as running:
        wait_for(lambda: list(tmp_path.glob("out/*.parquet")), running)
        running.kill()
    left = {path.name: pq.read_table(path) for path in tmp_path.glob("out/*.parquet")}
    assert left and left.items() <= expected.items()
    judged(taken, release, tmp_path / "out")
    assert results(tmp_path / "out") == expected


def test_a_damaged_shard_is_named_and_the_others_are_judged(taken, release, expected, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for path in taken.iterdir():
        content = path.read_bytes()
        (folder / path.name).write_bytes(content if path.name != "0.parquet" else content[: len(content) // 2])
    with pytest.raises(RunError, match=r"1 of 6 shards could not be judged: 0.parquet \(it cannot be read"):
        judged(folder, release, tmp_path / "out")
    assert results(tmp_path / "out") == {name: table for name, table in expected.items() if name != "0.parquet"}


def test_results_of_another_release_are_not_mixed(taken, release, expected, tmp_path):
    judged(taken, release, tmp_path / "out")
    other = make_release(tmp_path / "other", seed=1)
    with pytest.raises(UsageError, match=r"out' holds results of another release \(0.parquet, .*another --output"):
        judged(taken, str(other), tmp_path / "out")
    assert results(tmp_path / "out") == expected


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
            archive.judge(paths, model, tmp_path / "out", workers=1)


@NEEDS_RAY
def test_on_two_processes_one_of_which_is_killed_the_results_are_those_of_one(taken, release, expected, tmp_path):
    def processes() -> list[psutil.Process]:
        below = psutil.Process(running.pid).children(recursive=True)
        return [each for each in below if each.name().startswith("ray::judge")]

    with command(taken, release, tmp_path / "out", 2) as running:
        both = wait_for(lambda: (found := processes()) and len(found) == 2 and found, running)
        wait_for(lambda: list(tmp_path.glob("out/*.part")), running)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*.parquet")}
        os.kill(both[0].pid, signal.SIGKILL)
        said, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    assert "6 of 6: " in said and "Traceback" not in errors
    assert before.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*")}.items()
    assert results(tmp_path / "out") == expected


@NEEDS_RAY
@pytest.mark.long
def test_a_shard_that_kills_its_process_each_time_is_named_and_the_others_are_judged(
    taken, release, expected, tmp_path, monkeypatch
):
    def judge_shard(shard, model, output):
        if shard.name == "2.parquet":
            os.kill(os.getpid(), signal.SIGKILL)
        return judge_for_real(shard, model, output)

    judge_for_real = archive.judge_shard
    monkeypatch.setattr(archive, "judge_shard", judge_shard)
    with pytest.raises(RunError, match=r"1 of 6 shards could not be judged: 2.parquet \(its process died, 4 times"):
        judged(taken, release, tmp_path, workers=2)
    assert {p.name: pq.read_table(p) for p in tmp_path.glob("*.parquet")}.items() == {
        name: table for name, table in expected.items() if name != "2.parquet"
    }.items()


def test_without_ray_it_says_what_to_do(taken, release, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install -e '.\[archive\]', or take --workers 1"):
        judged(taken, release, tmp_path, workers=2)
