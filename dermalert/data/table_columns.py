"""Which column of a source's table holds which field, by the names that sources use, or as `--columns` says."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from dermalert.data import identifiers
from dermalert.errors import UsageError, did_you_mean, first_few

# By field of the schema, the columns that hold it: HAM10000, the ISIC challenges, the archive, PAD-UFES-20, the Hub.
# The first that a table has is taken.
COLUMNS = {
    "image_id": (
        *("image_id", "isic_id", "image_name", "img_id", "image", "file_name", "filename", "image_path", "image_file"),
        *("img_name", "img_path", "img_file", "file_path", "filepath", "path", "file", "img", "id"),
    ),
    "label": ("dx", "diagnosis", "diagnostic", "label", "labels", "class"),
    "malignancy": ("benign_malignant", "target"),
    "lesion_id": ("lesion_id", "lesion", "lesion_number", "lesion_no"),
    # A case is a lesion in one set (Derm7pt), a patient in another: either way its images are of one person.
    "patient_id": (
        *("patient_id", "patient", "patient_number", "patient_no", "subject_id", "subject", "person_id"),
        *("participant_id", "case_id", "case_number", "case_num", "case_no"),
    ),
    "age": ("age", "age_approx", "age_approximate"),
    "sex": ("sex", "gender"),
    "skin_type": ("fitzpatrick_skin_type", "fitzpatrick", "fitspatrick", "skin_type"),
    "confirmation": ("diagnosis_confirm_type", "dx_type", "biopsed"),
    "site": ("anatom_site_general", "anatom_site_general_challenge", "anatom_site_1", "localization", "region", "site"),
    "image_type": ("image_type", "modality"),
    "source": ("attribution",),
    "split": (
        *("split", "data_split", "dataset_split", "partition", "subset", "set", "phase", "usage", "fold", "is_test"),
        *("is_testing", "test", "test_set", "in_test", "is_train", "is_training", "train", "train_set", "in_train"),
        *("holdout", "is_holdout", "held_out"),
    ),
}
FIELDS = ("image", *COLUMNS)
"""What a column can hold. `image` is a column of pictures, or, in a table beside files, the same as `image_id`."""


ONE_HOT = ("MEL", "NV", "BCC", "AK", "AKIEC", "BKL", "DF", "VASC", "SCC", "UNK")
ISIC_2017 = frozenset({"melanoma", "seborrheic_keratosis"})
LEVELS = tuple(f"diagnosis_{i}" for i in range(1, 6))
DUPLICATES = ("image_name_1", "image_name_2")  # of ISIC 2020: the 425 images that it holds twice

_ALL = [*(c for columns in COLUMNS.values() for c in columns), *ONE_HOT, *sorted(ISIC_2017), *LEVELS, *DUPLICATES]
_BY_FORM = {identifiers.column(column): column for column in reversed(_ALL)}
_SEEM_TO_COUNT = ("lesion", "patient", "case", "diagnos", "split", "test", "train", "fold")
_OF_ANOTHER = re.compile("mask|segm|clinic|overview|macro|thumb|report")  # files that are not the picture itself


def unused_columns(header: Sequence[str], columns: Mapping[str, str]) -> list[str]:
    """The columns that are not read, first those that seem to hold what is kept of an image."""
    used = {*columns.values(), *_of_diagnoses(header, columns)}
    rest = [column or "(without a name)" for column in header if column not in used]
    return sorted(
        rest, key=lambda c: c not in _ALL and not any(word in identifiers.column(c) for word in _SEEM_TO_COUNT)
    )


def _of_diagnoses(header: Collection[str], columns: Mapping[str, str]) -> Iterable[str]:
    """The columns among which `label_of` looks where none alone is the diagnosis."""
    if columns.get("label"):
        return ()
    if LEVELS[0] in header:
        return LEVELS
    return ISIC_2017 if set(header) >= ISIC_2017 else ONE_HOT


def image_columns_of(header: Sequence[str]) -> tuple[str, ...]:
    """The columns that may name the images: first `file_name`, last others of file names, but not a mask's."""
    usual = [c for c in ("file_name", "filename", *COLUMNS["image_id"]) if c in header]
    others = [c for c in header if identifiers.column(c).endswith("filename") and not _OF_ANOTHER.search(c.casefold())]
    return tuple(dict.fromkeys([*usual, *others]))


def headers(names: Iterable[object]) -> list[str]:
    """A table's columns, each that is known in the spelling of the sources, however it is written.

    Of two that are one column in two spellings, the first as the sources write it, or else the first, is that column;
    the other keeps its own name. A name that stands twice is numbered, so that the first counts.
    """
    raw = [identifiers.clean(name) for name in names]
    forms = [_BY_FORM.get(identifiers.column(column)) for column in raw]
    exact = set(raw) & set(_ALL)
    header: list[str] = []
    for column, spelling in zip(raw, forms, strict=True):
        spelling = column if column in _ALL else None if spelling in exact else spelling
        name = column if spelling is None or spelling in header else spelling
        header.append(f"{name} ({header.count(name) + 1})" if name in header else name)
    return header


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
        self.present: set[str] = set()

    def of(self, header: Iterable[str]) -> dict[str, str]:
        """Return for each field the column that holds it, of those that the table has."""
        header = list(header)
        guessed = {field: next((c for c in candidates if c in header), None) for field, candidates in COLUMNS.items()}
        if has_several(header):
            guessed["label"] = None
        forms = {identifiers.column(column): column for column in reversed(header)}
        given = {
            field: column if column in header else forms.get(identifiers.column(column))
            for field, column in self.given.items()
        }
        given = {field: column for field, column in given.items() if column}
        self.present.update(header, (self.given[field] for field in given))
        if "image" in given:
            given = {"image_id": given.pop("image")} | given
        return {field: column for field, column in (guessed | given).items() if column}

    def has_named(self, field: str, column: str) -> bool:
        """Tell whether a person has named the column for the field."""
        return field in self.given and identifiers.column(self.given[field]) == identifiers.column(column)

    def check(self) -> None:
        """Refuse what no table had.

        Raises:
            UsageError: with the columns that there are.
        """
        for field, column in self.given.items():
            if column not in self.present:
                there = f"There are: {first_few(sorted(self.present), 20)}." if self.present else "There is no table."
                raise UsageError(f"no column '{column}' for '{field}'.{did_you_mean(column, self.present)} {there}")


def columns_of(header: Iterable[str]) -> dict[str, str]:
    """Return for each field the column that is known to hold it, of those that the table has."""
    return Columns().of(header)


def names_a_diagnosis(header: Collection[str], columns: Mapping[str, str]) -> bool:
    """Tell whether the table says of each image what it shows."""
    return "image_id" in columns and (not columns.keys().isdisjoint(("label", "malignancy")) or has_several(header))


def has_several(header: Collection[str]) -> bool:
    """Tell whether the diagnosis is spread over columns: one a diagnosis, or one a level of the archive's."""
    return LEVELS[0] in header or {"MEL", "NV"} <= set(header) or set(header) >= ISIC_2017
