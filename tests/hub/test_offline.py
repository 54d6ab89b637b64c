"""Compute nodes have no network: what lies in the cache is used, and what it lacks is named."""

import pytest
import transformers
from dermalert_space.contract import EXPOSURE
from dermalert_space.release import NoRelease, Release
from huggingface_hub import HfApi, constants, snapshot_download
from support.releases import make_release

from dermalert.data import contamination
from dermalert.errors import RunError, UsageError
from dermalert.evaluation import any_checkpoint
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
