"""Compute nodes have no network: what lies in the cache is used, and what it lacks is named."""

import os
import shutil
import subprocess
import sys

import datasets
import pytest
import transformers
from dermalert_space.contract import BUNDLED, EXPOSURE
from dermalert_space.release import NoRelease, Release
from huggingface_hub import HfApi, constants, snapshot_download
from support import loading
from support.hub_server import environment
from support.paths import REPOSITORY
from support.pictures import picture
from support.releases import make_release
from typer.testing import CliRunner

from dermalert.cli import app
from dermalert.data import contamination
from dermalert.errors import RunError, UsageError
from dermalert.evaluation import any_checkpoint
from dermalert.release import release_comparison
from dermalert.taxonomy import DIAGNOSES
from dermalert.training import backbones

pytestmark = pytest.mark.integration


@pytest.fixture
def cached(hub, tmp_path, monkeypatch):
    """Publish a folder, download what of it is not left out, and take the network away; return the repository."""

    def offline(folder, *, without=(), tag=None):
        HfApi().create_repo("tester/model")
        HfApi().upload_folder(repo_id="tester/model", folder_path=folder)
        if tag:
            HfApi().create_tag("tester/model", tag=tag)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        snapshot_download("tester/model", revision=tag, ignore_patterns=list(without))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        hub.repos.clear()
        return "tester/model"

    return offline


def base(folder):
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(**shape, image_size=32, patch_size=8)
    config.id2label = {0: "nevus", 1: "melanoma"}
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tag", [None, "v1"])
def test_a_cached_base_is_trained_from_and_measured_and_has_no_list(cached, tmp_path, tag):
    name = cached(base(tmp_path / "base"), tag=tag) + (f"@{tag}" if tag else "")
    model, _ = backbones.load(name, labels=DIAGNOSES)
    assert model.config.num_labels == 9
    assert contamination.read(name) == {}
    assert any_checkpoint.load(name).labels == ["nevus", "melanoma"]


def test_a_cached_release_is_served(cached, tmp_path):
    name = cached(make_release(tmp_path / "release"))
    assert Release.load(name).threshold == 0.1
    assert any_checkpoint.load(name).threshold == 0.1


@pytest.mark.parametrize("lacks", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_what_an_incomplete_cache_lacks_is_named(cached, tmp_path, lacks):
    name = cached(make_release(tmp_path / "base"), without=[lacks])
    for load, error in ((any_checkpoint.load, UsageError), (Release.load, NoRelease)):
        with pytest.raises(error, match=f"the cache lacks {lacks}: run 'hf download tester/model'"):
            load(name)
    with pytest.raises(UsageError, match=f"the cache lacks {lacks}"):
        backbones.load(name, labels=DIAGNOSES)


@pytest.mark.filterwarnings("ignore:It seems that you are about to commit a data file")
def test_a_release_whose_list_of_images_is_not_cached_is_not_taken_for_one_that_has_none(cached, tmp_path):
    folder = make_release(tmp_path / "release", generated=True)
    (folder / EXPOSURE).parent.mkdir(exist_ok=True)
    contamination.write({"a": "train"}, folder)
    with pytest.raises(RunError, match=f"the cache lacks {EXPOSURE} of 'tester/model'"):
        contamination.read(cached(folder, without=["evaluation/*"]))


@pytest.fixture
def offline(hub, monkeypatch):  # noqa: ARG001  # whose fixture gives a token
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    "words",
    [
        ["versions", "tester/model"],
        ["rollback", "tester/model", "v1.0.0"],
        ["publish", str(BUNDLED), "tester/model", "--tag", "v1.0.0"],
        ["publish-dataset", "demo", "tester/lesions"],
        ["publish-benchmark", "demo", "tester/by-clinic"],
        ["evaluate", str(BUNDLED), "--benchmark", "tester/by-clinic"],
        ["deploy-space", "tester/alert", "--model", "tester/model@v1.0.0"],
        ["compare", str(BUNDLED), "tester/model@v1.0.0"],
        ["evaluate", "tester/model", "demo"],
        ["audit", "tester/never-loaded"],
    ],
    ids=lambda words: words[0],
)
@pytest.mark.usefixtures("offline")
def test_a_command_that_needs_the_hub_says_in_one_sentence_that_it_may_not_ask(words):
    done = CliRunner().invoke(app, words)
    assert done.exit_code in (1, 2)
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("dermalert: ") and "HF_HUB_OFFLINE is set" in said and "Traceback" not in done.output


@pytest.mark.filterwarnings("ignore:It seems that you are about to commit a data file")
@pytest.mark.parametrize("lacks", [None, EXPOSURE])
def test_a_cached_release_is_compared_and_one_that_is_not_whole_is_not(cached, tmp_path, lacks):
    for name in release_comparison.FILES:
        (tmp_path / "release" / name).parent.mkdir(exist_ok=True)
        shutil.copy(BUNDLED / name, tmp_path / "release" / name)
    name = cached(tmp_path / "release", tag="v1.0.0", without=[lacks] if lacks else ()) + "@v1.0.0"
    if lacks:
        with pytest.raises(UsageError, match=rf"lacks {EXPOSURE} of '{name}': run 'hf download tester/model --rev"):
            release_comparison.load(name)
    else:
        assert release_comparison.load(name).exposure == release_comparison.load(str(BUNDLED)).exposure


@pytest.fixture
def data_set(hub, monkeypatch, tmp_path) -> str:  # noqa: ARG001  # empties the Hub
    """A data set of two images on the Hub, whose files `datasets` will keep by themselves."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    rows = [{"image": picture(seed), "dx": dx} for seed, dx in enumerate(["nv", "mel"])]
    features = datasets.Features(image=datasets.Image(), dx=datasets.Value("string"))
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "data.parquet")
    HfApi().create_repo("tester/kept", repo_type="dataset")
    HfApi().upload_folder(
        repo_id="tester/kept", repo_type="dataset", folder_path=tmp_path, allow_patterns="data.parquet"
    )
    return "tester/kept"


@pytest.mark.filterwarnings("ignore:It seems that you are about to commit a data file")
def test_a_cached_data_set_is_loaded_and_another_revision_of_it_is_not(hub, data_set, monkeypatch):
    commit, contents = HfApi().dataset_info(data_set).sha, list(loading.load(data_set, labels=None)["content"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    hub.repos.clear()
    for name in (data_set, f"{data_set}@{commit}"):
        assert list(loading.load(name, labels=None)["content"]) == contents
    with pytest.raises(UsageError, match=f"the cache holds commit {commit} of '{data_set}', which may not be 'v2'"):
        loading.load(f"{data_set}@v2", labels=None)
    with pytest.raises(UsageError, match=f"--streaming reads '{data_set}' from the Hub"):
        loading.load(data_set, labels=None, streaming=True)


@pytest.mark.long
def test_the_hub_is_asked_through_the_proxy_that_the_environment_names(hub, tmp_path):
    HfApi().create_repo("tester/model")
    hub.requests.clear()
    own = environment("http://hub.invalid", tmp_path) | {"HTTP_PROXY": hub.url, "NO_PROXY": "", "no_proxy": ""}
    words = [sys.executable, "-m", "dermalert", "versions", "tester/model"]
    own["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "space")])
    subprocess.run(words, env=own, check=False, capture_output=True)
    assert {request.path for request in hub.requests} >= {"/api/models/tester/model/refs"}
