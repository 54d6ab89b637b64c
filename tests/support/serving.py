"""A Space as a process of its own: what lies at its root on the Hub, no project around it."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from support.paths import REPOSITORY

SPACE = REPOSITORY / "space"

ABSTAINS_ON_BLACK = """
import dataclasses, runpy
import numpy
from dermalert_space.release import Release
from gradio import processing_utils

processing_utils.PUBLIC_HOSTNAME_WHITELIST.append("127.0.0.1")

predict_arrays = Release.predict_arrays

def changed(self, images, **options):
    found = predict_arrays(self, images, **options)
    pairs = zip(images, found.abstained)
    reasons = ["it is too dark." if numpy.asarray(image).max() < 5 else reason for image, reason in pairs]
    return dataclasses.replace(found, abstained=reasons)

Release.predict_arrays = changed
runpy.run_path("app.py", run_name="__main__")
"""
"""app.py with a release that abstains on black images too, to whose gradio its own machine is as public as any."""


QUICK = """
import runpy
from dermalert_space.page import build, upload_retention

upload_retention.EVERY, upload_retention.AGE, build.EVERY, build.AGE = 0.5, 3, 1, 2
runpy.run_path("app.py", run_name="__main__")
"""
"""app.py whose minutes last a second."""


def copy_of_the_space(to: Path) -> Path:
    """What lies at the root of the Space on the Hub: the folder alone, no project around it."""
    return Path(shutil.copytree(SPACE, to, ignore=shutil.ignore_patterns("model", "__pycache__")))


def variables(**named: str) -> dict[str, str]:
    """The environment without a release, and with what is named."""
    left_out = ("MODEL_ID", "MODEL_REVISION", "HF_TOKEN", "PYTHONPATH")
    cleared = {name: value for name, value in os.environ.items() if name not in left_out}
    return cleared | {"GRADIO_ANALYTICS_ENABLED": "False"} | named


def in_a_loop(function: Callable[[], Any]) -> Any:
    """Call where an event loop runs: without one gradio opens its own, and leaves them open."""

    async def call() -> Any:
        return function()

    return asyncio.run(call())


class Address(str):
    """Where a Space answers, and the number of its process."""

    pid: int
    log: Path


@contextlib.contextmanager
def served(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[Address]:
    """Start the app of a Space that lies in a folder, and give its address; uploads go to `uploads` beside it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(folder.parent / "uploads")}
    log = folder.parent / "log"
    with log.open("w") as file:
        server = subprocess.Popen(command, cwd=folder, env=environment | own, stdout=file, stderr=subprocess.STDOUT)
    try:
        address, deadline = Address(f"http://127.0.0.1:{port}"), time.monotonic() + 180
        address.pid, address.log = server.pid, log
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def space(home: Path, *, script: str | None = None, **named: str) -> Iterator[Address]:
    """Serve a copy of the Space from `home/space`.

    Args:
        home: an empty folder.
        script: run in the place of app.py.
        named: environment variables.
    """
    command = [sys.executable, "-c", script] if script else [sys.executable, "app.py"]
    with served(command, copy_of_the_space(home / "space"), variables(**named)) as address:
        yield address


class Visitor:
    """What a program does that asks the Space by its REST interface."""

    def __init__(self, url: str):
        limits = httpx.Limits(max_connections=None)
        self.client = httpx.Client(base_url=f"{url}/gradio_api", timeout=120, limits=limits)

    def close(self) -> None:
        self.client.close()

    def upload(self, path: Path) -> dict | str:
        """Upload a file, and return what stands for it; or the sentence that refuses it."""
        with path.open("rb") as file:
            answer = self.client.post("/upload", files={"files": (path.name, file)})
        if answer.status_code != 200:
            return answer.text
        return {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}

    def ask(self, name: str, *data: object) -> tuple[int, str]:
        """Wait in the queue, and return the number of the answer's place (none: 503) as text."""
        answer = self.client.post(f"/call/{name}", json={"data": data})
        return answer.status_code, answer.json().get("event_id") or answer.text

    def answer(self, name: str, event: str) -> tuple[str, object]:
        """Return "complete" or "error", and what is said."""
        kind, data = self.client.get(f"/call/{name}/{event}").text.strip().split("\n")[-2:]
        return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    def call(self, name: str, *data: object) -> tuple[str, object]:
        """Ask, and return the answer: "busy" where there is no place."""
        status, event = self.ask(name, *data)
        return ("busy", event) if status == 503 else self.answer(name, event)


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024
