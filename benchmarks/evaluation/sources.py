r"""How the default recipe does at a clinic that it was not shown: each source left out in turn.

    python benchmarks/evaluation/sources.py --dataset_name isic9/ isic2017/ ham10000/ --output_dir runs/sources

trains on all sources but one with the recipe of `train_hf.py`, calibrates there, and asks the model about the source
left out. The images of that source on the side `validation` are not asked: the recipe was chosen on them. Beside it
stands the same model on the held-out images of the sources that it learnt from. All epochs are run, and the best on
validation counts. The same command goes on where it was stopped; `--leave_out NAME` takes one source alone.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets
from dermalert_space import contract, files
from dermalert_space.contract import ALERT_POINT
from dermalert_space.estimate import format_estimate
from dermalert_space.release import Release

import train_hf
from dermalert.config import Config
from dermalert.data import contamination, prepare, schema, splits
from dermalert.errors import UsageError, run_command
from dermalert.evaluation import baselines, evaluate
from dermalert.publishing import deliver
from dermalert.taxonomy import DIAGNOSES, MELANOMA
from dermalert.training import run_folder

_FIGURES = "figures.json"
_FEWEST = 30  # melanomas on the training side of a source that is worth leaving out, or learning from


def main(arguments: argparse.Namespace) -> None:
    """Train and measure what is missing, then print the table of what is there."""
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    sides = prepare.prepare(arguments.dataset_name, Config.label_repair).split(seed=Config.split_seed)
    sources = with_melanomas(sides["train"])
    if len(sources) < 2:
        raise UsageError(f"--dataset_name: two sources with at least {_FEWEST} melanomas to train on are needed.")
    config = Config(
        dataset_name=arguments.dataset_name,
        model_name_or_path=arguments.model_name_or_path,
        image_size=arguments.image_size,
        num_train_epochs=arguments.num_train_epochs,
        early_stopping_patience=arguments.num_train_epochs,
        seed=arguments.seed,
    )
    config = deliver.check(config)
    if contamination.read(contract.find(config.model_name_or_path)):
        raise UsageError(
            f"--model_name_or_path '{config.model_name_or_path}' has learnt from lesions already: "
            "name one that has not."
        )
    data = {side: schema.describe(rows)["fingerprint"] for side, rows in sides.items()}
    for name in arguments.leave_out or sources:
        if name not in sources:
            raise UsageError(f"--leave_out '{name}' is none of the sources: {', '.join(sources)}.")
        run = folder / name.replace(" ", "-")
        settings = dataclasses.asdict(config) | {"left_out": name}
        run_folder.is_finished(run, settings)  # refuses a folder of other settings
        run_folder.claim(run, settings | {"data": data}, needed_bytes=0)
        if not (run / _FIGURES).is_file():
            files.write_json(run / _FIGURES, leave_out(name, config, sides, run))
        run_folder.drop_checkpoints(run)
    print(as_markdown([json.loads(path.read_text()) for path in sorted(folder.glob(f"*/{_FIGURES}"))]))


def with_melanomas(train: Dataset) -> list[str]:
    """The sources that have melanomas enough, in order."""
    origin = np.array([source or "not known" for source in train["source"]])
    melanoma = np.array(train["label"]) == MELANOMA
    return [str(name) for name in np.unique(origin) if (melanoma & (origin == name)).sum() >= _FEWEST]


def leave_out(name: str, config: Config, sides: dict[str, Dataset], folder: Path) -> dict:
    """The figures of a model that has not seen a source, there and among its own."""
    own = {side: of_source(rows, name, inside=False) for side, rows in sides.items()}
    splits.check_classes({side: own[side] for side in splits.SHARES})
    foreign = [of_source(sides[side], name, inside=True) for side in ("train", "calibration", "held_out")]
    foreign = concatenate_datasets(foreign)
    own_groups = {
        group for side in contamination.SPLITS for group in own[side]["group"]
    }  # a lesion that two sources hold
    foreign = foreign.select([i for i, group in enumerate(foreign["group"]) if group not in own_groups])
    data = {"sources": with_melanomas(own["train"]), "generated": False}
    trained = train_hf.learn(config, folder, own, data)
    release = Release(trained.model.eval(), trained.processor, name=f"without {name}")
    measured = evaluate.evaluate(release, {"left_out": foreign, "held_out": own["held_out"]})
    shortcuts = baselines.baselines(own | {"held_out": foreign}, measured["left_out"].predictions.probabilities)
    return {
        "source": name,
        "learnt_from": {DIAGNOSES[i]: own["train"]["label"].count(i) for i in sorted(set(own["train"]["label"]))},
        "settings": {
            "base_model": contract.public_name(Path(config.model_name_or_path)),
            "image_size": config.image_size,
            "epochs": int(config.num_train_epochs),
            "seed": config.seed,
        },
        "training": trained.speed,
        ALERT_POINT: trained.model.config.alert,
        "splits": {side: measured[side].report.to_json() for side in measured},
        "baselines": {name: baseline.to_json() for name, baseline in shortcuts.items()},
    }


def of_source(dataset: Dataset, name: str, *, inside: bool) -> Dataset:
    """The images that were made at a source, or all others."""
    return dataset.select([i for i, s in enumerate(dataset["source"]) if ((s or "not known") == name) == inside])


def as_markdown(runs: list[dict]) -> str:
    """The table that `docs/results.md` shows."""
    lines = [
        "| left out | epochs | n, melanomas | melanoma AUROC | against nevi | sensitivity at the alert | specificity "
        "| ECE | best baseline there | melanoma AUROC among its own, held out |",
        "|---" * 10 + "|",
    ]
    for figures in runs:
        there, own = figures["splits"]["left_out"], figures["splits"]["held_out"]
        melanoma = there["melanoma"]
        rival = max(figures["baselines"].values(), key=lambda baseline: baseline["melanoma_auroc"]["value"] or 0)
        cells = [
            figures["source"],
            f"{figures['settings']['epochs']}",
            f"{there['n']}, {melanoma['n']}",
            *(format_estimate(melanoma[key]) for key in ("auroc", "auroc_nevi", "sensitivity", "specificity")),
            format_estimate(there["calibration"]["ece"]),
            f"{format_estimate(rival['melanoma_auroc'])} ({rival['features']})",
            f"{format_estimate(own['melanoma']['auroc'])}, n = {own['n']}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", nargs="+", required=True, help="as for train_hf.py")
    parser.add_argument("--output_dir", default="runs/sources", help="folder of the figures")
    parser.add_argument("--model_name_or_path", default=Config.model_name_or_path, help="as for train_hf.py")
    parser.add_argument("--image_size", type=int, help="side of the input in pixels; by default the base model's own")
    parser.add_argument(
        "--num_train_epochs", type=int, default=Config.num_train_epochs, help="passes over the training images"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the order and the augmentation")
    parser.add_argument("--leave_out", nargs="+", help="sources; by default each that has melanomas enough, in turn")
    settings = parser.parse_args()
    sys.exit(run_command(lambda: main(settings)))
