"""Who asks for help, or mistypes a flag, does not wait for what the work itself needs."""

import re
import subprocess
import sys
import time
import tomllib

import pytest
from support.paths import REPOSITORY
from typer.testing import CliRunner

from dermalert.cli import app

pytestmark = pytest.mark.integration

HEAVY = ("torch", "datasets", "matplotlib", "sklearn", "onnxruntime", "faiss")


def started(*words: str) -> tuple[subprocess.CompletedProcess, set[str]]:
    """Run Python in the repository; return the process and which of the heavy packages it loaded."""
    line = [sys.executable, "-X", "importtime", *words]
    done = subprocess.run(line, capture_output=True, text=True, cwd=REPOSITORY)
    return done, {name for name in HEAVY if re.search(rf"\| +{name}$", done.stderr, re.MULTILINE)}


QUICK = [["--help"], ["audit", "--help"], ["evaluate", "--help"], ["triage", "--help"], ["--hlep"]]


@pytest.mark.parametrize("words", QUICK, ids=" ".join)
def test_the_command_line_says_what_it_can_do_at_once(words):
    began = time.monotonic()
    done, loaded = started("-m", "dermalert", *words)
    assert done.returncode == (2 if "--hlep" in words else 0)
    assert loaded == set()
    assert not re.search(r"\| +(numpy|transformers)$", done.stderr, re.MULTILINE)
    assert time.monotonic() - began < 5  # about 0.2 s; a busy machine may take longer


NEEDED_FOR_FLAGS = {"torch"}  # `TrainingArguments`, whose flags these are, cannot be imported without it


def test_the_training_refuses_a_flag_before_it_loads_what_it_needs():
    done, loaded = started("train_hf.py", "--epoch", "3")
    assert done.returncode == 2
    assert "--image_size" in done.stderr
    assert loaded <= NEEDED_FOR_FLAGS


def test_the_command_lists_the_flags_of_the_training_before_it_loads_what_it_needs():
    done, loaded = started("-m", "dermalert", "train", "--help")
    assert done.returncode == 0
    manual = "does nothing once it has finished"  # the script's docstring
    assert all(words in done.stdout for words in ["--model_name_or_path", manual, "dermalert train"])
    assert "python train_hf.py" not in done.stdout
    assert loaded <= NEEDED_FOR_FLAGS


FLAGS = {"triage": "--csv", "space": "USER/REPO"}


@pytest.mark.parametrize("job", FLAGS)
def test_one_command_triages_and_serves(job):
    done = CliRunner().invoke(app, [job, "--help"], prog_name="dermalert")
    assert done.exit_code == 0
    assert FLAGS[job] in done.output
    assert f"dermalert {job}" in done.output


def test_a_bad_flag_of_the_training_exits_with_2_there_too():
    done = CliRunner().invoke(app, ["train", "--epochs", "3"])
    assert done.exit_code == 2
    assert "--epochs has another name: did you mean --num_train_epochs?" in done.stderr


def test_a_name_without_its_tag_is_refused_in_one_sentence():
    done = CliRunner().invoke(app, ["space", "USER/REPO@"])
    assert done.exit_code == 2
    (sentence,) = done.stderr.splitlines()
    assert "'USER/REPO@' names no tag after the @" in sentence


def test_a_release_that_is_not_there_is_bad_input_of_the_space_too(monkeypatch):
    monkeypatch.setenv("MODEL_ID", "")  # which the command sets
    monkeypatch.setattr("signal.signal", lambda *_: None)
    done = CliRunner().invoke(app, ["space", "/nowhere"])
    assert done.exit_code == 2
    assert done.stderr == (
        "dermalert: cannot load the release /nowhere: it is neither a folder nor USER/REPO of the Hub.\n"
    )


WORDS = {
    "a folder that is none": (["/nowhere", "d"], "'/nowhere' is neither a folder nor USER/REPO of the Hub."),
    "underscores": (["/nowhere", "d", "--label_repair", "drop_conflicts", "--image_types", "tbp"], "'/nowhere' is"),
    "another name": (["/nowhere", "d", "--repair", "none"], "'/nowhere' is neither"),
    "a data set in a flag": (["m", "--dataset", "d"], "evaluate has no --dataset: name the data sets without a flag."),
    "the flag of a training": (["m", "--dataset_name=d"], "evaluate has no --dataset_name: name"),
}


@pytest.mark.parametrize("case", WORDS)
def test_flags_of_a_training_are_understood_by_other_commands(case):
    words, sentence = WORDS[case]
    done = CliRunner().invoke(app, ["evaluate", *words])
    assert done.exit_code == 2
    assert done.stderr.startswith("dermalert: " + sentence)


def test_the_command_is_installed_and_says_its_version():
    (command,) = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"].items()
    assert command == ("dermalert", "dermalert.cli:app")
    done, loaded = started("-m", "dermalert", "--version")
    assert re.fullmatch(r"dermalert \d+\.\d+\.\d+", done.stdout.strip())
    assert loaded == set()


def test_one_version_stands_everywhere():
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (REPOSITORY / "CITATION.cff").read_text()
    assert re.findall(r"(?m)^## (\d\S*)", (REPOSITORY / "CHANGELOG.md").read_text())[0] == version
