import importlib.util
import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from dermalert_space.release import NoRelease, Release
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from support.pictures import class_folders
from support.releases import make_image, make_release
from transformers import ConvNextConfig, ConvNextForImageClassification, ViTImageProcessorPil
from typer.testing import CliRunner

from dermalert.cli import app
from dermalert.data import contamination, loading
from dermalert.errors import UsageError
from dermalert.evaluation import any_checkpoint
from dermalert.evaluation.label_map import classes, read_label_map
from dermalert.release import fit_abstention
from dermalert.taxonomy import DIAGNOSES, ISIC_2025, MALIGNANT

pytestmark = pytest.mark.integration

HAM = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
MELANOMA, NEVUS = DIAGNOSES.index("melanoma"), DIAGNOSES.index("nevus")


def checkpoint(folder, labels, *, likeliest=None):
    """A tiny classifier of these classes; where `likeliest` is given, that is its prediction of each image."""
    config = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32, num_labels=len(labels))
    config.id2label, config.label2id = dict(enumerate(labels)), {name: i for i, name in enumerate(labels)}
    torch.manual_seed(0)
    model = ConvNextForImageClassification(config)
    torch.nn.init.normal_(model.classifier.weight, std=0.3)
    if likeliest is not None:
        model.classifier.bias.data[list(labels).index(likeliest)] += 50
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def without_weights(folder, part):
    """A checkpoint that lacks the weights whose names hold this part."""
    weights = {name: weight for name, weight in load_file(folder / "model.safetensors").items() if part not in name}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def evaluate(*words):
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


def printed_report(*words, tmp_path):
    """A report as it is written for machines, and what is printed of it."""
    done = evaluate(*words, "--json", tmp_path / "report.json")
    assert done.exit_code == 0, done.output
    return json.loads((tmp_path / "report.json").read_text()), done.output


def report_of(*words, tmp_path):
    return printed_report(*words, tmp_path=tmp_path)[0]


def configured(folder, **settings):
    """A checkpoint whose configuration says this too."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder


# What the classes of a checkpoint cover.


def test_seven_classes_of_ham10000_cover_all_nine_diagnoses():
    label_map = classes(HAM)
    covered = dict(zip(label_map.names, label_map.covers, strict=True))
    assert covered["bkl"] == {"pigmented benign keratosis", "seborrheic keratosis"}
    assert covered["akiec"] == {"actinic keratosis", "squamous cell carcinoma"}


@pytest.mark.parametrize(
    ("labels", "truth"),
    [
        (DIAGNOSES, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (HAM, [0, 1, 2, 3, 4, 5, 5, 0, 8]),
        (["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"], [0, 1, 2, 3, 4, 5, 5, 7, 8]),
    ],
)
def test_a_diagnosis_is_apart_from_others_where_it_has_a_class_of_its_own(labels, truth):
    label_map = classes(labels)
    assert (label_map.truth(DIAGNOSES).tolist(), label_map.positive) == (truth, "melanoma")


@pytest.mark.parametrize(
    ("labels", "positive", "covered"),
    [(["benign", "malignant"], "malignant", MALIGNANT), (["not melanoma", "melanoma"], "melanoma", {"melanoma"})],
)
def test_two_classes_cover_all_nine(labels, positive, covered):
    label_map = classes(labels)
    assert label_map.positive == positive
    truth = label_map.truth(DIAGNOSES)
    assert len(set(truth.tolist())) == 2
    assert (truth == MELANOMA).tolist() == [name in covered for name in DIAGNOSES]


def test_probabilities_of_a_class_stand_where_its_truth_stands():
    label_map = classes(HAM)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(7), 20)
    spread = label_map.spread(probabilities)
    assert np.allclose(spread.sum(1), 1)
    for i, name in enumerate(HAM):
        (label,) = set(label_map.truth(label_map.covers[i]).tolist())
        assert np.allclose(spread[:, label], probabilities[:, i]), name


def test_a_class_that_is_left_out_shares_its_probability_among_the_others():
    label_map = classes(["mel", "nv", "rubbish"], {"rubbish": None})
    assert np.allclose(label_map.spread(np.array([[0.2, 0.3, 0.5]]))[0, [MELANOMA, NEVUS]], [0.4, 0.6])
    assert label_map.truth(["melanoma", "nevus", DIAGNOSES[0]]).tolist() == [MELANOMA, NEVUS, -1]


@pytest.mark.parametrize(
    ("labels", "label_map", "message"),
    [
        (["LABEL_0", "LABEL_1"], {}, "'LABEL_0' is no diagnosis that is known: name it in --label-map FILE"),
        (["nv", "bcc"], {}, r"melanoma \(nv, bcc\): say which with --label-map"),
        (["mel", "melanoma", "nv"], {}, "several classes of the model stand for melanoma: leave one out"),
        (["mel", "nv"], {"nevi": "nevus"}, "no class 'nevi'. Did you mean 'nv'"),
        (["mel", "nv"], {"nv": "nevvus"}, "'nv' is no diagnosis that is known"),
    ],
)
def test_classes_that_say_nothing_clear_are_refused(labels, label_map, message):
    with pytest.raises(UsageError, match=message):
        classes(labels, label_map)


# The command.


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return class_folders(tmp_path_factory.mktemp("pictures") / "clinic", images=6)


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    return class_folders(tmp_path_factory.mktemp("pictures") / "binary", images=8, labels=("benign", "malignant"))


@pytest.fixture(scope="module")
def seven(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("models") / "seven", HAM, likeliest="nv")


def test_a_seven_class_checkpoint_is_measured_under_its_own_classes(pictures, tmp_path):
    report = report_of(checkpoint(tmp_path / "seven", HAM, likeliest="mel"), pictures, tmp_path=tmp_path)
    figures = report["splits"]["all"]
    assert (report["model"], report["positive"]) == ("seven", "melanoma")
    assert set(figures["per_class"]) == {"akiec", "bcc", "bkl", "df", "melanoma", "nv", "vasc"}
    assert (figures["n"], figures["per_class"]["bkl"]["n"], figures["melanoma"]["n"]) == (54, 12, 6)
    assert figures["melanoma"]["sensitivity"]["value"] == 1  # it says so of every image
    assert figures["melanoma"]["specificity"]["value"] == 0
    assert figures["accuracy"]["value"] == pytest.approx(6 / 54)
    assert report["alert"] == {"rule": "likeliest class", "threshold": None}
    assert not report["learnt_from"]["known"]
    assert str(tmp_path) not in json.dumps(report)  # a folder of this machine is nobody's business


def test_a_two_class_checkpoint_is_measured_on_malignant_against_benign(pictures, tmp_path):
    report = report_of(checkpoint(tmp_path / "two", ["benign", "malignant"]), pictures, tmp_path=tmp_path)
    figures = report["splits"]["all"]
    assert report["positive"] == "malignant"
    assert (figures["malignant"]["n"], figures["n"]) == (18, 54)
    assert "melanoma" not in figures


def failures(figures):
    return [failure for side in figures["failures"].values() for failure in side]


def of_folder(failure):
    """The diagnosis of an image of `pictures`, whose number tells the folder that it lies in."""
    return DIAGNOSES[(int(failure["image_id"].removeprefix("ISIC_")) - 9000000) // 6]


@pytest.mark.parametrize("labels", [HAM, ["benign", "malignant"], ["not melanoma", "melanoma"]])
def test_failures_keep_the_diagnosis_that_a_class_merges_with_others(labels, pictures, tmp_path):
    report = report_of(checkpoint(tmp_path / "merged", labels), pictures, tmp_path=tmp_path)
    rows = failures(report["splits"]["all"])
    assert len(rows) >= 18
    assert [row["truth"] for row in rows] == [of_folder(row) for row in rows]


def test_failures_of_images_with_one_name_keep_their_own_truths(tmp_path):
    class_folders(tmp_path / "binary", images=3, labels=("benign", "malignant"))
    for folder in (tmp_path / "binary").iterdir():
        for i, path in enumerate(sorted(folder.iterdir())):
            path.rename(folder / f"{i}.png")
    report = report_of(checkpoint(tmp_path / "two", ["benign", "malignant"]), tmp_path / "binary", tmp_path=tmp_path)
    rows = report["splits"]["all"]["failures"]
    assert {row["truth"] for row in rows["lowest_melanomas"]} == {"malignant"}
    assert {row["truth"] for row in rows["highest_others"]} == {"benign"}
    assert {row["image_id"] for row in failures(report["splits"]["all"])} == {"0", "1", "2"}


def keys_of(figures):
    """Every key of a report, at any depth."""
    return set(figures).union(*(keys_of(value) for value in figures.values() if isinstance(value, dict)))


@pytest.mark.parametrize(
    ("labels", "nevi", "nine"),
    [
        (DIAGNOSES, True, True),
        (HAM, True, False),
        (["benign", "malignant"], False, False),
        (["melanoma", "nevus + vascular lesion", "dermatofibroma"], False, False),
    ],
)
def test_only_classes_that_tell_nevi_and_the_nine_apart_have_their_figures(labels, nevi, nine):
    nobody = {"value": None}
    names = ["auroc_nevi", "specificity_nevi", "specificity_nevi_at_sensitivity"]
    figures = {
        "melanoma": dict.fromkeys([*names, "auroc"], nobody),
        "balanced_accuracy_benign_keratosis_merged": nobody,
        "per_class": dict.fromkeys(DIAGNOSES, nobody),
        "confusion": np.zeros((9, 9), int).tolist(),
        "subgroups": {},
        "calibration": {},
    }
    keys = keys_of(classes(labels).rename(figures))
    assert [name in keys for name in [*names, "auroc"]] == [nevi] * 3 + [True]
    assert ("balanced_accuracy_benign_keratosis_merged" in keys) == nine


def test_where_there_is_no_terminal_no_bar_is_drawn_and_none_of_a_library(seven, pictures):
    done = evaluate(seven, pictures)
    assert done.exit_code == 0, done.output
    assert "%|" not in done.stdout + done.stderr and "\r" not in done.stdout + done.stderr


def test_specificity_among_nevi_is_that_of_the_nevi_alone_and_several_data_sets_are_one(seven, pictures, tmp_path):
    other = class_folders(tmp_path / "other", images=2, first_seed=5000)
    figures = report_of(seven, pictures, other, tmp_path=tmp_path)["splits"]["all"]
    assert figures["n"] == 72
    among_nevi = figures["melanoma"]["specificity_nevi"]
    assert among_nevi["value"] == 1
    assert among_nevi["low"] == pytest.approx(0.025 ** (1 / 8))  # the exact bound of the 8 nevi that there are


@pytest.mark.parametrize(("labels", "positives"), [(["benign", "malignant"], 18), (HAM, 6)])
def test_subgroups_count_the_positives(labels, positives, pictures, tmp_path):
    report = report_of(checkpoint(tmp_path / "model", labels), pictures, tmp_path=tmp_path)
    subgroups = report["splits"]["all"]["subgroups"]
    assert sum(figures["positives"] for figures in subgroups["source"]["of"].values()) == positives
    assert "melanomas" not in keys_of(subgroups)
    assert "not_measured" in subgroups["sex"]


def test_milk10ks_eleven_classes_are_measured_by_sums_of_the_nine(tmp_path):
    class_folders(tmp_path / "set", images=3)
    folders = sorted(path for path in (tmp_path / "set").iterdir())
    for folder, name in zip(folders, [name for name in ISIC_2025 if name not in ("INF", "VASC")], strict=True):
        folder.rename(tmp_path / "set" / name)
    model = checkpoint(tmp_path / "model", DIAGNOSES)
    report, printed = printed_report(model, tmp_path / "set", tmp_path=tmp_path)
    figures = report["splits"]["all"]
    measured = ["AKIEC", "BCC", "BKL", "DF", "MEL", "NV", "SCCKA"]
    assert {name for name, of in figures["per_class"].items() if of["n"]} - {"melanoma"} == set(measured) - {"MEL"}
    assert (figures["n"], report["no_class_for"]) == (21, {"BEN_OTH": 3, "MAL_OTH": 3})
    assert report["classes"]["BKL"] == ["pigmented benign keratosis", "seborrheic keratosis"]
    assert "BEN_OTH, INF and MAL_OTH have no probability" in " ".join(printed.split())
    spread = classes(DIAGNOSES).as_isic_2025().spread(np.eye(9))
    assert spread[DIAGNOSES.index("seborrheic keratosis"), DIAGNOSES.index("pigmented benign keratosis")] == 1
    with pytest.raises(UsageError, match="'akiec' covers parts of AKIEC and SCCKA, which the data set has apart"):
        classes(HAM).as_isic_2025()


def test_diagnoses_without_a_class_are_left_out_with_their_count(pictures, tmp_path):
    done = evaluate(checkpoint(tmp_path / "three", ["mel", "nv", "bcc"]), pictures)
    assert done.exit_code == 0
    assert "It has no class for these, which were left out: 6 of actinic keratosis" in " ".join(done.output.split())


def test_a_label_map_says_what_nameless_classes_are(pictures, tmp_path):
    (tmp_path / "map.json").write_text('{"LABEL_0": "nevus", "LABEL_1": "MEL", "LABEL_2": null}')
    model = checkpoint(tmp_path / "nameless", ["LABEL_0", "LABEL_1", "LABEL_2"])
    report = report_of(model, pictures, "--label-map", tmp_path / "map.json", tmp_path=tmp_path)
    assert report["classes"] == {"LABEL_0": ["nevus"], "LABEL_1": ["melanoma"], "LABEL_2": []}
    assert report["splits"]["all"]["n"] == 12


def test_a_benign_and_malignant_data_set_is_measured_by_the_sum_of_malignant_classes(seven, binary, tmp_path):
    report = report_of(seven, binary, tmp_path=tmp_path)
    figures = report["splits"]["all"]
    assert (report["positive"], figures["malignant"]["n"], figures["n"]) == ("malignant", 8, 16)
    assert not {key for key in keys_of(figures) if "nevi" in key}


def test_a_release_is_asked_about_nothing_that_it_has_learnt_from(pictures, tmp_path):
    release = make_release(tmp_path / "release", threshold=0.2)
    dataset = loading.load([str(pictures)]).dataset
    sides = {name: dataset.select([]) for name in contamination.SPLITS}
    (release / "evaluation").mkdir()
    contamination.write(contamination.of(sides | {"train": dataset.select(range(50))}), release)
    report = report_of(release, pictures, tmp_path=tmp_path)
    assert report["learnt_from"] == {"known": True, "left_out": 50}
    assert report["splits"]["all"]["n"] == 4
    assert report["alert"] == {"rule": "threshold", "threshold": 0.2}
    contamination.write(contamination.of(sides | {"train": dataset}), release)
    done = evaluate(release, pictures)
    assert (done.exit_code, "nothing is left to measure" in done.stderr) == (2, True)


def test_a_shipped_test_split_is_measured_by_itself_and_without_kin(seven, tmp_path):
    class_folders(tmp_path / "kaggle" / "Train", images=4)
    class_folders(tmp_path / "kaggle" / "Test", images=3, first_seed=1000)
    leak = next((tmp_path / "kaggle" / "Train" / "melanoma").iterdir())
    (tmp_path / "kaggle" / "Test" / "melanoma" / "ISIC_9009999.png").write_bytes(leak.read_bytes())
    report, printed = printed_report(seven, tmp_path / "kaggle", tmp_path=tmp_path)
    assert {name: figures["n"] for name, figures in report["splits"].items()} == {
        "all": 63,
        "test": 28,
        "clean_test": 27,
    }
    assert "official_test of a release's card has the labels as they" in printed


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere", "{pictures}"], "'nowhere' is no image classifier that can be loaded"),
        (["{model}", "nowhere"], "'nowhere' is neither"),
        (["{model}", "{pictures}", "--label-map", "nowhere.json"], "'nowhere.json' cannot be read as JSON"),
        (["{model}", "{pictures}", "--json", "{pictures}"], "is a folder: name a file"),
        (["{single}", "{pictures}"], "has a single class"),
        (["{headless}", "{pictures}"], "its weights lack classifier.bias, classifier.weight."),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(words, sentence, seven, pictures, tmp_path):
    places = {"model": seven, "pictures": pictures, "single": tmp_path / "single", "headless": tmp_path / "headless"}
    checkpoint(places["single"], ["melanoma"])
    without_weights(checkpoint(places["headless"], HAM), "classifier")
    done = evaluate(*(word.format(**places) for word in words))
    assert (done.exit_code, sentence in done.stderr, "Traceback" in done.output) == (2, True, False)


def refused(folder):
    """The one sentence that a checkpoint is refused with."""
    with pytest.raises(UsageError) as refusal:
        any_checkpoint.load(str(folder))
    (sentence,) = str(refusal.value).splitlines()
    return sentence


def test_of_a_checkpoint_without_any_layer_a_few_are_named(tmp_path):
    folder = without_weights(checkpoint(tmp_path / "hollow", HAM), "encoder")
    assert "its weights lack convnext.encoder.stages.0.layers.0.dwconv.bias, " in refused(folder)
    assert refused(folder).endswith(" more.")


def test_a_head_of_another_size_than_the_configuration_says_is_refused(tmp_path):
    names = {"id2label": {"0": "mel", "1": "nv"}, "label2id": {"mel": 0, "nv": 1}}
    folder = configured(checkpoint(tmp_path / "seven", HAM), **names)
    assert "different sizes to classifier.bias, classifier.weight." in refused(folder)


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_a_checkpoint_whose_library_is_not_installed_is_refused(tmp_path):
    config = {"model_type": "timm_wrapper", "architecture": "resnet18", "label_names": HAM, "num_classes": len(HAM)}
    folder = checkpoint(tmp_path / "timm", HAM)
    (folder / "config.json").write_text(json.dumps(config))
    assert "is no image classifier that can be loaded: " in refused(folder)
    assert "requires the timm library" in refused(folder)


def test_what_transformers_cannot_load_is_refused_by_the_first_line_of_its_reason(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("\nthe file is broken:\nat byte 7")

    monkeypatch.setattr(any_checkpoint.AutoModelForImageClassification, "from_pretrained", fail)
    assert refused(checkpoint(tmp_path / "seven", HAM)).endswith("that can be loaded: the file is broken.")


def test_a_label_map_of_another_shape_is_refused(tmp_path):
    (tmp_path / "map.json").write_text('["nevus"]')
    with pytest.raises(UsageError, match="must be a JSON object"):
        read_label_map(tmp_path / "map.json")


@pytest.mark.integration
def test_a_checkpoint_of_the_hub_is_named_with_its_tag(seven, pictures, hub, tmp_path):
    hub.create("tester/seven")
    hub.commit("tester/seven", {path.name: path.read_bytes() for path in seven.iterdir()})
    HfApi().create_tag("tester/seven", tag="v1.0.0")
    report = report_of("tester/seven@v1.0.0", pictures, tmp_path=tmp_path)
    assert (report["model"], report["learnt_from"]["known"]) == ("tester/seven@v1.0.0", False)


def test_on_what_a_release_abstains_and_what_its_alert_shows_is_said(pictures, tmp_path):
    folder = make_release(tmp_path / "release", threshold=1e-9)
    few = Dataset.from_dict({"image": [make_image(seed=seed) for seed in range(30)]})
    fit_abstention.add(folder, Release.load(folder), few, few)
    report, printed = printed_report(folder, pictures, tmp_path=tmp_path)
    figures = report["splits"]["all"]
    assert 0 < report["abstained"] <= figures["n"]
    lesions = figures["melanoma"]["lesions"]
    flagged = round(lesions["sensitivity_as_served"]["value"] * lesions["n"])
    assert f"It abstains on {report['abstained']} of {figures['n']} images" in printed
    assert f"As served it flags {flagged} of {lesions['n']} melanoma lesions" in printed
    assert "official_test" not in printed  # no test split was shipped
    assert figures["melanoma"]["sensitivity"]["value"] == 1  # without abstention all are
    assert figures["melanoma"]["sensitivity_refusals_missed"]["value"] < 1
    assert "sensitivity, as served" in evaluate(folder, pictures).output


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"problem_type": "regression"}, "it answers amounts"),
        ({"problem_type": "multi_label_classification"}, "each class has a probability of its own"),
        ({"problem_type": "multi_label_classification", "alert": {"label": "mel", "threshold": 0.3}}, "of its own"),
    ],
)
def test_a_checkpoint_whose_answers_are_no_distribution_is_refused_for_that(tmp_path, settings, message):
    assert message in refused(configured(checkpoint(tmp_path / "model", HAM), **settings))


def test_a_release_that_says_it_is_no_distribution_is_not_served(tmp_path):
    configured(make_release(tmp_path), problem_type="regression")
    with pytest.raises(NoRelease, match=r"problem_type regression.* no probabilities that add up to 1"):
        Release.load(tmp_path)


def test_the_prediction_sets_of_a_release_are_measured_where_they_are_wanted(pictures, tmp_path):
    thresholds = dict.fromkeys(DIAGNOSES, 1e-30) | {"nevus": None}
    sets = {"alpha": 0.1, "split": "calibration", "thresholds": thresholds, "lesions": dict.fromkeys(DIAGNOSES, 8)}
    folder = configured(make_release(tmp_path / "release"), prediction_sets=sets)
    report, text = printed_report(folder, pictures, "--prediction-sets", tmp_path=tmp_path)
    measured = report["splits"]["all"]["prediction_sets"]
    assert measured["coverage"]["value"] == 1 and measured["size"]["value"] == 8
    assert measured["n"] == report["splits"]["all"]["n"] > measured["without_promise"] > 0
    assert "Nothing is promised of nevus (8 lesions)" in text
    plain = report_of(folder, pictures, tmp_path=tmp_path)
    assert "prediction_sets" not in plain and "prediction_sets" not in plain["splits"]["all"]


def test_prediction_sets_of_other_classes_or_truths_are_refused(seven, pictures, binary, tmp_path):
    release = make_release(tmp_path / "release")
    for words, sentence in (
        ((seven, pictures), "are not the nine diagnoses"),
        ((release, binary), "not under the nine diagnoses, but benign, malignant"),
        ((release, pictures), "has no prediction sets, nor evaluation/predictions.parquet"),
    ):
        done = evaluate(*words, "--prediction-sets")
        assert done.exit_code == 2 and sentence in done.output.replace("\n", " ")
