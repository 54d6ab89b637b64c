"""Triage of an image archive: parquet shards in, one parquet of results a shard out, on as many processes as you like.

Each shard is a task of its own. Its result is the same whichever process triages it, on the same kind of machine, and
is written whole or not at all. So a process that dies costs its shard alone, and a second run takes the missing ones. A
result names the content of its shard, the files of the release that decide, and the settings; a shard is done while all
three are the same, and triaged anew otherwise. One command at a time writes to a folder of results, and only over
results: a list in that folder says how each began, so that a damaged one is still recognised.

With more than one process the engine is Ray (https://docs.ray.io), on this machine or on a cluster that can read the
shards and write the results under the same paths.
"""

import contextlib
import functools
import glob
import hashlib
import importlib.metadata
import itertools
import json
import logging
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from dermalert_space import batch, decoder_limits, files, images
from dermalert_space.contract import ABSTAINED, CONFIG, GRAPH, NOT_A_DEVICE, PROCESSORS, STATISTICS
from dermalert_space.images import KINDS, MAX_ASPECT, MAX_PIXELS, MAX_SIDE
from dermalert_space.prediction import fields
from dermalert_space.release import Release
from dermalert_space.release_loading import NoRelease
from dermalert_space.zip_archives import Input
from PIL import features

from dermalert.errors import RunError, UsageError, first_few, first_line
from dermalert.training import locks

NEEDED = ("image", "image_id")
"""Columns of a shard: the bytes of an image file or datasets' `Image`, and its name."""

_ROWS = 64  # read and written at once; it changes no answer
_RELEASE, _SHARD, _SETTINGS = b"dermalert.release", b"dermalert.shard", b"dermalert.settings"
_LOCK = ".dermalert-archive.lock"
"""In the folder of the results while a command writes to it."""

_LIST = ".dermalert-archive.results"
"""In the folder of the results: a line of JSON for each, its name and how its content begins."""

_HEAD = 256  # bytes of a result's beginning that are listed

_CODECS = {"JPEG": "jpg", "PNG": "zlib", "TIFF": "libtiff", "WEBP": "webp"}  # as Pillow calls what reads these

_ANEW = ("its shard has changed", "it is of another release", "it was made with other settings", "it is damaged")
"""Why a shard that has a result is triaged anew."""

_RETRIES = 3  # of a shard whose process died; a fourth death is likely the shard's own doing

ShardResult = tuple[Path, int | None, str | None]
"""A shard, the number of its rows, or why it could not be triaged."""


def triage(
    shards: list[Path],
    model: str,
    output: Path,
    *,
    workers: int,
    cluster: str | None = None,
    say: Callable[[str], object] = print,
) -> None:
    """Triage all shards that have no result in a folder yet; see `schema` for the columns of a result.

    A result that is damaged, or of another content, release or setting than those of this command, is made anew. While
    another command of this host writes to the folder, this one waits.

    Args:
        shards: parquet files, and folders of them.
        model: a release, as `Release.load` takes it.
        output: the folder of the results, which get the names of their shards.
        workers: processes, of one thread each; 1 is this one. On a cluster each of its cores is one.
        cluster: address of a Ray cluster, `auto` or `HOST:PORT`.
        say: gets the progress, in sentences.

    Raises:
        UsageError: no release, no shards, shards without the columns, files in the folder that are no results, or a
            command on another host that writes to it.
        RunError: some shards could not be triaged; the others are.
    """
    shards = find_shards(shards)
    check_columns(shards)
    release = identity(_release(model))
    output.mkdir(parents=True, exist_ok=True)
    with locks.held(output / _LOCK, say=say) as (own, dead):
        if dead:
            tidy(output, dead.token)
        try:
            _triage(shards, release, model, output, workers, cluster, say)
        finally:
            tidy(output, own.token)


def _triage(
    shards: list[Path],
    release: str,
    model: str,
    output: Path,
    workers: int,
    cluster: str | None,
    say: Callable[[str], object],
) -> None:
    missing, anew = find_missing(shards, output, release)
    say(f"{len(shards):,} shards, of which {len(shards) - len(missing):,} are triaged already.")
    for reason, number in anew.items():
        say(f"{number:,} are triaged anew, because of the result: {reason}.")
    if workers == 1 and cluster is None:
        results: Iterable[ShardResult] = (triage_shard(shard, model, output) for shard in missing)
    else:
        results = on_ray(missing, model, output, workers=workers, cluster=cluster)
    failed = []
    for done, (shard, rows, why) in enumerate(results, start=1):
        say(f"{done:,} of {len(missing):,}: {shard.name}, {why or f'{rows:,} images'}.")
        failed += [f"{shard.name} ({why})"] if why else []
    if failed:
        raise RunError(
            f"{len(failed)} of {len(missing)} shards could not be triaged: {first_few(failed)}. Mend them "
            "and run the same command again: it triages only these."
        )


def find_shards(paths: list[Path]) -> list[Path]:
    """The shards among files and folders, in order; UsageError where there are none, or two of one name."""
    shards = [file for path in paths for file in (sorted(path.glob("*.parquet")) if path.is_dir() else [path])]
    lost = [str(path) for path in shards if not path.is_file()]
    if lost or not shards:
        raise UsageError(f"no parquet files in {first_few(lost or paths)}: name shards, or folders that hold some.")
    names = [path.name for path in shards]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"several shards are called {first_few(twice)}, as their results would be: rename them.")
    return shards


def check_columns(shards: list[Path]) -> None:
    """Refuse a first shard that lacks a column: the others are likely like it, and named when their turn comes."""
    try:
        columns = pq.read_schema(shards[0]).names
    except (pa.ArrowInvalid, OSError):
        return  # damaged, as the report of the failed shards will say
    lacking = [name for name in NEEDED if name not in columns]
    if lacking:
        raise UsageError(f"'{shards[0]}' has no column {first_few(lacking)} but {first_few(columns)}: rename them.")


def tidy(output: Path, token: str) -> None:
    """Remove what the command of this token has left half-written, and no other file."""
    for part in output.glob(f"*.{glob.escape(token)}.*.part"):
        part.unlink(missing_ok=True)


def find_missing(shards: list[Path], output: Path, release: str) -> tuple[list[Path], Counter[str]]:
    """The shards to triage, and how many of them have a result, by the reason it does not count."""
    missing: list[Path] = []
    anew: Counter[str] = Counter()
    for shard in shards:
        result = output / shard.name
        why = _why_outdated(result, shard, release) if os.path.lexists(result) else ""
        missing += [shard] if why is not None else []
        anew.update([why] if why else [])
    return missing, anew


def _why_outdated(result: Path, shard: Path, release: str) -> str | None:
    """The reason why a result does not count; None where it is of this shard, release and settings, and whole."""
    if (metadata := _metadata(result, shard)) is None:
        return _ANEW[3]
    try:
        with pq.ParquetFile(result, page_checksum_verification=True) as file:
            rows = sum(len(some) for some in file.iter_batches())  # which finds out whether all of it can be read
    except (pa.ArrowException, OSError):
        return _ANEW[3]
    expected = {_SHARD: fingerprint(shard), _RELEASE: release, _SETTINGS: settings()}
    for (key, value), why in zip(expected.items(), _ANEW, strict=False):
        if metadata.get(key) != value.encode():
            return why
    return None if rows == pq.read_metadata(shard).num_rows else _ANEW[3]


def _metadata(result: Path, shard: Path) -> dict[bytes, bytes] | None:
    """The metadata of a result, None where it is damaged; UsageError where it is no result of this command."""
    if result.is_file() and not result.samefile(shard):
        try:
            metadata = pq.read_schema(result).metadata or {}
            if _RELEASE in metadata:
                return metadata
        except (pa.ArrowException, OSError):
            if _is_listed(result):
                return None
    raise UsageError(f"'{result}' is no result of this command, and would be written over: name another --output.")


def _is_listed(result: Path) -> bool:
    """Whether a damaged file begins as a result of its name did when it was written."""
    written, head = result.parent / _LIST, _head(result).hex()
    for line in written.read_text(encoding="utf-8", errors="replace").splitlines() if written.is_file() else []:
        with contextlib.suppress(ValueError, TypeError, AttributeError):  # of a line that was cut short
            name, begins = json.loads(line)
            if name == result.name and begins.startswith(head):
                return True
    return False


def _enlist(result: Path, part: Path) -> None:
    """Add a line to the list; whole at once, because other processes may do so too."""
    with (result.parent / _LIST).open("ab", buffering=0) as written:
        written.write(f"{json.dumps([result.name, _head(part).hex()])}\n".encode())


def _head(result: Path) -> bytes:
    with result.open("rb") as file:
        return file.read(_HEAD)


def fingerprint(shard: Path) -> str:
    """The size of a shard and the hash of its content."""
    with shard.open("rb") as file:
        return f"{os.fstat(file.fileno()).st_size}-{hashlib.file_digest(file, 'sha256').hexdigest()}"


def settings() -> str:
    """The settings that a result depends on, as JSON: this version, and its limits and formats of an image."""
    limits = {"bytes": images.MAX_BYTES, "pixels": MAX_PIXELS, "side": MAX_SIDE, "aspect": MAX_ASPECT}
    limits |= {name: value for name, value in vars(decoder_limits).items() if name.startswith("MAX_")}
    kinds = [kind for kind in KINDS if kind not in _CODECS or features.check(_CODECS[kind])]
    version = importlib.metadata.version("dermalert")
    return json.dumps({"dermalert": version, "kinds": kinds} | limits, sort_keys=True)


@functools.cache
def _release(model: str) -> Release:
    """Load a release once a process, on one thread: as many processes as cores do more than threads, and alike."""
    torch.set_num_threads(1)
    try:
        return Release.load(model)
    except NoRelease as error:
        raise UsageError(str(error)) from error


@functools.cache
def identity(release: Release) -> str:
    """A hash of all files of a release that its answers depend on, whatever its name."""
    digest = hashlib.sha256(release.processor.to_json_string().encode())  # with what no file sets
    for name in (CONFIG, *PROCESSORS, STATISTICS, GRAPH):
        path = release.file(name)
        content = path.read_bytes() if path else b""
        digest.update(f"{name} {len(content)}\n".encode() + content)
    for name, tensor in sorted(release.model.state_dict().items()):  # in whichever files they lie
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def on_ray(shards: list[Path], model: str, output: Path, *, workers: int, cluster: str | None) -> Iterator[ShardResult]:
    """Triage shards as tasks of Ray, in the order in which they end."""
    ray = _start_ray(workers, cluster)
    try:
        # A worker that dies is replaced and its task repeated, wherever there is a free core.
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(triage_shard)
        waiting = {task.remote(shard.resolve(), model, output.resolve()): shard for shard in shards}
        while waiting:
            (ended,), _ = ray.wait(list(waiting), num_returns=1)
            shard = waiting.pop(ended)
            try:
                yield ray.get(ended)
            except ray.exceptions.RayTaskError as error:
                yield shard, None, first_line(error.cause)
            except ray.exceptions.RayError as error:
                yield shard, None, f"its process died, {_RETRIES + 1} times: {first_line(error)}"
    finally:
        ray.shutdown()


def _start_ray(workers: int, cluster: str | None) -> Any:
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "more than one process needs Ray: pip install -e '.[archive]', or take --workers 1."
        ) from error
    # Ray gives its workers the lowest priority: beside other work on the machine they would hardly run.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Results go to files, so that Ray's own store of them may be as small as it can be.
    own = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": 80_000_000}
    try:
        ray.init(**{"address": cluster} if cluster else own, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(f"cannot reach the Ray cluster '{cluster}': {first_line(error)}.") from error
    return ray


def triage_shard(shard: Path, model: str, output: Path) -> ShardResult:
    """Triage one shard and write its result, whole or not at all."""
    release = _release(model)
    try:
        of, before = fingerprint(shard), shard.stat()
        columns = schema(release).with_metadata(schema(release).metadata | {_SHARD: of.encode()})
        with _atomic_result(output / shard.name) as part:
            with pq.ParquetWriter(part, columns, write_page_checksum=True) as writer:
                rows = 0
                predicted = batch.predict_files(release, read_rows(shard))
                for some in iter(lambda: list(itertools.islice(predicted, _ROWS)), []):
                    writer.write_table(as_table(some, release).replace_schema_metadata(columns.metadata))
                    rows += len(some)
            after = shard.stat()
            if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
                raise OSError("it changed while it was read")
            if os.path.lexists(output / shard.name):  # somebody may have put it there meanwhile
                _metadata(output / shard.name, shard)
            _enlist(output / shard.name, part)
    except (pa.ArrowException, OSError, KeyError, TypeError, UsageError) as error:
        return shard, None, f"it cannot be read or its result not be written: {first_line(error)}"
    return shard, rows, None


@contextlib.contextmanager
def _atomic_result(path: Path) -> Iterator[Path]:
    # A name of its own: a machine that was given up as lost may still be writing when another one has its shard.
    holder = locks.holder(path.parent / _LOCK)
    token = holder.token if holder else secrets.token_hex(16)
    part = path.with_name(f"{path.name}.{token}.{secrets.token_hex(4)}.part")
    with files.atomic_write(path, partial=part):
        yield part


def read_rows(shard: Path) -> Iterator[tuple[str, Input]]:
    """The name and the image of each row of a shard, or why there is none; little of it is in memory at once."""
    with pq.ParquetFile(shard) as file:
        for some in file.iter_batches(batch_size=_ROWS, columns=list(NEEDED)):
            for name, image in zip(some["image_id"].to_pylist(), some["image"].to_pylist(), strict=True):
                yield _name(name), _source(image["bytes"] if isinstance(image, dict) else image)


def _name(cell: object) -> str:
    """An image's id as text; raises a `UsageError` where it has none, because its prediction would be nobody's."""
    try:
        text = cell.decode() if isinstance(cell, bytes) else "" if cell is None or cell != cell else str(cell)
    except UnicodeDecodeError as error:
        raise UsageError(f"an image_id, {error.object[:40]!r}, is no text in UTF-8: write it as text.") from error
    if not text.strip() or isinstance(cell, (dict, list)):
        raise UsageError("a row has no image_id, or more than one: give each image its own.")
    return text


def _source(content: bytes | None) -> Input:
    if content is None:
        return "the row holds no image."
    return content if len(content) <= images.MAX_BYTES else images.too_large(len(content))


def schema(release: Release) -> pa.Schema:
    """The columns of a result, in the order of its shard's rows.

    `state` is one of `prediction.STATES`. `problem` says why an image could not be read, `refused` why it cannot be
    assessed; `alert` is null then. Then `malignant`, the summed probability of malignant diagnoses and precursors,
    `attention`, that of what the release asks for attention to, and the probability of each diagnosis.
    """
    texts = [(name, pa.string()) for name in ("image_id", "state", "problem", ABSTAINED)]
    # A sum has more digits than its parts, and decides together with a threshold that has them too.
    numbers = [(name, pa.float64()) for name in ("malignant", "attention")]
    numbers += [(name, pa.float32()) for name in release.labels]
    about = {_RELEASE: identity(release), _SETTINGS: settings(), b"dermalert.name": str(release)}
    thresholds = {"alert": release.threshold, "attention": release.attention and release.attention.threshold}
    about |= {b"dermalert.notice": NOT_A_DEVICE, b"dermalert.thresholds": json.dumps(thresholds)}
    return pa.schema([*texts, ("alert", pa.bool_()), *numbers], metadata=about)


def as_table(rows: list[batch.Row], release: Release) -> pa.Table:
    """Predicted rows as `schema` has them."""
    cells = [
        fields(row.prediction) | {"image_id": row.file, "state": row.state, "problem": row.problem} for row in rows
    ]
    return pa.Table.from_pylist([row | (row["probabilities"] or {}) for row in cells], schema=schema(release))
