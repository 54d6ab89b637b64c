"""What an audit checks of the shipped splits: test images that stand in training too, or their lesions and patients."""

import math
import re
from collections import defaultdict
from typing import Any

from dermalert.data.audit_rows import (
    CONTENT,
    IDS,
    METADATA,
    NO_SPLIT,
    Finding,
    Rows,
    cannot_tell,
    finding,
    lesion_origin,
    positions_of,
    training_rows,
)

_CHANCE = 1e-3  # under which the order of a split is no accident


def findings(rows: Rows) -> dict[str, Finding]:
    """Findings by kind."""
    return {
        "leaks": _leaks(rows),
        "lesion-leaks": _shared_ids(rows, "lesion"),
        "patient-leaks": _shared_ids(rows, "patient"),
        "kin-leaks": _related_leaks(rows),
        "sorted-split": _sorted_split(rows),
    }


def _leaks(rows: Rows) -> Finding:
    if not rows.ships_splits:
        return cannot_tell(NO_SPLIT, unit="test images", known_from=CONTENT)
    copies = {i: training_rows(rows, rows.copies[rows.content[i]]) for i in rows.of("test")}
    cases = [rows.case([i, *trained]) for i, trained in copies.items() if trained]
    other = sum(1 for case in cases if case["images"][0]["label"] != case["images"][1]["label"])
    text = f"{other} of them under another label there" if cases else "no test image is a training image"
    return finding(text, cases, of=len(rows.of("test")), unit="test images", known_from=CONTENT)


def _shared_ids(rows: Rows, what: str) -> Finding:
    keys, unit = (rows.lesion, "lesions") if what == "lesion" else (rows.patient, "patients")
    groups = positions_of(keys)
    if not rows.ships_splits or not groups:
        why = f"no {what} ids are known" if rows.ships_splits else NO_SPLIT
        return cannot_tell(why, unit=unit, known_from=METADATA)
    both = {key: members for key, members in groups.items() if {"train", "test"} <= {rows.split[i] for i in members}}
    cases = [
        rows.case(sorted(members, key=lambda i: rows.split[i] or ""), **{f"{what}_id": key})
        for key, members in both.items()
    ]
    named = [i for i, key in enumerate(keys) if key is not None]
    offending = [i for members in both.values() for i in members]
    text = f"{what} ids are known of {len(named)} of {len(rows)} files"
    # The archive's table names no patients.
    origin = METADATA if what == "patient" else lesion_origin(rows, offending or named)
    return finding(text, cases, of=len(groups), unit=unit, known_from=origin)


def _related_leaks(rows: Rows) -> Finding:
    if not rows.ships_splits:
        return cannot_tell(NO_SPLIT, unit="test images", known_from=CONTENT)
    ties = {
        "the same bytes": rows.copies.values(),
        "the same picture": _near_groups(rows),
        "the same lesion": positions_of(rows.lesion).values(),
        "the same patient": positions_of(rows.patient).values(),
    }
    related: dict[int, dict[str, int]] = defaultdict(dict)
    for tie, groups in ties.items():
        for members in groups:
            trained = training_rows(rows, members)
            for i in members if trained else ():
                if rows.split[i] == "test":
                    related[i].setdefault(tie, trained[0])
    if not related:
        return finding("", [], of=len(rows.of("test")), unit="test images", known_from=CONTENT)
    by = {tie: sum(tie in by_tie for by_tie in related.values()) for tie in ties}
    alone = sum(any(tie in by_tie for tie in list(ties)[:2]) for by_tie in related.values())
    cases = [rows.case([i, next(iter(related[i].values()))], by=list(related[i])) for i in sorted(related)]
    by_id = {"the same lesion", "the same patient"}
    named = [
        i for test, by_tie in related.items() for tie, other in by_tie.items() if tie in by_id for i in (test, other)
    ]
    return finding(
        ", ".join(f"{n} by {tie}" for tie, n in by.items() if n) + f"; by content alone {alone}",
        cases,
        of=len(rows.of("test")),
        unit="test images",
        known_from=f"{CONTENT}, {lesion_origin(rows, named)}" if named else CONTENT,
        by_tie=by,
        by_content_alone=alone,
    )


def _near_groups(rows: Rows) -> list[list[int]]:
    """The rows of both images of each near pair, copies included."""
    return [rows.copies[rows.content[a]] + rows.copies[rows.content[b]] for a, b, _ in rows.near]


def _sorted_split(rows: Rows) -> Finding:
    if not rows.ships_splits:
        return cannot_tell(NO_SPLIT, unit="diagnoses", known_from=IDS)
    cases, names = [], sorted({label for i in rows.of("test") if (label := rows.label[i])})
    for name in names:
        members = sorted(
            (i for i in range(len(rows)) if rows.label[i] == name), key=lambda i: _natural(rows.image_id[i])
        )
        splits = [rows.split[i] for i in members if rows.split[i] in ("train", "test")]
        tests = splits.count("test")
        block = ["test"] * tests + ["train"] * (len(splits) - tests)
        if 2 / math.comb(len(splits), tests) < _CHANCE and splits in (block, block[::-1]):
            ends = [i for i in members if rows.split[i] == "test"], [i for i in members if rows.split[i] == "train"]
            cases.append(
                rows.case([ends[0][-1], ends[1][0]] if splits == block else [ends[0][0], ends[1][-1]], label=name)
            )
    text = (
        "every test id lies below, or every one above, all training ids: no random sample"
        if cases
        else "the ids are mixed"
    )
    return finding(text, cases, of=len(names), unit="diagnoses", known_from=IDS)


def _natural(name: str) -> list[Any]:
    """A key that sorts img2 before img10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]
