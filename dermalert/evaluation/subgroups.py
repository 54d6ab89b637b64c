"""Figures by age, sex, site, source, skin type and reference standard: for whom it was measured, and for whom not.

A model can do well on the whole and fail a part of the patients (Daneshjou 2022, doi 10.1126/sciadv.abq6147); what no
source records is said to be not measured rather than left out. A subgroup whose melanomas are found more or less often
than those of all others is named in a sentence.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from datasets import Dataset
from dermalert_space.estimate import UNDEFINED, Estimate, format_estimate
from dermalert_space.prediction import likeliest
from scipy import stats

from dermalert.evaluation import metrics
from dermalert.evaluation.intervals import Intervals, exact_proportion
from dermalert.taxonomy import MELANOMA

FEWEST = 20
"""Melanomas (lesions) of a subgroup that can be called the weakest: of fewer, one or two decide."""

SIGNIFICANCE = 0.05
"""Of all subgroups together."""

_AGES = {"under 30": 30, "30 to 49": 50, "50 to 69": 70, "70 and over": np.inf}  # years, the first that is not in it


def _age_band(years: float | None) -> str | None:
    return None if years is None else next(name for name, end in _AGES.items() if years < end)


_KINDS: dict[str, tuple[str, Callable[[Any], str | None], Mapping[str, float]]] = {
    "age": ("age", _age_band, _AGES),
    "sex": ("sex", lambda sex: sex, {}),
    "site": ("site", lambda site: site, {}),
    "source": ("source", lambda source: source, {}),
    "skin type": ("skin_type", lambda skin: skin, {}),
    "reference standard": ("confirmation", lambda how: how, {}),
}
"""Of each kind the column, how its cells name a subgroup, and the order of the names where it is not the alphabet's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subgroup:
    """Figures of a subgroup: accuracy over nine diagnoses, the others of melanoma."""

    n: int
    groups: int
    melanomas: int
    accuracy: Estimate
    auroc: Estimate
    sensitivity: Estimate
    specificity: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subgroups:
    """The subgroups of one kind by name, and of how many images none is recorded."""

    not_recorded: int
    of: dict[str, Subgroup]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NotMeasured:
    """Why there are no subgroups of a kind."""

    not_measured: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detection:
    """How many melanomas (lesions) the alert finds."""

    n_melanomas: int
    n_found: int
    sensitivity: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubgroupTest:
    """A subgroup against the `rest` of its kind: p of Fisher's exact test, and p corrected for the number of tests."""

    kind: str
    name: str
    n_melanomas: int
    n_found: int
    sensitivity: Estimate
    rest: Detection
    p: float
    p_corrected: float

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "SubgroupTest":
        """Read what `metrics.json` has of a test."""
        rest = content["rest"]
        rest = Detection(**{**rest, "sensitivity": Estimate.read(rest["sensitivity"])})
        return cls(**{**content, "rest": rest, "sensitivity": Estimate.read(content["sensitivity"])})


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubgroupSensitivity:
    """The tests of a split, the weakest subgroup with at least 20 melanomas, and sentences that say all that."""

    tests: list[SubgroupTest]
    weakest: SubgroupTest | None
    sentences: list[str]


def subgroups(
    dataset: Dataset, probabilities: np.ndarray, alert: np.ndarray | None
) -> dict[str, Subgroups | NotMeasured]:
    """Measure each subgroup of a split, by kind.

    Args:
        dataset: the split, in the schema of `schema.FEATURES`.
        probabilities: (n, 9), calibrated.
        alert: (n,) which images raise the melanoma alert; None where the release has no threshold.
    """
    return {kind: _by(kind, dataset, probabilities, alert) for kind in _KINDS}


def _by(kind: str, dataset: Dataset, probabilities: np.ndarray, alert: np.ndarray | None) -> Subgroups | NotMeasured:
    subgroup_of, names = _names(kind, dataset)
    if not names:
        return NotMeasured(not_measured=f"no source of these images records the {kind}")
    truth, groups = np.array(dataset["label"][:]), np.array(dataset["group"][:])

    def of(name: str) -> Subgroup:
        rows = np.array([other == name for other in subgroup_of])
        return _measure(truth[rows], probabilities[rows], groups[rows], None if alert is None else alert[rows])

    return Subgroups(not_recorded=subgroup_of.count(None), of={name: of(name) for name in names})


def _names(kind: str, dataset: Dataset) -> tuple[list[str | None], list[str]]:
    """The subgroup of each image, None where it is not recorded, and those that occur, in their order."""
    column, name_of, order = _KINDS[kind]
    names = [name_of(cell) for cell in dataset[column]] if column in dataset.column_names else []
    recorded = {name for name in names if name is not None}
    return names, sorted(recorded, key=lambda name: (list(order).index(name) if name in order else 0, name))


def sensitivity_by_subgroup(dataset: Dataset, alert: np.ndarray | None) -> SubgroupSensitivity:
    """Test in which subgroups of a split the alert finds melanomas more or less often than in the rest of their kind.

    Lesions are compared rather than photos, which are not independent of each other: a melanoma is found if each of its
    photos in the subgroup raises the alert, as the alert's own bound counts it. The test is Fisher's exact one, of two
    sides, its p corrected for the number of tests (Holm 1979). Of two subgroups that are each other's rest only the
    weaker is tested.

    Args:
        dataset: the split, in the schema of `schema.FEATURES`.
        alert: (n,) which images raise the melanoma alert as served, so none on which the release abstains; None where
            it has no threshold.
    """
    if alert is None:
        return SubgroupSensitivity(tests=[], weakest=None, sentences=[])
    melanoma, lesions = np.array(dataset["label"][:]) == MELANOMA, np.array(dataset["group"][:])
    # How a diagnosis was confirmed divides no patients: a melanoma is nearly always confirmed by histopathology.
    of_patients = (kind for kind in _KINDS if kind != "reference standard")
    tests = [test for kind in of_patients for test in _tests(kind, dataset, alert, melanoma, lesions)]
    corrected = holm([test.p for test in tests])
    tests = [dataclasses.replace(test, p_corrected=p) for test, p in zip(tests, corrected, strict=True)]
    enough = [test for test in tests if test.n_melanomas >= FEWEST]
    weakest = min(enough, key=_sensitivity_of, default=None)
    return SubgroupSensitivity(tests=tests, weakest=weakest, sentences=sentences(tests, weakest))


def _sensitivity_of(detection: Detection | SubgroupTest) -> float:
    return detection.n_found / detection.n_melanomas


def _tests(
    kind: str, dataset: Dataset, alert: np.ndarray, melanoma: np.ndarray, lesions: np.ndarray
) -> list[SubgroupTest]:
    names, subgroups = _names(kind, dataset)
    subgroup_of = np.array([name or "" for name in names])
    tests = []
    for name in subgroups:
        inside = melanoma & (subgroup_of == name)
        outside = melanoma & (subgroup_of != "") & ~np.isin(lesions, lesions[inside])
        if inside.any() and outside.any():
            one, rest = _detection(alert, lesions, inside), _detection(alert, lesions, outside)
            table = [[side.n_found, side.n_melanomas - side.n_found] for side in (one, rest)]
            p = float(stats.fisher_exact(table).pvalue)
            tests.append(SubgroupTest(kind=kind, name=name, **vars(one), rest=rest, p=p, p_corrected=p))
    return sorted(tests, key=_sensitivity_of)[:1] if len(subgroups) == 2 else tests


def _detection(alert: np.ndarray, lesions: np.ndarray, among: np.ndarray) -> Detection:
    """Count the lesions among some images, and those of which each photo raises the alert."""
    n = len(np.unique(lesions[among]))
    n_found = n - len(np.unique(lesions[among & ~alert]))
    return Detection(n_melanomas=n, n_found=n_found, sensitivity=exact_proportion(n_found, n))


def holm(p: list[float]) -> list[float]:
    """P-values corrected for their number, so that one below 0.05 is by chance in 5% at most (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    steps = np.minimum(np.maximum.accumulate(np.sort(p) * np.arange(len(p), 0, -1)), 1)
    corrected = np.empty(len(p))
    corrected[order] = steps
    return corrected.tolist()


def sentences(tests: list[SubgroupTest], weakest: SubgroupTest | None) -> list[str]:
    """Say what the tests show, for a person to read; nothing where nothing was tested."""
    if not tests:
        return []
    lines = differing(tests)
    if not lines:
        lines = [
            f"In none of {len(tests)} subgroups does the alert's sensitivity differ beyond chance from that of "
            "the others of whom the same is known (Fisher's exact test of lesions, corrected for their number)."
        ]
    if weakest is None:
        return [*lines, f"No subgroup has {FEWEST} melanomas: a weak one could go unnoticed."]
    return [*lines, f"The weakest subgroup with at least {FEWEST} melanomas: {_counted(weakest)}."]


def differing(tests: list[SubgroupTest]) -> list[str]:
    """A sentence for each subgroup whose sensitivity differs beyond chance from that of the rest."""
    return [_sentence(test, len(tests)) for test in tests if test.p_corrected < SIGNIFICANCE]


def _sentence(test: SubgroupTest, n: int) -> str:
    rest = test.rest
    return (
        f"{'Lower' if _sensitivity_of(test) < _sensitivity_of(rest) else 'Higher'} sensitivity beyond chance: "
        f"{_counted(test)}; of the others whose {test.kind} is known {rest.n_found} of {rest.n_melanomas} "
        f"(Fisher's exact test: p = {test.p:.2g}, and {test.p_corrected:.2g} corrected for {n} subgroups)."
    )


def _counted(test: SubgroupTest) -> str:
    share = format_estimate(test.sensitivity)
    return f"{test.kind} {test.name}, where the alert finds {test.n_found} of {test.n_melanomas} melanomas, {share}"


def _measure(truth: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, alert: np.ndarray | None) -> Subgroup:
    intervals, melanoma = Intervals(groups), truth == MELANOMA
    return Subgroup(
        n=len(truth),
        groups=intervals.groups,
        melanomas=int(melanoma.sum()),
        accuracy=intervals.of_proportion(likeliest(probabilities) == truth, np.ones(len(truth), bool)),
        auroc=intervals.of_area(metrics.auroc, melanoma, probabilities[:, MELANOMA]),
        sensitivity=UNDEFINED if alert is None else intervals.of_proportion(alert, melanoma),
        specificity=UNDEFINED if alert is None else intervals.of_proportion(~alert, ~melanoma),
    )
