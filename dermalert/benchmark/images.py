"""The images of a benchmark on this machine: by their numbers, confirmed by bytes or by what they show."""

import dataclasses
import hashlib
import itertools
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features
from dermalert_space.contract import Json

from dermalert.benchmark.manifest import TEST, TRAIN, Benchmark, hashes
from dermalert.data import folder_files, schema
from dermalert.data.identifiers import archive_number
from dermalert.data.near_duplicates import HASH_BYTES
from dermalert.errors import UsageError
from dermalert.imaging.thumbnail import fingerprints

RADIUS = 48
"""Bits of 256 by which a copy's hash may differ: tests/benchmark measures copies in another size and crop."""

_A_COMMAND = 100  # images that one search of the archive names: an address has a limit

INSTALL = "pip install isic-cli"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalImages:
    """The images of a benchmark that are in some folders."""

    dataset: Dataset
    """In the schema of `schema.FEATURES`, under the manifest's labels, clinics and groups."""
    split: np.ndarray
    """(n,) of each image."""
    missing: list[str]
    """Numbers of test images that no file has."""
    others: list[str]
    """Numbers of images whose file shows another picture than the manifest's, or is damaged."""
    not_drawn: dict[str, int]
    """Test images that were not asked for, by clinic."""
    of: dict[str, int]
    """Test images of the manifest, by clinic."""


def match(benchmark: Benchmark, folders: Iterable[Path], *, per_clinic: int | None = None) -> LocalImages:
    """Match the files of folders with a manifest.

    A file counts for a number that its name has, or whose bytes it holds; and only if it has these bytes, or looks like
    the manifest's picture by its perceptual hash: the archive encodes its images anew, and others scale them.

    Args:
        benchmark: see `manifest.read`.
        folders: searched with those below them.
        per_clinic: at most so many images of each clinic and split, the same for everybody; by default all.

    Raises:
        UsageError: a folder is not there.
    """
    rows = benchmark.rows.to_pylist()
    wanted, not_drawn = _rows_to_match(rows, benchmark.clinics, per_clinic)
    files, others = _confirm(wanted, _candidates(wanted, folders))
    rows = [row for row in wanted if row["image_id"] in files]
    lacking = [row for row in wanted if row["split"] == TEST and row["image_id"] not in files]
    tests = [row["clinic"] for row in benchmark.rows.select(["clinic", "split"]).to_pylist() if row["split"] == TEST]
    return LocalImages(
        dataset=_dataset(rows, files),
        split=np.array([row["split"] for row in rows], str),
        missing=[row["image_id"] for row in lacking if row["image_id"] not in others],
        others=sorted(others),
        not_drawn=not_drawn,
        of={clinic: tests.count(clinic) for clinic in benchmark.clinics},
    )


File = tuple[str, str]
"""A file's path and the SHA-256 of its bytes."""


def _rows_to_match(rows: list[Json], clinics: list[str], per_clinic: int | None) -> tuple[list[Json], dict[str, int]]:
    """The rows that are asked for, and how many test images of each clinic are not."""
    of: dict[tuple[str, str], list[Json]] = defaultdict(list)
    for row in rows:
        if row["clinic"] in clinics and row["split"] in (TEST, TRAIN):
            of[row["clinic"], row["split"]].append(row)
    drawn = {key: sorted(part, key=_lot)[:per_clinic] for key, part in of.items()}
    not_drawn = {clinic: len(of[clinic, TEST]) - len(drawn[clinic, TEST]) for clinic in clinics}
    return [row for part in drawn.values() for row in part], not_drawn


def _lot(row: Json) -> str:
    """What decides on who is drawn: nothing but the number."""
    return hashlib.sha256(row["image_id"].encode()).hexdigest()


def _candidates(rows: Sequence[Json], folders: Iterable[Path]) -> dict[str, list[File]]:
    """The files that may be an image, by its number."""
    by_number, by_content = {row["image_id"] for row in rows}, {row["content"]: row["image_id"] for row in rows}
    files: dict[str, list[File]] = defaultdict(list)
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"--images '{folder}' is no folder.")
        for path in folder_files.sort_files(folder)[0]:
            number = archive_number(folder_files.stem(path))
            if number in by_number or number is None:
                content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
                named = number if number in by_number else by_content.get(content)
                if named:
                    files[named].append((os.path.realpath(path), content))
    return files


def _confirm(rows: Sequence[Json], candidates: dict[str, list[File]]) -> tuple[dict[str, File], set[str]]:
    """The file of each image, and the numbers of which every file is another picture or damaged."""
    of = {row["image_id"]: row for row in rows}
    pairs = [(number, file) for number, files in candidates.items() for file in files]
    if not pairs:
        return {}, set()
    pictures = Dataset.from_dict(
        {"image": [{"path": path, "bytes": None} for _, (path, _) in pairs], "content": [c for _, (_, c) in pairs]},
        features=Features({name: schema.FEATURES[name] for name in ("image", "content")}),
    )
    damaged = fingerprints(pictures).unreadable
    files: dict[str, tuple[int, File]] = {}
    for (number, file), codes, unreadable in zip(pairs, hashes(pictures), damaged, strict=True):
        distance = 0 if file[1] == of[number]["content"] else 1 + distance_of(codes, of[number]["pictures"])
        if not unreadable and distance <= 1 + RADIUS:
            files[number] = min(files.get(number, (distance, file)), (distance, file))
    return {number: file for number, (_, file) in files.items()}, candidates.keys() - files.keys()


def distance_of(codes: Sequence[str], others: Sequence[str]) -> int:
    """The fewest bits in which a perceptual hash of an image differs from one of another; all where there is none."""
    pairs = itertools.product(codes, others)
    return min(((int(a, 16) ^ int(b, 16)).bit_count() for a, b in pairs), default=8 * HASH_BYTES)


def _dataset(rows: Sequence[Json], files: dict[str, File]) -> Dataset:
    columns: dict[str, list[Any]] = {name: [None] * len(rows) for name in schema.FEATURES}
    columns |= {
        "image": [{"path": files[row["image_id"]][0], "bytes": None} for row in rows],
        "content": [files[row["image_id"]][1] for row in rows],
        "source": [row["clinic"] for row in rows],
        **{name: [row[name] for row in rows] for name in ("image_id", "label", "group", "confirmation")},
    }
    return Dataset.from_dict(columns, features=schema.FEATURES)


def fetch_script(numbers: Sequence[str]) -> str:
    """The commands that fetch images of the archive into a folder, as a script for a shell."""
    parts = (numbers[start : start + _A_COMMAND] for start in range(0, len(numbers), _A_COMMAND))
    searches = (" OR ".join(f"isic_id:{number}" for number in part) for part in parts)
    head = f"#!/bin/sh -e\n# Fetches {len(numbers)} images into the folder that it is given; it needs: {INSTALL}\n"
    return head + "".join(f"isic image download --search '{search}' \"${{1:?name a folder}}\"\n" for search in searches)
