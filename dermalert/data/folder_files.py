"""Which files below a folder are images, tables, masks or texts, by their names and first bytes."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dermalert.data import identifiers, metadata_tables

# What the ISIC archives put between the images, and is none.
MASK = re.compile(r"_(superpixels|segmentation|mask)$", re.IGNORECASE)
_OFFICIAL_MASK = re.compile(r"ISIC_\d{7}_(superpixels|segmentation)")
# Tables that may lie beside the folder, or in a `metadata/` there: by these names they can only be meant for it.
OFFICIAL_TABLE = re.compile(r"(HAM10000_metadata|ISIC[-_]?20\d\d)", re.IGNORECASE)
_FIRST_BYTES = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"II*\0", b"MM\0*")
TEXTS = frozenset({".txt", ".md", ".rst", ".pdf", ".html", ".cff", ".bib", ".py", ".license"})
FILES_OF_SYSTEMS = frozenset(
    {"thumbs.db", "desktop.ini", "license", "readme", "icon\r", "dataset_info.json", "dataset_infos.json"}
)


class FolderFiles(NamedTuple):
    """What lies below a folder, in the order of the paths."""

    images: list[str]
    others: list[str]
    masks: list[str]

    @property
    def tables(self) -> list[Path]:
        """Those of the others that are tables."""
        return sorted(Path(path) for path in self.others if metadata_tables.is_table(Path(path)))


def sort_files(root: Path) -> FolderFiles:
    """What lies below a folder."""
    images: list[str] = []
    others: list[str] = []
    masks: list[str] = []
    # Sorted as paths are, a folder after the other.
    for path in sorted(_files(root), key=lambda path: path.replace(os.sep, "\0")):
        if MASK.search(stem(path)) and not is_harmless(path):
            masks.append(path)
        else:
            (images if _is_image(path) else others).append(path)
    return FolderFiles(images, others, masks)


def masks_without_photo(masks: list[str], images: list[str]) -> list[str]:
    """Return those called masks that are of no image here and not one of the archive's own: they may be photos."""
    photos = {identifiers.key(os.path.basename(path)) for path in images} if masks else set()
    return [
        path
        for path in masks
        if identifiers.key(MASK.sub("", stem(path))) not in photos and not _OFFICIAL_MASK.fullmatch(stem(path))
    ]


def tables_among(texts: list[str], images: list[str]) -> list[str]:
    """The texts that begin like a table, or of whose first lines at least half name an image."""
    lines = {path: metadata_tables.beginning(Path(path)) for path in texts}
    words = {path: [_file_keys(line) for line in lines[path]] for path in texts}
    keys = {key for each in words.values() for line in each for key in line}
    here = keys.intersection(identifiers.key(os.path.basename(path)) for path in images) if keys else keys
    naming = {path: sum(not here.isdisjoint(line) for line in words[path]) for path in texts}
    return [
        path
        for path in texts
        if lines[path] and (2 * naming[path] >= len(lines[path]) or metadata_tables.is_header(lines[path][0]))
    ]


def _file_keys(line: str) -> set[str]:
    """The normal forms of a line's words as names of files; a bare number is none."""
    words = re.split(r"[\s,;|\"']+", line)
    return {identifiers.key(re.split(r"[/\\]", word)[-1]) for word in words if word and not word.isdecimal()}


def _files(root: Path) -> Iterator[str]:
    """Yield the files below a folder, those below linked folders too, but no hidden ones.

    They are strings, because a path takes four times the room, and the table of the names that pathlib has interned
    never shrinks.
    """
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not _hidden(name)]
        yield from (os.path.join(folder, name) for name in files if not _hidden(name))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def suffix(path: str) -> str:
    """The suffix of a file's name, in small letters."""
    return os.path.splitext(path)[1].lower()


def stem(path: str) -> str:
    """A file's name without its suffix."""
    return os.path.splitext(os.path.basename(path))[0]


def image_id_of(path: str) -> str:
    """What an image is called where no table says it."""
    return identifiers.clean(stem(path))


def _is_image(path: str) -> bool:
    """Tell whether a file is an image by its suffix, or, where that says nothing, by its first bytes."""
    ending = suffix(path)
    if ending in identifiers.IMAGE_SUFFIXES:
        return True
    if metadata_tables.is_table(Path(path)) or is_harmless(path) or (ending[1:].isalpha() and len(ending) < 6):
        return False
    with open(path, "rb") as file:
        start = file.read(12)
    return start.startswith(_FIRST_BYTES) or (start[:4] == b"RIFF" and start[8:] == b"WEBP")


def is_harmless(path: str) -> bool:
    """Tell whether a file is a table, or of those that lie beside images and are expected to be none."""
    return (
        suffix(path) in TEXTS
        or os.path.basename(path).lower() in FILES_OF_SYSTEMS
        or metadata_tables.is_table(Path(path))
    )


def has_official_table(root: Path) -> bool:
    """Tell whether a table of the archive's own name lies in a folder or beside it."""
    near = (*root.rglob("*"), *root.resolve().parent.glob("*"), *root.resolve().parent.glob("metadata/*"))
    return any(OFFICIAL_TABLE.match(path.name) and metadata_tables.is_table(path) for path in near)
