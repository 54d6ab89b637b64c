"""What the recipe draws, averages and rounds; that a killed run ends as if it had not been is in test_train."""

import copy
import types

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from dermalert.errors import RunError
from dermalert.taxonomy import DIAGNOSES
from dermalert.training import recipe_trainer
from dermalert.training.recipe_trainer import WeightAverage
from dermalert.training.sampling import Draws, WeightedSampler, class_frequencies, sampling_weights

NEVUS, MELANOMA = DIAGNOSES.index("nevus"), DIAGNOSES.index("melanoma")
LABELS = [NEVUS] * 900 + [MELANOMA] * 100
SOURCES = ["new"] * 800 + ["old"] * 100 + ["new"] * 20 + ["old"] * 80


def drawn(how):
    weights = sampling_weights(LABELS, SOURCES, how)
    assert weights.sum() == pytest.approx(1)
    labels, sources = np.array(LABELS), np.array(SOURCES)
    return {(d, s): weights[(labels == d) & (sources == s)].sum() for d in (NEVUS, MELANOMA) for s in ("new", "old")}


def test_natural_sampling_draws_all_alike():
    assert np.ptp(sampling_weights(LABELS, SOURCES, "natural")) == 0


def test_rare_diagnoses_are_drawn_by_the_square_root_of_their_count():
    found = drawn("classes")
    assert found[NEVUS, "new"] + found[NEVUS, "old"] == pytest.approx(0.75)  # 30 to 10
    assert found[MELANOMA, "old"] == pytest.approx(0.25 * 0.8)


def test_within_a_diagnosis_the_sources_are_drawn_alike_and_the_diagnoses_stay():
    found = drawn("classes-and-sources")
    assert found[NEVUS, "new"] == pytest.approx(found[NEVUS, "old"])
    assert found[MELANOMA, "new"] == pytest.approx(found[MELANOMA, "old"])
    assert found[NEVUS, "new"] + found[NEVUS, "old"] == pytest.approx(0.75)


def test_a_stray_image_of_another_source_is_not_drawn_all_the_time():
    weights = sampling_weights([MELANOMA] * 100, ["new"] * 99 + ["old"], "classes-and-sources")
    assert weights[-1] == pytest.approx(0.08 / (0.08 + 0.5))  # eight parts to the others' half


def test_unknown_sources_are_one_source():
    weights = sampling_weights([MELANOMA] * 4, ["new", None, None, None], "classes-and-sources")
    assert weights[0] == pytest.approx(weights[1:].sum())


def test_shares_are_those_of_the_draws_and_a_missing_diagnosis_counts_as_one_image():
    found = class_frequencies(LABELS, sampling_weights(LABELS, SOURCES, "classes"))
    assert found[NEVUS] / found[MELANOMA] == pytest.approx(3)
    assert found[0] == pytest.approx(1 / 1007)
    assert class_frequencies(LABELS)[NEVUS] == pytest.approx(900 / 1007)


def test_each_image_is_drawn_as_often_as_its_weight_asks():
    weights = sampling_weights(LABELS, SOURCES, "classes-and-sources")
    counts = np.bincount(list(WeightedSampler(weights, seed=0)), minlength=len(weights))
    assert counts.sum() == len(weights)
    assert np.abs(counts - weights * len(weights)).max() <= 1


def test_natural_draws_are_a_permutation():
    assert sorted(WeightedSampler(np.full(50, 1 / 50), seed=0)) == list(range(50))


def test_draws_depend_on_the_seed_and_the_epoch_alone():
    def draws(seed, epoch):
        sampler = WeightedSampler(np.full(50, 1 / 50), seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert draws(0, 3) == draws(0, 3)
    assert draws(0, 3) != draws(0, 4)
    assert draws(0, 3) != draws(1, 3)


class Line(nn.Module):
    """y = w x, with a running mean beside it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, x, labels):
        """Return the squared error."""
        self.seen += 1
        return {"loss": ((self.weight * x - labels) ** 2).mean()}


def test_the_average_follows_the_weights_and_changes_places_with_them():
    model, average = Line(), WeightAverage(0.9)
    state, control = TrainerState(), TrainerControl()
    arguments = TrainingArguments(output_dir="unused", report_to="none")
    average.on_train_begin(arguments, state, control, model=model)
    expected = 0.0
    for step in range(1, 200):
        with torch.no_grad():
            model.weight.fill_(step)
        state.global_step = step
        average.on_step_end(arguments, state, control, model=model)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert model.weight.item() == 199
    average.on_epoch_end(arguments, state, control, model=model)
    assert model.weight.item() == pytest.approx(expected, rel=1e-5)
    average.on_epoch_end(arguments, state, control, model=model)  # as at the end of the training
    assert model.weight.item() == pytest.approx(expected, rel=1e-5)
    average.on_epoch_begin(arguments, state, control, model=model)
    assert model.weight.item() == 199


@pytest.mark.integration
def test_the_trainer_evaluates_and_saves_the_average_and_keeps_the_weights_beside_it(tmp_path):
    data = [{"x": torch.tensor([1.0]), "labels": torch.tensor([1.0])}] * 16
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=2,
        per_device_train_batch_size=4,
        learning_rate=0.1,
        save_strategy="epoch",
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
    )
    model = Line()
    trainer = recipe_trainer.RecipeTrainer(
        model=model,
        args=arguments,
        train_dataset=data,
        draws=Draws([0] * 16, [None] * 16, "natural", False),
        average=0.9,
    )
    trainer.train()
    saved, latest = (load_file(tmp_path / "checkpoint-8" / name) for name in ("model.safetensors", WeightAverage.FILE))
    assert saved["weight"] == model.weight.cpu()
    assert saved["weight"] < latest["weight"]  # the weights grow towards 1, and the average lags behind


@pytest.mark.integration
def test_the_trainer_draws_by_the_weights(tmp_path):
    fetched = []

    class Listened(list):
        def __getitem__(self, i):
            fetched.append(i)
            return super().__getitem__(i)

    data = Listened([{"x": torch.tensor([1.0]), "labels": torch.tensor([1.0])}] * 16)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), dataloader_pin_memory=False, report_to="none", disable_tqdm=True, save_strategy="no"
    )
    weights = np.r_[np.zeros(8), np.full(8, 1 / 8)]
    trainer = recipe_trainer.RecipeTrainer(
        model=Line(), args=arguments, train_dataset=data, draws=types.SimpleNamespace(weights=weights), average=0.0
    )
    trainer.train()
    assert len(fetched) >= 16
    assert min(fetched) >= 8


def test_rounding_to_half_precision_changes_little_and_keeps_the_type():
    torch.manual_seed(0)
    model = nn.Linear(8, 8)
    before = model.weight.detach().clone()
    recipe_trainer.round_to_half(model)
    assert model.weight.dtype == torch.float32
    assert torch.equal(model.weight.half().float(), model.weight)
    assert (model.weight - before).abs().max() < 1e-3


def test_a_weight_too_large_for_half_precision_is_told():
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight[0, 0] = 1e6
    with pytest.raises(RunError, match=r"'weight' does not fit half precision: leave out --store_dtype float16"):
        recipe_trainer.round_to_half(model)


def test_in_bfloat16_depthwise_convolutions_compute_in_single_precision_and_learn_as_before():
    layers = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=4))
    before = {name: tensor.clone() for name, tensor in layers.state_dict().items()}
    recipe_trainer.keep_depthwise_single(layers)
    layers = copy.deepcopy(layers)
    images = torch.ones(1, 4, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = layers[0](images)
        second = layers[1](first)
    second.sum().backward()
    assert (first.dtype, second.dtype) == (torch.bfloat16, torch.float32)
    assert all(parameter.grad.dtype == torch.float32 for parameter in layers.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in layers.state_dict().items())
