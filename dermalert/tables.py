"""What a row of a source's table says of an image: its name, its diagnosis in the source's words, lesion, age, ..."""

import csv
import dataclasses
import functools
import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePath

from dermalert.errors import UsageError, did_you_mean

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

# By field of the schema, the columns that hold it: HAM10000, the ISIC challenges, the archive, PAD-UFES-20, the Hub.
# The first that a table has is taken.
_COLUMNS = {
    "image_id": ("image_id", "isic_id", "image_name", "img_id", "image", "file_name", "filename", "id"),
    "label": ("dx", "diagnosis", "diagnostic", "label", "labels", "class", "benign_malignant", "target"),
    "lesion_id": ("lesion_id",),
    "patient_id": ("patient_id",),
    "age": ("age", "age_approx", "age_approximate"),
    "sex": ("sex", "gender"),
    "site": ("anatom_site_general", "anatom_site_general_challenge", "anatom_site_1", "localization", "region", "site"),
}
FACTS = ("lesion_id", "patient_id", "age", "sex", "site")

_ONE_HOT = ("MEL", "NV", "BCC", "AK", "AKIEC", "BKL", "DF", "VASC", "SCC", "UNK")
_ISIC_2017 = frozenset({"melanoma", "seborrheic_keratosis"})
_LEVELS = tuple(f"diagnosis_{i}" for i in range(1, 6))
_NOT_KNOWN = frozenset({"", "unknown", "unk", "nan", "none", "na", "n/a"})

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


@dataclasses.dataclass(frozen=True)
class Table:
    """A CSV or TSV file with a row an image."""

    path: Path
    header: list[str]
    columns: dict[str, str]

    @property
    def names_a_diagnosis(self) -> bool:
        """Whether it says of each image what it shows."""
        return names_a_diagnosis(self.header, self.columns)

    @property
    def shipped_split(self) -> str | None:
        """`test` or `train`, by its name: a challenge's test images are shipped as such, as in a folder `Test/`."""
        words = re.split(r"[-_. ]", self.path.name.lower())
        return "test" if "test" in words else "train" if {"train", "training", "validation"} & {*words} else None

    @functools.cached_property
    def entries(self) -> list[tuple[str, dict]]:
        """Its rows, each with the image that it names."""
        with self.path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.DictReader(file, delimiter=_delimiter(self.path))
            named = [(image_name(row[self.columns["image_id"]]), row) for row in reader]
        return [(image_id, row) for image_id, row in named if image_id]

    @functools.cached_property
    def rows(self) -> dict[str, dict]:
        """Its rows by image; of an image that it lists twice, the last."""
        return dict(self.entries)


def read(paths: Iterable[Path], given: Mapping[str, str]) -> list[Table]:
    """Return those of the files that are tables of images.

    Args:
        paths: any files.
        given: fields with their columns, where a person has named them.

    Raises:
        UsageError: what is given names no field, or a column that none of them has.
    """
    headers = {path: _header(path) for path in paths if _may_be_table(path)}
    everything = {column for header in headers.values() for column in header}
    columns_of(sorted(everything), given)  # refuses a column that no table has
    found = []
    for path, header in headers.items():
        columns = columns_of(header, {field: c for field, c in given.items() if c in header})
        if "image_id" in columns:
            found.append(Table(path, header, columns))
    # A table that says only benign or malignant, such as a sample submission, does not count beside a diagnosis.
    if any(t.names_a_diagnosis and not _is_binary(t) for t in found):
        return [t for t in found if not _is_binary(t)]
    return found


def _is_binary(table: Table) -> bool:
    return table.columns.get("label") in ("target", "benign_malignant")


def _may_be_table(path: Path) -> bool:
    named = path.suffix.lower() in (".csv", ".tsv", ".tab") or path.name == "HAM10000_metadata"
    return named and path.is_file()


def _header(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        return next(csv.reader(file, delimiter=_delimiter(path)), [])


def _delimiter(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return "\t" if "\t" in file.readline() else ","


def columns_of(header: Iterable[str], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return for each field of the schema the column that holds it, of those that the table has.

    Args:
        header: the table's columns.
        given: fields with their columns, where a person has named them.

    Raises:
        UsageError: what is given names no field, or no column.
    """
    header, given = list(header), given or {}
    for field, column in given.items():
        if field not in _COLUMNS:
            hint = did_you_mean(field, _COLUMNS)
            raise UsageError(f"'{field}' is no field of an image.{hint} The fields are: {', '.join(_COLUMNS)}.")
        if column not in header:
            raise UsageError(f"no column '{column}' for '{field}'.{did_you_mean(column, header)} There are: {header}.")
    guessed = {field: next((c for c in names if c in header), None) for field, names in _COLUMNS.items()}
    if _has_several(header):
        guessed["label"] = None
    return {field: column for field, column in (guessed | dict(given)).items() if column}


def names_a_diagnosis(header: Collection[str], columns: Mapping[str, str]) -> bool:
    """Tell whether the table says of each image what it shows."""
    return "image_id" in columns and ("label" in columns or _has_several(header))


def label_of(row: Mapping, columns: Mapping[str, str] | None = None) -> str:
    """Return the diagnosis in the source's words, as `diagnoses.find` reads them."""
    column = (columns or columns_of(row)).get("label")
    if column:
        word = text(row[column])
        return {"0": "benign", "1": "malignant"}.get(word, word) if column == "target" else word
    if _LEVELS[0] in row:
        return ":".join(filter(None, (text(row.get(level)) for level in _LEVELS)))
    names = _ISIC_2017 if row.keys() >= _ISIC_2017 else _ONE_HOT
    cells = {name: _number(row[name]) for name in names if name in row}
    hot = [name for name, number in cells.items() if number == 1]
    if names is _ISIC_2017 and not hot and None not in cells.values():
        return "nevus"  # the third class, which has no column
    return hot[0] if len(hot) == 1 else ""


def _number(cell: object) -> float | None:
    try:
        return float(cell)
    except (TypeError, ValueError):  # a row that is cut short, or an empty cell
        return None


def _has_several(header: Collection[str]) -> bool:
    """Tell whether the diagnosis is spread over columns: one a diagnosis, or one a level of the archive's."""
    return _LEVELS[0] in header or {"MEL", "NV"} <= set(header) or set(header) >= _ISIC_2017


def facts_of(row: Mapping, columns: Mapping[str, str] | None = None) -> dict:
    """Return lesion, patient, age, sex and site, of those that the row knows."""
    columns = columns or columns_of(row)
    facts = {name: text(row[columns[name]]) for name in ("lesion_id", "patient_id") if name in columns}
    facts = {name: value for name, value in facts.items() if value.lower() not in _NOT_KNOWN}
    if facts.get("lesion_id", "").isdigit() and "patient_id" in facts:
        # PAD-UFES-20 numbers its lesions; another source's 1765 is another lesion.
        facts["lesion_id"] = f"{facts['patient_id']}_{facts['lesion_id']}"
    facts |= {"age": age_of(row, columns), "sex": sex_of(row, columns), "site": site_of(row, columns)}
    return {name: value for name, value in facts.items() if value is not None}


def age_of(row: Mapping, columns: Mapping[str, str] | None = None) -> float | None:
    """Return the age in years."""
    word = text(row.get((columns or columns_of(row)).get("age"))).removesuffix("+")
    try:
        age = float(word)
    except ValueError:
        return None
    return None if math.isnan(age) else age


def sex_of(row: Mapping, columns: Mapping[str, str] | None = None) -> str | None:
    """Return `female` or `male`."""
    word = text(row.get((columns or columns_of(row)).get("sex"))).lower()
    return {"f": "female", "m": "male", "female": "female", "male": "male"}.get(word)


def site_of(row: Mapping, columns: Mapping[str, str] | None = None) -> str | None:
    """Return the place on the body, in the words of the archive where they fit."""
    word = text(row.get((columns or columns_of(row)).get("site"))).lower()
    return None if word in _NOT_KNOWN else _SITE.get(word, word)


def image_name(value: object) -> str:
    """Return an image's name without folder and suffix, as tables write it either way."""
    path = PurePath(text(value))
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name


def text(value: object) -> str:
    """Return what a cell holds as text, and nothing for None."""
    return "" if value is None else str(value).strip()
