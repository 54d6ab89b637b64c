import dataclasses
import functools
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.training import command, train, without_speed

import train_hf
from dermalert.config import Config
from dermalert.errors import UsageError
from dermalert.publishing import deliver
from dermalert.training import arguments, recipe_trainer
from dermalert.training.arguments import training_arguments
from dermalert.training.flags import parse

LONG = functools.partial(pytest.param, marks=pytest.mark.long)
PLAIN = ("--augmentation", "none", "--num_train_epochs", "2", "--learning_rate", "3e-3")


def config(*words: str) -> Config:
    return parse(["--dataset_name", "demo", *words])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "release/model.safetensors")


def test_what_the_trainer_is_given_is_what_the_flags_say(tmp_path):
    words = "--optim sgd --weight_decay 0.3 --max_grad_norm 0.5 --lr_scheduler_type linear --warmup_steps 7 --seed 3"
    given = training_arguments(config(*words.split(), "--bf16", "--logging_steps", "5"), tmp_path / "run")
    assert (given.optim, given.weight_decay, given.max_grad_norm) == ("sgd", 0.3, 0.5)
    assert (given.lr_scheduler_type, given.warmup_steps, given.seed, given.bf16) == ("linear", 7, 3, True)
    assert (given.logging_strategy, given.logging_steps) == ("steps", 5)
    assert (given.output_dir, given.run_name) == (str(tmp_path / "run/checkpoints"), "run")
    assert not given.push_to_hub  # the release is published, not the checkpoints of the Trainer


def test_the_recipe_is_the_default(tmp_path):
    given = training_arguments(config(), tmp_path)
    assert (given.num_train_epochs, given.per_device_train_batch_size, given.per_device_eval_batch_size) == (15, 32, 32)
    assert (given.learning_rate, given.lr_scheduler_type, given.warmup_steps) == (3e-4, "cosine", 0.05)
    assert (given.weight_decay, given.seed, given.save_total_limit, given.report_to) == (0.01, 0, 2, [])
    assert given.metric_for_best_model == "eval_validation_calibrated_loss"
    assert not given.greater_is_better
    assert {given.eval_strategy, given.save_strategy, given.logging_strategy} == {"epoch"}


@pytest.mark.parametrize(
    "words",
    ["--optim galore_adamw", "--lr_scheduler_type cosine_with_min_lr", "--tf32 true", "--lr_scheduler_kwargs {"],
)
def test_what_the_trainer_refuses_is_one_sentence_before_the_training(words):
    with pytest.raises(UsageError, match=r"the Trainer refuses these settings: .+"):
        arguments.check(config(*words.split()))


def test_each_checkpoint_goes_to_the_repository_of_the_release_if_that_is_its_strategy():
    words = ["--push_to_hub", "--hub_model_id", "user/derm", "--tag", "v1.0.0", "--hub_strategy", "checkpoint"]
    assert deliver.check(config(*words)).checkpoints_to == "user/derm"
    assert deliver.check(config(*words, "--checkpoints_to", "user/other@b")).checkpoints_to == "user/other@b"
    assert deliver.check(config(*words[:-2])).checkpoints_to is None


@pytest.mark.integration
@pytest.mark.parametrize("adjustment", ["--logit_adjustment", LONG("--no_logit_adjustment")])
def test_accumulated_gradients_are_those_of_one_large_step(adjustment, pictures, tiny_vit, tmp_path):
    words = (*PLAIN, adjustment, "--optim", "sgd", "--ema_decay", "0")
    train(pictures, tiny_vit, tmp_path / "one", *words, "--per_device_train_batch_size", "16")
    half = ("--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "2")
    train(pictures, tiny_vit, tmp_path / "two", *words, *half)
    one, two, before = weights(tmp_path / "one"), weights(tmp_path / "two"), load_file(tiny_vit / "model.safetensors")
    moved = max((one[name] - before[name]).abs().max() for name in before if not name.startswith("classifier"))
    apart = max((one[name] - two[name]).abs().max() for name in before if not name.startswith("classifier"))
    assert apart < 0.01 * moved


@pytest.mark.integration
@pytest.mark.parametrize(
    "words",
    [
        LONG("--max_steps 3 --logging_steps 2 --logging_first_step --bf16 --eval_accumulation_steps 1"),
        "--num_train_epochs 1.5 --lr_scheduler_type reduce_lr_on_plateau --optim adafactor --save_total_limit 3 "
        "--gradient_checkpointing --skip_memory_metrics false",
        LONG("--lr_scheduler_type greedy"),
        LONG("--torch_compile --torch_compile_backend eager"),
    ],
)
def test_flags_of_the_trainer_work(words, pictures, tiny_vit, tmp_path):
    figures = train(pictures, tiny_vit, tmp_path / "run", *PLAIN, *words.split())
    assert figures["splits"]["held_out"]["n"] > 0


@pytest.mark.long
@pytest.mark.integration
def test_the_order_of_images_has_a_seed_of_its_own(pictures, tiny_vit, tmp_path):
    for name, words in {"a": (), "b": ("--data_seed", "5"), "c": ("--data_seed", "0")}.items():
        train(pictures, tiny_vit, tmp_path / name, *PLAIN, *words)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], c[name]) for name in a)
    assert not all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def stopped(pictures, tiny_resnet, tmp_path, monkeypatch) -> Path:
    """A run of a model with running statistics that was stopped after its first epoch."""

    def seal(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recipe_trainer.EarlyStopping, "on_save", seal, raising=False)
        assert command(pictures, tiny_resnet, tmp_path / "old", *PLAIN) == 130
    return tmp_path / "old"


@pytest.mark.integration
@pytest.mark.parametrize("part", ["", LONG("checkpoints/checkpoint-*")])
def test_a_run_goes_on_in_a_new_folder_from_that_of_a_stopped_one(
    part, stopped, pictures, tiny_resnet, tmp_path, capsys
):
    source = next(stopped.glob(part)) if part else stopped
    shutil.copytree(pictures, tmp_path / "elsewhere")
    train(tmp_path / "elsewhere", tiny_resnet, tmp_path / "new", *PLAIN, "--resume_from_checkpoint", str(source))
    assert f"Going on from '{tmp_path / 'new/checkpoints'}" in capsys.readouterr().out
    train(pictures, tiny_resnet, tmp_path / "whole", *PLAIN)
    assert without_speed(tmp_path / "new") == without_speed(tmp_path / "whole")
    new, whole = weights(tmp_path / "new"), weights(tmp_path / "whole")
    assert all(torch.equal(tensor, new[name]) for name, tensor in whole.items())
    assert list(stopped.glob("checkpoints/checkpoint-*"))  # as it was


@pytest.mark.integration
def test_a_folder_that_cannot_be_gone_on_from_is_refused(stopped, pictures, tiny_resnet, tmp_path, capsys):
    def said(*words) -> str:
        assert command(pictures, tiny_resnet, tmp_path / "new", *words) == 2
        assert not (tmp_path / "new").exists()
        return capsys.readouterr().err

    resume = ("--resume_from_checkpoint", str(stopped))
    assert "holds another run (--num_train_epochs 2 there, 3 here): name another one." in said(
        *PLAIN, *resume, "--num_train_epochs", "3"
    )
    assert "holds no checkpoint of a run" in said(*PLAIN, "--resume_from_checkpoint", str(tmp_path))
    recorded = json.loads((stopped / "run.json").read_text())
    earlier = {"base_model": "vit", "epochs": 2, "external": []}
    (stopped / "run.json").write_text(json.dumps(earlier))
    assert "holds a run of an earlier version, whose settings had other names" in said(*PLAIN, *resume)
    assert command(pictures, tiny_resnet, stopped, *PLAIN) == 2
    assert "holds a run of an earlier version" in capsys.readouterr().err
    (stopped / "run.json").write_text(json.dumps(recorded | {"sides": "others"}))
    assert "but in another order or in other splits" in said(*PLAIN, *resume)


@pytest.mark.long
@pytest.mark.integration
def test_a_run_may_go_on_with_other_records_but_not_with_another_rate(stopped, pictures, tiny_resnet, capsys):
    assert command(pictures, tiny_resnet, stopped, *PLAIN, "--learning_rate", "1e-3") == 2
    assert "holds another run (--learning_rate 0.003 there, 0.001 here)" in capsys.readouterr().err
    assert command(pictures, tiny_resnet, stopped, *PLAIN, "--logging_steps", "1", "--report_to", "tensorboard") == 0


def test_a_configuration_made_in_code_is_checked_like_a_command_line():
    with pytest.raises(UsageError, match="--fsdp full_shard is refused"):
        train_hf.main(dataclasses.replace(config(), fsdp="full_shard"))
