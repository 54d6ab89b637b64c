"""The tables of a source: which files are tables with a row an image, and their rows (CSV, JSON lines, Parquet)."""

import csv
import dataclasses
import functools
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dermalert.data import identifiers, shipped_splits, table_cells, table_columns
from dermalert.data.unused import Unused
from dermalert.errors import UsageError

_DELIMITERS = ",\t;|"


@dataclasses.dataclass(frozen=True)
class Table:
    """A file with a row an image: CSV, TSV, JSON lines or Parquet."""

    path: Path
    header: list[str]
    """Its columns, those that are known in the spelling of `headers`."""
    columns: dict[str, str]
    image_columns: tuple[str, ...] = ()
    """Those that may name its images, if the user does not name one; of equals the first counts."""

    @property
    def names_a_diagnosis(self) -> bool:
        """Whether it says of each image what it shows."""
        return table_columns.names_a_diagnosis(self.header, self.columns)

    @property
    def shipped_split(self) -> str | None:
        """`test` or `train`, by its name: a challenge's test images are shipped as such, as in a folder `Test/`."""
        return shipped_splits.shipped_as([self.path.stem])

    @functools.cached_property
    def _all_rows(self) -> list[tuple[tuple[str, ...], Sequence[Any]]]:
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
    def entries(self) -> list[tuple[tuple[str, ...], Sequence[Any]]]:
        """Its rows, each as the folders and the name of the image that it names, and its cells; raises `UsageError`."""
        return [entry for entry in self._all_rows if entry[0]]

    @property
    def nameless(self) -> list[str]:
        """The rows that say something of no image, by their number."""
        rows = enumerate(self._all_rows, start=1)
        return [f"row {i}" for i, (parts, row) in rows if not parts and any(map(identifiers.clean, row))]

    def _refuse_lists(self, column: str, rows: Iterable[Sequence[Any]]) -> None:
        at = self.header.index(column)
        cell = next((row[at] for row in rows if isinstance(row[at], (list, dict))), None)
        if cell is not None:
            raise UsageError(f"'{self.path}': {holds_lists(column, cell)}")

    def of_files(self, is_file: Callable[[tuple[str, ...]], bool]) -> "Table":
        """The table by that column of `image_columns` whose names are those of the most files."""
        if len(self.image_columns) < 2:
            return self
        rows = list(_read(self.path)[1])
        hits = {}
        for column in self.image_columns:
            at = self.header.index(column)
            named = {identifiers.parts(row[at]) for row in rows if at < len(row)}
            hits[column] = sum(map(is_file, filter(None, named)))
        best = max(hits, key=hits.__getitem__)
        return dataclasses.replace(self, columns=self.columns | {"image_id": best}) if hits[best] else self

    def row(self, cells: Sequence[Any]) -> dict[str, Any]:
        """A row's cells by column, None where it is cut short."""
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
        return table_columns.unused_columns(self.header, self.columns)


def _by_column(header: Sequence[str], cells: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(header, [*cells, *[None] * (len(header) - len(cells))], strict=False))


def holds_lists(column: str, cell: object) -> str:
    """What is wrong with a column whose cells are to be one name each."""
    return (
        f"the column '{column}' holds a list for an image ({str(cell)[:60]}), not one name: give each image one, or "
        "name another column (--columns FIELD=COLUMN)."
    )


def read(paths: Iterable[Path], columns: table_columns.Columns, unused: Unused | None = None) -> list[Table]:
    """Return those of the files that are tables of images; what else is a table goes to `unused`."""
    tables = []
    unused = unused or Unused("")
    for path in paths:
        if _may_be_table(path):
            header = _header(path)
            of_fields, of_images = columns.of(header), table_columns.image_columns_of(header)
            if "image_id" not in of_fields and of_images:
                of_fields["image_id"] = of_images[0]
            if "image_id" in of_fields:
                named = any(columns.has_named(field, of_fields["image_id"]) for field in ("image", "image_id"))
                table = Table(path, header, of_fields, () if named else of_images)
                of_fields = shipped_splits.choose_column(of_fields, columns, header, table.cells)
                tables.append(dataclasses.replace(table, columns=of_fields))
            elif not set(header) >= set(table_columns.DUPLICATES):
                unused.add("{n} tables have no column that names an image, and are not used", [path.name])
    # A table that says only benign or malignant, such as a sample submission, does not count beside a diagnosis.
    if any(t.names_a_diagnosis and not _is_binary(t) for t in tables):
        left_out = [t.path.name for t in tables if _is_binary(t)]
        unused.add("{n} tables say only what is malignant, and are not used beside a diagnosis", left_out)
        return [t for t in tables if not _is_binary(t)]
    return tables


def listed_duplicates(paths: Iterable[Path]) -> list[tuple[str, str]]:
    """The pairs of images that a list among the files calls copies, as ISIC 2020 ships one."""
    lists = [(path, _header(path)) for path in paths if _may_be_table(path)]
    lists = [(path, header) for path, header in lists if set(header) >= set(table_columns.DUPLICATES)]
    first, second = table_columns.DUPLICATES
    return [
        (table_cells.image_name(row[first]), table_cells.image_name(row[second]))
        for path, header in lists
        for row in (_by_column(header, cells) for cells in _read(path)[1])
    ]


def _is_binary(table: Table) -> bool:
    return (
        "malignancy" in table.columns and "label" not in table.columns and not table_columns.has_several(table.header)
    )


def is_table(path: Path) -> bool:
    """Tell whether a file is a table by its name."""
    suffix = path.suffix.lower()
    return suffix in (".csv", ".tsv", ".tab", ".jsonl", ".parquet") or path.name == "HAM10000_metadata"


def beginning(path: Path) -> list[str]:
    """The first lines of a text."""
    try:
        with path.open("rb") as file:
            return [line for line in _decode(file.read(1 << 14)).splitlines() if line.strip()][:50]
    except OSError:  # a broken link, or not for us to read: no table either way
        return []


def is_header(line: str) -> bool:
    """Tell whether a line names columns of a table of images: that of their names, and what is kept of them."""
    columns = table_columns.columns_of(table_columns.headers(next(csv.reader([line], delimiter=_delimiter(line)), [])))
    return "image_id" in columns and len(columns) > 1


def _may_be_table(path: Path) -> bool:
    return is_table(path) and path.is_file()


def _header(path: Path) -> list[str]:
    return table_columns.headers(_read(path, rows=False)[0])


def _read(path: Path, *, rows: bool = True) -> tuple[list[str], Iterable[Sequence[Any]]]:
    """The columns of a file as they stand there, and its rows if they are asked for."""
    try:
        if path.suffix.lower() == ".parquet":
            return _read_parquet(path, rows=rows)
        if path.suffix.lower() == ".jsonl":
            return _read_json_lines(path)
        return _read_text(path, rows=rows)
    except (csv.Error, ValueError, pa.ArrowException) as error:
        why = str(error).splitlines()[0]
        raise UsageError(f"'{path}' cannot be read as a table ({why}): mend it, or move it elsewhere.") from error


def _read_text(path: Path, *, rows: bool) -> tuple[list[str], Iterable[Sequence[Any]]]:
    with path.open("rb") as file:
        content = file.read() if rows else file.readline(1 << 20)
        if not rows and content.removeprefix(b"\xef\xbb\xbf").startswith(b"sep="):
            content += file.readline(1 << 20)
        if not rows and content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            content += file.read()  # a line of UTF-16 ends between two bytes
    lines = io.StringIO(_decode(content), newline="")
    first = lines.readline()
    start = lines.tell() if first.startswith("sep=") else 0  # by which spreadsheets tell each other what parts columns
    lines.seek(start)
    first = lines.readline() if start else first
    lines.seek(start)
    table = (row for row in csv.reader(lines, delimiter=_delimiter(first)) if row)
    # Tuples, because the garbage collector looks through lists again and again.
    return next(table, []), list(map(tuple, table)) if rows else []


def _decode(content: bytes) -> str:
    """Return text of UTF-16 where it says so, as spreadsheets write it, of UTF-8, or else of Windows in the west."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _read_json_lines(path: Path) -> tuple[list[str], Iterable[Sequence[Any]]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("each line must be an object in braces")
    header = list(dict.fromkeys(column for row in rows for column in row))
    return header, [[row.get(column) for column in header] for row in rows]


def _read_parquet(path: Path, *, rows: bool) -> tuple[list[str], Iterable[Sequence[Any]]]:
    file = pq.ParquetFile(path)
    # Of pictures that the table itself holds, the path is enough.
    flat = [f.name for f in file.schema_arrow if not pa.types.is_struct(f.type) and not pa.types.is_binary(f.type)]
    table = file.read(columns=flat).to_pylist() if rows else []
    return flat, [[row[column] for column in flat] for row in table]


def _delimiter(header: str) -> str:
    """What parts the columns; spreadsheets of some languages write semicolons."""
    return max(_DELIMITERS, key=header.count)
