"""The last lines of a training name the figures that matter, and commands that work."""

import copy
import json

import pytest
from dermalert_space.contract import BUNDLED

from dermalert.formatting import percent_at_least
from dermalert.release import release_folder, summary


@pytest.fixture(scope="module")
def figures() -> dict:
    return release_folder.read_metrics(BUNDLED)


@pytest.fixture
def lines(figures, tmp_path) -> list[str]:
    return summary.what_next(tmp_path / "run" / "release", figures, published=False).splitlines()


def test_the_alert_is_said_as_served_with_its_bound(lines, figures):
    melanoma, alert = figures["splits"]["held_out"]["melanoma"], figures["alert"]
    (line,) = (line for line in lines if line.startswith("Melanoma alert as served"))
    assert f"sensitivity {melanoma['lesions']['sensitivity_as_served']['value']:.2f} [" in line
    assert f"specificity {melanoma['specificity_as_served']['value']:.2f} [" in line
    (bound,) = (line for line in lines if line.startswith(f"On {alert['lesions']} calibration lesions"))
    assert percent_at_least(alert["lower_bound"]) in bound
    assert ("is met" in bound) is alert["bound_met"]


def test_the_best_shortcut_baseline_stands_beside_the_model(lines, figures):
    best = max(baseline["melanoma_auroc"]["value"] or 0 for baseline in figures["baselines"].values())
    (line,) = (line for line in lines if "shortcut baseline" in line)
    assert line.startswith(f"Melanoma AUROC {figures['splits']['held_out']['melanoma']['auroc']['value']:.2f} [")
    assert f" has {best:.2f} [" in line


def test_undefined_figures_are_left_out(figures, tmp_path):
    undefined = copy.deepcopy(figures)
    undefined["alert"]["threshold"] = None
    undefined["splits"]["held_out"]["melanoma"]["auroc"] = {"value": None, "low": None, "high": None}
    text = summary.what_next(tmp_path, undefined, published=False)
    assert "Melanoma" not in text and "None" not in text


def test_it_ends_with_the_card_and_what_to_type(lines, figures, tmp_path):
    release = tmp_path / "run" / "release"
    assert [line.partition(":")[2].strip() for line in lines[-5:]] == [
        str(release),
        str(release / "README.md"),
        f'pipeline("image-classification", model={json.dumps(str(release))}, top_k=9)',
        f"dermalert space {release}, or make space RELEASE={release}",
        f"dermalert publish {release.parent} USER/REPO --tag v1.0.0",
    ]
    assert "dermalert publish" not in summary.what_next(release, figures, published=True)
