"""A skin-lesion classifier from images to a Space: train, measure, publish, serve."""

import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from dermalert_space import contract, files, process
from typer import Argument, Option
from typer.core import TyperCommand, TyperGroup

from dermalert import progress
from dermalert.data import table_columns
from dermalert.errors import RunError, UsageError, run_command
from dermalert.taxonomy import ALERT

# What a command needs is imported when it runs: the help should not wait for torch.

Repair = Annotated[
    Literal["archive", "drop-conflicts", "none"],
    Option(help="what is done about wrong labels: take the ISIC archive's, drop images under two, or nothing"),
]

ImageTypes = Annotated[
    list[str] | None,
    Option(
        help="a kind of picture that is taken: dermoscopic (the default), clinical or tbp; may be repeated",
        metavar="TYPE",
    ),
]

ModelRepo = Annotated[str, Argument(help="model repository of the Hub", metavar="USER/REPO")]


class _Jobs(TyperGroup):
    def invoke(self, ctx: Any) -> None:
        """Run a command; an error of ours is one sentence and an exit code."""
        process.configure()
        run = super().invoke
        raise typer.Exit(run_command(lambda: run(ctx)))


class _ReadsImages(TyperCommand):
    def invoke(self, ctx: Any) -> None:
        """Run a command, without bars of the libraries that it reads images with."""
        with progress.ours_alone():
            super().invoke(ctx)


OF_ANOTHER_PARSER = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}

app = typer.Typer(cls=_Jobs, add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


def _say_version(value: bool) -> None:
    if value:
        typer.echo(f"dermalert {metadata.version('dermalert')}")
        raise typer.Exit


@app.callback()
def _commands(
    _version: Annotated[
        bool, Option("--version", callback=_say_version, is_eager=True, help="print the version, and exit")
    ] = False,
) -> None:
    """Train on skin lesions, audit data sets, measure and publish releases, triage images, serve and deploy Spaces."""


@app.command(context_settings=OF_ANOTHER_PARSER)
def train(context: typer.Context) -> None:
    """Train a model, measure it and build a release; `train --help` lists the flags."""
    import train_hf
    from dermalert.training.flags import parse

    manual = (train_hf.__doc__ or "").replace("python train_hf.py", "dermalert train")
    train_hf.main(parse(context.args, manual=manual, prog="dermalert train"))


@app.command(context_settings=OF_ANOTHER_PARSER)
def triage(context: typer.Context) -> None:
    """Assess files, folders and zip archives, the most urgent first; `triage --help` lists the flags."""
    from dermalert_space.cli import main

    raise typer.Exit(main(context.args, prog="dermalert triage"))


@app.command()
def space(
    model: Annotated[
        str | None,
        Argument(
            help="the release: a folder, or USER/REPO@TAG of the Hub; by default the bundled one", metavar="MODEL"
        ),
    ] = None,
) -> None:
    """Serve the page of a release on this machine."""
    import signal

    if model:
        named = contract.locate(model)
        if model.endswith("@") and named.repo != model:
            raise UsageError(f"'{model}' names no tag after the @: name one, or write '{named.repo}' for the last.")
        os.environ |= {"MODEL_ID": named.repo} | ({"MODEL_REVISION": named.revision} if named.revision else {})

    from dermalert_space import server

    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that the uploads are removed then too
    raise typer.Exit(server.main())


@app.command(cls=_ReadsImages)
def audit(
    dataset: Annotated[
        list[str],
        Argument(help="'demo', folders or data sets of the Hub; of several, what they share is found too"),
    ],
    columns: Annotated[
        list[str] | None,
        Option(
            help="a column that a data set names in its own way, such as label=finding; may be repeated; or a JSON "
            "file that maps fields to columns",
            metavar="FIELD=COLUMN",
        ),
    ] = None,
    streaming: Annotated[
        bool, Option("--streaming", help="read data sets of the Hub row by row, without their files on the disk")
    ] = False,
    image_types: ImageTypes = None,
    json: Annotated[Path | None, Option(help="write the whole report there, for machines", metavar="FILE")] = None,
    figures: Annotated[
        Path | None, Option(help="draw the offending images there, a contact sheet a kind", metavar="DIR")
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        Option(help="exit with 1 if this kind is found, such as leaks, or any; may be repeated", metavar="KIND"),
    ] = None,
) -> None:
    """List what is wrong with a data set: duplicates, contradictions, leaks, confounding, damaged files."""
    from dermalert.data import audit, audit_report, loading

    audit.check_kinds(fail_on or [])
    _check_targets(json, figures)
    mapping = table_columns.mapping(columns or [])
    reading = loading.Reading(columns=mapping, streaming=streaming, image_types=image_types)
    loaded = loading.load(dataset, reading, labels=None, merge=False)
    report = audit.audit(loaded.dataset, unreadable=loaded.unreadable, left_out=loaded.left_out)
    typer.echo(audit_report.headline(report))
    audit_report.show(report)
    if json:
        files.write_json(json, report)
    if figures:
        drawn = audit_report.contact_sheets(report, loaded.dataset, figures)
        typer.echo(f"{len(drawn)} contact sheets in '{figures}'.")
    if failed := audit.failures(report, fail_on or []):
        raise RunError(f"found {', '.join(failed)} (--fail-on).")


def _check_targets(json: Path | None, figures: Path | None) -> None:
    """Refuse what a report could not be written to, before the work is done."""
    if json and json.is_dir():
        raise UsageError(f"--json '{json}' is a folder: name a file.")
    if figures and figures.exists() and not figures.is_dir():
        raise UsageError(f"--figures '{figures}' is a file: name a folder.")
    for option, folder in (("--json", json and json.absolute().parent), ("--figures", figures and figures.absolute())):
        if folder:
            there = next(place for place in (folder, *folder.parents) if place.exists())
            if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
                raise UsageError(f"{option} cannot be written to '{there}': name another place.")


@app.command(cls=_ReadsImages)
def publish_dataset(
    dataset: Annotated[
        list[str],
        Argument(help="'demo', folders or data sets of the Hub; several become one", metavar="DATASET"),
    ],
    repo_id: Annotated[str, Argument(help="data set repository of the Hub", metavar="USER/REPO")],
    repair: Repair = "archive",
    license: Annotated[
        str | None,
        Option(help="licence of images whose source is not known, as the Hub calls it, or other", metavar="ID"),
    ] = None,
    public: Annotated[
        bool, Option("--public", help="for everybody to see, where the licence lets you; else private")
    ] = False,
) -> None:
    """Publish a data set, repaired, split without leaks and audited, with a card; image files stay as they are."""
    from dermalert.data import loading
    from dermalert.publishing import datasets

    exists = datasets.check_can_publish(repo_id, public=public, license=license)
    loaded = loading.load(dataset)
    license = datasets.license_of(loaded.dataset, license)
    typer.echo(f"{repo_id} will be {'public' if public else 'private'}, under the licence {license}.")
    parts, figures = datasets.prepare(loaded, repair, license)
    changed = datasets.publish(parts, figures, repo_id, public=public, must_exist=exists)
    done = "Published" if changed else "Nothing to do, it is there already"
    typer.echo(f'{done}: {figures["data"]["images"]} images, load_dataset("{repo_id}").')


@app.command(cls=_ReadsImages)
def publish_benchmark(
    dataset: Annotated[
        list[str],
        Argument(help="folders or data sets of the Hub that hold images of several clinics", metavar="DATASET"),
    ],
    repo_id: Annotated[str, Argument(help="data set repository of the Hub", metavar="USER/REPO")],
    test_clinic: Annotated[
        list[str] | None,
        Option(help="a clinic of which all images are tested on, by its source; may be repeated", metavar="NAME"),
    ] = None,
    license: Annotated[
        str | None,
        Option(help="licence of images whose source is not known, as the Hub calls it, or other", metavar="ID"),
    ] = None,
    public: Annotated[bool, Option("--public", help="for everybody to see; else private")] = False,
    output: Annotated[
        Path | None, Option(help="write it into a new folder, and publish nothing", metavar="DIR")
    ] = None,
) -> None:
    """Publish a benchmark without leaks: numbers, hashes, labels and splits of public images, clinic by clinic."""
    from dermalert.benchmark import manifest
    from dermalert.data.prepare import prepare
    from dermalert.hub import client
    from dermalert.publishing import benchmarks, datasets

    exists = False
    if output:
        benchmarks.check_new(output)
        client.check_repo(repo_id, write=False)
    else:
        exists = datasets.check_can_publish(repo_id, public=public, license=license, mark=manifest.INFO)
    prepared = prepare(dataset)
    license = datasets.license_of(prepared.dataset, license)
    benchmark = manifest.build(prepared, repo_id, license, test_clinic or ())
    for name in benchmark.clinics:
        tests = benchmark.count(name, manifest.TEST)
        typer.echo(f"{name}: {tests['images']} test images, {tests['melanomas']} of melanoma.")
    if output:
        benchmarks.write(benchmark, output)
        typer.echo(f"Written: {len(benchmark.rows)} images without pixels, '{output}'.")
    else:
        changed = benchmarks.publish(benchmark, public=public, must_exist=exists)
        done = "Published" if changed else "Nothing to do, it is there already"
        typer.echo(f"{done}: {len(benchmark.rows)} images without pixels, {repo_id}.")


@app.command(cls=_ReadsImages)
def evaluate(
    model: Annotated[
        str, Argument(help="a run, a folder, or an image classifier of the Hub, USER/REPO[@TAG]", metavar="MODEL")
    ],
    dataset: Annotated[
        list[str] | None,
        Argument(help="folders or data sets of the Hub; several are taken as one", metavar="DATASET..."),
    ] = None,
    label_map: Annotated[
        Path | None,
        Option(help='JSON object from classes of the model to diagnoses, such as {"LABEL_0": "nevus"}', metavar="FILE"),
    ] = None,
    repair: Repair = "archive",
    columns: Annotated[
        list[str] | None, Option(help="columns of the data, as for `audit`", metavar="FIELD=COLUMN|FILE.json")
    ] = None,
    image_types: ImageTypes = None,
    prediction_sets: Annotated[
        bool,
        Option("--prediction-sets", help="measure the sets of diagnoses that hold the right one in 90 %, too"),
    ] = False,
    json: Annotated[Path | None, Option(help="write all figures there, for machines", metavar="FILE")] = None,
    benchmark: Annotated[
        str | None,
        Option(help="measure on a benchmark instead: a folder, or USER/REPO of the Hub", metavar="PATH_OR_REPO"),
    ] = None,
    images: Annotated[
        list[Path] | None, Option(help="folder with images of the benchmark; may be repeated", metavar="DIR")
    ] = None,
    per_clinic: Annotated[
        int | None, Option(help="at most so many images of each clinic and split; the scores are partial then", min=1)
    ] = None,
    output: Annotated[Path, Option(help="folder of the scores on a benchmark", metavar="DIR")] = Path(
        "benchmark-report"
    ),
    submit: Annotated[
        bool, Option("--submit", help="open a pull request with the scores on the model's repository of the Hub")
    ] = False,
) -> None:
    """Measure any checkpoint on any data set, with 95 % intervals; it may have seven, eight or two classes."""
    if benchmark:
        if dataset or columns or image_types or prediction_sets or repair != "archive":
            raise UsageError(
                "--benchmark has labels and splits of its own: leave out DATASET, --repair, --columns, --image-types "
                "and --prediction-sets, and name folders of its images with --images."
            )
        _on_benchmark(model, benchmark, images or [], per_clinic, label_map, json, output, submit=submit)
        return
    if images or per_clinic or submit:
        raise UsageError("--images, --per-clinic and --submit are of a benchmark: name one with --benchmark.")
    if not dataset:
        raise UsageError("name the data sets to measure the model on, or a benchmark with --benchmark.")
    from rich.console import Console

    from dermalert.data.loading import Reading
    from dermalert.data.prepare import prepare
    from dermalert.evaluation import any_checkpoint
    from dermalert.evaluation.label_map import classes, read_label_map

    mapping = read_label_map(label_map)
    reading = Reading(columns=table_columns.mapping(columns or []), image_types=image_types)
    _check_targets(json, None)
    checkpoint = any_checkpoint.load(model)
    classes(checkpoint.labels, mapping)  # refused before the images are read
    prepared = prepare(dataset, repair, reading, labels=None)
    report = any_checkpoint.evaluate(
        checkpoint, prepared.dataset, shipped=prepared.shipped, label_map=mapping, with_sets=prediction_sets
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

    from dermalert.benchmark import grade, images, manifest, results
    from dermalert.evaluation import any_checkpoint
    from dermalert.evaluation.label_map import classes, read_label_map
    from dermalert.publishing import benchmarks

    mapping, today = read_label_map(label_map), datetime.datetime.now(datetime.UTC).date()
    _check_targets(json, output)
    benchmark = manifest.read(name)
    if submit:
        benchmarks.check_can_submit(model, benchmark)
    checkpoint = any_checkpoint.load(model)
    if submit:
        results.check_task(checkpoint.name, classes(checkpoint.labels, mapping).positive)
    local = images.match(benchmark, folders, per_clinic=per_clinic)
    output.mkdir(parents=True, exist_ok=True)
    if local.missing:
        script = output / "fetch-images.sh"
        script.write_text(images.fetch_script(local.missing))
        typer.echo(f"{len(local.missing)} test images are missing: {images.INSTALL}, then: sh {script} FOLDER")
    report = grade.grade(checkpoint, benchmark, local, label_map=mapping)
    Console().print(results.as_table(report))
    for sentence in results.remarks(report):
        typer.echo(sentence)
    files.write_json(json or output / "report.json", report.to_json())
    if report.positive == ALERT:
        scores = output / results.file_name(report)
        scores.parent.mkdir(exist_ok=True)
        scores.write_text(results.as_yaml(results.entries(report, today)), encoding="utf-8")
        typer.echo(f"The scores as the Hub takes them: {scores}.")
    if submit:
        typer.echo(benchmarks.submit(report, contract.HubName.parse(model).repo, today))


@app.command(cls=_ReadsImages)
def clinic(
    model: Annotated[
        str, Argument(help="a run, a folder, or an image classifier of the Hub, USER/REPO[@TAG]", metavar="MODEL")
    ],
    folder: Annotated[Path, Argument(help="the clinic's images", metavar="FOLDER")],
    labels: Annotated[
        Path | None,
        Option(help="table with a row an image: its file, its diagnosis, its lesion or patient", metavar="FILE"),
    ] = None,
    output: Annotated[Path, Option(help="folder of report.html and report.json", metavar="DIR")] = Path(
        "clinic-report"
    ),
    label_map: Annotated[
        Path | None,
        Option(help="JSON object from classes of the model to diagnoses, as for `evaluate`", metavar="FILE"),
    ] = None,
    columns: Annotated[
        list[str] | None, Option(help="columns of the tables, as for `audit`", metavar="FIELD=COLUMN|FILE.json")
    ] = None,
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


@app.command()
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


@app.command()
def publish(
    run: Annotated[str, Argument(help="a run that has finished, or the folder of a release", metavar="RUN")],
    repo_id: ModelRepo,
    tag: Annotated[str, Option("--tag", "--version", help="tag of the release, above the last one", metavar="vX.Y.Z")],
    accept_regression: Annotated[
        str | None,
        Option(
            help="why a release is published that is worse than the one before, or cannot be compared with it; its "
            "card says it",
            metavar="WHY",
        ),
    ] = None,
) -> None:
    """Publish a release under a tag, unless it is worse than the one before; a second call finishes the job."""
    from dermalert.publishing import models

    typer.echo(models.publish(contract.find(run), repo_id, tag, accept=accept_regression))


@app.command()
def versions(repo_id: ModelRepo) -> None:
    """List the releases of a repository: tags, dates and headline figures."""
    from rich.console import Console

    from dermalert.publishing import versions

    Console().print(versions.as_table(versions.read(repo_id), title=repo_id))


@app.command()
def compare(
    old: Annotated[str, Argument(help="a folder, a run, or a release of the Hub, USER/REPO@TAG", metavar="OLD")],
    new: Annotated[str, Argument(help="another one", metavar="NEW")],
    json: Annotated[Path | None, Option(help="write all of it there, for machines", metavar="FILE")] = None,
    record: Annotated[
        bool,
        Option(
            "--record", help="write what the gate says into figures and card of NEW (both are folders); refused: exit 1"
        ),
    ] = False,
    accept_regression: Annotated[
        str | None, Option(help="why NEW takes the place all the same, as its card says", metavar="WHY")
    ] = None,
) -> None:
    """Compare two releases on images held out of both, and print the gate's verdict."""
    from dermalert.publishing import models
    from dermalert.release import regression_gate, release_comparison

    models.check_reason(accept_regression)
    if accept_regression is not None and not record:
        raise UsageError("--accept-regression is recorded: add --record.")
    _check_targets(json, None)
    before, after = release_comparison.load(old), release_comparison.load(new)
    report = release_comparison.compare(before, after)
    verdict = regression_gate.gate(after, before)
    if record:
        verdict = regression_gate.record(contract.find(new), contract.find(old), accept=accept_regression)
    for sentence in [*release_comparison.sentences(report), *regression_gate.verdict(verdict)]:
        typer.echo(sentence)
    if json:
        files.write_json(json, report.to_json())
    if record and verdict.refused_for and not verdict.accepted_because:
        raise RunError(
            f"'{new}' does not take the place of '{old}': --accept-regression WHY lets it, and its card says why."
        )


@app.command()
def rollback(
    repo_id: ModelRepo,
    version: Annotated[str, Argument(help="tag of the release that main shall hold again", metavar="vX.Y.Z")],
) -> None:
    """Put an earlier release back on main, by a new commit; tags stay as they are."""
    from dermalert.publishing import models

    typer.echo(models.rollback(repo_id, version))


@app.command()
def deploy_space(
    space_id: Annotated[str, Argument(help="Space of the Hub; made where it is missing", metavar="USER/SPACE")],
    model: Annotated[
        str, Option(help="the release that it serves, a model repository at a tag", metavar="USER/REPO@TAG")
    ],
    private: Annotated[bool, Option("--private", help="for nobody else to see")] = False,
    examples: Annotated[
        Path | None,
        Option(
            help="folder of your own images to show, with attribution.csv (file, caption, attribution), in the place "
            "of the generated ones",
            metavar="DIR",
        ),
    ] = None,
    static: Annotated[
        bool, Option("--static", help="a page that assesses images in the browser, as `export-web` writes it")
    ] = False,
) -> None:
    """Deploy a Space that serves a release, and wait until it runs; a second call changes only what differs."""
    from dermalert.publishing import spaces

    spaces.deploy(space_id, model, private=private, shown=examples, static=static, say=typer.echo)


@app.command()
def export_web(
    model: Annotated[str, Argument(help="the release: a folder, or USER/REPO@TAG of the Hub", metavar="RELEASE")],
    folder: Annotated[Path, Argument(help="new folder, for any web server", metavar="DIR")],
    examples: Annotated[
        Path | None,
        Option(help="folder of your own images to show, with attribution.csv, as for `deploy-space`", metavar="DIR"),
    ] = None,
) -> None:
    """Write a page that assesses images in the browser, offline too: no image leaves the visitor's device."""
    from dermalert.publishing import web_export

    web_export.export(model, folder, shown=examples)
    typer.echo(f"'{folder}' is written. To look at it: python -m http.server --directory '{folder}'")


@app.command()
def triage_archive(
    shards: Annotated[
        list[Path], Argument(help="parquet files with the columns image and image_id, and folders of them")
    ],
    model: Annotated[str, Option(help="the release: a folder, or USER/REPO@TAG of the Hub", metavar="MODEL")],
    output: Annotated[Path, Option(help="folder of the results, a parquet file a shard", metavar="DIR")],
    workers: Annotated[
        int, Option(help="processes, of one thread each; by default one a core; more than 1 need Ray", min=1)
    ] = os.cpu_count() or 1,
    cluster: Annotated[
        str | None, Option(help="a Ray cluster that does it instead, auto or HOST:PORT", metavar="ADDRESS")
    ] = None,
) -> None:
    """Assess an archive, shard by shard; a second call does what is missing."""
    from transformers.utils import logging

    from dermalert.release import archive_triage

    logging.disable_progress_bar()
    archive_triage.triage(shards, model, output, workers=workers, cluster=cluster, say=typer.echo)


if __name__ == "__main__":
    app(prog_name="python -m dermalert")
