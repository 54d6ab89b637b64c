"""A checkpoint on a benchmark: from folders of images to scores, and the files that hold them."""

import datetime
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from dermalert_space import files
from dermalert_space.release import Release

from dermalert.benchmark import grade, images, results
from dermalert.benchmark.grade import BenchmarkReport
from dermalert.benchmark.manifest import Benchmark
from dermalert.taxonomy import ALERT

_SCRIPT = "fetch-images.sh"
_REPORT = "report.json"


def measure(
    checkpoint: Release,
    benchmark: Benchmark,
    folders: Iterable[Path],
    output: Path,
    *,
    per_clinic: int | None,
    label_map: Mapping[str, str | None] | None,
    say: Callable[[str], object],
) -> BenchmarkReport:
    """The scores of a checkpoint; what fetches missing test images is left in a folder, and said."""
    local = images.match(benchmark, folders, per_clinic=per_clinic)
    output.mkdir(parents=True, exist_ok=True)
    if local.missing:
        script = output / _SCRIPT
        script.write_text(images.fetch_script(local.missing))
        say(f"{len(local.missing)} test images are missing: {images.INSTALL}, then: sh {script} FOLDER")
    return grade.grade(checkpoint, benchmark, local, label_map=label_map)


def write(
    report: BenchmarkReport, output: Path, date: datetime.date, *, json: Path | None, say: Callable[[str], object]
) -> None:
    """Write the report, and the scores as the Hub takes them where they are of its task."""
    files.write_json(json or output / _REPORT, report.to_json())
    if report.positive == ALERT:
        scores = output / results.file_name(report)
        scores.parent.mkdir(exist_ok=True)
        scores.write_text(results.as_yaml(results.entries(report, date)), encoding="utf-8")
        say(f"The scores as the Hub takes them: {scores}.")
