"""What is left of a run after a power failure, and two runs in one folder."""

import itertools
import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from dermalert_space import files
from safetensors.torch import save_file

from dermalert.errors import RunError, UsageError
from dermalert.training import checkpoints, locks, run_folder

LOCK = ".dermalert-run.lock"


def checkpoint(run, step, *, best=None, sealed=True):
    folder = run / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_text("{}")
    for name in ("model", "latest"):
        save_file({"weight": torch.full((40, 40), float(step))}, folder / f"{name}.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.ones(500) * step}, folder / name)
    state = {"global_step": step, "epoch": step / 10, "best_global_step": best or step, "stateful_callbacks": {}}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    if sealed:
        checkpoints.seal(folder)
    return folder


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


def scrambled(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :][:64] = b""
    content[len(content) // 2 : len(content) // 2 + 64] = os.urandom(64)
    path.write_bytes(bytes(content))


def noise(path):
    path.write_bytes(os.urandom(1000))


NAMES = (
    "model.safetensors",
    "latest.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "config.json",
    "trainer_state.json",
)


DAMAGED = [*zip(NAMES, itertools.cycle([halved, emptied, noise, os.unlink])), ("trainer_state.json", os.unlink)]


@pytest.mark.parametrize(("name", "damage"), DAMAGED)
def test_of_a_damaged_last_checkpoint_the_one_before_is_taken_and_that_is_said(tmp_path, capsys, damage, name):
    before, last = checkpoint(tmp_path, 10), checkpoint(tmp_path, 20)
    files.write_json(tmp_path / "checkpoints" / "ended.json", {})
    damage(last / name)
    assert checkpoints.last_checkpoint(tmp_path) == before
    assert not last.exists()
    if not (name == "trainer_state.json" and damage is os.unlink):  # that one was never finished
        said = capsys.readouterr().out
        assert "'checkpoint-20' is damaged" in said and name in said and "'checkpoint-10'" in said
        assert not (tmp_path / "checkpoints" / "ended.json").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "latest.safetensors", "optimizer.pt", "scheduler.pt"])
def test_changed_bytes_in_the_middle_are_damage_too(tmp_path, name):
    before, last = checkpoint(tmp_path, 10), checkpoint(tmp_path, 20)
    scrambled(last / name)
    assert checkpoints.last_checkpoint(tmp_path) == before


def test_a_checkpoint_of_a_run_made_before_there_were_digests_is_taken(tmp_path):
    checkpoint(tmp_path, 10)
    last = checkpoint(tmp_path, 20, sealed=False)
    assert checkpoints.last_checkpoint(tmp_path) == last
    halved(last / "model.safetensors")
    assert checkpoints.last_checkpoint(tmp_path).name == "checkpoint-10"


def test_the_model_of_the_best_checkpoint_alone_as_a_branch_holds_it_is_kept(tmp_path):
    best, last, unfinished = checkpoint(tmp_path, 10), checkpoint(tmp_path, 20, best=10), checkpoint(tmp_path, 30)
    for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "latest.safetensors"):
        (best / name).unlink()
    (best / "digests.json").unlink()
    (unfinished / "trainer_state.json").unlink()
    assert checkpoints.last_checkpoint(tmp_path) == last
    assert best.exists() and not unfinished.exists()


def test_where_all_are_damaged_one_sentence_says_so_and_nothing_is_deleted(tmp_path):
    first, last = checkpoint(tmp_path, 10), checkpoint(tmp_path, 20)
    halved(first / "optimizer.pt")
    emptied(last / "rng_state.pth")
    with pytest.raises(RunError, match=r"checkpoint-20' is damaged \(rng_state.pth\).*checkpoint-10.*optimizer.pt"):
        checkpoints.last_checkpoint(tmp_path)
    assert first.exists() and last.exists()


def test_a_last_checkpoint_whose_best_one_is_damaged_is_not_gone_on_from(tmp_path):
    best = checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 20, best=10)
    halved(best / "model.safetensors")
    with pytest.raises(RunError, match="'checkpoint-10', the best one until 'checkpoint-20', is damaged"):
        checkpoints.last_checkpoint(tmp_path)


@pytest.mark.parametrize("content", ["", "[1", '{"a": NaN', "null"])
def test_a_json_file_is_replaced_whole_or_not_at_all(tmp_path, content):
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"a": float("nan")})
    assert path.read_text() == content and list(tmp_path.iterdir()) == [path]
    files.write_json(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1} and list(tmp_path.iterdir()) == [path]


HOLD = """
import sys, time
from pathlib import Path
from dermalert.training import locks
with locks.held(Path(sys.argv[1]), waits=False):  # as `Alone` does, which takes seconds to import
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / LOCK], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.integration
def test_a_second_run_in_a_folder_is_refused_and_told_whose_it_is(tmp_path, other):
    message = rf"in use by process {other.pid} on '{socket.gethostname()}' since \d{{4}}-.* UTC"
    with pytest.raises(UsageError, match=message), run_folder.Alone(tmp_path) as alone:
        alone.hold()
    assert (tmp_path / LOCK).exists()


@pytest.mark.integration
def test_the_lock_of_a_run_that_was_killed_is_taken_over(tmp_path, other):
    other.kill()
    other.wait()
    assert (tmp_path / LOCK).exists()
    with run_folder.Alone(tmp_path) as alone:
        alone.hold()
        assert locks.holder(tmp_path / LOCK).pid == os.getpid()
    assert not (tmp_path / LOCK).exists()


def test_one_run_takes_its_folder_once_and_only_when_it_is_there(tmp_path):
    with run_folder.Alone(tmp_path / "run") as alone:
        alone.hold()
        assert not (tmp_path / "run").exists()
        (tmp_path / "run").mkdir()
        alone.hold()
        alone.hold()
        assert (tmp_path / "run" / LOCK).exists()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_that_holds_a_lock_alone_is_a_new_one(tmp_path):
    (tmp_path / LOCK).write_text("")
    assert not run_folder.is_finished(tmp_path, {})


def flipped(path, at):
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("name", "sealed"), [("optimizer.pt", True), ("scheduler.pt", False), ("rng_state.pth", False)]
)
def test_a_flipped_bit_anywhere_is_damage_or_changes_nothing(tmp_path, name, sealed):
    whole = checkpoint(tmp_path, 10, sealed=sealed) / name
    content, expected = whole.read_bytes(), torch.load(whole)
    for at in range(0, len(content), 29):
        flipped(whole, at)
        sound = not checkpoints._damaged_files(whole.parent, [name])
        assert not (sound and sealed), at
        if sound:
            assert torch.load(whole)["state"].equal(expected["state"]), at
        whole.write_bytes(content)
    assert not checkpoints._damaged_files(whole.parent, [name])


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("config.json", "\n{}"),
        ("preprocessor_config.json", "]"),
        ("trainer_state.json", "\0"),
        ("config.json", "\udcff"),
    ],
)
def test_what_stands_behind_the_end_of_a_json_file_is_damage(tmp_path, name, ending):
    before, last = checkpoint(tmp_path, 10), checkpoint(tmp_path, 20, sealed=False)
    with (last / name).open("a", errors="surrogateescape") as file:
        file.write(ending)
    assert checkpoints.last_checkpoint(tmp_path) == before


@pytest.mark.parametrize(
    "state",
    [
        {"global_step": 21, "epoch": 2.0, "best_global_step": 20, "stateful_callbacks": {}},
        {"global_step": 20, "epoch": 2.0, "best_global_step": 20, "stateful_callbacks": {}, "log_hystory": []},
        {"global_step": 20, "epoch": 2.0, "stateful_callbacks": {}},
        [20, 2.0, 20],
    ],
    ids=["of another step", "a changed key", "a lacking key", "a list"],
)
def test_a_state_that_is_none_of_its_step_is_damage(tmp_path, capsys, state):
    before, last = checkpoint(tmp_path, 10), checkpoint(tmp_path, 20, sealed=False)
    (last / "trainer_state.json").write_text(json.dumps(state))
    assert checkpoints.last_checkpoint(tmp_path) == before
    assert "'checkpoint-20' is damaged (trainer_state.json)" in capsys.readouterr().out


def test_a_changed_figure_in_a_state_or_a_config_is_damage_where_digests_tell(tmp_path):
    before, last = checkpoint(tmp_path, 10), checkpoint(tmp_path, 20)
    state = json.loads((last / "trainer_state.json").read_text())
    (last / "trainer_state.json").write_text(json.dumps(state | {"epoch": 3.0}))
    assert checkpoints.last_checkpoint(tmp_path) == before
    last = checkpoint(tmp_path, 20)
    (last / "config.json").write_text('{"hidden_size": 33}')
    assert checkpoints.last_checkpoint(tmp_path) == before


def test_a_folder_that_has_moved_keeps_its_checkpoints_whole(tmp_path):
    checkpoint(tmp_path / "here", 10)
    checkpoints.last_checkpoint(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    for _ in range(2):
        assert checkpoints.last_checkpoint(tmp_path / "there").name == "checkpoint-10"
    state = json.loads((tmp_path / "there/checkpoints/checkpoint-10/trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(tmp_path / "there/checkpoints/checkpoint-10")


def test_a_random_state_of_another_process_may_be_written_after_the_seal(tmp_path):
    last = checkpoint(tmp_path, 10)
    for rank in range(2):
        torch.save({"state": torch.ones(3)}, last / f"rng_state_{rank}.pth")
    checkpoints.seal(last)
    torch.save({"state": torch.zeros(5)}, last / "rng_state_1.pth")
    assert checkpoints.last_checkpoint(tmp_path) == last


@pytest.mark.parametrize("name", [b"r\xe9sultat", b"caf\xe9/run", b"\xff\xfe", b"ok/\xe4"])
def test_a_folder_whose_name_is_no_utf_8_is_refused_before_the_training(tmp_path, name):
    with pytest.raises(UsageError, match=r"--output_dir b'.*\\x.*' lies under a name that is no UTF-8"):
        run_folder.check_name(tmp_path / os.fsdecode(name))


@pytest.mark.parametrize("name", ["résultat", "läufe/1", "実行"])
def test_a_folder_with_accents_is_taken(tmp_path, name):
    run_folder.check_name(tmp_path / name)


MINE = {"num_train_epochs": 3, "seed": 0, "data": "images", "sides": "sides"}


@pytest.mark.integration
@pytest.mark.usefixtures("other")
def test_a_run_that_began_meanwhile_in_the_same_new_folder_keeps_its_settings(tmp_path):
    files.write_json(tmp_path / "run.json", MINE | {"num_train_epochs": 5})
    with pytest.raises(UsageError, match="in use by process"), run_folder.Alone(tmp_path) as alone:
        run_folder.claim(tmp_path, MINE, needed_bytes=0, hold=alone.hold)
    assert json.loads((tmp_path / "run.json").read_text())["num_train_epochs"] == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_train_epochs": 5}, "holds another run .--num_train_epochs 5 there, 3 here"),
        ({"data": "others"}, "the images have changed"),
        ({"sides": "others"}, "in another order or in other splits"),
    ],
)
def test_a_run_that_began_and_ended_meanwhile_is_not_written_over(tmp_path, change, said):
    files.write_json(tmp_path / "run.json", MINE | change)
    with pytest.raises(UsageError, match=said):
        run_folder.claim(tmp_path, MINE, needed_bytes=0)
    assert json.loads((tmp_path / "run.json").read_text()) == MINE | change


def test_a_new_folder_is_made_and_taken_before_anything_is_written(tmp_path):
    with run_folder.Alone(tmp_path / "run") as alone:
        run_folder.claim(tmp_path / "run", MINE, needed_bytes=0, hold=alone.hold)
        assert locks.holder(tmp_path / "run" / LOCK).pid == os.getpid()
    assert json.loads((tmp_path / "run/run.json").read_text()) == MINE
