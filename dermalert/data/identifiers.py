"""One normal form for the names of files, images, columns, patients and numbers, whoever wrote them.

A table and a folder spell one thing in two ways: macOS unpacks accents as two characters, Windows writes back slashes,
a spreadsheet drops leading zeros and writes decimal commas, whoever augments a set adds to its file names. Every reader
compares names in the forms that this module gives. Where two different names have one normal form, `nearness` tells
which of them is meant.
"""

import functools
import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".heic", ".heif", ".dcm", ".dicom"}
)

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_PLAIN = re.compile(r"\w+", re.ASCII)
# Seven digits; or five or six, as a spreadsheet leaves of them, or with a zero too few or too many before five. Fewer
# may be a year or somebody's own count.
_ARCHIVE = re.compile(
    r"isic(?:[-_. :#]{0,2}|%5f|%20)(\d{7}(?:[-_ ]\d{7})*|000[1-9]\d{4})(?!\d)"
    r"|isic(?:[-_. :#]{1,2}|%5f|%20)((?:0?[1-9]\d{4}|[1-9]\d{5})(?:[-_ ](?:0?[1-9]\d{4}|[1-9]\d{5}))*)(?!\d)"
    r"|(?<![^\W_])isic([1-9]\d{4})(?!\d)",
    re.IGNORECASE,
)
_DASHES = re.compile("[\u2010-\u2015\u2212]")
# Three numbers, anywhere in a name; with a fourth it is somebody's own name, such as a date and a count.
_PAD = re.compile(
    r"(?<![^\W_])pat[-_. ]0*(\d+)[-_. ]0*(\d+)[-_. ](\d+)(?!\d|[-_. ]\d+(?![^\W_]))", re.IGNORECASE | re.ASCII
)
_OWN_IDS = re.compile(r"(HAM|IP|IL|BCN|MSK\d*)[-_ ](\d{6,}\w*)", re.IGNORECASE)
# As nearly all names are: letters, or a word and what follows.
_SHORT = re.compile(r"([a-z]+)_([a-z0-9]+)|[a-z][a-z0-9]*", re.IGNORECASE | re.ASCII)
_BETWEEN_DIGITS = re.compile(r"(?<=\d)[-_\s]+(?=\d)")
_BETWEEN = re.compile(r"(?<=[^\W_])[-_\s]+(?=[^\W\d_])|(?<=[^\W\d_])[-_\s]+(?=\d)")
# Roboflow's `_jpg.rf.HASH`, Augmentor's `_original_`, and what those who augment by hand write. A number in brackets is
# no such mark: Windows numbers different pictures so.
_COPY = (
    re.compile(r"^(?P<name>.+)_(?:jpe?g|png|bmp|tiff?|webp)\.rf\.\w+$", re.IGNORECASE),
    re.compile(r"^(?P<name>.+?)[-_. ]+(?:aug|augmented)(?:[-_. ]?\d+)*$", re.IGNORECASE),
    re.compile(r"^.*_original_(?P<name>.+)\.(?:jpe?g|png|bmp|tiff?)_[0-9a-f-]{8,}$", re.IGNORECASE),
    re.compile(r"^(?:aug|augmented)[-_. ]+(?:\d+[-_. ]+)?(?P<name>.*[a-z].*)$", re.IGNORECASE),
)
# Words for nobody, letters and digits only.
_NOBODY = set(
    """
    na nan nat nv nd ka none null nil void unk unknown unkown undefined unspecified unidentified undetermined
    missing empty blank nobody noone no yes true false inf tbd tba tobedetermined pending todo dummy
    placeholder anonymous anon anonymised anonymized deidentified redacted withheld hidden masked notavailable
    unavailable notknown notrecorded notgiven notprovided notspecified notstated notapplicable nonegiven
    notfound nodata other others various misc unbekannt keineangabe inconnu inconnue desconocido desconhecido
    sconosciuto onbekend leer vide vazio vacio brak
    """.split()  # noqa: SIM905
) | {""}
# Words that say in some language that nobody knows; what follows them does not count, if there is no number in it.
_UNKNOWN_WORDS = """
    unknown unkown unknwon unknow unk none null missing undefined unspecified unidentified undetermined unassigned
    unavailable undisclosed anonymous anonym anonymised anonymized anonymisiert anonyme anonimo anonimowy anonim
    anon deidentified redacted withheld confidential confidentiel confidencial vertraulich placeholder tbd tba
    declined refused noid nobody unbekannt unbekannte unbekannter unbekanntes inconnu inconnue desconocido desconocida
    desconhecido desconhecida sconosciuto sconosciuta onbekend onbekende ukjent ukendt okand okant tuntematon nieznany
    nieznana nieznane neznamy neznama nezname ismeretlen necunoscut nepoznat nepoznato nepoznata bilinmiyor bilinmeyen
    belirsiz
    неизвестно неизвестный неизвестен неизвестна невідомо невідомий неизвестное аноним
    анонимно άγνωστο άγνωστος άγνωστη
    مجهول अज्ञात ไม่ทราบ 不明 未知 不详 不詳 未定 匿名 なし 無し 未記入 未入力 未填 无名氏 無名氏 未登记 未登記
    保密 미상 없음 모름 알수없음
"""
_NEGATION_WORDS = """
    no not non none without yet nicht kein keine keinen ohne sin sans senza sem nao não pas geen niet zonder ikke inte
    utan uden uten ej ei nie bez ne nema не нет без
"""
_NEGATED_WORDS = """
    any id ids identifier name number code data info information record records recorded available assigned given
    provided known stated specified collected confirmed determined applicable set found entered yet list in reported
    documented disclosed identified patient patients lesion case entry value datos dato identificar identificado
    identificada especificado especificada especificar asignado asignada asignar disponible conocido conocida registro
    registrado informacion información nombre consta paciente données donnee donnée renseigné renseignée communiqué
    connu connue spécifié spécifiée disponibles identifié identifiée nom angabe angaben bekannt daten verfügbar
    vorhanden zugeordnet zugewiesen angegeben erfasst kennung informado informada dados identificação nota noto
    dati disponibile specificato specificata bekend beschikbaar gegevens opgegeven naam oppgitt kjent angivet kendt
    angitt angiven känd
    uppgift uppgifter указан указано указана известен известно известна данных данные имени номера znany znane danych
    podano podana udano známo uvedeno
"""
_WHOSE = re.compile(r"\b(patients?|pat|lesions?|ids?|person|subject|case|number|nr)\b")
# A number below zero after a word; what a spreadsheet writes for an error, and a database for nothing; `P?`; no UUID.
_NO_ID = re.compile(
    r"[a-z]*[\s_:#-]+-\d+(?:[.,]0+)?|#[\w/]+[!?]|\\n|x{2,}|[a-z\s_-]*\?+|\{?([0f])\1{7}-?(?:\1{4}-?){3}\1{12}\}?",
    re.ASCII,
)
_WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}


def readable(name: str) -> str:
    """A name that can be written: bytes that are no UTF-8 are read as those of Windows in the west."""
    if name.isascii():
        return name
    try:
        name.encode()
    except UnicodeEncodeError:
        name = name.encode(errors="surrogateescape").decode("cp1252", errors="replace")
    return name


def clean(value: object) -> str:
    """A cell's text, composed (NFC), without what cannot be seen and with plain single blanks; None is empty."""
    text = "" if value is None else str(value)
    if _PLAIN.fullmatch(text):  # as nearly all are, in tables of many thousands
        return text
    if not text.isascii():
        text = _INVISIBLE.sub("", unicodedata.normalize("NFC", readable(text)))
    return " ".join(text.split())


def parts(path: object) -> tuple[str, ...]:
    """The folders and the name of a path, however it is separated."""
    if isinstance(path, str) and _PLAIN.fullmatch(path):
        return (path,)
    names = clean(path).replace("\\", "/").split("/")
    return tuple(part.strip() for part in names if part.strip() not in ("", "."))


def without_suffix(name: str) -> str:
    """A file's name without what says that it is an image, however often it is said."""
    while True:
        rest, dot, suffix = name.rpartition(".")
        if not rest or f"{dot}{suffix}".lower() not in IMAGE_SUFFIXES:
            return name
        name = rest


def key(name: str) -> str:
    """The normal form of a file's name without folders: two spellings of one name have the same.

    Case, suffixes and the form of characters do not count, nor do the leading zeros and `.0` of what is a number, nor
    how words are parted: `scan-1`, `scan 1` and `scan_1` are one, but `1-2` is not 12.
    """
    short = _SHORT.fullmatch(name)
    if short:
        return (short[1] + short[2] if short[1] else name).casefold()
    plain = without_suffix(name).casefold()
    if not plain.isascii():
        plain = _DASHES.sub("-", unicodedata.normalize("NFKC", plain))
    return whole(_BETWEEN.sub("", _BETWEEN_DIGITS.sub("_", plain.strip())))


def without_zeros(name: str) -> str:
    """The normal form without any number's leading zeros and last `.0`, which a spreadsheet takes or adds."""
    return re.sub(r"(?<![\d.,])0+(?=\d)", "", re.sub(r"(?<=\d)[.,]0$", "", key(name)))


def whole(text: str) -> str:
    """A whole number without leading zeros and decimals, and any other text as it is."""
    number = re.fullmatch(r"0*(\d+?)(?:[.,]0{1,2})?", text, re.ASCII)  # three zeros may be thousands
    return number[1] if number else text


def nearness(file: Sequence[str], row: Sequence[str]) -> tuple[Any, ...]:
    """How near a row's spelling of a path is to a file's: more compares as greater.

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
    """The normal form of a column's name: small letters and digits."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", clean(name)).casefold()))


def number(cell: object) -> float | None:
    """A cell's number, with a decimal point or a decimal comma; None where it holds none."""
    return _number(clean(cell))


@functools.lru_cache(1 << 14)  # a table has many rows, and few different numbers
def _number(text: str) -> float | None:
    if text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    try:
        return float(text)
    except ValueError:  # a row that is cut short, an empty cell, or a word
        return _WORDS.get(text.lower())


@functools.lru_cache(1 << 15)  # each image is asked for several times
def archive_number(name: str | None) -> str | None:
    """The number under which the ISIC archive holds an image, `ISIC_0025818`, wherever a name has it.

    A name with two different numbers, such as that of a montage, has none.
    """
    if not name:
        return None
    if not name.isascii():
        name = _DASHES.sub("-", unicodedata.normalize("NFKC", name))
    numbers = {n[-7:].zfill(7) for several in _ARCHIVE.findall(name) for n in re.split("[-_ ]", "".join(several))}
    return f"ISIC_{numbers.pop()}" if len(numbers) == 1 else None


@functools.lru_cache(1 << 15)  # as the archive's number
def pad_ufes(name: str) -> tuple[str, str] | None:
    """Return patient and lesion as PAD-UFES-20 writes them into a file's name: PAT_<patient>_<lesion>_<photo>.

    They are found in longer names, as the archive's number is; a name with two different lesions has none.
    """
    if not name.isascii():
        name = _DASHES.sub("-", unicodedata.normalize("NFKC", name))
    ids = {(patient, lesion) for patient, lesion, _ in _PAD.findall(name)}
    if len(ids) != 1:
        return None
    ((patient, lesion),) = ids
    return f"PAT_{patient}", f"PAT_{patient}_{lesion}"


def original(name: str) -> str | None:
    """The normal form of the name of which an image is an augmented copy by its own name, or None."""
    first = name
    while match := next(filter(None, (mark.match(name) for mark in _COPY)), None):
        name = match["name"]
    return None if name == first else key(name)


def person(value: object) -> str:
    """The normal form of a patient's or a lesion's id; an id of the archive's in its own spelling."""
    text = clean(value)
    own = _OWN_IDS.fullmatch(text)
    return f"{own[1].upper()}_{own[2]}" if own else whole(text)


def is_archive_id(text: str) -> bool:
    """Tell whether an id of a lesion or patient has the form of the ISIC archive's, which its sources share."""
    return _OWN_IDS.fullmatch(text) is not None


@functools.lru_cache(1 << 14)
def is_nobody(text: str) -> bool:
    """Tell whether an id says that nobody knows: a word such as `unknown`, a mark such as `?`, a number below zero."""
    plain = _DASHES.sub("-", clean(text).casefold())
    value = None if plain in _WORDS else number(plain)
    if value is not None:
        return not 0 <= value < math.inf
    words = " ".join(re.sub(r"[\W_]+", " ", plain).split())
    return (
        _NO_ID.fullmatch(plain) is not None
        or words.replace(" ", "") in _NOBODY
        or _WHOSE.sub("", words).replace(" ", "") in _NOBODY
        or _says_unknown(plain)
    )


def numbered_nobody(text: str) -> str | None:
    """The word for nobody that an id puts before a number, such as `unknown_1`, or None."""
    match = re.fullmatch(r"(\D+?)[\W_]*\d+\W*", clean(text).casefold())
    return match[1] if match and _says_unknown(match[1]) else None


def _without_accents(text: str) -> str:
    return text if text.isascii() else re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFKD", text))


_UNKNOWN, _NEGATIONS, _NEGATED = (
    frozenset(_without_accents(words.casefold()).split()) for words in (_UNKNOWN_WORDS, _NEGATION_WORDS, _NEGATED_WORDS)
)
_UNPARTED = tuple(word for word in _UNKNOWN if re.match("[\u1100-\u11ff\u3040-\u9fff]", word))
_NOT_YET = tuple(_without_accents(words) for words in ("to be ", "غير ", "לא ", "tidak ", "không "))


def _says_unknown(text: str) -> bool:
    """Tell whether words say that nobody knows: `unknown, see notes`, `P-unknown`, `sin datos`, `not yet assigned`."""
    plain = _without_accents(text)
    words = re.split(r"[\s!-/:-@\[-`{-~]+", plain.strip(" -_.,:;()[]{}<>'\"*/"))
    if any(map(str.isdigit, plain)):
        return False
    first, *others = words
    return (
        (first in _UNKNOWN and not (others and first in ("anon", "anonym")))  # `anon_a` is a pseudonym
        or (words[-1] in _UNKNOWN and all(len(word) < 3 or not _WHOSE.sub("", word) for word in words[:-1]))
        or (first in _NEGATIONS and others not in ([], ["in"]) and _NEGATED.union(_NEGATIONS).issuperset(others))
        or plain.startswith(_NOT_YET)
        or any(word in plain for word in _UNPARTED)
    )
