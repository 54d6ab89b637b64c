"""The versions of a repository: their names and order, and the headline figures of each."""

import dataclasses
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from dermalert_space.contract import METRICS, Json
from dermalert_space.estimate import format_estimate
from huggingface_hub import HfApi
from rich.table import Table

from dermalert.errors import UsageError
from dermalert.hub import client
from dermalert.release import release_folder

_VERSION = re.compile(r"v\d+\.\d+\.\d+")


def check_names(repo_id: str, version: str) -> None:
    """Refuse what is no version, or no name of a repository."""
    if not _VERSION.fullmatch(version):
        raise UsageError(f"--tag '{version}' is no version: write it like v1.0.0.")
    client.check_repo(repo_id)


def last(tags: Iterable[str]) -> str | None:
    """The highest version among tags."""
    return max((tag for tag in tags if _VERSION.fullmatch(tag)), key=order, default=None)


def order(version: str) -> list[int]:
    """What versions are sorted by."""
    return [int(number) for number in version[1:].split(".")]


def figures_at(repo_id: str, commit: str, to: Path) -> Json | None:
    """The figures of the release that a commit holds; None where it holds none of ours."""
    return release_folder.find_metrics(client.fetch(repo_id, commit, {METRICS}, to))


@dataclasses.dataclass(frozen=True)
class Version:
    """A tag of a repository, and the content of its `metrics.json`, None where it is no release of ours."""

    tag: str
    figures: Json | None
    is_on_main: bool


def read(repo_id: str) -> list[Version]:
    """The tags of a repository, the last first."""
    client.check_repo(repo_id, write=False)
    with tempfile.TemporaryDirectory() as scratch, client.on_the_hub(f"asking the Hub about {repo_id}"):
        refs = client.refs(HfApi(), repo_id)
        if not refs.branches:
            raise UsageError(f"'{repo_id}' is no model repository of the Hub, or not open to you: `hf auth login`.")
        names = sorted(refs.tags, key=lambda tag: (order(tag) if _VERSION.fullmatch(tag) else [], tag), reverse=True)
        on_main = figures_at(repo_id, refs.branches["main"], Path(scratch) / "main") or {}
        return [
            Version(tag, figures_at(repo_id, refs.tags[tag], Path(scratch) / str(i)), tag == on_main.get("version"))
            for i, tag in enumerate(names)
        ]


def as_table(rows: list[Version], *, title: str) -> Table:
    """The headline of each version, on what was held out of it, as a table."""
    table = Table(title=title, caption="Each on its own held-out images; `compare` takes those of both.")
    heads = ("sensitivity as served", "specificity without abstention", "balanced accuracy", "ECE")
    for name in ("tag", "released", "n", "melanoma AUROC", *heads):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(row.tag + " (main)" * row.is_on_main, *_cells(row.figures))
    return table


def _cells(figures: Json | None) -> list[str]:
    if figures is None:
        return ["no dermalert release"]
    held_out = figures["splits"]["held_out"]
    estimates = [held_out["melanoma"][name] for name in ("auroc", "sensitivity_refusals_missed", "specificity")]
    cells = map(format_estimate, [*estimates, held_out["balanced_accuracy"]])
    ece = format_estimate(held_out["calibration"]["ece"], 3)
    return [figures.get("released") or "not known", str(held_out["n"]), *cells, ece]
