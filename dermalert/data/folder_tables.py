"""The tables of a folder: which row of which table means which image, and what the rows say of it."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dermalert.data import (
    folder_files,
    identifiers,
    lesion_aliases,
    matching,
    metadata_tables,
    shipped_splits,
    table_cells,
)
from dermalert.data.records import Selection, warn_of_nobody
from dermalert.data.unused import Unused

_WHOSE = ("lesion_id", "patient_id")


class FolderTables:
    """A folder's images and tables, and which row of which table means which image."""

    def __init__(
        self,
        root: Path,
        images: list[str],
        tables: list[metadata_tables.Table],
        beside: list[metadata_tables.Table],
        unused: Unused,
        selection: Selection,
    ):
        self.root, self.images, self.unused, self.selection = root, images, unused, selection
        self.matches: list[tuple[metadata_tables.Table, matching.Match]] = []
        if tables or beside:
            base = len(str(root)) + 1
            files = matching.Files(images, lambda path: path[base:])
            inside = (table.path.parent if table.path.is_relative_to(root) else root for table in tables)
            own = [(t, identifiers.parts(place.relative_to(root))) for t, place in zip(tables, inside, strict=True)]
            for table, folder in [*own, *((table, ()) for table in beside)]:
                table = table.of_files(files.has)
                self.matches.append((table, matching.match(table, files, folder)))
        self.own = self.matches[: len(tables)]
        self.labelling = [(t, m) for t, m in self.own if t.names_a_diagnosis and (m.rows or m.ambiguous)] or [
            (t, m) for t, m in self.matches[len(tables) :] if t.names_a_diagnosis and (m.rows or m.ambiguous)
        ]

    def metadata(self) -> dict[str, dict[str, Any]]:
        """What the tables know of each image, by path; say what stands for nobody, and what contradicts."""
        by_path: dict[str, dict[str, Any]] = {}
        nobody: Counter[str] = Counter()
        against = []
        for path, row, table in self._rows():
            metadata, before = table_cells.metadata_of(row, table.columns, nobody), by_path.get(path)
            other = before and lesion_aliases.other_archive_id(before.get("lesion_id"), metadata.get("lesion_id"))
            if before and other:
                before, metadata = before | {"other_lesion_id": other}, metadata | {"lesion_id": before["lesion_id"]}
            if before and not all(map(lesion_aliases.agree, map(metadata.get, _WHOSE), map(before.get, _WHOSE))):
                against.append(os.path.relpath(path, self.root))
            by_path[path] = metadata | before if before else metadata
        self.unused.add(
            "{n} images in '{where}' have several lesions or patients by their rows, of which the first counts", against
        )
        warn_of_nobody(nobody, str(self.root))
        return by_path

    def splits(self) -> dict[str, str]:
        """The shipped split of each image by the tables' own columns: `test` where any row says so."""
        by_path: dict[str, str | None] = {}
        for path, row, table in self._rows("split"):
            by_path[path] = shipped_splits.merge(by_path.get(path), shipped_splits.split_of(row, table.columns))
        return {path: split for path, split in by_path.items() if split}

    def _rows(self, field: str | None = None) -> Iterator[tuple[str, dict[str, Any], metadata_tables.Table]]:
        """Yield each image's path with each row that means it, and its table, of the tables with that field."""
        for table, match in self.matches:
            if field is None or field in table.columns:
                yield from ((path, row, table) for path, rows in match.rows.items() for row in rows)

    def report(self) -> None:
        """Collect what the folder's own tables hold and nothing uses."""
        for table, match in self.own:
            name = table.path.name
            if table.path.is_relative_to(self.root):
                name = table.path.relative_to(self.root).as_posix()
            self.unused.add(f"{{n}} rows of '{name}' name no image", table.nameless)
            if not table.entries and not table.nameless:
                self.unused.add("{n} tables in '{where}' have a header and no rows", [name])
            if not match.rows:
                kept = f"'{name}' in '{{where}}' means no image that is there, so that its {{n}} rows are not used"
                self.unused.add(kept, match.without_file or [row for _, row in match.contested])
            elif match.without_file:
                self.unused.add("{n} rows of '{where}' have no image", match.without_file)
            if match.contested:
                files = dict.fromkeys(path for path, _ in match.contested)
                self.unused.add("{n} images are meant by several rows each, so that none is taken", files)
            shifted = f"{{n}} rows of '{name}' have more cells than it has columns, and may be shifted"
            self.unused.add(shifted, table.overlong)
            unread = table.unused_columns if match.rows else ()
            self.unused.add(f"{{n}} columns of '{name}' are not used (--columns FIELD=COLUMN reads one)", unread)

    def without_row(self) -> list[str]:
        """The images that no table means, each name once."""
        matched = {path for _, match in self.matches for path in match.rows}
        return list(
            {folder_files.stem(path): os.path.basename(path) for path in self.images if path not in matched}.values()
        )
