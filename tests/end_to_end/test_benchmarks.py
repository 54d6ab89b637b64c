"""The benchmarks of the recipe as commands, on two clinics of generated pictures."""

import functools
import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from scipy import special
from support.paths import REPOSITORY
from support.pictures import class_folders, softened, textures
from support.releases import make_image, make_release
from support.training import quick

from dermalert.data import contamination, loading
from dermalert.errors import run_command
from dermalert.imaging import augmentation, sharpness, synthetic_lesions
from dermalert.taxonomy import DIAGNOSES

sys.path.insert(0, str(REPOSITORY / "benchmarks" / "data"))
sys.path.insert(0, str(REPOSITORY / "benchmarks" / "training"))
sys.path.insert(0, str(REPOSITORY / "benchmarks" / "evaluation"))
import copies
import growth
import recipe
import sources as left_out_sources

from benchmarks.evaluation import clinic
from benchmarks.training import unseen_clinics

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def clinics(tmp_path_factory) -> list[Path]:
    """Two folders, each a source of its own."""
    root = tmp_path_factory.mktemp("clinics")
    for i, name in enumerate(("here", "there")):
        for path in list(class_folders(root / name, images=60, first_seed=10_000 * i).rglob("*.png")):
            path.rename(path.with_name(path.name.replace("ISIC", name)))  # a number of the archive would be its source
    return [root / "here", root / "there"]


def command(name: str, *words) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / name), *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )


def settings(clinics, folder, **named) -> Namespace:
    """What the command line of a benchmark gives its `main`."""
    common = {"dataset_name": [str(clinic) for clinic in clinics], "output_dir": str(folder), "image_size": None}
    return Namespace(**common | {"num_train_epochs": 1, "seed": 0} | named)


@pytest.fixture
def leave_out(clinics, tiny_vit, tmp_path):
    """Run the benchmark of sources left out, and return its exit code."""
    base = {"model_name_or_path": str(tiny_vit), "leave_out": ["here"]}

    def run(**named) -> int:
        with quick():
            return run_command(lambda: left_out_sources.main(settings(clinics, tmp_path, **base | named)))

    return run


@pytest.mark.long
def test_a_source_left_out_is_neither_learnt_from_nor_asked_where_the_recipe_was_chosen(
    leave_out, clinics, tmp_path, monkeypatch, capsys
):
    assert leave_out() == 0
    told = capsys.readouterr().out
    figures = json.loads((tmp_path / "here" / "figures.json").read_text())
    sides = recipe.load([str(clinic) for clinic in clinics])
    count = {side: rows["source"][:].count("here") for side, rows in sides.items()}
    assert figures["splits"]["left_out"]["n"] == count["train"] + count["calibration"] + count["held_out"]
    assert figures["splits"]["held_out"]["n"] == len(sides["held_out"]) - count["held_out"]
    assert sum(figures["learnt_from"].values()) == len(sides["train"]) - count["train"]
    assert "| here | " in told
    # Nothing is trained again, and a run of other settings is not taken for this one.
    monkeypatch.setattr(left_out_sources.train_hf, "learn", lambda *_: 1 / 0)
    assert leave_out() == 0
    assert capsys.readouterr().out.splitlines()[-1] == told.splitlines()[-1]
    assert leave_out(num_train_epochs=2) == 2
    assert "--num_train_epochs 1 there, 2 here" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("left_out", ["here", "there"])
def test_what_is_given_to_learn_from_holds_nothing_of_the_source_left_out(clinics, tmp_path, monkeypatch, left_out):
    given = []

    def instead(_config, _folder, sides, _data):
        given.append(sides)
        raise KeyboardInterrupt

    monkeypatch.setattr(left_out_sources.train_hf, "learn", instead)
    sides = recipe.load([str(clinic) for clinic in clinics])
    with pytest.raises(KeyboardInterrupt):
        left_out_sources.leave_out(left_out, left_out_sources.Config(dataset_name=["here"]), sides, tmp_path)
    for name in ("train", "validation", "calibration", "held_out"):
        assert set(given[0][name]["source"]) == {"here", "there"} - {left_out}


def test_a_lesion_that_two_sources_hold_is_not_asked_about(clinics, tmp_path, monkeypatch):
    sides = recipe.load([str(clinic) for clinic in clinics])
    train = sides["train"]
    here, there = (train["source"][:].index(name) for name in ("here", "there"))
    groups = train["group"][:]
    groups[here] = groups[there]
    sides |= {"train": train.remove_columns("group").add_column("group", groups)}
    model = SimpleNamespace(model=SimpleNamespace(eval=lambda: None), processor=None)
    monkeypatch.setattr(left_out_sources.train_hf, "learn", lambda *_: model)
    monkeypatch.setattr(left_out_sources, "Release", lambda *_, **__: None)
    asked = []

    def instead(_judge, reported):
        asked.append(reported["left_out"])
        raise KeyboardInterrupt

    monkeypatch.setattr(left_out_sources.evaluate, "evaluate", instead)
    with pytest.raises(KeyboardInterrupt):
        left_out_sources.leave_out("here", left_out_sources.Config(dataset_name=["here"]), sides, tmp_path)
    assert set(asked[0]["source"]) == {"here"}
    assert train["image_id"][here] not in asked[0]["image_id"][:]
    rows = sum(sides[name]["source"][:].count("here") for name in ("train", "calibration", "held_out"))
    assert len(asked[0]) == rows - 1


def test_a_base_model_that_has_learnt_from_lesions_is_refused(leave_out, tmp_path, capsys):
    release = make_release(tmp_path / "release", generated=False)
    (release / "evaluation").mkdir()
    contamination.write({contamination.hash_name("a lesion"): "train"}, release)
    assert leave_out(model_name_or_path=str(release)) == 2
    assert "has learnt from lesions already" in capsys.readouterr().err


def test_a_source_that_is_not_there_is_refused(leave_out, capsys):
    assert leave_out(leave_out=["nowhere"]) == 2
    assert "'nowhere' is none of the sources: here, there." in capsys.readouterr().err


@pytest.mark.long
def test_rows_are_trained_compared_and_kept(clinics, tmp_path):
    rows = settings(clinics[:1], tmp_path, image_size=32, seeds=1, rows=[0, 5])
    with quick():
        recipe.main(rows)
    table = json.loads((tmp_path / "table.json").read_text())
    assert list(table["rows"]) == ["the defaults", "frozen batch norms"]
    assert {path.name for path in tmp_path.iterdir()} == {"row0-seed0.npz", "row5-seed0.npz", "table.json"}
    rows.num_train_epochs = 2
    with pytest.raises(recipe.UsageError, match="was made with other settings or of other images"):
        recipe.main(rows)


@pytest.mark.long
def test_a_difference_is_that_of_the_same_images_and_seeds(monkeypatch):
    few = functools.partial(synthetic_lesions.demo_set, lesions_per_class=30)
    monkeypatch.setattr(synthetic_lesions, "demo_set", few)
    validation = loading.load(["demo"]).dataset.select(range(300))
    rng, truth = np.random.default_rng(0), np.array(validation["label"])

    def answers(signal: float) -> dict:
        p = rng.dirichlet(np.ones(9), len(truth)) + signal * np.eye(9)[truth]
        p /= p.sum(1, keepdims=True)
        return {"plain": p, "seconds": 1.0} | dict.fromkeys(recipe.ALTERED, p)

    found = {(0, 0): answers(0.1), (0, 1): answers(0.1), (4, 1): answers(1.0)}
    rows = recipe.compare(found, validation)["rows"]
    better = rows["without averaged weights"]
    assert better["seeds"] == [1]
    assert better["balanced accuracy"]["difference"]["low"] > 0
    alone = recipe.compare({(0, 1): found[0, 1]}, validation)["rows"]["the defaults"]["balanced accuracy"]["value"]
    difference = better["balanced accuracy"]["value"] - alone
    assert better["balanced accuracy"]["difference"]["value"] == pytest.approx(difference)
    assert set(truth) == set(range(len(DIAGNOSES)))
    with pytest.raises(recipe.UsageError, match="the first row is missing"):
        recipe.compare({(4, 1): found[4, 1]}, validation)


def test_recipes_are_compared_on_the_images_of_each_source_left_out():
    rng, labels = np.random.default_rng(0), np.arange(180) % 9
    rows = {"label": labels, "group": [str(i) for i in range(180)], "source": ["here"] * 180}
    images = Dataset.from_dict(rows)
    folds = {name: unseen_clinics.Fold(images, images, images) for name in ("here", "there")}

    def predictions(signal: float) -> unseen_clinics.Predictions:
        p = rng.dirichlet(np.ones(9), 180) + signal * np.eye(9)[labels]
        p /= p.sum(1, keepdims=True)
        return unseen_clinics.Predictions(left_out=p, views=p, validation=p, seconds=1.0)

    signals = {"the defaults": 0.1, "plain augmentation": 1.0}
    results = {(row, s, name): predictions(signals[row]) for row in signals for s in (0, 1) for name in folds}
    rows = unseen_clinics.compare(results, folds)["rows"]
    assert rows["plain augmentation"]["melanoma AUROC, mean"]["difference"]["low"] > 0
    assert rows["plain augmentation"]["validation"] > rows["the defaults"]["validation"]
    same = rows["the defaults, four mirrored views"]["melanoma AUROC, mean"]
    assert same["value"] == pytest.approx(rows["the defaults"]["melanoma AUROC, mean"]["value"])
    assert rows["the defaults, 2 seeds averaged"]["malignant or precursor AUROC, mean"]["difference"]["value"] > 0


def test_a_source_counts_for_so_many_images_at_most():
    images = Dataset.from_dict({"source": ["here"] * 30 + ["there"] * 5, "row": range(35)})
    capped = unseen_clinics.capped(images, 10)
    assert capped["source"][:].count("here") == 10 and capped["source"][:].count("there") == 5
    assert capped["row"][:] == sorted(capped["row"])


def test_copies_are_compared_within_one_source_and_diagnosis_alone():
    names = {"source": [], "label": [], "named": []}
    for source, label, named, count in [
        ("here", 3, "one", 50),
        ("here", 3, "two", 60),
        ("here", 4, "one", 90),
        ("there", 3, "two", 90),
        ("there", 3, "one", 39),
    ]:
        for name, value in zip(names, (source, label, named), strict=True):
            names[name] += [value] * count
    found = copies.pairs(Dataset.from_dict(names), most=45)
    assert set(found) == {("here", 3, ("one", "two"))}
    (rows,) = found.values()
    assert [len(part) for part in rows] == [45, 45]
    assert {names["named"][i] for i in rows[1]} == {"two"}


def test_copies_are_told_apart_without_a_mistake_as_they_are_and_with_mistakes_once_their_sharpness_is_chance():
    pixels = torch.cat([textures(80), softened(textures(80, seed=1))])
    which = np.repeat([0, 1], 80)
    torch.manual_seed(0)
    assert copies.separability(copies.VIEWS["as they are"], pixels, which) == 1
    # All of these have one spectrum, so that less than of real pictures is left to chance.
    assert copies.separability(sharpness.randomize_sharpness, pixels, which) < 0.95


def test_what_leaves_chance_sharpness_out_puts_it_back(monkeypatch):
    asked, levelled = [], sharpness.randomize_sharpness
    monkeypatch.setattr(augmentation, "augment", lambda pixels: asked.append(sharpness.randomize_sharpness) or pixels)
    copies.VIEWS["robust, without chance sharpness"](torch.zeros(1, 3, 8, 8))
    assert asked[0] is not levelled
    assert sharpness.randomize_sharpness is levelled


@pytest.mark.long
@pytest.mark.parametrize(("step", "most"), [("load", 1.3), ("epoch", 1.3)])
def test_a_hundred_times_the_images_take_hardly_more_memory(step, most):
    done = command("data/growth.py", "--images", 1000, 100_000, "--steps", step)
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()[-2:]
    few, many = (float(row.split("|")[-3]) for row in rows)
    assert many / few < most


@pytest.mark.long
@pytest.mark.parametrize("steps", [("load",), pytest.param(growth.STEPS, marks=pytest.mark.long)])
def test_growth_tells_seconds_and_memory_of_each_step(steps, capfd, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    growth.main(Namespace(images=[300], steps=steps, repeats=1))
    rows = [line.split(" | ") for line in capfd.readouterr().out.splitlines() if line.startswith("| 300 |")]
    assert tuple(row[1] for row in rows) == steps
    assert all(float(cell.rstrip(" |")) > 0 for row in rows for cell in row[2:])


@pytest.mark.long
def test_an_archive_is_timed_only_where_all_numbers_of_processes_answer_alike(tmp_path):
    for number, shade in enumerate((90, 120, 150, 180)):
        Image.new("RGB", (64, 48), (shade, 90, 80)).save(tmp_path / f"{number}.jpg")
    release = make_release(tmp_path / "release", generated=False)
    words = ("--model", release, "--dataset_name", tmp_path, "--images", 4, "--shards", 2, "--turns", 1, "--workers", 1)
    done = command("serving/archive.py", *words)
    assert done.returncode == 0, done.stderr
    assert "| 1 process | " in done.stdout


@pytest.mark.long
def test_serving_is_measured_with_onnx_runtime_and_without_and_the_answers_are_the_same(tmp_path):
    for number in range(6):
        make_image((64, 48), seed=number).save(tmp_path / f"{number}.jpg")
    release = make_release(tmp_path / "release", generated=False)
    words = ("--model", release, "--dataset_name", tmp_path, "--images", 6, "--singles", 2, "--turns", 2, "--starts", 1)
    done = command("serving/serving.py", *words)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if "predict" in line and line.count(" | ") == 5]
    assert len(rows) == 4 and all(float(row[-1].rstrip(" |")) < 1e-5 for row in rows)


def played_clinic(n, *, shift):
    """Lesions whose melanomas are more common by so much in log-odds than a release says."""
    rng = np.random.default_rng(0)
    score = rng.normal(-2, 1.5, n)
    logits = np.zeros((n, 9))
    logits[:, DIAGNOSES.index("melanoma")] = score + np.log(8)
    positive = rng.random(n) < special.expit(score + shift)
    return clinic.Clinic("played", special.softmax(logits, axis=1), positive, np.zeros(n, bool), 0.05)


def test_a_played_clinic_gains_by_an_intercept_where_its_mix_is_another_and_only_there():
    other, same = (clinic.play(played_clinic(800, shift=shift), 3)[200] for shift in (1.5, 0.0))
    for fewest, condition in clinic.rules():
        assert (clinic.gain_of_rule(other, 200, fewest, condition) >= 0).all()
    assert clinic.gain_of_rule(other, 200, 5, "if shown").mean() > 0.01
    assert (clinic.gain_of_rule(same, 200, 5, "if shown") == 0).all()
    (first, *_) = other
    assert first.figures["defaults"][2] < first.figures["kept"][2], "observed over expected is nearer to 1"
