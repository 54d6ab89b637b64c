"""What an audit checks of the images: files that are none, copies, pairs that show the same picture, labels of both."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from dermalert.data import groups, schema
from dermalert.data.audit_rows import CONTENT, IDS, Finding, Rows, cannot_tell, counts_text, finding, positions_of

_TINY = 64  # pixels of the shorter side: the network of a lesion is no longer there


def findings(rows: Rows, unreadable: Sequence[str]) -> dict[str, Finding]:
    """Findings by kind; `unreadable` are the files that were no images and are therefore not among the rows."""
    return {
        "unreadable": _unreadable(rows, unreadable),
        "tiny": _tiny(rows),
        "blank": _blank(rows),
        "exact-duplicates": _exact_duplicates(rows),
        "several-ids": _several_ids(rows),
        "contradictions": _contradictions(rows),
        "near-duplicates": _near_duplicates(rows),
        "near-contradictions": _near_contradictions(rows),
        "cross-source-copies": _cross_source_copies(rows),
        "shared": _shared_images(rows),
    }


def _unreadable(rows: Rows, files: Sequence[str]) -> Finding:
    inside = [i for i in range(len(rows)) if rows.fingerprints.unreadable[i]]
    cases = [{"images": [], "file": file} for file in files] + [rows.case([i]) for i in inside]
    return finding("", cases, of=len(rows) + len(files), unit="files", known_from=CONTENT)


def _tiny(rows: Rows) -> Finding:
    shortest = rows.fingerprints.sizes.min(1)
    cases = [
        rows.case([i], pixels=rows.fingerprints.sizes[i].tolist())
        for i in np.flatnonzero((shortest > 0) & (shortest < _TINY)).tolist()
    ]
    return finding(f"the shorter side is under {_TINY} pixels", cases, of=len(rows), unit="files", known_from=CONTENT)


def _blank(rows: Rows) -> Finding:
    cases = [rows.case([i]) for i in np.flatnonzero(rows.fingerprints.blank).tolist()]
    return finding("", cases, of=len(rows), unit="files", known_from=CONTENT)


def _exact_duplicates(rows: Rows) -> Finding:
    same = [members for members in rows.copies.values() if len(members) > 1]
    text = f"{len(rows)} files hold {len(rows.copies)} different images"
    count = len(rows) - len(rows.copies)
    cases = [rows.case(members) for members in same]
    return finding(text, cases, count=count, of=len(rows), unit="files", known_from=CONTENT)


def _several_ids(rows: Rows) -> Finding:
    cases = [rows.case(members) for members in rows.copies.values() if len({rows.image_id[i] for i in members}) > 1]
    text = f"{len(set(rows.image_id))} ids name {len(rows.copies)} different images"
    return finding(text, cases, of=len(rows.copies), unit="images", known_from=f"{CONTENT}, {IDS}")


def _contradictions(rows: Rows) -> Finding:
    contents = [content for content in rows.copies if len(rows.labels_of(content)) > 1]
    pairs = Counter(" / ".join(sorted(rows.labels_of(content))) for content in contents)
    text = counts_text(pairs) or "every image has one label"
    cases = [rows.case(rows.copies[content]) for content in contents]
    return finding(text, cases, of=len(rows.copies), unit="images", known_from=CONTENT, by_labels=dict(pairs))


def _near_duplicates(rows: Rows) -> Finding:
    turned = sum(1 for *_, how in rows.near if how["turn"])
    groups = len(rows.copies) - _count_components(rows)
    text = f"{groups} images are another one again" + (f", {turned} pairs mirrored or turned" if turned else "")
    cases = [rows.case((a, b), **how) for a, b, how in rows.near]
    return finding(text, cases, of=len(rows.copies), unit="pairs of images", known_from=CONTENT)


def _count_components(rows: Rows) -> int:
    numbers = {content: k for k, content in enumerate(rows.copies)}
    ends = [(numbers[rows.content[a]], numbers[rows.content[b]]) for a, b, _ in rows.near]
    return len(set(groups.components(np.array(ends, int).reshape(-1, 2), len(numbers)).tolist()))


def _near_contradictions(rows: Rows) -> Finding:
    disagreeing = [
        (a, b, how)
        for a, b, how in rows.near
        if rows.labels_of(rows.content[a]).isdisjoint(rows.labels_of(rows.content[b]))
    ]
    pairs = Counter(" / ".join(sorted({str(rows.label[a]), str(rows.label[b])})) for a, b, _ in disagreeing)
    cases = [rows.case((a, b), **how) for a, b, how in disagreeing]
    text = counts_text(pairs) or "both images of every pair have the same label"
    return finding(text, cases, of=len(rows.near), unit="pairs of images", known_from=CONTENT)


def _cross_source_copies(rows: Rows) -> Finding:
    if len(set(rows.source)) < 2:
        return cannot_tell("all images are of one source", unit="pairs of images", known_from=CONTENT)
    pairs = list(zip(*(column.tolist() for column in rows.across), strict=True))
    counts = Counter(" / ".join(sorted((rows.source[a], rows.source[b]))) for a, b, *_ in pairs)
    cases = [rows.case((a, b), matches=matches, similarity=round(how, 4)) for a, b, matches, how in pairs]
    text = counts_text(counts) or "no two sources share a photograph"
    return finding(
        text, cases, of=len(rows.copies), unit="pairs of images", known_from=CONTENT, by_sources=dict(counts)
    )


def _shared_images(rows: Rows) -> Finding:
    known_from = f"{CONTENT}, {IDS}"
    if len(set(rows.named)) < 2:
        return cannot_tell("one data set was named, not several", unit="images", known_from=known_from)
    columns = zip(rows.image_id, rows.content, strict=True)
    names = [schema.same_image({"image_id": image_id, "content": content}) for image_id, content in columns]
    images = list(positions_of(groups.group_keys(names, [(a, b) for a, b, _ in rows.near])).values())
    # Of each image, the first row under each name.
    places = [{rows.named[i]: i for i in reversed(members)} for members in images]
    shared = [sorted(place.values()) for place in places if len(place) > 1]
    pairs = Counter(" / ".join(rows.named[i] for i in place) for place in shared)
    text = counts_text(pairs) or "no image stands in two of them"
    return finding(text, [rows.case(place) for place in shared], of=len(images), unit="images", known_from=known_from)
