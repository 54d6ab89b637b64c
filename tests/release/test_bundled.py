import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from dermalert_space import contract
from dermalert_space.contract import BUNDLED, TOLERANCE
from dermalert_space.estimate import format_estimate
from dermalert_space.prediction import threshold_share
from dermalert_space.release import Release
from safetensors.torch import load_file
from support.paths import REPOSITORY
from transformers import pipeline

from benchmarks.evaluation import release_tables
from dermalert.release import release_folder
from dermalert.taxonomy import DIAGNOSES

pytestmark = pytest.mark.integration

MOST_BYTES = 12_000_000
README, RESULTS = REPOSITORY / "README.md", REPOSITORY / "docs" / "results.md"


@pytest.fixture(scope="module")
def figures() -> dict:
    return release_folder.read_metrics(BUNDLED)


def test_it_is_a_whole_release_and_small():
    files = [path for path in BUNDLED.rglob("*") if path.is_file()]
    names = {path.relative_to(BUNDLED).as_posix() for path in files}
    assert all(contract.belongs(name) for name in names)
    needed = {"README.md", "config.json", "preprocessor_config.json", "model.safetensors"}
    of_evaluation = ("metrics.json", "predictions.parquet", "parity.safetensors", "audit.json", "seen.parquet")
    assert names >= needed | {f"evaluation/{name}" for name in of_evaluation}
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES


def test_it_is_stored_in_half_precision_and_computes_in_single():
    tensors = load_file(BUNDLED / "model.safetensors")
    single = {name for name, tensor in tensors.items() if tensor.dtype == torch.float32}
    assert single == {"classifier.weight", "classifier.bias"}  # which hold the calibration
    assert json.loads((BUNDLED / "config.json").read_text())["dtype"] == "float32"
    weights = Release.load(BUNDLED).model.state_dict()
    assert {tensor.dtype for tensor in weights.values()} <= {torch.float32, torch.int64}
    assert all(torch.equal(weights[name], tensor.to(weights[name].dtype)) for name, tensor in tensors.items())


def test_it_answers_as_it_was_measured():
    assert Release.load(BUNDLED).parity_error() <= TOLERANCE


def test_it_is_served_by_its_graph(figures):
    assert Release.load(BUNDLED).graph
    assert figures["onnx"]["graph"]["difference"] < 1e-5


def test_its_card_and_its_alert_are_those_of_its_figures(figures, tmp_path):
    copy = Path(shutil.copytree(BUNDLED, tmp_path / "model"))
    release_folder.write_card(copy)
    assert (copy / "README.md").read_text() == (BUNDLED / "README.md").read_text()
    assert json.loads((BUNDLED / "config.json").read_text())["alert"] == figures["alert"]
    assert json.loads((BUNDLED / "config.json").read_text())["attention"] == figures["attention"]
    assert figures["alert"]["bound_met"] and figures["attention"]["bound_met"]
    assert "license: cc-by-nc-4.0" in (BUNDLED / "README.md").read_text()


def test_it_says_what_made_it(figures):
    of = figures["training"]
    assert all(re.fullmatch("[0-9a-f]{40}", of[key]) for key in ("trained_by", "measured_by"))
    assert {"seed", "split_seed", "epochs", "image_size"} <= set(of["settings"])
    assert not figures["data"]["generated"]


def test_the_results_quote_its_figures(figures):
    text = RESULTS.read_text()
    for table in (release_tables.by_set, release_tables.by_source, release_tables.by_diagnosis):
        assert table(figures) in text


@pytest.mark.parametrize(("split", "row"), [("held_out", "held out, two"), ("official_test", "Test of the nine-class")])
def test_the_table_of_the_readme_quotes_its_figures(figures, split, row):
    line = next(line for line in README.read_text().splitlines() if line.startswith(f"| {row}"))
    measured = figures["splits"][split]
    melanoma = measured["melanoma"]
    keys = ("auroc", "sensitivity_refusals_missed", "specificity_as_served")
    quoted = [f"{measured['n']}, {melanoma['n']}", *(format_estimate(melanoma[key]) for key in keys)]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == quoted


def test_the_readme_says_what_is_not_good(figures):
    text, held_out = README.read_text(), figures["splits"]["held_out"]
    alarms = 1 - held_out["melanoma"]["specificity_as_served"]["value"]
    weakest = held_out["subgroup_sensitivity"]["weakest"]
    assert f"{alarms * 100:.0f} of 100 held-out images that show no melanoma raise the alert" in text
    assert f"{format_estimate(held_out['per_class']['melanoma']['sensitivity'])} of the melanomas" in text
    assert weakest["name"] in text
    assert f"{format_estimate(weakest['sensitivity'])}, of {weakest['n_melanomas']} melanoma lesions" in text
    assert (
        f"above it by {format_estimate(figures['baselines']['mean_colour']['margin']['melanoma_auroc'])}"
        in " ".join(RESULTS.read_text().split())
    )


def test_the_results_say_of_it_what_was_measured(figures):
    text = RESULTS.read_text()
    text = " ".join(text[text.index("## The bundled release") : text.index("## At another clinic")].split())
    held_out, training = figures["splits"]["held_out"], figures["training"]
    quoted = [each["auroc"] for each in held_out["melanoma"]["by_source"].values()]
    quoted += [held_out["melanoma"]["auroc"], held_out["melanoma"]["specificity_nevi_at_sensitivity"]["0.866"]]
    quoted += [held_out["per_class"]["melanoma"]["sensitivity"], figures["baselines"]["mean_colour"]["melanoma_auroc"]]
    quoted += [
        figures["baselines"][name]["margin"]["melanoma_auroc"]
        for name in ("mean_colour", "frame_only", "source_only", "sharpness_only")
    ]
    assert [found for found in map(format_estimate, quoted) if found not in text] == []
    assert f"commit {training['trained_by'][:7]}; {training['seconds'] / 60:.0f} minutes" in text
    of_melanoma = held_out["calibration"]["melanoma"]
    ratios = [of_melanoma, *of_melanoma["by_source"].values()]
    assert [
        found for found in (format_estimate(ratio["observed_over_expected"]) for ratio in ratios) if found not in text
    ] == []
    for name, sentence in (
        ("alert", "{missed} of {lesions} melanomas"),
        ("attention", "{missed} of {lesions} are missed"),
    ):
        point = figures[name]
        assert sentence.format(**point) in text
        assert f"threshold ({threshold_share(point['threshold'])})" in text
        assert f"at least {int(point['lower_bound'] * 1000) / 1000:.3f}" in text
    assert f"{figures['alert']['abstained']} of them by abstention" in text
    weakest = held_out["subgroup_sensitivity"]["weakest"]
    assert format_estimate(weakest["sensitivity"]) in text
    assert f"p = {weakest['p']:.2g}, and {weakest['p_corrected']:.2g} corrected" in text


@pytest.mark.parametrize(("page", "n_rows", "n_sentences"), [(README, 0, 1), (RESULTS, 7, 5)])
def test_each_sensitivity_says_whether_abstention_counts(page, n_rows, n_sentences):
    text = page.read_text()
    rows = [line for line in text.splitlines() if re.match(r"\| [^|]*(sensitivity|specificity)[^|]* \| \d", line)]
    sentences = re.split(r"(?<=[.:;]) |\n\n", re.sub(r"(?<!\n)\n(?!\n)", " ", re.sub(r"(?m)^\|.*$", "", text)))
    measured = [line for line in sentences if re.search(r"sensitivity.* \d\.\d+", line)]
    assert len(rows) == n_rows and len(measured) >= n_sentences
    assert [line for line in rows + measured if "as served" not in line and "without abstention" not in line] == []


def test_the_docs_say_how_fast_its_graph_is_by_the_comparator_of_its_card(figures):
    speed = figures["onnx"]["graph"]["speed"]
    quoted = f"one image {speed['single']:.1f} times and 16 at once {speed['batch']:.1f} times as fast as by PyTorch"
    assert quoted in " ".join((REPOSITORY / "docs" / "release.md").read_text().split())
    assert figures["onnx"]["batch_size"] == 16


def test_a_bare_pipeline_gives_what_was_measured_of_real_images(figures, real_images):
    table = pq.read_table(BUNDLED / "evaluation" / "predictions.parquet").to_pandas()
    table = table[table["split"] == "official_test"].set_index("image_id")
    paths = sorted((real_images / "isic9" / "Test").rglob("*.jpg"))
    assert len(paths) == len(table) == figures["splits"]["official_test"]["n"]
    likeliest = table[list(DIAGNOSES)].idxmax(axis=1)
    right = [likeliest[path.stem] == path.parent.name for path in paths]
    assert np.mean(right) == pytest.approx(figures["splits"]["official_test"]["accuracy"]["value"])
    classify, some = pipeline("image-classification", model=str(BUNDLED)), paths[::4]
    for path, answer in zip(some, classify([str(path) for path in some], top_k=len(DIAGNOSES)), strict=True):
        found = {each["label"]: each["score"] for each in answer}
        recorded = table.loc[path.stem, list(DIAGNOSES)]
        assert max(abs(found[name] - recorded[name]) for name in DIAGNOSES) < TOLERANCE, path.name
