"""The whole way as people go it, by commands alone: train, publish, go on elsewhere, publish, deploy, ask the Space."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from huggingface_hub import HfApi, SpaceCard, snapshot_download
from support.hub_server import environment
from support.paths import REPOSITORY
from support.pictures import class_folders
from support.serving import served
from transformers import pipeline

pytestmark = pytest.mark.integration

REPO, SPACE, BRANCH = "tester/derm", "tester/demo", "tester/derm@run-two"
PER_CLASS = 420  # so that fifty melanomas are held out, which the comparison of two releases asks for


class Machine:
    """A computer of its own: a folder with the pictures, and caches that nobody else has."""

    def __init__(self, hub, folder: Path, pictures: Path):
        self.folder, self.environment = folder, environment(hub.url, folder / "home") | {"OMP_NUM_THREADS": "1"}
        shutil.copytree(pictures, folder / "pictures")

    def start(self, *words: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=self.folder,
            env=self.environment | {"PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def train(self, *words: str) -> subprocess.Popen:
        return self.start(str(REPOSITORY / "train_hf.py"), "--dataset_name", "pictures", "--onnx", "none", *words)


def finished(process: subprocess.Popen, code: int = 0) -> str:
    said, _ = process.communicate(timeout=600)
    assert process.returncode == code, said
    assert "hf_write" not in said
    return said


@pytest.mark.long
def test_from_pictures_to_a_space_that_answers_as_the_release_of_its_tag(hub, tiny_vit, tmp_path):
    class_folders(tmp_path / "pictures", images=PER_CLASS)
    here, there = (Machine(hub, tmp_path / name, tmp_path / "pictures") for name in ("here", "there"))
    publish = ("--push_to_hub", "--hub_model_id", REPO, "--tag")
    said = finished(
        here.train(
            "--model_name_or_path", str(tiny_vit), "--output_dir", "one", "--num_train_epochs", "3", *publish, "v1.0.0"
        )
    )
    assert "Published: tester/derm@v1.0.0." in said

    # The second run is killed when a checkpoint of it has reached the Hub, and goes on where there is nothing else.
    two = ("--model_name_or_path", f"{REPO}@v1.0.0", "--output_dir", "two", "--num_train_epochs", "3")
    killed = here.train(*two, "--checkpoints_to", BRANCH)
    while "run.json" not in (hub.files(REPO, "run-two") if "run-two" in hub.branches(REPO) else {}):
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    said = finished(there.train(*two, "--resume_from_checkpoint", BRANCH, *publish, "v1.1.0"))
    assert "Going on from" in said
    assert "Published: tester/derm@v1.1.0." in said

    # One that has learnt nothing is refused.
    worse = (
        "--model_name_or_path",
        str(tiny_vit),
        "--output_dir",
        "three",
        "--num_train_epochs",
        "1",
        "--learning_rate",
        "1e-9",
    )
    said = finished(there.train(*worse, *publish, "v1.2.0"), code=1)
    assert "v1.2.0 is refused in the place of v1.1.0" in said
    assert set(hub.tags(REPO)) == {"v1.0.0", "v1.1.0"}

    said = finished(there.start("-m", "dermalert", "deploy-space", SPACE, "--model", f"{REPO}@v1.1.0"))
    assert "RUNNING" in said
    space = tmp_path / "space"
    snapshot_download(SPACE, repo_type="space", local_dir=space)
    card = SpaceCard.load(space / "README.md").data
    python = tmp_path / "python" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "python"], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "-r", space / "requirements.txt"]
    subprocess.run([*install, f"gradio=={card.sdk_version}"], check=True)
    own = environment(hub.url, tmp_path / "home of the space", token=None)
    own = {name: value for name, value in own.items() if not name.startswith(("PYTHON", "MODEL_", "GRADIO_"))}
    own |= {key: variable.value for key, variable in HfApi().get_space_variables(SPACE).items()}

    paths = sorted((tmp_path / "pictures").rglob("*.png"))[:: PER_CLASS // 2]
    classify = pipeline("image-classification", model=REPO, revision="v1.1.0")
    with served([str(python), "app.py"], space, own) as address:
        client = Client(address, verbose=False, analytics_enabled=False, download_files=tmp_path / "answers")
        for path in paths:
            answer = client.predict(handle_file(path), api_name="/judge")
            assert answer["probabilities"] == pytest.approx(
                {row["label"]: row["score"] for row in classify(str(path), top_k=9)}, abs=1e-5
            )
    assert len(paths) >= 18
    token = os.environ["HF_TOKEN"].encode()
    ours = [path for part in tmp_path.iterdir() if part.name != "python" for path in part.rglob("*") if path.is_file()]
    assert ours and not [path for path in ours if token in path.read_bytes()]
    assert not [key for key, content in hub.blobs.items() if token in content]
