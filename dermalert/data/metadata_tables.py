"""What a row of a source's table says of an image: its name, its diagnosis in the source's words, lesion, age, ..."""

import csv
import dataclasses
import functools
import io
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath

import pyarrow as pa
import pyarrow.parquet as pq

from dermalert.data import identifiers
from dermalert.data.unused import Unused
from dermalert.errors import UsageError, did_you_mean, first_few

logger = logging.getLogger(__name__)

# By field of the schema, the columns that hold it: HAM10000, the ISIC challenges, the archive, PAD-UFES-20, the Hub.
# The first that a table has is taken.
_COLUMNS = {
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
    "site": ("anatom_site_general", "anatom_site_general_challenge", "anatom_site_1", "localization", "region", "site"),
    "image_type": ("image_type", "modality"),
    "split": (
        *("split", "data_split", "dataset_split", "partition", "subset", "set", "phase", "usage", "fold", "is_test"),
        *("is_testing", "test", "test_set", "in_test", "is_train", "is_training", "train", "train_set", "in_train"),
        *("holdout", "is_holdout", "held_out"),
    ),
}
FIELDS = ("image", *_COLUMNS)
"""What a column can hold. `image` is a column of pictures, or, in a table beside files, the same as `image_id`."""

FACTS = ("lesion_id", "patient_id", "age", "sex", "site", "skin_type")

_ONE_HOT = ("MEL", "NV", "BCC", "AK", "AKIEC", "BKL", "DF", "VASC", "SCC", "UNK")
_ISIC_2017 = frozenset({"melanoma", "seborrheic_keratosis"})
_LEVELS = tuple(f"diagnosis_{i}" for i in range(1, 6))
_TWINS = ("image_name_1", "image_name_2")  # of ISIC 2020: the 425 images that it holds twice
_MALIGNANCY = {0.0: "benign", 1.0: "malignant"}
_DERMOSCOPIC = ("", "unknown", "contact polarized", "contact non polarized", "non contact polarized")
_OTHER_KINDS = ("other", "others", "various", "misc", "no", "false")  # nobody's ids, but kinds of pictures
_DERMOSCOPY = re.compile("derm(at)?oscop")
# "non-dermoscopic", "predermoscopy", but not "dermoscopy before excision"
_NO_DERMOSCOPY = re.compile(r"\b(non|not|no|without|un)(\b|derm)|\b(pre|before|prior( to)?) ?derm")
_DELIMITERS = ",\t;|"

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

_KNOWN = [*(c for columns in _COLUMNS.values() for c in columns), *_ONE_HOT, *sorted(_ISIC_2017), *_LEVELS, *_TWINS]
_BY_FORM = {identifiers.column(column): column for column in reversed(_KNOWN)}
_SEEM_TO_COUNT = ("lesion", "patient", "case", "diagnos", "split", "test", "train", "fold")
_TEST = frozenset({"test", "testing", "tests", "tst", "te", "holdout"})
_TRAIN = frozenset({"train", "training", "trn", "tr", "trainval"})
_VALIDATION = frozenset({"val", "valid", "validation", "validate", "va", "dev", "development", "eval", "evaluation"})
_OF_ANOTHER = re.compile("mask|segm|clinic|overview|macro|thumb|report")  # files that are not the picture itself
_YES_OR_NO = {"t": 1.0, "y": 1.0, "f": 0.0, "n": 0.0}


@dataclasses.dataclass(frozen=True)
class Table:
    """A file with a row an image: CSV, TSV, JSON lines or Parquet."""

    path: Path
    header: list[str]
    """Its columns, those that are known in the spelling of `headers`."""
    columns: dict[str, str]
    image_columns: tuple[str, ...] = ()
    """Those that may name its images, if nobody has said which does; of equals the first counts."""

    @property
    def names_a_diagnosis(self) -> bool:
        """Whether it says of each image what it shows."""
        return names_a_diagnosis(self.header, self.columns)

    @property
    def shipped_split(self) -> str | None:
        """`test` or `train`, by its name: a challenge's test images are shipped as such, as in a folder `Test/`."""
        return shipped_as([self.path.stem])

    @functools.cached_property
    def _all_rows(self) -> list[tuple[tuple[str, ...], Sequence]]:
        """The rows, those too that name no image.

        Raises:
            UsageError: a cell that is to be one name is a list.
        """
        _, rows = _read(self.path)
        for field in ("image_id", "label", "malignancy"):
            if field in self.columns and self.path.suffix.lower() in (".jsonl", ".parquet"):
                self._refuse_lists(self.columns[field], rows)
        at = self.header.index(self.columns["image_id"])
        return [(identifiers.parts(row[at] if at < len(row) else None), row) for row in rows]

    @functools.cached_property
    def entries(self) -> list[tuple[tuple[str, ...], Sequence]]:
        """Its rows, each as the folders and the name of the image that it names, and its cells; raises `UsageError`."""
        return [entry for entry in self._all_rows if entry[0]]

    @property
    def nameless(self) -> list[str]:
        """The rows that say something of no image, by their number."""
        rows = enumerate(self._all_rows, start=1)
        return [f"row {i}" for i, (parts, row) in rows if not parts and any(map(text, row))]

    def _refuse_lists(self, column: str, rows: Iterable[Sequence]) -> None:
        at = self.header.index(column)
        found = next((row[at] for row in rows if isinstance(row[at], (list, dict))), None)
        if found is not None:
            raise UsageError(f"'{self.path}': {holds_lists(column, found)}")

    def of_files(self, is_file: Callable[[tuple[str, ...]], bool]) -> "Table":
        """Return the table by that column of `image_columns` whose names are those of the most files."""
        if len(self.image_columns) < 2:
            return self
        rows = list(_read(self.path)[1])
        met = {}
        for column in self.image_columns:
            at = self.header.index(column)
            named = {identifiers.parts(row[at]) for row in rows if at < len(row)}
            met[column] = sum(map(is_file, filter(None, named)))
        best = max(met, key=met.__getitem__)
        return dataclasses.replace(self, columns=self.columns | {"image_id": best}) if met[best] else self

    def row(self, cells: Sequence) -> dict:
        """Return a row's cells by column, None where it is cut short."""
        return _by_column(self.header, cells)

    def cells(self, column: str) -> Iterator[object]:
        """Yield what a column holds."""
        at = self.header.index(column)
        return (row[at] for _, row in self.entries if at < len(row))

    @property
    def overlong(self) -> list[str]:
        """The images whose rows have more cells than there are columns, as an unquoted decimal comma makes them."""
        end = len(self.header)
        return ["/".join(parts) for parts, row in self.entries if len(row) > end and any(row[end:])]

    @property
    def unused_columns(self) -> list[str]:
        """The columns that are not read."""
        return unused_columns(self.header, self.columns)


def _by_column(header: Sequence[str], cells: Sequence) -> dict:
    return dict(zip(header, [*cells, *[None] * (len(header) - len(cells))], strict=False))


def holds_lists(column: str, cell: object) -> str:
    """Return what is wrong with a column whose cells are to be one name each."""
    return (
        f"the column '{column}' holds a list for an image ({str(cell)[:60]}), not one name: give each image one, or "
        "name another column (--columns FIELD=COLUMN)."
    )


def unused_columns(header: Sequence[str], columns: Mapping[str, str]) -> list[str]:
    """Return the columns that are not read, first those that seem to hold what is kept of an image."""
    used = {*columns.values(), *_of_diagnoses(header, columns)}
    rest = [column or "(without a name)" for column in header if column not in used]
    return sorted(
        rest, key=lambda c: c not in _KNOWN and not any(word in identifiers.column(c) for word in _SEEM_TO_COUNT)
    )


def _of_diagnoses(header: Collection[str], columns: Mapping[str, str]) -> Iterable[str]:
    """Return the columns among which `label_of` looks where none alone is the diagnosis."""
    if columns.get("label"):
        return ()
    if _LEVELS[0] in header:
        return _LEVELS
    return _ISIC_2017 if set(header) >= _ISIC_2017 else _ONE_HOT


def read(paths: Iterable[Path], columns: "Columns", unused: Unused | None = None) -> list[Table]:
    """Return those of the files that are tables of images; what else is a table goes to `unused`."""
    found = []
    unused = unused or Unused("")
    for path in paths:
        if _may_be_table(path):
            header = _header(path)
            of_fields, of_images = columns.of(header), _image_columns(header)
            if "image_id" not in of_fields and of_images:
                of_fields["image_id"] = of_images[0]
            if "image_id" in of_fields:
                named = any(columns.has_named(field, of_fields["image_id"]) for field in ("image", "image_id"))
                found.append(_with_split(Table(path, header, of_fields, () if named else of_images), columns))
            elif not set(header) >= set(_TWINS):
                unused.add("{n} tables have no column that names an image, and are not used", [path.name])
    # A table that says only benign or malignant, such as a sample submission, does not count beside a diagnosis.
    if any(t.names_a_diagnosis and not _is_binary(t) for t in found):
        left_out = [t.path.name for t in found if _is_binary(t)]
        unused.add("{n} tables say only what is malignant, and are not used beside a diagnosis", left_out)
        return [t for t in found if not _is_binary(t)]
    return found


def _image_columns(header: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that may name the images: first `file_name`, last others of file names, but not a mask's."""
    known = [c for c in ("file_name", "filename", *_COLUMNS["image_id"]) if c in header]
    others = [c for c in header if identifiers.column(c).endswith("filename") and not _OF_ANOTHER.search(c.casefold())]
    return tuple(dict.fromkeys([*known, *others]))


def _with_split(table: Table, columns: "Columns") -> Table:
    """Return the table with the column that says a split in its cells, if one does."""
    if "split" in table.columns and not columns.has_named("split", table.columns["split"]):
        split = split_column(table.header, table.cells)
        others = {field: column for field, column in table.columns.items() if field != "split"}
        table = dataclasses.replace(table, columns=others | ({"split": split} if split else {}))
    return table


def split_column(header: Collection[str], cells: Callable[[str], Iterable]) -> str | None:
    """Return the column that is named after splits and names one in a cell: a `fold` of numbers does not.

    Of several the first that calls something the test.

    Args:
        header: the columns.
        cells: gives what a column holds.
    """
    says = {
        column: {_split_in(column, cell) for cell in cells(column)} for column in _COLUMNS["split"] if column in header
    }
    return next((column for split in ("test", "train") for column in says if split in says[column]), None)


def twins(paths: Iterable[Path]) -> list[tuple[str, str]]:
    """Return the pairs of images that a list among the files calls copies, as ISIC 2020 ships one."""
    lists = [(path, _header(path)) for path in paths if _may_be_table(path)]
    lists = [(path, header) for path, header in lists if set(header) >= set(_TWINS)]
    return [
        tuple(image_name(by_column[name]) for name in _TWINS)
        for path, header in lists
        for by_column in (_by_column(header, cells) for cells in _read(path)[1])
    ]


def _is_binary(table: Table) -> bool:
    return "malignancy" in table.columns and "label" not in table.columns and not _has_several(table.header)


def is_table(path: Path) -> bool:
    """Tell whether a file is a table by its name."""
    suffix = path.suffix.lower()
    return suffix in (".csv", ".tsv", ".tab", ".jsonl", ".parquet") or path.name == "HAM10000_metadata"


def beginning(path: Path) -> list[str]:
    """Return the first lines of a text."""
    try:
        with path.open("rb") as file:
            return [line for line in _decoded(file.read(1 << 14)).splitlines() if line.strip()][:50]
    except OSError:  # a broken link, or not for us to read: no table either way
        return []


def is_header(line: str) -> bool:
    """Tell whether a line names columns of a table of images: that of their names, and what is kept of them."""
    columns = columns_of(headers(next(csv.reader([line], delimiter=_delimiter(line)), [])))
    return "image_id" in columns and len(columns) > 1


def _may_be_table(path: Path) -> bool:
    return is_table(path) and path.is_file()


def headers(raw: Iterable[object]) -> list[str]:
    """Return a table's columns, each that is known in the spelling of the sources, however it is written.

    Of two that are one column in two spellings, the first as the sources write it, or else the first, is that column;
    the other keeps its own name. A name that stands twice is numbered, so that the first counts.
    """
    raw = [identifiers.clean(column) for column in raw]
    forms = [_BY_FORM.get(identifiers.column(column)) for column in raw]
    as_known = set(raw) & set(_KNOWN)
    found: list[str] = []
    for column, known in zip(raw, forms, strict=True):
        known = column if column in _KNOWN else None if known in as_known else known
        name = column if known is None or known in found else known
        found.append(f"{name} ({found.count(name) + 1})" if name in found else name)
    return found


def _header(path: Path) -> list[str]:
    return headers(_read(path, rows=False)[0])


def _read(path: Path, *, rows: bool = True) -> tuple[list[str], Iterable[Sequence]]:
    """Return the columns of a file as they stand there, and its rows if they are asked for."""
    try:
        if path.suffix.lower() == ".parquet":
            return _read_parquet(path, rows=rows)
        if path.suffix.lower() == ".jsonl":
            return _read_json_lines(path)
        return _read_text(path, rows=rows)
    except (csv.Error, ValueError, pa.ArrowException) as error:
        why = str(error).splitlines()[0]
        raise UsageError(f"'{path}' cannot be read as a table ({why}): mend it, or move it elsewhere.") from error


def _read_text(path: Path, *, rows: bool) -> tuple[list[str], Iterable[Sequence]]:
    with path.open("rb") as file:
        content = file.read() if rows else file.readline(1 << 20)
        if not rows and content.removeprefix(b"\xef\xbb\xbf").startswith(b"sep="):
            content += file.readline(1 << 20)
        if not rows and content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            content += file.read()  # a line of UTF-16 ends between two bytes
    lines = io.StringIO(_decoded(content), newline="")
    first = lines.readline()
    start = lines.tell() if first.startswith("sep=") else 0  # by which spreadsheets tell each other what parts columns
    lines.seek(start)
    first = lines.readline() if start else first
    lines.seek(start)
    table = (row for row in csv.reader(lines, delimiter=_delimiter(first)) if row)
    # Tuples, because the garbage collector looks through lists again and again.
    return next(table, []), list(map(tuple, table)) if rows else []


def _decoded(content: bytes) -> str:
    """Return text of UTF-16 where it says so, as spreadsheets write it, of UTF-8, or else of Windows in the west."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _read_json_lines(path: Path) -> tuple[list[str], Iterable[Sequence]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("each line must be an object in braces")
    header = list(dict.fromkeys(column for row in rows for column in row))
    return header, [[row.get(column) for column in header] for row in rows]


def _read_parquet(path: Path, *, rows: bool) -> tuple[list[str], Iterable[Sequence]]:
    file = pq.ParquetFile(path)
    # Of pictures that the table itself holds, the path is enough.
    flat = [f.name for f in file.schema_arrow if not pa.types.is_struct(f.type) and not pa.types.is_binary(f.type)]
    table = file.read(columns=flat).to_pylist() if rows else []
    return flat, [[row[column] for column in flat] for row in table]


def _delimiter(header: str) -> str:
    """Return what parts the columns; spreadsheets of some languages write semicolons."""
    return max(_DELIMITERS, key=header.count)


def shipped_as(texts: Iterable[str]) -> str | None:
    """Return `test` or `train` where one of the names, of folders, files or splits, has a shipped split's word.

    A shipped validation split is `train`: whoever publishes figures on such a set has chosen models on it, and only
    its test images are meant to be seen once. A name with both words, `train_test_split`, is that of neither.
    """
    found = [_splits_in(name, of_cell=False) for name in texts]
    found = [splits for splits in found if len(splits) == 1]
    return next((split for split in ("test", "train") if {split} in found), None)


@functools.lru_cache(1 << 14)
def _splits_in(text: str, *, of_cell: bool = True) -> frozenset[str]:
    """Return the splits that a text has a word of, wherever it stands: a cell, a folder, a table or the Hub's split.

    A name may have a word by chance, as a country `TR`, a `BiopsyTest` or a patch test: it says less than a cell.
    """
    text = re.sub(r"(held|hold)[\W_]*out", r"holdout", text, flags=re.IGNORECASE)
    parts = "[A-Z]+(?![a-z])|[A-Z]?[a-z]+"  # "PublicTest", "testA"
    parts = parts if of_cell else f"(?<![A-Za-z])(?:{parts})"
    text = re.sub(r"patch[\W_]*test(s|ing)?\b", "", text, flags=re.IGNORECASE)
    words = map(str.lower, re.findall(parts, text))
    # Two letters may be anything, unless they are all there is.
    words = {*([identifiers.column(text)] if of_cell else []), *(word for word in words if len(word) > 2)}
    words = {re.sub("(data|split|set|images?|inputs?)+$", "", word) for word in words}
    validation = words & _VALIDATION and not words & _TEST
    found = {"test": words & _TEST, "train": words & _TRAIN or validation}
    return frozenset(split for split, said in found.items() if said)


def split_of(row: Mapping, columns: Mapping[str, str]) -> str | None:
    """Return `test` or `train` by the row's own column of that; see `shipped_as`."""
    column = columns.get("split", "")
    cell = row.get(column)
    split, word = _split_in(column, cell), identifiers.clean(cell)
    if split is None and word:
        _say_unknown_split(word)
    return split


def _split_in(column: str, cell: object) -> str | None:
    """Return the split that a cell names, or answers where the column asks: `is_test`, `train`."""
    return _split_of_text(identifiers.column(column), identifiers.clean(cell))


@functools.lru_cache(4096)  # a column has few different words
def _split_of_text(column: str, text: str) -> str | None:
    asked = "test" if re.search("test|held|hold", column) else "train" if "train" in column else None
    answer = _YES_OR_NO.get(text.casefold(), identifiers.number(text)) if asked else None
    if answer in (0, 1):
        return asked if answer else ("train", "test")[asked == "train"]
    return min(_splits_in(text), default=None)  # "test" of both


@functools.cache
def _say_unknown_split(word: str) -> None:
    logger.warning("a split column says '%s', which is neither test nor train: its images count as of no split", word)


def kind_of(row: Mapping, columns: Mapping[str, str]) -> str:
    """Return what kind of picture an image is, `dermoscopic` where the row does not say that it is another."""
    kind = identifiers.clean(row.get(columns.get("image_type")))
    plain = kind.lower().replace("-", " ").replace("_", " ")
    if _DERMOSCOPY.search(plain):
        return kind if _NO_DERMOSCOPY.search(plain) else "dermoscopic"
    unknown = plain in _DERMOSCOPIC or (identifiers.is_nobody(plain) and plain not in _OTHER_KINDS)
    return "dermoscopic" if unknown else kind


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
        guessed = {field: next((c for c in known if c in header), None) for field, known in _COLUMNS.items()}
        if _has_several(header):
            guessed["label"] = None
        forms = {identifiers.column(column): column for column in reversed(header)}
        given = {
            field: column if column in header else forms.get(identifiers.column(column))
            for field, column in self.given.items()
        }
        given = {field: column for field, column in given.items() if column}
        self.met.update(header, (self.given[field] for field in given))
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
    """Return the diagnosis in the source's words, as `taxonomy.find` reads them; `malignancy_of` where it has none."""
    columns = columns or columns_of(row)
    if columns.get("label"):
        return text(row[columns["label"]])
    if _LEVELS[0] in row:
        return ":".join(filter(None, (text(row.get(level)) for level in _LEVELS)))
    several = _ISIC_2017 if row.keys() >= _ISIC_2017 else _ONE_HOT
    cells = {name: identifiers.number(row[name]) for name in several if name in row}
    if not cells:
        return malignancy_of(row, columns)
    hot = [name for name, number in cells.items() if number == 1]
    if several is _ISIC_2017 and not hot and None not in cells.values():
        return "nevus"  # the third class, which has no column
    return hot[0] if len(hot) == 1 else ""


def malignancy_of(row: Mapping, columns: Mapping[str, str] | None = None) -> str:
    """Return `benign`, `malignant` or what else the source's own column of that says; nothing where it has none."""
    cell = row.get((columns or columns_of(row)).get("malignancy"))
    word = text(cell)
    return _MALIGNANCY.get(identifiers.number(word), word)


def _has_several(header: Collection[str]) -> bool:
    """Tell whether the diagnosis is spread over columns: one a diagnosis, or one a level of the archive's."""
    return _LEVELS[0] in header or {"MEL", "NV"} <= set(header) or set(header) >= _ISIC_2017


def facts_of(row: Mapping, columns: Mapping[str, str] | None = None, nobody: Counter | None = None) -> dict:
    """Return lesion, patient, age, sex and site, of those that the row knows.

    Args:
        row: of a table.
        columns: by field; without them, those that are known.
        nobody: where what stands for nobody is counted, such as `-1`.
    """
    columns = columns or columns_of(row)
    facts = {name: identifiers.person(row[columns[name]]) for name in ("lesion_id", "patient_id") if name in columns}
    if nobody is not None:
        nobody.update(v for v in facts.values() if v and identifiers.is_nobody(v))
    facts = {name: value for name, value in facts.items() if not identifiers.is_nobody(value)}
    if facts.get("lesion_id", "").isdigit() and "patient_id" in facts:
        # PAD-UFES-20 numbers its lesions; another source's 1765 is another lesion.
        facts["lesion_id"] = f"{facts['patient_id']}_{facts['lesion_id']}"
    facts |= {"age": age_of(row, columns), "sex": sex_of(row, columns), "site": site_of(row, columns)}
    facts |= {"skin_type": skin_type_of(row, columns)}
    return {name: value for name, value in facts.items() if value is not None}


_OLDEST = 120  # years: 999 is a spreadsheet's word for an age that is not known


def age_of(row: Mapping, columns: Mapping[str, str] | None = None) -> float | None:
    """Return the age in years."""
    word = text(row.get((columns or columns_of(row)).get("age"))).removesuffix("+")
    age = identifiers.number(re.sub(r"\s*(y|yrs?|years?)$", "", word, flags=re.IGNORECASE))
    return age if age is not None and 0 <= age <= _OLDEST else None


def sex_of(row: Mapping, columns: Mapping[str, str] | None = None) -> str | None:
    """Return `female` or `male`."""
    word = text(row.get((columns or columns_of(row)).get("sex"))).lower()
    return {"f": "female", "m": "male", "female": "female", "male": "male"}.get(word)


def skin_type_of(row: Mapping, columns: Mapping[str, str] | None = None) -> str | None:
    """Return the Fitzpatrick skin type, `I` to `VI`, which PAD-UFES-20 writes as a number (1.0)."""
    word = identifiers.whole(text(row.get((columns or columns_of(row)).get("skin_type"))).upper())
    numbers = ("I", "II", "III", "IV", "V", "VI")
    if word in numbers:
        return word
    return numbers[int(word) - 1] if word in ("1", "2", "3", "4", "5", "6") else None


def site_of(row: Mapping, columns: Mapping[str, str] | None = None) -> str | None:
    """Return the place on the body, in the words of the archive where they fit."""
    word = text(row.get((columns or columns_of(row)).get("site"))).lower()
    return None if identifiers.is_nobody(word) else _SITE.get(word, word)


def image_name(value: object) -> str:
    """Return an image's name without folder and suffix, as tables write it either way."""
    parts = identifiers.parts(value)
    if not parts:
        return ""
    path = PurePath(parts[-1])
    return path.stem if path.suffix.lower() in identifiers.IMAGE_SUFFIXES else path.name


def text(value: object) -> str:
    """Return what a cell holds as text, and nothing for None."""
    return identifiers.clean(value)
