"""The card as a product: it renders whatever is defined, and holds no number that was not measured."""

import re
from pathlib import Path

import jinja2
import pytest
import yaml
from huggingface_hub import ModelCard
from releases import figures

from dermalert import card
from dermalert.figures import READERS
from space.triage import NOT_A_DEVICE

TEMPLATE = Path(card.__file__).parent.parent / "model_card.md"
EVERYTHING = frozenset(
    f"{name}.png"
    for name in ("learning_curves", "roc", "alert_trade_off", "per_class", "confusion", "reliability", "artefacts")
)
CASES = [{}, {"melanomas": False}, {"official_test": False}]

# Numbers of the text itself: what an interval, a range or a pipeline is, and what others found.
CONSTANTS = {
    "95 % intervals",
    "95 % interval",
    "95 %",
    "top_k=9",
    "0 to 2",
    "0 and 0.2",
    "80 %",
    "per 100 images",
    "HAM10000",
}
CONSTANTS |= {"5 %", "71 %"}  # what the baselines see


def body(text: str) -> str:
    return text.split("---\n", 2)[2]


def leaves(value) -> list:
    """Return all numbers and texts of a report, names of its keys included."""
    if isinstance(value, dict):
        found = [leaf for item in value.values() for leaf in leaves(item)]
        return found + [key for key in value if isinstance(key, str)]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def untraced(text: str, report: dict) -> list[str]:
    """Return the numbers of a card that no leaf of `metrics.json` gives at their precision, plain or in percent."""
    for constant in sorted(CONSTANTS, key=len, reverse=True):
        text = text.replace(constant, " ")
    for reader in READERS:
        text = text.replace(f"{reader.who}, {reader.task}, other images ({reader.source})", " ")
        text = text.replace(f"| {reader.sensitivity} |", " ").replace(f"{reader.specificity}:", " ")
    found = leaves(report)
    for word in sorted((leaf for leaf in found if isinstance(leaf, str)), key=len, reverse=True):
        text = text.replace(word, " ")
    text = re.sub(r"evaluation/\S+", " ", text)
    numbers = [leaf for leaf in found if isinstance(leaf, int | float) and not isinstance(leaf, bool)]
    numbers += [
        one["n"] + one["others"] for side in report["splits"].values() for one in side["melanoma"]["by_source"].values()
    ]
    known = {shown for number in numbers for shown in _as_shown(number)}
    known |= {f"{float(key):.1%}" for key in ("0.01", "0.05", "0.20")}
    return [
        number
        for number in re.findall(r"-?\d+(?:\.\d+)?%?", text.replace("-", " -"))
        if number.lstrip("-") not in known
    ]


def _as_shown(number: float) -> set[str]:
    number = abs(number)
    shown = {f"{number:.{digits}f}" for digits in range(4)} | {f"{number:.1%}", str(number)}
    return shown | {str(round(number))}


@pytest.mark.parametrize("case", CASES)
def test_the_card_renders_with_valid_front_matter_whatever_is_defined(case):
    text = card.render_card(figures(**case), EVERYTHING)
    assert yaml.safe_load(text.split("---\n", 2)[1])["pipeline_tag"] == "image-classification"
    assert NOT_A_DEVICE in text
    assert "None" not in body(text)
    assert "nan" not in text.split()
    assert "\n\n\n\n" not in text


@pytest.mark.parametrize("case", CASES)
def test_every_number_of_the_card_is_in_the_figures(case):
    report = figures(**case)
    assert untraced(body(card.render_card(report, EVERYTHING)), report) == []


def test_a_number_that_was_typed_by_hand_is_found():
    report = figures()
    text = card.render_card(report) + "It finds 98.7% of melanomas, sensitivity 0.9871 and 12345 images."
    assert untraced(body(text), report) == ["98.7%", "0.9871", "12345"]


def test_the_template_has_no_figures_of_its_own():
    text = re.sub(
        r"\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}",
        " ",
        body("---\n---\n" + TEMPLATE.read_text().split("---\n", 2)[2]),
        flags=re.S,
    )
    for constant in sorted(CONSTANTS, key=len, reverse=True):
        text = text.replace(constant, " ")
    assert re.findall(r"\d+", text) == []


@pytest.mark.parametrize("case", CASES)
def test_no_interval_stands_without_the_number_of_images_behind_it(case):
    text = body(card.render_card(figures(**case), EVERYTHING))
    for block in text.split("\n\n"):
        rows = block.strip().splitlines()
        if not re.search(r"\[\d", block):
            continue
        head = re.split(r"\s*\|\s*", rows[0])
        assert "n" in head or "n = " in rows[0], block[:200]


def test_the_card_names_what_the_model_was_never_shown():
    text = card.render_card(figures())
    assert "It was shown no image of seborrheic keratosis, and cannot tell it." in text
    assert "no image of melanoma" not in text


def test_a_figure_that_is_missing_stops_the_card():
    broken = figures()
    del broken["alert"]["lower_bound"]
    with pytest.raises(jinja2.UndefinedError, match="lower_bound"):
        card.render_card(broken)


def test_the_model_index_is_what_the_hub_reads(tmp_path):
    (tmp_path / "README.md").write_text(card.render_card(figures()))
    results = ModelCard.load(tmp_path / "README.md").data.eval_results
    report = figures()["splits"]
    found = {(result.dataset_split, result.metric_type): result.metric_value for result in results}
    assert found["held_out", "melanoma_roc_auc"] == report["held_out"]["melanoma"]["auroc"]["value"]
    assert found["external/clinic", "accuracy"] == report["held_out"]["accuracy"]["value"]
    assert all("n = 80" in result.dataset_name for result in results)


def test_a_figure_that_is_undefined_is_not_in_the_model_index():
    matter = yaml.safe_load(card.render_card(figures(melanomas=False)).split("---\n", 2)[1])
    kinds = {metric["type"] for result in matter["model-index"][0]["results"] for metric in result["metrics"]}
    assert "melanoma_roc_auc" not in kinds
    assert "accuracy" in kinds


@pytest.mark.parametrize(
    ("trained_on", "generated", "licence"),
    [
        (["HAM10000", "older ISIC archive"], False, "cc-by-nc-4.0"),
        (["HAM10000", "my clinic"], False, "other"),
        (["generated"], True, "apache-2.0"),
    ],
)
def test_the_licence_of_the_weights_follows_the_images(trained_on, generated, licence):
    report = figures()
    report["data"] |= {"trained_on": trained_on, "generated": generated}
    assert yaml.safe_load(card.render_card(report).split("---\n", 2)[1])["license"] == licence


def test_a_shortcut_is_said_on_the_first_page():
    assert (
        "**Shortcut: In balanced accuracy it is not shown to be above mean colour and frame only:"
        in card.render_card(figures())
    )
    report = figures()
    report["shortcut"] = {"found": False, "balanced_accuracy": [], "melanoma_auroc": []}
    text = card.render_card(report)
    assert "Shortcut:" not in text
    assert "It is above each of them." in text


def test_the_card_says_how_it_differs_from_the_version_before():
    report = figures()
    assert "v1.0.0 follows no other version." in card.render_card(report)
    held_out = {"n": 70, "ece": report["splits"]["held_out"]["calibration"]["ece"]}
    accuracy = report["splits"]["held_out"]["accuracy"]
    held_out |= {"balanced_accuracy": accuracy, "macro_auroc": accuracy, "melanoma_auroc": accuracy}
    report["previous"] = {
        "version": "v0.9.0", "fingerprint": "another", "settings": {"rebalance": [True, False]}, "held_out": held_out,
    }  # fmt: skip
    text = card.render_card(report)
    assert "v1.0.0 follows v0.9.0. What differs in the settings: `rebalance` True there, False here." in text
    assert "different data" in text
    assert untraced(body(text), report) == []
