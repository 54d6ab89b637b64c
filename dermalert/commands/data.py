"""Commands on data sets: audit one, publish one."""

from pathlib import Path
from typing import Annotated

import typer
from dermalert_space import files
from typer import Argument, Option

from dermalert.commands.options import ImageTypes, Repair, check_targets
from dermalert.data import table_columns
from dermalert.errors import RunError

# What a command needs is imported when it runs: the help should not wait for torch.


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
        Path | None, Option(help="draw the offending images there, a contact sheet per kind", metavar="DIR")
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        Option(help="exit with 1 if this kind is found, such as leaks, or any; may be repeated", metavar="KIND"),
    ] = None,
) -> None:
    """List what is wrong with a data set: duplicates, contradictions, leaks, confounding, damaged files."""
    from dermalert.data import audit, audit_report, loading

    audit.check_kinds(fail_on or [])
    check_targets(json, figures)
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
