"""What is wrong with a data set before anybody trains on it: found by content alone, and with the facts where known.

`audit` returns one dictionary, ready for JSON; `audit_report.py` shows it to a person. Nothing is changed here:
`repair.py` does that.
"""

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import datasets
import numpy as np

from dermalert import taxonomy
from dermalert.data import isic9, near_duplicates, schema, splits
from dermalert.errors import UsageError, did_you_mean
from dermalert.imaging import thumbnail
from dermalert.taxonomy import ALERT, MALIGNANCIES

KINDS = {
    "unreadable": "files that are no image",
    "tiny": "images too small to judge",
    "blank": "images of one colour",
    "exact-duplicates": "files that repeat another, byte for byte",
    "several-ids": "images that stand under several ids",
    "contradictions": "images that stand under two labels",
    "near-duplicates": "pairs that show the same picture",
    "near-contradictions": "pairs that show the same picture under different labels",
    "shared": "images that several of the named data sets hold",
    "leaks": "test images that are training images, byte for byte",
    "lesion-leaks": "lesions in both shipped splits",
    "patient-leaks": "patients in both shipped splits",
    "kin-leaks": "test images with known kin in training: the same bytes, picture, lesion or patient",
    "sorted-split": "diagnoses whose test images are the first or last by id",
    "source-confounding": "diagnoses that come from one source only",
    "label-disagreement": "files whose label is not the archive's",
}
"""Every kind of finding, in the order of the report."""

CONTENT, IDS, METADATA, FACTS = "content", "image ids", "metadata", "facts table"
"""Where a finding can come from: the files, their names, what the data set says of them, `isic9.csv`."""

_TINY = 64  # pixels of the shorter side: the network of a lesion is no longer there
_CHANCE = 1e-3  # under which the order of a split is no accident
_TELLING = 0.3  # sensitivity + specificity - 1 of a source that says nothing of medicine


def audit(
    dataset: datasets.Dataset, pairs: near_duplicates.Pairs | None = None, *, unreadable: Sequence[str] = ()
) -> dict:
    """Return what is wrong with a data set, ready for JSON.

    Args:
        dataset: in the schema of `schema.FEATURES` or `schema.BINARY_FEATURES`; of several data sets, as
            `loading.load(merge=False)` gives it, or what they share cannot be told.
        pairs: its near duplicates, by `near_duplicates.search`; without them, they are searched.
        unreadable: the files that were no images and are therefore not in it, the `faults` of `loading.load`.

    Returns:
        `{"schema", "files", "image_ids", "different_images", "sources", "labels", "shipped_splits", "findings"}`. A
        finding is `{"found", "count", "of", "unit", "known_from", "text", "cases": [{"images": [...], ...}], ...}`;
        `count` is None where the data set cannot tell, such as leaks where no test split is shipped.
    """
    rows = _Rows(dataset, near_duplicates.search(dataset) if pairs is None else pairs)
    checks = (
        [_unreadable(rows, unreadable), _tiny(rows), _blank(rows)]
        + [_exact_duplicates(rows), _several_ids(rows), _contradictions(rows)]
        + [_near_duplicates(rows), _near_contradictions(rows), _shared_images(rows)]
        + [_leaks(rows), _shared_ids(rows, "lesion"), _shared_ids(rows, "patient"), _kin_leaks(rows)]
        + [_sorted_split(rows), _source_confounding(rows), _label_disagreement(rows)]
    )
    return {
        "schema": 1,
        "files": len(rows.label),
        "image_ids": len(set(rows.image_id)),
        "different_images": len(set(rows.content)),
        "sources": dict(Counter(rows.source).most_common()),
        "labels": {name: rows.label.count(name) for name in rows.names if name in rows.label},
        "shipped_splits": dict(Counter(split for split in rows.split if split)),
        "findings": dict(zip(KINDS, checks, strict=True)),
    }


class _Rows:
    """The columns of a data set as lists, and what the checks share; `i` is always a row."""

    def __init__(self, dataset: datasets.Dataset, pairs: near_duplicates.Pairs):
        self.dataset, self.pairs = dataset, pairs
        self.content, self.image_id = list(dataset["content"]), list(dataset["image_id"])
        self.names = dataset.features["label"].names
        self.label = [None if label is None else self.names[label] for label in dataset["label"]]
        self.source, self.split = list(dataset["source"]), list(dataset["shipped_split"])
        self.facts = list(map(isic9.metadata_of, self.image_id))
        columns = zip(dataset["lesion_id"], self.facts, strict=True)
        self.lesion = [own or fact.get("lesion_id") for own, fact in columns]
        self.patient = list(dataset["patient_id"])
        self.named = list(dataset["named"]) if "named" in dataset.column_names else []

    def __len__(self) -> int:
        return len(self.label)

    @property
    def binary(self) -> bool:
        """Whether the labels are benign and malignant."""
        return self.names == list(MALIGNANCIES)

    def archive(self, i: int) -> str | None:
        """The archive's label of a row, where the facts table knows it."""
        diagnosis = self.facts[i].get("diagnosis")
        return taxonomy.malignancy(diagnosis) if diagnosis and self.binary else diagnosis

    @cached_property
    def copies(self) -> dict[str, list[int]]:
        """The rows of each different content."""
        return _positions_of(self.content)

    @cached_property
    def sketches(self) -> thumbnail.Sketches:
        return thumbnail.sketches(self.dataset)

    @cached_property
    def near(self) -> list[tuple[int, int, dict]]:
        """Pairs of rows, the first of each different content, and how alike they are."""
        pairs = self.pairs
        columns = (pairs.first.tolist(), pairs.second.tolist(), pairs.similarity.tolist(), pairs.turn.tolist())
        return [
            (first, second, {"similarity": round(similarity, 4), "turn": turn})
            for first, second, similarity, turn in zip(*columns, strict=True)
        ]

    @cached_property
    def ships_splits(self) -> bool:
        return {"train", "test"} <= set(self.split)

    def of(self, split: str) -> list[int]:
        """The rows of a shipped split."""
        return [i for i, part in enumerate(self.split) if part == split]

    def labels_of(self, content: str) -> set[str]:
        """The labels under which a content stands."""
        return {label for i in self.copies[content] if (label := self.label[i])}

    def image(self, i: int) -> dict:
        """What a report says of a row."""
        description = {"row": int(i), "image_id": self.image_id[i], "label": self.label[i], "source": self.source[i]}
        description |= {"shipped_split": self.split[i]} if self.split[i] else {}
        return description | ({"named": self.named[i]} if len(set(self.named)) > 1 else {})

    def case(self, members: Iterable[int], **more) -> dict:
        """An offence, and the images that commit it."""
        return {"images": [self.image(i) for i in members], **more}


def _positions_of(keys: Iterable) -> dict:
    """Return the positions of each key, without None."""
    positions = defaultdict(list)
    for i, key in enumerate(keys):
        if key is not None:
            positions[key].append(i)
    return dict(positions)


def _finding(text: str, cases: list[dict], *, of: int, unit: str, known_from: str, **more) -> dict:
    count = more.pop("count", len(cases))
    is_found = more.pop("found", bool(count))
    finding = {"found": is_found, "count": count, "of": of, "unit": unit, "known_from": known_from, "text": text}
    return finding | more | {"cases": cases}


def _cannot_tell(why: str, *, unit: str, known_from: str) -> dict:
    return _finding(why, [], count=None, found=False, of=0, unit=unit, known_from=known_from)


_NO_SPLIT = "no test split is shipped"


def _unreadable(rows: _Rows, files: Sequence[str]) -> dict:
    inside = [i for i in range(len(rows)) if rows.sketches.unreadable[i]]
    cases = [{"images": [], "file": file} for file in files] + [rows.case([i]) for i in inside]
    return _finding("", cases, of=len(rows) + len(files), unit="files", known_from=CONTENT)


def _tiny(rows: _Rows) -> dict:
    sides = rows.sketches.sizes.min(1)
    cases = [
        rows.case([i], pixels=rows.sketches.sizes[i].tolist())
        for i in np.flatnonzero((sides > 0) & (sides < _TINY)).tolist()
    ]
    return _finding(f"the shorter side is under {_TINY} pixels", cases, of=len(rows), unit="files", known_from=CONTENT)


def _blank(rows: _Rows) -> dict:
    cases = [rows.case([i]) for i in np.flatnonzero(rows.sketches.blank).tolist()]
    return _finding("", cases, of=len(rows), unit="files", known_from=CONTENT)


def _exact_duplicates(rows: _Rows) -> dict:
    same = [members for members in rows.copies.values() if len(members) > 1]
    text = f"{len(rows)} files hold {len(rows.copies)} different images"
    count = len(rows) - len(rows.copies)
    cases = [rows.case(members) for members in same]
    return _finding(text, cases, count=count, of=len(rows), unit="files", known_from=CONTENT)


def _several_ids(rows: _Rows) -> dict:
    cases = [rows.case(members) for members in rows.copies.values() if len({rows.image_id[i] for i in members}) > 1]
    text = f"{len(set(rows.image_id))} ids name {len(rows.copies)} different images"
    return _finding(text, cases, of=len(rows.copies), unit="images", known_from=f"{CONTENT}, {IDS}")


def _contradictions(rows: _Rows) -> dict:
    contents = [content for content in rows.copies if len(rows.labels_of(content)) > 1]
    pairs = Counter(" / ".join(sorted(rows.labels_of(content))) for content in contents)
    text = _in_words(pairs) or "every image has one label"
    cases = [rows.case(rows.copies[content]) for content in contents]
    return _finding(text, cases, of=len(rows.copies), unit="images", known_from=CONTENT, by_labels=dict(pairs))


def _near_duplicates(rows: _Rows) -> dict:
    turned = sum(1 for *_, how in rows.near if how["turn"])
    groups = len(rows.copies) - _count_components(rows)
    text = f"{groups} images are another one again" + (f", {turned} pairs mirrored or turned" if turned else "")
    cases = [rows.case((a, b), **how) for a, b, how in rows.near]
    return _finding(text, cases, of=len(rows.copies), unit="pairs of images", known_from=CONTENT)


def _count_components(rows: _Rows) -> int:
    numbers = {content: k for k, content in enumerate(rows.copies)}
    ends = [(numbers[rows.content[a]], numbers[rows.content[b]]) for a, b, _ in rows.near]
    return len(set(splits.components(np.array(ends, int).reshape(-1, 2), len(numbers)).tolist()))


def _near_contradictions(rows: _Rows) -> dict:
    disagreeing = [
        (a, b, how)
        for a, b, how in rows.near
        if rows.labels_of(rows.content[a]).isdisjoint(rows.labels_of(rows.content[b]))
    ]
    pairs = Counter(" / ".join(sorted({str(rows.label[a]), str(rows.label[b])})) for a, b, _ in disagreeing)
    cases = [rows.case((a, b), **how) for a, b, how in disagreeing]
    text = _in_words(pairs) or "both images of every pair have the same label"
    return _finding(text, cases, of=len(rows.near), unit="pairs of images", known_from=CONTENT)


def _shared_images(rows: _Rows) -> dict:
    known_from = f"{CONTENT}, {IDS}"
    if len(set(rows.named)) < 2:
        return _cannot_tell("one data set was named, not several", unit="images", known_from=known_from)
    columns = zip(rows.image_id, rows.content, strict=True)
    names = [schema.same_image({"image_id": image_id, "content": content}) for image_id, content in columns]
    images = list(_positions_of(splits.groups(names, [(a, b) for a, b, _ in rows.near])).values())
    # Of each image, the first row under each name.
    places = [{rows.named[i]: i for i in reversed(members)} for members in images]
    shared = [sorted(place.values()) for place in places if len(place) > 1]
    pairs = Counter(" / ".join(rows.named[i] for i in place) for place in shared)
    text = _in_words(pairs) or "no image stands in two of them"
    return _finding(text, [rows.case(place) for place in shared], of=len(images), unit="images", known_from=known_from)


def _leaks(rows: _Rows) -> dict:
    if not rows.ships_splits:
        return _cannot_tell(_NO_SPLIT, unit="test images", known_from=CONTENT)
    copies = {i: _training_rows(rows, rows.copies[rows.content[i]]) for i in rows.of("test")}
    cases = [rows.case([i, *trained]) for i, trained in copies.items() if trained]
    other = sum(1 for case in cases if case["images"][0]["label"] != case["images"][1]["label"])
    text = f"{other} of them under another label there" if cases else "no test image is a training image"
    return _finding(text, cases, of=len(rows.of("test")), unit="test images", known_from=CONTENT)


def _training_rows(rows: _Rows, members: Iterable[int]) -> list[int]:
    return [i for i in members if rows.split[i] == "train"]


def _shared_ids(rows: _Rows, what: str) -> dict:
    keys, unit = (rows.lesion, "lesions") if what == "lesion" else (rows.patient, "patients")
    groups = _positions_of(keys)
    if not rows.ships_splits or not groups:
        why = f"no {what} ids are known" if rows.ships_splits else _NO_SPLIT
        return _cannot_tell(why, unit=unit, known_from=METADATA)
    both = {key: members for key, members in groups.items() if {"train", "test"} <= {rows.split[i] for i in members}}
    cases = [
        rows.case(sorted(members, key=lambda i: rows.split[i]), **{f"{what}_id": key}) for key, members in both.items()
    ]
    named = [i for i, key in enumerate(keys) if key is not None]
    offending = [i for members in both.values() for i in members]
    text = f"{what} ids are known of {len(named)} of {len(rows)} files"
    # The facts table names no patients.
    origin = METADATA if what == "patient" else _origin(rows, offending or named)
    return _finding(text, cases, of=len(groups), unit=unit, known_from=origin)


def _origin(rows: _Rows, members: Iterable[int]) -> str:
    """Tell whether the facts table alone would know the lesions of these rows."""
    return FACTS if all(rows.facts[i].get("lesion_id") for i in members) else METADATA


def _kin_leaks(rows: _Rows) -> dict:
    if not rows.ships_splits:
        return _cannot_tell(_NO_SPLIT, unit="test images", known_from=CONTENT)
    ties = {
        "the same bytes": rows.copies.values(),
        "the same picture": _near_groups(rows),
        "the same lesion": _positions_of(rows.lesion).values(),
        "the same patient": _positions_of(rows.patient).values(),
    }
    kin: dict[int, dict[str, int]] = defaultdict(dict)
    for tie, groups in ties.items():
        for members in groups:
            trained = _training_rows(rows, members)
            for i in members if trained else ():
                if rows.split[i] == "test":
                    kin[i].setdefault(tie, trained[0])
    if not kin:
        return _finding("", [], of=len(rows.of("test")), unit="test images", known_from=CONTENT)
    by = {tie: sum(tie in related for related in kin.values()) for tie in ties}
    alone = sum(any(tie in related for tie in list(ties)[:2]) for related in kin.values())
    cases = [rows.case([i, next(iter(kin[i].values()))], by=list(kin[i])) for i in sorted(kin)]
    by_id = {"the same lesion", "the same patient"}
    named = [
        i for test, related in kin.items() for tie, other in related.items() if tie in by_id for i in (test, other)
    ]
    return _finding(
        ", ".join(f"{n} by {tie}" for tie, n in by.items() if n) + f"; by content alone {alone}",
        cases,
        of=len(rows.of("test")),
        unit="test images",
        known_from=f"{CONTENT}, {_origin(rows, named)}" if named else CONTENT,
        by_tie=by,
        by_content_alone=alone,
    )


def _near_groups(rows: _Rows) -> list[list[int]]:
    """Return the rows of both images of each near pair, copies included."""
    return [rows.copies[rows.content[a]] + rows.copies[rows.content[b]] for a, b, _ in rows.near]


def _sorted_split(rows: _Rows) -> dict:
    if not rows.ships_splits:
        return _cannot_tell(_NO_SPLIT, unit="diagnoses", known_from=IDS)
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
    return _finding(text, cases, of=len(names), unit="diagnoses", known_from=IDS)


def _natural(name: str) -> list:
    """Return a key that sorts img2 before img10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _source_confounding(rows: _Rows) -> dict:
    sources = sorted(set(rows.source))
    by_label = {
        name: dict(Counter(s for s, own in zip(rows.source, rows.label, strict=True) if own == name))
        for name in rows.names
    }
    by_label = {name: counts for name, counts in by_label.items() if counts}
    details = {"by_label": by_label, "predicts_melanoma": _melanoma_by_source(rows)}
    if len(sources) < 2:
        why = f"all comes from one source, {sources[0]}" if sources else "there are no files"
        return _cannot_tell(why, unit="diagnoses", known_from=IDS) | details
    alone = [name for name, counts in by_label.items() if len(counts) == 1]
    figures = details["predicts_melanoma"]["files"]
    text = "no melanoma, or nothing else, to tell by source"
    telling = False
    if figures["sensitivity"] is not None and figures["specificity"] is not None:
        telling = figures["sensitivity"] + figures["specificity"] - 1 >= _TELLING
        chosen = " or ".join(details["predicts_melanoma"]["sources"])
        text = (
            f"'{chosen} means melanoma' has sensitivity {figures['sensitivity']:.2f} and specificity "
            f"{figures['specificity']:.2f}"
        )
    cases = [{"images": [], "label": name, "source": next(iter(by_label[name]))} for name in alone]
    confounded = telling or bool(alone)
    return _finding(text, cases, of=len(by_label), unit="diagnoses", known_from=IDS, found=confounded) | details


def _melanoma_by_source(rows: _Rows) -> dict:
    """Return how well the best rule that knows the source alone tells melanoma.

    The best by sensitivity + specificity: it calls melanoma every source that has more of the melanomas than of the
    rest. An image under two labels counts, among the different images, as melanoma if one of them is.
    """
    files = [(source, label == ALERT) for source, label in zip(rows.source, rows.label, strict=True)]
    images = [(rows.source[members[0]], ALERT in rows.labels_of(content)) for content, members in rows.copies.items()]
    chosen = [s for s in sorted(set(rows.source)) if _share(files, {s}, True) > _share(files, {s}, False)]
    return {"sources": chosen, "files": _sensitivity(files, chosen), "different_images": _sensitivity(images, chosen)}


def _share(items: list[tuple[str, bool]], sources: Iterable[str], positive: bool) -> float:
    """Return the share of the positive, or of the negative, that come from the sources."""
    among = [source for source, is_melanoma in items if is_melanoma == positive]
    return sum(source in sources for source in among) / len(among) if among else math.nan


def _sensitivity(items: list[tuple[str, bool]], chosen: Sequence[str]) -> dict:
    melanomas = sum(positive for _, positive in items)
    sensitivity, false_alarms = (_share(items, chosen, positive) for positive in (True, False))
    return {
        "n": len(items),
        "melanomas": melanomas,
        "sensitivity": None if math.isnan(sensitivity) else round(sensitivity, 4),
        "specificity": None if math.isnan(false_alarms) else round(1 - false_alarms, 4),
    }


def _label_disagreement(rows: _Rows) -> dict:
    labelled = [i for i in range(len(rows)) if rows.archive(i) and rows.label[i]]
    if not labelled:
        return _cannot_tell("the archive's labels of these images are not known", unit="files", known_from=FACTS)
    wrong = [i for i in labelled if rows.archive(i) != rows.label[i]]
    confusion = Counter(f"{rows.label[i]}, by the archive {rows.archive(i)}" for i in wrong)
    named = Counter(rows.label[i] for i in labelled)
    none_right = sorted({str(rows.label[i]) for i in wrong} - {rows.label[i] for i in set(labelled) - set(wrong)})
    text = "; ".join([_in_words(confusion), *(f"none of the {named[name]} {name} files is one" for name in none_right)])
    cases = [rows.case([i], archive=rows.archive(i)) for i in wrong]
    return _finding(
        text if wrong else "every label is the archive's",
        cases,
        of=len(labelled),
        unit="files",
        known_from=FACTS,
        none_right=none_right,
    )


def _in_words(counter: Counter) -> str:
    return ", ".join(f"{n} {name}" for name, n in counter.most_common())


def check_kinds(kinds: Iterable[str]) -> None:
    """Refuse a kind of finding that there is not.

    Raises:
        UsageError: with the nearest that there are.
    """
    for kind in kinds:
        if kind not in (*KINDS, "any"):
            hint = did_you_mean(kind, [*KINDS, "any"])
            raise UsageError(f"--fail-on '{kind}' is no kind of finding.{hint} They are: {', '.join(KINDS)}, any.")


def check_targets(json: Path | None, figures: Path | None) -> None:
    """Refuse what a report could not be written to, before the work is done.

    Raises:
        UsageError: a file where a folder is meant or the other way round, or no right to write there.
    """
    if json and json.is_dir():
        raise UsageError(f"--json '{json}' is a folder: name a file.")
    if figures and figures.exists() and not figures.is_dir():
        raise UsageError(f"--figures '{figures}' is a file: name a folder.")
    for option, folder in (("--json", json and json.absolute().parent), ("--figures", figures and figures.absolute())):
        if folder:
            there = next(place for place in (folder, *folder.parents) if place.exists())
            if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
                raise UsageError(f"{option} cannot be written to '{there}': name another place.")


def failures(report: dict, kinds: Iterable[str]) -> list[str]:
    """Return which of the kinds (`any` for all) were found."""
    chosen = set(KINDS if "any" in kinds else kinds)
    return [kind for kind, finding in report["findings"].items() if finding["found"] and kind in chosen]
