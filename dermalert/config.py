"""The settings of a training: all arguments of the Trainer, whose defaults are the recipe, and ours beside them."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from transformers import SchedulerType, TrainingArguments
from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy

Augmentation = Literal["robust", "plain", "none"]
Export = Literal["all", "serving", "none"]
Sampling = Literal["classes-and-sources", "classes", "natural"]


def _setting(default: Any, help: str, **of_the_flag: Any) -> Any:
    metadata = {"help": help, **of_the_flag}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(kw_only=True)
class DataArguments:
    """Which images are trained on, and how they are read, repaired and split."""

    dataset_name: list[str] = dataclasses.field(
        metadata={"help": "'demo' (generated lesions), folders, or data sets of the Hub (USER/NAME[@REVISION])"}
    )
    label_repair: Literal["archive", "drop-conflicts", "none"] = _setting(
        "archive", "what is done about wrong labels: take the ISIC archive's, drop images under two labels, or nothing"
    )
    split_seed: int = _setting(0, "seed of the split; two releases can be compared only if it is the same")
    folds: int = _setting(
        0, "train this many more models, each without one part of the data, and report their predictions of it"
    )
    external: list[str] = _setting(
        [], "data sets that are only reported, as NAME=DATASET; images related to training images are left out"
    )
    columns: list[str] | None = _setting(
        None,
        "a data set's own column names, as FIELD=COLUMN such as label=dx, or a .json file that maps fields to columns; "
        "each counts in the data sets that have the column",
    )
    image_types: list[str] = _setting(
        ["dermoscopic"],
        "kinds of pictures to take, by a table's image_type: dermoscopic, clinical (close-ups and "
        "overviews) or tbp (of total body photography); others are left out with a count",
    )
    streaming: bool = _setting(False, "read data sets of the Hub row by row, without their files on the disk")
    strict: bool = _setting(False, "refuse a data set with a file that is no image, instead of skipping it")


@dataclasses.dataclass(kw_only=True)
class ModelArguments:
    """Which model is trained, and how its release is stored."""

    model_name_or_path: str = _setting(
        "efficientnet-lite0",
        "efficientnet-lite0|1|2, a folder, a run, or an image classifier of the Hub (USER/REPO[@TAG])",
    )
    image_size: int | None = _setting(None, "side of the input in pixels; by default the base model's own")
    lora: bool = _setting(
        False,
        "train adapters of low rank on the linear layers, and the last layer, instead of all weights; they are merged "
        "into the release",
    )
    lora_r: int = _setting(16, "rank of the adapters")
    lora_alpha: int = _setting(32, "scale of the adapters, as a multiple of 1 / rank")
    lora_dropout: float = _setting(0.05, "share of the adapters' input that is dropped in training")
    weights_from: str | None = _setting(
        None,
        "a release whose weights are kept: abstention, operating points and figures are made anew, without training, "
        "from its own images (--dataset_name) and by its own settings",
    )
    store_dtype: Literal["float32", "float16"] = _setting(
        "float32", "'float16' rounds the weights before the calibration, so that the release has half the size"
    )
    onnx: Export = _setting(
        "all",
        "'serving' adds the graph that serves the release on a CPU; 'all' adds models for ONNX Runtime and "
        "Transformers.js too, in 8 bits where that pays; 'none' is for a base model that cannot be exported",
    )


@dataclasses.dataclass(kw_only=True)
class RecipeArguments(TrainingArguments):
    """Every argument of the Trainer, with the recipe as defaults; those it would break are in `training.flags.REFUSED`.

    Settings alone: `training.arguments` makes the `TrainingArguments` of a run, once its processes are connected.
    """

    output_dir: str = _setting("", "folder of the run; by default runs/ and the name of the first data set")
    num_train_epochs: float = _setting(15, "passes over the training images, at most")
    early_stopping_patience: int = _setting(
        8, "epochs without a lower calibrated loss on validation after which training stops"
    )
    per_device_train_batch_size: int = _setting(32, "images a step in each process")
    per_device_eval_batch_size: int | None = _setting(  # type: ignore[assignment]
        None, "images at once in each process when an epoch is evaluated; by default those of a step in all"
    )
    # A short warm-up, because the new head's first gradients are large; then down to nothing, in one curve.
    learning_rate: float = _setting(3e-4, "peak of the schedule")
    lr_scheduler_type: SchedulerType | str = _setting("cosine", "shape of the schedule")
    warmup_steps: float = _setting(0.05, "steps up to the peak; below 1, as a share of all steps")
    weight_decay: float = _setting(0.01, "weight decay of AdamW")
    tune: int = _setting(
        0, "trainings that search learning rate, warm-up and weight decay on validation, before the training itself"
    )
    augmentation: Augmentation = _setting(
        "robust",
        "'plain' turns, mirrors, scales, shifts and recolours training images; 'robust' more so, and varies what tells "
        "one clinic from another: sharpness, light, frame, dark corners, hair, rulers, JPEG",
    )
    # Rare diagnoses are drawn more often, and the loss takes out what that and the data teach of their frequencies.
    sampling: Sampling = _setting(
        "classes-and-sources",
        "which training images are drawn: rare diagnoses more often, and the sources of one alike; or all alike",
    )
    logit_adjustment: bool = _setting(
        True, "train as if all diagnoses were equally common (balanced softmax); the calibration restores their mix"
    )
    # What is evaluated and saved after each epoch is a moving average of the weights: see `RecipeTrainer`.
    ema_decay: float = _setting(0.999, "decay, a step, of the moving average of the weights that is kept; 0: none")
    eval_strategy: IntervalStrategy | str = _setting("epoch", "when the model is evaluated: each epoch")
    save_strategy: SaveStrategy | str = _setting("epoch", "when a checkpoint is saved: each epoch")
    save_total_limit: int | None = _setting(2, "checkpoints that are kept: the last ones, and always the best")
    logging_strategy: IntervalStrategy | str = _setting("epoch", "when the loss is recorded")
    logging_steps: float | None = _setting(  # type: ignore[assignment]
        None, "steps between two records of the loss; by default it is recorded once per epoch"
    )
    # Not balanced accuracy: it hangs on a handful of images of the rare diagnoses, and jumps from epoch to epoch.
    metric_for_best_model: str | None = _setting("eval_validation_calibrated_loss", "what the epoch is chosen by")
    greater_is_better: bool | None = _setting(False, "of that figure")
    restore_callback_states_from_checkpoint: bool = _setting(True, "so that the patience survives a kill")
    remove_unused_columns: bool = _setting(False, "the images are columns that no model's forward names")
    dataloader_pin_memory: bool = _setting(False, "what is loaded lies on the device")
    # It would wait for the device at each step, and hide what it finds.
    logging_nan_inf_filter: bool = _setting(False, "leave losses that are no number out of the record")
    seed: int = _setting(0, "seed of the weights, the order of images and the augmentation; never of the split")
    data_seed: int | None = _setting(None, "seed of the order of images alone; by default --seed")
    bf16: bool | None = _setting(  # type: ignore[assignment]
        None, "train in bfloat16; by default where the GPU computes in it", nargs="?", const=True
    )
    report_to: list[str] = _setting(["none"], "where curves are recorded: tensorboard, trackio, wandb and others")
    project: str = _setting("dermalert", "project that trackio records in")
    disable_tqdm: bool | None = _setting(False, "draw no progress bars", nargs="?", const=True)
    do_train: bool = _setting(True, "train")
    do_eval: bool = _setting(True, "evaluate each epoch")
    do_predict: bool = _setting(True, "predict the images held out")
    push_to_hub: bool = _setting(False, "publish the release when it is done, as --hub_model_id at --tag")
    hub_model_id: str | None = _setting(None, "model repository that the release goes to, USER/REPO")
    hub_private_repo: bool | None = _setting(None, "make that repository private, if it is new", nargs="?", const=True)
    hub_strategy: HubStrategy | str = _setting(
        "end",
        "'checkpoint' pushes each checkpoint too, to --hub_model_id, as --checkpoints_to does",
        metavar="{end,checkpoint}",
    )
    tag: str | None = _setting(None, "tag of the release, such as v1.0.0")
    accept_regression: str | None = _setting(
        None, "reason to publish a release that is worse than the one before; its card states it"
    )
    checkpoints_to: str | None = _setting(
        None,
        "branch that each checkpoint is pushed to, as USER/REPO[@BRANCH], by default run- and the name of the folder; "
        "a repository that is not there is created, private",
    )
    resume_from_checkpoint: str | None = _setting(
        None,
        "branch (USER/REPO[@BRANCH], as for --checkpoints_to) or folder of a run to go on from, where --output_dir has "
        "no checkpoint of its own; a run goes on from its own without this",
    )

    def __post_init__(self) -> None:
        """Look for no device yet, as a `TrainingArguments` does."""


@dataclasses.dataclass(kw_only=True)
class Config(DataArguments, ModelArguments, RecipeArguments):
    """All settings of a run."""

    def __post_init__(self) -> None:
        """Name the folder of the run after its first data set, where no other is named."""
        if not self.output_dir:
            self.output_dir = f"runs/{Path(self.dataset_name[0].partition('@')[0]).name or 'run'}"

    @property
    def requested_precision(self) -> str | None:
        """The mixed precision that flags ask for; None where they leave it to the device."""
        if self.fp16:
            return "fp16"
        return None if self.bf16 is None else "bf16" if self.bf16 else "no"


def default(name: str) -> Any:
    """The value of a setting where none is given."""
    field = Config.__dataclass_fields__[name]
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


MAY_NAME_FOLDERS = ("dataset_name", "model_name_or_path", "weights_from", "external", "columns")
"""Settings that may hold a path of this machine, and stay out of what is published."""

PUBLISHED = {
    "label_repair": "repair",
    "image_size": "image_size",
    "num_train_epochs": "epochs",
    "early_stopping_patience": "patience",
    "batch_size": "batch_size",
    "learning_rate": "learning_rate",
    "augmentation": "augment",
    "sampling": "sampling",
    "logit_adjustment": "rebalance",
    "ema_decay": "average",
    "store_dtype": "half_precision",
    "seed": "seed",
    "split_seed": "split_seed",
    "folds": "folds",
    "image_types": "image_types",
    "mixed_precision": "mixed_precision",
}
"""What `metrics.json` calls the settings that every release states, which is older than the names of the flags."""

_WITHOUT_A_FLAG = {"batch_size": "images a step", "mixed_precision": "mixed precision"}
"""Settings that several flags, or a launcher, decide."""

OF_THE_RESULT = (
    *MAY_NAME_FOLDERS,
    # `batch_size`, of all processes, and `mixed_precision` stand for the flags that they come from.
    *(name for name in PUBLISHED if name not in ("batch_size", "mixed_precision")),
    *("lora", "lora_r", "lora_alpha", "lora_dropout", "tune"),
    *("max_steps", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"),
    *("optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("gradient_accumulation_steps", "average_tokens_across_devices", "data_seed"),
    *("per_device_eval_batch_size", "tf32", "full_determinism", "ddp_broadcast_buffers"),
    *("torch_compile", "torch_compile_backend", "torch_compile_mode"),
    *("gradient_checkpointing", "gradient_checkpointing_kwargs"),
    *("activation_checkpointing", "activation_checkpointing_kwargs"),
)
"""Settings that change the result: called again with others, the run is another one."""


def of_the_result(config: Config, *, processes: int, mixed_precision: str | None) -> dict[str, Any]:
    """The settings that the result depends on, by the names of their fields.

    Args:
        config: of the run.
        processes: that share a step.
        mixed_precision: None where it is the device's own.
    """
    of_all: dict[str, Any] = {
        "batch_size": config.per_device_train_batch_size * processes,
        "mixed_precision": mixed_precision,
    }
    of_all["num_train_epochs"] = _whole(config.num_train_epochs)
    return {name: getattr(config, name) for name in OF_THE_RESULT} | of_all


def published(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as `metrics.json` states them: those of the recipe, and what else is not as it is by default."""
    stated = {key: settings[name] for name, key in PUBLISHED.items()}
    stated["half_precision"] = settings["store_dtype"] == "float16"
    others = {name for name in settings if name not in PUBLISHED and name not in MAY_NAME_FOLDERS}
    kept = {name for name in others if settings[name] != default(name)}
    if settings["lora"]:  # all that an adapter is made by
        kept |= {name for name in others if name.startswith("lora")}
    return stated | {name: settings[name] for name in sorted(kept)}


def from_published(stated: dict[str, Any], *, processes: int) -> dict[str, Any]:
    """The fields of a configuration with their values, from the settings that a release states."""
    fields = {field.name for field in dataclasses.fields(Config)}
    own = {name: stated[key] for name, key in PUBLISHED.items() if key in stated}
    own |= {name: value for name, value in stated.items() if name not in PUBLISHED.values()}
    if "store_dtype" in own:
        own["store_dtype"] = "float16" if own["store_dtype"] else "float32"
    if "batch_size" in own:
        own["per_device_train_batch_size"] = own["batch_size"] // processes
    return {name: value for name, value in own.items() if name in fields}


def as_flag(key: str, value: Any) -> str:
    """A setting of `metrics.json` as the flag that gives it, or in words where no flag gives it alone."""
    if key in _WITHOUT_A_FLAG:
        return f"{_WITHOUT_A_FLAG[key]}: {value}"
    if key == "half_precision":
        value = "float16" if value else "float32"
    names = {published_as: name for name, published_as in PUBLISHED.items()} | {"base_model": "model_name_or_path"}
    return f"--{names.get(key, key)} {' '.join(value) if isinstance(value, list | tuple) else value}"


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number
