import functools
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch
from dermalert_space.contract import PREDICTIONS
from dermalert_space.images import read_image
from dermalert_space.release import Release
from PIL import Image
from safetensors.torch import load_file
from scipy import special
from support import decodes
from support.card_numbers import typed_by_hand
from support.paths import REPOSITORY
from support.pictures import class_folders, write_table
from support.training import arguments, command, train, without_speed
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil, pipeline

import train_hf
from dermalert.data import contamination, development, loading, near_duplicates
from dermalert.errors import RunError
from dermalert.evaluation import predict, stress_test
from dermalert.imaging import non_lesions, synthetic_lesions
from dermalert.release import onnx_files
from dermalert.taxonomy import DIAGNOSES
from dermalert.training import calibration, image_dataset, recipe_trainer, run_folder, sampling

pytestmark = pytest.mark.integration

FIGURES = ("alert_trade_off", "artefacts", "confusion", "learning_curves", "per_class", "reliability", "roc")
LEARNS = (
    "--num_train_epochs",
    "5",
    "--learning_rate",
    "3e-3",
    "--per_device_train_batch_size",
    "16",
    "--augmentation",
    "none",
)


@pytest.fixture(scope="session")
def run(pictures, tiny_vit, tmp_path_factory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("run") / "run"
    train(pictures, tiny_vit, folder, *LEARNS, "--onnx", "all", whole=True)
    return folder


def test_a_run_leaves_a_whole_release_and_no_checkpoints(run):
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert files - {"release/onnx/model_quantized.onnx"} == {  # which is there where it pays
        "run.json",
        "release/README.md",
        "release/config.json",
        "release/model.safetensors",
        "release/preprocessor_config.json",
        "release/refusal.safetensors",
        "release/onnx/graph.onnx",
        "release/onnx/model.onnx",
        "release/evaluation/audit.json",
        "release/evaluation/metrics.json",
        "release/evaluation/parity.safetensors",
        "release/evaluation/predictions.parquet",
        "release/evaluation/seen.parquet",
        *(f"release/evaluation/figures/{name}.png" for name in FIGURES),
    }


def test_a_release_gives_the_answers_that_it_recorded(run):
    assert Release.load(run / "release").parity_error() < 1e-5


def test_training_moves_every_parameter(run, tiny_vit):
    before, after = load_file(tiny_vit / "model.safetensors"), load_file(run / "release" / "model.safetensors")
    body = [name for name in before if not name.startswith("classifier.")]
    assert body and not [name for name in body if torch.equal(before[name], after[name])]


def test_training_learns(run):
    held_out = json.loads((run / "release/evaluation/metrics.json").read_text())["splits"]["held_out"]
    assert held_out["balanced_accuracy"]["value"] > 0.5  # a guess gives 0.11


def test_the_figures_count_what_was_there(run):
    figures = json.loads((run / "release/evaluation/metrics.json").read_text())
    assert figures["data"]["images"] == 288
    assert sum(figures["data"]["sides"].values()) == 288
    assert figures["splits"]["official_test"]["n"] == 18
    held_out = figures["splits"]["held_out"]
    assert held_out["n"] == figures["data"]["sides"]["held_out"]
    assert np.array(held_out["confusion"]).sum() == held_out["n"]
    assert figures["training"]["epochs"] == 5


@pytest.fixture(scope="module")
def plain(pictures, tiny_vit, tmp_path_factory) -> SimpleNamespace:
    """A run of one epoch beside an external set, and what it did on the way."""
    folder, noted = tmp_path_factory.mktemp("plain"), SimpleNamespace(searched=[], predicted=Counter(), shares=[])
    noted.folder, noted.augmented, noted.drawn = folder / "run", [], []
    other = class_folders(folder / "other", images=2, first_seed=5000)
    search, forward, augment = near_duplicates.near_duplicates, Release.forward, image_dataset.augment
    balanced, weigh = recipe_trainer.balanced_softmax, sampling.sampling_weights

    def searching(thumbnails, rows, **options):
        noted.searched.append(len(rows))
        return search(thumbnails, rows, **options)

    def predicting(self, batch, **options):
        noted.predicted.update(pixels.numpy().tobytes() for pixels in batch.pixels["pixel_values"])
        return forward(self, batch, **options)

    def augmenting(pixels, **options):
        noted.augmented.append(len(pixels))
        return augment(pixels, **options)

    def balancing(shares):
        noted.shares.append(shares)
        return balanced(shares)

    def weighing(labels, *rest):
        noted.drawn.append((labels[:], weigh(labels, *rest)))
        return noted.drawn[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "near_duplicates", searching)
        patch.setattr(Release, "forward", predicting)
        patch.setattr(image_dataset, "augment", augmenting)
        patch.setattr(recipe_trainer, "balanced_softmax", balancing)
        patch.setattr(sampling, "sampling_weights", weighing)
        more = ("--external", f"clinic={other}", "--report_to", "tensorboard")
        noted.figures = train(pictures, tiny_vit, noted.folder, *more)
    return noted


def test_near_duplicates_are_searched_once_and_for_each_external_set_once_more(plain):
    assert plain.searched[0] == 288 and len(plain.searched) == 2


def test_an_image_is_predicted_once_for_all_that_ask(plain, pictures):
    inputs = Release.load(plain.folder / "release").inputs
    pixels = {path.stem: inputs([read_image(path)]).pixels["pixel_values"][0] for path in pictures.rglob("*.*")}
    times = {image_id: plain.predicted[values.numpy().tobytes()] for image_id, values in pixels.items()}
    rows = pq.read_table(plain.folder / "release" / PREDICTIONS).to_pylist()
    measured = {row["image_id"] for row in rows if not row["split"].startswith("external")}
    assert {row["split"] for row in rows} >= {"held_out", "official_test", "clean_test"}
    assert {times[image_id] for image_id in measured} == {1}
    assert max(times.values()) == 2  # a calibration image: by the model to calibrate, and by the release


def test_without_an_export_the_release_says_nothing_of_it(plain):
    assert "onnx" not in plain.figures
    assert not (plain.folder / "release/onnx").exists()
    assert "Without PyTorch" not in (plain.folder / "release/README.md").read_text()


def test_an_external_set_is_only_reported(plain):
    assert plain.figures["splits"]["external/clinic"]["n"] == 18
    assert plain.figures["data"]["images"] == 288
    assert "external/clinic, n = 18" in (plain.folder / "release/README.md").read_text()


def test_by_default_the_loss_takes_into_account_what_is_drawn(plain):
    labels, share = plain.drawn[0]
    assert plain.shares[0] == pytest.approx(np.bincount(labels, weights=share, minlength=9), abs=1e-3)


def test_curves_are_recorded_where_the_flag_says(plain):
    assert list(plain.folder.rglob("events.out.tfevents.*"))


BARE = ("--store_dtype", "float16", "--no_logit_adjustment", "--sampling", "natural", "--augmentation", "none")


def test_a_model_that_is_not_there_is_refused_before_images_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(development, "load", lambda _: pytest.fail("images were read"))
    assert command("demo", tmp_path / "nowhere", tmp_path / "run") == 2


def test_a_release_in_half_precision_is_measured_as_it_is_stored(plain, pictures, tiny_vit, tmp_path, monkeypatch):
    monkeypatch.setattr(image_dataset, "augment", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(recipe_trainer, "balanced_softmax", lambda *_: 1 / 0)
    figures = train(pictures, tiny_vit, tmp_path / "run", *BARE)
    settings = figures["training"]["settings"]
    assert (settings["half_precision"], settings["rebalance"], settings["augment"]) == (True, False, "none")
    release = tmp_path / "run" / "release"
    tensors = load_file(release / "model.safetensors")
    single = {name for name, tensor in tensors.items() if tensor.dtype != torch.float16}
    assert single == {"classifier.weight", "classifier.bias"}  # the calibration was folded into these
    assert json.loads((release / "config.json").read_text())["dtype"] == "float32"
    classify = pipeline("image-classification", model=str(release))
    assert classify.model.dtype == torch.float32
    rows = pq.read_table(release / "evaluation/predictions.parquet").to_pylist()
    paths = {path.stem: str(path) for path in pictures.rglob("*.png")}
    for row in rows[::10]:
        for answer in classify(paths[row["image_id"]], top_k=9):
            assert answer["score"] == pytest.approx(row[answer["label"]], abs=1e-5)
    # Without rebalancing and augmentation, as the flags ask; with both where they do not.
    rebalanced = "as if all diagnoses were equally common"
    assert rebalanced not in (release / "README.md").read_text()
    assert rebalanced in (plain.folder / "release/README.md").read_text()
    assert plain.figures["training"]["settings"]["rebalance"] and plain.augmented


def test_the_epoch_that_is_kept_is_that_of_the_lowest_loss_once_calibrated(
    plain, pictures, tiny_vit, tmp_path, monkeypatch
):
    losses = iter([0.1, 0.1, 0.2, 0.2, 0.3, 0.3])  # of validation and of as many training images, each epoch
    monkeypatch.setattr(recipe_trainer.calibration, "calibrated_loss", lambda *_: next(losses))
    longer = train(pictures, tiny_vit, tmp_path / "three", "--num_train_epochs", "3", "--learning_rate", "3e-3")
    assert longer["training"]["best_step"] == plain.figures["training"]["best_step"]


@pytest.fixture(scope="module")
def _ended(pictures, tiny_vit, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ended") / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(train_hf.calibration, "calibrate", lambda *_, **__: 1 / 0)
        train(pictures, tiny_vit, folder)
    return folder


@pytest.fixture
def ended(_ended, tmp_path, monkeypatch) -> Path:
    """The folder of a run that was killed once its training had ended, on its own; nothing is trained from here on."""
    monkeypatch.setattr(recipe_trainer.RecipeTrainer, "train", lambda *_, **__: 1 / 0)
    return Path(shutil.copytree(_ended, tmp_path / "run"))


def test_a_training_that_had_ended_is_not_trained_again_and_a_checkpoint_cut_short_is_not_used(
    ended, pictures, tiny_vit
):
    (whole,) = (ended / "checkpoints").glob("checkpoint-*")
    shutil.copytree(whole, ended / "checkpoints" / "checkpoint-999")
    (ended / "checkpoints" / "checkpoint-999" / "trainer_state.json").unlink()
    assert train(pictures, tiny_vit, ended)["training"]["seconds"] > 0


def test_images_that_changed_since_the_run_was_started_are_refused(ended, pictures, tiny_vit, tmp_path, capsys):
    image = next((pictures / "Train" / "nevus").iterdir())
    image.rename(tmp_path / "away.png")
    try:
        assert command(pictures, tiny_vit, ended) == 2
    finally:
        (tmp_path / "away.png").rename(image)
    assert "the images have changed since" in capsys.readouterr().err


def test_for_serving_alone_the_release_has_the_graph_and_is_asked_by_it(ended, pictures, tiny_vit):
    told = train(pictures, tiny_vit, ended, "--onnx", "serving")["onnx"]
    assert told.keys() == {"images", "batch_size", "graph"} and told["graph"]["difference"] < 1e-5
    folder = ended / "release"
    assert [path.name for path in (folder / "onnx").iterdir()] == ["graph.onnx"]
    release = Release.load(folder)
    assert release.graph is not None and release.parity_error() < 1e-5
    card = (folder / "README.md").read_text()
    assert "`onnx/graph.onnx`" in card and "Without PyTorch" not in card


def test_a_training_whose_export_fails_is_kept_and_ends_without_it(ended, pictures, tiny_vit, monkeypatch, capsys):
    def fail(*_):
        raise RunError("ONNX Runtime gives other answers: run the same command with --onnx none")

    monkeypatch.setattr(onnx_files, "write", fail)
    assert command(pictures, tiny_vit, ended, "--onnx", "all") == 1
    assert "--onnx none" in capsys.readouterr().err
    assert train(pictures, tiny_vit, ended)["splits"]["held_out"]["n"] > 0


def test_a_training_that_had_stopped_early_is_not_trained_on_where_its_folder_was_moved_to(
    pictures, tiny_vit, tmp_path, monkeypatch
):
    # With a learning rate of nearly nothing no epoch is better than the first.
    words = ("--num_train_epochs", "9", "--early_stopping_patience", "2", "--learning_rate", "1e-12")
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(run_folder, "write_end", lambda *_: 1 / 0)  # killed just before
        train(pictures, tiny_vit, tmp_path / "before", *words)
    (tmp_path / "before").rename(tmp_path / "after")
    assert train(pictures, tiny_vit, tmp_path / "after", *words)["training"]["epochs"] == 3


@pytest.mark.usefixtures("cache")
def test_an_image_is_decoded_for_its_fingerprint_and_by_the_processor_and_never_again(
    pictures, tiny_vit, tmp_path, monkeypatch
):
    """Of three sources, two of which show the same photographs; and of one that is only reported.

    Some images held out are decoded once more, at full size: for artefacts and for spoilt pictures.
    """
    drawn_on, clinics = [], [tmp_path / name for name in ("north", "south", "reported")]
    for i in range(4):
        lesion = synthetic_lesions.lesion("nevus", lesion_seed=i)
        other = synthetic_lesions.lesion("nevus", lesion_seed=10 + i)
        for folder, image in zip(clinics, (lesion, lesion.crop((9, 13, 117, 117)), other), strict=True):
            (folder / "nevus").mkdir(parents=True, exist_ok=True)
            image.save(folder / "nevus" / f"{folder.name}{i}.png")

    def counted_apart(function):
        def run(*inputs, **options):
            with decodes.counted() as times:
                made = function(*inputs, **options)
                made = iter(list(made)) if isinstance(made, Iterator) else made
            drawn_on.append(times)
            return made

        return run

    monkeypatch.setattr(stress_test, "stress", counted_apart(stress_test.stress))
    monkeypatch.setattr(non_lesions, "unusable_images", counted_apart(non_lesions.unusable_images))
    more = ["--dataset_name", pictures, *clinics[:2], "--external", f"there={clinics[2]}"]
    with decodes.counted() as times:
        train(pictures, tiny_vit, tmp_path / "run", "--onnx", "all", *more)
    audit = json.loads((tmp_path / "run/release/evaluation/audit.json").read_text())
    assert audit["findings"]["cross-source-copies"]["count"] == 4
    contents = {
        hashlib.sha256(path.read_bytes()).hexdigest() for root in (pictures, *clinics) for path in root.rglob("*.*")
    }
    extra = [Counter({content: n for content, n in some.items() if content in contents}) for some in drawn_on]
    assert [len(some) for some in extra] == [8, 4]  # as many as `quick` leaves of 200 and 40
    assert all(set(some.values()) == {1} for some in extra)
    assert {times[content] - extra[0][content] - extra[1][content] for content in contents} == {2}


def test_the_export_for_onnx_runtime_gives_the_recorded_probabilities(run, pictures):
    figures = json.loads((run / "release/evaluation/metrics.json").read_text())
    told, held_out = figures["onnx"], figures["splits"]["held_out"]
    assert told["images"] == held_out["n"]
    assert told["model"]["difference"] < 1e-5 and told["graph"]["difference"] < 1e-5
    assert told["quantized"]["kept"] is (run / "release/onnx/model_quantized.onnx").exists()
    model = onnxruntime.InferenceSession(run / "release/onnx/model.onnx", providers=["CPUExecutionProvider"])
    processor = ViTImageProcessorPil.from_pretrained(run / "release")
    paths = {path.stem: path for path in pictures.rglob("*.png")}
    for row in pq.read_table(run / "release/evaluation/predictions.parquet").to_pylist()[::10]:
        pixels = processor(Image.open(paths[row["image_id"]]), return_tensors="np")["pixel_values"]
        (logits,) = model.run(["logits"], {"pixel_values": pixels})
        assert special.softmax(logits[0]) == pytest.approx([row[name] for name in DIAGNOSES], abs=1e-5)


def test_a_model_that_cannot_be_exported_is_refused_before_the_training(
    pictures, tiny_vit, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: 1 / 0)
    assert command(pictures, tiny_vit, tmp_path / "run", "--onnx", "serving") == 2
    assert "cannot be exported to ONNX (division by zero): add --onnx none." in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_fresh_process_with_transformers_alone_gives_the_recorded_probabilities(run, pictures, tmp_path):
    table = pq.read_table(run / "release/evaluation/predictions.parquet").to_pylist()
    paths = {path.stem: str(path) for path in pictures.rglob("*.png")}
    (tmp_path / "table.json").write_text(json.dumps([(paths[row["image_id"]], row) for row in table]))
    script = f"""
import json, sys
from transformers import pipeline
classify = pipeline("image-classification", model={str(run / "release")!r})
assert "dermalert" not in sys.modules
try:
    import dermalert
    raise SystemExit("dermalert can be imported here: this would prove nothing")
except ImportError:
    pass
worst = 0
for path, row in json.load(open("table.json")):
    answer = {{a["label"]: a["score"] for a in classify(path, top_k=9)}}
    assert sorted(answer) == {sorted(DIAGNOSES)!r}
    assert abs(sum(answer.values()) - 1) < 1e-5
    worst = max(worst, *(abs(answer[label] - row[label]) for label in answer))
print(len(table) if (table := json.load(open("table.json"))) else 0, worst)
"""
    # -S leaves out site-packages with its link to this project; the libraries are named one by one.
    libraries = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": libraries},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    n, worst = done.stdout.split()
    assert int(n) == len(table) > 50
    assert float(worst) < 1e-5


def test_every_number_of_the_card_of_a_run_comes_from_its_figures(run):
    figures = json.loads((run / "release/evaluation/metrics.json").read_text())
    figures["training"]["seconds"] = 100.0  # of a second or two, rounded, a tenth more may look the same
    assert typed_by_hand(figures) == []


def test_the_calibration_is_measured_before_and_after(run):
    calibration = json.loads((run / "release/evaluation/metrics.json").read_text())["splits"]["held_out"]["calibration"]
    assert calibration["before"].keys() == {"ece", "brier", "nll", "melanoma"}
    assert calibration["before"]["nll"]["value"] != calibration["nll"]["value"]


@pytest.mark.long
def test_folds_answer_every_image_by_a_model_that_had_not_learnt_from_it(tiny_vit, tmp_path, monkeypatch):
    pictures = class_folders(tmp_path / "pictures", images=60)  # of fewer a fold has classes without validation
    asked, write_predictions = [], predict.write_predictions

    def stopped_after_the_first(path, side):
        asked.append(len(side.dataset))
        write_predictions(path, side)
        if len(asked) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(predict, "write_predictions", stopped_after_the_first)
    assert command(pictures, tiny_vit, tmp_path / "run", "--folds", "2") == 130
    assert command(pictures, tiny_vit, tmp_path / "run", "--folds", "2") == 0
    figures = json.loads((tmp_path / "run/release/evaluation/metrics.json").read_text())
    assert sum(asked) == figures["splits"]["out_of_fold"]["n"] == 540
    assert len(asked) == 2  # the first was not asked again
    rows = pq.read_table(tmp_path / "run/release/evaluation/predictions.parquet").to_pylist()
    ids = [row["image_id"] for row in rows if row["split"] == "out_of_fold"]
    assert len(ids) == len(set(ids)) == 540
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["release", "run.json"]


def test_training_goes_on_from_a_release(run, pictures, tmp_path):
    figures = train(pictures, run, tmp_path / "on")
    assert figures["base_model"] == "run"
    assert figures["data"]["official_test_known_to_base"] == 0
    assert str(run.parent) not in (tmp_path / "on/release/README.md").read_text()


@pytest.mark.long
def test_what_the_base_model_has_learnt_from_is_not_in_an_external_set_and_is_said_of_a_shipped_test_split(
    pictures, run, tmp_path
):
    class_folders(tmp_path / "shipped" / "Train", images=60, first_seed=5000)
    shutil.copytree(pictures / "Train", tmp_path / "shipped" / "Test")
    figures = train(tmp_path / "shipped", run, tmp_path / "on", "--external", f"known={pictures / 'Train'}")
    assert figures["data"]["official_test_known_to_base"] > 200
    assert figures["data"]["base_model_learnt_from"] == "known"
    assert "The base model had learnt from" in (tmp_path / "on/release/README.md").read_text()
    left = 270 - figures["splits"]["external/known"]["n"]
    assert figures["data"]["external"]["known"]["left_out"] == left > 200


@pytest.mark.long
def test_a_model_trained_on_from_real_images_never_says_that_it_saw_generated_ones_only(run, tmp_path, monkeypatch):
    few = functools.partial(synthetic_lesions.demo_set, lesions_per_class=40)
    monkeypatch.setattr(synthetic_lesions, "demo_set", few)
    figures = train("demo", run, tmp_path / "on")
    assert figures["data"]["generated"] is False
    assert figures["data"]["trained_on"] == ["generated", "newer ISIC archive"]
    assert "license: cc-by-nc-4.0" in (tmp_path / "on/release/README.md").read_text()


def test_columns_count_in_external_sets_too(pictures, tiny_vit, tmp_path, capsys):
    other = tmp_path / "other"
    rows = []
    for i, path in enumerate(sorted(class_folders(tmp_path / "drawn", images=2, first_seed=5000).rglob("*.png"))):
        (other / "images").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, other / "images" / f"p{i}.png")
        rows.append({"photo": f"p{i}.png", "finding": path.parent.name})
    write_table(other / "table.csv", rows)
    asked = ["--columns", "image=photo", "label=finding", "--external", f"clinic={other}"]
    config = train_hf.parse(arguments(pictures, tiny_vit, tmp_path / "run", *asked))
    assert len(development.load(config).report(config).external.splits["external/clinic"]) == 18
    assert command(pictures, tiny_vit, tmp_path / "no", "--columns", "label=finding") == 2
    assert "no column 'finding' for 'label'" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--external", "--dataset_name", "--columns"])
def test_a_flag_that_stands_twice_is_refused(flag, capsys):
    with pytest.raises(SystemExit):
        train_hf.parse([flag, "a=x", flag, "b=y"])
    assert f"{flag} stands twice: name all of them after one" in capsys.readouterr().err


def test_a_base_model_that_knows_the_images_held_out_is_refused(pictures, run, tmp_path, capsys):
    learnt = contamination.read(run / "release")
    assert set(learnt.values()) == set(contamination.SPLITS)
    names = contamination.names(loading.load([str(pictures)]).dataset)
    everything = dict.fromkeys([*learnt, *set().union(*names)], "train")
    shutil.copytree(run / "release", tmp_path / "base")
    contamination.write(everything, tmp_path / "base")
    assert command(pictures, tmp_path / "base", tmp_path / "on") == 2
    assert "the base model has learnt from all images of the split validation" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("where", ["frame", "lesion"])
def test_a_diagnosis_hidden_in_the_frame_is_called_a_shortcut_and_one_in_the_lesion_is_not(where, tmp_path):
    folder, rows = tmp_path / "images", []
    folder.mkdir()
    for photo in synthetic_lesions.demo_set():
        pixels = np.array(photo.image)
        if where == "frame":
            colour = [
                40 + 80 * (DIAGNOSES.index(photo.diagnosis) // 3),
                40 + 80 * (DIAGNOSES.index(photo.diagnosis) % 3),
            ]
            pixels[:4] = pixels[-4:] = pixels[:, :4] = pixels[:, -4:] = [*colour, 120]
        Image.fromarray(pixels).save(folder / f"{photo.image_id}.png")
        rows.append({"image_id": photo.image_id, "dx": photo.diagnosis, "lesion_id": photo.lesion_id})
    write_table(folder / "HAM10000_metadata.csv", rows)
    command = [
        "--dataset_name",
        folder,
        "--output_dir",
        tmp_path / "run",
        "--image_size",
        "96",
        "--num_train_epochs",
        "6",
    ]
    told = train_hf.main(train_hf.parse([str(word) for word in command]))["shortcut"]
    assert told["found"] == (where == "frame")
    if where == "frame":
        assert "frame_only" in told["balanced_accuracy"]
        assert "**Shortcut (n = " in (tmp_path / "run/release/README.md").read_text()


def test_a_finished_run_does_nothing_again(run, pictures, tiny_vit, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    train(pictures, tiny_vit, run, *LEARNS)
    assert "nothing is left to train" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_training_on_from_a_release_of_another_split_is_refused(run, pictures, tmp_path, capsys):
    assert command(pictures, run, tmp_path / "on", "--split_seed", "1") == 2
    assert "was trained with --split_seed 0" in capsys.readouterr().err
    assert not (tmp_path / "on").exists()


def test_balanced_softmax_of_equal_logits_is_the_prior_of_the_truth():
    loss = recipe_trainer.balanced_softmax(sampling.class_frequencies([0] * 30 + [1] * 10))
    outputs = type("Output", (), {"logits": torch.zeros(2, 2)})
    outputs.logits = torch.cat([outputs.logits, torch.full((2, 7), -1e9)], dim=1)
    assert loss(outputs, torch.tensor([0, 1])).item() == pytest.approx(-np.log([0.75, 0.25]).mean(), rel=1e-4)


def test_what_a_rebalanced_training_learns_and_the_calibration_gives_back_is_bayes_rule():
    rng = np.random.default_rng(0)
    mix = np.array([0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.03, 0.02, 0.0])
    truth = rng.choice(9, size=4000, p=mix)
    means = rng.normal(size=(9, 4)) * 1.2
    seen = means[truth] + rng.normal(size=(4000, 4))
    likelihood = -((seen[:, None] - means) ** 2).sum(2) / 2
    side = {"label": truth.tolist(), "source": [("a", "b", "a")[i % 3] for i in range(4000)]}
    best = special.softmax(likelihood + np.log(sampling.class_frequencies(truth)), axis=1)
    for how in ("natural", "classes", "classes-and-sources"):
        for rebalance in (True, False):
            weights = sampling.sampling_weights(side["label"], side["source"], how)
            # The ideal model of what is drawn; balanced softmax takes its mix out.
            learnt = likelihood if rebalance else likelihood + np.log(sampling.class_frequencies(truth, weights))
            prior = sampling.Draws(side["label"], side["source"], how, rebalance).prior_correction
            given_back = special.softmax(learnt + np.log(1 if prior is None else prior), axis=1)
            assert given_back == pytest.approx(best, abs=1e-9), (how, rebalance)
            temperature, bias = calibration.fit(learnt, truth, prior)
            found = special.softmax(learnt / temperature + bias, axis=1)
            assert temperature == pytest.approx(1, abs=0.05), (how, rebalance)
            assert np.abs(found - best).mean() < 0.005, (how, rebalance)


def kill_in_the_middle(command: list[str], folder: Path) -> None:
    """Start the training, and kill -9 it once a checkpoint is whole."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder.parent)
    deadline = time.monotonic() + 240
    while len(list((folder / "checkpoints").glob("checkpoint-*/trainer_state.json"))) < 1:
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "release").exists()


def as_if_never_killed(dataset, model, folder: Path, more: list[str]) -> None:
    """Train twice, once with a kill -9 in the middle, and compare all that comes out."""
    train(dataset, model, folder / "whole", *more)
    command = [sys.executable, str(REPOSITORY / "train_hf.py")]
    kill_in_the_middle([*command, *arguments(dataset, model, folder / "killed", *more)], folder / "killed")
    train(dataset, model, folder / "killed", *more)
    assert without_speed(folder / "killed") == without_speed(folder / "whole")
    whole, killed = (load_file(folder / name / "release/model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(tensor, killed[name]) for name, tensor in whole.items())


@pytest.mark.long  # `training/test_checkpoint_sync.py` kills a run too, `training/test_arguments.py` stops one
@pytest.mark.parametrize("base", ["resnet", "vit", "efficientnet-lite0"])
def test_a_killed_training_goes_on_and_ends_as_if_it_had_not_been_killed(base, tiny_resnet, tiny_vit, tmp_path):
    model, size = {"resnet": (tiny_resnet, "32"), "vit": (tiny_vit, "32")}.get(base, (base, "96"))
    as_if_never_killed("demo", model, tmp_path, ["--num_train_epochs", "3", "--image_size", size])


def push(repo_id: str, tag: str) -> list[str]:
    return ["--push_to_hub", "--hub_model_id", repo_id, "--tag", tag]


BAD = {
    "unknown data set": (["--dataset_name", "demmo"], "Did you mean 'demo'"),
    "unknown base model": (["--model_name_or_path", "efficientnet-lite9"], "Did you mean 'efficientnet-lite"),
    "no epochs": (["--num_train_epochs", "0"], "--num_train_epochs 0 makes no sense"),
    "no pixels": (["--image_size", "0"], "--image_size 0 makes no sense"),
    "a seed below 0": (["--seed", "-1"], "--seed -1 makes no sense"),
    "a learning rate that is no number": (["--learning_rate", "nan"], "--learning_rate nan makes no sense"),
    "an image size that does not suit the model": (["--image_size", "48"], "take another --image_size"),
    "a tag without a push": (["--tag", "v1.0.0"], "--tag is of a release that is published: add --push_to_hub"),
    "a repository without a push": (["--hub_model_id", "t/m"], "--hub_model_id is of a release that is published"),
    "push without a tag": (["--push_to_hub", "--hub_model_id", "tester/model"], "need each other"),
    "push without a repository": (["--push_to_hub", "--tag", "v1.0.0"], "need each other"),
    "push without an owner": (push("model", "v1.0.0"), "write it as USER/REPO"),
    "push with a bad tag": (push("tester/model", "1"), "--tag '1' is no version: write it like v1.0.0"),
    "a reason without a push": (["--accept_regression", "why"], "add --push_to_hub, --hub_model_id and --tag"),
    "private without a push": (["--hub_private_repo"], "add --push_to_hub, --hub_model_id and --tag"),
    "no reason": ([*push("t/m", "v1.0.0"), "--accept_regression", ""], "needs the reason"),
    "push without a token": (push("tester/model", "v1.0.0"), "needs a token"),
    "each checkpoint, and no push": (["--hub_strategy", "checkpoint"], "--checkpoints_to USER/REPO does without"),
    "all checkpoints": (["--hub_strategy", "all_checkpoints"], "'checkpoint' pushes the last and the best"),
    "a tracker that is not installed": (["--report_to", "wandb"], "wandb is not installed: pip install wandb"),
    "a tracker that is none": (["--report_to", "trakio"], "Did you mean 'trackio'"),
    "a decay below 0": (["--weight_decay", "-1"], "--weight_decay -1 makes no sense: it must be 0 or above"),
    "a mode that is none": (["--torch_compile_mode", "foo"], "--torch_compile_mode foo is not one of default, lite,"),
    "a schedule of no JSON": (["--lr_scheduler_kwargs", "abc"], "--lr_scheduler_kwargs abc is no JSON object"),
    "a tracker and none": (["--report_to", "none", "tensorboard"], "contradicts itself"),
    "two precisions": (["--bf16", "--fp16"], "exclude each other"),
    "half precision on a CPU": (["--fp16"], "--fp16 needs an accelerator"),
    "one checkpoint": (["--save_total_limit", "1"], "--save_total_limit must be 2 or more"),
    "an optimizer that is not installed": (["--optim", "galore_adamw"], "the Trainer refuses these settings"),
    "a schedule without what it needs": (["--lr_scheduler_type", "cosine_with_min_lr"], "the Trainer refuses"),
    "a warm-up below 0": (["--warmup_steps", "-1"], "the Trainer refuses"),
    "no accumulation": (["--gradient_accumulation_steps", "0"], "makes no sense"),
    "sharded weights": (["--fsdp", "full_shard"], "--fsdp full_shard is refused: a model is trained whole"),
    "a checkpoint that is none": (["--resume_from_checkpoint", "True"], "'True' is no branch of a repository"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_question_gets_one_sentence_and_exit_code_2(case, pictures, tiny_vit, tmp_path, capsys):
    flags, sentence = BAD[case]
    assert command(pictures, tiny_vit, tmp_path / "run", *flags) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("dermalert: ")
    assert sentence in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("token", "sentence"), [("hf_read", "may only read"), ("hf_write", "has a v1.0.0 already")])
def test_what_could_not_be_published_is_refused_before_the_training(
    token, sentence, hub, pictures, tiny_vit, tmp_path, capsys, monkeypatch
):
    commit = hub.create("tester/model").head("main")
    hub.repo("tester/model").tags["v1.0.0"] = commit
    monkeypatch.setenv("HF_TOKEN", token)
    assert command(pictures, tiny_vit, tmp_path / "run", *push("tester/model", "v1.0.0")) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_data_set_of_nothing_but_a_test_split_is_refused(pictures, tiny_vit, tmp_path, capsys):
    shutil.copytree(pictures / "Test", tmp_path / "pictures" / "Test")
    assert command(tmp_path / "pictures", tiny_vit, tmp_path / "run") == 2
    assert "there is nothing to train on" in capsys.readouterr().err


def test_a_training_that_diverges_is_said(pictures, tiny_vit, tmp_path, capsys):
    assert command(pictures, tiny_vit, tmp_path / "run", "--learning_rate", "1e30") == 1
    assert "the training diverged" in capsys.readouterr().err


@pytest.mark.parametrize("flags", ["--num_train_epoch 3", "--nonsense", "--num_train_epochs many", "--optim adam"])
def test_an_unknown_flag_is_argparses_message_and_exit_code_2(flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        train_hf.parse(flags.split())
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_folder_of_another_run_is_refused_and_left_alone(run, pictures, tiny_vit, capsys):
    assert command(pictures, tiny_vit, run, *LEARNS, "--num_train_epochs", "4") == 2
    assert "holds another run (--num_train_epochs 5 there, 4 here)" in capsys.readouterr().err
    assert (run / "release/config.json").is_file()


def test_a_folder_that_is_no_run_is_refused_and_left_alone(pictures, tiny_vit, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert command(pictures, tiny_vit, tmp_path) == 2
    assert "holds things that are no run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_disk_without_room_is_said_before_the_training(pictures, tiny_vit, tmp_path, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert command(pictures, tiny_vit, tmp_path / "run") == 1
    assert "has 1 MB of free disk and the run needs about" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the file that could not be closed
@pytest.mark.parametrize(
    ("kilobytes", "said"),
    [(1000, "is full: make room and run the same command again"), (100, "make room there, or set TMPDIR")],
    ids=["of the run", "of the temporary files"],
)
def test_a_disk_that_fills_up_ends_in_one_sentence_and_the_run_goes_on(pictures, tmp_path, capsys, kilobytes, said):
    config = ViTConfig(hidden_size=128, num_hidden_layers=4, num_attention_heads=2, image_size=32, patch_size=8)
    ViTForImageClassification(config).save_pretrained(tmp_path / "base")  # of more than a megabyte
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "base")
    # No file may grow beyond so much: what the kernel then answers to a write is what it answers on a full disk.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, before[1]))
    try:
        assert command(pictures, tmp_path / "base", tmp_path / "run") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "release").exists()
    if kilobytes == 1000:
        train(pictures, tmp_path / "base", tmp_path / "run")
        assert (tmp_path / "run" / "release" / "config.json").is_file()
