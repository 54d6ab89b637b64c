r"""What the benchmark tells of models of different kinds: a release, and four that are made of its own training images.

    dermalert publish-benchmark isic9 isic2017 ham10000_224 milk10k acral USER/melanoma-by-clinic \
        --test-clinic "Hospital Clínic de Barcelona" --test-clinic "International Dermoscopy Society" --output melanoma
    python benchmarks/evaluation/benchmark.py --benchmark melanoma --images isic9 isic2017 ham10000_224 milk10k acral

The four are efficientnet-lite0 fine-tuned for two epochs, the same with a new head alone, a network of one layer that
sees 8 x 8 pixels, and the mix of diagnoses whatever the picture. They learn from at most `--train_per_clinic` images of
each clinic; all are measured on at most `--per_clinic` test images of each. The tables are also `tables.md` in
`--output_dir`, beside a JSON file a model.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from dermalert_space import files
from dermalert_space.estimate import format_estimate
from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel, ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from dermalert.benchmark import grade, images, manifest, results
from dermalert.benchmark.grade import BenchmarkReport, ClinicScore
from dermalert.errors import run_command
from dermalert.evaluation import any_checkpoint
from dermalert.taxonomy import DIAGNOSES
from dermalert.training import backbones

_BATCH = 32
_SIDE = 96  # pixels, of what is made of efficientnet-lite0

Made = tuple[PreTrainedModel, BaseImageProcessor]


def main(arguments: argparse.Namespace) -> None:
    """Make what is missing, measure all, and print the tables."""
    output, folders = Path(arguments.output_dir), [Path(folder) for folder in arguments.images]
    benchmark = manifest.read(arguments.benchmark)
    to_learn = images.match(benchmark, folders, per_clinic=arguments.train_per_clinic)
    train = to_learn.dataset.select(np.flatnonzero(to_learn.split == manifest.TRAIN))
    made = {name: output / name.replace(" ", "_") for name in MAKERS}
    for name, folder in made.items():
        if not folder.is_dir():
            torch.manual_seed(0)
            started = time.perf_counter()
            backbones.save(*MAKERS[name](train), folder)
            print(f"{name}: {time.perf_counter() - started:.0f} s, {len(train)} images.", file=sys.stderr)
    local = images.match(benchmark, folders, per_clinic=arguments.per_clinic)
    reports = {}
    for name, folder in {**{model: model for model in arguments.models}, **made}.items():
        reports[name] = grade.grade(any_checkpoint.load(str(folder)), benchmark, local)
        files.write_json(output / f"{Path(folder).name}.json", reports[name].to_json())
    (output / "tables.md").write_text(as_markdown(reports), encoding="utf-8")
    print(as_markdown(reports))


# What is measured beside a release.


def fine_tuned(train: Dataset) -> Made:
    """efficientnet-lite0, two epochs."""
    model, processor = backbones.load("efficientnet-lite0", labels=DIAGNOSES, image_size=_SIDE)
    return _fit(model, processor, train, list(model.parameters()), epochs=2, rate=5e-4), processor


def new_head(train: Dataset) -> Made:
    """efficientnet-lite0 as it was pretrained, under a linear layer that is fitted to its features."""
    model, processor = backbones.load("efficientnet-lite0", labels=DIAGNOSES, image_size=_SIDE)
    kept: list[torch.Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0].detach()))
    with torch.inference_mode():
        for pixels, _ in _batches(processor, train, np.arange(len(train))):
            model.eval()(pixels)
    hook.remove()
    features, labels = torch.cat(kept).clone(), torch.tensor(train["label"][:])
    optimizer = torch.optim.AdamW(model.classifier.parameters(), lr=1e-3, weight_decay=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.classifier(features), labels).backward()
        optimizer.step()
    return model, processor


def few_pixels(train: Dataset) -> Made:
    """A network of one layer that sees 8 x 8 pixels: colour and size, and no structure."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    names = dict(enumerate(DIAGNOSES))
    config = ViTConfig(**sizes, image_size=8, patch_size=2, id2label=names, label2id={n: i for i, n in names.items()})
    model, processor = ViTForImageClassification(config), ViTImageProcessorPil(size={"height": 8, "width": 8})
    return _fit(model, processor, train, list(model.parameters()), epochs=20, rate=2e-3), processor


def constant(train: Dataset) -> Made:
    """The mix of diagnoses of the training images, whatever the picture."""
    model, processor = few_pixels(train.select(range(1)))
    counts = np.bincount(train["label"][:], minlength=len(DIAGNOSES)) + 1
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor(np.log(counts / counts.sum())))
    return model, processor


MAKERS = {
    "lite0, two epochs": fine_tuned,
    "lite0, new head": new_head,
    "8 x 8 pixels": few_pixels,
    "constant": constant,
}


def _batches(
    processor: BaseImageProcessor, dataset: Dataset, order: np.ndarray
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for start in range(0, len(order), _BATCH):
        rows = dataset[order[start : start + _BATCH]]
        pixels = processor([image.convert("RGB") for image in rows["image"]], return_tensors="pt")["pixel_values"]
        yield pixels, torch.tensor(rows["label"])


def _fit(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    train: Dataset,
    parameters: list[nn.Parameter],
    *,
    epochs: int,
    rate: float,
) -> PreTrainedModel:
    pixels, labels = (torch.cat(part) for part in zip(*_batches(processor, train, np.arange(len(train))), strict=True))
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(_BATCH):
            shown = pixels[rows].flip(-1) if torch.rand(()) < 0.5 else pixels[rows]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(shown).logits, labels[rows]).backward()
            optimizer.step()
    return model.eval()


def as_markdown(reports: dict[str, BenchmarkReport]) -> str:
    """The tables that stand in docs/results.md, a figure each."""
    clinics = [score.clinic for score in next(iter(reports.values())).clinics]
    tables = []
    for title, figure in FIGURES.items():
        lines = [f"| {title} | " + " | ".join(clinics) + " |", "|---" * (len(clinics) + 1) + "|"]
        for name, report in reports.items():
            cells = [figure(score) if score.figures else "none left" for score in report.clinics]
            lines.append("| " + " | ".join([name, *cells]) + " |")
        tables.append("\n".join(lines) + "\n")
    return "\n".join(tables)


def _auroc(score: ClinicScore) -> str:
    exposed = f", {score.exposed} left out" if score.exposed else ""
    return f"{format_estimate(score.auroc)}, n = {score.measured}{exposed}"


def _loss_gap(score: ClinicScore) -> str:
    return format_estimate(score.probe.difference) if score.probe else "not probed"


FIGURES = {
    "AUROC": _auroc,
    "above the best shortcut": results.above_shortcut,
    "calibration error": results.calibration_error,
    "melanoma lesions flagged as served": results.flagged_as_served,
    "loss on test less training images": _loss_gap,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", required=True, help="a folder, or USER/REPO of the Hub")
    parser.add_argument("--images", nargs="+", required=True, help="folders of its images")
    parser.add_argument("--models", nargs="*", default=["space/model"], help="what is measured beside the four")
    parser.add_argument("--output_dir", default="runs/benchmark", help="folder of the four models and the tables")
    parser.add_argument("--per_clinic", type=int, default=300, help="test images of a clinic, at most")
    parser.add_argument("--train_per_clinic", type=int, default=600, help="training images of a clinic, at most")
    settings = parser.parse_args()
    sys.exit(run_command(lambda: main(settings)))
