"""Shortcut baselines: what frame, origin, mean colour or sharpness alone tells of the diagnosis.

A classifier that is hardly better than these may be reading how and where the pictures were made. That models do well
on pictures whose lesion is hidden was shown by Bissoto et al. (2019, arXiv 1904.08818).
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from datasets import Dataset
from dermalert_space.contract import Json
from dermalert_space.estimate import UNDEFINED, Estimate
from dermalert_space.prediction import likeliest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from dermalert.evaluation import metrics
from dermalert.evaluation.intervals import Intervals
from dermalert.imaging import thumbnail
from dermalert.imaging.shortcut_features import FEATURES
from dermalert.taxonomy import MELANOMA

_STRENGTH = 0.1  # 1 / regularisation: of 0.01, 0.1 and 1 the best on balance in cross-validation on the Kaggle set

_TEXTS = {
    "mean_colour": "mean and standard deviation of red, green and blue",
    "frame_only": "colour histograms of the outer 5% of each side",
    "source_only": "where the picture was made",
    "sharpness_only": "how steeply the fine detail of the picture falls off",
    "lesion_hidden": "colour histograms and a coarse thumbnail of the picture without its central square (71% of it)",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Margin:
    """By how much the model exceeds a baseline; the same groups are drawn for both."""

    balanced_accuracy: Estimate = UNDEFINED
    melanoma_auroc: Estimate = UNDEFINED


_NO_MARGIN = Margin()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceBaseline:
    """A baseline among the images of one source, which has melanomas and others."""

    melanoma_auroc: Estimate
    margin: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baseline:
    """What one baseline reaches on `n` images; undefined where it has nothing to learn from."""

    n: int
    balanced_accuracy: Estimate = UNDEFINED
    melanoma_auroc: Estimate = UNDEFINED
    margin: Margin = _NO_MARGIN
    by_source: dict[str, SourceBaseline] = dataclasses.field(default_factory=dict)
    features: str
    """What it sees, in words."""

    def to_json(self) -> Json:
        """Its entry in `metrics.json`."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shortcuts:
    """By figure, the baselines that the model is not shown to exceed, and the figures whose margins are undefined."""

    found: bool
    not_measured: list[str]
    balanced_accuracy: list[str]
    melanoma_auroc: list[str]

    def to_json(self) -> Json:
        """The entry `shortcut` of `metrics.json`."""
        return dataclasses.asdict(self)


def baselines(splits: Mapping[str, Dataset], probabilities: np.ndarray | None = None) -> dict[str, Baseline]:
    """Fit each baseline on the split `train` and measure it on `held_out`.

    With fewer than two diagnoses to learn from nothing is defined, and without melanomas no AUROC. Where all pictures
    are of one source, `source_only` scores them alike, and its AUROC is 0.5: the source tells nothing there.

    Args:
        splits: data sets in the schema `schema.FEATURES`; the other splits are not looked at.
        probabilities: (n, 9) the model's of the images held out, in their order; without them no margins.
    """
    train, held_out = splits["train"], splits["held_out"]
    trained_on, measured_on = _features_of(train), _features_of(held_out)
    origins = sorted(set(_origins(train)))
    trained_on["source_only"], measured_on["source_only"] = _one_hot(train, origins), _one_hot(held_out, origins)
    diagnoses = np.array(train["label"][:], int)
    return {
        name: _measure(name, _fit(trained_on[name], diagnoses), measured_on[name], held_out, probabilities)
        for name in _TEXTS
    }


def shortcuts(baselines: Mapping[str, Baseline]) -> Shortcuts:
    """Name the baselines that the model is not shown to exceed: there its figure may come from their shortcut.

    A baseline counts where the 95% interval of its margin does not lie above zero.
    """

    def margins(figure: str) -> dict[str, Estimate]:
        return {name: getattr(baseline.margin, figure) for name, baseline in baselines.items()}

    names = {
        figure: [name for name, margin in margins(figure).items() if not _exceeds(margin)]
        for figure in ("balanced_accuracy", "melanoma_auroc")
    }
    undefined = [figure for figure in names if all(margin.value is None for margin in margins(figure).values())]
    return Shortcuts(found=any(names.values()), not_measured=undefined, **names)


def _exceeds(margin: Estimate) -> bool:
    """Tell whether a margin is above zero, as an undefined one is taken to be; one without interval speaks itself."""
    least = margin.value if margin.low is None else margin.low
    return least is None or least > 0


def _features_of(dataset: Dataset) -> dict[str, np.ndarray]:
    """What each baseline sees of the pictures, (n, features)."""
    rows = thumbnail.shortcut_features(dataset)
    return {name: rows[name].copy() for name in FEATURES.names or ()}


def _origins(dataset: Dataset) -> list[str]:
    return [source or "not known" for source in dataset["source"][:]]


def _one_hot(dataset: Dataset, origins: list[str]) -> np.ndarray:
    """Return one column an origin, (n, origins); an image of any other has zeros."""
    return np.array(_origins(dataset), str)[:, None] == np.array(origins, str)


def _fit(features: np.ndarray, truth: np.ndarray) -> Pipeline | None:
    """Return a linear model that weighs all diagnoses alike, or None where there are not two of them."""
    if len(np.unique(truth)) < 2:
        return None
    model = LogisticRegression(C=_STRENGTH, class_weight="balanced", max_iter=5000, random_state=0)
    return make_pipeline(StandardScaler(), model).fit(features, truth)


def _measure(
    name: str, model: Pipeline | None, features: np.ndarray, held_out: Dataset, probabilities: np.ndarray | None
) -> Baseline:
    baseline = Baseline(n=len(held_out), features=_TEXTS[name])
    if model is None or not len(held_out):
        return baseline
    truth, intervals = np.array(held_out["label"][:]), Intervals(np.array(held_out["group"][:]))
    melanoma, prediction = truth == MELANOMA, model.predict(features)

    def balance(predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return metrics.balanced_accuracy(truth, predicted, weights)

    margin = _NO_MARGIN
    if probabilities is not None:
        decided = likeliest(probabilities)
        margin = Margin(balanced_accuracy=intervals.of(lambda w: balance(decided, w) - balance(prediction, w)))
    baseline = dataclasses.replace(
        baseline, balanced_accuracy=intervals.of(lambda w: balance(prediction, w)), margin=margin
    )
    if MELANOMA not in model.classes_:
        return baseline
    score = model.predict_proba(features)[:, list(model.classes_).index(MELANOMA)]

    def margin_among(rows: np.ndarray) -> Estimate:
        if probabilities is None:
            return UNDEFINED
        own = probabilities[:, MELANOMA]
        return intervals.of(lambda w: metrics.auroc(melanoma, own, w * rows) - metrics.auroc(melanoma, score, w * rows))

    origins = np.array(_origins(held_out), str)
    inside = {str(origin): origins == origin for origin in np.unique(origins)}
    return dataclasses.replace(
        baseline,
        melanoma_auroc=intervals.of_area(metrics.auroc, melanoma, score),
        margin=dataclasses.replace(margin, melanoma_auroc=margin_among(np.ones(len(truth), bool))),
        by_source={
            origin: SourceBaseline(
                melanoma_auroc=intervals.of_area(metrics.auroc, melanoma, score, among=rows), margin=margin_among(rows)
            )
            for origin, rows in inside.items()
            if len(np.unique(melanoma[rows])) == 2
        },
    )
