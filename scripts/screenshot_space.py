"""Take the picture of the Space that README.md shows: a generated lesion, no patient, assessed by a release.

python scripts/screenshot_space.py [RELEASE]

Needs Chromium and the `dev` extra. Without RELEASE the bundled one is served.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

from dermalert.imaging import synthetic_lesions

_ROOT = Path(__file__).resolve().parent.parent
_PICTURE = _ROOT / "docs" / "images" / "space.png"
_WAIT = 180_000  # ms, for a server that loads a release on a busy machine


def main(release: str = "") -> None:
    """Serve the release, upload a generated lesion, and write the picture."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"MODEL_ID": release, "GRADIO_SERVER_PORT": str(port)}
    server = subprocess.Popen([sys.executable, _ROOT / "space" / "app.py"], env=environment)
    try:
        with sync_playwright() as playwright:
            binary = shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
            _photograph(browser, f"http://127.0.0.1:{port}")
            browser.close()
    finally:
        server.terminate()
        server.wait()
    with Image.open(_PICTURE) as picture:  # flat colours: a palette takes a third of the room
        picture.convert("RGB").quantize(192).save(_PICTURE, optimize=True)
    print(f"{_PICTURE}: {_PICTURE.stat().st_size / 1000:.0f} kB")


def _photograph(browser: Browser, url: str) -> None:
    page = browser.new_page(viewport={"width": 1160, "height": 748})
    for _ in range(_WAIT // 500):
        try:
            page.goto(url)
            break
        except Exception:  # not yet listening
            page.wait_for_timeout(500)
    with tempfile.TemporaryDirectory() as folder:
        lesion = Path(folder) / "generated-lesion.png"
        synthetic_lesions.lesion("melanoma", lesion_seed=5, size=192).resize((640, 640)).save(lesion)
        page.locator("#picture input[type=file]").set_input_files(lesion)
        expect(page.locator("#result .sentence")).to_contain_text("probability", timeout=_WAIT)
        page.wait_for_timeout(3000)  # the map comes after the sentence
        page.screenshot(path=_PICTURE)


if __name__ == "__main__":
    main(*sys.argv[1:])
