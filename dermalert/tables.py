"""What a row of a source's table says of an image: its name, its diagnosis in the source's words, lesion, age, ..."""

import contextlib
import csv
import dataclasses
import functools
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath

from dermalert.errors import UsageError, did_you_mean, first_few

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

# By field of the schema, the columns that hold it: HAM10000, the ISIC challenges, the archive, PAD-UFES-20, the Hub.
# The first that a table has is taken.
_COLUMNS = {
    "image_id": ("image_id", "isic_id", "image_name", "img_id", "image", "file_name", "filename", "id"),
    "label": ("dx", "diagnosis", "diagnostic", "label", "labels", "class"),
    "malignancy": ("benign_malignant", "target"),
    "lesion_id": ("lesion_id",),
    "patient_id": ("patient_id",),
    "age": ("age", "age_approx", "age_approximate"),
    "sex": ("sex", "gender"),
    "skin_type": ("fitzpatrick_skin_type", "fitzpatrick", "fitspatrick", "skin_type"),
    "site": ("anatom_site_general", "anatom_site_general_challenge", "anatom_site_1", "localization", "region", "site"),
}
FIELDS = ("image", *_COLUMNS)
"""What a column can hold. `image` is a column of pictures, or, in a table beside files, the same as `image_id`."""

FACTS = ("lesion_id", "patient_id", "age", "sex", "site", "skin_type")

_ONE_HOT = ("MEL", "NV", "BCC", "AK", "AKIEC", "BKL", "DF", "VASC", "SCC", "UNK")
_ISIC_2017 = frozenset({"melanoma", "seborrheic_keratosis"})
_LEVELS = tuple(f"diagnosis_{i}" for i in range(1, 6))
_TWINS = ("image_name_1", "image_name_2")  # of ISIC 2020: the 425 images that it holds twice
_MALIGNANCY = {0.0: "benign", 1.0: "malignant"}
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
        return shipped_as(re.split(r"[-_. ]", self.path.name))

    @functools.cached_property
    def entries(self) -> list[tuple[str, dict]]:
        """Its rows, each with the image that it names."""
        named = [(image_name(row[self.columns["image_id"]]), row) for row in _rows(self.path)]
        return [(image_id, row) for image_id, row in named if image_id]

    @functools.cached_property
    def rows(self) -> dict[str, dict]:
        """Its rows by image; of an image that it lists twice, the last."""
        return dict(self.entries)


def read(paths: Iterable[Path], columns: "Columns") -> list[Table]:
    """Return those of the files that are tables of images."""
    found = []
    for path in paths:
        if _may_be_table(path):
            header = _header(path)
            of_fields = columns.of(header)
            if "image_id" in of_fields:
                found.append(Table(path, header, of_fields))
    # A table that says only benign or malignant, such as a sample submission, does not count beside a diagnosis.
    if any(t.names_a_diagnosis and not _is_binary(t) for t in found):
        return [t for t in found if not _is_binary(t)]
    return found


def twins(paths: Iterable[Path]) -> list[tuple[str, str]]:
    """Return the pairs of images that a list among the files calls copies, as ISIC 2020 ships one."""
    lists = [path for path in paths if _may_be_table(path) and set(_header(path)) >= set(_TWINS)]
    return [tuple(image_name(row[column]) for column in _TWINS) for path in lists for row in _rows(path)]


def _is_binary(table: Table) -> bool:
    return "malignancy" in table.columns and "label" not in table.columns and not _has_several(table.header)


def _may_be_table(path: Path) -> bool:
    named = path.suffix.lower() in (".csv", ".tsv", ".tab") or path.name == "HAM10000_metadata"
    return named and path.is_file()


def _header(path: Path) -> list[str]:
    with path.open(newline="", encoding=_encoding(path), errors="replace") as file, _of_a_table(path):
        line = file.readline()
        return next(csv.reader([line], delimiter=_delimiter(line)), [])


def _rows(path: Path) -> list[dict]:
    with path.open(newline="", encoding=_encoding(path), errors="replace") as file, _of_a_table(path):
        delimiter = _delimiter(file.readline())
        file.seek(0)
        return list(csv.DictReader(file, delimiter=delimiter))


@contextlib.contextmanager
def _of_a_table(path: Path) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        raise UsageError(f"'{path}' cannot be read as a table ({error}): mend it, or move it elsewhere.") from error


def _encoding(path: Path) -> str:
    """Return UTF-16 where the file says so, as spreadsheets write it, else UTF-8; a stray byte becomes a mark."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _delimiter(header: str) -> str:
    """Return what parts the columns; spreadsheets of some languages write semicolons."""
    return max(",\t;", key=header.count)


def shipped_as(words: Iterable[str]) -> str | None:
    """Return `test` or `train` where one of the words, of a path or of a name, is a shipped split's.

    A shipped validation split is `train`: whoever publishes figures on such a set has chosen models on it, and only
    its test images are meant to be seen once.
    """
    words = {word.lower() for word in words}
    if words & {"test", "testing"}:
        return "test"
    return "train" if words & {"train", "training", "val", "valid", "validation"} else None


def mapping(arguments: Sequence[str]) -> dict[str, str]:
    """Return fields with their columns, as `--columns` names them: FIELD=COLUMN pairs, or a JSON file that maps them.

    Raises:
        UsageError: it is neither, or names what is no field.
    """
    if len(arguments) == 1 and arguments[0].endswith(".json"):
        return _fields(_mapping_file(Path(arguments[0])))
    pairs = [argument.partition("=") for argument in arguments]
    wrong = [argument for argument, (field, _, column) in zip(arguments, pairs, strict=True) if not (field and column)]
    if wrong:
        raise UsageError(f"--columns takes FIELD=COLUMN, such as label=dx, or one .json file, not {first_few(wrong)}.")
    twice = [field for i, (field, *_) in enumerate(pairs) if field in [earlier for earlier, *_ in pairs[:i]]]
    if twice:
        raise UsageError(f"--columns names a column of '{twice[0]}' twice.")
    return _fields({field: column for field, _, column in pairs})


def _mapping_file(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"--columns '{path}' cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # no JSON, or not even text
        raise UsageError(f"--columns '{path}' is no JSON file: {error}.") from error
    if not isinstance(content, dict) or not all(isinstance(column, str) for column in content.values()):
        raise UsageError(f'--columns \'{path}\' must map fields to columns, such as {{"label": "dx"}}.')
    return content


def _fields(given: Mapping[str, str]) -> dict[str, str]:
    for field in given:
        if field not in FIELDS:
            hint = did_you_mean(field, FIELDS)
            raise UsageError(f"'{field}' is no field of an image.{hint} The fields are: {', '.join(FIELDS)}.")
    return dict(given)


class Columns:
    """Which column holds which field: the one that a person has named, else the first that sources are known to use.

    What a person has named counts in each table that has such a column, and `check` refuses what no table had.
    """

    def __init__(self, given: Mapping[str, str] | None = None):
        self.given = _fields(given or {})
        self.met: set[str] = set()

    def of(self, header: Iterable[str]) -> dict[str, str]:
        """Return for each field the column that holds it, of those that the table has."""
        header = list(header)
        self.met.update(header)
        guessed = {field: next((c for c in names if c in header), None) for field, names in _COLUMNS.items()}
        if _has_several(header):
            guessed["label"] = None
        given = {field: column for field, column in self.given.items() if column in header}
        if "image" in given:
            given = {"image_id": given.pop("image")} | given
        return {field: column for field, column in (guessed | given).items() if column}

    def check(self) -> None:
        """Refuse what no table had.

        Raises:
            UsageError: with the columns that there are.
        """
        for field, column in self.given.items():
            if column not in self.met:
                there = f"There are: {first_few(sorted(self.met), 20)}." if self.met else "There is no table."
                raise UsageError(f"no column '{column}' for '{field}'.{did_you_mean(column, self.met)} {there}")


def columns_of(header: Iterable[str]) -> dict[str, str]:
    """Return for each field the column that is known to hold it, of those that the table has."""
    return Columns().of(header)


def names_a_diagnosis(header: Collection[str], columns: Mapping[str, str]) -> bool:
    """Tell whether the table says of each image what it shows."""
    return "image_id" in columns and (not columns.keys().isdisjoint(("label", "malignancy")) or _has_several(header))


def label_of(row: Mapping, columns: Mapping[str, str] | None = None) -> str:
    """Return the diagnosis in the source's words, as `diagnoses.find` reads them; `malignancy_of` where it has none."""
    columns = columns or columns_of(row)
    if columns.get("label"):
        return text(row[columns["label"]])
    if _LEVELS[0] in row:
        return ":".join(filter(None, (text(row.get(level)) for level in _LEVELS)))
    names = _ISIC_2017 if row.keys() >= _ISIC_2017 else _ONE_HOT
    cells = {name: _number(row[name]) for name in names if name in row}
    if not cells:
        return malignancy_of(row, columns)
    hot = [name for name, number in cells.items() if number == 1]
    if names is _ISIC_2017 and not hot and None not in cells.values():
        return "nevus"  # the third class, which has no column
    return hot[0] if len(hot) == 1 else ""


def malignancy_of(row: Mapping, columns: Mapping[str, str] | None = None) -> str:
    """Return `benign`, `malignant` or what else the source's own column of that says; nothing where it has none."""
    cell = row.get((columns or columns_of(row)).get("malignancy"))
    return _MALIGNANCY.get(_number(cell), text(cell))


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
    facts |= {"skin_type": skin_type_of(row, columns)}
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


def skin_type_of(row: Mapping, columns: Mapping[str, str] | None = None) -> str | None:
    """Return the Fitzpatrick skin type, `I` to `VI`, which PAD-UFES-20 writes as a number (1.0)."""
    word = text(row.get((columns or columns_of(row)).get("skin_type"))).upper().removesuffix(".0")
    numbers = ("I", "II", "III", "IV", "V", "VI")
    if word in numbers:
        return word
    return numbers[int(word) - 1] if word in ("1", "2", "3", "4", "5", "6") else None


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
