"""Scores on a benchmark as a person reads them, and as the Hub takes them: `.eval_results/*.yaml`."""

import datetime

import yaml
from dermalert_space.contract import Json
from dermalert_space.estimate import UNDEFINED, format_estimate
from huggingface_hub import EvalResultEntry, constants, eval_result_entries_to_yaml
from rich.markup import escape
from rich.table import Table

from dermalert.benchmark.grade import WHOLE, BenchmarkReport, ClinicScore
from dermalert.benchmark.manifest import WORST, slug
from dermalert.clinic.own_shortcuts import TEXTS
from dermalert.errors import UsageError, first_few
from dermalert.formatting import percent, share_at_least
from dermalert.taxonomy import ALERT

FOLDER = ".eval_results"


def file_name(report: BenchmarkReport) -> str:
    """The file of a model's repository that holds its scores on a benchmark."""
    return f"{FOLDER}/{slug(report.benchmark.split('/')[-1])}.yaml"


def check_task(model: str, positive: str) -> None:
    """Refuse scores of a model whose class for melanoma stands for more: they are of another task than the Hub's."""
    if positive != ALERT:
        raise UsageError(f"'{model}' has no class for {ALERT} alone, but {positive}: its scores are of another task.")


def entries(report: BenchmarkReport, date: datetime.date, *, whole: bool = False) -> list[Json]:
    """The scores as the Hub takes them: the AUROC of melanoma at each clinic, and the lowest.

    Args:
        report: of `grade.grade`.
        date: of the measurement.
        whole: leave out partial scores; the lowest counts only if all are whole.

    Raises:
        UsageError: the model's class for melanoma stands for more, or no score is left.
    """
    check_task(report.model, report.positive)
    scores = [score for score in report.clinics if score.auroc.value is not None and (score.is_whole or not whole)]
    if not scores:
        raise UsageError(
            f"no score of {report.model} is whole: below {WHOLE:.0%} of a clinic's test images there is none to submit."
        )
    named = [(score.task, score) for score in scores]
    if report.worst and (report.is_whole or not whole):
        named.insert(0, (WORST, report.worst))
    return eval_result_entries_to_yaml([_entry(report, task, score, date) for task, score in named])


def as_yaml(entries: list[Json]) -> str:
    """The content of the file."""
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=1000)


def _entry(report: BenchmarkReport, task: str, score: ClinicScore, date: datetime.date) -> EvalResultEntry:
    return EvalResultEntry(
        dataset_id=report.benchmark,
        task_id=task,
        dataset_revision=report.revision,
        value=round(float(score.auroc.value or 0), 4),
        date=date.isoformat(),
        source_url=f"{constants.ENDPOINT}/datasets/{report.benchmark}",
        source_name="dermalert evaluate --benchmark",
        notes=_notes(report, score),
    )


def _notes(report: BenchmarkReport, score: ClinicScore) -> str:
    """What a score must not be read without."""
    figures = score.figures
    assert figures is not None  # it has an AUROC
    parts = [
        f"AUROC of {report.positive}, {format_estimate(score.auroc)}",
        f"{score.clinic}: {score.measured} of {score.of} test images, {figures.verdict.n} {report.positive} lesions",
        *([] if score.is_whole else ["partial"]),
        *([f"model {report.model}"] if "@" in report.model else []),
        _best_shortcut(score),
        f"expected calibration error {calibration_error(score)}",
        f"as served flags {flagged_as_served(score)}",
        f"training images {_contamination(report, score)}",
    ]
    return "; ".join(parts)


def _best_shortcut(score: ClinicScore) -> str:
    best = score.best_shortcut
    return (
        f"above the best shortcut ({TEXTS[best.name]}) by {above_shortcut(score)}"
        if best
        else "too few lesions for a shortcut"
    )


def above_shortcut(score: ClinicScore) -> str:
    """By how much the model's AUROC exceeds the best shortcut's."""
    return format_estimate(score.best_shortcut.margin if score.best_shortcut else UNDEFINED)


def calibration_error(score: ClinicScore) -> str:
    """The expected calibration error; nothing where no image is left."""
    return format_estimate(score.figures.report.calibration.ece) if score.figures else ""


def flagged_as_served(score: ClinicScore) -> str:
    """The melanoma lesions that are flagged, with the share's lower limit; nothing where no image is left."""
    if score.figures is None:
        return ""
    verdict = score.figures.verdict
    return f"{verdict.n - verdict.missed} of {verdict.n}, at least {share_at_least(verdict.lower)}"


def _contamination(report: BenchmarkReport, score: ClinicScore) -> str:
    if report.exposure_recorded:
        return f"on record, {score.exposed} test images left out"
    if score.probe is None:
        return "unknown, no probe"
    gap = format_estimate(score.probe.difference)
    return (
        f"unknown; loss on test less on training images {gap}, {'learnt from' if score.probe.is_shown else 'no sign'}"
    )


def as_table(report: BenchmarkReport) -> Table:
    """The scores, one line per clinic."""
    table = Table(title=f"{report.model} on {report.benchmark}: {report.positive} against the rest")
    for name in ("clinic", "images", "AUROC", "above the best shortcut", "calibration error", "flagged as served"):
        table.add_column(name, justify="left" if name == "clinic" else "right")
    for score in report.clinics:
        partial = "" if score.is_whole else ", partial"
        cells = (
            score.clinic,
            f"{score.measured} of {score.of}{partial}",
            format_estimate(score.auroc),
            above_shortcut(score),
            calibration_error(score),
            flagged_as_served(score),
        )
        table.add_row(*map(escape, cells))  # or `[no interval]` would be taken for a style
    return table


def remarks(report: BenchmarkReport) -> list[str]:
    """Remarks without which the scores cannot be read, in sentences."""
    sentences = []
    if report.worst:
        sentences.append(f"The worst clinic is {report.worst.clinic}: AUROC {format_estimate(report.worst.auroc)}.")
    else:
        sentences.append("There is no worst clinic: one of them has no score, and it may be the worst.")
    partial = [f"{s.clinic} {percent(s.coverage)}" for s in report.clinics if not s.is_whole]
    if partial:
        sentences.append(
            f"Partial, and no score of the benchmark, is what has less than {WHOLE:.0%} of a clinic's test images: "
            f"{', '.join(partial)}."
        )
    if report.missing:
        sentences.append(f"{len(report.missing)} test images are not here: {first_few(report.missing)}.")
    if report.others:
        sentences.append(
            f"{len(report.others)} images are damaged, or show another picture than the manifest's, and do not count: "
            f"{first_few(report.others)}."
        )
    left_out = {s.clinic: s.without_class for s in report.clinics if s.without_class}
    if left_out:
        each = ", ".join(f"{n} of {name}" for name, n in left_out.items())
        sentences.append(f"It has no class for the diagnosis of these test images, which were left out: {each}.")
    return sentences + _of_contamination(report)


def _of_contamination(report: BenchmarkReport) -> list[str]:
    if report.exposure_recorded:
        learnt = sum(score.exposed for score in report.clinics)
        return [f"Its training images are on record: {learnt} test images that it has learnt from were left out."]
    sentences = ["Which images it has learnt from is not known: those of them among the test images flatter it."]
    probed = [score for score in report.clinics if score.probe]
    shown = [score.clinic for score in probed if score.probe and score.probe.is_shown]
    if shown:
        sentences.append(f"By its lower loss there it has learnt from the training images of {', '.join(shown)}.")
    if len(shown) < len(probed):
        others = [score.clinic for score in probed if score.clinic not in shown]
        sentences.append(
            f"Its loss shows no such thing of {', '.join(others)}: it has learnt from both splits, from neither, or "
            "too little to show."
        )
    return sentences
