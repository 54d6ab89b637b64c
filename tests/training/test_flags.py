"""Each flag of the Trainer works under its own name, or is refused with the reason; old names lead to the new ones."""

import dataclasses
import re

import pytest
from support.paths import REPOSITORY
from transformers import TrainingArguments

from dermalert import config
from dermalert.config import OF_THE_RESULT, Config, of_the_result, published
from dermalert.errors import UsageError
from dermalert.training import flags
from dermalert.training.flags import HUB, REFUSED, RENAMED, parse

FREE = {
    *(
        "output_dir",
        "per_device_train_batch_size",
        "bf16",
        "fp16",
        "torch_empty_cache_steps",
        "eval_accumulation_steps",
    ),
    *("logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter", "log_on_each_node"),
    *("log_level", "log_level_replica", "disable_tqdm", "report_to", "run_name", "project", "trackio_space_id"),
    *("trackio_bucket_id", "trackio_static_space_id", "save_total_limit", "skip_memory_metrics", "debug"),
    *("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_static_graph", "onnx", "streaming", "strict", *HUB),
}
"""What a run may be called again with, and still be the same run; two of these are in it under another name."""

NAMES = [field.name for field in dataclasses.fields(Config)]


OF_TRL = """
    --model_name_or_path google/vit-base-patch16-224 --dataset_name isic9 ham10000 --output_dir runs/x
    --num_train_epochs 3 --per_device_train_batch_size 8
    --gradient_accumulation_steps 4 --learning_rate 2.0e-5 --lr_scheduler_type linear
    --warmup_steps 0.1 --weight_decay 0 --optim adamw_torch --bf16 --torch_compile --seed 7 --data_seed 8
    --eval_strategy epoch --logging_steps 25 --report_to wandb --max_grad_norm 0.5 --do_train --do_eval
    --push_to_hub --hub_model_id user/derm --hub_private_repo --tag v1.0.0 --gradient_checkpointing
    --dataloader-num-workers 0 --adam_beta2=0.98
"""


def settings(*words: str) -> dict:
    own = parse(["--dataset_name", "demo", *words])
    return of_the_result(own, processes=1, mixed_precision=own.requested_precision)


def refusal(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        parse(list(words))
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_each_setting_is_of_the_result_or_free_or_refused():
    parts = [set(OF_THE_RESULT), FREE, set(REFUSED)]
    assert sorted(name for part in parts for name in part) == sorted(NAMES)


def test_a_command_line_of_trl_means_what_it_means_there():
    own = parse(OF_TRL.split())
    flags.refuse(own)
    assert own.dataset_name == ["isic9", "ham10000"]
    assert (own.num_train_epochs, own.per_device_train_batch_size, own.gradient_accumulation_steps) == (3, 8, 4)
    assert (own.learning_rate, own.lr_scheduler_type, own.warmup_steps, own.optim) == (
        2e-5,
        "linear",
        0.1,
        "adamw_torch",
    )
    assert (own.weight_decay, own.bf16, own.torch_compile, own.seed, own.data_seed) == (0, True, True, 7, 8)
    assert (own.logging_steps, own.report_to, own.max_grad_norm, own.adam_beta2) == (25, ["wandb"], 0.5, 0.98)
    assert (own.push_to_hub, own.hub_model_id, own.hub_private_repo, own.tag) == (True, "user/derm", True, "v1.0.0")


@pytest.mark.parametrize("old", RENAMED)
def test_a_flag_by_the_name_that_it_had_is_told_its_new_one(old, capsys):
    error = refusal(capsys, "--dataset_name", "demo", f"--{old}", "1")
    assert f"--{old} has another name: did you mean {RENAMED[old]}?" in error
    new = re.match(r"--(no_)?(\w+)", RENAMED[old])
    assert new[2] in NAMES
    assert f"--{old.replace('_', '-')} has another name" in refusal(capsys, f"--{old.replace('_', '-')}=1")


def test_a_name_after_push_to_hub_is_told_where_it_goes(capsys):
    for words in (["--push_to_hub", "user/derm"], ["--push_to_hub=user/derm"]):
        assert "did you mean --push_to_hub --hub_model_id user/derm?" in refusal(capsys, *words)


def test_a_mistyped_flag_is_told_the_nearest(capsys):
    error = refusal(capsys, "--num_train_epoch", "3")  # also where the data set is missing
    assert "unrecognized arguments: --num_train_epoch 3. Did you mean '--num_train_epochs'?\n" in error
    assert refusal(capsys, "--foo", "1").endswith("unrecognized arguments: --foo 1.\n"), "none is near"


def test_data_sets_have_no_default(capsys):
    for words in ((), ("--image_size", "32")):
        assert "are required: --dataset_name, such as demo or my-lesions/" in refusal(capsys, *words)


OTHER = {
    "eval_strategy": "steps",
    "save_strategy": "no",
    "metric_for_best_model": "loss",
    "train_sampling_strategy": "sequential",
    "include_num_input_tokens_seen": "all",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_break_a_promise_is_refused_by_name_with_the_reason(name):
    field = Config.__dataclass_fields__[name]
    value = OTHER.get(name, not field.default if isinstance(field.default, bool) else 3)
    own = dataclasses.replace(parse(["--dataset_name", "demo"]), **{name: value})
    with pytest.raises(UsageError) as refused:
        flags.refuse(own)
    assert str(refused.value) == f"--{name} {value} is refused: {REFUSED[name]}."


@pytest.mark.parametrize(
    "flag", ["load_best_model_at_end", "dataloader_num_workers 4", "deepspeed ds.json", "label_smoothing_factor 0.1"]
)
def test_refused_flags_are_refused_from_the_command_line_too(flag):
    with pytest.raises(UsageError, match=f"--{flag.split()[0]} .* is refused"):
        flags.refuse(parse(["--dataset_name", "demo", *f"--{flag}".split()]))


OTHERS = """
    --learning_rate 1e-4, --optim sgd, --max_steps 3, --augmentation none, --no_logit_adjustment, --bf16, --data_seed 1,
    --per_device_train_batch_size 16, --weight_decay 0, --split_seed 1, --store_dtype float16, --external a=b,
    --gradient_accumulation_steps 2, --lr_scheduler_type linear, --label_repair none, --logit_adjustment false
"""
SAME = """
    --logging_steps 5, --report_to tensorboard, --output_dir elsewhere, --run_name a, --disable_tqdm, --strict,
    --push_to_hub --hub_model_id a/b --tag v1.0.0, --checkpoints_to a/b, --resume_from_checkpoint a/b, --streaming,
    --save_total_limit 3, --onnx none, --log_level info
"""


@pytest.mark.parametrize("words", OTHERS.split(","))
def test_what_changes_the_result_makes_another_run(words):
    assert settings(*words.split()) != settings()


@pytest.mark.parametrize("words", SAME.split(","))
def test_what_does_not_change_the_result_leaves_a_run_the_same(words):
    assert settings(*words.split()) == settings()


def test_published_settings_keep_their_names_and_add_what_is_not_the_recipes():
    plain = published(settings())
    assert list(plain) == list(config.PUBLISHED.values())
    assert (plain["epochs"], plain["batch_size"], plain["half_precision"], plain["rebalance"]) == (15, 32, False, True)
    more = published(settings("--weight_decay", "0.1", "--store_dtype", "float16"))
    assert more == plain | {"half_precision": True, "weight_decay": 0.1}
    own = config.from_published(more, processes=1)
    assert (own["store_dtype"], own["weight_decay"], own["per_device_train_batch_size"]) == ("float16", 0.1, 32)
    assert own["num_train_epochs"] == 15


def test_a_run_is_named_after_its_data():
    assert parse(["--dataset_name", "data/isic9/", "x"]).output_dir == "runs/isic9"
    assert parse(["--dataset_name", "user/lesions@v1"]).output_dir == "runs/lesions"
    assert parse(["--dataset_name", "demo", "--output_dir", "here"]).output_dir == "here"


def test_a_yaml_file_gives_flags_and_the_command_line_wins(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "dataset_name: [isic9, ham10000]\nlearning_rate: 1e-4\nlogit_adjustment: false\nimage-size: 96\n"
        "lr_scheduler_kwargs: {num_cycles: 2}\ntag: null\nbf16: true\nexternal: []\n"
        "columns: {label: dx, sex: gender}\n"
    )
    own = parse(["--config", str(tmp_path / "recipe.yaml"), "--learning_rate", "2e-4"])
    assert own.dataset_name == ["isic9", "ham10000"]
    assert (own.learning_rate, own.logit_adjustment, own.image_size, own.bf16) == (2e-4, False, 96, True)
    assert (own.lr_scheduler_kwargs, own.tag, own.external) == ('{"num_cycles": 2}', None, [])
    assert own.columns == ["label=dx", "sex=gender"]
    again = parse([f"--config={tmp_path / 'recipe.yaml'}", "--dataset_name", "demo"])
    assert (again.dataset_name, again.learning_rate) == (["demo"], 1e-4)


BAD_FILES = {
    "an old name": ("epochs: 3", "bad.yaml': --epochs has another name: did you mean --num_train_epochs"),
    "an unknown name": (
        "num_train_epoch: 3",
        "bad.yaml' has the key 'num_train_epoch', which is no flag. Did you mean '--num_train_e",
    ),
    "a list": ("[1, 2]", "must name flags, such as num_train_epochs: 6"),
    "no YAML": ("a: [", "is no YAML file"),
    "a wrong value": ("num_train_epochs: many", "invalid float value: 'many'"),
    "another file": ("config: other.yaml", "names another file"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_yaml_file_is_one_message_and_exit_code_2(case, tmp_path, capsys):
    text, sentence = BAD_FILES[case]
    (tmp_path / "bad.yaml").write_text(text)
    assert sentence in refusal(capsys, "--dataset_name", "demo", "--config", str(tmp_path / "bad.yaml"))
    assert "cannot be read: No such file" in refusal(capsys, "--config", str(tmp_path / "none.yaml"))


def test_the_help_lists_groups_defaults_and_no_refused_flag(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"], manual="The manual.")
    text = capsys.readouterr().out
    places = [text.index(f"\n{group}:\n") for group in ("data", "model", "recipe", "Hub", "other flags of the Trainer")]
    assert places == sorted(places)
    assert "The manual." in text
    assert re.search(r"--num_train_epochs [^-]*\(default: 15\)", text)
    assert "--hub_strategy {end,checkpoint}" in text
    shown = set(re.findall(r"^ +--(\w+)", text, re.MULTILINE))
    assert shown >= set(NAMES) - set(REFUSED)
    assert not shown & set(REFUSED)


def test_the_table_of_flags_in_the_docs_is_that_of_the_code():
    text = (REPOSITORY / "docs/training.md").read_text()
    for name in {field.name for field in dataclasses.fields(Config)} - set(REFUSED):
        assert f"`--{name}`" in text, name
    for name, reason in REFUSED.items():
        row = next(line for line in text.splitlines() if f"`--{name}`" in line and line.startswith("|"))
        assert reason in row, name
    assert f"| `--hub_strategy every_save`, `--hub_strategy all_checkpoints` | {flags.HUB_STRATEGY} |" in text
    for old, new in RENAMED.items():
        assert re.search(rf"^\| `--{old}` \| `{re.escape(new.split(',')[0])}`", text, re.MULTILINE), old


def test_the_trainers_own_names_are_kept():
    ours = {field.name for field in dataclasses.fields(Config)}
    assert {field.name for field in dataclasses.fields(TrainingArguments)} <= ours
