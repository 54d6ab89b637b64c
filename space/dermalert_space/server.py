"""Start the Space: choose and check the release, then serve its page."""

import functools
import os
import sys

from transformers.utils import logging

from dermalert_space.contract import BUNDLED
from dermalert_space.page import upload_retention
from dermalert_space.release import Release
from dermalert_space.release_loading import NoRelease


def main() -> int:
    """Serve the release that the environment names; return the exit code."""
    try:
        return start()
    except NoRelease as error:
        print(error, file=sys.stderr)
        return 1


def start() -> int:
    """Serve the release that the environment names, if any, until the end; return the exit code.

    Raises:
        NoRelease: it cannot be loaded, or answers otherwise than it was measured.
    """
    model = os.environ.get("MODEL_ID") or (BUNDLED if BUNDLED.is_dir() else None)
    if model is None:
        print("Name a release: dermalert space MODEL, or set MODEL_ID, and MODEL_REVISION to its tag.", file=sys.stderr)
        return 2
    logging.disable_progress_bar()  # of weights, which is over in a moment
    release = Release.load(model, os.environ.get("MODEL_REVISION") or None)
    release.metrics()
    release.verify_parity(functools.partial(print, file=sys.stderr))
    serve(release)
    return 0


def serve(release: Release) -> None:
    """Serve a release until the process is asked to end; no upload outlives it."""
    with upload_retention.upload_folder() as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        # Only now, because gradio notes that folder while it is imported.
        from dermalert_space.page import build

        build.launch(release)
