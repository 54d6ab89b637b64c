"""The jobs beside training, as one command line: `python -m dermalert --help`."""

from pathlib import Path
from typing import Annotated

import typer

from dermalert.errors import RunError, run_command

# What a command needs is imported when it runs: the help should not wait for torch.

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


@app.callback()
def _commands() -> None:
    """Audit data sets of skin lesions."""


@app.command()
def audit(
    dataset: Annotated[
        list[str], typer.Argument(help="'demo', folders or data sets of the Hub; several are looked at as one")
    ],
    json: Annotated[
        Path | None, typer.Option(help="write the whole report there, for machines", metavar="FILE")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="draw the offending images there, a contact sheet a kind", metavar="DIR")
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(help="exit with 1 if this kind is found, such as leaks, or any; may be repeated", metavar="KIND"),
    ] = None,
) -> None:
    """Say what is wrong with a data set: duplicates, contradictions, leaks, confounding, damaged files."""
    raise typer.Exit(run_command(lambda: _audit(dataset, json, figures, fail_on or [])))


def _audit(names: list[str], json: Path | None, figures: Path | None, fail_on: list[str]) -> None:
    from dermalert import audit, sheets, sources

    audit.check_kinds(fail_on)
    dataset = sources.load(names)
    report = audit.audit(dataset, unreadable=audit.unread(names, dataset))
    typer.echo(sheets.headline(report))
    sheets.show(report)
    if json:
        audit.write(report, json)
    if figures:
        drawn = sheets.contact_sheets(report, dataset, figures)
        typer.echo(f"{len(drawn)} contact sheets in '{figures}'.")
    failed = audit.failures(report, fail_on)
    if failed:
        raise RunError(f"found {', '.join(failed)} (--fail-on).")


if __name__ == "__main__":
    app(prog_name="python -m dermalert")
