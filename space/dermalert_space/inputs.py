"""List the single files of files, folders and zip archives, each with its content or the reason why it has none."""

import functools
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from dermalert_space.prediction import printable
from dermalert_space.zip_archives import Entries, Input, in_zip, is_left_out, is_zip

LIMIT = 10_000
"""Files that one batch takes, by default."""

LONGEST_NAME = 200


def expand(paths: Iterable[str | Path], *, limit: int = LIMIT, full_names: bool = False) -> Iterator[tuple[str, Input]]:
    """Yield the name and the `Input` of each file in files, folders (with all below) and zip archives.

    Hidden files in folders and archives are left out, and what systems leave there. Links to folders, archives in
    archives, encrypted and damaged members, bombs and whatever else cannot be read are yielded with the reason.

    Args:
        paths: of files, folders and zip archives.
        limit: how many files to yield; one more says that there are others.
        full_names: whether files are named by the path as it is given, not only by its last part.
    """
    for name, read in _list(paths, limit, full_names):
        yield name, read()


def count(paths: Iterable[str | Path], *, limit: int = LIMIT) -> int:
    """The number of files that `expand` will yield."""
    return len(names(paths, limit=limit))


def names(paths: Iterable[str | Path], *, limit: int = LIMIT, full_names: bool = False) -> list[str]:
    """The names of the files that `expand` will yield."""
    return [name for name, _ in _list(paths, limit, full_names)]


def display_name(name: str) -> str:
    """A file's name, at most `LONGEST_NAME` letters; what cannot be seen, or turns the line round, is replaced."""
    name = printable(name)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 60]}…{name[-59:]}"


def _list(paths: Iterable[str | Path], limit: int, full_names: bool) -> Entries:
    files = itertools.chain.from_iterable(_below(Path(p), str(p) if full_names else Path(p).name) for p in paths)
    for number, (name, read) in enumerate(files):
        if number == limit:
            problem = f"the file and all that follow were left out: a batch takes at most {limit:,} files."
            yield display_name(name), functools.partial(str, problem)
            return
        yield display_name(name), read


def _below(path: Path, name: str) -> Entries:
    if not (path.is_dir() or is_zip(path)):
        yield name, lambda: path
        return
    files = _in_folder(path, name) if path.is_dir() else in_zip(path, name)
    yield next(files, (name, lambda: "no file lies in it."))
    yield from files


def _in_folder(folder: Path, name: str) -> Entries:
    errors: list[OSError] = []
    # Links to folders are not followed: one may lead back to where it lies.
    for root, folders, files in os.walk(folder, onerror=errors.append):
        folders[:] = sorted(entry for entry in folders if not is_left_out(entry))
        for entry in sorted(filter(lambda entry: not is_left_out(entry), files)):
            path = Path(root, entry)
            yield from _below(path, str(Path(name, path.relative_to(folder))))
        for entry in folders:
            if Path(root, entry).is_symlink():
                shown_as = str(Path(name, Path(root, entry).relative_to(folder)))
                yield shown_as, lambda: "the name is a link to a folder: name the folder itself."
    for error in errors:
        yield str(Path(name, Path(error.filename).relative_to(folder))), lambda: "the folder cannot be read."
