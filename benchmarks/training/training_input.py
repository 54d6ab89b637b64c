r"""How near the training is to its limit, and to what the usual recipe does: images per second, side by side.

    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=9000000000 MALLOC_TOP_PAD_=268435456 OMP_WAIT_POLICY=PASSIVE \
        python benchmarks/training/training_input.py --dataset ham10000/

The limit is a bare loop of forward, backward and step on tensors in memory. The usual recipe is the transformers
guide's to image classification: in `set_transform`, image by image, a random crop that is resized, a tensor,
normalised; the default collator, the Trainer's defaults. All of them have the same model, batch and memory settings
(those of the Makefile), and take turns; a ratio is that of one turn, by the clock and, without an accelerator, by the
time of the processor alone, which other work on the machine disturbs less. Images are JPEGs of 600 x 450, made from
those of the data set.

Where there is an accelerator all of it runs there, the bare loop in the number format that the Trainer has, and a
column tells which share of the time the accelerator was busy. `--hardware` compares number formats, memory formats and
`torch.compile` in the bare loop. What is learnt from the two kinds of input is measured by `training_accuracy.py`.
"""

import argparse
import dataclasses
import itertools
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch.nn import functional
from tqdm.auto import tqdm
from transformers import DefaultDataCollator, ProgressCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

import train_hf
from dermalert.config import Config
from dermalert.data import loading
from dermalert.errors import UsageError, run_command
from dermalert.imaging import pixel_cache
from dermalert.taxonomy import DIAGNOSES
from dermalert.training import distributed, image_dataset
from dermalert.training.run import load_model

MEMORY = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "OMP_WAIT_POLICY")
SIZE = (600, 450)
WARM = 2  # steps that do not count

DEVICE = torch.accelerator.current_accelerator() or torch.device("cpu")
HALF = distributed.computes_in_bfloat16()
CHANNELS_FIRST = torch.contiguous_format

BARE, OURS, USUAL = "bare loop on tensors in memory", "dermalert's Trainer", "usual recipe"
OF = {"of the bare loop": BARE, "times the usual recipe": USUAL}


def main(arguments: argparse.Namespace) -> None:
    """Measure and print what `benchmarks/README.md` shows."""
    missing = [name for name in MEMORY if name not in os.environ]
    if missing:
        raise UsageError(f"{', '.join(missing)} not set: take the command of the docstring, all ways need the same.")
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch, mock.patch.dict(os.environ, XDG_CACHE_HOME=f"{scratch}/cache"):
        dataset = jpegs(arguments.dataset, arguments.images, Path(scratch) / "jpegs")
        ways = ways_to_train(dataset, arguments, Path(scratch))
        ways = {name: way for number, (name, way) in enumerate(ways.items()) if number in (arguments.rows or range(99))}
        print(as_markdown(in_turns(ways, arguments.turns)))
        if not arguments.hardware:
            print(input_alone(dataset, arguments))


def jpegs(names: list[str], count: int, folder: Path) -> Dataset:
    """Write so many images of data sets as JPEGs of one size, and return them."""
    found = loading.load(names).shuffle(seed=0)
    for row in found.select(range(min(count, len(found)))):
        path = folder / DIAGNOSES[row["label"]] / f"{row['image_id']}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        row["image"].convert("RGB").resize(SIZE, Image.Resampling.BICUBIC).save(path, quality=90)
    return loading.load([str(folder)])


def ways_to_train(
    dataset: Dataset, arguments: argparse.Namespace, scratch: Path
) -> dict[str, Callable[[], np.ndarray]]:
    """Return functions that train some steps and give the images a second, by name."""
    config = Config(base_model=arguments.base_model, image_size=arguments.image_size, batch_size=arguments.batch_size)
    steps, few = arguments.steps, max(2, arguments.steps // arguments.decoding_takes)
    if arguments.hardware:
        return {name: lambda how=how: bare(dataset, config, steps, **how) for name, how in formats().items()}
    ways = {BARE: lambda: bare(dataset, config, steps, half=HALF)}
    rows = {OURS: {}, "the same, plain augmentation": {"augment": "plain"}, "the same, no average": {"average": 0.0}}
    for name, change in rows.items():
        ways[name] = lambda change=change: ours(dataset, dataclasses.replace(config, **change), steps, scratch)
    ways["the same, decoding each time"] = lambda: decoding(dataset, config, few, scratch)
    ways[USUAL] = lambda: usual(dataset, config, few, scratch)
    ways["the same, channels last"] = lambda: usual(dataset, config, few, scratch, layout=torch.channels_last)
    if DEVICE.type != "cpu":
        ways["the same, bfloat16"] = lambda: usual(dataset, config, few, scratch, bf16=True)
        workers = os.cpu_count() or 1
        ways[f"the same, bfloat16, {workers} processes that decode"] = lambda: usual(
            dataset, config, few, scratch, bf16=True, dataloader_num_workers=workers, dataloader_persistent_workers=True
        )
    return ways


def formats() -> dict[str, dict]:
    """Return the number and memory formats to compare, as arguments of `bare`."""
    found = {BARE: {}, "channels first": {"layout": CHANNELS_FIRST}, "bfloat16": {"half": True}}
    found |= {"bfloat16, channels first": {"half": True, "layout": CHANNELS_FIRST}}
    found |= {"TF32": {"tf32": True}} if DEVICE.type == "cuda" else {}
    return found | {"bfloat16, compiled": {"half": True, "compiled": True}, "compiled": {"compiled": True}}


def in_turns(ways: dict[str, Callable[[], np.ndarray]], turns: int) -> dict[str, list[np.ndarray]]:
    """Return the images a second of each way in each turn, after one that does not count."""
    found = {name: [] for name in ways}
    with tqdm(total=(turns + 1) * len(ways)) as bar:
        for turn, (name, way) in itertools.product(range(turns + 1), ways.items()):
            bar.set_description(name)
            set_seed(turn)
            speed = way()
            if turn:
                found[name].append(speed)
            bar.update()
    return found


def clocks() -> np.ndarray:
    """Return the seconds of the clock, those of the processor, once the accelerator has done what it has to."""
    if DEVICE.type != "cpu":
        torch.accelerator.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


class Busy:
    """Asks every now and then whether the accelerator does something; on a CPU it knows nothing."""

    def __enter__(self) -> "Busy":
        self._seen, self._over = [], threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while DEVICE.type == "cuda" and not self._over.wait(0.1):
            self._seen.append(torch.cuda.utilization() / 100)

    def share(self) -> float:
        """Return the share of the time that it was busy."""
        return float(np.mean(self._seen[1:])) if len(self._seen) > 1 else float("nan")


def bare(
    dataset: Dataset,
    config: Config,
    steps: int,
    *,
    half: bool = False,
    tf32: bool = False,
    compiled: bool = False,
    layout: torch.memory_format = torch.channels_last,
) -> np.ndarray:
    """Return the images a second of forward, backward and step alone."""
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    model, processor = load_model(config)
    model = model.to(DEVICE, memory_format=layout).train()
    call = torch.compile(model) if compiled else model
    rows = image_dataset.ImageDataset(dataset, processor, device=DEVICE)
    batch = rows.__getitems__(list(range(config.batch_size)))
    pixel_values, labels = batch["pixel_values"].contiguous(memory_format=layout), batch["labels"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)

    def step() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=half):
            logits = call(pixel_values=pixel_values).logits
        functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(WARM):
        step()
    with Busy() as busy:
        began = clocks()
        for _ in range(steps):
            step()
        return told(steps * config.batch_size, clocks() - began, busy)


def told(count: int, seconds: np.ndarray, busy: Busy) -> np.ndarray:
    """Return the images a second by the two clocks, and the share of the time that the accelerator was busy."""
    return np.array([*(count / seconds), busy.share()])


class Clock(TrainerCallback):
    """Takes the time from the end of the first steps to that of the last."""

    def on_step_end(self, _args, state, _control, **_others):
        """Note when these steps have ended."""
        if state.global_step == WARM:
            self.began = clocks()
        if state.global_step == state.max_steps:
            self.ended = clocks()


def timed(trainer: Trainer, steps: int) -> np.ndarray:
    """Return what `bare` does of some steps of a Trainer, without what comes once a training or an epoch."""
    clock = Clock()
    trainer.add_callback(clock)
    trainer.args.max_steps, trainer.args.eval_strategy, trainer.args.save_strategy = steps + WARM, "no", "no"
    trainer.pop_callback(ProgressCallback)
    with Busy() as busy:
        trainer.train()
    return told(steps * trainer.args.train_batch_size, clock.ended - clock.began, busy)


def ours(dataset: Dataset, config: Config, steps: int, folder: Path) -> np.ndarray:
    """Return the images a second of the Trainer of `train_hf.py`."""
    model, processor = load_model(config)
    sides = {"train": dataset, "validation": dataset.select(range(8))}
    return timed(train_hf.make_trainer(config, folder, model, processor, sides), steps)


def decoding(dataset: Dataset, config: Config, steps: int, folder: Path) -> np.ndarray:
    """Return the same where no image is kept."""
    with mock.patch.dict(os.environ, XDG_CACHE_HOME=f"{folder}/empty"), mock.patch.object(pixel_cache, "AT_MOST", 0):
        return ours(dataset, config, steps, folder)


def usual(dataset: Dataset, config: Config, steps: int, folder: Path, *, layout=CHANNELS_FIRST, **others) -> np.ndarray:
    """Return what `bare` does of the usual recipe; others are arguments of the Trainer."""
    model, processor = load_model(config)
    arguments = TrainingArguments(
        output_dir=str(folder / "usual"),
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        remove_unused_columns=False,
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
        **others,
    )
    trainer = Trainer(
        model=model.to(memory_format=layout),
        args=arguments,
        train_dataset=image_by_image(dataset, processor, config.image_size),
        data_collator=partial(collated, layout=layout),
    )
    return timed(trainer, steps)


def collated(rows: list[dict], *, layout: torch.memory_format) -> dict[str, torch.Tensor]:
    """Return a batch as the default collator makes it, in a memory format."""
    batch = DefaultDataCollator()(rows)
    return batch | {"pixel_values": batch["pixel_values"].contiguous(memory_format=layout)}


def image_by_image(dataset: Dataset, processor, size: int) -> Dataset:
    """Return a data set whose transform is the guide's: RandomResizedCrop, ToTensor, Normalize, of one image each."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))

    def transformed(image: Image.Image) -> torch.Tensor:
        picture = image.convert("RGB")
        cut = picture.resize((size, size), Image.Resampling.BILINEAR, box=random_box(*picture.size))
        return (torch.from_numpy(np.array(cut)).permute(2, 0, 1).float().div(255) - mean) / std

    def transforms(rows: dict) -> dict:
        return {"pixel_values": [transformed(image) for image in rows["image"]], "labels": rows["label"]}

    found = dataset.select_columns(["image", "label"])
    found.set_transform(transforms)
    return found


def random_box(width: int, height: int) -> tuple[float, float, float, float]:
    """Return the box of torchvision's RandomResizedCrop: 0.08 to 1 of the area, 3:4 to 4:3."""
    for _ in range(10):
        area = width * height * np.random.uniform(0.08, 1)
        ratio = np.exp(np.random.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if w <= width and h <= height:
            left, top = np.random.randint(0, width - w + 1), np.random.randint(0, height - h + 1)
            return left, top, left + w, top + h
    return 0, 0, width, height


def input_alone(dataset: Dataset, arguments: argparse.Namespace) -> str:
    """Return, as a table, the milliseconds an image that the input takes without a model.

    Those of the processor; where there is an accelerator those of the clock.
    """
    config = Config(base_model=arguments.base_model, image_size=arguments.image_size)
    _, processor = load_model(config)
    rows = {
        f"kept, {how} augmentation": image_dataset.ImageDataset(dataset, processor, augmented=how, device=DEVICE)
        for how in ("none", "plain", "robust")
    }
    rows["usual recipe"] = image_by_image(dataset, processor, arguments.image_size)
    collators = {"usual recipe": DefaultDataCollator()}
    found = {name: [] for name in rows}
    for turn in range(arguments.turns):
        for name, data in rows.items():
            wanted = np.random.default_rng(turn).permutation(len(data))[: arguments.batch_size].tolist()
            began = clocks()
            collators.get(name, image_dataset.collate)(data.__getitems__(wanted))
            found[name].append((clocks() - began)[int(DEVICE.type == "cpu")] * 1000 / arguments.batch_size)
    return "\n".join(
        [
            "",
            "| input alone | ms an image |",
            "|---|---|",
            *(f"| {n} | {spread(v)} |" for n, v in found.items()),
        ]
    )


def as_markdown(found: dict[str, list[np.ndarray]]) -> str:
    """Return the table: images a second, and against the limit and the usual recipe, turn by turn."""
    by = ["clock"] if DEVICE.type == "cuda" else ["clock", "processor"]
    titles = ["images a second", *(f"{of}, by the {clock}" for of in OF for clock in by)]
    titles += ["accelerator busy"] if DEVICE.type == "cuda" else []
    lines = [f"| medians of n = {len(found[BARE])} turns [smallest-largest] | " + " | ".join(titles) + " |"]
    lines.append("|---" * (len(titles) + 1) + "|")
    for name, speeds in found.items():
        speeds = np.array(speeds)
        cells = [spread(speeds[:, 0])]
        for other in OF.values():
            ratios = speeds / np.array(found[other]) if other in found else None
            cells += ["" if ratios is None else spread(ratios[:, i]) for i in range(len(by))]
        cells += [f"{np.nanmean(speeds[:, 2]):.0%}"] if DEVICE.type == "cuda" else []
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def spread(values) -> str:
    """Return median, smallest and largest."""
    return f"{np.median(values):.2f} [{min(values):.2f}-{max(values):.2f}]"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", default=["demo"], help="where the images are from")
    parser.add_argument("--images", type=int, default=512, help="of them, at most")
    parser.add_argument("--image_size", type=int, default=160, help="side of the input in pixels")
    parser.add_argument("--batch_size", type=int, default=32, help="images a step")
    parser.add_argument("--steps", type=int, default=6, help="of each way in a turn")
    parser.add_argument("--decoding_takes", type=int, default=1, help="divides the steps of what decodes each time")
    parser.add_argument("--base_model", default="efficientnet-lite0", help="as of train_hf.py")
    parser.add_argument("--rows", type=int, nargs="+", help="which ways, from 0, the bare loop; by default all")
    parser.add_argument("--turns", type=int, default=7, help="of all ways")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--hardware", action="store_true", help="the bare loop in bfloat16 and compiled, instead")
    settings = parser.parse_args()
    sys.exit(run_command(lambda: main(settings)))
