"""Groups of rows that belong together, each with a key.

They are photos of one lesion or patient, and what a source calls copies of each other.
"""

import logging
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse
from scipy.sparse import csgraph

from dermalert.data import lesion_aliases, schema
from dermalert.data.identifiers import key, original

logger = logging.getLogger(__name__)


PART = 2000
"""Rows made at once."""


def group_keys(names: Iterable[Sequence[str | None]], links: Iterable[tuple[int, int]] = ()) -> list[str]:
    """The key of each row's group: rows that share a name, directly or through other rows, are one group.

    The key is the most telling name in the group, and the first in order where there are several. So it depends on
    nothing outside the group, and neither order nor more rows change it, unless they join the group.

    Args:
        names: what each row belongs to, the most telling first, None where that is not known: lesion, patient, image,
            bytes. A row must have at least one.
        links: pairs of rows that belong together for a reason without a name, such as being nearly the same picture.
    """
    first: dict[int, dict[str, int]] = defaultdict(dict)  # by rank, the first row that has a name
    keys: list[tuple[int, str]] = []  # of each row, its most telling name
    edges = array("q", chain.from_iterable(links))
    for i, row in enumerate(names):
        ranked = [(rank, name) for rank, name in enumerate(row) if name is not None]
        keys.append(ranked[0])
        for rank, name in ranked:
            before = first[rank].setdefault(name, i)
            if before != i:
                edges.extend((before, i))
    numbers = components(np.array(edges, int).reshape(-1, 2), len(keys)).tolist()
    key_of: dict[int, tuple[int, str]] = {}
    for number, own in zip(numbers, keys, strict=True):
        key_of[number] = min(own, key_of.get(number, own))
    return [key_of[number][1] for number in numbers]


def components(edges: np.ndarray, n: int) -> np.ndarray:
    """The number of the connected component (n,) of each of n nodes, by the edges (m, 2) between them."""
    first, second = edges.T
    graph = sparse.coo_array((np.ones(len(edges), bool), (first, second)), shape=(n, n))
    return csgraph.connected_components(graph, directed=False)[1]


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
    links = chain(_listed_duplicates(rows), lesion_aliases.renamed(rows))
    return rows.append_column("group", pa.array(group_keys(belongings, links), pa.string()))


def _listed_duplicates(rows: pa.Table) -> Iterator[tuple[int, int]]:
    """Yield the numbers of rows that their source calls copies of each other, or whose names call them so."""
    names = [(row["named"], row["image_id"]) for row in each(rows, "named", "image_id")]
    listed = rows["duplicates"].to_pylist()
    pairs = [(names[i], (names[i][0], other)) for i, others in enumerate(listed) for other in others]
    meant = {name for pair in pairs for name in pair}
    places = {name: i for i, name in enumerate(names) if name in meant}
    yield from ((places[name], places[other]) for name, other in pairs if other in places)
    yield from _augmented_copies(names, rows["label"].to_pylist())


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
