"""The gate, which refuses a release that is shown to be worse than the one before."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from dermalert_space import files
from dermalert_space.contract import METRICS, Json
from dermalert_space.estimate import Estimate, format_estimate

from dermalert.evaluation import noninferiority
from dermalert.formatting import COMPARED, percent_at_least
from dermalert.release import release_folder
from dermalert.release.release_comparison import Comparison, Pair, ReleasePredictions, compare, pair, read

FEWEST = 50
"""Melanomas (groups of them), and others, below which releases cannot be compared: of fewer, a loss of 0.05 is
hardly ever found (see `benchmarks/evaluation/gate.py`)."""

ECE = 0.10
"""How large the expected calibration error of a release may be."""

_RULES = {
    "fewest": FEWEST,
    "fall": noninferiority.MARGIN,
    "margin": noninferiority.MARGIN,
    "refusals_of_equals": noninferiority.SIGNIFICANCE,
    "ece": ECE,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossTest:
    """A test of whether the new release is worse in one figure."""

    n: int
    """Lesions that can show a loss."""
    p: float
    """One-sided."""
    level: float
    loss_shown: bool
    power: float
    """Of finding a loss of the margin."""
    excludes_zero: bool = False
    """Whether the 95% interval of the change holds no 0."""
    not_inferior: bool = False
    """Whether it holds no loss of the margin."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gate:
    """The reasons for and against a release taking another's place."""

    against: str | None
    ece: Json
    """As `metrics.json` has it."""
    compared: Comparison | None
    tests: dict[str, LossTest]
    """By the keys of `COMPARED`; none where nothing can be compared."""
    refused_for: list[str]
    """A sentence for each rule that it breaks."""
    verdict: str
    """`refused`; `first`; `not inferior`: each test excludes a loss of the margin; or `no loss shown`."""
    accepted_because: str | None = None
    """Why it takes the place though it is refused."""

    def with_reason(self, why: str | None) -> "Gate":
        """The same with the reason, in one line, why a release that it refuses is taken all the same."""
        return dataclasses.replace(self, accepted_because=" ".join(why.split()) if why and self.refused_for else None)

    def to_json(self) -> Json:
        """What figures and card of a release hold of it."""
        short = self.compared and self.compared.in_short()
        return {"against": self.against, "rules": _RULES, **dataclasses.asdict(self), "compared": short}


def gate(new: ReleasePredictions, old: ReleasePredictions | None) -> Gate:
    """Decide whether a release may take the place of the one before; of the first, only the calibration is asked.

    The gate refuses a release that is shown to lose melanoma AUROC, sensitivity of the alert, or sensitivity for
    malignant or precursor, as served. Each has a one-sided test, at a level such that all of them together refuse equal
    releases in 5% at most (Bonferroni). A loss that is not shown may still be there: `power` is the probability of
    finding one of the margin, and `not_inferior` says whether one is excluded.
    """
    ece = new.figures["splits"]["held_out"]["calibration"]["ece"]
    compared: Comparison | None = None
    tests: dict[str, LossTest] = {}
    reasons: list[str] = []
    if old:
        compared = compare(old, new)
        if min(compared.melanomas, compared.others) >= FEWEST:
            tests = run_tests(pair(old, new))
        tests = {name: _with_interval(name, test, compared.changes[name].difference) for name, test in tests.items()}
        reasons = _reasons(compared, tests, old, new)
    if old and (stranger := _not_its_parent(new, old)):
        reasons.append(stranger)
    # The probabilities of a release that is adapted to a clinic hold for the mix there, not for these images.
    if ece["value"] > ECE and not new.figures.get("adapted"):
        reasons.append(f"the expected calibration error is {format_estimate(ece, 3)}, above {ECE:.2f}")
    passed = "not inferior" if all(test.not_inferior for test in tests.values()) else "no loss shown"
    verdict = "refused" if reasons else passed if old else "first"
    against = old.name if old else None
    return Gate(against=against, ece=ece, compared=compared, tests=tests, refused_for=reasons, verdict=verdict)


def _not_its_parent(new: ReleasePredictions, old: ReleasePredictions) -> str | None:
    """Why a release that is adapted to a clinic does not belong in the place of another; None where it does.

    It belongs in the place of its parent, and of another one that was adapted from that for the same clinic.
    """
    adapted, before = new.figures.get("adapted"), old.figures.get("adapted")
    if not adapted:
        return None
    parent = adapted["parent"]["predictions"]
    sibling = before and (before["clinic"], before["parent"]["predictions"]) == (adapted["clinic"], parent)
    if old.fingerprint == parent or sibling:
        return None
    return f"it is adapted to '{adapted['clinic']}', from another release than the one whose place it takes"


def run_tests(both: Pair) -> dict[str, LossTest]:
    """The tests of the gate, by the keys of `COMPARED`, on melanomas and others."""
    rules = {
        "melanoma_auroc": (both.melanoma, None),
        "sensitivity": (both.melanoma, both.alerts),
        "malignant_sensitivity": (both.malignant, both.attentions),
    }
    rules = {name: rule for name, rule in rules.items() if rule[1] is None or all(flag is not None for flag in rule[1])}
    level = noninferiority.SIGNIFICANCE / len(rules)
    return {name: _test(both, *rule, level) for name, rule in rules.items()}


def _test(both: Pair, positive: np.ndarray, flags: tuple[Any, ...] | None, level: float) -> LossTest:
    groups = both.groups[positive]
    n = len(np.unique(groups))
    if flags is None:
        change = noninferiority.area_change(positive, *both.scores, both.groups)
        p, power = noninferiority.p_of_lower_area(*change), noninferiority.power_of_lower_area(*change[1:], level)
    else:
        old, new = (flag[positive] for flag in flags)
        p = noninferiority.p_of_lower_sensitivity(old, new, groups)
        power = noninferiority.power_of_lower_sensitivity(*noninferiority.worth(old, new, groups), level)
    return LossTest(n=n, p=p, level=level, loss_shown=p <= level, power=power)


def _with_interval(name: str, test: LossTest, difference: Estimate) -> LossTest:
    """A test with what the 95% interval of the change excludes.

    Where the two answer alike, resampling has no interval. Of answers, a share may be lost all the same, by the exact
    interval for none of so many lesions; of equal scores, no area.
    """
    low, high = difference.low, difference.high
    if low is None or high is None:
        assert difference.value is not None  # there are melanomas and others
        unseen = 0 if name == "melanoma_auroc" else 1 - 0.025 ** (1 / test.n)
        low, high = difference.value - unseen, difference.value + unseen
    excludes_zero, not_inferior = low > 0 or high < 0, low > -noninferiority.MARGIN
    return dataclasses.replace(test, excludes_zero=excludes_zero, not_inferior=not_inferior)


def _reasons(
    compared: Comparison, tests: dict[str, LossTest], old: ReleasePredictions, new: ReleasePredictions
) -> list[str]:
    if not tests:
        few = f"{compared.melanomas} melanomas and {compared.others} others (each lesion once, where it is known)"
        return [f"{few} were held out of both, and it takes {FEWEST} of each to compare"]
    reasons = [
        f"the {COMPARED[name]} has changed by {format_estimate(compared.changes[name].difference, 3)}, a loss beyond "
        f"chance (one-sided p = {test.p:.2g})"
        for name, test in tests.items()
        if test.loss_shown
    ]
    if new.threshold is None and old.threshold is not None:
        reasons.append("it has no alert threshold, and the one before has")
    if new.attention is None and old.attention is not None:
        reasons.append("it has no threshold for malignant lesions, and the one before has")
    return reasons


def verdict(report: Gate) -> list[str]:
    """The verdict of a gate, then the losses that its tests could have shown."""
    if report.refused_for:
        lines = [f"The gate refuses it: {'; '.join(report.refused_for)}."]
    elif report.against is None:
        return ["The gate has nothing to compare it with."]
    else:
        lines = ["The gate lets it pass: no loss is shown."]
    for name, test in report.tests.items():
        excluded = "excluded" if test.not_inferior else "not excluded"
        lines.append(
            f"{COMPARED[name]} ({test.n} lesions): a loss of {noninferiority.MARGIN:.2f} is {excluded}; the "
            f"test finds one with a probability of {percent_at_least(test.power)}. The 95% interval "
            f"of the change {'does not hold' if test.excludes_zero else 'holds'} zero."
        )
    return lines


def record(folder: Path, old: Path, *, accept: str | None = None) -> Gate:
    """Write into figures and card of the release in a folder what the gate says of it in the place of an old one."""
    before = read(old, str(old))
    before = dataclasses.replace(before, name=before.figures["version"] or "the release before")
    report = gate(read(folder, str(folder)), before).with_reason(accept)
    files.write_json(folder / METRICS, release_folder.read_metrics(folder) | {"gate": report.to_json()})
    release_folder.write_card(folder)
    return report
