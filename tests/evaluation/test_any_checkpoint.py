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
from dermalert.taxonomy import DIAGNOSES, MALIGNANT

HAM = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
MELANOMA, NEVUS = DIAGNOSES.index("melanoma"), DIAGNOSES.index("nevus")


def checkpoint(folder, labels, *, likeliest=None):
    """Save a tiny classifier of these classes; it always says `likeliest`, where that is given."""
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
    """Take the weights out of a checkpoint whose names hold this part."""
    weights = {name: weight for name, weight in load_file(folder / "model.safetensors").items() if part not in name}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def evaluate(*words):
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


def figures_of(*words, tmp_path):
    done = evaluate(*words, "--json", tmp_path / "told.json")
    assert done.exit_code == 0, done.output
    return json.loads((tmp_path / "told.json").read_text())


# What the classes of a checkpoint cover.


def test_seven_classes_of_ham10000_cover_all_nine_diagnoses():
    found = classes(HAM)
    covered = dict(zip(found.names, found.covers, strict=True))
    assert covered["bkl"] == {"pigmented benign keratosis", "seborrheic keratosis"}
    assert covered["akiec"] == {"actinic keratosis", "squamous cell carcinoma"}
    assert found.positive == "melanoma"
    assert (found.truth(range(9)) >= 0).all()


def test_a_checkpoint_with_a_class_for_seborrheic_keratosis_keeps_it_apart():
    found = classes([*DIAGNOSES])
    assert [set(covered) for covered in found.covers] == [{name} for name in DIAGNOSES]
    assert found.truth(range(9)).tolist() == list(range(9))


def test_eight_classes_of_isic_2019_tell_actinic_keratosis_from_carcinoma():
    found = classes(["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"])
    assert found.truth([0, 7]).tolist() == [0, 7]
    assert found.truth([5, 6]).tolist() == [5, 5]


@pytest.mark.parametrize(
    ("labels", "positive", "truth"),
    [
        (["benign", "malignant"], "malignant", [NEVUS if name not in MALIGNANT else MELANOMA for name in DIAGNOSES]),
        (["not melanoma", "melanoma"], "melanoma", None),
    ],
)
def test_two_classes_cover_all_nine(labels, positive, truth):
    found = classes(labels)
    assert found.positive == positive
    binary = found.truth(range(9))
    assert binary[MELANOMA] == MELANOMA
    assert len(set(binary.tolist())) == 2
    if truth:
        assert (binary == MELANOMA).tolist() == [label == MELANOMA for label in truth]


def test_probabilities_of_a_class_stand_where_its_truth_stands():
    found = classes(HAM)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(7), 20)
    spread = found.spread(probabilities)
    assert np.allclose(spread.sum(1), 1)
    for i, name in enumerate(HAM):
        (label,) = set(found.truth([DIAGNOSES.index(one) for one in found.covers[i]]).tolist())
        assert np.allclose(spread[:, label], probabilities[:, i]), name


def test_a_class_that_is_left_out_shares_its_probability_among_the_others():
    found = classes(["mel", "nv", "rubbish"], {"rubbish": None})
    assert np.allclose(found.spread(np.array([[0.2, 0.3, 0.5]]))[0, [MELANOMA, NEVUS]], [0.4, 0.6])
    assert found.truth([MELANOMA, NEVUS, 0]).tolist() == [MELANOMA, NEVUS, -1]


@pytest.mark.parametrize(
    ("labels", "label_map", "message"),
    [
        (["LABEL_0", "LABEL_1"], {}, "class 'LABEL_0' is no diagnosis that is known: name it in --label-map FILE"),
        (["nv", "bcc"], {}, r"no class of the model stands for melanoma \(nv, bcc\): say which with --label-map"),
        (["mel", "melanoma", "nv"], {}, "several classes of the model stand for melanoma: leave one out"),
        (["mel", "nv"], {"nevi": "nevus"}, "the model has no class 'nevi'. Did you mean 'nv'"),
        (["mel", "nv"], {"nv": "nevvus"}, "class 'nv' is no diagnosis that is known"),
    ],
)
def test_classes_that_say_nothing_clear_are_refused(labels, label_map, message):
    with pytest.raises(UsageError, match=message):
        classes(labels, label_map)


# The command.


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return class_folders(tmp_path_factory.mktemp("pictures") / "clinic", images=6)


def test_a_seven_class_checkpoint_is_measured_under_its_own_classes(pictures, tmp_path):
    told = figures_of(checkpoint(tmp_path / "seven", HAM, likeliest="mel"), pictures, tmp_path=tmp_path)
    figures = told["splits"]["all"]
    assert (told["model"], told["positive"]) == ("seven", "melanoma")
    assert set(figures["per_class"]) == {"akiec", "bcc", "bkl", "df", "melanoma", "nv", "vasc"}
    assert (figures["n"], figures["per_class"]["bkl"]["n"], figures["melanoma"]["n"]) == (54, 12, 6)
    assert figures["melanoma"]["sensitivity"]["value"] == 1  # it says so of every image
    assert figures["melanoma"]["specificity"]["value"] == 0
    assert figures["accuracy"]["value"] == pytest.approx(6 / 54)
    assert told["alert"] == {"rule": "likeliest class", "threshold": None}
    assert not told["learnt_from"]["known"]


def test_a_two_class_checkpoint_is_measured_on_malignant_against_benign(pictures, tmp_path):
    told = figures_of(checkpoint(tmp_path / "two", ["benign", "malignant"]), pictures, tmp_path=tmp_path)
    figures = told["splits"]["all"]
    assert told["positive"] == "malignant"
    assert (figures["malignant"]["n"], figures["n"]) == (18, 54)
    assert "melanoma" not in figures


def failures(figures):
    return [failure for side in figures["failures"].values() for failure in side]


def of_folder(failure):
    """Return the diagnosis of an image of `pictures`, whose number tells the folder that it lies in."""
    return DIAGNOSES[(int(failure["image_id"].removeprefix("ISIC_")) - 9000000) // 6]


@pytest.mark.parametrize("labels", [HAM, ["benign", "malignant"], ["not melanoma", "melanoma"]])
def test_failures_keep_the_diagnosis_that_a_class_merges_with_others(labels, pictures, tmp_path):
    told = figures_of(checkpoint(tmp_path / "merged", labels), pictures, tmp_path=tmp_path)
    found = failures(told["splits"]["all"])
    assert len(found) >= 18
    assert [failure["truth"] for failure in found] == [of_folder(failure) for failure in found]


def test_failures_of_images_with_one_name_keep_their_own_truths(tmp_path):
    class_folders(tmp_path / "binary", images=3, labels=("benign", "malignant"))
    for folder in (tmp_path / "binary").iterdir():
        for i, path in enumerate(sorted(folder.iterdir())):
            path.rename(folder / f"{i}.png")
    told = figures_of(checkpoint(tmp_path / "two", ["benign", "malignant"]), tmp_path / "binary", tmp_path=tmp_path)
    found = told["splits"]["all"]["failures"]
    assert {failure["truth"] for failure in found["lowest_melanomas"]} == {"malignant"}
    assert {failure["truth"] for failure in found["highest_others"]} == {"benign"}
    assert {failure["image_id"] for failure in failures(told["splits"]["all"])} == {"0", "1", "2"}


def keys_of(figures):
    """Return every key of a report, at any depth."""
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
def test_figures_of_nevi_and_of_the_nine_are_told_only_by_classes_that_can(labels, nevi, nine):
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
    found = classes(labels)
    told = keys_of(found.rename(figures))
    assert [name in told for name in [*names, "auroc"]] == [nevi] * 3 + [True]
    assert ("balanced_accuracy_benign_keratosis_merged" in told) == nine


def test_specificity_among_nevi_is_that_of_the_nevi_alone(pictures, tmp_path):
    told = figures_of(checkpoint(tmp_path / "seven", HAM, likeliest="nv"), pictures, tmp_path=tmp_path)
    melanoma = told["splits"]["all"]["melanoma"]
    low = melanoma["specificity_nevi"]["low"]
    assert melanoma["specificity_nevi"]["value"] == 1
    assert low == pytest.approx(0.025 ** (1 / 6))  # the exact bound of 6 of 6, which is what there is of nevi


def test_a_binary_data_set_says_nothing_of_nevi(tmp_path):
    class_folders(tmp_path / "binary", images=3, labels=("benign", "malignant"))
    told = figures_of(checkpoint(tmp_path / "seven", HAM), tmp_path / "binary", tmp_path=tmp_path)
    assert not {key for key in keys_of(told["splits"]["all"]) if "nevi" in key}


@pytest.mark.parametrize(("labels", "positives"), [(["benign", "malignant"], 18), (HAM, 6)])
def test_subgroups_count_the_positives(labels, positives, pictures, tmp_path):
    told = figures_of(checkpoint(tmp_path / "model", labels), pictures, tmp_path=tmp_path)
    subgroups = told["splits"]["all"]["subgroups"]
    assert sum(figures["positives"] for figures in subgroups["source"]["of"].values()) == positives
    assert "melanomas" not in keys_of(subgroups)
    assert "not_measured" in subgroups["sex"]


def test_diagnoses_without_a_class_are_left_out_with_their_count(pictures, tmp_path):
    done = evaluate(checkpoint(tmp_path / "three", ["mel", "nv", "bcc"]), pictures)
    assert done.exit_code == 0
    assert "It has no class for these, which were left out: 6 of actinic keratosis" in " ".join(done.output.split())


def test_a_label_map_says_what_nameless_classes_are(pictures, tmp_path):
    (tmp_path / "map.json").write_text('{"LABEL_0": "nevus", "LABEL_1": "MEL", "LABEL_2": null}')
    model = checkpoint(tmp_path / "nameless", ["LABEL_0", "LABEL_1", "LABEL_2"])
    told = figures_of(model, pictures, "--label-map", tmp_path / "map.json", tmp_path=tmp_path)
    assert told["classes"] == {"LABEL_0": ["nevus"], "LABEL_1": ["melanoma"], "LABEL_2": []}
    assert told["splits"]["all"]["n"] == 12


def test_a_benign_and_malignant_data_set_is_measured_by_the_sum_of_malignant_classes(tmp_path):
    class_folders(tmp_path / "binary", images=8, labels=("benign", "malignant"))
    told = figures_of(checkpoint(tmp_path / "seven", HAM), tmp_path / "binary", tmp_path=tmp_path)
    assert told["positive"] == "malignant"
    assert told["splits"]["all"]["malignant"]["n"] == 8
    assert told["splits"]["all"]["n"] == 16


def test_a_release_is_asked_about_nothing_that_it_has_learnt_from(pictures, tmp_path):
    release = make_release(tmp_path / "release", threshold=0.2)
    dataset = loading.load([str(pictures)])
    sides = {name: dataset.select([]) for name in contamination.SIDES}
    (release / "evaluation").mkdir()
    contamination.write(contamination.of(sides | {"train": dataset.select(range(50))}), release)
    told = figures_of(release, pictures, tmp_path=tmp_path)
    assert told["learnt_from"] == {"known": True, "left_out": 50}
    assert told["splits"]["all"]["n"] == 4
    assert told["alert"] == {"rule": "threshold", "threshold": 0.2}
    contamination.write(contamination.of(sides | {"train": dataset}), release)
    done = evaluate(release, pictures)
    assert (done.exit_code, "nothing is left to measure" in done.stderr) == (2, True)


def test_a_shipped_test_split_is_measured_by_itself_and_without_kin(tmp_path):
    class_folders(tmp_path / "kaggle" / "Train", images=4)
    class_folders(tmp_path / "kaggle" / "Test", images=3, first_seed=1000)
    leak = next((tmp_path / "kaggle" / "Train" / "melanoma").iterdir())
    (tmp_path / "kaggle" / "Test" / "melanoma" / "ISIC_9009999.png").write_bytes(leak.read_bytes())
    told = figures_of(checkpoint(tmp_path / "seven", HAM), tmp_path / "kaggle", tmp_path=tmp_path)
    assert {name: figures["n"] for name, figures in told["splits"].items()} == {"all": 63, "test": 28, "clean_test": 27}
    assert any(
        "the official_test of a release's card has the labels as they" in line for line in any_checkpoint.remarks(told)
    )
    alone = told | {"splits": {"all": told["splits"]["all"]}}
    assert not any("official_test" in line for line in any_checkpoint.remarks(alone))


def test_the_report_names_no_folder_of_this_machine(pictures, tmp_path):
    told = figures_of(checkpoint(tmp_path / "seven", HAM), pictures, tmp_path=tmp_path)
    assert str(tmp_path) not in json.dumps(told)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["nowhere", "{pictures}"], 2, "'nowhere' is no image classifier that can be loaded"),
        (["{model}", "nowhere"], 2, "'nowhere' is neither"),
        (["{model}", "{pictures}", "--label-map", "nowhere.json"], 2, "'nowhere.json' cannot be read as JSON"),
        (["{model}", "{pictures}", "--json", "{pictures}"], 2, "is a folder: name a file"),
        (["{single}", "{pictures}"], 2, "has a single class"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(words, code, sentence, pictures, tmp_path):
    places = {"model": tmp_path / "seven", "pictures": pictures, "single": tmp_path / "single"}
    checkpoint(places["model"], HAM)
    checkpoint(places["single"], ["melanoma"])
    done = evaluate(*(word.format(**places) for word in words))
    assert done.exit_code == code
    assert sentence in done.stderr
    assert "Traceback" not in done.output


def refused(folder):
    """Return the one sentence that a checkpoint is refused with."""
    with pytest.raises(UsageError) as refusal:
        any_checkpoint.load(str(folder))
    (sentence,) = str(refusal.value).splitlines()
    return sentence


def test_a_checkpoint_without_a_trained_head_is_refused(pictures, tmp_path):
    folder = without_weights(checkpoint(tmp_path / "headless", HAM), "classifier")
    sentence = "is no trained image classifier: its weights lack classifier.bias, classifier.weight."
    assert refused(folder).endswith(sentence)
    done = evaluate(folder, pictures)
    assert (done.exit_code, sentence in done.stderr) == (2, True)


def test_of_a_checkpoint_without_any_layer_a_few_are_named(tmp_path):
    folder = without_weights(checkpoint(tmp_path / "hollow", HAM), "encoder")
    assert "its weights lack convnext.encoder.stages.0.layers.0.dwconv.bias, " in refused(folder)
    assert refused(folder).endswith(" more.")


def test_a_head_of_another_size_than_the_configuration_says_is_refused(tmp_path):
    folder = checkpoint(tmp_path / "seven", HAM)
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": {"0": "mel", "1": "nv"}, "label2id": {"mel": 0, "nv": 1}}
    (folder / "config.json").write_text(json.dumps(config))
    assert refused(folder).endswith(
        "its weights and its configuration give different sizes to classifier.bias, classifier.weight."
    )


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


def test_a_checkpoint_of_the_hub_is_named_with_its_tag(pictures, hub, tmp_path):
    folder = checkpoint(tmp_path / "seven", HAM)
    hub.create("tester/seven")
    hub.commit("tester/seven", {path.name: path.read_bytes() for path in folder.iterdir()})
    HfApi().create_tag("tester/seven", tag="v1.0.0")
    told = figures_of("tester/seven@v1.0.0", pictures, tmp_path=tmp_path)
    assert (told["model"], told["learnt_from"]["known"]) == ("tester/seven@v1.0.0", False)


def test_several_data_sets_are_taken_as_one(pictures, tmp_path):
    other = class_folders(tmp_path / "other", images=2, first_seed=5000)
    told = figures_of(checkpoint(tmp_path / "seven", HAM), pictures, other, tmp_path=tmp_path)
    assert told["splits"]["all"]["n"] == 72


def test_on_what_a_release_abstains_and_what_its_alert_shows_is_said(pictures, tmp_path):
    folder = make_release(tmp_path / "release", threshold=1e-9)
    few = Dataset.from_dict({"image": [make_image(seed=seed) for seed in range(30)]})
    fit_abstention.add(folder, Release.load(folder), few, few)
    told = figures_of(folder, pictures, tmp_path=tmp_path)
    figures = told["splits"]["all"]
    assert 0 < told["abstained"] <= figures["n"]
    lesions = figures["melanoma"]["lesions"]
    flagged = round(lesions["sensitivity_as_served"]["value"] * lesions["n"])
    sentences = " ".join(any_checkpoint.remarks(told))
    assert f"It abstains on {told['abstained']} of {figures['n']} images" in sentences
    assert f"As served it flags {flagged} of {lesions['n']} melanoma lesions" in sentences
    assert figures["melanoma"]["sensitivity"]["value"] == 1  # without abstention all are
    assert figures["melanoma"]["sensitivity_refusals_missed"]["value"] < 1
    assert "sensitivity, as served" in evaluate(folder, pictures).output


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"problem_type": "multi_label_classification"}, "each class has a probability of its own"),
        ({"problem_type": "regression"}, "it answers amounts"),
        ({"problem_type": "multi_label_classification", "alert": {"label": "mel", "threshold": 0.3}}, "of its own"),
    ],
)
def test_a_checkpoint_whose_answers_are_no_distribution_is_refused_for_that(tmp_path, settings, message):
    folder = checkpoint(tmp_path / "model", HAM)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    with pytest.raises(UsageError, match=message):
        any_checkpoint.load(str(folder))


def test_a_release_that_says_it_is_no_distribution_is_not_served(tmp_path):
    make_release(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"problem_type": "regression"}))
    with pytest.raises(NoRelease, match=r"problem_type regression.* no probabilities that add up to 1"):
        Release.load(tmp_path)
