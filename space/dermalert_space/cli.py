"""The command `triage.py`: predict files, folders and zip archives, and list them with the most urgent first.

python triage.py IMAGES... --model MODEL[@TAG] [--csv FILE] [--json FILE] [--lesions PATTERN|FILE.csv]
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from dermalert_space.contract import BUNDLED, NOT_A_DEVICE


def main(arguments: Sequence[str] | None = None, *, prog: str = "triage.py") -> int:
    """Predict files, folders and zip archives, print the most urgent first, and return the exit code.

    0: each file was predicted, or abstained from with a reason. 1: a file or the release could not be read.
    2: the command was wrong. 130: it was interrupted; nothing is written then.
    """
    options = _options(arguments, prog)
    # Only now: help and a mistake do not wait for torch.
    from dermalert_space import terminal

    return terminal.triage(options)


def _options(arguments: Sequence[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog, allow_abbrev=False, description=f"Assess many dermoscopy images. {NOT_A_DEVICE}"
    )
    parser.add_argument("images", nargs="+", type=Path, help="files, folders with all below them, and zip archives")
    parser.add_argument(
        "--model",
        default=BUNDLED if BUNDLED.is_dir() else None,
        metavar="MODEL[@TAG]",
        help="the release: a folder, or USER/REPO of the Hub at a tag; by default the bundled one",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there, for a spreadsheet")
    parser.add_argument(
        "--prediction-sets",
        "--prediction_sets",
        action="store_true",
        help="add the diagnoses that an image may show, of which the right one is left out in a stated share",
    )
    parser.add_argument(
        "--rank-for-labelling",
        "--rank_for_labelling",
        action="store_true",
        help="list first what a label would teach most, not what is most urgent",
    )
    parser.add_argument(
        "--lesions",
        metavar="PATTERN|FILE.csv",
        help="list photos of one lesion together: a table with the columns file and lesion, or a regular expression "
        "whose one group is the lesion in a file's name, such as '(.+)[_-]'",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it there, for a program")
    options = parser.parse_args(arguments)
    if options.model is None:
        parser.error("set --model to a release: a folder, or USER/REPO@TAG of the Hub.")
    for path in options.images:
        if not path.exists():
            parser.error(f"there is no file or folder '{path}'.")
    for path, ending in ((options.csv, ".csv"), (options.json, ".json")):
        if path and path.suffix.lower() != ending:  # or `--csv a.jpg b.jpg` would write over an image
            parser.error(f"--{ending[1:]} takes the name of the table to write, which ends in {ending}, not '{path}'.")
        if path and (path.is_dir() or not os.access(path.resolve().parent, os.W_OK)):
            parser.error(f"cannot write '{path}': name a file in a folder that is there and may be written to.")
    return options
