"""The rows of a batch in the order of their urgency: as text, CSV and JSON."""

import csv
import dataclasses
import io
import json
import math
from collections import Counter
from collections.abc import Iterable

from dermalert_space import lesions
from dermalert_space.batch import Row
from dermalert_space.contract import ABSTAINED, ALERT_POINT, ATTENTION_POINT, NOT_A_DEVICE, PREDICTION_SETS, Json, State
from dermalert_space.prediction import STATES, Prediction, fields, printable, share, threshold_share, word
from dermalert_space.prediction_sets import PredictionSets
from dermalert_space.release import Release

_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # the latter wide, as they are typed in East Asia


def by_urgency(rows: Iterable[Row]) -> list[Row]:
    """Rows in the order in which a dermatologist should look at them.

    What raises the alert or asks for attention comes first, by how many times its threshold the probability is. Then
    comes what only a person can assess, by the probability of what the release alerts to; then the others, by that of
    what it asks for attention to. Files that could not be read come last, so that none lies between two patients.

    Photos of one lesion stand together, where the first that has the lesion's state would stand.
    """
    rows = list(rows)
    states = lesions.states(rows)
    first: dict[str, tuple[int, float]] = {}
    for row in rows:
        if row.lesion is not None and row.state == states[row.lesion]:
            first[row.lesion] = min(first.get(row.lesion, _rank(row)), _rank(row))

    def place(row: Row) -> tuple[tuple[int, float], str, tuple[int, float]]:
        own = _rank(row)
        if row.lesion is None or row.state == State.UNREADABLE:
            return own, "", own
        return first[row.lesion], row.lesion, own

    return sorted(rows, key=place)


def _rank(row: Row) -> tuple[int, float]:
    prediction, watched = row.prediction, row.watched
    if prediction is None or watched is None:
        return 3, 0.0
    if prediction.urgency is not None and prediction.state in (State.MELANOMA_ALERT, State.MALIGNANT_LIKELY):
        return 0, -prediction.urgency
    if prediction.state == State.CANNOT_ASSESS:
        return 1, -watched if math.isfinite(watched) else 0.0
    sums = (prediction.attention, prediction.malignant, watched)
    return 2, -next(value for value in sums if value is not None)


def for_labelling(rows: Iterable[Row]) -> list[Row]:
    """Rows in the order in which their labels teach most: the least certain about what the release alerts to first.

    That is a probability near a half, whatever the threshold and the other diagnoses. Files that could not be read, and
    predictions that are no number, come last.
    """

    def distance_to_half(row: Row) -> float:
        watched = row.watched
        return abs(watched - 0.5) if watched is not None and math.isfinite(watched) else 1.0

    return sorted(rows, key=distance_to_half)


def counts(states: Iterable[str], label: str) -> str:
    """How many files or lesions are in each state, as a list in words."""
    number = Counter(states)
    return ", ".join(f"{number[state]:,} {word(state, label)}" for state in STATES if number[state])


def of_lesions(rows: Iterable[Row], label: str) -> str:
    """How many lesions are in each state, and how many files show none; "" where files are not grouped by lesion."""
    rows = list(rows)
    states, alone = lesions.states(rows), sum(row.lesion is None for row in rows)
    if not states:
        return ""
    without = f" Files without a lesion: {alone:,}." if alone else ""
    return f"Lesions: {len(states):,} ({counts(states.values(), label)}).{without}"


def not_read(rows: Iterable[Row]) -> str:
    """The heading over the files that could not be read."""
    number = sum(row.state == State.UNREADABLE for row in rows)
    return "1 file could not be read as an image" if number == 1 else f"{number:,} files could not be read as images"


def as_text(rows: Iterable[Row], release: Release, *, sets: bool = False) -> str:
    """Rows as lines to read, the verdict first, and what stands below them; `sets`: and their prediction sets."""
    rows = list(rows)
    label, states = release.alert_label, lesions.states(rows)
    lines = [f"{'':18} {label:>10} {'malignant':>10}"]
    for row in rows:
        if row.prediction:
            members = _set(row, release) if sets else ""
            lesion = "" if row.lesion is None else f"  [{row.lesion}: {word(states[row.lesion], label)}]"
            lines.append(_line(row, row.prediction, label) + lesion + (f"  {{{members}}}" if members else ""))
    others = [row for row in rows if not row.prediction]
    lines += ["", f"{not_read(others)}:", *(f"  {row.file}: {row.problem}" for row in others)] if others else []
    alerts = (
        "has no alert threshold" if release.threshold is None else f"alerts from {threshold_share(release.threshold)}"
    )
    if release.attention and release.attention.threshold is not None:
        alerts += f", asks for attention from {threshold_share(release.attention.threshold)}"
    lines += ["", *map(_promise, [release.prediction_sets] if sets and release.prediction_sets else [])]
    lines += [of_lesions(rows, label)] if states else []
    tag = f" at {release.revision}" if release.revision else ""
    number = counts((row.state for row in rows), label)
    return "\n".join([*lines, f"{number}; release {release.public_name}{tag} {alerts}.", NOT_A_DEVICE])


def _line(row: Row, prediction: Prediction, label: str) -> str:
    shares = [row.watched, prediction.malignant if prediction.attention is None else prediction.attention]
    cells = "".join(f" {'' if share is None else f'{share:.1%}':>10}" for share in shares)
    reason = f": {prediction.abstained}" if prediction.abstained else ""
    return f"{word(row.state, label):18}{cells}  {row.file}{reason}"


def as_csv(rows: Iterable[Row], release: Release, *, sets: bool = False) -> str:
    """Rows as a CSV table, probabilities in [0, 1] with all the digits that the state follows from.

    A text that a spreadsheet would run as a formula gets an apostrophe before it. `sets`: with a column more, the
    diagnoses of each prediction set, joined by semicolons. Where files are grouped by lesion, two more say which and in
    which state it is.
    """
    rows = list(rows)
    states = lesions.states(rows)
    table = io.StringIO()
    writer = csv.writer(table, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    fixed = ["file", "state", "sentence", "alert", ABSTAINED, "problem", f"{release.alert_label} probability"]
    fixed += ["malignant probability", "attention probability", "diagnosis"]
    heads = [*fixed, *release.labels, "alert threshold", "attention threshold", "release", "tag"]
    heads += ["prediction set"] if sets else []
    heads += ["lesion", "lesion state"] if states else []
    writer.writerow(map(_cell, heads))
    about = [
        release.threshold,
        release.attention and release.attention.threshold,
        release.public_name,
        release.revision,
    ]
    for row in rows:
        record = _record(row, release)
        probabilities = record.pop("probabilities") or {}
        cells = [*record.values(), *map(probabilities.get, release.labels), *about]
        cells += [_set(row, release)] if sets else []
        cells += [row.lesion, states.get(row.lesion or "")] if states else []
        writer.writerow([_cell(value) for value in cells])
    return table.getvalue()


def _promise(sets: PredictionSets) -> str:
    """What prediction sets hold, and what they say nothing of."""
    few = [f"{name} ({sets.lesions[name]})" for name in sets.without_promise]
    without = f" Too few lesions ({sets.lesions_needed} are needed), and so in no set: {', '.join(few)}." if few else ""
    return (
        f"In braces: the set of diagnoses, made so that it lacks the right one in at most {share(sets.alpha)} of the "
        f"lesions of each diagnosis, if they are like those of the {sets.split} split.{without}\n"
    )


def _set(row: Row, release: Release) -> str:
    """The prediction set of a file in words; nothing where it is not assessed."""
    members = release.prediction_set(row.prediction)
    return "" if members is None else "; ".join(members) or "none fits"


def _cell(value: str | float | bool | None) -> str | float:
    if isinstance(value, str):
        value = printable(value)
        return f"'{value}" if value.lstrip().startswith(_FORMULA) else value
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else value


def as_json(rows: Iterable[Row], release: Release, *, sets: bool = False) -> str:
    """Rows as JSON, with the release that predicted them and what it is not; `sets`: and its prediction sets.

    Where files are grouped by lesion, each has its own and its lesion's state.
    """
    about: dict[str, object] = {"notice": NOT_A_DEVICE, "release": release.public_name, "tag": release.revision}
    about |= {ALERT_POINT: {"label": release.alert_label, "threshold": release.threshold}}
    about |= {ATTENTION_POINT: release.attention and dataclasses.asdict(release.attention)}
    rows = list(rows)
    states = lesions.states(rows)
    files = [_record(row, release) for row in rows]
    if states:
        of_row = ({"lesion": row.lesion, "lesion_state": states.get(row.lesion or "")} for row in rows)
        files = [file | lesion for file, lesion in zip(files, of_row, strict=True)]
    if sets and release.prediction_sets:
        about |= {PREDICTION_SETS: release.prediction_sets.to_json()}
        files = [
            file | {"prediction_set": release.prediction_set(row.prediction)}
            for file, row in zip(files, rows, strict=True)
        ]
    return json.dumps(about | {"files": files}, indent=1, allow_nan=False)


def _record(row: Row, release: Release) -> Json:
    """What is written of a row; None where there is nothing."""
    cells = fields(row.prediction)
    return {
        "file": row.file,
        "state": row.state,
        **{name: cells[name] for name in ("sentence", "alert", ABSTAINED)},
        "problem": row.problem,
        f"{release.alert_label} probability": _finite(row.watched),
        "malignant probability": _finite(cells["malignant"]),
        "attention probability": _finite(cells["attention"]),
        "diagnosis": cells["diagnosis"],
        "probabilities": row.prediction and {label: _finite(p) for label, p in cells["probabilities"].items()},
    }


def _finite(probability: float | None) -> float | None:
    """A probability; None of what is no number, which a damaged release may answer."""
    return None if probability is None or not math.isfinite(probability) else probability
