"""Which row of a table means which file, where both spell its name in their own way.

A row means the file whose path is nearest to what it says, of those that have its name's normal form; else the files
that have its archive number; else the one file whose name differs by nothing but leading zeros. An augmented copy takes
the row of its original. What may mean two different files, or a file that two different rows may mean, is matched
to nothing and reported.
"""

import dataclasses
import filecmp
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dermalert.data import identifiers
from dermalert.data.metadata_tables import Table
from dermalert.data.shipped_splits import shipped_as

_LISTED = re.compile("isic[0-9]{7}")

_ByName = dict[tuple[str, ...], list[Sequence[Any]] | None]  # None for what means no file, as most of a long list
_Offers = dict[str, list[tuple[tuple[Any, ...], tuple[str, ...]]]]


@dataclasses.dataclass
class Match:
    """Which rows of one table mean which files."""

    rows: dict[str, list[dict[str, Any]]]
    """By path, the rows that mean it: several where the table lists one image twice."""
    without_file: list[str]
    """What the rows say that mean no file."""
    ambiguous: list[tuple[str, str, str]]
    """What a row says, and two different files that it may mean."""
    contested: list[tuple[str, str]]
    """A file, and one of several rows that say it equally well."""


class Files:
    """Image files by the normal forms of their names."""

    def __init__(self, paths: Sequence[str], relative: Callable[[str], str]):
        self.parts = {path: identifiers.parts(relative(path)) for path in paths}
        self.by_key: dict[str, list[str]] = defaultdict(list)
        self.by_number: dict[str, list[str]] = defaultdict(list)
        self.by_zeros: dict[str, list[str]] = defaultdict(list)
        self.copies: dict[str, list[str]] = defaultdict(list)
        """By the normal form of the original's name, the augmented copies."""
        self.decorated = False  # whether a name has more than the archive's number
        self.folders = {part.casefold() for parts in self.parts.values() for part in parts[:-1]}
        for path, parts in self.parts.items():
            self.by_key[identifiers.key(parts[-1])].append(path)
            number = identifiers.archive_number(parts[-1])
            if number:
                self.decorated |= identifiers.key(parts[-1]) != identifiers.key(number)
                self.by_number[number].append(path)
                continue
            self.by_zeros[identifiers.without_zeros(parts[-1])].append(path)
            original = identifiers.original(identifiers.without_suffix(parts[-1]))
            if original:
                self.copies[original].append(path)

    def has(self, row: tuple[str, ...]) -> bool:
        """Tell whether a row's folders and name may be those of a file."""
        return identifiers.key(row[-1]) in self.by_key or identifiers.archive_number(row[-1]) in self.by_number

    def below(self, folder: tuple[str, ...]) -> bool:
        """Tell whether a folder holds images, at any depth."""
        return any(parts[: len(folder)] == folder for parts in self.parts.values())


def match(table: Table, files: Files, folder: tuple[str, ...]) -> Match:
    """Which rows mean which files.

    Args:
        table: of images.
        files: those that it may mean.
        folder: where the table lies, in the files' terms: one beside images means those below it, any other means all.
    """
    within = folder if folder and files.below(folder) else ()
    by_name: _ByName = {}
    offers_by_path: _Offers = defaultdict(list)
    copied: _Offers = defaultdict(list)
    of_archive = table.columns["image_id"] == "isic_id"
    bare = () if of_archive else _bare_numbers(table, files)
    for row, cells in table.entries:
        if row not in by_name:
            candidates = _candidates(row, files, folder, within)
            number = _bare_number(row)
            if not candidates and number and (of_archive or number in bare):
                candidates = _candidates((*row[:-1], number), files, folder, within)
            by_name[row] = [] if candidates else None
            for path, near in candidates:
                offers_by_path[path].append((near, row))
            for path, near in _candidates(row, files, folder, within, copies=True):
                copied[path].append((near, row))
                by_name[row] = []
        matches = by_name[row]
        if matches is not None:
            matches.append(cells)
    return _settle(table, by_name, offers_by_path, copied)


def _bare_number(row: tuple[str, ...]) -> str | None:
    """The archive's number that a row of digits only can mean."""
    digits = identifiers.whole(row[-1])
    return f"ISIC_{digits.zfill(7)}" if digits.isdecimal() and len(digits) < 8 else None


def _bare_numbers(table: Table, files: Files) -> set[str]:
    """The archive's numbers that a column of image ids has as bare numbers: most of them are of files here.

    Of a column of another name this tells it from a running count, as numbers of five digits or seven written ones do.
    """
    rows = [row for row, _ in table.entries] if files.by_number else []
    if not all(identifiers.whole(row[-1]).isdecimal() for row in rows):
        return set()
    long = {_bare_number(row) for row in rows if len(row[-1]) > 6 or len(identifiers.whole(row[-1])) > 4}
    present = files.by_number.keys() & long
    return present if 2 * len(present) >= len(set(rows)) else set()


def _candidates(
    row: tuple[str, ...], files: Files, folder: tuple[str, ...], within: tuple[str, ...], *, copies: bool = False
) -> list[tuple[str, tuple[Any, ...]]]:
    """The files that a row may mean, or the augmented copies of them, each with how near it is."""
    if copies and not files.copies:
        return []
    key = identifiers.key(row[-1])
    near = (files.copies if copies else files.by_key).get(key, ())
    if not near and not files.decorated and _LISTED.fullmatch(key):
        return []  # as most rows of an official list, which is longer than what lies here
    number = identifiers.archive_number(row[-1])
    if not near and not number and not copies:
        near = files.by_zeros.get(identifiers.without_zeros(row[-1]), ())
        near = near if len({identifiers.key(files.parts[path][-1]) for path in near}) == 1 else ()
    # ISIC 2019's `_downsampled` rows are left to files of that name: splits of releases that were made hang on it.
    far = files.by_number.get(number, ()) if number and not row[-1].endswith("_downsampled") else ()
    # A folder that is here, and holds no such file, is not another folder.
    here = len(row) > 1 and row[-2].casefold() in files.folders
    candidates = []
    for path in dict.fromkeys([*near, *far]):
        parts = files.parts[path]
        elsewhere = here and (len(parts) < 2 or parts[-2].casefold() != row[-2].casefold())
        if parts[: len(within)] == within and not (elsewhere and not number):
            exact = [part.casefold() for part in parts] == [part.casefold() for part in (*folder, *row)]
            candidates.append((path, (path in near, exact, *identifiers.nearness(parts, row))))
    if number or copies:
        return candidates
    best = max((near for _, near in candidates), default=None)
    return [(path, near) for path, near in candidates if near == best]


def _settle(table: Table, by_name: _ByName, offers_by_path: _Offers, copied: _Offers) -> Match:
    rows, ambiguous, contested = {}, [], []
    matches: dict[tuple[str, ...], list[str]] = defaultdict(list)
    read: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for path, offers in offers_by_path.items():
        best = max(near for near, _ in offers)
        first, *others = [row for near, row in offers if near == best]
        if others and identifiers.archive_number(first[-1]) is None:
            contested += [(path, "/".join(row)) for row in (first, *others)]
        else:
            matches[first].append(path)
            if first not in read:
                read[first] = [table.row(cells) for cells in by_name[first] or ()]
            rows[path] = read[first]
    for row, paths in matches.items():
        other = other_than_first(paths) if identifiers.archive_number(row[-1]) is None else None
        if other:
            ambiguous.append(("/".join(row), paths[0], other))
            for path in paths:
                del rows[path]
    of_copies = _of_copies({path: offers for path, offers in copied.items() if path not in rows})
    unclear = {identifiers.parts(name) for name, _, _ in ambiguous}
    for row, paths in of_copies.items():
        # By its folder, which is no part of a split: equal names in two classes are two images' copies.
        places = {next((p for p in reversed(Path(path).parts[:-1]) if not shipped_as([p])), "") for path in paths}
        # Copies in several folders are the original's where it is here; else nobody knows whose.
        if row in unclear or (len(places) > 1 and row not in matches):
            ambiguous.append(("/".join(row), paths[0], paths[-1]))
        else:
            matches[row] += paths
            rows |= dict.fromkeys(paths, read.setdefault(row, [table.row(cells) for cells in by_name[row] or ()]))
    undecided = {row for _, row in contested}
    unmet = ["/".join(row) for row in by_name if row not in matches]
    return Match(rows, [name for name in unmet if name not in undecided], ambiguous, contested)


def _of_copies(copied: _Offers) -> dict[tuple[str, ...], list[str]]:
    """The row of each copy's original, where only one is nearest, with the copies."""
    by_row = defaultdict(list)
    for path, offers in copied.items():
        best = max(near for near, _ in offers)
        nearest = [row for near, row in offers if near == best]
        if len(nearest) == 1:
            by_row[nearest[0]].append(path)
    return by_row


def other_than_first(paths: Sequence[str]) -> str | None:
    """The first of the files that differs from the first."""
    return next((path for path in paths[1:] if not filecmp.cmp(paths[0], path, shallow=False)), None)
