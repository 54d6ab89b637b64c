"""One run in two processes, as `accelerate launch` starts them, ends as in one: one release, the same counts."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.paths import REPOSITORY
from support.pictures import class_folders
from support.training import quick

from dermalert.config import Config, of_the_result
from dermalert.data import loading, splits
from dermalert.errors import UsageError
from dermalert.training import distributed, run_folder
from dermalert.training.flags import parse
from dermalert.training.sampling import WeightedSampler, sampling_weights
from train_hf import main

pytestmark = pytest.mark.integration

# The script, and beside it what it drew, what was measured and its own number, for the test to read.
SPY = """
import json, os, sys, time
sys.path[:0] = [{repository!r}, {repository!r} + "/space", {repository!r} + "/tests"]
import train_hf
from support.training import quick
from dermalert.training import image_dataset, recipe_trainer
from dermalert.errors import run_command
from dermalert.training.flags import parse

def note(**told):
    with open({notes!r} + os.environ["RANK"], "a") as file:
        file.write(json.dumps(told) + "\\n")

note(pid=os.getpid())
measure, items = recipe_trainer.measure, image_dataset.ImageDataset.__getitems__

def spied_measure(prior):
    figures = measure(prior)
    def noted(output):
        found = figures(output)
        note(measured=len(output.label_ids))
        return found
    return noted

def spied_items(self, rows):
    if self._augmented != "none":
        note(drawn=list(map(int, rows)))
        time.sleep({slow})
    return items(self, rows)

def spied_evaluate(self, *arguments, **settings):
    found = evaluate(self, *arguments, **settings)
    note(evaluated=sum(tensor.double().abs().sum().item() for tensor in self.model.state_dict().values()))
    return found

evaluate, recipe_trainer.RecipeTrainer.evaluate = recipe_trainer.RecipeTrainer.evaluate, spied_evaluate
recipe_trainer.measure, image_dataset.ImageDataset.__getitems__ = spied_measure, spied_items
with quick():
    sys.exit(run_command(lambda: train_hf.main(parse())))
"""


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class Launch:
    """A run in several processes, each of which keeps notes."""

    def __init__(self, tmp_path: Path, *words, slow: float = 0.0, machine: tuple[int, int] | None = None):
        self._notes = str(tmp_path / "notes-")
        (tmp_path / "spy.py").write_text(SPY.format(repository=str(REPOSITORY), notes=self._notes, slow=slow))
        where = ["--num_processes", "2", "--main_process_port", str(machine[1] if machine else free_port())]
        if machine:
            where += ["--num_machines", "2", "--machine_rank", str(machine[0]), "--main_process_ip", "127.0.0.1"]
        line = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", *where]
        line += [str(tmp_path / "spy.py"), *map(str, words)]
        self.log = tmp_path / f"log-{machine[0] if machine else 0}"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(line, cwd=REPOSITORY, stdout=log, stderr=log, env=os.environ)

    def notes(self, rank: int) -> list[dict]:
        path = Path(f"{self._notes}{rank}")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def drawn(self, rank: int) -> list[list[int]]:
        return [told["drawn"] for told in self.notes(rank) if "drawn" in told]

    def wait(self) -> tuple[int, str]:
        return self.process.wait(timeout=300), self.log.read_text()


def words(pictures, base, folder, *more) -> list:
    plain = [
        "--dataset_name",
        pictures,
        "--model_name_or_path",
        base,
        "--output_dir",
        folder,
        "--augmentation",
        "plain",
        "--onnx",
        "none",
    ]
    return [*plain, "--num_train_epochs", "2", "--learning_rate", "3e-3", *more]


def figures(folder: Path) -> dict:
    return json.loads((folder / "release/evaluation/metrics.json").read_text())


def train_side(pictures):
    return splits.split(loading.load([str(pictures)]).dataset)["train"]


def counts(told, path=""):
    """Every number of images or groups in the figures, by its place."""
    if not isinstance(told, dict):
        return {}
    found = {f"{path}/{k}": v for k, v in told.items() if k in ("n", "groups", "images") and isinstance(v, int)}
    return found | {place: n for k, v in told.items() for place, n in counts(v, f"{path}/{k}").items()}


def test_two_processes_share_each_step_and_leave_one_release(pictures, tiny_resnet, tmp_path, hub):
    with quick():
        alone = main(parse([str(word) for word in words(pictures, tiny_resnet, tmp_path / "alone")]))
    publish = ("--push_to_hub", "--hub_model_id", "tester/derm", "--tag", "v1.0.0", "--accept_regression", "tiny")
    half = ("--per_device_train_batch_size", "16")
    launch = Launch(tmp_path, *words(pictures, tiny_resnet, tmp_path / "two", *half, *publish))
    code, said = launch.wait()
    assert code == 0, said
    assert "Training in 2 processes." in said
    assert said.count("Held out: balanced accuracy") == 1

    train = train_side(pictures)
    sampler = WeightedSampler(sampling_weights(train["label"], train["source"], "classes-and-sources"), seed=0)
    steps = -(-len(train) // 32)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        expected = list(sampler)
        mine, others = (launch.drawn(rank)[epoch * steps : (epoch + 1) * steps] for rank in (0, 1))
        together = [row for pair in zip(mine, others, strict=True) for part in pair for row in part]
        assert together[: len(expected)] == expected
        assert len(together) - len(expected) < 32  # the last step is filled up

    sides = alone["data"]["sides"]
    for rank in (0, 1):
        measured = [told for told in launch.notes(rank) if "measured" in told]
        assert [told["measured"] for told in measured] == [sides["validation"]] * 4  # as many of train, two epochs
    # The same weights and running statistics in both, though each has seen other images in the last step.
    mine, others = ([told["evaluated"] for told in launch.notes(rank) if "evaluated" in told] for rank in (0, 1))
    assert mine == others
    assert len(set(mine)) == 2

    two = figures(tmp_path / "two")
    assert (two["training"]["processes"], alone["training"]["processes"]) == (2, 1)
    assert "in 2 processes" in (tmp_path / "two/release/README.md").read_text()
    assert counts(two["splits"]) == counts(alone["splits"])
    here, there = (told["splits"]["held_out"]["accuracy"] for told in (two, alone))
    assert there["low"] <= here["value"] <= there["high"]
    files = ({p.name for p in (tmp_path / each / "release").rglob("*")} for each in ("alone", "two"))
    assert len({frozenset(names) for names in files}) == 1
    assert set(hub.tags("tester/derm")) == {"v1.0.0"}
    assert hub.branches("tester/derm") == {"main": hub.tags("tester/derm")["v1.0.0"]}


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_run_which_then_goes_on(pictures, tiny_vit, tmp_path, victim):
    folder = tmp_path / "run"
    launch = Launch(tmp_path, *words(pictures, tiny_vit, folder, "--num_train_epochs", "3"), slow=0.3)
    while not list(folder.glob("checkpoints/checkpoint-*/trainer_state.json")):
        assert launch.process.poll() is None, launch.log.read_text()
        time.sleep(0.05)
    time.sleep(1)
    os.kill(launch.notes(victim)[0]["pid"], signal.SIGKILL)
    code, said = launch.wait()
    assert code != 0
    assert "dermalert: the run was stopped, or one of its processes has ended: the same command goes on" in said
    assert not (folder / "release").exists()
    assert not list(folder.rglob("*.partial"))
    again = Launch(tmp_path, *words(pictures, tiny_vit, folder, "--num_train_epochs", "3"))
    code, said = again.wait()
    assert code == 0, said
    assert said.count("Going on from") == 1
    assert figures(folder)["training"]["epochs"] == 3


@pytest.mark.long
def test_two_machines_are_two_processes(pictures, tiny_vit, tmp_path):
    port = free_port()
    both = [Launch(tmp_path, *words(pictures, tiny_vit, tmp_path / "run"), machine=(i, port)) for i in (1, 0)]
    for launch in both:
        code, said = launch.wait()
        assert code == 0, said
    assert "Held out: balanced accuracy" in both[1].log.read_text()
    assert "Held out" not in both[0].log.read_text()
    assert figures(tmp_path / "run")["training"]["epochs"] == 2


@pytest.mark.long
def test_folds_in_two_processes_answer_every_image_once(tiny_vit, tmp_path):
    pictures = class_folders(tmp_path / "pictures", images=60)  # of fewer a fold has classes without validation
    launch = Launch(tmp_path, *words(pictures, tiny_vit, tmp_path / "run", "--folds", "2", "--num_train_epochs", "1"))
    code, said = launch.wait()
    assert code == 0, said
    told = figures(tmp_path / "run")
    four = sum(told["data"]["sides"][name] for name in ("train", "validation", "calibration", "held_out"))
    assert told["splits"]["out_of_fold"]["n"] == four


@pytest.mark.long
def test_what_is_wrong_is_said_once(tmp_path):
    code, said = Launch(tmp_path, "--dataset_name", tmp_path / "nowhere", "--output_dir", tmp_path / "run").wait()
    assert code != 0
    assert said.count("dermalert: ") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_in_other_processes_if_all_of_them_take_as_many_images_a_step():
    two, one = (Config(dataset_name=["demo"], per_device_train_batch_size=n) for n in (16, 32))
    in_two = of_the_result(two, processes=2, mixed_precision=None)
    assert in_two == of_the_result(one, processes=1, mixed_precision=None)
    assert in_two != of_the_result(one, processes=2, mixed_precision=None)


def test_in_one_process_what_is_decided_is_what_was_found():
    assert distributed.is_main()
    assert distributed.broadcast_from_main(lambda: 7) == 7
    assert distributed.run_on_main(lambda: np.arange(3)).tolist() == [0, 1, 2]


def test_processes_of_neighbouring_seeds_draw_different_numbers(monkeypatch):
    drawn = []
    for seed in range(3):
        for rank in range(3):
            monkeypatch.setenv("RANK", str(rank))
            torch.manual_seed(seed)
            distributed.vary_chance()
            drawn.append(torch.rand(()).item())
    assert len(set(drawn)) == 9


@pytest.mark.parametrize("changed", ["data", "sides"])
def test_a_machine_with_other_images_than_the_main_one_is_refused(tmp_path, changed):
    whose = {"data": "1", "sides": "2"}
    run_folder.claim(tmp_path, whose, needed_bytes=0)
    run_folder.check_shared(tmp_path, whose)
    with pytest.raises(UsageError, match="give all machines the same data sets"):
        run_folder.check_shared(tmp_path, whose | {changed: "other"})


@pytest.mark.parametrize("local, said", [("0", UsageError), ("1", SystemExit)])
def test_the_first_process_of_another_machine_says_what_is_wrong_there(monkeypatch, local, said):
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "2"), ("LOCAL_RANK", local)):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "PartialState", lambda **_: None)
    before = signal.getsignal(signal.SIGTERM), logging.root.manager.disable
    try:
        with pytest.raises(said), distributed.connected():
            raise UsageError("'data' is not there.")
    finally:
        signal.signal(signal.SIGTERM, before[0])
        logging.disable(before[1])
