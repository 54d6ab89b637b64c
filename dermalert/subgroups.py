"""Figures by age, sex, site, source and skin type: for whom it was measured, and for whom not.

A model can do well on the whole and fail a part of the patients (Daneshjou 2022, doi 10.1126/sciadv.abq6147); what no
source records is said to be not measured rather than left out.
"""

from collections.abc import Callable, Mapping

import numpy as np
from datasets import Dataset

from dermalert import metrics
from dermalert.diagnoses import ALERT, DIAGNOSES

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
        dataset: the side, in the schema of `sources.FEATURES`.
        probabilities: (n, 9), calibrated.
        alert: (n,) which images raise the melanoma alert; None where the release has no threshold.

    Returns:
        By kind, `{"not_recorded": n, "of": {name: figures}}` or `{"not_measured": why}`. The figures are `n`, `groups`,
        `melanomas`, and with 95 % intervals `accuracy` (nine classes), `auroc`, `sensitivity` and `specificity` of
        melanoma.
    """
    return {kind: _by(kind, dataset, probabilities, alert) for kind in _KINDS}


def _by(kind: str, dataset: Dataset, probabilities: np.ndarray, alert: np.ndarray | None) -> dict:
    column, name_of, order = _KINDS[kind]
    names = [name_of(cell) for cell in dataset[column]] if column in dataset.column_names else []
    found = sorted(set(names) - {None}, key=lambda name: (list(order).index(name) if name in order else 0, name))
    if not found:
        return {"not_measured": f"no source of these images records the {kind}"}
    truth, groups = np.array(dataset["label"]), np.array(dataset["group"])

    def of(name: str) -> dict:
        rows = np.array([other == name for other in names])
        return _figures(truth[rows], probabilities[rows], groups[rows], None if alert is None else alert[rows])

    return {"not_recorded": names.count(None), "of": {name: of(name) for name in found}}


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
