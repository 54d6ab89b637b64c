"""The examples of the page: a folder of images, and `attribution.csv` that says what each shows and whose it is."""

import csv
from pathlib import Path
from typing import NamedTuple

from dermalert_space.images import UnreadableImage, open_image, read_image

FOLDER = Path(__file__).parents[2] / "examples"
TABLE = "attribution.csv"
COLUMNS = ("file", "caption", "attribution")
"""What the table must have; it may have `truth`, `confirmation` and `url` too."""
_MORE = ("truth", "confirmation", "url")
KINDS = (".jpg", ".jpeg", ".png")
MOST, LARGEST = 8, 5_000_000


class BadExamples(ValueError):
    """A folder cannot be shown; the text says which file of it, and what to do."""


class Example(NamedTuple):
    """One image that a visitor can try."""

    path: Path
    caption: str
    """What it shows, in a few words."""
    attribution: str
    """Whose it is and under which licence; or that it was generated."""
    truth: str = ""
    """The diagnosis; "" where the table does not say."""
    confirmation: str = ""
    """How it was confirmed."""
    url: str = ""
    """Where it was published, with its licence; "" where the table does not say."""


def read(folder: Path) -> list[Example]:
    """The examples in a folder, in the order of its table.

    Raises:
        BadExamples: no table, an image without a row or a row without an image, no words, too many or too large, not
            readable, or with metadata that may tell of a patient.
    """
    try:
        with (folder / TABLE).open(newline="", encoding="utf-8-sig") as file:
            columns = (*COLUMNS, *_MORE)
            rows = [{name: (row.get(name) or "").strip() for name in columns} for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadExamples(
            f"'{folder}' has no {TABLE} that can be read: write one with the columns {', '.join(COLUMNS)}."
        ) from error
    listed = [row["file"] for row in rows]
    there = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in KINDS)
    if sorted(listed) != there:
        odd = ", ".join(sorted(set(listed) ^ set(there))[:3]) or "a file is named twice"
        raise BadExamples(f"'{folder}': {TABLE} must name each image ({', '.join(KINDS)}) once: {odd}.")
    if len(rows) > MOST:
        raise BadExamples(f"'{folder}' has {len(rows)} images: show {MOST} at most.")
    for row in rows:
        _check(folder / row["file"], row)
    return [Example(folder / row.pop("file"), **row) for row in rows]


def _check(path: Path, row: dict[str, str]) -> None:
    if not (row["caption"] and row["attribution"]):
        raise BadExamples(f"{TABLE} must say what '{path.name}' shows (caption) and whose it is (attribution).")
    if path.stat().st_size > LARGEST:
        raise BadExamples(f"'{path}' has more than {LARGEST // 1_000_000} MB: shrink it.")
    try:
        read_image(path)
    except UnreadableImage as error:
        raise BadExamples(str(error)) from error
    if open_image(path).getexif():
        raise BadExamples(f"'{path}' has EXIF metadata, which may tell of a patient: save it without.")
