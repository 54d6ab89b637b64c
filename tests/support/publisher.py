"""Publish in a process of its own, which a test may kill at any request: what is imported here is imported once.

python -m support.publisher  # of each line "FOLDER VERSION" from stdin: a line with the pid, then one with the end
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

from dermalert_space.release import Release
from huggingface_hub.utils import _http

from dermalert.errors import run_command
from dermalert.hub import retries
from dermalert.publishing import models

REPO = "tester/derm"


TIME = (
    (retries, "SECOND", 0.0),
    (_http, "time", types.SimpleNamespace(sleep=lambda _: None)),
    (models, "_today", lambda: "2026-11-25"),
)
"""What is to be set for neither this project nor the Hub's client to wait before another try, and for no day to end."""


class Publisher:
    """The process, from the side of a test."""

    def __init__(self, environment: dict[str, str]):
        path = os.pathsep.join(sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.publisher"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )

    def start(self, folder: Path, version: str) -> int:
        """Begin to publish and return the pid."""
        print(json.dumps([str(folder), version]), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def end(self) -> tuple[int | None, str]:
        """Wait, and return the exit code, None if it was killed, and all that was printed."""
        code, _, said = self._process.stdout.readline().strip().partition(" ")
        return None if code == "killed" else int(code), said

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _publish(folder: str, version: str) -> tuple[int, str]:
    for where, name, value in TIME:
        setattr(where, name, value)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = run_command(lambda: print(models.publish(Path(folder), REPO, version)))
    return code, said.getvalue()


def main() -> None:
    """Publish what stdin says, each in a process of its own."""
    for line in sys.stdin:
        Release.load(json.loads(line)[0]).parity_error()  # what this imports, each child has then
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            code, said = _publish(*json.loads(line))
            os.write(writing, f"{code} {' / '.join(said.splitlines())}".encode())
            os._exit(0)
        os.close(writing)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        with open(reading, "rb") as end:  # noqa: PTH123 - of a pipe
            print("killed" if killed else end.read().decode(), flush=True)


if __name__ == "__main__":
    main()
