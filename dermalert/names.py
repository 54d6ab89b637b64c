"""One normal form for the names of files, images, columns, patients and numbers, whoever wrote them.

A table and a folder spell one thing in two ways: macOS unpacks accents as two characters, Windows writes back slashes,
a spreadsheet drops leading zeros and writes decimal commas, whoever augments a set adds to its file names. Every reader
compares names in the forms that this module gives. Where two different names have one normal form, `nearness` tells
which of them is meant.
"""

import re
import unicodedata
from collections.abc import Sequence

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp"})

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_PLAIN = re.compile(r"\w+", re.ASCII)
_ARCHIVE = re.compile(r"isic(?:[-_. ]{0,2}|%5f)(\d{7}(?:[-_ ]\d{7})*)(?!\d)", re.IGNORECASE)
_DASHES = re.compile("[\u2010-\u2015\u2212]")
_PAD = re.compile(r"(PAT_\d+)_(\d+)_\d+", re.IGNORECASE)
_OWN_IDS = re.compile(r"(HAM|IP|IL|BCN|MSK\d*)_\d{6,}\w*", re.IGNORECASE)
# Roboflow's `_jpg.rf.HASH`, and what those who augment by hand write. A number in brackets is no such mark: Windows
# numbers different pictures so.
_COPY = (
    re.compile(r"^(?P<name>.+)_(?:jpe?g|png|bmp|tiff?|webp)\.rf\.\w+$", re.IGNORECASE),
    re.compile(r"^(?P<name>.+?)[-_. ]+(?:aug|augmented)(?:[-_. ]?\d+)*$", re.IGNORECASE),
    re.compile(r"^(?:aug|augmented)[-_. ]+(?:\d+[-_. ]+)?(?P<name>.*[a-z].*)$", re.IGNORECASE),
)
_NOBODY = {"", "not available", "not known", "not recorded", "not given", "no id"}
_NOBODY |= set("? ?? ??? - -- . * nan nat na n/a none null nil <na> #n/a #na #nv #n/v unk".split())  # noqa: SIM905
_NOBODY |= {"not applicable", "none given", "keine angabe", "n/d", "(null)", "<null>", "[]", "\u2013", "\u2014", "tbd"}
_NOBODY |= set("unknown unkown undefined unspecified unbekannt inconnu missing anonymous anon empty".split())  # noqa: SIM905
_WHOSE = re.compile(r"\b(patients?|lesions?|id|person|subject)\b")
_WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}


def readable(name: str) -> str:
    """Return a name that can be written: bytes that are no UTF-8 are read as those of Windows in the west."""
    if name.isascii():
        return name
    try:
        name.encode()
    except UnicodeEncodeError:
        name = name.encode(errors="surrogateescape").decode("cp1252", errors="replace")
    return name


def clean(value: object) -> str:
    """Return a cell's text, composed (NFC), without what cannot be seen and with plain single blanks; None is empty."""
    text = "" if value is None else str(value)
    if not text.isascii():
        text = _INVISIBLE.sub("", unicodedata.normalize("NFC", readable(text)))
    return " ".join(text.split())


def parts(path: object) -> tuple[str, ...]:
    """Return the folders and the name of a path, however it is separated."""
    if isinstance(path, str) and _PLAIN.fullmatch(path):  # as nearly all are, in tables of many thousands
        return (path,)
    found = clean(path).replace("\\", "/").split("/")
    return tuple(part.strip() for part in found if part.strip() not in ("", "."))


def without_suffix(name: str) -> str:
    """Return a file's name without what says that it is an image, however often it is said."""
    while True:
        rest, dot, suffix = name.rpartition(".")
        if not rest or f"{dot}{suffix}".lower() not in IMAGE_SUFFIXES:
            return name
        name = rest


def key(name: str) -> str:
    """Return the normal form of a file's name without folders: two spellings of one name have the same.

    Case, suffixes and the form of characters do not count, nor do the leading zeros and `.0` of what is a number.
    """
    if _PLAIN.fullmatch(name) and name[0].isalpha():
        return name.casefold()
    plain = without_suffix(name).casefold()
    if not plain.isascii():
        plain = unicodedata.normalize("NFKC", plain)
    return whole(plain.strip())


def whole(text: str) -> str:
    """Return a whole number without leading zeros and decimals, and any other text as it is."""
    number = re.fullmatch(r"0*(\d+?)(?:[.,]0{1,2})?", text, re.ASCII)  # three zeros may be thousands
    return number[1] if number else text


def nearness(file: Sequence[str], row: Sequence[str]) -> tuple:
    """Return how near a row's spelling of a path is to a file's: more compares as greater.

    Args:
        file: folders and name, of `parts`.
        row: the same.
    """
    folders = 0
    for one, other in zip(reversed(file[:-1]), reversed(row[:-1]), strict=False):
        if one.casefold() != other.casefold():
            break
        folders += 1
    a, b = without_suffix(file[-1]), without_suffix(row[-1])
    return folders, file[-1] == row[-1], a == b, a.casefold() == b.casefold()


def column(name: object) -> str:
    """Return the normal form of a column's name: small letters and digits."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", clean(name)).casefold()))


def number(cell: object) -> float | None:
    """Return a cell's number, with a decimal point or a decimal comma; None where it holds none."""
    text = clean(cell)
    if text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    try:
        return float(text)
    except ValueError:  # a row that is cut short, an empty cell, or a word
        return _WORDS.get(text.lower())


def archive_number(name: str | None) -> str | None:
    """Return the number under which the ISIC archive holds an image, `ISIC_0025818`, wherever a name has it.

    A name with two different numbers, such as that of a montage, has none.
    """
    if not name:
        return None
    if not name.isascii():
        name = _DASHES.sub("-", unicodedata.normalize("NFKC", name))
    found = {number for numbers in _ARCHIVE.findall(name) for number in re.split("[-_ ]", numbers)}
    return f"ISIC_{found.pop()}" if len(found) == 1 else None


def pad_ufes(name: str) -> tuple[str, str] | None:
    """Return patient and lesion as PAD-UFES-20 writes them into a file's name: PAT_<patient>_<lesion>_<photo>."""
    found = _PAD.fullmatch(name)
    return (found[1].upper(), f"{found[1].upper()}_{found[2]}") if found else None


def original(name: str) -> str | None:
    """Return the normal form of the name of which an image is an augmented copy by its own name, or None."""
    found = next((mark[1] for mark in ((p, p.match(name)) for p in _COPY) if mark[1]), None)
    return key(found["name"]) if found else None


def person(value: object) -> str:
    """Return the normal form of a patient's or a lesion's id; an id of the archive's in its own spelling."""
    text = clean(value)
    if not is_archive_id(text):
        return whole(text)
    kind, _, digits = text.partition("_")
    return f"{kind.upper()}_{digits}"


def is_archive_id(text: str) -> bool:
    """Tell whether an id of a lesion or patient is of the ISIC archive's, which all sources share."""
    return _OWN_IDS.fullmatch(text) is not None


def is_nobody(text: str) -> bool:
    """Tell whether an id says that nobody knows: a word such as `unknown`, a mark such as `?`, a number below zero."""
    plain = clean(text).casefold()
    value = number(plain)
    if value is not None:
        return value < 0 or value != value
    return (
        plain in _NOBODY
        or plain.replace(".", "") in {"na", "ka", "nd"}
        or " ".join(_WHOSE.sub(" ", re.sub(r"[-_]", " ", plain)).split()) in _NOBODY
    )
