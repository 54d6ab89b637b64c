"""A run's checkpoints on the Hub: pushed to a branch while it trains, fetched to go on from on another machine.

The branch holds what a run needs to go on, laid out as in its folder, and nothing else:

- run.json: the settings, without what may name a folder of this machine
- checkpoints/checkpoint-STEP/: the last checkpoint
- checkpoints/checkpoint-STEP/: of the best one, if it is another, the model, which the release is made from

Each push is one commit, so that the branch holds a checkpoint whole, or still the one before. The Trainer's
`training_args.bin`, a pickle that names folders, is not pushed. What of a checkpoint is no safetensors file (optimizer,
schedule, random state) the Trainer reads with `torch.load(weights_only=True)`, which runs no code of a file.
"""

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

from dermalert_space import contract, files
from dermalert_space.contract import MODEL, HubName, is_hub_name
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import TrainerCallback, TrainerState

from dermalert.errors import RunError, UsageError, first_few, first_line
from dermalert.hub import client
from dermalert.hub.retries import with_retries
from dermalert.training import run_folder
from dermalert.training.recipe_trainer import WeightAverage

logger = logging.getLogger(__name__)

_STATE = "trainer_state.json"
_TO_GO_ON = (*MODEL, WeightAverage.FILE, "optimizer.pt", "scheduler.pt", "rng_state*.pth", _STATE)
_STEP = re.compile(rf"checkpoints/checkpoint-(\d+)/{_STATE}")
_TAKEN = re.compile(r"main|staging-.*|v\d.*|refs/.*|.*\.lock")  # by releases, by git
_NAME = re.compile(r"\w[\w-]*([./]\w[\w-]*)*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Branch:
    """A branch of a model repository."""

    repo_id: str
    name: str

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.name}"


@dataclasses.dataclass(frozen=True)
class Held:
    """What a branch holds at a commit: its files, the `run.json` among them if there is one, and the last step."""

    branch: Branch
    commit: str
    files: list[str]
    run: dict | None
    step: int


def branch_of(flag: str, text: str, folder: Path) -> Branch:
    """Return the branch that `USER/REPO[@BRANCH]` names, by default the one that is called after the run's folder."""
    if not is_hub_name(text):
        raise UsageError(f"{flag} '{text}' is no branch of a repository: write it as USER/REPO or USER/REPO@BRANCH.")
    repo_id, name = HubName.parse(text)
    name = name or f"run-{folder.resolve().name}"
    if _TAKEN.fullmatch(name) or not _NAME.fullmatch(name):
        raise UsageError(f"{flag}: '{name}' can be no run's branch: name one, such as {repo_id}@run-1.")
    return Branch(repo_id, name)


def public(settings: dict) -> dict:
    """Return the settings of a run without where things lie on this machine.

    Data sets and columns are left out: the fingerprints of the images and of the sides tell if they are the same.
    """
    kept = {k: v for k, v in settings.items() if k not in run_folder.MAY_NAME_FOLDERS}
    base = settings["base_model"]
    if Path(base).exists() or not is_hub_name(base):
        base = contract.public_name(Path(base))
    return kept | {"base_model": base, "external": [one.partition("=")[0] for one in settings["external"]]}


def find(text: str, folder: Path, settings: dict) -> Held:
    """Find the checkpoint that a run is to go on from, before anything is written.

    Args:
        text: `USER/REPO[@BRANCH]`.
        folder: of the run; if it has checkpoints of its own, they must be as far as the branch's.
        settings: of the run.

    Raises:
        UsageError: no such branch, a run of other settings on it, or one that is further than the folder's.
        RunError: the Hub cannot be reached.
    """
    flag = "--resume_from"
    branch = branch_of(flag, text, folder)
    with client.on_the_hub(f"asking the Hub about {branch}"):
        names = _branches(branch)
        held = _held(branch, names.get(branch.name))
    if held is None:
        known = f" There are {first_few(sorted(names))}." if names else ""
        raise UsageError(f"{flag} '{branch}' is no branch that the Hub has, or that your token may read.{known}")
    if held.run is None or not held.step:
        raise UsageError(f"{flag} '{branch}' holds no checkpoint of a run.")
    run_folder.check_settings(held.run, public(settings), f"{flag} '{branch}'", "name another branch")
    here = run_folder.last_step(folder)
    if 0 < here < held.step:
        raise UsageError(
            f"'{folder}' has step {here} of this run and '{branch}' step {held.step}: name a new --output_dir to go on "
            f"from the branch, or leave out {flag} to go on from the folder."
        )
    return held


def fetch(held: Held, folder: Path) -> None:
    """Bring the checkpoints of a branch into a run's folder, all or none, unless it has its own.

    Raises:
        RunError: the Hub cannot be reached, or no longer has them.
    """
    here = run_folder.last_step(folder)
    if here:
        print(f"'{folder}' has step {here}, '{held.branch}' step {held.step}: the folder's is taken.")
        return
    partial = folder / "fetched.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with client.on_the_hub(f"fetching {held.branch}"):
        for name in held.files:
            if _is_needed(name):
                hf_hub_download(held.branch.repo_id, name, revision=held.commit, local_dir=partial)
    (folder / "checkpoints").mkdir(exist_ok=True)
    # The best one first: it alone is no checkpoint that could be gone on from.
    for path in sorted((partial / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1])):
        shutil.rmtree(folder / "checkpoints" / path.name, ignore_errors=True)  # one that was cut short
        path.replace(folder / "checkpoints" / path.name)
    shutil.rmtree(partial)


def _is_needed(name: str) -> bool:
    """Tell whether a file of a branch is part of a checkpoint, by its place and name."""
    folder, _, file = name.rpartition("/")
    return bool(re.fullmatch(r"checkpoints/checkpoint-\d+", folder)) and any(fnmatch(file, each) for each in _TO_GO_ON)


class Pushes(TrainerCallback):
    """Pushes the checkpoints of a run to a branch in the background; does nothing where no branch is asked for.

    One push runs at a time, and what waits for it is the newest checkpoint. What did not reach the branch is pushed
    with the next checkpoint, and at last by `finish`. Used as a context, it waits for a running push if the training
    ends by an error, but not if somebody stops it.
    """

    def __init__(self, target: str | None, folder: Path):
        self.branch = branch_of("--checkpoints_to", target, folder) if target else None
        self.folder = folder
        self._links = folder / "pushing"
        self._pushed = 0
        self._exists = False  # the repository, by what this run has seen
        self._next: int | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def check(self, settings: dict, resumed: Held | None) -> None:
        """Find out, before the work is done, whether the checkpoints could be pushed.

        Raises:
            UsageError: no token that may write there, or the branch is another's, or further than the run.
            RunError: the Hub cannot be reached.
        """
        if self.branch is None:
            return
        client.check_repo(self.branch.repo_id)
        with client.on_the_hub(f"asking the Hub about {self.branch}"):
            client.check_token(HfApi(), self.branch.repo_id)
            names = _branches(self.branch)
            self._exists = bool(names)
            held = _held(self.branch, names.get(self.branch.name))
            if held is None or (held.run is None and _is_fresh(held)):
                return
        flag = f"--checkpoints_to '{self.branch}'"
        if held.run is None:
            raise UsageError(f"{flag} holds things that are no run: name a new branch.")
        run_folder.check_settings(held.run, public(settings), flag, "name a new branch")
        here = max(run_folder.last_step(self.folder), resumed.step if resumed else 0)
        if here < held.step:
            raise UsageError(
                f"{flag} holds step {held.step} of this run and '{self.folder}' {f'step {here}' if here else 'none'}: "
                f"go on from there, in a new --output_dir, by --resume_from {self.branch}, or name a new branch."
            )

    def on_train_begin(self, _args, state: TrainerState, _control, **_others):
        """Push the checkpoint that the training goes on from, if the branch lacks it."""
        if self.branch:
            print(f"Each checkpoint goes to {self.branch}: --resume_from {self.branch} goes on from there elsewhere.")
        if state.global_step:
            self._offer(state.global_step)

    def on_save(self, _args, state: TrainerState, _control, **_others):
        """Push what was saved."""
        self._offer(state.global_step)

    def __enter__(self) -> "Pushes":
        return self

    def __exit__(self, kind, *_error: object) -> None:
        if kind is None or issubclass(kind, Exception):
            self._wait()

    def finish(self) -> str | None:
        """Make up for what the branch lacks; return what is to be said where that fails, or None."""
        if self.branch is None:
            return None
        self._wait()
        last, reason = run_folder.last_step(self.folder), None
        if last > self._pushed:
            try:
                self._lay_out(last)
                with_retries(self._push, last)
            # Whatever it was, the release stands and is worth more.
            except Exception as error:
                reason = client.reason(error)
        if reason is None:
            return None
        return f"{self.branch} lacks the last checkpoint, step {last} ({reason}): run the same command again."

    def _wait(self) -> None:
        thread = self._thread
        if thread:
            print(f"Waiting for the last checkpoint to reach {self.branch}.")
            thread.join()

    def _offer(self, step: int) -> None:
        """Have a checkpoint pushed as soon as no other is."""
        if self.branch is None:
            return
        try:
            self._lay_out(step)
        except (OSError, ValueError) as error:  # the training is worth more, and `finish` tries again
            logger.warning("step %d cannot be pushed to %s: %s", step, self.branch, first_line(error))
            return
        with self._lock:
            skipped, self._next = self._next, step
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
        if skipped:
            logger.warning("step %d is not pushed to %s: step %d came before its turn", skipped, self.branch, step)
            shutil.rmtree(self._links / str(skipped), ignore_errors=True)

    def _work(self) -> None:
        """Push what waits until nothing does."""
        while True:
            with self._lock:
                step, self._next = self._next, None
                if step is None:
                    self._thread = None
                    return
            try:
                with _without_bars():
                    self._push(step)
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
        """Make a folder that looks as the branch will, the files as links: the Trainer may delete its own meanwhile."""
        target, saved = self._links / str(step), self.folder / "checkpoints"
        shutil.rmtree(target, ignore_errors=True)
        state = json.loads((saved / f"checkpoint-{step}" / _STATE).read_text())
        best = state["best_global_step"]
        state["best_model_checkpoint"] = None if best is None else f"checkpoint-{best}"  # no folder of this machine
        for each, patterns in {best: MODEL, step: _TO_GO_ON}.items():
            if each is not None:
                _link(saved / f"checkpoint-{each}", target / "checkpoints" / f"checkpoint-{each}", patterns)
        (target / "checkpoints" / f"checkpoint-{step}" / _STATE).unlink()
        files.write_json(target / "checkpoints" / f"checkpoint-{step}" / _STATE, state, finite=False)
        files.write_json(target / "run.json", self._run(), finite=False)

    def _run(self) -> dict:
        return public(json.loads((self.folder / "run.json").read_text()))

    def _push(self, step: int) -> None:
        """Make the branch hold a checkpoint, in one commit.

        Raises:
            RunError: another run, or a machine that is further, pushes to the same branch; or somebody has taken the
            repository away, which is then not made again.
        """
        api, folder, names = HfApi(), self._links / str(step), _branches(self.branch)
        if self._exists and not names:
            raise RunError(f"{self.branch.repo_id} has vanished, or is hidden from this token, since this run began")
        self._exists |= bool(names)
        held = _held(self.branch, names.get(self.branch.name)) or self._created(api)
        if held.run not in (None, self._run()):
            raise RunError("it holds another run by now")
        if held.run is None and not _is_fresh(held):
            raise RunError("it holds things that are no run")
        if held.step > step:
            raise RunError(f"it holds step {held.step}, which another machine has pushed")
        if held.step < step:
            api.create_commit(
                self.branch.repo_id,
                _operations(folder, held.files),
                commit_message=f"Step {step}",
                revision=self.branch.name,
                parent_commit=held.commit,
            )
            # The checkpoints before would stay in the branch's history, each several times the size of the model.
            with contextlib.suppress(RunError), client.on_the_hub("squashing"):  # the next push does it then
                api.super_squash_history(self.branch.repo_id, branch=self.branch.name, commit_message=f"Step {step}")
        self._pushed = step

    def _created(self, api: HfApi) -> Held:
        """Create the branch, and once the repository, for nobody else to see, if it is not there."""
        if not self._exists:
            api.create_repo(self.branch.repo_id, private=True, exist_ok=True)
            self._exists = True
        api.create_branch(self.branch.repo_id, branch=self.branch.name, exist_ok=True)
        made = client.refs(api, self.branch.repo_id, must_exist=True).branches
        return _held(self.branch, made[self.branch.name])


def _branches(branch: Branch) -> dict[str, str]:
    """Return the commits of all branches of a repository, none where there is no repository that one may read."""
    return client.refs(HfApi(), branch.repo_id).branches


def _held(branch: Branch, commit: str | None) -> Held | None:
    """Return what a branch holds at a commit; None where there is no commit, because there is no branch."""
    if commit is None:
        return None
    files = with_retries(HfApi().list_repo_files, branch.repo_id, revision=commit)
    run = None
    if "run.json" in files:
        path = with_retries(hf_hub_download, branch.repo_id, "run.json", revision=commit)
        run = json.loads(Path(path).read_text())
        run = run if isinstance(run, dict) else None
    steps = [int(found[1]) for found in map(_STEP.fullmatch, files) if found]
    return Held(branch, commit, files, run, max(steps, default=0))


def _is_fresh(held: Held) -> bool:
    """Tell whether nothing was ever pushed to a branch since it left main."""
    return held.commit in {each.commit_id for each in with_retries(HfApi().list_repo_commits, held.branch.repo_id)}


def _operations(folder: Path, there: Sequence[str]) -> list[CommitOperationAdd | CommitOperationDelete]:
    """Return what makes a branch with these files hold those of a folder alone."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    new = {path.relative_to(folder).as_posix(): path for path in paths}
    stale = [name for name in there if name not in new and name != ".gitattributes"]
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in new.items()]
    return operations + [CommitOperationDelete(path_in_repo=name) for name in stale]


def _link(source: Path, target: Path, patterns: Sequence[str]) -> None:
    """Give the files of a folder a second name in another; where a file system cannot, a copy."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if any(fnmatch(path.name, pattern) for pattern in patterns):
            try:
                os.link(path, target / path.name)
            except OSError:  # a mounted drive of a cloud, for one
                shutil.copyfile(path, target / path.name)


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Leave the terminal to the training's own progress bar."""
    shown = not are_progress_bars_disabled()
    if shown:
        disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
