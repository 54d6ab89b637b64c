"""Which rows belong together: photos of one lesion, of one patient, and what a source calls copies of each other."""

import logging
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pyarrow as pa

from dermalert.data import schema, splits
from dermalert.data.identifiers import key, original

logger = logging.getLogger(__name__)


PART = 2000
"""Rows made at once."""


def with_groups(rows: pa.Table) -> pa.Table:
    """The rows, each with its group."""
    strangers = sum(row["source"] == "HAM10000" and not row["lesion_id"] for row in each(rows, "source", "lesion_id"))
    if strangers:
        logger.warning(
            "%d images of HAM10000 have no lesion id, so that photos of one lesion may stand in two splits: put "
            "HAM10000_metadata.csv beside them",
            strangers,
        )
    belongings = map(schema.belongings, each(rows, "lesion_id", "patient_id", "image_id", "content"))
    links = chain(_listed_duplicates(rows), _renamed_lesions(rows))
    return rows.append_column("group", pa.array(splits.groups(belongings, links), pa.string()))


def _listed_duplicates(rows: pa.Table) -> Iterator[tuple[int, int]]:
    """Yield the numbers of rows that their source calls copies of each other, or whose names call them so."""
    names = [(row["named"], row["image_id"]) for row in each(rows, "named", "image_id")]
    listed = rows["duplicates"].to_pylist()
    pairs = [(names[i], (names[i][0], other)) for i, others in enumerate(listed) for other in others]
    meant = {name for pair in pairs for name in pair}
    places = {name: i for i, name in enumerate(names) if name in meant}
    yield from ((places[name], places[other]) for name, other in pairs if other in places)
    yield from _augmented_copies(names, rows["label"].to_pylist())


def _renamed_lesions(rows: pa.Table) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows of one lesion, of which one knows it by another of the archive's ids too."""
    renamed = [(i, lesion) for i, lesion in enumerate(rows["other_lesion_id"].to_pylist()) if lesion]
    first = {lesion: i for i, lesion in enumerate(rows["lesion_id"].to_pylist()) if lesion} if renamed else {}
    yield from ((i, first.setdefault(lesion, i)) for i, lesion in renamed)


def _augmented_copies(names: list[tuple[str, str]], labels: list[int]) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows of one source of which one is by its name an augmented copy of the other, under one label."""
    copies = {i: (named, of) for i, (named, image_id) in enumerate(names) if (of := original(image_id))}
    meant = set(copies.values())
    first: dict[tuple[tuple[str, str], int], int] = {}
    for i, (named, image_id) in enumerate(names) if copies else ():
        name = copies.get(i) or (named, key(image_id))
        if name in meant:
            before = first.setdefault((name, labels[i]), i)
            if before != i:
                yield before, i


def each(rows: pa.Table, *columns: str) -> Iterator[dict[str, Any]]:
    """Yield the rows, some columns of them."""
    for part in rows.select(columns).to_batches(PART):
        yield from part.to_pylist()
