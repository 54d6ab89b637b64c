"""A headless Chromium."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
# A browser has servers of its own that it likes to ask.
_QUIET = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-features=OptimizationHints,MediaRouter",
]


@contextmanager
def launched() -> Iterator:
    """Start it; without it the test is skipped."""
    if BROWSER is None:
        pytest.skip("needs the browser: install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the browser: install playwright")
    with sync_api.sync_playwright() as playwright:
        sync_api.expect.set_options(timeout=60_000)  # a busy machine takes its time
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=_QUIET)
        yield chromium
        chromium.close()
