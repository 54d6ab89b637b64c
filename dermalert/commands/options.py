"""Options that several commands have, and where what they write may go."""

import os
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from dermalert.errors import UsageError

Repair = Annotated[
    Literal["archive", "drop-conflicts", "none"],
    Option(
        "--label-repair",
        "--repair",
        help="what is done about wrong labels: take the ISIC archive's, drop images under two, or nothing",
    ),
]

ImageTypes = Annotated[
    list[str] | None,
    Option(
        help="a kind of picture that is taken: dermoscopic (the default), clinical or tbp; may be repeated",
        metavar="TYPE",
    ),
]

ModelRepo = Annotated[str, Argument(help="model repository of the Hub", metavar="USER/REPO")]


def check_targets(json: Path | None, figures: Path | None) -> None:
    """Refuse what a report could not be written to, before the work is done."""
    if json and json.is_dir():
        raise UsageError(f"--json '{json}' is a folder: name a file.")
    if figures and figures.exists() and not figures.is_dir():
        raise UsageError(f"--figures '{figures}' is a file: name a folder.")
    for option, folder in (("--json", json and json.absolute().parent), ("--figures", figures and figures.absolute())):
        if folder:
            there = next(place for place in (folder, *folder.parents) if place.exists())
            if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
                raise UsageError(f"{option} cannot be written to '{there}': name another place.")
