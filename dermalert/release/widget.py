"""Photographs that a release has with it, so that its page on the Hub can offer them to try it on."""

import shutil
from pathlib import Path
from typing import NamedTuple

from dermalert_space.contract import FIGURES, Json


class Example(NamedTuple):
    """A photograph that may be shown, and that no release learns from."""

    file: str
    title: str
    credit: str

    def to_json(self) -> Json:
        """The entry in the front matter of the card; the Hub looks for the file in the repository."""
        return {"src": f"{FIGURES}/{self.file}", "example_title": self.title}


_CREDIT = "Hospital Italiano de Buenos Aires, ISIC archive, CC BY 4.0; scaled down"

EXAMPLES = (
    Example("example-melanoma.jpg", "Melanoma", f"ISIC_7376452, {_CREDIT}"),
    Example("example-nevus.jpg", "Nevus", f"ISIC_2248597, {_CREDIT}"),
)

FILES = tuple(f"{FIGURES}/{example.file}" for example in EXAMPLES)


def add(folder: Path) -> None:
    """Copy the examples into the folder of a release."""
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    for example in EXAMPLES:
        shutil.copyfile(Path(__file__).parent / example.file, folder / FIGURES / example.file)
