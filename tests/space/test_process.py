"""A program's own process is set up as it computes best, unless its environment says otherwise."""

import os
import subprocess
import sys

import pytest
from support.paths import REPOSITORY

pytestmark = pytest.mark.integration

SET = {"MALLOC_MMAP_MAX_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_TOP_PAD_": "131072"}
FAULTS = """
import resource
from dermalert_space import process

process.configure()
for _ in range(3):  # the first one asks for the memory
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(1 << 25)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
POLICY = "import os; from dermalert_space import process; process.configure(); print(os.environ['OMP_WAIT_POLICY'])"


def printed(program: str, **environment: str) -> str:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "OMP_", "GLIBC_"))}
    run = subprocess.run(
        [sys.executable, "-c", program], env=own | environment, cwd=REPOSITORY / "space", capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is that of glibc")
@pytest.mark.parametrize("environment", [{}, SET, {"GLIBC_TUNABLES": "glibc.malloc.top_pad=131072"}], ids=str)
def test_memory_of_a_large_tensor_is_kept_for_the_next_one_but_where_the_environment_decides(environment):
    assert (int(printed(FAULTS, **environment)) < 1000) is (not environment)  # of 8192 pages


@pytest.mark.parametrize("environment", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}], ids=str)
def test_threads_that_wait_leave_the_core_but_where_the_environment_decides(environment):
    assert printed(POLICY, **environment) == environment.get("OMP_WAIT_POLICY", "PASSIVE")


@pytest.mark.parametrize("program", ["train_hf.py", "space/app.py", "space/triage.py", "dermalert/cli.py"])
def test_each_program_sets_itself_up_before_it_imports_what_computes(program):
    lines = (REPOSITORY / program).read_text().splitlines()
    before = lines[: next(i for i, line in enumerate(lines) if line.strip() == "process.configure()")]
    assert not [
        line for line in before if line.startswith(("import torch", "from dermalert.config", "from transformers"))
    ]
    assert program == "dermalert/cli.py" or before[-1] == 'if __name__ == "__main__":'
