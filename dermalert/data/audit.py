"""What is wrong with a data set before anybody trains on it, by content alone and by the metadata that there is.

`audit` returns one dictionary, ready for JSON; `audit_report.py` shows it to a person. Nothing is changed here:
`label_repair.py` does that.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import datasets

from dermalert.data import audit_images, audit_labels, audit_splits, copies, near_duplicates
from dermalert.data.audit_rows import Finding, Rows
from dermalert.errors import UsageError, did_you_mean

KINDS = {
    "unreadable": "files that are no image",
    "tiny": "images too small to assess",
    "blank": "images of one colour",
    "exact-duplicates": "files that repeat another, byte for byte",
    "several-ids": "images that stand under several ids",
    "contradictions": "images that stand under two labels",
    "near-duplicates": "pairs that show the same picture",
    "near-contradictions": "pairs that show the same picture under different labels",
    "cross-source-copies": "pairs of two sources that are one photograph, in another crop or other colours",
    "shared": "images that several of the named data sets hold",
    "leaks": "test images that are training images, byte for byte",
    "lesion-leaks": "lesions in both shipped splits",
    "patient-leaks": "patients in both shipped splits",
    "kin-leaks": "test images related to training images: the same bytes, picture, lesion or patient",
    "sorted-split": "diagnoses whose test images are the first or last by id",
    "source-confounding": "diagnoses that come from one source only",
    "label-disagreement": "files whose label is not the archive's",
}
"""Every kind of finding, in the order of the report."""


class Report(TypedDict):
    """An audit, as it is published."""

    schema: int
    files: int
    image_ids: int
    different_images: int
    sources: dict[str, int]
    labels: dict[str, int]
    shipped_splits: dict[str, int]
    left_out: dict[str, Any]
    """The images that were not taken, and why."""
    findings: dict[str, Finding]


def audit(
    dataset: datasets.Dataset,
    pairs: near_duplicates.Pairs | None = None,
    across: copies.Copies | None = None,
    *,
    unreadable: Sequence[str] = (),
    left_out: Mapping[str, Mapping[str, Any]] = {},
) -> Report:
    """What is wrong with a data set, ready for JSON.

    Args:
        dataset: in the schema of `schema.FEATURES` or `schema.BINARY_FEATURES`; of several data sets, as
            `loading.load(merge=False)` gives it, or what they share cannot be told.
        pairs: its near duplicates, by `near_duplicates.search`; without them, they are searched.
        across: its copies across sources, by `copies.search`; likewise.
        unreadable: the files that were no images and are therefore not in it, see `loading.Loaded`.
        left_out: the images that were not taken, and why: likewise.
    """
    pairs = near_duplicates.search(dataset) if pairs is None else pairs
    rows = Rows(dataset, pairs, copies.search(dataset) if across is None else across)
    return {
        "schema": 1,
        "files": len(rows.label),
        "image_ids": len(set(rows.image_id)),
        "different_images": len(set(rows.content)),
        "sources": dict(Counter(rows.source).most_common()),
        "labels": {name: rows.label.count(name) for name in rows.names if name in rows.label},
        "shipped_splits": dict(Counter(split for split in rows.split if split)),
        "left_out": dict(left_out),
        "findings": audit_images.findings(rows, unreadable) | audit_splits.findings(rows) | audit_labels.findings(rows),
    }


def check_kinds(kinds: Iterable[str]) -> None:
    """Refuse a kind of finding that there is not.

    Raises:
        UsageError: with the nearest that there are.
    """
    for kind in kinds:
        if kind not in (*KINDS, "any"):
            hint = did_you_mean(kind, [*KINDS, "any"])
            raise UsageError(f"--fail-on '{kind}' is no kind of finding.{hint} They are: {', '.join(KINDS)}, any.")


def failures(report: Report, kinds: Iterable[str]) -> list[str]:
    """Which of the kinds (`any` for all) were found."""
    chosen = set(KINDS if "any" in kinds else kinds)
    return [kind for kind, finding in report["findings"].items() if finding["found"] and kind in chosen]
