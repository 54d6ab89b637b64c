"""Take the pictures of the Space that README.md and docs/space.md show: its first example, assessed by a release.

python scripts/screenshot_space.py [RELEASE]

Needs Chromium and the `dev` extra. Without RELEASE the bundled one is served.
"""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

_ROOT = Path(__file__).resolve().parent.parent
_FOLDER = _ROOT / "docs" / "images"
_VIEWS: dict[str, dict[str, Any]] = {
    "space.png": {"viewport": {"width": 1160, "height": 940}},
    "space-phone.png": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
    "space-dark.png": {"viewport": {"width": 1160, "height": 940}, "color_scheme": "dark"},
    "space-report.png": {"viewport": {"width": 794, "height": 1050}},
    "../../space/dermalert_space/page/thumbnail.png": {"viewport": {"width": 1200, "height": 630}},
}
"""The options of the browser for each picture; the report is as it is printed, the thumbnail stands beside links."""
_WAIT = 180_000  # ms, for a server that loads a release on a busy machine


def main(release: str = "") -> None:
    """Serve the release, click on the first example, and write the pictures."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"MODEL_ID": release, "GRADIO_SERVER_PORT": str(port)}
    server = subprocess.Popen([sys.executable, _ROOT / "space" / "app.py"], env=environment)
    try:
        with sync_playwright() as playwright:
            binary = shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
            for name, options in _VIEWS.items():
                _photograph(browser, f"http://127.0.0.1:{port}", _FOLDER / name, options)
            browser.close()
    finally:
        server.terminate()
        server.wait()


def _photograph(browser: Browser, url: str, path: Path, options: dict[str, Any]) -> None:
    page = browser.new_page(**options)
    for _ in range(_WAIT // 500):
        try:
            page.goto(url)
            break
        except Exception:  # not yet listening
            page.wait_for_timeout(500)
    page.locator("#examples button").first.click(timeout=_WAIT)
    expect(page.locator("#result .record")).to_be_visible(timeout=_WAIT)
    page.wait_for_timeout(3000)  # the map comes after the sentence
    page.emulate_media(media="print" if "report" in path.name else "screen")
    page.screenshot(path=path)
    page.close()
    with Image.open(path) as picture:  # flat colours: a palette takes a third of the room
        picture.convert("RGB").quantize(192).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
