"""A search by whole trainings: on validation alone, recorded, never half used, and as if it had not been stopped."""

import dataclasses
import importlib.util
import json
import math
from types import SimpleNamespace

import optuna
import pytest
from support.training import command, train

import train_hf
from dermalert.config import Config
from dermalert.errors import RunError, UsageError
from dermalert.training import distributed, tuning
from dermalert.training.tuning import Trial, Tuning

CONFIG = Config(dataset_name=["demo"], tune=2)
TUNE = ("--tune", "2", "--num_train_epochs", "2", "--learning_rate", "3e-3", "--augmentation", "none")


def settings(rate: float) -> dict[str, float]:
    return {"learning_rate": rate, "weight_decay": 0.01, "warmup_steps": 0.05}


def test_the_lowest_loss_wins_and_one_that_is_no_number_never_does():
    trials = [Trial(settings=settings(1e-3), loss=None), *(Trial(settings=settings(r), loss=r) for r in (0.3, 0.2))]
    assert Tuning(ranges={}, trials=trials).best.settings == settings(0.2)
    with pytest.raises(RunError, match="each training of --tune diverged"):
        print(Tuning(ranges={}, trials=trials[:1]).best)


def test_what_the_flags_say_lies_in_what_is_searched():
    own = dataclasses.replace(CONFIG, weight_decay=0.4, warmup_steps=0.5, learning_rate=2e-5)
    for config in (CONFIG, own):
        for name, (low, high) in tuning.ranges(config).items():
            assert low <= getattr(config, name) <= high
    assert "warmup_steps" not in tuning.ranges(dataclasses.replace(CONFIG, warmup_steps=100))  # of steps


REFUSED = {
    "a negative number": ({"tune": -1}, "--tune -1 makes no sense"),
    "folds": ({"folds": 2}, "--tune chooses by images that --folds would report"),
    "a branch": ({"checkpoints_to": "a/b"}, "--tune cannot go on elsewhere"),
    "another run": ({"resume_from_checkpoint": "runs/old"}, "--tune cannot go on elsewhere"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_search_that_makes_no_sense_is_refused(case):
    change, sentence = REFUSED[case]
    tuning.check(CONFIG)
    with pytest.raises(UsageError, match=sentence):
        tuning.check(dataclasses.replace(CONFIG, **change))


def test_a_search_in_several_processes_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "count", lambda: 2)
    with pytest.raises(UsageError, match="--tune searches in one process"):
        tuning.check(CONFIG)


def test_without_optuna_the_flag_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"--tune needs optuna: pip install optuna\.$"):
        tuning.check(CONFIG)
    tuning.check(dataclasses.replace(CONFIG, tune=0))


@pytest.fixture(scope="module")
def searched(pictures, tiny_vit, tmp_path_factory) -> SimpleNamespace:
    """A run with a search, the same one stopped in its second training and gone on with, and what each was given."""
    folder, noted = tmp_path_factory.mktemp("tuning"), SimpleNamespace(splits=[], configs=[])
    make, attempt, fit = train_hf.make_trainer, tuning._try, train_hf.fit

    def making(config, place, model, processor, splits):
        noted.splits.append(set(splits))
        noted.configs.append(config)
        return make(config, place, model, processor, splits)

    def stopping(config, found, *rest):
        if found.trials:
            raise KeyboardInterrupt
        return attempt(config, found, *rest)

    def interrupted(*_):
        raise KeyboardInterrupt

    def fitting(*arguments):
        noted.history = (ended := fit(*arguments))[0].log_history
        return ended

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_hf, "make_trainer", making)
        patch.setattr(train_hf, "fit", fitting)
        noted.whole = train(pictures, tiny_vit, folder / "whole", *TUNE)
        noted.of_the_whole = list(zip(noted.splits, noted.configs, strict=True))
        with pytest.MonkeyPatch.context() as stop:
            stop.setattr(tuning, "_try", stopping)
            assert command(pictures, tiny_vit, folder / "stopped", *TUNE) == 130
        noted.half = json.loads((folder / "stopped/tuning/trials.json").read_text())
        noted.splits.clear()
        patch.setattr(train_hf, "fit", interrupted)
        assert command(pictures, tiny_vit, folder / "stopped", *TUNE) == 130
        noted.trials = json.loads((folder / "stopped/tuning/trials.json").read_text())["trials"]
    noted.folder = folder / "whole"
    return noted


@pytest.mark.integration
def test_the_search_is_given_training_and_validation_and_nothing_else(searched):
    *search, (last, _) = searched.of_the_whole
    assert [splits for splits, _ in search] == [{"train", "validation"}] * 2
    assert {"calibration", "held_out"} <= last


@pytest.mark.integration
def test_the_flags_are_tried_first_and_the_best_are_trained_with(searched):
    trials, ranges = (searched.whole["training"]["tuning"][key] for key in ("trials", "ranges"))
    assert trials[0]["settings"] == settings(3e-3)
    assert len({trial["settings"]["learning_rate"] for trial in trials}) == 2
    assert all(low <= trial["settings"][name] <= high for trial in trials for name, (low, high) in ranges.items())
    best = min(trials, key=lambda trial: trial["loss"])
    stated = searched.whole["training"]["settings"]
    assert stated["learning_rate"] == best["settings"]["learning_rate"] and "tune" not in stated
    _, last = searched.of_the_whole[-1]
    assert {name: getattr(last, name) for name in best["settings"]} == best["settings"]
    # The same training once more, with the seed of the best one.
    losses = [row.get("eval_validation_calibrated_loss", math.inf) for row in searched.history]
    assert min(losses) == best["loss"]


@pytest.mark.integration
def test_the_card_says_what_was_compared_and_by_what(searched):
    card = (searched.folder / "release/README.md").read_text()
    assert "The settings of the optimizer are the best of 2 trainings" in card
    assert card.count("| with suggested ones |") == 1
    for trial in searched.whole["training"]["tuning"]["trials"]:
        assert f"{trial['settings']['learning_rate']:.3g} |" in card and f"{trial['loss']:.3f} |" in card


@pytest.mark.integration
def test_a_search_that_was_stopped_goes_on_and_ends_as_if_it_had_not_been(searched):
    assert len(searched.half["trials"]) == 1
    assert len(searched.splits) == 2  # a training of the search, and that of the release, which is not begun
    assert searched.trials == searched.whole["training"]["tuning"]["trials"]


class Stub:
    """A trainer whose epochs end with these losses."""

    def __init__(self, *losses: float):
        self.losses = losses

    def hyperparameter_search(self, *, hp_space, compute_objective, n_trials, backend, **study):
        assert backend == "optuna"

        def train_once(trial):
            hp_space(trial)
            return [compute_objective({"eval_validation_calibrated_loss": loss}) for loss in self.losses][-1]

        optuna.create_study(**study).optimize(train_once, n_trials=n_trials)


def test_of_each_training_the_best_epoch_counts_and_one_that_diverges_has_none():
    search = Tuning(ranges=tuning.ranges(CONFIG), trials=[])
    for losses in ((math.nan, math.nan), (0.7, 0.5, math.nan, 0.6), (0.9,)):
        search.trials.append(tuning._try(CONFIG, search, Stub(*losses), None))
    assert [trial.loss for trial in search.trials] == [None, 0.5, 0.9]
    again = Tuning(ranges=search.ranges, trials=search.trials[:2])  # as it is read where a search was stopped
    assert tuning._try(CONFIG, again, Stub(0.9), None) == search.trials[2]
