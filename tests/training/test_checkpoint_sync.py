import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.hub_server import Fault
from support.paths import REPOSITORY
from support.training import arguments, command, train, without_speed
from transformers import TrainerState
from transformers.trainer_pt_utils import safe_globals

import train_hf
from dermalert.errors import RunError, UsageError
from dermalert.hub import retries
from dermalert.training import checkpoint_pushes, checkpoint_sync, checkpoints, recipe_trainer

pytestmark = pytest.mark.integration

REPO, NAME = "tester/derm", "run-a"
TO = ("--checkpoints_to", f"{REPO}@{NAME}")
FROM = ("--resume_from_checkpoint", f"{REPO}@{NAME}")


def on_the_branch(hub) -> tuple[int, dict[str, bytes]]:
    """The last step that the branch holds, and all its files."""
    files = hub.files(REPO, NAME)
    steps = [int(name.split("-")[1].split("/")[0]) for name in files if name.endswith("trainer_state.json")]
    return max(steps, default=0), files


class From(Fault):
    """A fault that stays, once something is true of the requests so far."""

    begun: Callable[[], bool]

    @property
    def times(self) -> int:
        return int(self.begun())

    @times.setter
    def times(self, _left: int) -> None:
        pass


def killed_once_pushed(hub, words: list[str], folder: Path) -> None:
    """Start the training, and kill -9 it once a checkpoint is on the branch; the next ones do not come through."""
    later = From("POST", "/commit/", 500)
    later.begun = lambda: any("/commit/" in request.path for request in list(hub.requests))
    hub.faults.append(later)
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train_hf.py"), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder.parent,
    )
    deadline = time.monotonic() + 240
    while not later.begun():
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.faults.clear()
    assert not (folder / "release").exists()


@pytest.mark.parametrize(
    "base", ["resnet", *(pytest.param(name, marks=pytest.mark.long) for name in ("vit", "efficientnet-lite0"))]
)
def test_a_run_killed_on_one_machine_ends_on_another_as_if_it_had_not_been_killed(
    base, hub, pictures, tiny_resnet, tiny_vit, tmp_path, monkeypatch, capfd
):
    model = {"resnet": tiny_resnet, "vit": tiny_vit}.get(base, base)
    more = ("--num_train_epochs", "4", "--image_size", "32")
    train(pictures, model, tmp_path / "whole", *more)
    (tmp_path / "a").mkdir()
    killed_once_pushed(hub, arguments(pictures, model, tmp_path / "a" / "run", *more, *TO), tmp_path / "a" / "run")
    step, _ = on_the_branch(hub)
    assert 0 < step < 24
    shutil.rmtree(tmp_path / "a")
    shutil.copytree(pictures, tmp_path / "b" / "elsewhere")
    monkeypatch.chdir(tmp_path / "b")
    train("elsewhere", model, "other", *more, *FROM, *TO)
    said = "".join(capfd.readouterr())
    assert f"Going on from 'other/checkpoints/checkpoint-{step}'" in said
    assert without_speed(tmp_path / "b" / "other") == without_speed(tmp_path / "whole")
    whole, resumed = (load_file(tmp_path / name / "release/model.safetensors") for name in ("whole", "b/other"))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert on_the_branch(hub)[0] == 24
    assert "hf_write" not in said
    assert not [path for path in (tmp_path / "b").rglob("*") if path.is_file() and b"hf_write" in path.read_bytes()]
    assert sorted(path.name for path in (tmp_path / "b" / "other").iterdir()) == ["release", "run.json"]


SETTINGS = {
    "dataset_name": ["/home/me/isic9"],
    "model_name_or_path": "/home/me/base",
    "external": ["clinic=/home/me/clinic"],
}
SETTINGS |= {"columns": ["/home/me/columns.json"], "num_train_epochs": 4, "data": "images", "sides": "sides"}
PUBLIC = {
    "model_name_or_path": "base",
    "external": ["clinic"],
    "num_train_epochs": 4,
    "data": "images",
    "sides": "sides",
}


def save(folder: Path, step: int, *, best: int | None = None) -> Path:
    """Write what the Trainer leaves of a checkpoint, without training; its files tell the step."""
    path = folder / "checkpoints" / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in ("config.json", "preprocessor_config.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (path / name).write_text(f"{name} {step}")
    for name in ("model.safetensors", "latest.safetensors", "training_args.bin"):
        (path / name).write_bytes(f"{name} {step} /home/me ".encode() * (50 if name != "training_args.bin" else 1))
    state = {"global_step": step, "best_global_step": best or step}
    state["best_model_checkpoint"] = str(folder / "checkpoints" / f"checkpoint-{best or step}")
    (path / "trainer_state.json").write_text(json.dumps(state))
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """The folder of a run with one checkpoint, without training."""
    folder = tmp_path / "run"
    save(folder, 10)
    (folder / "run.json").write_text(json.dumps(SETTINGS))
    return folder


def push(folder: Path, step: int) -> checkpoint_pushes.Pushes:
    """Push a checkpoint as the Trainer does, and wait for it."""
    pushes = checkpoint_pushes.Pushes(f"{REPO}@{NAME}", folder)
    pushes.on_save(None, TrainerState(global_step=step), None)
    with pushes:
        pass
    return pushes


OF_MODEL = ("config.json", "model.safetensors", "preprocessor_config.json")
ALL = (*OF_MODEL, "latest.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json")


def test_a_branch_holds_the_last_checkpoint_the_best_ones_model_and_nothing_else(hub, folder):
    push(folder, 10)
    assert hub.repo(REPO).private
    save(folder, 20)
    push(folder, 20)
    save(folder, 30, best=20)
    push(folder, 30)
    expected = {".gitattributes", "run.json"}
    expected |= {f"checkpoints/checkpoint-20/{name}" for name in OF_MODEL}
    expected |= {f"checkpoints/checkpoint-30/{name}" for name in ALL}
    assert set(hub.files(REPO, NAME)) == expected
    assert set(hub.files(REPO)) == {".gitattributes"}
    assert hub.repo(REPO).commits[hub.branches(REPO)[NAME]]["parent"] is None  # no history of checkpoints


def test_what_lies_where_on_this_machine_is_not_published(hub, folder):
    (folder.parent / "base").mkdir()
    push(folder, 10)
    files = hub.files(REPO, NAME)
    assert json.loads(files["run.json"]) == PUBLIC
    assert json.loads(files["checkpoints/checkpoint-10/trainer_state.json"])["best_model_checkpoint"] == "checkpoint-10"
    assert not [name for name, data in files.items() if str(folder.parent).encode() in data or b"hf_write" in data]


def test_a_release_on_main_stays_and_is_not_on_the_branch(hub, folder):
    hub.create(REPO)
    hub.commit(REPO, {"model.safetensors": b"a release", "README.md": b"its card"})
    before = hub.files(REPO)
    push(folder, 10)
    assert hub.files(REPO) == before
    assert not {"model.safetensors", "README.md"} & set(hub.files(REPO, NAME))
    assert not hub.repo(REPO).private  # as it was


def fetched(folder: Path, name: str = "fetched") -> Path:
    """What another machine gets from the branch."""
    there = folder.parent / name
    there.mkdir(exist_ok=True)
    checkpoint_sync.fetch(checkpoint_sync.find(f"{REPO}@{NAME}", there, SETTINGS), there)
    return there


def is_whole(there: Path, step: int) -> bool:
    """Whether the checkpoint of a step is there, with all files, each of this step."""
    path = there / "checkpoints" / f"checkpoint-{step}"
    names = sorted(each.name for each in path.iterdir())
    return names == sorted(ALL) and all(str(step) in (path / name).read_text() for name in ALL)


def cut_at(i: int, hub, folder: Path, *steps: int, after: bool) -> bool:
    """Push to an empty Hub, the last step with all requests broken off after the first i; tell whether any was."""
    hub.repos.clear()
    hub.blobs.clear()
    for step in steps[:-1]:
        push(folder, step)
    cut, first = From(".*", "", "drop", after=after), len(hub.requests) + i
    cut.begun = lambda: len(hub.requests) >= first
    hub.faults.append(cut)
    push(folder, steps[-1])
    hub.faults.clear()
    return len(hub.requests) > first


def cut_everywhere(hub, folder: Path, monkeypatch, *, after: bool, every: int) -> None:
    """Cut a second push off at one request after another, or at every so many; see what is left and make up for it."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    save(folder, 20)
    found, i = [], 0
    while cut_at(i, hub, folder, 10, 20, after=after):
        there = fetched(folder, f"at-{i}")
        found.append(checkpoints.last_step(there))
        assert is_whole(there, found[-1])
        pushes = checkpoint_pushes.Pushes(f"{REPO}@{NAME}", folder)  # as in a new process
        pushes.check(SETTINGS, None)
        assert pushes.finish() is None
        assert is_whole(fetched(folder, f"at-{i}-again"), 20)
        i += every
    assert found == sorted(found)
    assert set(found) == {10, 20} or (found and every > 1)


EFFECT = pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after its effect"])


def test_a_push_that_is_cut_leaves_a_whole_checkpoint_and_is_made_up_for(hub, folder, monkeypatch):
    cut_everywhere(hub, folder, monkeypatch, after=False, every=5)


@pytest.mark.long
@EFFECT
def test_a_push_that_is_cut_at_any_request_leaves_a_whole_checkpoint_and_is_made_up_for(
    after, hub, folder, monkeypatch
):
    cut_everywhere(hub, folder, monkeypatch, after=after, every=1)


@pytest.mark.long
@EFFECT
def test_the_first_push_can_be_cut_at_any_request_too(after, hub, folder, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    i = 0
    while cut_at(i, hub, folder, 10, after=after):
        pushes = checkpoint_pushes.Pushes(f"{REPO}@{NAME}", folder)
        pushes.check(SETTINGS, None)  # a branch that was left without a checkpoint is taken for what it is
        assert pushes.finish() is None
        assert is_whole(fetched(folder, f"at-{i}"), 10)
        i += 1
    assert i > 8


def test_a_fetch_that_is_cut_at_any_file_leaves_no_checkpoint_and_the_next_finishes_it(hub, folder, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    save(folder, 20, best=10)
    push(folder, 20)
    there = folder.parent / "there"
    there.mkdir()
    for name in (*OF_MODEL, "latest.safetensors", "trainer_state.json"):
        fault = Fault("GET", f"checkpoint-(10|20)/{name}", 500, times=100)
        hub.faults.append(fault)
        with pytest.raises(RunError, match="Run the same command again"):
            fetched(folder, "there")
        hub.faults.clear()
        assert checkpoints.last_step(there) == 0
    assert is_whole(fetched(folder, "there"), 20)
    assert sorted(path.name for path in (there / "checkpoints" / "checkpoint-10").iterdir()) == sorted(OF_MODEL)
    assert [path.name for path in there.iterdir()] == ["checkpoints"]


@pytest.mark.usefixtures("hub")
def test_a_fetch_that_is_killed_while_it_moves_its_files_leaves_nothing_to_go_on_from(folder, monkeypatch):
    save(folder, 20, best=10)
    push(folder, 20)
    replace = Path.replace

    def killed(path, target):
        if path.parent.parent.name == "fetched.partial" and list(target.parent.iterdir()):
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        fetched(folder)
    assert list((folder.parent / "fetched" / "checkpoints").iterdir())
    assert checkpoints.last_checkpoint(folder.parent / "fetched") is None
    assert is_whole(fetched(folder), 20)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("has_links", [True, False])
def test_a_checkpoint_that_the_trainer_deletes_meanwhile_is_pushed_whole(has_links, folder, monkeypatch):
    upload_folder = checkpoint_pushes.HfApi.upload_folder

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    def upload(*args, **options):
        shutil.rmtree(folder / "checkpoints" / "checkpoint-10")
        return upload_folder(*args, **options)

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(checkpoint_pushes.HfApi, "upload_folder", upload)
    push(folder, 10)
    assert is_whole(fetched(folder), 10)


def pushed_of_three(folder: Path, monkeypatch) -> list[int]:
    """The steps that are pushed where the second and the third checkpoint come while the first is on its way."""
    begun, go_on, pushed = threading.Event(), threading.Event(), []

    def slow(_pushes, step):
        begun.set()
        go_on.wait(60)
        pushed.append(step)

    monkeypatch.setattr(checkpoint_pushes.Pushes, "_push", slow)
    with checkpoint_pushes.Pushes(f"{REPO}@{NAME}", folder) as pushes:
        for step in (10, 20, 30):
            save(folder, step) if step > 10 else None
            pushes.on_save(None, TrainerState(global_step=step), None)  # does not wait
            assert begun.wait(60)
        go_on.set()
    return pushed


def test_of_checkpoints_that_wait_the_newest_is_pushed_and_the_others_are_said(folder, monkeypatch, caplog):
    assert pushed_of_three(folder, monkeypatch) == [10, 30]
    assert f"step 20 is not pushed to {REPO}@{NAME}: step 30 came before its turn" in caplog.text


def test_a_checkpoint_that_waits_is_pushed_where_the_newer_one_cannot_be(folder, monkeypatch, caplog):
    lay_out = checkpoint_pushes.Pushes._lay_out

    def no_room_for_the_last(pushes, step):
        if step == 30:
            raise OSError(28, "No space left on device")
        lay_out(pushes, step)

    monkeypatch.setattr(checkpoint_pushes.Pushes, "_lay_out", no_room_for_the_last)
    assert pushed_of_three(folder, monkeypatch) == [10, 20]
    assert "step 30 cannot be pushed" in caplog.text and "before its turn" not in caplog.text


@pytest.mark.parametrize("at", ["repos/create", "/branch/", "/commit/"])
def test_a_repository_that_vanishes_during_the_first_push_is_not_made_again(at, hub, folder, caplog):
    hub.vanish(REPO, at=at)
    pushes = push(folder, 10)
    save(folder, 20)
    pushes.on_save(None, TrainerState(global_step=20), None)
    assert "has vanished" in pushes.finish()
    assert not hub.repos
    assert hub.creations() == 1
    assert f"did not reach {REPO}@{NAME}" in caplog.text


@pytest.mark.parametrize("pushed", [True, False], ids=["between two pushes", "before the first"])
def test_a_repository_that_vanishes_is_not_made_again_by_the_last_push(hub, folder, pushed):
    if pushed:  # by whom it is made
        pushes = push(folder, 10)
    else:  # it is there before the training
        hub.create(REPO)
        pushes = checkpoint_pushes.Pushes(f"{REPO}@{NAME}", folder)
        pushes.check(SETTINGS, None)
    hub.repos.clear()
    save(folder, 20)
    assert "lacks the last checkpoint, step 20 (tester/derm has vanished" in pushes.finish()
    assert not hub.repos and hub.creations() == pushed


def test_a_push_that_fails_twice_at_the_commit_is_said_and_made_up_for_at_the_next_checkpoint(hub, folder, caplog):
    hub.faults.append(Fault("POST", "/commit/", 500, times=2))
    push(folder, 10)
    assert f"step 10 did not reach {REPO}@{NAME} (HTTP 500: A fault on order): " in caplog.text
    save(folder, 20)
    pushes = push(folder, 20)
    save(folder, 30)
    pushes.on_save(None, TrainerState(global_step=30), None)
    assert pushes.finish() is None
    assert on_the_branch(hub)[0] == 30
    assert caplog.text.count("did not reach") == 2
    assert "hf_write" not in caplog.text


@pytest.mark.usefixtures("hub")
def test_an_error_of_the_training_waits_for_the_push_and_a_stop_does_not(folder, monkeypatch):
    go_on, pushed = threading.Event(), []
    monkeypatch.setattr(checkpoint_pushes.Pushes, "_push", lambda _, step: go_on.wait(60) and pushed.append(step))
    pushes = checkpoint_pushes.Pushes(f"{REPO}@{NAME}", folder)
    with pytest.raises(KeyboardInterrupt), pushes:
        pushes.on_save(None, TrainerState(global_step=10), None)
        raise KeyboardInterrupt
    assert pushed == []
    with pytest.raises(RunError), pushes:
        threading.Timer(0.2, go_on.set).start()
        raise RunError("the training diverged")
    assert pushed == [10]


def test_a_commit_that_came_in_between_is_not_overwritten(hub, folder, caplog, monkeypatch):
    upload_folder = checkpoint_pushes.HfApi.upload_folder
    push(folder, 10)
    save(folder, 20)

    def late(*args, **options):
        hub.commit(REPO, {"run.json": b"{}"}, branch=NAME)
        return upload_folder(*args, **options)

    monkeypatch.setattr(checkpoint_pushes.HfApi, "upload_folder", late)
    pushes = push(folder, 20)
    assert "A commit has happened since" in caplog.text
    assert "it holds another run by now" in pushes.finish()
    assert on_the_branch(hub)[0] == 10


def test_what_is_no_run_is_not_wiped_off_a_branch_at_the_end_either(hub, folder):
    push(folder, 10)
    hub.repo(REPO).branches["notes"] = hub.branches(REPO)["main"]
    hub.commit(REPO, {"mine.txt": b"mine"}, branch="notes")
    pushes = checkpoint_pushes.Pushes(f"{REPO}@notes", folder)
    assert "lacks the last checkpoint, step 10 (it holds things that are no run)" in pushes.finish()
    assert hub.files(REPO, "notes")["mine.txt"] == b"mine"


def test_a_checkpoint_that_cannot_be_laid_out_does_not_stop_the_training(hub, folder, caplog):
    (folder / "checkpoints" / "checkpoint-10" / "trainer_state.json").write_text("cut sh")
    push(folder, 10)
    assert "step 10 cannot be pushed to" in caplog.text
    assert not hub.requests


def test_two_machines_that_push_to_one_branch_do_not_set_each_other_back(hub, folder, caplog):
    save(folder, 20)
    push(folder, 20)
    pushes = push(folder, 10)
    assert "it holds step 20, which another machine has pushed" in caplog.text
    assert on_the_branch(hub)[0] == 20
    (folder / "run.json").write_text(json.dumps(SETTINGS | {"num_train_epochs": 5}))
    save(folder, 30)
    assert "it holds another run by now" in pushes.finish()
    assert on_the_branch(hub)[0] == 20


def test_a_folder_that_is_as_far_as_the_branch_goes_on_from_its_own_checkpoint(hub, folder, capsys):
    push(folder, 10)
    save(folder, 20)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    start = len(hub.requests)
    checkpoint_sync.fetch(checkpoint_sync.find(f"{REPO}@{NAME}", folder, SETTINGS), folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not [request for request in hub.requests[start:] if "/checkpoints/" in request.path]
    assert "has step 20, 'tester/derm@run-a' step 10: the folder's is taken" in capsys.readouterr().out


@pytest.mark.usefixtures("hub")
def test_a_folder_that_is_behind_the_branch_is_refused(folder):
    save(folder, 20)
    push(folder, 20)
    shutil.rmtree(folder / "checkpoints" / "checkpoint-20")
    with pytest.raises(UsageError, match="has step 10 of this run and 'tester/derm@run-a' step 20: name a new --out"):
        checkpoint_sync.find(f"{REPO}@{NAME}", folder, SETTINGS)
    with pytest.raises(UsageError, match=r"holds step 20 of this run and '.*' step 10: go on from there, in a new"):
        checkpoint_pushes.Pushes(f"{REPO}@{NAME}", folder).check(SETTINGS, None)
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(
        UsageError, match=r"holds step 20 of this run and '.*' none: go on .* by --resume_from_checkpoint"
    ):
        checkpoint_pushes.Pushes(f"{REPO}@{NAME}", folder).check(SETTINGS, None)
    checkpoint_pushes.Pushes(f"{REPO}@{NAME}", folder).check(
        SETTINGS, checkpoint_sync.find(f"{REPO}@{NAME}", folder, SETTINGS)
    )


NO_BRANCH = {
    "a repository that is not there": ("tester/nothing", "is no branch that the Hub has"),
    "a branch that is not there": ("tester/derm@run-b", "There are main, notes, run-a"),
    "a branch without a run": ("tester/derm@notes", "holds no checkpoint of a run"),
    "main": ("tester/derm@main", "'main' can be no run's branch"),
    "no owner": ("derm@run-a", "write it as USER/REPO or USER/REPO@BRANCH"),
    "a name that git has not": ("tester/derm@a..b", "'a..b' can be no run's branch"),
}


def test_a_branch_that_cannot_be_gone_on_from_is_refused_before_anything_is_written(hub, folder, capsys):
    push(folder, 10)
    hub.repo(REPO).branches["notes"] = hub.branches(REPO)["main"]
    there = folder.parent / "there"
    for name, sentence in NO_BRANCH.values():
        # The data set is not there either: the branch is asked for first.
        assert command("nowhere", "efficientnet-lite0", there, "--resume_from_checkpoint", name) == 2
        assert sentence in capsys.readouterr().err
    assert not there.exists()


def test_a_private_branch_without_a_token_is_refused(hub, folder, monkeypatch):
    push(folder, 10)
    assert hub.repo(REPO).private
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UsageError, match="or that your token may read"):
        checkpoint_sync.find(f"{REPO}@{NAME}", folder.parent / "there", SETTINGS)


def test_a_hub_that_does_not_answer_is_said_before_anything_is_written(hub, folder, capsys, monkeypatch):
    monkeypatch.setattr(retries, "SECOND", 0)
    push(folder, 10)
    for flags in (FROM, TO):
        hub.faults[:] = [Fault("GET", "refs|whoami", "drop", times=100)]
        assert command("nowhere", "efficientnet-lite0", folder.parent / "there", *flags) == 1
        assert "asking the Hub about tester/derm@run-a failed" in capsys.readouterr().err
    assert not (folder.parent / "there").exists()


CANNOT_PUSH = {
    "a token that may only read": ("hf_read", f"{REPO}@new", "may only read"),
    "no token": ("", f"{REPO}@new", "needs a token"),
    "another owner": ("hf_write", "somebody/derm", "cannot write to somebody/derm"),
    "another's branch": ("hf_write", f"{REPO}@notes", "holds things that are no run: name a new branch"),
    "another run's branch": ("hf_write", f"{REPO}@{NAME}", "holds another run (--num_train_epochs 4 there, 5 here)"),
    "main": ("hf_write", f"{REPO}@main", "'main' can be no run's branch"),
    "a branch of a release": ("hf_write", f"{REPO}@staging-v1.0.0", "'staging-v1.0.0' can be no run's branch"),
    "a tag's name": ("hf_write", f"{REPO}@v1.0.0", "'v1.0.0' can be no run's branch"),
}


def test_a_branch_that_cannot_be_pushed_to_is_refused_before_the_training(hub, folder, monkeypatch):
    push(folder, 10)
    hub.repo(REPO).branches["notes"] = hub.branches(REPO)["main"]
    hub.commit(REPO, {"mine.txt": b"mine"}, branch="notes")
    before = hub.branches(REPO)
    for token, name, sentence in CANNOT_PUSH.values():
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(UsageError) as refused:
            checkpoint_pushes.Pushes(name, folder).check(SETTINGS | {"num_train_epochs": 5}, None)
        assert sentence in str(refused.value)
    assert hub.branches(REPO) == before


def test_a_branch_is_called_after_the_folder_unless_it_is_named(tmp_path):
    assert str(checkpoint_sync.branch_of("--x", "tester/derm", tmp_path / "isic9")) == "tester/derm@run-isic9"
    assert str(checkpoint_sync.branch_of("--x", "tester/derm@mine/1", tmp_path / "isic9")) == "tester/derm@mine/1"
    with pytest.raises(UsageError, match="--x: 'run-my run' can be no run's branch: name one, such as tester/derm@run"):
        checkpoint_sync.branch_of("--x", "tester/derm", tmp_path / "my run")


@pytest.fixture(scope="module")
def stopped(pictures, tiny_vit, tmp_path_factory) -> Path:
    """The folder of a run that was stopped after the second of four epochs, the first being the best."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    losses = [0.1, 0.1, 0.2, 0.2]  # of validation and of as many training images, each epoch

    def loss(*_):
        if not losses:
            raise KeyboardInterrupt
        return losses.pop(0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe_trainer.calibration, "calibrated_loss", loss)
        assert command(pictures, tiny_vit, folder, "--num_train_epochs", "4") == 130
    assert checkpoints.last_step(folder) == 12
    return folder


@pytest.fixture
def branch(hub, stopped):
    """The same run on a branch of the Hub."""
    push(stopped, 12)
    return hub


def test_all_of_a_real_checkpoint_is_read_without_running_code_of_it_and_names_no_folder(branch, stopped):
    files = branch.files(REPO, NAME)
    assert {Path(name).name for name in files} == {*ALL, "run.json", ".gitattributes"}
    for name, data in files.items():
        assert str(stopped.parent).encode() not in data, name
        assert b"hf_write" not in data, name
        if name.endswith((".pt", ".pth")):
            with safe_globals():  # arrays of numpy, for the random state
                assert torch.load(io.BytesIO(data), weights_only=True)


def best_weights(words: list, losses: list[float], monkeypatch) -> dict:
    """The weights that a run would make its release from; it is stopped there."""
    found, losses = {}, iter(losses)

    def stop(model, *_, **__):
        found.update(model.state_dict())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recipe_trainer.calibration, "calibrated_loss", lambda *_: next(losses))
        patch.setattr(train_hf.calibration, "calibrate", stop)
        assert command(*words) == 130
    return found


@pytest.mark.usefixtures("branch")
@pytest.mark.parametrize("best", [6, pytest.param(24, marks=pytest.mark.long)])
def test_a_run_whose_best_epoch_was_not_its_last_goes_on_elsewhere_as_it_does_here(
    best, stopped, pictures, tiny_vit, tmp_path, monkeypatch
):
    losses = [0.3, 0.3, 0.05, 0.05] if best == 24 else [0.3] * 4
    shutil.copytree(stopped, tmp_path / "here")
    words = [pictures, tiny_vit, tmp_path / "here", "--num_train_epochs", "4"]
    here = best_weights(words, losses, monkeypatch)
    shutil.move(tmp_path / "here", tmp_path / "gone")
    there = best_weights(
        [pictures, tiny_vit, tmp_path / "there", "--num_train_epochs", "4", *FROM], losses, monkeypatch
    )
    assert here
    assert all(torch.equal(tensor, there[name]) for name, tensor in here.items())
    states = [
        json.loads((tmp_path / name / "checkpoints/checkpoint-24/trainer_state.json").read_text())
        for name in ("gone", "there")
    ]
    assert [state["best_global_step"] for state in states] == [best, best]
    assert states[1]["best_model_checkpoint"] == str(tmp_path / f"there/checkpoints/checkpoint-{best}")


def test_other_settings_images_and_sides_than_the_branchs_are_refused(branch, pictures, tiny_vit, tmp_path, capsys):
    there = tmp_path / "there"
    assert command(pictures, tiny_vit, there, "--num_train_epochs", "5", *FROM) == 2
    sentence = "'tester/derm@run-a' holds another run (--num_train_epochs 4 there, 5 here): name another branch."
    assert f"--resume_from_checkpoint {sentence}" in capsys.readouterr().err
    shutil.copytree(pictures, tmp_path / "pictures")
    next((tmp_path / "pictures" / "Train" / "nevus").iterdir()).unlink()
    assert command(tmp_path / "pictures", tiny_vit, there, "--num_train_epochs", "4", *FROM) == 2
    assert "the images have changed since the run in 'tester/derm@run-a' was started" in capsys.readouterr().err
    run = json.loads(branch.files(REPO, NAME)["run.json"])
    branch.commit(REPO, {"run.json": json.dumps(run | {"sides": "others"}).encode()}, branch=NAME)
    assert command(pictures, tiny_vit, there, "--num_train_epochs", "4", *FROM) == 2
    assert "but in another order or in other splits: name the same data sets" in capsys.readouterr().err
    assert not there.exists()


class Malicious:
    """What a pickle can be made to do."""

    def __reduce__(self):
        return (Path.touch, (Path(os.environ["DERMALERT_TEST_TRAP"]),))


def test_code_that_somebody_puts_on_the_branch_is_not_run(branch, pictures, tiny_vit, tmp_path, monkeypatch):
    trap = tmp_path / "trap"
    monkeypatch.setenv("DERMALERT_TEST_TRAP", str(trap))
    poisoned = pickle.dumps(Malicious(), protocol=2)
    pickle.loads(poisoned)
    assert trap.exists()  # so it would go off
    trap.unlink()
    names = [f"checkpoints/checkpoint-12/{name}" for name in ("optimizer.pt", "training_args.bin", "pytorch_model.bin")]
    branch.commit(REPO, dict.fromkeys(names, poisoned), branch=NAME)
    with pytest.raises(RunError, match="'checkpoint-12' is damaged"):
        train(pictures, tiny_vit, tmp_path / "there", "--num_train_epochs", "4", *FROM)
    assert not trap.exists()
    there = {path.name for path in (tmp_path / "there" / "checkpoints" / "checkpoint-12").iterdir()}
    assert there == set(ALL)


def test_pushes_that_fail_to_the_end_leave_the_release_and_the_same_command_makes_up_for_them(
    hub, pictures, tiny_vit, tmp_path, capsys, caplog, monkeypatch
):
    monkeypatch.setattr(retries, "SECOND", 0)
    words = (pictures, tiny_vit, tmp_path / "run", "--num_train_epochs", "1", *TO)
    hub.faults.append(Fault("POST", "/commit/", 500, times=10**6))
    assert command(*words) == 1
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence.startswith("dermalert: tester/derm@run-a lacks the last checkpoint, step 6 (HTTP 500: ")
    assert sentence.endswith("run the same command again.")
    assert "did not reach tester/derm@run-a" in caplog.text
    assert (tmp_path / "run" / "release" / "config.json").is_file()
    hub.faults.clear()
    assert command(*words) == 0
    assert "nothing is left to train" in capsys.readouterr().out
    assert on_the_branch(hub)[0] == 6
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["release", "run.json"]
    start = len(hub.requests)
    assert command(*words) == 0
    assert len(hub.requests) == start
    assert "hf_write" not in sentence + caplog.text
