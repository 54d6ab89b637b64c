"""The notebook does what it says, cell by cell."""

import json
import os
import shlex
import subprocess
import sys

import pytest
from dermalert_space.contract import NOT_A_DEVICE
from support.paths import REPOSITORY

from dermalert.taxonomy import DIAGNOSES

pytestmark = pytest.mark.integration

NOTEBOOK = REPOSITORY / "notebooks" / "quickstart.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]


def run_cell(source: str, names: dict) -> None:
    """Run a cell as a notebook does; what it would install is there."""
    if source.startswith("!"):
        program, *words = shlex.split(source[1:])
        own = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "space")])}
        assert program == "python"
        subprocess.run([sys.executable, *words], env=own, check=True)
    elif not source.startswith("%pip install"):
        exec(compile(source, NOTEBOOK.name, "exec"), names)


@pytest.mark.long
def test_the_notebook_runs_from_the_first_cell_to_the_last(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for cell in CELLS:
        if cell["cell_type"] == "code":
            run_cell("".join(cell["source"]), names)
    assert set(names["probabilities"]) == set(DIAGNOSES)
    assert sum(names["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert names["prediction"].probabilities == pytest.approx(names["probabilities"], abs=1e-5)
    printed = capsys.readouterr().out
    assert names["prediction"].sentence in printed and NOT_A_DEVICE in printed


def test_the_notebook_holds_no_output_and_its_button_opens_it():
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert code and not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert f"/blob/main/{NOTEBOOK.relative_to(REPOSITORY)})" in "".join(CELLS[0]["source"])
