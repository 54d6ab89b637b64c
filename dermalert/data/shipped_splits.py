"""Which split a source ships an image in, `train` or `test`, by a column of its table or the name of its folder."""

import functools
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from dermalert.data import identifiers, table_columns

logger = logging.getLogger(__name__)

_TEST = frozenset({"test", "testing", "tests", "tst", "te", "holdout"})
_TRAIN = frozenset({"train", "training", "trn", "tr", "trainval"})
_VALIDATION = frozenset({"val", "valid", "validation", "validate", "va", "dev", "development", "eval", "evaluation"})
_YES_OR_NO = {"t": 1.0, "y": 1.0, "f": 0.0, "n": 0.0}


def choose_column(
    fields: Mapping[str, str],
    columns: table_columns.Columns,
    header: Collection[str],
    cells: Callable[[str], Iterable[Any]],
) -> dict[str, str]:
    """The columns by field, with the one for `split` that names a split in a cell: a `fold` of numbers does not.

    Of several the first that calls something the test; a column that a person has named stays.

    Args:
        fields: of `columns` for this header.
        columns: the fields' columns.
        header: all columns.
        cells: gives what a column holds.
    """
    if "split" not in fields or columns.has_named("split", fields["split"]):
        return dict(fields)
    candidates = [column for column in table_columns.COLUMNS["split"] if column in header]
    says = {column: {_split_in(column, cell) for cell in cells(column)} for column in candidates}
    chosen = next((column for split in ("test", "train") for column in says if split in says[column]), None)
    others = {field: column for field, column in fields.items() if field != "split"}
    return others | ({"split": chosen} if chosen else {})


def shipped_as(texts: Iterable[str]) -> str | None:
    """Return `test` or `train` where one of the names, of folders, files or splits, has a shipped split's word.

    A shipped validation split is `train`: whoever publishes figures on such a set has chosen models on it, and only
    its test images are meant to be seen once. A name with both words, `train_test_split`, is that of neither.
    """
    each = [_splits_in(name, of_cell=False) for name in texts]
    each = [splits for splits in each if len(splits) == 1]
    return next((split for split in ("test", "train") if {split} in each), None)


@functools.lru_cache(1 << 14)
def _splits_in(text: str, *, of_cell: bool = True) -> frozenset[str]:
    """The splits that a text has a word of, wherever it stands: a cell, a folder, a table or the Hub's split.

    A name may have a word by chance, as a country `TR`, a `BiopsyTest` or a patch test: it says less than a cell.
    """
    text = re.sub(r"(held|hold)[\W_]*out", r"holdout", text, flags=re.IGNORECASE)
    parts = "[A-Z]+(?![a-z])|[A-Z]?[a-z]+"  # "PublicTest", "testA"
    parts = parts if of_cell else f"(?<![A-Za-z])(?:{parts})"
    text = re.sub(r"patch[\W_]*test(s|ing)?\b", "", text, flags=re.IGNORECASE)
    # Two letters may be anything, unless they are all there is.
    words = {word.lower() for word in re.findall(parts, text) if len(word) > 2}
    words |= {identifiers.column(text)} if of_cell else set()
    words = {re.sub("(data|split|set|images?|inputs?)+$", "", word) for word in words}
    validation = words & _VALIDATION and not words & _TEST
    by_split = {"test": words & _TEST, "train": words & _TRAIN or validation}
    return frozenset(split for split, named in by_split.items() if named)


def split_of(row: Mapping[str, Any], columns: Mapping[str, str]) -> str | None:
    """Return `test` or `train` by the row's own column of that; see `shipped_as`."""
    column = columns.get("split", "")
    cell = row.get(column)
    split, word = _split_in(column, cell), identifiers.clean(cell)
    if split is None and word:
        _say_unknown_split(word)
    return split


def _split_in(column: str, cell: object) -> str | None:
    """The split that a cell names, or answers where the column asks: `is_test`, `train`."""
    return _split_of_text(identifiers.column(column), identifiers.clean(cell))


@functools.lru_cache(4096)  # a column has few different words
def _split_of_text(column: str, text: str) -> str | None:
    named = "test" if re.search("test|held|hold", column) else "train" if "train" in column else None
    number = _YES_OR_NO.get(text.casefold(), identifiers.number(text)) if named else None
    if number in (0, 1):
        return named if number else ("train", "test")[named == "train"]
    return min(_splits_in(text), default=None)  # "test" of both


@functools.cache
def _say_unknown_split(word: str) -> None:
    logger.warning("a split column says '%s', which is neither test nor train: its images count as of no split", word)


def merge(one: str | None, other: str | None) -> str | None:
    """The shipped split by two that tell: what either calls the test is never trained on."""
    return "test" if "test" in (one, other) else one or other
