r"""The page that needs no server beside the Space's own prediction: answers to real images, bytes, seconds, speed.

    python benchmarks/serving/web_parity.py --model space/model --dataset_name ham10000/ isic9/

builds the page as `dermalert export-web` does, serves it on this machine, and gives it JPEGs in Chromium; then the same
files are predicted by `dermalert_space.batch`, as the Space does. Needs Chromium and the `dev` extra.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dermalert_space
import psutil
import torch
from dermalert_space import batch
from dermalert_space.release import Release
from playwright.sync_api import Page, sync_playwright

from dermalert.errors import UsageError, run_command
from dermalert.publishing import web_export

_WAIT = 600_000  # ms
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".html": "text/html"}
_COLD = "import sys; from dermalert_space.release import Release; Release.load(sys.argv[1]).predict(sys.argv[2])"


class Host(SimpleHTTPRequestHandler):
    """Serves the page out of memory, and counts what it sends."""

    files: dict[str, bytes]
    sent: list[int]

    def do_GET(self) -> None:
        """Answer with a file, as a static host does."""
        name = self.path.lstrip("/") or web_export.PAGE
        content = self.files.get(name, b"")
        self.send_response(200 if name in self.files else 404)
        self.send_header("Content-Type", _TYPES.get(Path(name).suffix, "application/octet-stream"))
        self.end_headers()
        self.wfile.write(content)
        self.sent.append(len(content))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main(arguments: argparse.Namespace) -> None:
    """Measure and print what `docs/space.md` shows."""
    torch.set_num_threads(arguments.threads)
    paths = images(arguments.dataset_name, arguments.images)
    release = Release.load(arguments.model)
    Host.files, Host.sent = web_export.build(release), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores; Python: {arguments.threads} thread(s)\n")
    rows, of_page = in_browser(f"http://127.0.0.1:{server.server_port}/", paths)
    server.shutdown()
    cold = seconds(lambda: first_of_python(arguments.model, paths[0]))
    own: list[batch.Row] = []
    before = time.process_time()
    warm = seconds(lambda: own.extend(batch.predict_files(release, [(path.name, path) for path in paths])))
    of_python = {"python": len(paths) / warm, "python ms": 1000 * (time.process_time() - before) / len(paths)}
    print(as_markdown(rows, own, of_page | of_python | {"python cold": cold}))
    print(f"\nload average {os.getloadavg()[0]:.1f} at the end")


def images(folders: list[str], count: int) -> list[Path]:
    """JPEGs of some folders, so many by chance, each under another name."""
    paths = sorted({path.name: path for folder in folders for path in Path(folder).rglob("*.jpg")}.values())
    if len(paths) < count:
        raise UsageError(f"{', '.join(folders)} hold {len(paths)} JPEGs, fewer than --images {count}.")
    return random.Random(0).sample(paths, count)


def seconds(do: Callable[[], object]) -> float:
    """How long it takes, by the clock."""
    begun = time.perf_counter()
    do()
    return time.perf_counter() - begun


def first_of_python(model: str, path: Path) -> None:
    """A first answer of Python, as a program of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(dermalert_space.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", _COLD, model, path], env=environment, check=True, capture_output=True)


def in_browser(url: str, paths: list[Path]) -> tuple[list[dict], dict[str, float]]:
    """The rows that the page has of the files, and its measurements."""
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as scratch:
        context = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"]).new_context()
        page = context.new_page()
        measured = {"first visit": seconds(lambda: first_answer(page, url, paths[0]))}
        measured["megabytes"] = sum(Host.sent) / 1e6
        measured["again"] = seconds(lambda: first_answer(page, url, paths[0]))
        asked = len(Host.sent)
        page.get_by_role("tab", name="Batch").click()
        assess_all(page, paths[:32])  # the other workers load the model, and the browser compiles it for speed
        before = of_browser()
        measured["page"] = len(paths) / seconds(lambda: assess_all(page, paths))
        measured["page ms"] = 1000 * (of_browser() - before) / len(paths)
        with page.expect_download() as download:
            page.get_by_text("Download triage.json").click()
        download.value.save_as(Path(scratch) / "triage.json")
        measured["asked later"] = len(Host.sent) - asked
        return json.loads((Path(scratch) / "triage.json").read_text())["files"], measured


def of_browser() -> float:
    """Seconds of the processor that the browser has taken, in all of its processes."""
    times = [each.cpu_times() for each in psutil.Process().children(recursive=True) if "chrom" in each.name()]
    return sum(each.user + each.system for each in times)


def first_answer(page: Page, url: str, path: Path) -> None:
    """Open the page and wait for the answer to one image."""
    page.goto(url)
    page.locator("body[data-ready]").wait_for(timeout=_WAIT)
    page.set_input_files("#file", path)
    page.locator("#result .record").wait_for(timeout=_WAIT)


def assess_all(page: Page, paths: list[Path]) -> None:
    """Give the page many files and wait for their list."""
    page.evaluate("document.querySelector('#rows').replaceChildren()")
    page.set_input_files("#files", paths)
    page.locator("#rows .total").wait_for(timeout=_WAIT)


def as_markdown(rows: list[dict], own: list[batch.Row], measured: dict[str, float]) -> str:
    """The table that `docs/space.md` shows."""
    by_name = {row["file"]: row for row in rows}
    pairs = [(by_name[row.file], row) for row in own]
    changed = sum(one["state"] != row.state for one, row in pairs)
    off = sorted(
        max(abs(one["probabilities"][label] - p) for label, p in row.prediction.probabilities.items())
        for one, row in pairs
        if row.prediction and one["probabilities"]
    )
    lines = [
        (f"n = {len(pairs)} JPEGs", "page", "Python"),
        ("---", "---", "---"),
        ("states that differ", changed, ""),
        ("largest difference of a probability", f"{off[-1]:.1e} (median {off[len(off) // 2]:.1e})", ""),
        ("MB loaded, first visit", f"{measured['megabytes']:.1f}", ""),
        ("requests after the first answer", f"{measured['asked later']:.0f}", ""),
        (
            "seconds to the first answer",
            f"{measured['first visit']:.1f} (second visit {measured['again']:.1f})",
            f"{measured['python cold']:.1f}",
        ),
        ("images a second", f"{measured['page']:.1f}", f"{measured['python']:.1f}"),
        ("ms of processor time an image", f"{measured['page ms']:.0f}", f"{measured['python ms']:.0f}"),
    ]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


if __name__ == "__main__":
    PARSER = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    PARSER.add_argument("--model", default="space/model", help="a folder, or USER/REPO@TAG")
    PARSER.add_argument("--dataset_name", nargs="+", required=True, help="folders with JPEGs")
    PARSER.add_argument("--images", type=int, default=100)
    PARSER.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of Python's torch")
    ARGUMENTS = PARSER.parse_args()
    sys.exit(run_command(lambda: main(ARGUMENTS)))
