"""Figures by age, sex, site, source and skin type: for whom it was measured, and for whom not.

A model can do well on the whole and fail a part of the patients (Daneshjou 2022, doi 10.1126/sciadv.abq6147); what no
source records is said to be not measured rather than left out. A subgroup whose melanomas are found more or less often
than those of all others is named in a sentence.
"""

from collections.abc import Callable, Mapping

import numpy as np
from datasets import Dataset
from dermalert_space.estimate import format_estimate
from scipy import stats

from dermalert.evaluation import metrics
from dermalert.taxonomy import ALERT, DIAGNOSES

FEWEST = 20
"""Melanomas (lesions) of a subgroup that can be called the weakest: of fewer, one or two decide."""

SIGNIFICANCE = 0.05
"""Of all subgroups together."""

_MELANOMA = DIAGNOSES.index(ALERT)
_AGES = {"under 30": 30, "30 to 49": 50, "50 to 69": 70, "70 and over": np.inf}  # years, the first that is not in it


def _age_band(years: float | None) -> str | None:
    return None if years is None else next(name for name, end in _AGES.items() if years < end)


_KINDS: dict[str, tuple[str, Callable[[object], str | None], Mapping[str, float]]] = {
    "age": ("age", _age_band, _AGES),
    "sex": ("sex", lambda sex: sex, {}),
    "site": ("site", lambda site: site, {}),
    "source": ("source", lambda source: source, {}),
    "skin type": ("skin_type", lambda skin: skin, {}),
}
"""Of each kind the column, how its cells name a subgroup, and the order of the names where it is not the alphabet's."""


def subgroups(dataset: Dataset, probabilities: np.ndarray, alert: np.ndarray | None) -> dict:
    """Return the figures of each subgroup of a side.

    Args:
        dataset: the side, in the schema of `schema.FEATURES`.
        probabilities: (n, 9), calibrated.
        alert: (n,) which images raise the melanoma alert; None where the release has no threshold.

    Returns:
        By kind, `{"not_recorded": n, "of": {name: figures}}` or `{"not_measured": why}`. The figures are `n`, `groups`,
        `melanomas`, and with 95 % intervals `accuracy` (nine classes), `auroc`, `sensitivity` and `specificity` of
        melanoma.
    """
    return {kind: _by(kind, dataset, probabilities, alert) for kind in _KINDS}


def _by(kind: str, dataset: Dataset, probabilities: np.ndarray, alert: np.ndarray | None) -> dict:
    names, found = _names(kind, dataset)
    if not found:
        return {"not_measured": f"no source of these images records the {kind}"}
    truth, groups = np.array(dataset["label"]), np.array(dataset["group"])

    def of(name: str) -> dict:
        rows = np.array([other == name for other in names])
        return _figures(truth[rows], probabilities[rows], groups[rows], None if alert is None else alert[rows])

    return {"not_recorded": names.count(None), "of": {name: of(name) for name in found}}


def _names(kind: str, dataset: Dataset) -> tuple[list[str | None], list[str]]:
    """Return the subgroup of each image, None where it is not recorded, and those that occur, in their order."""
    column, name_of, order = _KINDS[kind]
    names = [name_of(cell) for cell in dataset[column]] if column in dataset.column_names else []
    return names, sorted(set(names) - {None}, key=lambda name: (list(order).index(name) if name in order else 0, name))


def sensitivity_by_subgroup(dataset: Dataset, alert: np.ndarray | None) -> dict:
    """Return in which subgroups of a split the alert finds melanomas more or less often than in the rest of their kind.

    Lesions are compared rather than photos, which are not independent of each other: a melanoma is found if each of its
    photos in the subgroup raises the alert, as the alert's own bound counts it. The test is Fisher's exact one, of two
    sides, its p corrected for the number of tests (Holm 1979). Of two subgroups that are each other's rest only the
    weaker is tested.

    Args:
        dataset: the split, in the schema of `schema.FEATURES`.
        alert: (n,) which images raise the melanoma alert as served, so none on which the release abstains; None where
            it has no threshold.

    Returns:
        `tests`, a list of `kind`, `name`, `n_melanomas` and `n_found` (lesions), `sensitivity`, the same three of the
        `rest`, `p` and `p_corrected`; `weakest`, of the subgroups with at least 20 melanomas the one with the lowest
        sensitivity (None where there is none); and `sentences` that say all that.
    """
    if alert is None:
        return {"tests": [], "weakest": None, "sentences": []}
    melanoma, lesions = np.array(dataset["label"]) == _MELANOMA, np.array(dataset["group"])
    compared = [test for kind in _KINDS for test in _tests(kind, dataset, alert, melanoma, lesions)]
    for test, corrected in zip(compared, holm([test["p"] for test in compared]), strict=True):
        test["p_corrected"] = corrected
    enough = [test for test in compared if test["n_melanomas"] >= FEWEST]
    found = {
        "tests": compared,
        "weakest": min(enough, key=lambda test: test["sensitivity"]["value"], default=None),
    }
    return found | {"sentences": sentences(found)}


def _tests(kind: str, dataset: Dataset, alert: np.ndarray, melanoma: np.ndarray, lesions: np.ndarray) -> list[dict]:
    names, subgroups = _names(kind, dataset)
    names = np.array([name or "" for name in names])
    tests = []
    for name in subgroups:
        inside = melanoma & (names == name)
        rest = melanoma & (names != "") & ~np.isin(lesions, lesions[inside])
        if inside.any() and rest.any():
            one, other = _found(alert, lesions, inside), _found(alert, lesions, rest)
            table = [[side["n_found"], side["n_melanomas"] - side["n_found"]] for side in (one, other)]
            p = float(stats.fisher_exact(table).pvalue)
            tests.append({"kind": kind, "name": name} | one | {"rest": other, "p": p})
    if len(subgroups) == 2:
        return sorted(tests, key=lambda test: test["sensitivity"]["value"])[:1]
    return tests


def _found(alert: np.ndarray, lesions: np.ndarray, among: np.ndarray) -> dict:
    """Return how many lesions among some images there are, and of how many each photo raises the alert."""
    n = len(np.unique(lesions[among]))
    found = n - len(np.unique(lesions[among & ~alert]))
    return {
        "n_melanomas": n,
        "n_found": found,
        "sensitivity": metrics.exact_proportion(found, n),
    }


def holm(p: list[float]) -> list[float]:
    """Return p-values corrected for their number, so that one below 0.05 is by chance in 5 % at most (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    steps = np.minimum(np.maximum.accumulate(np.sort(p) * np.arange(len(p), 0, -1)), 1)
    corrected = np.empty(len(p))
    corrected[order] = steps
    return corrected.tolist()


def sentences(found: dict) -> list[str]:
    """Return what `sensitivity_by_subgroup` returns, for a person to read; nothing where nothing was tested."""
    tests, weakest = found["tests"], found["weakest"]
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


def differing(tests: list[dict]) -> list[str]:
    """Return a sentence for each subgroup whose sensitivity differs beyond chance from that of the rest."""
    return [_sentence(test, len(tests)) for test in tests if test["p_corrected"] < SIGNIFICANCE]


def _sentence(test: dict, n: int) -> str:
    lower = test["sensitivity"]["value"] < test["rest"]["sensitivity"]["value"]
    rest = test["rest"]
    return (
        f"{'Lower' if lower else 'Higher'} sensitivity beyond chance: {_counted(test)}; of the others "
        f"whose {test['kind']} is known {rest['n_found']} of {rest['n_melanomas']} (Fisher's exact test: "
        f"p = {test['p']:.2g}, and {test['p_corrected']:.2g} corrected for {n} subgroups)."
    )


def _counted(test: dict) -> str:
    share = format_estimate(test["sensitivity"])
    return (
        f"{test['kind']} {test['name']}, where the alert finds {test['n_found']} of {test['n_melanomas']} melanomas, "
        f"{share}"
    )


def _figures(truth: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, alert: np.ndarray | None) -> dict:
    intervals, melanoma = metrics.Intervals(groups), truth == _MELANOMA
    undefined = {"value": None, "low": None, "high": None}
    return {
        "n": len(truth),
        "groups": intervals.groups,
        "melanomas": int(melanoma.sum()),
        "accuracy": intervals.of_proportion(metrics.decide(probabilities) == truth, np.ones(len(truth), bool)),
        "auroc": intervals.of_area(metrics.auroc, melanoma, probabilities[:, _MELANOMA]),
        "sensitivity": undefined if alert is None else intervals.of_proportion(alert, melanoma),
        "specificity": undefined if alert is None else intervals.of_proportion(~alert, ~melanoma),
    }
