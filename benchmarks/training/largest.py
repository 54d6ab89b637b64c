r"""How large a base model an accelerator trains in ten minutes: the Trainer's images a second, model by model.

    python benchmarks/training/largest.py --dataset ham10000/

The models are built with random weights, which take as long as trained ones. A run is that of the bundled release: so
many epochs of so many training images, and after each as many images evaluated as there are validation images, twice.
The seconds are those of some steps and of one evaluation, times what a run has of them.
"""

import argparse
import gc
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset
from dermalert_space.release import BUNDLED
from training_input import DEVICE, clocks, timed
from transformers import (
    AutoModelForImageClassification,
    ConvNextV2Config,
    Dinov2Config,
    EfficientNetConfig,
    PreTrainedConfig,
    SwinConfig,
    ViTConfig,
    ViTImageProcessorPil,
)

import train_hf
from dermalert.config import Config
from dermalert.data import loading
from dermalert.errors import UsageError, run_command
from dermalert.release import release_folder
from dermalert.taxonomy import DIAGNOSES

_HUGE = partial(ConvNextV2Config, depths=[3, 3, 27, 3], hidden_sizes=[352, 704, 1408, 2816])

MODELS: dict[str, tuple[int, Callable[[], PreTrainedConfig]]] = {
    "EfficientNet-B0": (224, lambda: EfficientNetConfig(width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280)),
    "ViT-B/16": (224, ViTConfig),
    "Swin-L": (224, lambda: SwinConfig(embed_dim=192, depths=[2, 2, 18, 2], num_heads=[6, 12, 24, 48])),
    "ConvNeXtV2-H": (224, _HUGE),
    "ViT-H/14": (
        224,
        lambda: ViTConfig(
            hidden_size=1280, num_hidden_layers=32, num_attention_heads=16, intermediate_size=5120, patch_size=14
        ),
    ),
    "DINOv2-g": (
        224,
        lambda: Dinov2Config(
            hidden_size=1536, num_hidden_layers=40, num_attention_heads=24, use_swiglu_ffn=True, patch_size=14
        ),
    ),
    "ConvNeXtV2-H, 384 pixels": (384, _HUGE),
}


def main(arguments: argparse.Namespace) -> None:
    """Measure and print what `benchmarks/README.md` shows."""
    if DEVICE.type == "cpu" and not arguments.models:
        raise UsageError("there is no accelerator: name with --models what a CPU can bear.")
    dataset = loading.load(arguments.dataset).shuffle(seed=0)
    dataset = dataset.select(range(min(arguments.images, len(dataset))))
    print("| model | pixels | million weights | images a second | GB at most | minutes of a run |")
    print("|---|---|---|---|---|---|")
    for name in arguments.models or MODELS:
        try:
            print(f"| {name} | " + " | ".join(measured(dataset, *MODELS[name], arguments)) + " |", flush=True)
        except torch.OutOfMemoryError:
            print(f"| {name} | does not fit {arguments.batch_size} images | | | | |", flush=True)
        gc.collect()
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()


def measured(dataset: Dataset, size: int, config: Callable[[], PreTrainedConfig], arguments) -> list[str]:
    """Return the cells of a model's line."""
    with torch.device(DEVICE):
        built = config()
        built.image_size, built.num_labels = size, len(DIAGNOSES)
        model = AutoModelForImageClassification.from_config(built)
    processor = ViTImageProcessorPil(size={"height": size, "width": size})
    settings = Config(image_size=size, batch_size=arguments.batch_size)
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as scratch:
        sides = {"train": dataset, "validation": dataset}
        trainer = train_hf.make_trainer(settings, Path(scratch), model, processor, sides)
        speed = timed(trainer, arguments.steps)[0]
        trainer.evaluate(trainer.eval_dataset["validation"])  # the first one takes longer
        began = clocks()[0]
        trainer.evaluate(trainer.eval_dataset["validation"])
        evaluated = len(dataset) / (clocks()[0] - began)
    memory = torch.cuda.max_memory_allocated() / 1e9 if DEVICE.type == "cuda" else float("nan")
    bundled = release_folder.read_metrics(BUNDLED)
    epochs, sides = bundled["training"]["epochs"], bundled["data"]["sides"]
    seconds = epochs * (sides["train"] / speed + 2 * sides["validation"] / evaluated)
    weights = sum(tensor.numel() for tensor in model.parameters()) / 1e6
    return [str(size), f"{weights:.0f}", f"{speed:.0f}", f"{memory:.1f}", f"{seconds / 60:.1f}"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", default=["demo"], help="where the images are from")
    parser.add_argument("--images", type=int, default=512, help="of them, at most")
    parser.add_argument("--batch_size", type=int, default=32, help="images a step")
    parser.add_argument("--steps", type=int, default=16, help="that are timed")
    parser.add_argument("--models", nargs="+", choices=MODELS, help="only these")
    settings = parser.parse_args()
    sys.exit(run_command(lambda: main(settings)))
