"""How many more labelled lesions each open question of a clinic needs."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
from dermalert_space.estimate import Estimate

from dermalert.clinic.verdict import UNDECIDED, Verdict, lesions_needed
from dermalert.evaluation import subgroups
from dermalert.evaluation.intervals import FEWEST_LOGISTIC
from dermalert.evaluation.operating_points import TARGET_SENSITIVITY
from dermalert.evaluation.report import SplitReport

NARROW = 0.05
"""Half the width of an interval of a share that answers its question."""

NARROW_LOGIT = 0.5
"""The same of the calibration's intercept, in log-odds: a probability of 10% may then be 6 to 15%."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """A question, and what would answer it."""

    text: str
    answered: bool
    more: int
    """Labelled lesions that it needs beside those that are there; 0 where it is answered."""
    of: str
    """What they must show."""
    why: str


def questions(verdict: Verdict, report: SplitReport, *, positive: str, plural: str, others: int) -> list[Question]:
    """The open and the answered questions of a clinic with so many lesions that show something else."""
    melanoma, n = report.melanoma, verdict.n
    is_open = verdict.outcome == UNDECIDED
    shown = Question(
        text=f"Does the alert flag {verdict.promised:g} of the {plural}?",
        answered=not is_open,
        more=verdict.more if is_open else 0,
        of=positive,
        why="if none of these is missed" if is_open else f"it {verdict.outcome}",
    )
    return [
        shown,
        _width(
            "How many of the others does it flag?", melanoma.specificity_as_served, others, NARROW, "another diagnosis"
        ),
        _width(f"How well does it rank {plural} above the others?", melanoma.auroc, n, NARROW, positive),
        _width(
            f"Can its probability of {positive} be taken at its word?",
            report.calibration.melanoma.intercept,
            n,
            NARROW_LOGIT,
            positive,
            least=max(FEWEST_LOGISTIC - n, 0),
        ),
        *_subgroups(report, positive),
        _new_threshold(n, positive),
    ]


def _width(text: str, estimate: Estimate, n: int, wanted: float, of: str, *, least: int = 1) -> Question:
    """A question that an interval of half the width `wanted` answers: widths shrink with the root of the lesions."""
    why = f"for a 95% interval of ±{wanted:g}"
    if estimate.low is None or estimate.high is None:
        return Question(text=text, answered=False, more=max(least, 20 - n, 1), of=of, why="for a first interval")
    half = (estimate.high - estimate.low) / 2
    more = math.ceil(n * max((half / wanted) ** 2 - 1, 0))
    return Question(text=text, answered=more == 0, more=more, of=of, why=why)


def _subgroups(report: SplitReport, positive: str) -> Iterator[Question]:
    """Whether a part of the patients is failed, for each kind of subgroup that is recorded."""
    tests = report.subgroup_sensitivity.tests if report.subgroup_sensitivity else []
    for kind in dict.fromkeys(test.kind for test in tests if test.kind != "source"):
        few = [test for test in tests if test.kind == kind and test.n_melanomas < subgroups.FEWEST]
        more = int(np.sum([subgroups.FEWEST - test.n_melanomas for test in few]))
        yield Question(
            text=f"Does it fail a part of the patients by {kind}?",
            answered=not few,
            more=more,
            of=positive,
            why=f"{subgroups.FEWEST} in each: {', '.join(test.name for test in few)}" if few else "each has enough",
        )


def _new_threshold(n: int, positive: str) -> Question:
    needed = lesions_needed(TARGET_SENSITIVITY, 0)
    why = f"{needed} show {TARGET_SENSITIVITY:g}, if its threshold misses none of them"
    return Question(
        text="Could the alert get a threshold of your own?",
        answered=n >= needed,
        more=max(needed - n, 0),
        of=positive,
        why=why,
    )
