"""A benchmark of three clinics: built, published on the Hub on loopback, and two checkpoints graded and submitted."""

import hashlib
import itertools
import json
import shutil
from argparse import Namespace
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import Dataset, Features, Image, Value, load_dataset
from huggingface_hub import HfApi, hf_hub_download, parse_eval_result_entries
from PIL import Image as Pillow
from support.hub_server import Fault
from support.pictures import picture, write_table
from support.releases import make_release
from typer.testing import CliRunner

from dermalert.benchmark import grade, images, manifest
from dermalert.cli import app
from dermalert.data import contamination, splits
from dermalert.errors import RunError
from dermalert.publishing import benchmarks

pytestmark = pytest.mark.integration

REPO = "tester/melanoma-by-clinic"
CLINICS = ("Hospital Italiano de Buenos Aires", "International Dermoscopy Society", "University of Queensland")
TASKS = [manifest.slug(name) for name in CLINICS]
ATTRIBUTIONS = (
    *CLINICS[:2],
    "The University of Queensland Diamantina Institute, The University of Queensland, Dermatology Research Centre",
)
LESIONS = 12  # of each diagnosis, clinic and split
TWINS = ("ISIC_9500000", "ISIC_9600000")
"""One picture under two numbers, of two clinics: the first is tested on, the second would be learnt from."""


def lesion_ids(split: str):
    """Lesion ids of the archive's form that a hash puts into a split, one after the other."""
    return (name for i in itertools.count(1_000_000) if splits.split_of(name := f"IL_{i}") == split)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return archive(tmp_path_factory.mktemp("archive") / "images")


def archive(root: Path) -> Path:
    """A download of the archive: melanomas and nevi of three clinics, as many to learn from as to test on."""
    root.mkdir()
    ids, rows = {split: lesion_ids(split) for split in ("held_out", "train")}, []
    for number, attribution in enumerate(ATTRIBUTIONS):
        kinds = itertools.product(("held_out", "train"), (("Melanoma", 3), ("Nevus", 4)), range(LESIONS))
        for i, (split, (name, tint), _) in enumerate(kinds):
            isic_id = f"ISIC_{9_000_000 + 100_000 * number + i:07d}"
            picture(1000 * number + i, tint=tint).save(root / f"{isic_id}.png")
            rows.append(row(isic_id, attribution, name, next(ids[split])))
    rows += [row(TWINS[0], ATTRIBUTIONS[0], "Nevus", next(ids["held_out"]))]
    rows += [row(TWINS[1], ATTRIBUTIONS[2], "Nevus", next(ids["train"]))]
    picture(9999, tint=4).save(root / f"{TWINS[0]}.png")
    picture(9999, tint=4).save(root / f"{TWINS[1]}.jpg", quality=95)
    write_table(root / "metadata.csv", rows)
    return root


def row(isic_id: str, attribution: str, diagnosis: str, lesion_id: str) -> dict:
    kind = {
        "image_type": "dermoscopic",
        "diagnosis_1": "Malignant" if diagnosis == "Melanoma" else "Benign",
        "diagnosis_3": diagnosis,
        "lesion_id": lesion_id,
    }
    return {"isic_id": isic_id, "attribution": attribution, "copyright_license": "CC-BY-NC", **kind}


def typed(*words: object) -> tuple[int, str]:
    """Type a command; return its exit code and all that it says, in one line."""
    done = CliRunner().invoke(app, list(map(str, words)))
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, " ".join(done.output.split())


def command(*words: object) -> str:
    code, said = typed(*words)
    assert code == 0, said
    return said


@pytest.fixture
def published(hub, folder):
    """The Hub with the benchmark, and what the command said."""
    return hub.once("benchmark", lambda: command("publish-benchmark", folder, REPO, "--public"))


@pytest.fixture(scope="module")
def local(folder, tmp_path_factory) -> Path:
    """The same in a folder."""
    target = tmp_path_factory.mktemp("benchmark") / "local"
    command("publish-benchmark", folder, REPO, "--output", target)
    return target


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    """A model of seven classes."""
    return other_classes(tmp_path_factory.mktemp("foreign"), ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"))


def other_classes(root: Path, classes: tuple[str, ...], *, constant: bool = False) -> Path:
    import torch
    from transformers import ConvNextConfig, ConvNextForImageClassification, ViTImageProcessorPil

    config = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32, num_labels=len(classes))
    config.id2label = dict(enumerate(classes))
    model = ConvNextForImageClassification(config)
    if constant:
        torch.nn.init.zeros_(model.classifier.weight)
    model.save_pretrained(root)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(root)
    return root


def put_on_hub(hub, repo_id: str, root: Path) -> None:
    hub.create(repo_id)
    files = [path for path in root.rglob("*") if path.is_file()]
    hub.commit(repo_id, {path.relative_to(root).as_posix(): path.read_bytes() for path in files})


def rows_of(benchmark: manifest.Benchmark) -> dict[str, dict]:
    return {row["image_id"]: row for row in benchmark.rows.to_pylist()}


# What is built.


def test_no_group_and_no_twin_of_a_test_image_is_learnt_from(local):
    benchmark = manifest.read(str(local))
    sides = defaultdict(set)
    for each in benchmark.rows.to_pylist():
        sides[each["group"]].add(each["split"])
    assert all(len(split) == 1 for split in sides.values())
    rows = rows_of(benchmark)
    assert rows[TWINS[0]]["group"] == rows[TWINS[1]]["group"]
    assert benchmark.clinics == sorted(CLINICS)
    assert {benchmark.count(name, "test")["melanomas"] for name in CLINICS} == {LESIONS}
    (same,) = benchmark.errata.to_pylist()
    assert (same["kind"], {same["image_id"], same["other_image_id"]}) == ("same lesion", set(TWINS))


@pytest.mark.usefixtures("published")
def test_the_hub_holds_no_pixels_and_takes_it_for_a_benchmark(hub, folder, tmp_path):
    held = hub.files(REPO, repo_type="dataset")
    evaluation = yaml.safe_load(held["eval.yaml"])
    assert [task["id"] for task in evaluation["tasks"]] == ["worst_clinic", *sorted(TASKS)]
    assert evaluation["evaluation_framework"] == "dermalert"
    for task in evaluation["tasks"]:
        rows = load_dataset(REPO, task["config"], split=task["split"], cache_dir=str(tmp_path / task["id"]))
        assert "image" not in rows.column_names
        assert set(rows["split"]) == {"test"}
        assert len(rows) == 2 * LESIONS * (3 if task["config"] == "default" else 1) + sum(
            each in rows["image_id"][:] for each in TWINS
        )
    card = held["README.md"].decode()
    assert f"1 pairs of images of {CLINICS[0]} and {CLINICS[2]} show one lesion" in card
    assert not any(path.read_bytes() in held.values() for path in folder.glob("*.png"))
    assert not any(str(folder.parent).encode() in data for data in held.values())


def test_a_second_call_changes_nothing(hub, published, folder):
    assert "Published: " in published
    before = hub.branches(REPO, "dataset")
    assert "Nothing to do, it is there already" in command("publish-benchmark", folder, REPO, "--public")
    assert hub.branches(REPO, "dataset") == before


def test_a_publishing_that_failed_is_finished_by_the_same_call(hub, local):
    benchmark = manifest.read(str(local))
    hub.faults.append(Fault("POST", "/commit/", 500))
    with pytest.raises(RunError, match="Run the same command again"):
        benchmarks.publish(benchmark, public=False)
    assert benchmarks.publish(benchmark, public=False)
    assert set(benchmarks.contents(benchmark)) < set(hub.files(REPO, repo_type="dataset"))
    assert not benchmarks.publish(benchmark, public=False)


def test_a_repository_that_holds_something_else_is_left_alone(hub, folder):
    hub.create(REPO, "dataset")
    hub.commit(REPO, {"audit.json": b"{}"}, repo_type="dataset")
    code, said = typed("publish-benchmark", folder, REPO, "--public")
    assert (code, "holds another data set" in said) == (2, True)


# What is graded.


@pytest.mark.usefixtures("published")
def test_two_models_are_submitted_and_read_back(hub, folder, foreign, tmp_path):
    put_on_hub(hub, "tester/release", make_release(tmp_path / "release", melanoma_bias=3))
    put_on_hub(hub, "stranger/seven", foreign)
    for repo_id in ("tester/release", "stranger/seven"):
        output = tmp_path / repo_id.replace("/", "-")
        words = ["evaluate", repo_id, "--benchmark", REPO, "--images", folder, "--output", output, "--submit"]
        assert "4 scores are at " in command(*words)
        (pull,) = HfApi().get_repo_discussions(repo_id)
        assert pull.is_pull_request
        name = ".eval_results/melanoma_by_clinic.yaml"
        there = Path(hf_hub_download(repo_id, name, revision=f"refs/pr/{pull.num}"))
        entries = parse_eval_result_entries(yaml.safe_load(there.read_text()))
        assert [entry.task_id for entry in entries] == ["worst_clinic", *sorted(TASKS)]
        report = json.loads((output / "report.json").read_text())
        areas = {task: score["figures"]["figures"]["melanoma"]["auroc"] for task, score in report["clinics"].items()}
        assert {entry.task_id: entry.value for entry in entries[1:]} == {
            task: round(area["value"], 4) for task, area in areas.items()
        }
        assert entries[0].value == min(entry.value for entry in entries[1:])
        assert {entry.dataset_revision for entry in entries} == {HfApi().dataset_info(REPO).sha}
        assert all("unknown; loss on test less on training images" in entry.notes for entry in entries)
        assert f"{areas[TASKS[0]]['low']:.2f}" in entries[1 + sorted(TASKS).index(TASKS[0])].notes
        assert name not in hub.files(repo_id)  # the owner decides
    assert "at refs/pr/1 of stranger/seven" in command(*words)  # again: no second request
    assert len(list(HfApi().get_repo_discussions(repo_id))) == 1


def test_what_a_release_has_learnt_from_is_left_out_with_its_group(local, folder, tmp_path):
    release = make_release(tmp_path / "release")
    learnt = rows_of(manifest.read(str(local)))[TWINS[1]]
    names = set(learnt["belongs"]) - set(rows_of(manifest.read(str(local)))[TWINS[0]]["belongs"])
    (release / "evaluation").mkdir()
    contamination.write(dict.fromkeys(names, "train"), release)
    said = command("evaluate", release, "--benchmark", local, "--images", folder, "--output", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    left_out = sum(score["exposed"] for score in report["clinics"].values())
    assert left_out == sum(rows_of(manifest.read(str(local)))[twin]["split"] == "test" for twin in TWINS)
    assert f"on record: {left_out} test images that it has learnt from were left out." in said
    assert report["clinics"][TASKS[1]]["probe"] is None


def test_missing_damaged_and_other_files_are_counted_and_make_a_score_partial(local, folder, tmp_path):
    constant = other_classes(tmp_path / "constant", ("melanoma", "nevus"), constant=True)
    tests = [r["image_id"] for r in manifest.read(str(local)).rows.to_pylist() if r["split"] == "test"]
    here = sorted(image_id for image_id in tests if image_id.startswith("ISIC_90"))
    shutil.copytree(folder, tmp_path / "images")
    for image_id in here[:2]:
        (tmp_path / "images" / f"{image_id}.png").unlink()
    picture(77_777).save(tmp_path / "images" / f"{here[2]}.png")
    (tmp_path / "images" / f"{here[3]}.png").write_bytes(b"no image")
    anew = tmp_path / "images" / f"{here[4]}.png"
    Pillow.open(anew).convert("RGB").resize((64, 64)).save(anew.with_suffix(".jpg"), quality=90)
    anew.unlink()  # encoded anew, which is the same picture
    said = command(
        "evaluate", constant, "--benchmark", local, "--images", tmp_path / "images", "--output", tmp_path / "o"
    )
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert "0.50 [no interval]" in said
    assert report["missing"] == here[:2]
    assert report["others"] == here[2:4]
    score = report["clinics"][TASKS[0]]
    assert score["measured"] == score["of"] - 4
    assert not score["whole"]
    assert report["clinics"][TASKS[1]]["whole"]
    assert (
        f"Partial, and no score of the benchmark, is what has less than 95% of a clinic's test images: {CLINICS[0]}"
        in said
    )
    script = (tmp_path / "o" / "fetch-images.sh").read_text()
    assert f"isic image download --search 'isic_id:{here[0]} OR isic_id:{here[1]}'" in script


def test_a_model_that_knows_its_training_images_is_caught_by_its_loss():
    rng, n = np.random.default_rng(0), 200
    truth, tests = np.repeat([3, 4], n), np.tile([True, False], n)
    sure = np.where(tests, 0.6, 0.95) + rng.uniform(-0.05, 0.05, 2 * n)
    assert probe(truth, tests, sure).is_shown
    assert not probe(truth, tests, rng.permutation(sure)).is_shown


def probe(truth: np.ndarray, tests: np.ndarray, sure: np.ndarray) -> grade.Probe:
    from dermalert.evaluation.predict import SplitPredictions

    probabilities = np.tile(((1 - sure) / 8)[:, None], 9)
    probabilities[np.arange(len(truth)), truth] = sure
    rows = Dataset.from_dict({"label": truth, "group": [str(i) for i in range(len(truth))]})
    return grade._probe(SplitPredictions(dataset=rows, probabilities=probabilities, alert=None), tests)


def test_the_table_of_the_benchmark_script_has_a_row_a_model(local, folder, monkeypatch, tmp_path, capsys):
    from benchmarks.evaluation import benchmark as script

    makers = {"8 x 8 pixels": script.few_pixels, "constant": script.constant}
    monkeypatch.setattr(script, "MAKERS", makers)
    words = {"benchmark": str(local), "images": [str(folder)], "models": [], "output_dir": str(tmp_path / "runs")}
    script.main(Namespace(**words, per_clinic=20, train_per_clinic=20))
    tables = [table.splitlines() for table in capsys.readouterr().out.strip().split("\n\n")]
    assert [table[0].split(" | ")[0].strip("| ") for table in tables] == list(script.FIGURES)
    header, _, *lines = tables[0]
    assert [cell.strip() for cell in header.split("|")][2:5] == sorted(CLINICS)
    assert [line.split(" | ")[0].strip("| ") for line in lines] == list(makers)
    assert lines[1].count("0.50") == 3


# What is refused.


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["{model}"], "name the data sets to measure the model on, or a benchmark with --benchmark"),
        (["{model}", "--submit"], "are of a benchmark: name one with --benchmark"),
        (["{model}", "{images}", "--benchmark", "{local}"], "--benchmark has labels and splits of its own"),
        (["{model}", "--benchmark", "nowhere"], "'nowhere' is neither a folder nor USER/REPO"),
        (["{model}", "--benchmark", "tester/nowhere"], "the Hub has no data set 'tester/nowhere'"),
        (["{model}", "--benchmark", "{images}"], "is no benchmark: it has no benchmark.json"),
        (["{model}", "--benchmark", "{local}"], "none of the 7"),
        (["{model}", "--benchmark", "{local}", "--images", "nowhere"], "--images 'nowhere' is no folder"),
        (["{model}", "--benchmark", "{local}", "--submit"], "is a folder: publish it"),
        (["a/b", "--benchmark", "{local}", "--submit"], "needs a benchmark that others can read"),
    ],
)
def test_bad_input_of_evaluate_is_one_sentence(words, sentence, folder, local, foreign, tmp_path):
    places = {"model": foreign, "images": folder, "local": local}
    code, said = typed("evaluate", *(word.format(**places) for word in words), "--output", tmp_path / "out")
    assert code == 2, said
    assert sentence in said


@pytest.mark.usefixtures("published")
def test_neither_partial_scores_nor_those_of_another_task_are_submitted(hub, folder, foreign, tmp_path):
    put_on_hub(hub, "tester/seven", foreign)
    put_on_hub(hub, "tester/two", other_classes(tmp_path / "two", ("benign", "malignant")))
    words = ["--benchmark", REPO, "--images", folder, "--output", tmp_path / "out", "--submit"]
    code, said = typed("evaluate", "tester/seven", *words, "--per-clinic", 20)
    assert (code, "no score of tester/seven is whole" in said) == (2, True)
    code, said = typed("evaluate", "tester/two", *words)
    assert (code, "has no class for melanoma alone, but malignant" in said) == (2, True)
    assert not list(HfApi().get_repo_discussions("tester/seven"))


def test_a_damaged_benchmark_is_refused(local, foreign, tmp_path):
    shutil.copytree(local, tmp_path / "damaged")
    shutil.copy(
        tmp_path / "damaged" / "data" / f"{TASKS[0]}-test.parquet",
        tmp_path / "damaged" / "data" / f"{TASKS[1]}-test.parquet",
    )
    code, said = typed("evaluate", foreign, "--benchmark", tmp_path / "damaged")
    assert (code, "is damaged (its rows are not those of its fingerprint)" in said) == (2, True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--test-clinic", "Nowhere"], "--test-clinic 'Nowhere' made none of these images"),
        (["--output", "{local}"], "is there already: name a new folder"),
    ],
)
def test_bad_input_of_publish_benchmark_is_one_sentence(words, sentence, folder, local, tmp_path):
    output = [] if "--output" in words else ["--output", tmp_path / "new"]
    code, said = typed("publish-benchmark", folder, REPO, *(w.format(local=local) for w in words), *output)
    assert (code, sentence in said) == (2, True), said


def test_too_few_lesions_or_none_of_the_archive_are_refused(tmp_path):
    for name, prefix, sentence in (("few", "ISIC_9", "a benchmark needs two clinics"), ("own", "mole", "no one")):
        for i, label in enumerate(("melanoma", "nevus")):
            (tmp_path / name / label).mkdir(parents=True)
            for j in range(3):
                picture(10 * i + j, tint=i).save(tmp_path / name / label / f"{prefix}{i}0000{j}.png")
        more = ["--license", "cc-by-4.0"] if name == "own" else []
        code, said = typed("publish-benchmark", tmp_path / name, REPO, "--output", tmp_path / "new", *more)
        assert code == 2
        assert (sentence if name == "few" else "none of these images has a number of the ISIC archive") in said


def test_a_real_copy_of_another_size_is_the_manifests_picture_and_no_other_lesion_is(real_images):
    """`ham10000_224` beside `ham10000`: 60 photographs cropped to the middle square, and whole."""
    folders = [real_images / name for name in ("ham10000", "ham10000_224")]
    if not all(folder.is_dir() for folder in folders):
        pytest.skip(f"{folders} are not here")
    paths = [{path.stem: path for path in sorted(folder.rglob("*.jpg"))} for folder in folders]
    common = sorted(paths[0].keys() & paths[1].keys())[:60]
    whole, cropped = (manifest.hashes(pictures_of([part[name] for name in common])) for part in paths)
    distance = np.array([[images.distance_of(a, b) for b in cropped] for a in whole])
    assert len(common) == 60
    assert (distance.diagonal() <= images.RADIUS).all()
    assert (distance[~np.eye(60, dtype=bool)] > images.RADIUS).all()


def pictures_of(paths: list[Path]) -> Dataset:
    contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    columns = {"image": [{"path": str(path), "bytes": None} for path in paths], "content": contents}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "content": Value("string")}))


def test_a_search_names_at_most_a_hundred_images():
    script = images.fetch_script([f"ISIC_{i:07d}" for i in range(250)])
    assert script.count("isic image download") == 3
    assert all(line.count("isic_id:") <= 100 for line in script.splitlines())
