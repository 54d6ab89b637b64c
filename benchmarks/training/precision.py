"""What a training step costs in single precision, in bfloat16, and in bfloat16 with single depthwise convolutions.

    python -m benchmarks.training.precision --model_name_or_path efficientnet-lite2 --image_size 192 --threads 1 2

prints the median seconds of a step (forward and backward, 32 images of noise, no input) and the ratio to single
precision. The three take turns, so that all meet the same load. What it does to accuracy is not asked.
"""

import argparse
import statistics
import sys
import time

from dermalert_space import process

if __name__ == "__main__":
    process.configure()

import torch
from transformers import PreTrainedModel

from dermalert.errors import run_command
from dermalert.taxonomy import DIAGNOSES
from dermalert.training import backbones
from dermalert.training.recipe_trainer import keep_depthwise_single

_IMAGES = 32
_WAYS = ("single precision", "bfloat16", "bfloat16, depthwise in single")


def main(arguments: argparse.Namespace) -> None:
    """Time the steps, and print a table."""
    print(f"| threads | {' | '.join(_WAYS)} | ratios |\n{'|---' * (len(_WAYS) + 2)}|")
    models = [_model(arguments) for _ in _WAYS]
    keep_depthwise_single(models[-1])
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        turns = [
            [_seconds(model, arguments.image_size, mixed=i > 0) for i, model in enumerate(models)]
            for _ in range(arguments.turns + 1)
        ]
        medians = [statistics.median(times) for times in zip(*turns[1:], strict=True)]  # the first one allocates
        ratios = ", ".join(f"{each / medians[0]:.2f}" for each in medians[1:])
        print(f"| {threads} | {' | '.join(f'{each:.2f} s' for each in medians)} | {ratios} |", flush=True)


def _model(arguments: argparse.Namespace) -> PreTrainedModel:
    model, _ = backbones.load(arguments.model_name_or_path, labels=DIAGNOSES, image_size=arguments.image_size)
    return model.train().to(memory_format=torch.channels_last)  # type: ignore[call-arg]  # as `train_hf.py` does


def _seconds(model: PreTrainedModel, side: int, *, mixed: bool) -> float:
    pixels = torch.randn(_IMAGES, 3, side, side).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(len(DIAGNOSES), (_IMAGES,))
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        loss = model(pixel_values=pixels, labels=labels).loss
    loss.backward()
    model.zero_grad()
    return time.perf_counter() - started


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", default="efficientnet-lite2")
    parser.add_argument("--image_size", type=int, default=192)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=int, default=5)
    settings = parser.parse_args()
    sys.exit(run_command(lambda: main(settings)))
