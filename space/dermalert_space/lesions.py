"""Photos of one lesion: which files show it, the state of the lesion, and the mean of the log-odds of its photos."""

import csv
import dataclasses
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from dermalert_space.batch import Row
from dermalert_space.contract import State
from dermalert_space.inputs import display_name

UP_TO_LAST = "(.+)[_-][^/]*$"
"""The pattern of names that are alike up to their last _ or -."""

_MAX_TABLE = 4_000_000
_FILE, _LESION = "file", "lesion"
_TINY = 1e-12  # keeps the log-odds of a probability that float32 rounded to 0 or 1 finite

_URGENCY = (State.MELANOMA_ALERT, State.MALIGNANT_LIKELY, State.NO_ALERT, State.CANNOT_ASSESS, State.UNREADABLE)


class NoLesions(ValueError):
    """Files cannot be grouped by lesion; the text says why, in a sentence."""


def most_urgent(states: Iterable[str]) -> str:
    """The state of a lesion by those of its photos, of which those that cannot be assessed say nothing.

    What is promised of the alert counts a melanoma as found if each of its photos raises it. So the promise holds for a
    lesion that any photo raises it of. It would hold for the mean of the log-odds too, which no lowest photo exceeds;
    but then a further photo could take an alert back, and so could a pattern that takes two lesions for one.
    """
    return min(states, key=_URGENCY.index)


def states(rows: Iterable[Row]) -> dict[str, str]:
    """The state of each lesion, see `most_urgent`."""
    of_photos: dict[str, list[str]] = {}
    for row in rows:
        if row.lesion is not None:
            of_photos.setdefault(row.lesion, []).append(row.state)
    return {lesion: most_urgent(states) for lesion, states in of_photos.items()}


def mean_probability(probabilities: Sequence[float]) -> float:
    """The probability whose log-odds are the mean of those given."""
    inside = [min(max(p, _TINY), 1 - _TINY) for p in probabilities]
    return 1 / (1 + math.exp(-sum(math.log(p) - math.log1p(-p) for p in inside) / len(inside)))


def grouped(rows: Iterable[Row], lesions: Mapping[str, str]) -> Iterator[Row]:
    """Rows with the lesion of each file, by its name; None of what `lesions` does not list."""
    for row in rows:
        yield dataclasses.replace(row, lesion=lesions.get(row.file))


def by_pattern(pattern: str, names: Sequence[str]) -> dict[str, str]:
    """The lesion of each file whose name has the pattern: the text of its group.

    Raises:
        NoLesions: it is no regular expression with one group, or no name has it.
    """
    try:
        expression = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise NoLesions(f"'{pattern}' is no regular expression: {error}.") from error
    if expression.groups != 1:
        raise NoLesions(f"'{pattern}' has {expression.groups} groups: it needs one, the lesion, as has '{UP_TO_LAST}'.")
    matches = ((name, expression.search(name)) for name in names)
    lesions = {name: match[1] for name, match in matches if match and match[1]}
    if not lesions:
        raise NoLesions(f"no file has a name with the pattern '{pattern}'; the first is '{names[0]}'.")
    return lesions


def by_table(path: Path, names: Sequence[str]) -> dict[str, str]:
    """The lesion of each file that a CSV table lists, by its name or by the end of its path.

    Raises:
        NoLesions: it is no such table, it lists none of the files, or what it lists may be several of them.
    """
    table, uses = _read(path), Counter[str]()
    lesions = {}
    for name in names:
        parts = name.split("/")
        listed = next((end for i in range(len(parts)) if (end := "/".join(parts[i:])) in table), None)
        if listed:
            lesions[name] = table[listed]
            uses[listed] += 1
    if not lesions:
        raise NoLesions(f"'{path.name}' lists none of the files; the first is '{names[0]}'.")
    several = next((listed for listed, n in uses.items() if n > 1), None)
    if several:
        raise NoLesions(f"'{several}' in '{path.name}' may be any of {uses[several]} files: write more of its path.")
    return lesions


def _read(path: Path) -> dict[str, str]:
    """The lesion of each file that a table lists; a file without one is left out."""
    lesions: dict[str, str] = {}
    for row in _rows(path):
        file = display_name(Path((row[_FILE] or "").strip()).as_posix())
        lesion = display_name((row[_LESION] or "").strip())
        if lesion and lesions.setdefault(file, lesion) != lesion:
            raise NoLesions(f"'{path.name}' lists '{file}' with two lesions, '{lesions[file]}' and '{lesion}'.")
    return lesions


def _rows(path: Path) -> list[Mapping[str, str | None]]:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_TABLE + 1)
        if len(content) > _MAX_TABLE:
            raise NoLesions(f"'{path.name}' is larger than {_MAX_TABLE // 1_000_000} MB: list the batch's files alone.")
        text = content.decode("utf-8-sig")
        head = text.partition("\n")[0]
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
        columns, rows = list(reader.fieldnames or []), list(reader)
    except OSError as error:
        raise NoLesions(f"'{path.name}' cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise NoLesions(f"'{path.name}' is no table: it is no CSV in UTF-8.") from error
    if lacking := [name for name in (_FILE, _LESION) if name not in columns]:
        raise NoLesions(f"'{path.name}' lacks the column '{lacking[0]}': it needs '{_FILE}' and '{_LESION}'.")
    return list(rows)
