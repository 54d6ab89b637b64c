"""Photographs that a release has with it, so that its page on the Hub can offer them to try it on.

They are those of the Space's examples that somebody has published, one a diagnosis. Installed without the Space's
folder, a release is published without them.
"""

import functools
import shutil
from pathlib import Path
from typing import NamedTuple

from dermalert_space.contract import FIGURES, Json
from dermalert_space.page import examples

PREFIX = "example-"
"""What their names among the figures begin with."""


class Example(NamedTuple):
    """A photograph that may be shown, and that no release learns from."""

    source: Path
    title: str
    credit: str

    @property
    def file(self) -> str:
        """Its name among the figures."""
        return f"{PREFIX}{self.source.name}"

    def to_json(self) -> Json:
        """The entry in the front matter of the card; the Hub looks for the file in the repository."""
        return {"src": f"{FIGURES}/{self.file}", "example_title": self.title}


@functools.cache
def photographs() -> tuple[Example, ...]:
    """The first published photograph of each diagnosis."""
    if not (examples.FOLDER / examples.TABLE).is_file():
        return ()
    published = [each for each in examples.read(examples.FOLDER) if each.url]
    first = {each.truth: each for each in reversed(published)}
    shown = [each for each in published if first[each.truth] is each]
    return tuple(Example(each.path, each.caption, f"{each.attribution}, {each.url}") for each in shown)


def add(folder: Path) -> None:
    """Copy the photographs into the folder of a release."""
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    for example in photographs():
        shutil.copyfile(example.source, folder / FIGURES / example.file)
