"""The command `triage.py`: predict files, folders and zip archives, and list them with the most urgent first.

python triage.py IMAGES... --model MODEL[@TAG] [--csv FILE] [--json FILE]
"""

import argparse
import functools
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from transformers.utils import logging

from dermalert_space import batch, files, inputs, tables
from dermalert_space.contract import NOT_A_DEVICE
from dermalert_space.release import BUNDLED, Release
from dermalert_space.release_loading import NoRelease

_RANKED = (
    "Ranked for labelling. Labels of the first teach more than those of others, but measure nothing: for sensitivity, "
    "specificity and calibration label images drawn at random."
)


def main(arguments: Sequence[str] | None = None, *, prog: str = "triage.py") -> int:
    """Predict files, folders and zip archives, print the most urgent first, and return the exit code.

    0: each file was predicted, or abstained from with a reason. 1: a file or the release could not be read.
    2: the command was wrong. 130: it was interrupted; nothing is written then.
    """
    options = _options(arguments, prog)
    # What Pillow warns of (odd metadata) changes no answer.
    warnings.filterwarnings("ignore", module="PIL")
    logging.disable_progress_bar()
    interrupted = []

    def interrupt(*_: object) -> None:
        interrupted.append(True)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        rows, release = _predict(options)
        sets = options.prediction_sets
        for path, table in ((options.csv, tables.as_csv), (options.json, tables.as_json)):
            if path:
                with files.atomic_write(path.resolve()) as partial:
                    partial.write_text(table(rows, release, sets=sets), encoding="utf-8", newline="")
    # Where it strikes in the middle of a library's work, an interruption may come out as another error.
    except (Exception, KeyboardInterrupt) as error:
        if interrupted:
            print("\nInterrupted: nothing was written.", file=sys.stderr)
            return 130
        if not isinstance(error, NoRelease | OSError):
            raise
        print(error, file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGINT, before)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show each name
    print(tables.as_text(rows, release, sets=sets))
    if options.rank_for_labelling:
        print(_RANKED)
    return 1 if any(row.problem for row in rows) else 0


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
        action="store_true",
        help="add the diagnoses that an image may show, of which the right one is left out in a stated share",
    )
    parser.add_argument(
        "--rank-for-labelling",
        action="store_true",
        help="list first what a label would teach most, not what is most urgent",
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


def _predict(options: argparse.Namespace) -> tuple[list[batch.Row], Release]:
    """The rows, the most urgent or the most instructive first, and their release; the progress is written to stderr."""
    release = Release.load(options.model)
    if options.prediction_sets and release.prediction_sets is None:
        raise NoRelease(f"{release} has no prediction sets, as it was made before there were any.")
    release.verify_parity(functools.partial(print, file=sys.stderr))
    total, rows = inputs.count(options.images), []
    for row in batch.predict_files(release, inputs.expand(options.images, full_names=True)):
        rows.append(row)
        _show(len(rows), total)
    order = tables.for_labelling if options.rank_for_labelling else tables.by_urgency
    return order(rows), release


def _show(done: int, total: int) -> None:
    """Write the progress to stderr: in place on a terminal, else lines at 100 files, 1,000 and so on."""
    text = f"{done:,} of {total:,} files assessed"
    if sys.stderr.isatty():
        print(f"\r{text}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total or (str(done).strip("0") == "1" and done >= 100):
        print(text, file=sys.stderr, flush=True)
