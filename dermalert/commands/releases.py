"""Commands on releases: publish, list, compare, take back, deploy, run over an archive."""

import os
from pathlib import Path
from typing import Annotated

import typer
from dermalert_space import contract, files
from typer import Argument, Option

from dermalert.commands.options import ModelRepo, check_targets
from dermalert.errors import RunError, UsageError

# What a command needs is imported when it runs: the help should not wait for torch.


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


def versions(repo_id: ModelRepo) -> None:
    """List the releases of a repository: tags, dates and headline figures."""
    from rich.console import Console

    from dermalert.publishing import versions

    Console().print(versions.as_table(versions.read(repo_id), title=repo_id))


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
    check_targets(json, None)
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


def rollback(
    repo_id: ModelRepo,
    version: Annotated[str, Argument(help="tag of the release that main shall hold again", metavar="vX.Y.Z")],
) -> None:
    """Put an earlier release back on main, by a new commit; tags stay as they are."""
    from dermalert.publishing import models

    typer.echo(models.rollback(repo_id, version))


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


def export_web(
    model: Annotated[str, Argument(help="the release: a folder, or USER/REPO@TAG of the Hub", metavar="RELEASE")],
    folder: Annotated[Path, Argument(help="new folder, for any web server", metavar="DIR")],
    examples: Annotated[
        Path | None,
        Option(help="folder of your own images to show, with attribution.csv, as for `deploy-space`", metavar="DIR"),
    ] = None,
) -> None:
    """Write a page that assesses images in the browser, offline too: no image leaves the visitor's device."""
    from transformers.utils import logging

    from dermalert.publishing import web_export

    logging.disable_progress_bar()
    web_export.export(model, folder, shown=examples)
    typer.echo(f"'{folder}' is written. To look at it: python -m http.server --directory '{folder}'")


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
