"""A model's scores on a benchmark, clinic by clinic, and whether it may have learnt from the test images."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from dermalert_space.contract import Json
from dermalert_space.estimate import Estimate
from dermalert_space.release import Release

from dermalert.benchmark.images import LocalImages
from dermalert.benchmark.manifest import TEST, Benchmark, slug
from dermalert.clinic import with_labels
from dermalert.clinic.own_shortcuts import OwnShortcut
from dermalert.clinic.with_labels import WithLabels
from dermalert.data import contamination
from dermalert.errors import UsageError
from dermalert.evaluation import any_checkpoint, predict
from dermalert.evaluation.intervals import Intervals
from dermalert.evaluation.label_map import Classes
from dermalert.evaluation.metrics import ratio
from dermalert.evaluation.predict import SplitPredictions

WHOLE = 0.95
"""The share of a clinic's test images below which its score is partial."""

_ROUNDING = 1e-6  # of a difference of losses
_TINY = 1e-7  # a probability below this is taken for it, so that one image does not decide on a mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """Whether a model knows a clinic's training images better than its test images, by its loss."""

    n_train: int
    n_test: int
    difference: Estimate
    """Mean negative log-likelihood of the test images less that of the training images, at one mix of diagnoses."""

    @property
    def is_shown(self) -> bool:
        """Whether it has learnt from the training images."""
        return self.difference.low is not None and self.difference.low > _ROUNDING


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClinicScore:
    """What a model reaches at one clinic."""

    clinic: str
    of: int
    """Test images of the manifest."""
    measured: int
    not_drawn: int
    exposed: int
    """Left out, because the model has learnt from them or from related images, by its record."""
    without_class: int
    """Left out, for want of a class of the model's."""
    figures: WithLabels | None
    """None where no image is left."""
    probe: Probe | None
    """None where the model's training images are on record, or no training image of the clinic is here."""

    @property
    def task(self) -> str:
        """The id of the task that the score is of."""
        return slug(self.clinic)

    @property
    def auroc(self) -> Estimate:
        """Of the positive class against the rest."""
        return self.figures.report.melanoma.auroc if self.figures else Estimate()

    @property
    def coverage(self) -> float:
        """The share of the clinic's test images that are measured."""
        return self.measured / self.of

    @property
    def is_whole(self) -> bool:
        """Whether the score is one of the benchmark's."""
        return self.coverage >= WHOLE and self.auroc.value is not None

    @property
    def best_shortcut(self) -> OwnShortcut | None:
        """The shortcut baseline with the highest AUROC; None where lesions are too few."""
        shortcuts = self.figures.shortcuts if self.figures else []
        return max(shortcuts, key=lambda each: each.auroc.value or 0, default=None)

    def to_json(self) -> Json:
        """All of it, for machines."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("figures", "probe")}
        probe = self.probe and dataclasses.asdict(self.probe) | {"learnt_from_train": self.probe.is_shown}
        figures = self.figures and self.figures.to_json()
        return own | {"coverage": self.coverage, "whole": self.is_whole, "probe": probe, "figures": figures}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkReport:
    """A model's scores, clinic by clinic."""

    model: str
    benchmark: str
    revision: str | None
    """Of the benchmark; None of a folder."""
    positive: str
    """What the model's class for melanoma stands for; a benchmark's tasks are of melanoma alone."""
    exposure_recorded: bool
    missing: list[str]
    others: list[str]
    """Numbers of images whose file shows another picture than the manifest's, or is damaged."""
    clinics: list[ClinicScore]

    @property
    def worst(self) -> ClinicScore | None:
        """The clinic with the lowest score; None where one has none, which may be the worst."""
        scores = [score for score in self.clinics if score.auroc.value is not None]
        return min(scores, key=lambda s: s.auroc.value or 0) if len(scores) == len(self.clinics) else None

    @property
    def is_whole(self) -> bool:
        """Whether each clinic's score is whole."""
        return all(score.is_whole for score in self.clinics)

    def to_json(self) -> Json:
        """All of it, for machines."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "clinics"}
        worst = self.worst.task if self.worst else None
        return {"schema": 1, **own, "worst": worst, "clinics": {s.task: s.to_json() for s in self.clinics}}


def grade(
    release: Release,
    benchmark: Benchmark,
    local: LocalImages,
    *,
    label_map: Mapping[str, str | None] | None = None,
) -> BenchmarkReport:
    """The scores of a model on a benchmark.

    Args:
        release: of `any_checkpoint.load`.
        benchmark: see `manifest.read`.
        local: its images here.
        label_map: see `label_map.classes`.

    Raises:
        UsageError: see `label_map.classes`; or no test image is left.
    """
    if not (local.split == TEST).any():
        raise UsageError(
            f"none of the {len(local.missing)} test images of {benchmark.repo_id} is in the folders of --images: fetch "
            "them from the ISIC archive first."
        )
    exposure = contamination.read(release.name, release.revision)
    covering, truth = any_checkpoint.cover(release, local.dataset, label_map)
    use = _use(local, truth < 0, _are_exposed(local, benchmark, exposure), probed=not exposure)
    if not (use.measured & use.test).any():
        raise UsageError(
            f"nothing is left to measure {any_checkpoint.public_name_of(release)} on: of {use.test.sum()} test images "
            f"here it has learnt from {(use.test & use.exposed).sum()}, and has no class for others."
        )
    predictions = predict.predict(release, local.dataset.select(use.rows), name="the benchmark's images")
    predictions = any_checkpoint.under_classes(predictions, covering, truth[use.rows])
    return BenchmarkReport(
        model=any_checkpoint.public_name_of(release),
        benchmark=benchmark.repo_id,
        revision=benchmark.revision,
        positive=covering.positive,
        exposure_recorded=bool(exposure),
        missing=local.missing,
        others=local.others,
        clinics=[_score(clinic, local, use, predictions, covering, release) for clinic in benchmark.clinics],
    )


class _Use(NamedTuple):
    """What each local image (n,) serves for."""

    clinic: np.ndarray
    test: np.ndarray
    exposed: np.ndarray
    """Whether the model has learnt from it or from related images."""
    without_class: np.ndarray
    probed: bool
    """Whether training images are measured too, because the model's own are not on record."""

    @property
    def measured(self) -> np.ndarray:
        return ~self.without_class & (self.probed | (self.test & ~self.exposed))

    @property
    def rows(self) -> np.ndarray:
        """Those that are measured, in the order of their predictions."""
        return np.flatnonzero(self.measured)


def _use(local: LocalImages, without_class: np.ndarray, exposed: np.ndarray, *, probed: bool) -> _Use:
    return _Use(
        clinic=np.array(local.dataset["source"], str),
        test=local.split == TEST,
        exposed=exposed,
        without_class=without_class,
        probed=probed,
    )


def _score(
    clinic: str, local: LocalImages, use: _Use, predictions: SplitPredictions, covering: Classes, release: Release
) -> ClinicScore:
    here = use.test & (use.clinic == clinic)
    inside, tests = (use.clinic == clinic)[use.rows], use.test[use.rows]
    return ClinicScore(
        clinic=clinic,
        of=local.of[clinic],
        measured=int((use.measured & here).sum()),
        not_drawn=local.not_drawn[clinic],
        exposed=int((here & use.exposed).sum()),
        without_class=int((here & ~use.exposed & use.without_class).sum()),
        figures=_figures(predictions.select(np.flatnonzero(inside & tests)), covering, release),
        probe=_probe(predictions.select(np.flatnonzero(inside)), tests[inside]) if use.probed else None,
    )


def _are_exposed(local: LocalImages, benchmark: Benchmark, exposure: Mapping[str, str]) -> np.ndarray:
    """Which images (n,) a model has learnt from by its record: from themselves, or from one of their group."""
    if not exposure:
        return np.zeros(len(local.split), bool)
    rows = benchmark.rows.select(["group", "belongs"]).to_pylist()
    groups = {row["group"] for row in rows if any(name in exposure for name in row["belongs"])}
    alike = contamination.look_alike(local.dataset, exposure)
    return alike | np.array([group in groups for group in local.dataset["group"]], bool)


def _figures(predictions: SplitPredictions, covering: Classes, release: Release) -> WithLabels | None:
    if not len(predictions.probabilities):
        return None
    return with_labels.examine(predictions, covering, with_labels.promised(release))


def _probe(predictions: SplitPredictions, tests: np.ndarray) -> Probe | None:
    """The loss on test images (n,) beside that on the others, both at the test images' mix of diagnoses."""
    truth = np.array(predictions.dataset["label"], int)
    loss = -np.log(np.maximum(predictions.probabilities[np.arange(len(truth)), truth], _TINY))
    both = sorted(set(truth[tests]) & set(truth[~tests]))
    kept = np.isin(truth, both)
    if not kept.any():
        return None

    def mean(weights: np.ndarray, rows: np.ndarray, label: int) -> np.ndarray:
        inside = weights * (rows & (truth == label))
        return ratio(inside @ loss, inside.sum(-1))

    def difference(weights: np.ndarray) -> np.ndarray:
        gaps = [(truth[tests] == c).sum() * (mean(weights, tests, c) - mean(weights, ~tests, c)) for c in both]
        return np.sum(gaps, axis=0) / kept[tests].sum()

    groups = np.array(predictions.dataset["group"])
    return Probe(
        n_train=int((kept & ~tests).sum()),
        n_test=int((kept & tests).sum()),
        difference=Intervals(groups).of(difference),
    )
