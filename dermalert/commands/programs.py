"""Commands that stand for programs of their own: training, triage, the Space."""

import ast
import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from dermalert_space import contract
from typer import Argument

from dermalert.errors import RunError, UsageError

# What a command needs is imported when it runs: the help should not wait for torch.


def train(context: typer.Context) -> None:
    """Train a model, measure it and build a release; `train --help` lists the flags."""
    from dermalert.training.flags import parse

    config = parse(context.args, manual=_manual(), prog="dermalert train")
    import train_hf  # after the flags: --help and a bad flag do not wait for what a training needs

    train_hf.main(config)


def _manual() -> str:
    """The docstring of the script, read without importing it."""
    script = importlib.util.find_spec("train_hf")
    assert script and script.origin
    docstring = ast.get_docstring(ast.parse(Path(script.origin).read_text(encoding="utf-8"))) or ""
    return docstring.replace("python train_hf.py", "dermalert train")


def triage(context: typer.Context) -> None:
    """Assess files, folders and zip archives, the most urgent first; `triage --help` lists the flags."""
    from dermalert_space.cli import main

    raise typer.Exit(main(context.args, prog="dermalert triage"))


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
    from dermalert_space.release import ParityError
    from dermalert_space.release_loading import NoRelease

    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that the uploads are removed then too
    try:
        code = server.start()
    except ParityError as error:
        raise RunError(str(error)) from error
    except NoRelease as error:
        raise UsageError(str(error)) from error
    raise typer.Exit(code)
