"""The tables that `triage --csv` writes, read as what is watched of them: states, reasons of abstention and scores."""

import csv
import dataclasses
import datetime
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from dermalert_space.abstention import REASONS
from dermalert_space.contract import ABSTAINED, State
from dermalert_space.prediction import STATES

from dermalert.errors import RunError, UsageError, first_few

_NEEDED = ("file", "state", ABSTAINED, "problem", "alert threshold", "attention threshold", "release", "tag")
_OTHER_SUMS = ("malignant probability", "attention probability")
_DATE = "date"
_PATTERNS = {
    name: re.compile(re.sub(r"\\{[^}]*\\}", r"(?:-?[\\d.]+|nan|inf)", re.escape(sentence)))
    for name, sentence in REASONS.items()
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """The release that a table is of, and its operating points, as the table has them."""

    label: str
    """What it alerts to."""
    release: str
    tag: str
    alert_threshold: str
    attention_threshold: str

    def __str__(self) -> str:
        tag = f" at {self.tag}" if self.tag else ""
        points = f"alert from {self.alert_threshold or 'none'}, attention from {self.attention_threshold or 'none'}"
        return f"{self.release}{tag} ({self.label}: {points})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """What is watched of some files: a table's, or a week's."""

    name: str
    files: int
    states: Counter[str]
    reasons: Counter[str]
    """By the signal that made the release abstain, see `abstention.REASONS`; `other` for another reason."""
    scores: np.ndarray
    """Probabilities of what the release alerts to, of the images that it assessed."""

    @property
    def read(self) -> int:
        """Files that were images."""
        return self.files - self.states[State.UNREADABLE]


class _Row:
    """A line of a table; `where` names it in an error."""

    def __init__(self, cells: dict[str, str], where: str):
        self.cells, self.where = cells, where

    @property
    def served(self) -> Served:
        (label,) = _alerted(self.cells)
        names = ("release", "tag", "alert threshold", "attention threshold")
        release, tag, alert, attention = (self.cells[name] for name in names)
        return Served(label=label, release=release, tag=tag, alert_threshold=alert, attention_threshold=attention)

    @property
    def reason(self) -> str | None:
        text = self.cells[ABSTAINED]
        return next((name for name, those in _PATTERNS.items() if those.fullmatch(text)), "other") if text else None

    @property
    def score(self) -> float | None:
        """Of an image that was assessed."""
        if self.cells[ABSTAINED] or self.cells["state"] == State.UNREADABLE:
            return None
        text = self.cells[f"{self.served.label} probability"]
        try:
            score = float(text)
        except ValueError:
            score = np.nan
        if not 0 <= score <= 1:
            raise RunError(f"{self.where} has the probability '{text}': write the table anew with `triage --csv`.")
        return score

    @property
    def week(self) -> str:
        text = self.cells[_DATE].strip()
        try:
            year, week, _ = datetime.datetime.fromisoformat(text).isocalendar()
        except ValueError:
            raise UsageError(f"{self.where} has the date '{text}': write it as YYYY-MM-DD.") from None
        return f"{year}-W{week:02}"


def read(reference: Path, new: Iterable[Path], *, by_week: bool = False) -> tuple[Served, Batch, list[Batch]]:
    """The release that all tables are of, the reference, and the new tables, or their weeks, in order.

    `triage` writes no dates: for weeks, the new tables need a column `date` with the day of each image.

    Raises:
        UsageError: a file is no table of `triage`, has no files or no dates, or is of another release than the first.
        RunError: a probability is none.
    """
    new = list(new)
    tables = {path: _rows(path) for path in (reference, *new)}
    served = tables[reference][0].served
    for path, rows in tables.items():
        other = next((row.served for row in rows if row.served != served), None)
        if other:
            raise UsageError(
                f"'{path}' is of {other}, and '{reference}' begins with {served}: only one release, with the same "
                "thresholds, can be watched. Triage the reference images anew."
            )
    before = _batch(reference.name, tables[reference])
    if not by_week:
        is_unique = len({path.name for path in tables}) == len(tables)  # where they lie is nobody's business
        return served, before, [_batch(path.name if is_unique else str(path), tables[path]) for path in new]
    weeks = dict[str, list[_Row]]()
    for path in new:
        if _DATE not in tables[path][0].cells:
            raise UsageError(
                f"'{path}' has no column '{_DATE}', as triage writes no dates: add one with the day of each image "
                "(YYYY-MM-DD), or leave out --by week and name a table a week."
            )
        for row in tables[path]:
            weeks.setdefault(row.week, []).append(row)
    return served, before, [_batch(name, weeks[name]) for name in sorted(weeks)]


def _rows(path: Path) -> list[_Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, restval="")
            heads, lines = list(table.fieldnames or []), list(table)
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"'{path}' is no table of `triage --csv`: it is no CSV in UTF-8.") from error
    lacking = [name for name in _NEEDED if name not in heads]
    if not lacking and len(_alerted(heads)) != 1:
        lacking = ["the probability of what the release alerts to"]
    if lacking:
        raise UsageError(f"'{path}' is no table of `triage --csv`: it lacks {first_few(lacking)}.")
    if not lines:
        raise UsageError(f"'{path}' holds no files: there is nothing to compare.")
    rows = [_Row(cells, f"line {number} of '{path}'") for number, cells in enumerate(lines, 2)]
    for row in rows:
        if row.cells["state"] not in STATES:
            raise UsageError(f"{row.where} has the state '{row.cells['state']}': they are {', '.join(STATES)}.")
    return rows


def _alerted(heads: Iterable[str]) -> list[str]:
    """What the release of a table alerts to, by the columns' names."""
    names = [name for name in heads if name.endswith(" probability") and name not in _OTHER_SUMS]
    return [name.removesuffix(" probability") for name in names]


def _batch(name: str, rows: list[_Row]) -> Batch:
    scores = [score for row in rows if (score := row.score) is not None]
    reasons = Counter(reason for row in rows if (reason := row.reason))
    states = Counter(row.cells["state"] for row in rows)
    return Batch(name=name, files=len(rows), states=states, reasons=reasons, scores=np.array(scores, float))
