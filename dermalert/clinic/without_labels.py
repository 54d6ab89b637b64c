"""What a clinic's images show of a model before anybody has labelled them: is it on its own ground there?

Nothing here says how often the alert is right, and no prevalence is estimated from the probabilities: expectation
maximisation made them worse on two of four sets.
"""

import dataclasses
from collections import Counter

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from dermalert_space.contract import ABSTAINED, PREDICTIONS, Json
from dermalert_space.estimate import UNDEFINED, Estimate
from dermalert_space.release import Release
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dermalert.clinic.look import Look
from dermalert.evaluation import metrics
from dermalert.evaluation.intervals import Intervals, exact_proportion

FEWEST = 20
"""Groups of each side below which two samples are not compared."""

_MOST = 3000  # images of a side: more move the figure by less than a hundredth
_FOLDS = 5
_TINY = 1e-7


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstentionCheck:
    """How often a release abstains at the clinic and on images held out of it, and for what."""

    here: Estimate
    images: int
    abstained: int
    reasons: dict[str, int]
    """By `abstention.REASONS`."""
    own: Estimate
    """On its held-out images; undefined where it records none."""
    p: float | None
    """Fisher's exact test of equal rates, two-sided."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resemblance:
    """How well a simple model tells the clinic's images from those of a training source, both unseen: 0.5 is alike."""

    source: str
    images: int
    auroc: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlertRate:
    """The share of images that raise the alert as served, here and on the images held out of the release."""

    here: Estimate
    own: dict[str, Estimate]
    """By source."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithoutLabels:
    """What needs no label; None where the model carries nothing to compare with."""

    abstention: AbstentionCheck | None
    distance: Estimate
    """The median distance from the training images, which is about 1 for these; undefined without such statistics."""
    resemblance: list[Resemblance]
    among_its_own: Resemblance | None
    """How well its own training sources are told from each other, for scale."""
    alert_rate: AlertRate
    not_computed: list[str]
    """Why something is missing, in sentences."""

    def to_json(self) -> Json:
        """All of it, for machines."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Own:
    """A release's predictions of the images held out of it."""

    probabilities: np.ndarray
    abstained: np.ndarray
    sources: np.ndarray
    groups: np.ndarray


def examine(release: Release, look: Look, flagged: np.ndarray) -> WithoutLabels:
    """The figures of images that need no label; `flagged` (n,) raise the alert as served."""
    own, missing = _own(release), []
    if release.abstention is None:
        missing.append("It never abstains, so nothing says which of these images it should not assess.")
    if own is None:
        missing.append(
            "It carries no predictions of its own held-out images, so how far yours are from its training sources "
            "cannot be computed."
        )
    if release.threshold is None:
        missing.append(
            "It has no alert threshold and promises nothing. It counts as an alert where its class for melanoma is the "
            "likeliest, and it is asked for a sensitivity of 0.95."
        )
    dataset = look.predictions.dataset
    groups = np.array(dataset["group"])
    resemblance, among = ([], None) if own is None else _resemblances(own, look.predictions.probabilities, groups)
    return WithoutLabels(
        abstention=None if release.abstention is None else _abstention(look, own),
        distance=_median_distance(look, groups),
        resemblance=resemblance,
        among_its_own=among,
        alert_rate=_alert_rate(release, flagged, own, groups),
        not_computed=missing,
    )


def _own(release: Release) -> _Own | None:
    try:
        path = release.file(PREDICTIONS)
    except OSError:  # the Hub is out of reach, and its cache has none
        path = None
    if path is None:
        return None
    rows = pq.read_table(path)
    rows = rows.filter(pc.equal(rows["split"], "held_out"))
    if not len(rows) or not set(release.labels) <= set(rows.column_names):
        return None
    return _Own(
        probabilities=np.stack([rows[label].to_numpy() for label in release.labels], 1),
        abstained=np.array(rows[ABSTAINED].to_pylist(), bool),
        sources=np.array([source or "not known" for source in rows["source"].to_pylist()], str),
        groups=np.array(rows["group"].to_pylist(), str),
    )


def _abstention(look: Look, own: _Own | None) -> AbstentionCheck:
    images = len(look.failing)
    reasons = Counter(name for name in look.failing if name)
    abstained = reasons.total()
    p = None
    if own is not None:
        held_out = [own.abstained.sum(), (~own.abstained).sum()]
        p = float(stats.fisher_exact([[abstained, images - abstained], held_out]).pvalue)
    return AbstentionCheck(
        here=exact_proportion(abstained, images),
        images=images,
        abstained=abstained,
        reasons=dict(reasons.most_common()),
        own=UNDEFINED if own is None else exact_proportion(int(own.abstained.sum()), len(own.abstained)),
        p=p,
    )


def _median_distance(look: Look, groups: np.ndarray) -> Estimate:
    distances = look.distances
    if distances is None:
        return UNDEFINED
    order = np.argsort(distances)

    def median(weights: np.ndarray) -> np.ndarray:
        passed = np.cumsum(np.atleast_2d(weights)[:, order], axis=1)
        middle = (passed >= passed[:, -1:] / 2).argmax(1)
        return distances[order][middle] if weights.ndim == 2 else distances[order][middle[0]]

    return Intervals(groups).of(median)


def _resemblances(
    own: _Own, probabilities: np.ndarray, groups: np.ndarray
) -> tuple[list[Resemblance], Resemblance | None]:
    here = (probabilities, groups)
    sources = [str(source) for source in np.unique(own.sources)]
    parts = {name: (own.probabilities[own.sources == name], own.groups[own.sources == name]) for name in sources}
    compared = [compare(here, part, name) for name, part in parts.items()]
    among = None
    if len(parts) == 2:
        one, other = parts
        among = compare(parts[one], parts[other], f"{one} and {other}")
    return [each for each in compared if each], among


def compare(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], name: str) -> Resemblance | None:
    """The classifier two-sample test (Lopez-Paz 2017, arXiv 1610.06545) on the probabilities of two sets of images.

    A linear model of the log-odds and their squares is cross-fitted by group; its AUROC is 0.5 where the model sees no
    difference. Another mix of diagnoses is a difference too.

    Args:
        one: probabilities (n, classes) of one set, and the group (n,) of each image.
        other: the same of the other.
        name: of the other.

    Returns:
        None where a side has fewer than 20 groups.
    """
    if min(len(np.unique(one[1])), len(np.unique(other[1]))) < FEWEST:
        return None
    one, other = _few(*one), _few(*other)
    logs = np.log(np.clip(np.concatenate([one[0], other[0]]).astype(np.float64), _TINY, 1))
    logs -= logs.mean(1, keepdims=True)
    features = np.concatenate([logs, logs**2], 1)
    groups = np.concatenate([[f"here {group}" for group in one[1]], [f"there {group}" for group in other[1]]])
    here = np.arange(len(groups)) < len(one[1])
    scores = np.zeros(len(groups))
    for fitted_on, scored in GroupKFold(_FOLDS, shuffle=True, random_state=0).split(features, here, groups):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000))
        scores[scored] = model.fit(features[fitted_on], here[fitted_on]).decision_function(features[scored])
    auroc = Intervals(groups).of_area(metrics.auroc, here, scores)
    return Resemblance(source=name, images=len(other[1]), auroc=auroc)


def _few(probabilities: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = np.random.default_rng(0).permutation(len(groups))[:_MOST]
    return probabilities[rows], groups[rows]


def _alert_rate(release: Release, flagged: np.ndarray, own: _Own | None, groups: np.ndarray) -> AlertRate:
    own_rates = {}
    alerts = None if own is None else release.alerts(own.probabilities)
    if own is not None and alerts is not None:
        for source in map(str, np.unique(own.sources)):
            rows = own.sources == source
            served = (alerts & ~own.abstained)[rows]
            own_rates[source] = Intervals(own.groups[rows]).of_proportion(served, np.ones(len(served), bool))
    return AlertRate(here=Intervals(groups).of_proportion(flagged, np.ones(len(flagged), bool)), own=own_rates)
