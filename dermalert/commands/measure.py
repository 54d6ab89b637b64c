"""Commands that measure a model: on a data set, at a clinic, over time."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from dermalert_space import contract, files
from typer import Argument, Option

from dermalert.commands.options import ImageTypes, Repair, check_targets
from dermalert.data import table_columns
from dermalert.errors import RunError, UsageError

# What a command needs is imported when it runs: the help should not wait for torch.


_Model = Annotated[
    str, Argument(help="a run, a folder, or an image classifier of the Hub, USER/REPO[@TAG]", metavar="MODEL")
]
_DataSets = Annotated[
    list[str] | None, Argument(help="folders or data sets of the Hub; several are taken as one", metavar="DATASET...")
]
_LabelMap = Annotated[
    Path | None,
    Option(help='JSON object from classes of the model to diagnoses, such as {"LABEL_0": "nevus"}', metavar="FILE"),
]
_Columns = Annotated[
    list[str] | None, Option(help="columns of the data, as for `audit`", metavar="FIELD=COLUMN|FILE.json")
]
_PredictionSets = Annotated[
    bool, Option("--prediction-sets", help="measure the sets of diagnoses that hold the right one in 90%, too")
]
_Json = Annotated[Path | None, Option(help="write all figures there, for machines", metavar="FILE")]
_Benchmark = Annotated[
    str | None,
    Option(help="measure on a benchmark instead: a folder, or USER/REPO of the Hub", metavar="PATH_OR_REPO"),
]
_Images = Annotated[
    list[Path] | None, Option(help="folder with images of the benchmark; may be repeated", metavar="DIR")
]
_PerClinic = Annotated[
    int | None, Option(help="at most so many images of each clinic and split; the scores are partial then", min=1)
]
_Output = Annotated[Path, Option(help="folder of the scores on a benchmark", metavar="DIR")]
_Submit = Annotated[
    bool, Option("--submit", help="open a pull request with the scores on the model's repository of the Hub")
]


def evaluate(
    model: _Model,
    dataset: _DataSets = None,
    label_map: _LabelMap = None,
    repair: Repair = "archive",
    columns: _Columns = None,
    image_types: ImageTypes = None,
    prediction_sets: _PredictionSets = False,
    json: _Json = None,
    benchmark: _Benchmark = None,
    images: _Images = None,
    per_clinic: _PerClinic = None,
    output: _Output = Path("benchmark-report"),
    submit: _Submit = False,
) -> None:
    """Measure any checkpoint on any data set, with 95% intervals; it may have seven, eight or two classes."""
    if benchmark:
        if dataset or columns or image_types or prediction_sets or repair != "archive":
            raise UsageError(
                "--benchmark has labels and splits of its own: leave out DATASET, --label-repair, --columns, "
                "--image-types and --prediction-sets, and name folders of its images with --images."
            )
        _on_benchmark(model, benchmark, images or [], per_clinic, label_map, json, output, submit=submit)
        return
    if images or per_clinic or submit:
        raise UsageError("--images, --per-clinic and --submit are of a benchmark: name one with --benchmark.")
    if not dataset:
        raise UsageError("name the data sets to measure the model on, or a benchmark with --benchmark.")
    _on_data_sets(model, dataset, label_map, repair, columns or [], image_types, json, with_sets=prediction_sets)


def _on_data_sets(
    model: str,
    names: list[str],
    label_map: Path | None,
    repair: Repair,
    columns: list[str],
    image_types: list[str] | None,
    json: Path | None,
    *,
    with_sets: bool,
) -> None:
    from rich.console import Console

    from dermalert.data.loading import Reading
    from dermalert.data.prepare import prepare
    from dermalert.evaluation import any_checkpoint
    from dermalert.evaluation.label_map import classes, read_label_map

    mapping = read_label_map(label_map)
    reading = Reading(columns=table_columns.mapping(columns), image_types=image_types)
    check_targets(json, None)
    checkpoint = any_checkpoint.load(model)
    classes(checkpoint.labels, mapping)  # refused before the images are read
    prepared = prepare(names, repair, reading, labels=None)
    report = any_checkpoint.evaluate(
        checkpoint, prepared.dataset, shipped=prepared.shipped, label_map=mapping, with_sets=with_sets
    )
    Console().print(any_checkpoint.as_table(report))
    for sentence in any_checkpoint.remarks(report):
        typer.echo(sentence)
    if json:
        files.write_json(json, report.to_json())


def _on_benchmark(
    model: str,
    name: str,
    folders: list[Path],
    per_clinic: int | None,
    label_map: Path | None,
    json: Path | None,
    output: Path,
    *,
    submit: bool,
) -> None:
    """Measure a checkpoint on a benchmark, and submit its scores."""
    import datetime

    from rich.console import Console

    from dermalert.benchmark import manifest, results, run
    from dermalert.evaluation import any_checkpoint
    from dermalert.evaluation.label_map import classes, read_label_map
    from dermalert.publishing import benchmarks

    mapping, today = read_label_map(label_map), datetime.datetime.now(datetime.UTC).date()
    check_targets(json, output)
    benchmark = manifest.read(name)
    if submit:
        benchmarks.check_can_submit(model, benchmark)
    checkpoint = any_checkpoint.load(model)
    if submit:
        results.check_task(checkpoint.name, classes(checkpoint.labels, mapping).positive)
    say = typer.echo
    report = run.measure(checkpoint, benchmark, folders, output, per_clinic=per_clinic, label_map=mapping, say=say)
    Console().print(results.as_table(report))
    for sentence in results.remarks(report):
        say(sentence)
    run.write(report, output, today, json=json, say=say)
    if submit:
        say(benchmarks.submit(report, contract.HubName.parse(model).repo, today))


def clinic(
    model: _Model,
    folder: Annotated[Path, Argument(help="the clinic's images", metavar="FOLDER")],
    labels: Annotated[
        Path | None,
        Option(help="table with one row per image: its file, its diagnosis, its lesion or patient", metavar="FILE"),
    ] = None,
    output: Annotated[Path, Option(help="folder of report.html and report.json", metavar="DIR")] = Path(
        "clinic-report"
    ),
    label_map: _LabelMap = None,
    columns: _Columns = None,
    write_release: Annotated[
        Path | None,
        Option(help="new folder for a release adapted to the clinic, where the labels support that", metavar="DIR"),
    ] = None,
) -> None:
    """Estimate how any skin model will do at your clinic; nothing leaves the machine."""
    from dermalert.clinic import derived_release, images, page, report
    from dermalert.evaluation import any_checkpoint
    from dermalert.evaluation.label_map import read_label_map

    mapping, named = read_label_map(label_map), table_columns.Columns(table_columns.mapping(columns or []))
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output '{output}' is a file: name a folder.")
    images.count_files(folder, labels)  # refused before a model is fetched
    release = any_checkpoint.load(model)
    if write_release:
        derived_release.check(release, write_release)
    examination = report.examine(release, folder, labels, label_map=mapping, columns=named)
    page.write(examination.report, output)
    for sentence in (examination.report.headline, *examination.report.what_to_do):
        typer.echo(sentence)
    typer.echo(f"The page: {output / page.PAGE}; for machines: {output / page.JSON}.")
    if write_release:
        derived_release.write(examination, write_release)
        typer.echo(f"The release adapted to '{examination.report.folder}': {write_release}.")


def drift(
    reference: Annotated[Path, Argument(help="a table of `triage --csv` to compare with", metavar="REFERENCE.csv")],
    new: Annotated[list[Path], Argument(help="tables of new images by the same release", metavar="NEW.csv...")],
    by: Annotated[
        Literal["file", "week"],
        Option(help="what is compared at a time: a table, or a week by a column `date`, which triage does not write"),
    ] = "file",
    false_alarms: Annotated[
        float, Option(help="how often any statistic of a file or a week may be out of limits by chance")
    ] = 0.01,
    json: Annotated[Path | None, Option(help="write all of it there, for machines", metavar="FILE")] = None,
    output: Annotated[Path | None, Option(help="write a page there, to read and print", metavar="FILE.html")] = None,
    fail_on: Annotated[
        list[str] | None,
        Option(help="exit with 1 if this is out of limits, such as alert, or any; may be repeated", metavar="KIND"),
    ] = None,
) -> None:
    """Compare alerts, abstentions and scores of new images with those of a reference."""
    from dermalert.evaluation import drift, drift_page

    drift.check(fail_on or [], false_alarms)
    report = drift.drift(reference, new, by_week=by == "week", false_alarms=false_alarms)
    for sentence in drift.sentences(report):
        typer.echo(sentence)
    if json:
        files.write_json(json, report.to_json())
    if output:
        drift_page.write(output, report)
    if failed := drift.failures(report, fail_on or []):
        raise RunError(f"out of limits: {', '.join(failed)} (--fail-on).")
