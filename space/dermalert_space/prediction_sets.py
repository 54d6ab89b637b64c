"""Prediction sets: the diagnoses that an image may show, so that of each diagnosis few lesions are left out.

Split conformal prediction, each diagnosis by its own calibration lesions (Vovk 2012, arXiv 1209.2673; Sadinle 2019,
arXiv 1609.00451): a set holds the diagnoses whose probability is at least what all but a few of their lesions had.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from dermalert_space.contract import Json


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictionSets:
    """From which probability on each diagnosis belongs to the set of an image that is assessed."""

    alpha: float
    """The share of lesions of each diagnosis that may have a photo whose set lacks it."""
    split: str
    """The release's split that the thresholds were set on."""
    thresholds: Mapping[str, float | None]
    """By diagnosis; None where its lesions are too few: it is in no set, and nothing is promised of it."""
    lesions: Mapping[str, int]
    """By diagnosis, how many its threshold was set on."""

    @property
    def lesions_needed(self) -> int:
        """The fewest lesions of a diagnosis that show anything: of fewer, none may be left out, whatever its score."""
        return int(np.ceil(1 / self.alpha - 1e-9)) - 1

    @property
    def without_promise(self) -> list[str]:
        """The diagnoses that are in no set, for want of lesions."""
        return [label for label, threshold in self.thresholds.items() if threshold is None]

    def members(self, probabilities: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        """Which labels the sets of images hold, (n, labels) bool, by their probabilities (n, labels)."""
        limits = [self.thresholds.get(label) for label in labels]
        return probabilities >= np.array([np.inf if limit is None else limit for limit in limits])

    def of(self, probabilities: Mapping[str, float]) -> list[str]:
        """The set of one image, in the order of its probabilities; an empty one says that no diagnosis fits."""
        limits = {label: self.thresholds.get(label) for label in probabilities}
        return [label for label, p in probabilities.items() if (limit := limits[label]) is not None and p >= limit]

    def to_json(self) -> Json:
        """The key `prediction_sets` of a release's config."""
        return dataclasses.asdict(self) | {"lesions_needed": self.lesions_needed}

    @classmethod
    def read(cls, content: Json) -> "PredictionSets":
        """Read what `to_json` gives, once `problems` has none."""
        return cls(**{field.name: content[field.name] for field in dataclasses.fields(cls)})


def problems(content: object, diagnoses: Sequence[str]) -> Iterator[str]:
    """Why the key of a config makes no sets, each as a clause."""
    about = content if isinstance(content, dict) else {}
    alpha, thresholds, lesions = (about.get(key) for key in ("alpha", "thresholds", "lesions"))
    if not isinstance(thresholds, dict) or not isinstance(lesions, dict):
        yield "its 'prediction_sets' name no thresholds"
    elif not _is_between(alpha, 0, 1) or alpha == 1 or not isinstance(about.get("split"), str):
        yield f"its 'prediction_sets' leave out a share of {alpha!r}, and no number between 0 and 1"
    elif set(thresholds) != set(diagnoses) or set(lesions) != set(diagnoses):
        yield "its 'prediction_sets' do not name each of its diagnoses"
    elif not all(value is None or _is_between(value, 0, 1) for value in thresholds.values()):
        yield "a threshold of its 'prediction_sets' is no number above 0 and at most 1"
    elif not all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in lesions.values()):
        yield "its 'prediction_sets' count lesions in no whole numbers"


def _is_between(value: object, low: float, high: float) -> bool:
    """Whether it is a number above `low` and at most `high`."""
    return isinstance(value, float | int) and not isinstance(value, bool) and low < value <= high
