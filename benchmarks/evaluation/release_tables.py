"""The tables of a release that docs/results.md shows, out of its `metrics.json`.

    python -m benchmarks.evaluation.release_tables space/model

A test holds the page to those of the bundled release.
"""

import argparse
import sys
from pathlib import Path

from dermalert_space.contract import BUNDLED, Json
from dermalert_space.estimate import format_estimate

from dermalert.errors import run_command
from dermalert.release import release_folder

SETS = {
    "held_out": "held out",
    "official_test": "Test as shipped, its own labels",
    "clean_test": "clean Test, the archive's labels",
}
FIGURES = {
    "accuracy": "accuracy",
    "balanced accuracy": "balanced_accuracy",
    "the same, both benign keratoses as one": "balanced_accuracy_benign_keratosis_merged",
    "the same, were all diagnoses equally common": "balanced_accuracy_equal_priors",
    "macro AUROC": "macro_auroc",
    "melanoma AUROC": "melanoma.auroc",
    "melanoma AUROC against nevi alone": "melanoma.auroc_nevi",
    "melanoma sensitivity at the alert threshold, as served": "melanoma.sensitivity_refusals_missed",
    "the same of lesions, by their worst photo": "melanoma.lesions.sensitivity_as_served",
    "the same of images, without abstention": "melanoma.sensitivity",
    "specificity there, as served": "melanoma.specificity_as_served",
    "specificity there, among nevi alone, without abstention": "melanoma.specificity_nevi",
    "malignant or precursor, AUROC": "malignant.auroc",
    "its sensitivity at the attention threshold, as served": "malignant.sensitivity_as_served",
    "specificity there, as served, of malignant or precursor": "malignant.specificity_as_served",
    "expected calibration error, before the calibration": "calibration.before.ece",
    "after it": "calibration.ece",
}


def by_set(metrics: Json) -> str:
    """A row a figure, a column a set of images that the release reports."""
    sets = [metrics["splits"][name] for name in SETS]
    rows = [["", *SETS.values()], ["---"] * (len(SETS) + 1)]
    rows.append(["images, melanomas", *(f"{one['n']}, {one['melanoma']['n']}" for one in sets)])
    rows += [[row, *(format_estimate(_at(one, key)) for one in sets)] for row, key in FIGURES.items()]
    return _as_table(rows)


def by_source(metrics: Json) -> str:
    """A row for each source of the held-out images."""
    held_out = metrics["splits"]["held_out"]
    observed = held_out["calibration"]["melanoma"]["by_source"]
    rows = [
        ["source", "n, melanomas", "melanoma AUROC", "sensitivity, as served", "specificity, as served", "O/E"],
        ["---"] * 6,
    ]
    for name, of in held_out["melanoma"]["by_source"].items():
        keys = ("auroc", "sensitivity_as_served", "specificity_as_served")
        figures = [of[key] for key in keys] + [observed[name]["observed_over_expected"]]
        rows.append([name, f"{of['n'] + of['others']}, {of['n']}", *map(format_estimate, figures)])
    return _as_table(rows)


def by_diagnosis(metrics: Json) -> str:
    """A row for each diagnosis: how often the likeliest diagnosis is right, held out."""
    rows = [["diagnosis", "n", "recall", "AUROC"], ["---"] * 4]
    for name, of in metrics["splits"]["held_out"]["per_class"].items():
        rows.append([name, str(of["n"]), format_estimate(of["sensitivity"]), format_estimate(of["auroc"])])
    return _as_table(rows)


def _at(figures: Json, path: str) -> Json:
    for key in path.split("."):
        figures = figures[key]
    return figures


def _as_table(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(release: Path) -> None:
    """Print all three."""
    metrics = release_folder.read_metrics(release)
    print(by_set(metrics), by_source(metrics), by_diagnosis(metrics), sep="\n\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path, nargs="?", default=BUNDLED, help="folder; by default the bundled one")
    arguments = parser.parse_args()
    sys.exit(run_command(lambda: main(arguments.release)))
