"""Drift: whether what `triage` writes of new images is still like what it wrote of a reference.

For each batch of new images (a table, or a week) ten statistics are tested: the rates of alert, attention, abstention
by its five reasons, and unreadable files, and the distribution of the melanoma probability. Each is out of its limits
by chance in at most a tenth of the false-alarm rate, so that any is in at most that rate, if images are independent.
"""

import bisect
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from dermalert_space.abstention import REASONS
from dermalert_space.contract import Json, State
from scipy import stats

from dermalert.errors import UsageError, did_you_mean
from dermalert.evaluation import metrics, triage_tables
from dermalert.evaluation.triage_tables import Batch, Served

FALSE_ALARMS = 0.01

_RATES = {
    "alert": "alert",
    "attention": "attention without an alert",
    "abstention": "abstention",
    **{f"abstention-{name}": f"abstention for {name}" for name in REASONS},
    "unreadable": "files that are no images",
}
KINDS = {**_RATES, "score": "distribution of the score"}
"""What is tested, and what it is called."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statistic:
    """A statistic of new images beside that of the reference, and the limits between which chance leaves it."""

    kind: str
    """One of `KINDS`."""
    value: float | None
    """A rate; of `score` the largest distance of the two distributions (Kolmogorov & Smirnov). None of no images."""
    n: int
    reference: float | None
    reference_n: int
    low: float
    high: float
    higher: float | None = None
    """Of `score`: the share of pairs of a new and a reference image in which the new one's is higher."""

    @property
    def is_out(self) -> bool:
        """Whether chance alone leaves it there too seldom."""
        return self.value is not None and not self.low <= self.value <= self.high


@dataclasses.dataclass(frozen=True, kw_only=True)
class Period:
    """The statistics of a batch of new images."""

    name: str
    files: int
    statistics: list[Statistic]

    @property
    def out(self) -> list[Statistic]:
        """Those out of their limits."""
        return [statistic for statistic in self.statistics if statistic.is_out]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriftReport:
    """What is watched, and what of it is out of its limits."""

    served: Served
    reference: str
    reference_files: int
    by: str
    """`file` or `week`."""
    false_alarms: float
    """The chance that any statistic of a period is out of limits though nothing has changed, at most."""
    periods: list[Period]

    def to_json(self) -> Json:
        """All of it, for machines; `out` lists the kinds that are out of limits by period."""
        return {"schema": 1, **dataclasses.asdict(self), "out": {p.name: [s.kind for s in p.out] for p in self.periods}}


def check(kinds: Iterable[str], false_alarms: float) -> None:
    """Refuse kinds of statistics that there are not, and a rate that is none.

    Raises:
        UsageError: with the nearest that there are.
    """
    for kind in kinds:
        if kind not in (*KINDS, "any"):
            hint = did_you_mean(kind, [*KINDS, "any"])
            raise UsageError(f"--fail-on '{kind}' is no statistic.{hint} They are: {', '.join(KINDS)}, any.")
    if not 0 < false_alarms < 1:
        raise UsageError(f"--false-alarms {false_alarms} is no rate: name a number between 0 and 1, such as 0.01.")


def drift(
    reference: Path, new: Iterable[Path], *, by_week: bool = False, false_alarms: float = FALSE_ALARMS
) -> DriftReport:
    """Compare tables of `triage` with a reference; see `triage_tables.read` for what it refuses."""
    served, before, batches = triage_tables.read(reference, new, by_week=by_week)
    return DriftReport(
        served=served,
        reference=before.name,
        reference_files=before.files,
        by="week" if by_week else "file",
        false_alarms=false_alarms,
        periods=[compare(before, batch, false_alarms=false_alarms) for batch in batches],
    )


def compare(reference: Batch, batch: Batch, *, false_alarms: float = FALSE_ALARMS) -> Period:
    """The statistics of a batch beside the reference."""
    share = false_alarms / len(KINDS)
    before, after = (dict(_counts(each)) for each in (reference, batch))
    statistics = [_rate(kind, before[kind], after[kind], share) for kind in _RATES]
    return Period(name=batch.name, files=batch.files, statistics=[*statistics, _scores(reference, batch, share)])


def _counts(batch: Batch) -> Iterator[tuple[str, tuple[int, int]]]:
    """Of each rate, how many of how many."""
    yield "alert", (batch.states[State.MELANOMA_ALERT], batch.read)
    yield "attention", (batch.states[State.MALIGNANT_LIKELY], batch.read)
    yield "abstention", (batch.reasons.total(), batch.read)
    yield from ((f"abstention-{name}", (batch.reasons[name], batch.read)) for name in REASONS)
    yield "unreadable", (batch.states[State.UNREADABLE], batch.files)


def _rate(kind: str, before: tuple[int, int], after: tuple[int, int], share: float) -> Statistic:
    (hits, n), (new_hits, new_n) = before, after
    low, high = rate_limits(hits, n, new_n, share)
    return Statistic(
        kind=kind,
        value=new_hits / new_n if new_n else None,
        n=new_n,
        reference=hits / n if n else None,
        reference_n=n,
        low=low / new_n if new_n else 0.0,
        high=high / new_n if new_n else 1.0,
    )


def rate_limits(hits: int, n: int, new: int, false_alarms: float) -> tuple[int, int]:
    """The fewest and the most hits among `new` images that chance leaves, given `hits` of `n` in the reference.

    Given the sum of both, the new ones are hypergeometric whatever the true rate, which needs no estimate (Fisher
    1934). So the chance to be out of limits is at most `false_alarms`, half of it on either side.
    """

    def below(count: int) -> float:
        return stats.hypergeom.cdf(count, n + new, hits + count, new)

    def above(count: int) -> float:
        return stats.hypergeom.sf(count - 1, n + new, hits + count, new)

    counts, tail = range(new + 1), false_alarms / 2
    low = bisect.bisect_left(counts, True, key=lambda count: below(count) > tail)
    return low, bisect.bisect_left(counts, True, key=lambda count: above(count) <= tail) - 1


def _scores(reference: Batch, batch: Batch, share: float) -> Statistic:
    old, new = reference.scores, batch.scores
    limit = distance_limit(len(old), len(new), share)
    value = float(stats.ks_2samp(new, old, method="asymp").statistic) if len(old) and len(new) else None
    is_new = np.repeat([True, False], [len(new), len(old)])
    pair = float(metrics.auroc(is_new, np.concatenate([new, old]), np.ones(len(is_new)))) if value is not None else None
    return Statistic(
        kind="score", value=value, n=len(new), reference=0.0, reference_n=len(old), low=0.0, high=limit, higher=pair
    )


def distance_limit(n: int, new: int, false_alarms: float) -> float:
    """The distance of two samples' distributions that chance exceeds in at most `false_alarms`.

    By its limit for large samples (Kolmogorov 1933, Smirnov 1939), which small ones, and ties, stay below.
    """
    return min(float(stats.kstwobign.isf(false_alarms) * np.sqrt(1 / n + 1 / new)), 1.0) if n and new else 1.0


def failures(report: DriftReport, kinds: Iterable[str]) -> list[str]:
    """Which of the kinds (`any` for all) are out of limits, with the period of each."""
    chosen = set(KINDS if "any" in kinds else kinds)
    return [f"{s.kind} in '{period.name}'" for period in report.periods for s in period.out if s.kind in chosen]


def sentences(report: DriftReport) -> list[str]:
    """What is out of limits, a sentence each; or that nothing is."""
    out = [_sentence(period, statistic) for period in report.periods for statistic in period.out]
    periods = f"{len(report.periods)} {report.by}{'s' if len(report.periods) > 1 else ''}"
    verdict = "out of limits" if out else "all within limits"
    return [
        f"{periods} beside '{report.reference}' ({report.reference_files} files): "
        f"{f'{len(out)} of {len(KINDS) * len(report.periods)} statistics ' if out else ''}{verdict}. Chance alone puts "
        f"a {report.by} out of limits, by any of its {len(KINDS)} statistics, in at most {report.false_alarms:.2%}.",
        *out,
    ]


def _sentence(period: Period, statistic: Statistic) -> str:
    name = f"'{period.name}': {KINDS[statistic.kind]}"
    if statistic.higher is not None:
        return (
            f"{name} differs by {statistic.value:.3f} (at most {statistic.high:.3f} by chance, n = {statistic.n}); a "
            f"new image has the higher score in {statistic.higher:.2f} of pairs."
        )
    return (
        f"{name} {statistic.value:.3f} of {statistic.n}, outside {statistic.low:.3f} to {statistic.high:.3f} (reference"
        f" {statistic.reference:.3f} of {statistic.reference_n})."
    )
