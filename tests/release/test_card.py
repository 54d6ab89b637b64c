"""The card as a product: it renders whatever is defined, and holds no number that was not measured."""

import re

import jinja2
import numpy as np
import pytest
import yaml
from dermalert_space import contract
from dermalert_space.contract import NOT_A_DEVICE
from dermalert_space.estimate import format_estimate
from huggingface_hub import ModelCard
from support.card_numbers import CONSTANTS, EVERYTHING, TEMPLATE, body, typed_by_hand
from support.releases import figures

from dermalert import formatting
from dermalert.config import of_the_result, published
from dermalert.data import provenance
from dermalert.release import card, widget
from dermalert.training import flags

CASES = [{}, {"melanomas": False}, {"official_test": False}]


@pytest.mark.parametrize("case", CASES)
def test_the_card_renders_with_valid_front_matter_whatever_is_defined(case):
    text = card.render_card(figures(**case), EVERYTHING)
    assert yaml.safe_load(text.split("---\n", 2)[1])["pipeline_tag"] == "image-classification"
    assert NOT_A_DEVICE in text
    assert "None" not in body(text)
    assert "nan" not in text.split()
    assert "\n\n\n\n" not in text


@pytest.mark.parametrize("case", CASES)
def test_every_number_of_the_card_comes_from_the_figures(case):
    assert typed_by_hand(figures(**case)) == []


def test_a_number_that_was_typed_by_hand_is_found(tmp_path, monkeypatch):
    template = TEMPLATE.read_text() + "\nIt has an AUROC of 0.97, n = 80, and a sensitivity of 98.7%.\n"
    (tmp_path / "model_card.md").write_text(template)
    monkeypatch.setattr(card, "_CARD", tmp_path / "model_card.md")
    assert typed_by_hand(figures()) == ["0.97", "80", "98.7"]


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
    no_interval_without_n(card.render_card(figures(**case), EVERYTHING))


def no_interval_without_n(text: str) -> None:
    for block in body(text).split("\n\n"):
        rows = block.strip().splitlines()
        if not re.search(r"\[\d", block):
            continue
        head = re.split(r"\s*\|\s*", rows[0])
        assert "n" in head or "n = " in rows[0], block[:200]


def test_the_card_names_what_the_model_was_never_shown():
    text = card.render_card(figures())
    assert "No training image shows seborrheic keratosis: it cannot recognise that." in text
    assert "No training image shows melanoma" not in text


def test_a_figure_that_is_missing_stops_the_card():
    broken = figures()
    del broken["alert"]["lower_bound"]
    with pytest.raises(jinja2.UndefinedError, match="lower_bound"):
        card.render_card(broken)


def test_the_model_index_is_what_the_hub_reads(tmp_path):
    (tmp_path / "README.md").write_text(card.render_card(figures()))
    results = ModelCard.load(tmp_path / "README.md").data.eval_results
    report = figures()["splits"]
    found = {(result.dataset_split, result.metric_name): result.metric_value for result in results}
    assert found["held_out", "Melanoma AUROC"] == report["held_out"]["melanoma"]["auroc"]["value"]
    assert found["external/clinic", "Accuracy"] == report["held_out"]["accuracy"]["value"]
    assert all("n = 80" in result.dataset_name for result in results)
    assert {result.dataset_type for result in results} == {"imagefolder"}
    assert not any(result.metric_config or result.metric_args for result in results)


def test_a_figure_that_is_undefined_is_not_in_the_model_index():
    matter = yaml.safe_load(card.render_card(figures(melanomas=False)).split("---\n", 2)[1])
    names = {metric["name"] for result in matter["model-index"][0]["results"] for metric in result["metrics"]}
    assert "Melanoma AUROC" not in names
    assert "Accuracy" in names


@pytest.mark.parametrize(
    ("trained_on", "generated", "licence"),
    [
        (["HAM10000", "older ISIC archive"], False, "cc-by-nc-4.0"),
        (["HAM10000", "my clinic"], False, "other"),
        (["PAD-UFES-20"], False, "cc-by-4.0"),
        (["PAD-UFES-20", "newer ISIC archive"], False, "cc-by-nc-4.0"),
        (["generated"], True, "apache-2.0"),
    ],
)
def test_the_licence_of_the_weights_follows_the_images(trained_on, generated, licence):
    report = figures()
    report["data"] |= {"trained_on": trained_on, "generated": generated}
    assert yaml.safe_load(card.render_card(report).split("---\n", 2)[1])["license"] == licence


@pytest.mark.parametrize("origin", sorted(set(provenance.ORIGINS) - {provenance.GENERATED}))
def test_a_card_credits_every_origin_that_was_trained_on(origin):
    report = figures()
    report["data"] |= {"trained_on": [origin, "my clinic"], "generated": False}
    assert f"- {provenance.ORIGINS[origin].credit}" in card.render_card(report).splitlines()


def test_a_shortcut_is_said_on_the_first_page():
    text = card.render_card(figures())
    assert (
        "**Shortcut (n = 80): In balanced accuracy it is not shown to be above mean colour and frame only: it may"
        in text
    )
    assert "made. In melanoma AUROC it is above each of them.**" in text
    report = figures()
    report["shortcut"] = {
        "found": False,
        "not_measured": ["melanoma_auroc"],
        "balanced_accuracy": [],
        "melanoma_auroc": [],
    }
    text = card.render_card(report)
    assert "Shortcut (" not in text
    assert "In balanced accuracy it is above each of them. Melanoma AUROC could not be compared." in text


def test_the_card_says_how_it_differs_from_the_version_before():
    report = figures()
    assert "v1.0.0 follows no other version." in card.render_card(report)
    report |= of_a_second(report)
    text = card.render_card(report)
    differs = "`--logit_adjustment True` there, `--logit_adjustment False` here."
    assert f"v1.0.0 follows v0.9.0. What differs in the settings: {differs}" in text
    assert "different data" in text
    assert typed_by_hand(report) == []


def of_a_second(report: dict, *, refused_for: tuple[str, ...] = ()) -> dict:
    """What publishing adds to the figures of a second release."""
    held_out = report["splits"]["held_out"]
    headline = {"n": 70, "ece": held_out["calibration"]["ece"]}
    headline |= dict.fromkeys(("balanced_accuracy", "macro_auroc", "melanoma_auroc"), held_out["accuracy"])
    moved = dict.fromkeys(("old", "new", "difference"), held_out["accuracy"])
    sides = {"images": 60, "gained": 3, "lost": 2, "p": 0.0123}
    compared = {"n": 70, "groups": 68, "melanoma_auroc": moved, "sensitivity": moved, "specificity": moved}
    compared |= {"alerts": {"melanomas": sides, "others": sides | {"p": 3.2e-7}}}
    gate = {"against": "v0.9.0", "compared": compared, "refused_for": list(refused_for)}
    return {
        "released": "2026-11-25",
        "previous": {
            "version": "v0.9.0",
            "fingerprint": "another",
            "settings": {"rebalance": [True, False]},
            "held_out": headline,
        },
        "history": [{"version": f"v0.{i}.0", "released": "2026-10-11" if i else None, **headline} for i in (9, 8, 0)],
        "gate": gate | {"accepted_because": "it has 5 MB" if refused_for else None},
    }


WORSE = "the melanoma AUROC has changed by -0.04 [-0.06 to -0.02]"


@pytest.mark.parametrize(("first", "refused_for"), [(True, ()), (True, (WORSE,)), (False, (WORSE,))])
def test_what_publishing_adds_comes_from_the_figures_too(first, refused_for):
    report = figures()
    report |= of_a_second(report, refused_for=refused_for)
    if first:
        del report["previous"], report["history"]
        report["gate"] |= {"against": None, "compared": None}
    text = card.render_card(report, EVERYTHING)
    assert typed_by_hand(report) == []
    assert ("and that neither has learnt from" in text) != first
    assert ("It is published against the rules" in text) == bool(refused_for)
    assert "None" not in body(text)
    assert "\n\n\n\n" not in text
    no_interval_without_n(text)


@pytest.mark.parametrize(
    ("sides", "names"), [(["old"], ["v0.9.0"]), (["new"], ["v1.0.0"]), (["old", "new"], ["v0.9.0", "v1.0.0"])]
)
def test_the_card_claims_nothing_of_what_a_release_without_a_list_has_learnt_from(sides, names):
    report = figures()
    report |= of_a_second(report)
    report["gate"]["compared"]["learnt_from_not_known"] = sides
    text = card.render_card(report, EVERYTHING)
    assert "neither has learnt from" not in text
    assert re.findall(r"What (\S+) has learnt from is not known", text) == names
    assert typed_by_hand(report) == []
    assert "\n\n\n\n" not in text
    no_interval_without_n(text)


@pytest.mark.parametrize("seed", range(4))
def test_upper_limits_are_rounded_up_and_lower_ones_down(seed):
    rng = np.random.default_rng(seed)
    values = [*(10 ** rng.uniform(-9, 0, 500)), 3.254e-06, 0.0009, 9.6e-5, 0.07, 0.57, 0.95, 1.0, 1 / 3, 1e-12]
    for value in values:
        assert float(formatting.at_most(value)) >= value
        assert float(formatting.at_most(value)) <= value * 2 + 1e-15
        assert float(formatting.percent_at_most(value)[:-1]) >= 100 * value * (1 - 1e-15)
        assert float(formatting.percent_at_least(value)[:-1]) <= 100 * value * (1 + 1e-15)
        assert float(formatting.percent_at_most(value)[:-1]) - float(formatting.percent_at_least(value)[:-1]) <= 0.1001
    assert formatting.at_most(3.254e-06) == "4e-06"
    assert (formatting.percent_at_least(0.95), formatting.percent_at_most(0.95)) == ("95.0%", "95.0%")


def test_generated_lesions_stand_beside_no_dermatologist_and_at_no_prevalence():
    report = figures()
    report["data"]["generated"] = True
    text, real = (
        card.render_card(report | {"data": report["data"] | {"generated": g}}, EVERYTHING) for g in (True, False)
    )
    of_skin = ("Beside dermatologists", "at a prevalence of", "predictive values", "dermatology", "- melanoma")
    for words_of_skin in of_skin:
        assert words_of_skin not in text
        assert words_of_skin in real
    assert yaml.safe_load(text.split("---\n", 2)[1])["tags"] == ["dermalert", "synthetic"]
    assert "\n# dermalert demo (generated lesions) v1.0.0\n" in text
    assert "\n# dermalert v1.0.0\n" in real
    assert "generated lesions" not in real


def test_the_table_of_failures_says_which_raised_the_alert():
    report = figures()
    rows = report["splits"]["held_out"]["failures"]["lowest_melanomas"]
    text = card.render_card(report, EVERYTHING)
    for row in rows:
        assert f"| {row['image_id']} | {row['score']:.3f} | {'yes' if row['alert'] else 'no'} |" in text


def test_the_table_of_failures_says_on_which_the_release_abstains():
    report = figures()
    row = report["splits"]["held_out"]["failures"]["lowest_melanomas"][0] | {"image_id": "declined", "alert": True}
    report["splits"]["held_out"]["failures"]["lowest_melanomas"] = [row | {"refused": True}]
    text = card.render_card(report, EVERYTHING)
    assert f"| declined | {row['score']:.3f} | abstains |" in text
    del row["refused"]  # as in the figures of a release made before
    report["splits"]["held_out"]["failures"]["lowest_melanomas"] = [row]
    assert f"| declined | {row['score']:.3f} | yes |" in card.render_card(report, EVERYTHING)


def test_what_was_found_elsewhere_is_said_only_where_it_was_measured():
    report = figures()
    report["data"]["external"] = {}
    report["splits"] = {k: side for k, side in report["splits"].items() if not k.startswith("external/")}
    assert "the table by source says what was found" not in card.render_card(report, EVERYTHING)


def with_subgroup(p_corrected: float) -> dict:
    report = figures()
    found = {"n_melanomas": 20, "n_found": 17, "sensitivity": {"value": 0.85, "low": 0.62, "high": 0.97}}
    rest = {"n_melanomas": 100, "n_found": 100, "sensitivity": {"value": 1.0, "low": 0.96, "high": 1.0}}
    kind, told = next((kind, told) for kind, told in report["splits"]["held_out"]["subgroups"].items() if "of" in told)
    name = next(iter(told["of"]))
    test = {"kind": kind, "name": name, **found, "rest": rest, "p": 0.004, "p_corrected": p_corrected}
    report["splits"]["held_out"]["subgroup_sensitivity"] = {"tests": [test], "weakest": test, "sentences": []}
    return report


@pytest.mark.parametrize(("p_corrected", "named"), [(0.049, True), (0.051, False)])
def test_the_limits_name_the_subgroups_whose_melanomas_are_missed_beyond_chance(p_corrected, named):
    limits = card.render_card(with_subgroup(p_corrected)).split("## Limits")[1].split("\n## ")[0]
    assert ("finds 17 of 20 melanomas, 0.85 [0.62-0.97]; of the others whose" in limits) == named


def test_the_table_of_subgroups_has_their_lesions_as_served_where_they_were_compared():
    table = card.render_card(with_subgroup(1.0)).split("## Subgroups")[1].split("\n## ")[0]
    assert "sensitivity and specificity without abstention" in table
    assert table.count("0.85 [0.62-0.97] (n = 20) |") == 1


def summary(text: str) -> dict[str, str]:
    """The rows of the table on top, by their bold titles."""
    rows = text.split("## How to use it")[0].splitlines()
    return dict(re.findall(r"^\| \*\*([^|]*?)\*\*:? ?[^|]*\| (.*) \|$", "\n".join(rows), flags=re.M))


def test_the_summary_says_for_whom_how_good_and_what_for_not():
    report, served = with_subgroup(1.0), figures()["splits"]["held_out"]["melanoma"]
    rows = summary(card.render_card(report, EVERYTHING))
    assert "Photographs taken with a phone" in rows["Not for"]
    assert format_estimate(served["lesions"]["sensitivity_as_served"]) in rows["Melanoma alert, as served"]
    assert format_estimate(served["specificity_as_served"]) in rows["Melanoma alert, as served"]
    assert "at least 95.1% with 95% confidence" in rows["Melanoma alert, as served"]
    ppv = served["predictive_values"]["0.05"]["ppv"]
    assert f"Of 100 alerts, {format_estimate(ppv, 0, times=100)} are melanomas" in rows["Where 5% are melanomas"]
    assert "finds 17 of 20 melanomas" in rows["Weakest subgroup"]


def test_an_unseen_clinic_is_one_whose_source_was_not_learnt_from():
    report = figures()
    measured = format_estimate(report["splits"]["external/clinic"]["melanoma"]["auroc"])
    assert f"Melanoma AUROC {measured}" in summary(card.render_card(report))["At an unseen clinic"]
    assert "| External validation | CLAIM, TRIPOD+AI | reported" in card.render_card(report)
    report["data"]["trained_on"].append("clinic")
    text = card.render_card(report)
    assert summary(text)["At an unseen clinic"].startswith("Not measured in this release.")
    assert "benchmarks/evaluation/sources.py" in summary(text)["At an unseen clinic"]
    assert "| External validation | CLAIM, TRIPOD+AI | not done" in text


def test_generated_lesions_promise_nothing_of_clinics():
    report = figures()
    report["data"] |= {"generated": True, "trained_on": ["generated"], "external": {}}
    del report["splits"]["external/clinic"]
    rows = summary(card.render_card(report, EVERYTHING))
    assert rows["At an unseen clinic"] == "Not measured in this release."
    assert rows["Not for"].startswith("Real skin.")
    assert "Where 5% are melanomas" not in rows


def test_markdown_reads_each_table_and_each_fold_as_one():
    lines = card.render_card(figures(), EVERYTHING).splitlines()
    opened = [i for i, line in enumerate(lines) if line == "<details>"]
    assert len(opened) == lines.count("</details>") > 10
    assert all(lines[i + 1].startswith("<summary>") and lines[i + 2] == "" for i in opened)
    first_rows = [i for i, line in enumerate(lines) if line.startswith("|") and not lines[i - 1].startswith("|")]
    assert len(first_rows) > 10
    assert all(lines[i - 1] == "" and set(lines[i + 1]) <= set("| -") for i in first_rows)


def test_the_settings_of_the_card_are_flags_that_train_takes():
    def settings(*words: str) -> dict:
        config = flags.parse(["--dataset_name", "demo", *words])
        return published(of_the_result(config, processes=1, mixed_precision=None))

    report = figures()
    report["training"]["settings"] = given = settings("--num_train_epochs", "3", "--store_dtype", "float16")
    text = card.render_card(report)
    words = " ".join(re.findall(r"`(--[a-z_]+ [^`]+)`", text.split("The flags of `dermalert train`:")[1])).split()
    assert {"--num_train_epochs", "--early_stopping_patience", "--store_dtype"} < set(words)
    assert settings(*words) == given != settings()
    assert "images a step: 32" in text


def test_the_card_says_how_often_the_prediction_sets_are_right_and_of_what_they_promise_nothing():
    report = figures()
    sets = report["splits"]["held_out"]["prediction_sets"]
    part = card.render_card(report).split("## Prediction sets")[1].split("\n## ")[0]
    assert f"one of {format_estimate(sets['coverage'])} of those" in " ".join(part.split())
    melanoma = sets["per_class"]["melanoma"]
    assert f"| melanoma | {melanoma['n']} | {format_estimate(melanoma['coverage'])} |" in part
    missing = set(report["splits"]["held_out"]["per_class"]) - set(sets["per_class"])
    assert missing and all(name in part.split("Nothing is promised of ")[1] for name in missing)
    del report["splits"]["held_out"]["prediction_sets"]
    assert "## Prediction sets" not in card.render_card(report)


def test_a_card_offers_photographs_to_try_where_the_release_has_them(tmp_path):
    report = figures()
    assert "widget" not in yaml.safe_load(card.render_card(report).split("---\n", 2)[1])
    widget.add(tmp_path)
    text = card.render_card(report, frozenset(example.file for example in widget.photographs()))
    offered = [each["src"] for each in yaml.safe_load(text.split("---\n", 2)[1])["widget"]]
    assert offered and all(contract.belongs(name) and (tmp_path / name).is_file() for name in offered)
    for example in widget.photographs():
        assert "CC BY 4.0" in example.credit and f"- `{example.file}`: {example.credit}" in text


def test_the_front_matter_names_the_language_and_what_is_on_the_hub():
    report = figures()
    matter = yaml.safe_load(card.render_card(report).split("---\n", 2)[1])
    assert (matter["language"], "roc_auc" in matter["metrics"]) == ("en", True)
    assert not {"datasets", "base_model", "base_model_relation"} & matter.keys()
    report["base_model"] = "google/vit@main"
    report["data"]["hub_datasets"] = ["somebody/lesions"]
    matter = yaml.safe_load(card.render_card(report).split("---\n", 2)[1])
    assert (matter["base_model"], matter["base_model_relation"]) == ("google/vit", "finetune")
    assert matter["datasets"] == ["somebody/lesions"]


def test_the_figures_of_a_release_made_before_make_a_card():
    report = figures()
    for split in report["splits"].values():
        for key in ("lesions", "specificity_as_served"):
            split["melanoma"].pop(key, None)
        for key in ("malignant", "subgroup_sensitivity", "balanced_accuracy_equal_priors"):
            split.pop(key, None)
        split["calibration"].pop("melanoma", None)
    rows = summary(card.render_card(report, EVERYTHING))
    assert "Melanoma alert, without abstention" in rows
    assert rows["Weakest subgroup"] == "Not known: not measured in this release."
