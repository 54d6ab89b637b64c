"""What a clinic's labels show of a model: its promise as served, by lesion, and what the alert is worth there."""

import dataclasses

import numpy as np
from dermalert_space.contract import Json
from dermalert_space.estimate import Estimate
from dermalert_space.release import Release

from dermalert.clinic import net_benefit, own_shortcuts, questions, verdict
from dermalert.clinic.net_benefit import Worth
from dermalert.clinic.own_shortcuts import OwnShortcut
from dermalert.clinic.questions import Question
from dermalert.clinic.verdict import Verdict
from dermalert.evaluation.evaluate import measure
from dermalert.evaluation.intervals import Intervals, exact_proportion
from dermalert.evaluation.label_map import Classes
from dermalert.evaluation.operating_points import TARGET_SENSITIVITY
from dermalert.evaluation.predict import SplitPredictions
from dermalert.evaluation.report import SplitReport, at_prevalence
from dermalert.taxonomy import ALERT


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithLabels:
    """The figures of a model on labelled images."""

    positive: str
    """What the alert is for: melanoma, or malignant where the labels or the classes tell no more."""
    verdict: Verdict
    abstained: int
    """Of the missed lesions, those with an image that it cannot assess."""
    images: int
    lesions: int
    prevalence: Estimate
    """Share of the lesions that are positive."""
    predictive_values: dict[str, Estimate]
    """At that share."""
    worth: Worth
    shortcuts: list[OwnShortcut]
    """None where lesions are too few."""
    questions: list[Question]
    report: SplitReport

    @property
    def plural(self) -> str:
        """Lesions that are positive."""
        return plural(self.positive)

    def to_json(self) -> Json:
        """All of it, for machines; the figures of the photos as `evaluate --json` has them."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "report"}
        plain = {name: _plain(value) for name, value in own.items()}
        return plain | {"figures": self.report.to_json()}


def plural(positive: str) -> str:
    """What several lesions of a diagnosis, or of several, are called."""
    return f"{ALERT}s" if positive == ALERT else f"{positive} lesions"


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return {key: _plain(each) for key, each in value.items()} if isinstance(value, dict) else value


def promised(release: Release) -> float:
    """The sensitivity that a release promises of its alert; of any other model, the one that an alert should have."""
    return float(release.model.config.alert.get("target_sensitivity") or TARGET_SENSITIVITY)


def examine(predictions: SplitPredictions, covering: Classes, promise: float) -> WithLabels:
    """The figures of predictions under the nine diagnoses, see `any_checkpoint.under_classes`."""
    dataset = predictions.dataset
    positive, groups = predictions.melanoma, np.array(dataset["group"])
    flagged = predictions.flagged  # `under_classes` gives every model an alert
    intervals, report = Intervals(groups), measure(predictions).report
    lesions, n = intervals.groups, intervals.groups_of(positive)
    of = covering.positive
    decided = verdict.decide(n, intervals.groups_of(positive & ~flagged), promise, what=plural(of))
    prevalence = exact_proportion(n, lesions)
    point = report.melanoma
    values = at_prevalence(point.sensitivity_refusals_missed, point.specificity_as_served, prevalence.value or 0)
    return WithLabels(
        positive=of,
        verdict=decided,
        abstained=intervals.groups_of(positive & predictions.abstains),
        images=len(positive),
        lesions=lesions,
        prevalence=prevalence,
        predictive_values=values,
        worth=net_benefit.measure(positive, flagged, intervals),
        shortcuts=own_shortcuts.measure(dataset, positive, predictions.melanoma_probabilities, intervals),
        questions=questions.questions(
            decided, report, positive=of, plural=plural(of), others=intervals.groups_of(~positive)
        ),
        report=report,
    )
