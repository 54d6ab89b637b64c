"""What a person installs: the wheel by itself, and for the Space no more than what serves."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.paths import REPOSITORY

pytestmark = pytest.mark.integration

BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
READ = """
from importlib import resources

import dermalert
from dermalert.data import isic9

print(isic9.TABLE, resources.files("dermalert.release") / "model_card.md", sep="\\n")
assert dermalert.commit() is None
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that holds what the wheel does; it is built from a copy, because a build leaves folders behind."""
    copy, folder = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("installed")
    for name in ("dermalert", "space/dermalert_space"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "train_hf.py"):
        shutil.copy(REPOSITORY / name, copy)
    subprocess.run([sys.executable, "-c", BUILD, copy], cwd=copy, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = copy.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def files(folder: Path, within: str = "*") -> set[str]:
    """The files below the folders of a name, without what Python and a build write beside them."""
    paths = {
        path.relative_to(folder) for top in folder.glob(within) for path in (top, *top.rglob("*")) if path.is_file()
    }
    return {path.as_posix() for path in paths if "__pycache__" not in path.parts and ".dist-info" not in path.parts[0]}


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(installed):
    assert files(installed) == (
        files(REPOSITORY, "dermalert") | files(REPOSITORY / "space", "dermalert_space") | {"train_hf.py"}
    )


def test_the_wheel_has_the_files_that_its_modules_read(installed, tmp_path):
    own = os.environ | {"PYTHONPATH": str(installed)}
    run = subprocess.run([sys.executable, "-c", READ], cwd=tmp_path, env=own, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    paths = [Path(line) for line in run.stdout.splitlines()]
    assert len(paths) == 2 and all(path.is_file() and path.is_relative_to(installed) for path in paths), paths


def test_make_space_installs_only_what_serves():
    command = ["make", "--dry-run", "--always-make", "space"]
    plan = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    installs = [line.split("pip install ")[1] for line in plan.splitlines() if "pip install" in line]
    assert installs == ["--quiet --requirement space/requirements.txt"]


@pytest.mark.long
def test_the_command_serves_where_only_what_serves_is_installed():
    of_training = ["accelerate", "cv2", "datasets", "evaluate", "faiss", "sklearn", "threadpoolctl"]
    serve = "import dermalert.cli; from dermalert_space import server; from dermalert_space.page import build"
    code = f"import sys; sys.modules.update(dict.fromkeys({of_training})); {serve}"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_the_image_takes_the_space_alone_and_runs_it_without_rights():
    lines = [line.split() for line in (REPOSITORY / "Dockerfile").read_text().splitlines() if line]
    assert [line[1] for line in lines if line[0] == "COPY"] == ["space/requirements.txt", "space"]
    last = {line[0]: (number, line[1:]) for number, line in enumerate(lines)}
    assert last["USER"][1] == ["1000"] and last["USER"][0] < last["CMD"][0]
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert [line for line in ignored if line.startswith(("*", "!"))] == ["*", "!space", "**/__pycache__"]
