import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from hub_server import Fault
from pictures import class_folders
from safetensors.torch import load_file
from test_train import arguments, command, train, without_speed
from transformers import TrainerState

import train_hf
from dermalert import mirror, runs, training
from dermalert.errors import RunError, UsageError

REPO, NAME = "tester/derm", "run-a"
TO = ("--checkpoints_to", f"{REPO}@{NAME}")
FROM = ("--resume_from", f"{REPO}@{NAME}")
SHORT = ("--epochs", "4", "--batch_size", "64")


def on_the_branch(hub) -> tuple[int, dict[str, bytes]]:
    """The last step that the branch holds, and all its files."""
    files = hub.files(REPO, NAME)
    steps = [int(name.split("-")[1].split("/")[0]) for name in files if name.endswith("trainer_state.json")]
    return max(steps, default=0), files


def killed_once_pushed(hub, words: list[str], folder: Path) -> None:
    """Start the training, and kill -9 it once a checkpoint is on the branch."""
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train_hf.py"), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder.parent,
    )
    deadline = time.monotonic() + 240
    while not any("/commit/" in request.path for request in list(hub.requests)):
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "release").exists()


@pytest.mark.parametrize("base", ["vit", pytest.param("efficientnet-lite0", marks=pytest.mark.long)])
def test_a_run_killed_on_one_machine_ends_on_another_as_if_it_had_not_been_killed(
    base, hub, pictures, tiny_vit, tmp_path
):
    model = tiny_vit if base == "vit" else base
    more = ("--epochs", "4", "--image_size", "32")
    train(pictures, model, tmp_path / "whole", *more)
    (tmp_path / "a").mkdir()
    killed_once_pushed(hub, arguments(pictures, model, tmp_path / "a" / "run", *more, *TO), tmp_path / "a" / "run")
    step, _ = on_the_branch(hub)
    assert 0 < step < 40
    shutil.rmtree(tmp_path / "a")
    shutil.copytree(pictures, tmp_path / "b" / "elsewhere")
    words = arguments("elsewhere", model, "other", *more, *FROM, *TO)
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "train_hf.py"), *words],
        cwd=tmp_path / "b",
        env=os.environ | {"HF_HOME": str(tmp_path / "b" / "hf")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"Going on from 'other/checkpoints/checkpoint-{step}'" in done.stdout
    assert without_speed(tmp_path / "b" / "other") == without_speed(tmp_path / "whole")
    whole, resumed = (load_file(tmp_path / name / "release/model.safetensors") for name in ("whole", "b/other"))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert on_the_branch(hub)[0] == 40
    assert "hf_write" not in done.stdout + done.stderr
    assert not [path for path in (tmp_path / "b").rglob("*") if path.is_file() and b"hf_write" in path.read_bytes()]
    assert sorted(path.name for path in (tmp_path / "b" / "other").iterdir()) == ["release", "run.json"]
