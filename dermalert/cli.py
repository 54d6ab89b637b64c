"""A skin-lesion classifier from images to a Space: train, measure, publish, serve."""

import re
from importlib import metadata
from typing import Annotated, Any

import typer
from dermalert_space import process
from typer import Option
from typer.core import TyperCommand, TyperGroup

from dermalert import progress
from dermalert.commands import data, measure, programs, releases
from dermalert.errors import UsageError, run_command


class _Jobs(TyperGroup):
    def invoke(self, ctx: Any) -> None:
        """Run a command; an error of ours is one sentence and an exit code."""
        process.configure()
        run = super().invoke
        raise typer.Exit(run_command(lambda: run(ctx)))


class _ReadsImages(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line; data sets, which a training has a flag for, stand here without one."""
        flags = [word for word in args if re.match(r"--dataset([-_]name)?(=|$)", word)]
        if flags and any(parameter.name == "dataset" for parameter in self.params):
            raise UsageError(f"{ctx.info_name} has no {flags[0].partition('=')[0]}: name the data sets without a flag.")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> None:
        """Run a command, without bars of the libraries that it reads images with."""
        with progress.ours_alone():
            super().invoke(ctx)


OF_ANOTHER_PARSER = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}

app = typer.Typer(
    cls=_Jobs,
    add_completion=False,
    no_args_is_help=True,
    help=__doc__,
    pretty_exceptions_enable=False,
    context_settings={"token_normalize_func": lambda name: name.replace("_", "-")},  # flags of a training have _
)


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


app.command(context_settings=OF_ANOTHER_PARSER)(programs.train)
app.command(context_settings=OF_ANOTHER_PARSER)(programs.triage)
app.command()(programs.space)
app.command(cls=_ReadsImages)(data.audit)
app.command(cls=_ReadsImages)(data.publish_dataset)
app.command(cls=_ReadsImages)(data.publish_benchmark)
app.command(cls=_ReadsImages)(measure.evaluate)
app.command(cls=_ReadsImages)(measure.clinic)
app.command()(measure.drift)
app.command()(releases.publish)
app.command()(releases.versions)
app.command()(releases.compare)
app.command()(releases.rollback)
app.command()(releases.deploy_space)
app.command()(releases.export_web)
app.command()(releases.triage_archive)


if __name__ == "__main__":
    app(prog_name="python -m dermalert")
