"""A run's checkpoints pushed to a branch of the Hub while it trains; see `checkpoint_sync`."""

# Not by the Trainer's `hub_strategy="checkpoint"`: of transformers 5.24 it makes two commits a checkpoint, pushes the
# pickle, never the best epoch's model, and drops a push that fails without a word. The README promises otherwise.

import contextlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from dermalert_space.contract import MODEL, Json
from dermalert_space.files import write_json
from huggingface_hub import HfApi
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dermalert.errors import RunError, UsageError, first_line
from dermalert.hub import client
from dermalert.hub.retries import with_retries
from dermalert.training import checkpoint_sync, checkpoints, run_folder
from dermalert.training.checkpoint_sync import RESUMABLE, RESUME, Branch, Snapshot
from dermalert.training.checkpoints import STATE

logger = logging.getLogger(__name__)


class Pushes(TrainerCallback):
    """Pushes the checkpoints of a run to a branch in the background.

    One push runs at a time, and of the checkpoints that wait the newest is pushed. What did not reach the branch is
    pushed with the next checkpoint, and at last by `finish`. Used as a context, it waits for a running push if the
    training ends by an error, but not if somebody stops it.
    """

    def __init__(self, target: str, folder: Path):
        self.branch = checkpoint_sync.branch_of("--checkpoints_to", target, folder)
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
            heads = checkpoint_sync.heads(self.branch)
            self._exists = bool(heads)
            if self.branch.name not in heads:
                return
            held = checkpoint_sync.snapshot(self.branch, heads[self.branch.name])
            if held.run is None and _is_fresh(held):
                return
        flag = f"--checkpoints_to '{self.branch}'"
        if held.run is None:
            raise UsageError(f"{flag} holds things that are no run: name a new branch.")
        run_folder.check_settings(held.run, checkpoint_sync.public(settings), flag, "name a new branch")
        here = max(checkpoints.last_step(self.folder), resumed.step if resumed else 0)
        if here < held.step:
            raise UsageError(
                f"{flag} holds step {held.step} of this run and '{self.folder}' {f'step {here}' if here else 'none'}: "
                f"go on from there, in a new --output_dir, by {RESUME} {self.branch}, or name a new branch."
            )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_others: Any
    ) -> None:
        """Push the checkpoint that the training resumes from, if the branch lacks it."""
        print(f"Each checkpoint goes to {self.branch}: {RESUME} {self.branch} goes on from there elsewhere.")
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
        for each, patterns in {best: MODEL, step: RESUMABLE}.items():
            if each is not None:
                _link(saved / f"checkpoint-{each}", target / "checkpoints" / f"checkpoint-{each}", patterns)
        (target / "checkpoints" / f"checkpoint-{step}" / STATE).unlink()
        write_json(target / "checkpoints" / f"checkpoint-{step}" / STATE, state, finite=False)
        write_json(target / "run.json", self._run(), finite=False)

    def _run(self) -> Json:
        return checkpoint_sync.public(json.loads((self.folder / "run.json").read_text()))

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
        heads = checkpoint_sync.heads(self.branch)
        if self._exists and not heads:
            raise RunError(f"{repo_id} has vanished, or is hidden from this token, since this run began")
        if name not in heads:
            if not self._exists and not heads:
                api.create_repo(repo_id, private=True, exist_ok=True)
            self._exists = True
            api.create_branch(repo_id, branch=name, exist_ok=True)
            heads = client.refs(api, repo_id, must_exist=True).branches
        self._exists = True
        return checkpoint_sync.snapshot(self.branch, heads[name])


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
