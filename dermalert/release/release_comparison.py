"""Two releases on the images held out of both.

A release carries its predictions of the images held out of it (`contract.PREDICTIONS`) and a list of the
images it was trained on (`contamination.py`): so two can be compared without a picture.
"""

import contextlib
import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from dermalert_space import comparison, contract
from dermalert_space.comparison import HeldOut, chance
from dermalert_space.contract import (
    ABSTAINED,
    ALERT_POINT,
    ATTENTION_POINT,
    CONFIG,
    EXPOSURE,
    METRICS,
    PREDICTIONS,
    Json,
)
from dermalert_space.estimate import Estimate, format_estimate
from dermalert_space.prediction import likeliest
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from dermalert.data import contamination, groups
from dermalert.data.identifiers import archive_number
from dermalert.errors import UsageError, first_few, first_line
from dermalert.evaluation import metrics
from dermalert.evaluation.intervals import Intervals
from dermalert.formatting import COMPARED
from dermalert.hub import client, offline
from dermalert.hub.retries import with_retries
from dermalert.release import release_folder
from dermalert.taxonomy import DIAGNOSES, MALIGNANT, MELANOMA, PRECURSOR

FILES = (CONFIG, METRICS, PREDICTIONS, EXPOSURE)
"""What is needed of a release to compare it."""

_MALIGNANT = [label for label, name in enumerate(DIAGNOSES) if name in MALIGNANT or name == PRECURSOR]
_TEXTS = ("image_id", "source", "group", "split", "truth")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReleasePredictions(HeldOut):
    """The predictions of a release of the images held out of it, with its figures and thresholds."""

    name: str
    figures: Json
    """Of `metrics.json`."""
    threshold: float | None
    """Of the alert, from its config."""
    attention: float | None = None
    """Threshold of what is malignant or a precursor, from its config; None where it has none."""
    fingerprint: str | None = None
    """Of its recorded predictions, by which a release adapted from it names it; None where it records none."""


def load(name: str) -> ReleasePredictions:
    """The predictions of a release: a folder, a run, or `USER/REPO[@TAG]` on the Hub."""
    folder = contract.find(name)
    if folder.exists() or "/" not in name:
        return read(folder, name)
    named = contract.HubName.parse(name)
    if not client.is_name(named.repo):
        raise UsageError(f"'{name}' is neither a folder nor USER/REPO of the Hub.")
    if offline.is_on():
        return read(offline.cached_folder(named, FILES), name)
    with tempfile.TemporaryDirectory() as scratch, client.on_the_hub(f"asking the Hub about {name}"):
        try:
            commit = with_retries(HfApi().model_info, named.repo, revision=named.revision).sha
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise UsageError(f"'{name}' is neither a folder nor a release that the Hub has.") from error
        assert commit is not None  # a repository that answers names its commit
        return read(client.fetch(named.repo, commit, set(FILES), Path(scratch) / contract.RELEASE_FOLDER), name)


def read(folder: Path, name: str) -> ReleasePredictions:
    """The predictions of the release in a folder; UsageError where it is none, or a table of it is damaged."""
    figures = release_folder.find_metrics(folder)
    if figures is None:
        raise UsageError(f"'{name}' is no dermalert release: it has no {METRICS} of one.")
    try:
        config = json.loads((folder / CONFIG).read_text())
        threshold, attention = config[ALERT_POINT]["threshold"], (config.get(ATTENTION_POINT) or {}).get("threshold")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"'{name}' is no dermalert release: its config.json has no usable 'alert'.") from error
    with _refuse_damage(name, PREDICTIONS):
        rows = _held_out_rows(folder)
    with _refuse_damage(name, EXPOSURE):
        exposure = contamination.read(folder)
    return ReleasePredictions(
        name=name,
        figures=figures,
        threshold=threshold,
        rows=rows,
        exposure=exposure,
        attention=attention,
        fingerprint=fingerprint(folder / PREDICTIONS),
    )


def fingerprint(predictions: Path) -> str | None:
    """The SHA-256 of the recorded predictions of a release, which publishing leaves as they are."""
    return hashlib.sha256(predictions.read_bytes()).hexdigest() if predictions.is_file() else None


@contextlib.contextmanager
def _refuse_damage(name: str, file: str) -> Iterator[None]:
    """Refuse a release with a table that cannot be read, or that lacks a column."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UsageError(
            f"{file} of '{name}' is damaged ({first_line(error)}): take a whole copy of the release, or make it anew."
        ) from error


def _held_out_rows(folder: Path) -> pa.Table:
    """The predictions (a row an image) of the images held out of a release; no rows where it has none."""
    path = folder / PREDICTIONS
    if not path.is_file():
        texts = dict.fromkeys(_TEXTS, pa.array([], pa.string())) | {ABSTAINED: pa.array([], pa.bool_())}
        return pa.table(texts | dict.fromkeys(DIAGNOSES, pa.array([], pa.float32())))
    rows = pq.read_table(path).select([*_TEXTS, ABSTAINED, *DIAGNOSES])
    return rows.filter(pc.equal(rows["split"], "held_out"))


Flags = tuple[np.ndarray | None, np.ndarray | None]
"""(n,) of the old release and of the new one; None where one has no threshold."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """The predictions of two releases, the old one first, of the images that were held out of both."""

    image_ids: np.ndarray
    truth: np.ndarray
    """(n,) label ids."""
    groups: np.ndarray
    """(n,) images that either release takes to belong together have one."""
    probabilities: tuple[np.ndarray, np.ndarray]
    """(n, 9) each."""
    alerts: Flags
    """(n,) each, by the release's own threshold; None where it has none. An image on which it abstains raises none."""
    attentions: Flags
    """(n,) each, the same by the threshold of what is malignant or a precursor."""
    left_out: dict[str, int]
    """How many images both hold out that cannot be compared, by reason."""

    @property
    def melanoma(self) -> np.ndarray:
        """(n,) bool."""
        return self.truth == MELANOMA

    @property
    def malignant(self) -> np.ndarray:
        """(n,) bool, precursors among them."""
        return np.isin(self.truth, _MALIGNANT)

    @property
    def scores(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) each, the probabilities of melanoma."""
        old, new = self.probabilities
        return old[:, MELANOMA], new[:, MELANOMA]


def pair(old: ReleasePredictions, new: ReleasePredictions) -> Pair:
    """Pair the predictions of images held out of both releases that neither is known to have been trained on."""
    pairs = comparison.pair(old, new, archive_number)
    before, after = _probabilities(pairs.old), _probabilities(pairs.new)

    def flags(labels: list[int], one: float | None, other: float | None) -> Flags:
        return _flags(pairs.old, before, labels, one), _flags(pairs.new, after, labels, other)

    return Pair(
        image_ids=pairs.new["image_id"].to_numpy(),
        truth=np.array([DIAGNOSES.index(name) for name in pairs.new["truth"].to_pylist()], int),
        groups=_join_groups(pairs.old["group"].to_numpy(), pairs.new["group"].to_numpy()),
        probabilities=(before, after),
        alerts=flags([MELANOMA], old.threshold, new.threshold),
        attentions=flags(_MALIGNANT, old.attention, new.attention),
        left_out={"learnt_from": pairs.exposed, "other_label": pairs.relabelled},
    )


def _probabilities(rows: pa.Table) -> np.ndarray:
    return np.stack([rows[name].to_numpy() for name in DIAGNOSES], axis=1)


def _flags(rows: pa.Table, probabilities: np.ndarray, labels: list[int], threshold: float | None) -> np.ndarray | None:
    """Whether the labels' summed probability reaches the threshold (n,), as served: not where the release abstains."""
    if threshold is None:
        return None
    # As `dermalert_space.release.Release.alerts` and `attentions`, which served them.
    score = probabilities[:, labels].astype(np.float64).sum(1)
    return (score >= threshold) & ~rows[ABSTAINED].to_numpy()


def _join_groups(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The group of each image (n,) where images belong together that do so in either grouping, directly or not."""
    olds, news = (np.unique(each, return_inverse=True)[1] for each in (old, new))
    edges = np.stack([olds, news + len(old)], axis=1)
    return groups.components(edges, len(old) + len(new))[olds]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """A figure of the old release and of the new one, and the new less the old; groups are resampled alike for both."""

    old: Estimate
    new: Estimate
    difference: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlertChanges:
    """The images, by id, that have gained an alert and those that have lost theirs."""

    images: int
    gained: list[str]
    lost: list[str]
    p: float
    """Of McNemar's exact test, which counts images as if no two were of one lesion."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiagnosisChange:
    """An image whose likeliest diagnosis has changed; None stands for a tie."""

    image_id: str
    truth: str
    old: str | None
    new: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """The differences of two releases on the images held out of both, as served."""

    old: str
    new: str
    n: int
    groups: int
    melanomas: int
    """Groups of them."""
    others: int
    """Groups of them."""
    left_out: dict[str, int]
    learnt_from_not_known: list[str]
    """`old` and `new` where it lists no training images, so that nothing could be left out on its account."""
    changes: dict[str, Change]
    """By the keys of `COMPARED`, as far as both releases have thresholds."""
    alerts: dict[str, AlertChanges] | None
    """Of `melanomas` and `others`; None where a release has no threshold."""
    diagnoses: list[DiagnosisChange]

    def to_json(self) -> Json:
        """All of it, the changes side by side with the counts."""
        content = dataclasses.asdict(self)
        changes, ids = content.pop("changes"), {key: content.pop(key) for key in ("alerts", "diagnoses")}
        return content | changes | ids

    def in_short(self) -> Json:
        """The same without names, and with counts in the place of ids."""
        content = self.to_json()
        for side in (content["alerts"] or {}).values():
            side |= {key: len(side[key]) for key in ("gained", "lost")}
        rest = {key: value for key, value in content.items() if key not in ("old", "new")}
        return rest | {"diagnoses": len(self.diagnoses)}


def compare(old: ReleasePredictions, new: ReleasePredictions) -> Comparison:
    """Compare two releases on the images held out of both."""
    both = pair(old, new)
    melanoma = both.melanoma
    return Comparison(
        old=old.name,
        new=new.name,
        n=len(melanoma),
        groups=len(np.unique(both.groups)),
        melanomas=len(np.unique(both.groups[melanoma])),
        others=len(np.unique(both.groups[~melanoma])),
        left_out=both.left_out,
        learnt_from_not_known=[name for name, release in (("old", old), ("new", new)) if not release.exposure],
        changes=_changes(both) if len(melanoma) else {},
        alerts=_alert_changes(both),
        diagnoses=_diagnosis_changes(both),
    )


def _changes(both: Pair) -> dict[str, Change]:
    intervals, melanoma = Intervals(both.groups), both.melanoma

    def difference(metric: Callable[..., np.ndarray], old: np.ndarray, new: np.ndarray) -> Estimate:
        return intervals.of(lambda w: metric(new, w) - metric(old, w))

    def area(score: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return metrics.auroc(melanoma, score, weights)

    old, new = (intervals.of_area(metrics.auroc, melanoma, score) for score in both.scores)
    changes = {"melanoma_auroc": Change(old=old, new=new, difference=difference(area, *both.scores))}
    shares = {
        "sensitivity": (melanoma, both.alerts, True),
        "specificity": (~melanoma, both.alerts, False),
        "malignant_sensitivity": (both.malignant, both.attentions, True),
    }
    for name, (among, flags, raised) in shares.items():
        hits = [np.equal(flag, raised) for flag in flags if flag is not None]
        if len(hits) == len(flags):
            old, new = (intervals.of_proportion(hit, among) for hit in hits)
            change = difference(lambda hit, w, among=among: metrics.proportion(hit, among, w), *hits)
            changes[name] = Change(old=old, new=new, difference=change)
    return changes


def _alert_changes(both: Pair) -> dict[str, AlertChanges] | None:
    old, new = both.alerts
    if old is None or new is None:
        return None
    return {
        name: _gains_and_losses(both.image_ids[among], old[among], new[among])
        for name, among in (("melanomas", both.melanoma), ("others", ~both.melanoma))
    }


def _gains_and_losses(image_ids: np.ndarray, old: np.ndarray, new: np.ndarray) -> AlertChanges:
    gained, lost = image_ids[new & ~old].tolist(), image_ids[old & ~new].tolist()
    return AlertChanges(images=len(image_ids), gained=gained, lost=lost, p=chance(len(gained), len(lost)))


def _diagnosis_changes(both: Pair) -> list[DiagnosisChange]:
    old, new = (likeliest(probabilities) for probabilities in both.probabilities)
    names = [*DIAGNOSES, None]
    return [
        DiagnosisChange(image_id=str(image_id), truth=DIAGNOSES[truth], old=names[one], new=names[other])
        for image_id, truth, one, other in zip(both.image_ids, both.truth, old, new, strict=True)
        if one != other
    ]


def sentences(report: Comparison) -> list[str]:
    """A comparison in sentences."""
    left_out = {"learnt_from": "known to one of them by what it has learnt from", "other_label": "under another label"}
    left = [f"{n} {left_out[reason]}" for reason, n in report.left_out.items() if n]
    compared = f"{report.new} against {report.old}: {report.n} images in {report.groups} groups"
    lines = [f"{compared} were held out of both" + (f"; left out: {', '.join(left)}." if left else ".")]
    lines += [
        f"What {getattr(report, side)} has learnt from is not known ({EXPOSURE} is not there): these images may be "
        "among it."
        for side in report.learnt_from_not_known
    ]
    for key, change in report.changes.items():
        old, new, difference = (format_estimate(each, 3) for each in (change.old, change.new, change.difference))
        lines.append(f"{COMPARED[key]}: {old} there, {new} now; change {difference}")
    for name, side in (report.alerts or {}).items():
        won, lost = (f"{len(ids)}{_id_list(ids)}" for ids in (side.gained, side.lost))
        ends = ("won", "lost") if name == "melanomas" else ("new false alerts", "false alerts gone")
        lines.append(f"{name} (n = {side.images}): {ends[0]} {won}; {ends[1]} {lost}; McNemar's p = {side.p:.3g}")
    if report.alerts is None:
        lines.append("alerts: one of them has no threshold.")
    righted = [row.image_id for row in report.diagnoses if row.new == row.truth]
    wronged = [row.image_id for row in report.diagnoses if row.old == row.truth]
    lines.append(
        f"likeliest diagnosis: {len(report.diagnoses)} changed, {len(righted)} righted{_id_list(righted)}, "
        f"{len(wronged)} wronged{_id_list(wronged)}"
    )
    return lines


def _id_list(image_ids: list[str]) -> str:
    return f" ({first_few(image_ids, 10)})" if image_ids else ""
