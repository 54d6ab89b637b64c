"""What an audit checks of the labels: whether the source alone predicts them, and whether the archive agrees."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import cast

from dermalert_space.contract import Json

from dermalert.data.audit_rows import ARCHIVE, IDS, Finding, Rows, cannot_tell, counts_text, finding
from dermalert.taxonomy import ALERT

_TELLING = 0.3  # sensitivity + specificity - 1 of a source that says nothing of medicine


def findings(rows: Rows) -> dict[str, Finding]:
    """Findings by kind."""
    return {
        "source-confounding": _source_confounding(rows),
        "label-disagreement": _label_disagreement(rows),
    }


def _source_confounding(rows: Rows) -> Finding:
    sources = sorted(set(rows.source))
    by_label = {
        name: dict(Counter(s for s, own in zip(rows.source, rows.label, strict=True) if own == name))
        for name in rows.names
    }
    by_label = {name: counts for name, counts in by_label.items() if counts}
    details: Json = {"by_label": by_label, "predicts_melanoma": _melanoma_by_source(rows)}
    if len(sources) < 2:
        why = f"all comes from one source, {sources[0]}" if sources else "there are no files"
        return cast(Finding, cannot_tell(why, unit="diagnoses", known_from=IDS) | details)
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
    report = finding(text, cases, of=len(by_label), unit="diagnoses", known_from=IDS, found=confounded)
    return cast(Finding, report | details)


def _melanoma_by_source(rows: Rows) -> Json:
    """How well the best rule that knows the source alone tells melanoma.

    The best by sensitivity + specificity: it calls melanoma every source that has more of the melanomas than of the
    rest. An image under two labels counts, among the different images, as melanoma if one of them is.
    """
    files = [(source, label == ALERT) for source, label in zip(rows.source, rows.label, strict=True)]
    images = [(rows.source[members[0]], ALERT in rows.labels_of(content)) for content, members in rows.copies.items()]
    chosen = [s for s in sorted(set(rows.source)) if _share(files, {s}, True) > _share(files, {s}, False)]
    return {"sources": chosen, "files": _sensitivity(files, chosen), "different_images": _sensitivity(images, chosen)}


def _share(items: list[tuple[str, bool]], sources: Iterable[str], positive: bool) -> float:
    """The share of the positive, or of the negative, that come from the sources."""
    among = [source for source, is_melanoma in items if is_melanoma == positive]
    return sum(source in sources for source in among) / len(among) if among else math.nan


def _sensitivity(items: list[tuple[str, bool]], chosen: Sequence[str]) -> Json:
    melanomas = sum(positive for _, positive in items)
    sensitivity, false_alarms = (_share(items, chosen, positive) for positive in (True, False))
    return {
        "n": len(items),
        "melanomas": melanomas,
        "sensitivity": None if math.isnan(sensitivity) else round(sensitivity, 4),
        "specificity": None if math.isnan(false_alarms) else round(1 - false_alarms, 4),
    }


def _label_disagreement(rows: Rows) -> Finding:
    labelled = [i for i in range(len(rows)) if rows.archive(i) and rows.label[i]]
    if not labelled:
        return cannot_tell("the archive's labels of these images are not known", unit="files", known_from=ARCHIVE)
    wrong = [i for i in labelled if rows.archive(i) != rows.label[i]]
    confusion = Counter(f"{rows.label[i]}, by the archive {rows.archive(i)}" for i in wrong)
    named = Counter(rows.label[i] for i in labelled)
    none_right = sorted({str(rows.label[i]) for i in wrong} - {rows.label[i] for i in set(labelled) - set(wrong)})
    text = "; ".join(
        [counts_text(confusion), *(f"none of the {named[name]} {name} files is one" for name in none_right)]
    )
    cases = [rows.case([i], archive=rows.archive(i)) for i in wrong]
    return finding(
        text if wrong else "every label is the archive's",
        cases,
        of=len(labelled),
        unit="files",
        known_from=ARCHIVE,
        none_right=none_right,
    )
