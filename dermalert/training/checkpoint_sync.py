"""A run's checkpoints on a branch of the Hub: pushed while it trains, fetched to resume it on another machine.

The branch holds what resuming takes, laid out as in the run's folder, and nothing else:

- run.json: the settings, without those that may name a folder of this machine
- checkpoints/checkpoint-STEP/: the last checkpoint
- checkpoints/checkpoint-STEP/: of the best one, if it is another, the model, which the release is made from

Each push is one commit: an interrupted one leaves the checkpoint before. The Trainer's `training_args.bin`, a pickle
that names folders, is not pushed. The Trainer reads the torch files (optimizer, schedule, random state) with
`torch.load(weights_only=True)`, which runs no code.
"""

# Not by the Trainer's `hub_strategy="checkpoint"`: of transformers 5.24 it makes two commits a checkpoint, pushes the
# pickle, never the best epoch's model, and drops a push that fails without a word. The README promises otherwise.

import contextlib
import dataclasses
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from dermalert_space import contract
from dermalert_space.contract import MODEL, HubName, Json, is_hub_name
from dermalert_space.files import write_json
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dermalert.config import MAY_NAME_FOLDERS
from dermalert.errors import RunError, UsageError, first_few, first_line
from dermalert.hub import client
from dermalert.hub.retries import with_retries
from dermalert.training import checkpoints, lora, run_folder
from dermalert.training.checkpoints import STATE, step_of
from dermalert.training.recipe_trainer import WeightAverage

logger = logging.getLogger(__name__)

_RESUMABLE = (*MODEL, WeightAverage.FILE, lora.FILE, "optimizer.pt", "scheduler.pt", "rng_state*.pth", STATE)
_STEP = re.compile(rf"checkpoints/checkpoint-(\d+)/{STATE}")
_RESUME = "--resume_from_checkpoint"
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
    flag = _RESUME
    if Path(text).exists():
        return _find_folder(Path(text), folder, settings)
    branch = branch_of(flag, text, folder)
    with client.on_the_hub(f"asking the Hub about {branch}"):
        heads = _heads(branch)
        held = _snapshot(branch, heads[branch.name]) if branch.name in heads else None
    if held is None:
        others = f" There are {first_few(sorted(heads))}." if heads else ""
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
            raise UsageError(f"{_RESUME} '{source}' is not the last checkpoint of its run: a run goes on from that.")
        source = run
    if source.resolve() == folder.resolve():
        return None  # it goes on from its own anyway
    recorded, step = run_folder.read_json(source / "run.json"), checkpoints.last_step(source)
    if recorded is None or not step:
        raise UsageError(f"{_RESUME} '{source}' holds no checkpoint of a run.")
    where = f"{_RESUME} '{source}'"
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
            f"go on from there, or leave out {_RESUME} to go on from the folder."
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
    return bool(re.fullmatch(r"checkpoints/checkpoint-\d+", folder)) and any(fnmatch(file, each) for each in _RESUMABLE)


class Pushes(TrainerCallback):
    """Pushes the checkpoints of a run to a branch in the background.

    One push runs at a time, and of the checkpoints that wait the newest is pushed. What did not reach the branch is
    pushed with the next checkpoint, and at last by `finish`. Used as a context, it waits for a running push if the
    training ends by an error, but not if somebody stops it.
    """

    def __init__(self, target: str, folder: Path):
        self.branch = branch_of("--checkpoints_to", target, folder)
        self.folder = folder
        self._links = folder / "pushing"
        self._newest = self._pushed = 0  # steps
        self._exists = False  # the repository, by what this run has seen
        self._thread: threading.Thread | None = None

    def check(self, settings: Json, resumed: Snapshot | None) -> None:
        """Find out, before the work is done, whether the checkpoints could be pushed.

        Raises:
            UsageError: no token that may write there, or the branch is another's, or further than the run.
            RunError: the Hub cannot be reached.
        """
        client.check_repo(self.branch.repo_id)
        with client.on_the_hub(f"asking the Hub about {self.branch}"):
            client.check_token(HfApi(), self.branch.repo_id)
            heads = _heads(self.branch)
            self._exists = bool(heads)
            if self.branch.name not in heads:
                return
            held = _snapshot(self.branch, heads[self.branch.name])
            if held.run is None and _is_fresh(held):
                return
        flag = f"--checkpoints_to '{self.branch}'"
        if held.run is None:
            raise UsageError(f"{flag} holds things that are no run: name a new branch.")
        run_folder.check_settings(held.run, public(settings), flag, "name a new branch")
        here = max(checkpoints.last_step(self.folder), resumed.step if resumed else 0)
        if here < held.step:
            raise UsageError(
                f"{flag} holds step {held.step} of this run and '{self.folder}' {f'step {here}' if here else 'none'}: "
                f"go on from there, in a new --output_dir, by {_RESUME} {self.branch}, or name a new branch."
            )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_others: Any
    ) -> None:
        """Push the checkpoint that the training resumes from, if the branch lacks it."""
        print(f"Each checkpoint goes to {self.branch}: {_RESUME} {self.branch} goes on from there elsewhere.")
        if state.global_step:
            self.on_save(args, state, control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_others: Any) -> None:
        """Push a checkpoint as soon as the push before it has ended, unless a newer one is there by then."""
        step = state.global_step
        try:
            self._lay_out(step)
        except (OSError, ValueError) as error:  # the training is worth more, and `finish` tries again
            logger.warning("step %d cannot be pushed to %s: %s", step, self.branch, first_line(error))
            return
        self._newest = step  # only now: the one that waits is not passed over for one that cannot be pushed
        self._thread = threading.Thread(target=self._push_in_turn, args=(step, self._thread), daemon=True)
        self._thread.start()

    def __enter__(self) -> "Pushes":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        if kind is None or issubclass(kind, Exception):
            self._wait()

    def finish(self) -> str | None:
        """Push what the branch lacks; return a sentence where that fails, or None."""
        self._wait()
        last = checkpoints.last_step(self.folder)
        if last > self._pushed:
            try:
                self._lay_out(last)
                with_retries(self._push, last)
            # Whatever it was, the release stands and is worth more.
            except Exception as error:
                reason = client.reason(error)
                return f"{self.branch} lacks the last checkpoint, step {last} ({reason}): run the same command again."
        return None

    def _wait(self) -> None:
        if self._thread and self._thread.is_alive():
            print(f"Waiting for the last checkpoint to reach {self.branch}.")
            self._thread.join()

    def _push_in_turn(self, step: int, previous: threading.Thread | None) -> None:
        """Push a checkpoint after the thread that pushes the one before."""
        if previous:
            previous.join()
        try:
            if step == self._newest:
                with _without_progress_bars():
                    self._push(step)
            else:
                logger.warning(
                    "step %d is not pushed to %s: step %d came before its turn", step, self.branch, self._newest
                )
        # An error that ended with the thread would be seen by nobody.
        except Exception as error:
            logger.warning(
                "step %d did not reach %s (%s): what it lacks is pushed with the next checkpoint, and at the end",
                step,
                self.branch,
                client.reason(error),
            )
        shutil.rmtree(self._links / str(step), ignore_errors=True)

    def _lay_out(self, step: int) -> None:
        """Make a folder as the branch will be, of links: the Trainer may delete its own files meanwhile."""
        target, saved = self._links / str(step), self.folder / "checkpoints"
        shutil.rmtree(target, ignore_errors=True)
        state = json.loads((saved / f"checkpoint-{step}" / STATE).read_text())
        best = state["best_global_step"]
        state["best_model_checkpoint"] = None if best is None else f"checkpoint-{best}"  # no folder of this machine
        for each, patterns in {best: MODEL, step: _RESUMABLE}.items():
            if each is not None:
                _link(saved / f"checkpoint-{each}", target / "checkpoints" / f"checkpoint-{each}", patterns)
        (target / "checkpoints" / f"checkpoint-{step}" / STATE).unlink()
        write_json(target / "checkpoints" / f"checkpoint-{step}" / STATE, state, finite=False)
        write_json(target / "run.json", self._run(), finite=False)

    def _run(self) -> Json:
        return public(json.loads((self.folder / "run.json").read_text()))

    def _push(self, step: int) -> None:
        """Make the branch hold a checkpoint, in one commit.

        Raises:
            RunError: another run, or a machine that is further, pushes to the same branch; or the repository has been
                removed, which is then not made again.
        """
        held = self._branch_head()
        if held.run not in (None, self._run()):
            raise RunError("it holds another run by now")
        if held.run is None and not _is_fresh(held):
            raise RunError("it holds things that are no run")
        if held.step > step:
            raise RunError(f"it holds step {held.step}, which another machine has pushed")
        if held.step < step:
            api, repo_id, message = HfApi(), self.branch.repo_id, f"Step {step}"
            api.upload_folder(
                repo_id=repo_id,
                folder_path=self._links / str(step),
                revision=self.branch.name,
                parent_commit=held.commit,
                delete_patterns="*",
                commit_message=message,
            )
            # The checkpoints before would stay in the branch's history, each several times the size of the model.
            with contextlib.suppress(RunError), client.on_the_hub("squashing"):  # the next push does it then
                api.super_squash_history(repo_id, branch=self.branch.name, commit_message=message)
        self._pushed = step

    def _branch_head(self) -> Snapshot:
        """The branch as it is; created, with the repository, private, where this run has never seen one."""
        repo_id, name, api = self.branch.repo_id, self.branch.name, HfApi()
        heads = _heads(self.branch)
        if self._exists and not heads:
            raise RunError(f"{repo_id} has vanished, or is hidden from this token, since this run began")
        if name not in heads:
            if not self._exists and not heads:
                api.create_repo(repo_id, private=True, exist_ok=True)
            self._exists = True
            api.create_branch(repo_id, branch=name, exist_ok=True)
            heads = client.refs(api, repo_id, must_exist=True).branches
        self._exists = True
        return _snapshot(self.branch, heads[name])


def _heads(branch: Branch) -> dict[str, str]:
    """The commits of all branches of a repository; none where there is no repository that one may read."""
    return client.refs(HfApi(), branch.repo_id).branches


def _snapshot(branch: Branch, commit: str) -> Snapshot:
    files = with_retries(HfApi().list_repo_files, branch.repo_id, revision=commit)
    run = None
    if "run.json" in files:
        path = with_retries(hf_hub_download, branch.repo_id, "run.json", revision=commit)
        run = json.loads(Path(path).read_text())
    steps = [int(match[1]) for match in map(_STEP.fullmatch, files) if match]
    return Snapshot(branch, commit, files, run if isinstance(run, dict) else None, max(steps, default=0))


def _is_fresh(held: Snapshot) -> bool:
    """Whether nothing was ever pushed to a branch since it left main."""
    assert isinstance(held.source, Branch)
    commits = with_retries(HfApi().list_repo_commits, held.source.repo_id)
    return held.commit in {commit.commit_id for commit in commits}


def _link(source: Path, target: Path, patterns: Sequence[str]) -> None:
    """Link the files of a folder that match a pattern into another; copy them where the file system has no links."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if any(fnmatch(path.name, pattern) for pattern in patterns):
            try:
                os.link(path, target / path.name)
            except OSError:  # a mounted drive of a cloud, for one
                shutil.copyfile(path, target / path.name)


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Leave the terminal to the training's own progress bar."""
    were_disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            enable_progress_bars()
