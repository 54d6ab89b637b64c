"""A lesion under two ids: spelt in two ways, or named by two of the archive's collections, each in its own way."""

from collections.abc import Iterator

import pyarrow as pa

from dermalert.data import identifiers


def other_archive_id(one: str | None, other: str | None) -> str | None:
    """The second id of a lesion where both are the archive's, such as `HAM_0000897` beside `IL_5004938`."""
    if not (one and other and identifiers.is_archive_id(one) and identifiers.is_archive_id(other)):
        return None
    return other if one.partition("_")[0] != other.partition("_")[0] else None


def agree(one: str | None, other: str | None) -> bool:
    """Whether two ids may be one: in another spelling, or a lesion's number with and without its patient."""
    a, b = identifiers.key(one or ""), identifiers.key(other or "")
    return not a or not b or a == b or f"_{one}".endswith(f"_{other}") or f"_{other}".endswith(f"_{one}")


def renamed(rows: pa.Table) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows of one lesion, of which one knows it by another of the archive's ids too."""
    renamed = [(i, lesion) for i, lesion in enumerate(rows["other_lesion_id"].to_pylist()) if lesion]
    first = {lesion: i for i, lesion in enumerate(rows["lesion_id"].to_pylist()) if lesion} if renamed else {}
    yield from ((i, first.setdefault(lesion, i)) for i, lesion in renamed)
