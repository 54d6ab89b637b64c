"""A run's checkpoints on a branch of the Hub: pushed while it trains, fetched to resume it on another machine.

The branch holds what resuming takes, laid out as in the run's folder, and nothing else:

- run.json: the settings, without those that may name a folder of this machine
- checkpoints/checkpoint-STEP/: the last checkpoint
- checkpoints/checkpoint-STEP/: of the best one, if it is another, the model, which the release is made from

Each push is one commit: an interrupted one leaves the checkpoint before. The Trainer's `training_args.bin`, a pickle
that names folders, is not pushed. The Trainer reads the torch files (optimizer, schedule, random state) with
`torch.load(weights_only=True)`, which runs no code.
"""

import dataclasses
import json
import re
import shutil
from fnmatch import fnmatch
from pathlib import Path

from dermalert_space import contract
from dermalert_space.contract import MODEL, HubName, Json, is_hub_name
from huggingface_hub import HfApi, hf_hub_download

from dermalert.config import MAY_NAME_FOLDERS
from dermalert.errors import UsageError, first_few
from dermalert.hub import client
from dermalert.hub.retries import with_retries
from dermalert.training import checkpoints, lora, run_folder
from dermalert.training.checkpoints import STATE, step_of
from dermalert.training.recipe_trainer import WeightAverage

RESUMABLE = (*MODEL, WeightAverage.FILE, lora.FILE, "optimizer.pt", "scheduler.pt", "rng_state*.pth", STATE)
_STEP = re.compile(rf"checkpoints/checkpoint-(\d+)/{STATE}")
RESUME = "--resume_from_checkpoint"
_RESERVED = re.compile(r"main|staging-.*|v\d.*|refs/.*|.*\.lock")  # by releases, by git
_NAME = re.compile(r"\w[\w-]*([./]\w[\w-]*)*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Branch:
    """A branch of a model repository."""

    repo_id: str
    name: str

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.name}"


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A branch at a commit, or a folder: its files, the content of `run.json` if there is one, the last step or 0."""

    source: Branch | Path
    commit: str
    files: list[str]
    run: Json | None
    step: int


def branch_of(flag: str, text: str, folder: Path) -> Branch:
    """The branch that `USER/REPO[@BRANCH]` names, by default one that is called after the run's folder."""
    if not is_hub_name(text):
        raise UsageError(f"{flag} '{text}' is no branch of a repository: write it as USER/REPO or USER/REPO@BRANCH.")
    repo_id, name = HubName.parse(text)
    name = name or f"run-{folder.resolve().name}"
    if _RESERVED.fullmatch(name) or not _NAME.fullmatch(name):
        raise UsageError(f"{flag}: '{name}' can be no run's branch: name one, such as {repo_id}@run-1.")
    return Branch(repo_id, name)


def public(settings: Json) -> Json:
    """The settings of a run without the paths of this machine.

    Data sets and columns are left out: the fingerprints of the images and of the splits identify them.
    """
    base = settings["model_name_or_path"]
    if Path(base).exists() or not is_hub_name(base):
        base = contract.public_name(Path(base))
    others = {k: v for k, v in settings.items() if k not in MAY_NAME_FOLDERS}
    return others | {"model_name_or_path": base, "external": [one.partition("=")[0] for one in settings["external"]]}


def find(text: str, folder: Path, settings: Json) -> Snapshot | None:
    """Find the checkpoint to resume from, before anything is written.

    Args:
        text: `USER/REPO[@BRANCH]`, or the folder of a run; the run's own is no other to resume from.
        folder: of the run; checkpoints of its own must be as far as the branch's.
        settings: of the run.

    Raises:
        UsageError: no such branch, a run of other settings on it, or one that is further than the folder's.
        RunError: the Hub cannot be reached.
    """
    flag = RESUME
    if Path(text).exists():
        return _find_folder(Path(text), folder, settings)
    branch = branch_of(flag, text, folder)
    with client.on_the_hub(f"asking the Hub about {branch}"):
        commits = heads(branch)
        held = snapshot(branch, commits[branch.name]) if branch.name in commits else None
    if held is None:
        others = f" There are {first_few(sorted(commits))}." if commits else ""
        raise UsageError(f"{flag} '{branch}' is no branch that the Hub has, or that your token may read.{others}")
    if held.run is None or not held.step:
        raise UsageError(f"{flag} '{branch}' holds no checkpoint of a run.")
    run_folder.check_settings(held.run, public(settings), f"{flag} '{branch}'", "name another branch")
    return _ahead(held, folder)


def _find_folder(source: Path, folder: Path, settings: Json) -> Snapshot | None:
    """The checkpoints of a run's folder, or of the run that a folder of one checkpoint belongs to."""
    if (source / STATE).is_file():
        run, step = source.absolute().parent.parent, step_of(source.absolute())
        if step != checkpoints.last_step(run):
            raise UsageError(f"{RESUME} '{source}' is not the last checkpoint of its run: a run goes on from that.")
        source = run
    if source.resolve() == folder.resolve():
        return None  # it goes on from its own anyway
    recorded, step = run_folder.read_json(source / "run.json"), checkpoints.last_step(source)
    if recorded is None or not step:
        raise UsageError(f"{RESUME} '{source}' holds no checkpoint of a run.")
    where = f"{RESUME} '{source}'"
    run_folder.check_earlier(recorded, where, "name another one")
    if "model_name_or_path" not in recorded:
        raise UsageError(f"{where} holds no checkpoint of a run.")
    run_folder.check_settings(public(recorded), public(settings), where, "name another one")
    return _ahead(Snapshot(source, "", [], recorded, step), folder)


def _ahead(held: Snapshot, folder: Path) -> Snapshot:
    """The same, unless the run's own folder has checkpoints that are behind."""
    here = checkpoints.last_step(folder)
    if 0 < here < held.step:
        raise UsageError(
            f"'{folder}' has step {here} of this run and '{held.source}' step {held.step}: name a new --output_dir to "
            f"go on from there, or leave out {RESUME} to go on from the folder."
        )
    return held


def fetch(held: Snapshot, folder: Path) -> None:
    """Bring the checkpoints of a branch, or of another folder, into a run's folder, all or none, unless it has its own.

    Raises:
        RunError: the Hub cannot be reached, or no longer has them.
    """
    here = checkpoints.last_step(folder)
    if here:
        print(f"'{folder}' has step {here}, '{held.source}' step {held.step}: the folder's is taken.")
        return
    partial = folder / "fetched.partial"
    shutil.rmtree(partial, ignore_errors=True)
    if isinstance(held.source, Path):
        shutil.copytree(held.source / "checkpoints", partial / "checkpoints")
    else:
        with client.on_the_hub(f"fetching {held.source}"):
            client.download(held.source.repo_id, held.commit, filter(_is_resumable, held.files), partial)
    (folder / "checkpoints").mkdir(exist_ok=True)
    # The best one first: it alone cannot be resumed from.
    for path in sorted((partial / "checkpoints").glob("checkpoint-*"), key=step_of):
        shutil.rmtree(folder / "checkpoints" / path.name, ignore_errors=True)  # one that was cut short
        path.replace(folder / "checkpoints" / path.name)
    shutil.rmtree(partial)


def _is_resumable(name: str) -> bool:
    """Whether a file of a branch is part of a checkpoint, by its place and name."""
    folder, _, file = name.rpartition("/")
    return bool(re.fullmatch(r"checkpoints/checkpoint-\d+", folder)) and any(fnmatch(file, each) for each in RESUMABLE)


def heads(branch: Branch) -> dict[str, str]:
    """The commits of all branches of a repository; none where there is no repository that one may read."""
    return client.refs(HfApi(), branch.repo_id).branches


def snapshot(branch: Branch, commit: str) -> Snapshot:
    """A branch at a commit."""
    files = with_retries(HfApi().list_repo_files, branch.repo_id, revision=commit)
    run = None
    if "run.json" in files:
        path = with_retries(hf_hub_download, branch.repo_id, "run.json", revision=commit)
        run = json.loads(Path(path).read_text())
    steps = [int(match[1]) for match in map(_STEP.fullmatch, files) if match]
    return Snapshot(branch, commit, files, run if isinstance(run, dict) else None, max(steps, default=0))
