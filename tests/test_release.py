import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from hub_server import Fault
from releases import figures, make_release
from transformers import AutoModelForImageClassification

from dermalert import release
from dermalert.errors import RunError, UsageError
from space.triage import NOT_A_DEVICE, Release


@pytest.fixture
def folder(tmp_path) -> Path:
    """A release with weights, config, processor, figures and card, without training."""
    folder = make_release(tmp_path / "release", generated=False)
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(figures()))
    release.write_card(folder)
    return folder


def test_a_release_is_assembled_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), release.assembled(tmp_path / "release") as staging:
        (staging / "config.json").write_text("{}")
        raise RuntimeError
    assert not (tmp_path / "release").exists()
    with release.assembled(tmp_path / "release") as staging:
        assert list(staging.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


def test_publishing_makes_a_tag_that_loads_with_the_same_weights(hub, folder):
    release.publish(folder, "tester/derm", "v1.0.0")
    assert set(hub.tags("tester/derm")) == {"v1.0.0"}
    assert set(hub.branches("tester/derm")) == {"main"}
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(hub.files("tester/derm", "v1.0.0")) - {".gitattributes"} == names
    loaded = Release.load("tester/derm@v1.0.0")
    for name, tensor in Release.load(folder).model.state_dict().items():
        assert tensor.equal(loaded.model.state_dict()[name])


def test_what_is_published_says_its_version_everywhere(hub, folder):
    release.publish(folder, "tester/derm", "v2.3.4")
    files = hub.files("tester/derm", "v2.3.4")
    assert json.loads(files["config.json"])["dermalert"]["version"] == "v2.3.4"
    assert json.loads(files["evaluation/metrics.json"])["version"] == "v2.3.4"
    assert b"# dermalert v2.3.4" in files["README.md"]


@pytest.mark.usefixtures("hub")
def test_a_second_release_replaces_main_and_leaves_the_first_tag(folder, tmp_path):
    release.publish(folder, "tester/derm", "v1.0.0")
    other = make_release(tmp_path / "other", seed=1, generated=False)
    (folder / "evaluation").rename(other / "evaluation")
    (folder / "evaluation").mkdir()
    release.publish(other, "tester/derm", "v1.1.0")
    first, second = (Release.load("tester/derm", version).model.state_dict() for version in ("v1.0.0", "v1.1.0"))
    assert any(not tensor.equal(second[name]) for name, tensor in first.items())
    main = AutoModelForImageClassification.from_pretrained("tester/derm").state_dict()
    assert all(tensor.equal(main[name]) for name, tensor in second.items())


def test_publishing_the_same_release_again_does_nothing(hub, folder):
    commit = release.publish(folder, "tester/derm", "v1.0.0")
    heads = hub.branches("tester/derm")
    assert release.publish(folder, "tester/derm", "v1.0.0") == commit
    assert hub.branches("tester/derm") == heads


def test_publishing_leaves_the_local_release_as_it_was(hub, folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    release.publish(folder, "tester/derm", "v1.0.0")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert hub.tags("tester/derm")


def test_only_a_releases_own_files_are_uploaded_and_only_those_are_deleted(hub, folder):
    hub.create("tester/derm")
    hub.commit("tester/derm", {"LICENSE": b"mine", "notes/mine.md": b"mine", "evaluation/old.json": b"{}"})
    for name in ("training_args.bin", "optimizer.pt", ".env", "model.pkl"):
        (folder / name).write_text("hf_write")
    release.publish(folder, "tester/derm", "v1.0.0")
    files = hub.files("tester/derm", "v1.0.0")
    assert {"LICENSE", "notes/mine.md", "config.json", "model.safetensors"} <= set(files)
    assert not {"training_args.bin", "optimizer.pt", ".env", "model.pkl", "evaluation/old.json"} & set(files)


def test_the_token_is_in_no_file_and_no_message(hub, folder, caplog):
    release.publish(folder, "tester/derm", "v1.0.0")
    assert not [name for name, data in hub.files("tester/derm").items() if b"hf_write" in data]
    hub.faults.append(Fault("POST", "/tag/", 500))
    with pytest.raises(RunError) as failed:
        release.publish(folder, "tester/derm", "v1.1.0")
    assert "hf_write" not in str(failed.value) + caplog.text


REFUSED = {
    "a token that may only read": ("hf_read", "tester/derm", "v1.0.0", "may only read"),
    "an unknown token": ("hf_nobody", "tester/derm", "v1.0.0", "does not know this token"),
    "another owner": ("hf_write", "somebody/derm", "v1.0.0", "cannot write to somebody/derm"),
    "a tag that is taken": ("hf_write", "tester/derm", "v0.9.0", "has a tag v0.9.0 already"),
    "no owner": ("hf_write", "derm", "v1.0.0", "write it as USER/REPO"),
    "a name that is none": ("hf_write", "tester/de rm", "v1.0.0", "is no repository name"),
    "a version that is none": ("hf_write", "tester/derm", "1.0", "write it like v1.0.0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_published_is_refused_before_anything_is_sent(case, hub, folder, monkeypatch):
    release.publish(folder, "tester/derm", "v0.9.0")
    before = hub.branches("tester/derm")
    other = figures() | {"base_model": "another"}
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(other))
    token, repo_id, version, sentence = REFUSED[case]
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UsageError, match=sentence):
        release.publish(folder, repo_id, version)
    assert hub.branches("tester/derm") == before


ON_THE_WAY = ["whoami", "/refs", "repos/create", "/branch/", "/commit/staging", "/commit/main", "/tag/"]


@pytest.mark.parametrize("status", [500, "drop"])
@pytest.mark.parametrize("path", ON_THE_WAY)
@pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after its effect"])
def test_a_failure_on_the_way_leaves_no_tag_or_a_whole_one_and_the_same_call_finishes(path, status, after, hub, folder):
    hub.faults.append(Fault("GET|POST", path, status, after=after))
    with pytest.raises(RunError, match="Run the same command again"):
        release.publish(folder, "tester/derm", "v1.0.0")
    if "models/tester/derm" in hub.repos and hub.tags("tester/derm"):
        assert "model.safetensors" in hub.files("tester/derm", "v1.0.0")
    release.publish(folder, "tester/derm", "v1.0.0")
    assert set(hub.tags("tester/derm")) == {"v1.0.0"}
    assert set(hub.branches("tester/derm")) == {"main"}


def test_a_staging_branch_that_cannot_be_deleted_does_not_fail_the_release(hub, folder):
    hub.faults.append(Fault("DELETE", "/branch/", 500))
    release.publish(folder, "tester/derm", "v1.0.0")
    assert set(hub.tags("tester/derm")) == {"v1.0.0"}


def test_the_chain_of_train_publish_train_on_publish_as_a_user_types_it(hub, tmp_path):
    """Two releases by the command line alone, the second trained on from the first one's tag on the Hub."""
    from pictures import class_folders

    class_folders(tmp_path / "pictures", images=60)
    base = make_release(tmp_path / "base", alert=False)

    def run(name: str, base: str, version: str) -> str:
        command = [sys.executable, str(REPOSITORY / "train_hf.py"), "--dataset", "pictures", "--base_model", base]
        command += ["--output_dir", name, "--epochs", "1", "--push_to_hub", "tester/derm", "--version", version]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    said = run("one", str(base), "v1.0.0") + run("two", "tester/derm@v1.0.0", "v1.1.0")
    assert set(hub.tags("tester/derm")) == {"v1.0.0", "v1.1.0"}
    first, second = (
        AutoModelForImageClassification.from_pretrained("tester/derm", revision=version).state_dict()
        for version in ("v1.0.0", "v1.1.0")
    )
    assert any(not tensor.equal(second[name]) for name, tensor in first.items())
    for version in ("v1.0.0", "v1.1.0"):
        files = hub.files("tester/derm", version)
        assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
        assert not [name for name, data in files.items() if os.environ["HF_TOKEN"].encode() in data]
        assert b"\nlicense:" in files["README.md"].split(b"---\n", 2)[1]
    assert "hf_write" not in said
    again = run("two", "tester/derm@v1.0.0", "v1.1.0")
    assert "nothing is left to train" in again
    assert "Published: tester/derm@v1.1.0" in again


def test_one_wording_says_that_it_is_no_device():
    for name in ("README.md", "model_card.md", "space/README.md"):
        text = (REPOSITORY / name).read_text()
        assert NOT_A_DEVICE in text or "{{ not_a_device }}" in text, name
