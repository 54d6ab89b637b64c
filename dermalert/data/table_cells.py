"""What a row of a source's table says of an image: its diagnosis in the source's words, lesion, patient, age, ..."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from dermalert.data import identifiers, table_columns

_MALIGNANCY = {0.0: "benign", 1.0: "malignant"}
_DERMOSCOPIC = ("", "unknown", "contact polarized", "contact non polarized", "non contact polarized")
_OTHER_KINDS = ("other", "others", "various", "misc", "no", "false")  # nobody's ids, but kinds of pictures
_DERMOSCOPY = re.compile("derm(at)?oscop")
# "non-dermoscopic", "predermoscopy", but not "dermoscopy before excision"
_NO_DERMOSCOPY = re.compile(r"\b(non|not|no|without|un)(\b|derm)|\b(pre|before|prior( to)?) ?derm")

# HAM10000's and PAD-UFES-20's words in those of the archive's `anatom_site_general`. Words that leave it open there,
# such as "trunk", stay as they are.
_SITES = {
    "head/neck": ("head and neck", "scalp", "face", "ear", "neck", "nose", "lip"),
    "anterior torso": ("chest", "abdomen"),
    "posterior torso": ("back",),
    "upper extremity": ("arm", "forearm", "hand"),
    "lower extremity": ("thigh", "foot"),
    "palms/soles": ("acral",),
    "oral/genital": ("genital", "anogenital region"),
}
_SITE = {word: site for site, words in _SITES.items() for word in words}

# By how the word begins. PAD-UFES-20 says only whether a biopsy was taken.
_CONFIRMATIONS = {
    "histo": "histopathology",
    "true": "histopathology",
    "confocal": "confocal microscopy",
    "follow": "follow-up",
    "serial imaging": "follow-up",
    "consensus": "expert consensus",
    "single image expert": "expert consensus",
    "single contributor": "clinical assessment",
}


def _cell(row: Mapping[str, Any], columns: Mapping[str, str] | None, field: str) -> str:
    """What a row's column for a field holds; nothing where it has none."""
    column = (columns or table_columns.columns_of(row)).get(field)
    return identifiers.clean(row.get(column) if column else None)  # a column may have no name


def kind_of(row: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """What kind of picture an image is, `dermoscopic` where the row does not say that it is another."""
    kind = _cell(row, columns, "image_type")
    plain = kind.lower().replace("-", " ").replace("_", " ")
    if _DERMOSCOPY.search(plain):
        return kind if _NO_DERMOSCOPY.search(plain) else "dermoscopic"
    unknown = plain in _DERMOSCOPIC or (identifiers.is_nobody(plain) and plain not in _OTHER_KINDS)
    return "dermoscopic" if unknown else kind


def label_of(row: Mapping[str, Any], columns: Mapping[str, str] | None = None) -> str:
    """The diagnosis in the source's words, as `taxonomy.find` reads them; `malignancy_of` where it has none."""
    columns = columns or table_columns.columns_of(row)
    if columns.get("label"):
        return identifiers.clean(row[columns["label"]])
    if table_columns.LEVELS[0] in row:
        return ":".join(filter(None, (identifiers.clean(row.get(level)) for level in table_columns.LEVELS)))
    several = table_columns.ISIC_2017 if row.keys() >= table_columns.ISIC_2017 else table_columns.ONE_HOT
    cells = {name: identifiers.number(row[name]) for name in several if name in row}
    if not cells:
        return malignancy_of(row, columns)
    hot = [name for name, number in cells.items() if number == 1]
    if several is table_columns.ISIC_2017 and not hot and None not in cells.values():
        return "nevus"  # the third class, which has no column
    return hot[0] if len(hot) == 1 else ""


def malignancy_of(row: Mapping[str, Any], columns: Mapping[str, str] | None = None) -> str:
    """Return `benign`, `malignant` or what else the source's own column of that says; nothing where it has none."""
    word = _cell(row, columns, "malignancy")
    number = identifiers.number(word)
    return word if number is None else _MALIGNANCY.get(number, word)


def metadata_of(
    row: Mapping[str, Any], columns: Mapping[str, str] | None = None, nobody: Counter[str] | None = None
) -> dict[str, Any]:
    """The row's lesion, patient, age, sex, site, skin type, confirmation, source and image type.

    Args:
        row: of a table.
        columns: by field; without them, those that are known.
        nobody: where what stands for nobody is counted, such as `-1`.
    """
    columns = columns or table_columns.columns_of(row)
    ids = {name: identifiers.person(row[columns[name]]) for name in ("lesion_id", "patient_id") if name in columns}
    if nobody is not None:
        nobody.update(v for v in ids.values() if v and identifiers.is_nobody(v))
    ids = {name: value for name, value in ids.items() if not identifiers.is_nobody(value)}
    if ids.get("lesion_id", "").isdigit() and "patient_id" in ids:
        # PAD-UFES-20 numbers its lesions; another source's 1765 is another lesion.
        ids["lesion_id"] = f"{ids['patient_id']}_{ids['lesion_id']}"
    metadata = {"age": age_of(row, columns), "sex": sex_of(row, columns), "site": site_of(row, columns)}
    metadata |= {"skin_type": skin_type_of(row, columns), "confirmation": confirmation_of(row, columns)}
    kind = kind_of(row, columns)
    metadata |= {"source": _cell(row, columns, "source") or None}
    metadata |= {"image_type": None if kind == "dermoscopic" else kind}  # so that any row can say that it is none
    return ids | {name: value for name, value in metadata.items() if value is not None}


_OLDEST = 120  # years: 999 is a spreadsheet's word for an age that is not known


def age_of(row: Mapping[str, Any], columns: Mapping[str, str] | None = None) -> float | None:
    """The age in years."""
    word = _cell(row, columns, "age").removesuffix("+")
    age = identifiers.number(re.sub(r"\s*(y|yrs?|years?)$", "", word, flags=re.IGNORECASE))
    return age if age is not None and 0 <= age <= _OLDEST else None


def sex_of(row: Mapping[str, Any], columns: Mapping[str, str] | None = None) -> str | None:
    """Return `female` or `male`."""
    word = _cell(row, columns, "sex").lower()
    return {"f": "female", "m": "male", "female": "female", "male": "male"}.get(word)


def skin_type_of(row: Mapping[str, Any], columns: Mapping[str, str] | None = None) -> str | None:
    """The Fitzpatrick skin type, `I` to `VI`, which PAD-UFES-20 writes as a number (1.0)."""
    word = identifiers.whole(_cell(row, columns, "skin_type").upper())
    numbers = ("I", "II", "III", "IV", "V", "VI")
    if word in numbers:
        return word
    return numbers[int(word) - 1] if word in ("1", "2", "3", "4", "5", "6") else None


def confirmation_of(row: Mapping[str, Any], columns: Mapping[str, str] | None = None) -> str | None:
    """How the diagnosis was confirmed, one of `schema.CONFIRMATIONS`, in the archive's, HAM10000's or PAD's words."""
    word = _cell(row, columns, "confirmation").lower()
    return next((confirmation for start, confirmation in _CONFIRMATIONS.items() if word.startswith(start)), None)


def site_of(row: Mapping[str, Any], columns: Mapping[str, str] | None = None) -> str | None:
    """The place on the body, in the words of the archive where they fit."""
    word = _cell(row, columns, "site").lower()
    return None if identifiers.is_nobody(word) else _SITE.get(word, word)


def image_name(value: object) -> str:
    """An image's name without folder and suffix, as tables write it either way."""
    parts = identifiers.parts(value)
    if not parts:
        return ""
    path = PurePath(parts[-1])
    return path.stem if path.suffix.lower() in identifiers.IMAGE_SUFFIXES else path.name
