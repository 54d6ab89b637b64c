"""Triage as a terminal shows it: the progress, the table, and nothing half written where it is interrupted."""

import argparse
import functools
import io
import signal
import sys
import warnings
from pathlib import Path

from transformers.utils import logging

from dermalert_space import batch, files, inputs, lesions, tables
from dermalert_space.release import Release
from dermalert_space.release_loading import NoRelease

_RANKED = (
    "Ranked for labelling. Labels of the first teach more than those of others, but measure nothing: for sensitivity, "
    "specificity and calibration label images drawn at random."
)


def triage(options: argparse.Namespace) -> int:
    """Predict what the options of `cli` name, print it and write it, and return the exit code."""
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
        if not isinstance(error, NoRelease | OSError | lesions.NoLesions):
            raise
        print(error, file=sys.stderr)
        return 2 if isinstance(error, lesions.NoLesions) else 1
    finally:
        signal.signal(signal.SIGINT, before)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show each name
    print(tables.as_text(rows, release, sets=sets))
    if options.rank_for_labelling:
        print(_RANKED)
    return 1 if any(row.problem for row in rows) else 0


def _predict(options: argparse.Namespace) -> tuple[list[batch.Row], Release]:
    """The rows, the most urgent or the most instructive first, and their release; the progress is written to stderr."""
    names = inputs.names(options.images, full_names=True)
    by_file = _lesions(options.lesions, names)
    release = Release.load(options.model)
    if options.prediction_sets and release.prediction_sets is None:
        raise NoRelease(f"{release} has no prediction sets, as it was made before there were any.")
    release.verify_parity(functools.partial(print, file=sys.stderr))
    rows: list[batch.Row] = []
    predicted = batch.predict_files(release, inputs.expand(options.images, full_names=True))
    for row in lesions.grouped(predicted, by_file):
        rows.append(row)
        _show(len(rows), len(names))
    order = tables.for_labelling if options.rank_for_labelling else tables.by_urgency
    return order(rows), release


def _lesions(given: str | None, names: list[str]) -> dict[str, str]:
    """The lesion of each file by the pattern or the table that is given; {} where none is."""
    if given is None:
        return {}
    return lesions.by_table(Path(given), names) if given.lower().endswith(".csv") else lesions.by_pattern(given, names)


def _show(done: int, total: int) -> None:
    """Write the progress to stderr: in place on a terminal, else lines at 100 files, 1,000 and so on."""
    text = f"{done:,} of {total:,} files assessed"
    if sys.stderr.isatty():
        print(f"\r{text}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total or (str(done).strip("0") == "1" and done >= 100):
        print(text, file=sys.stderr, flush=True)
