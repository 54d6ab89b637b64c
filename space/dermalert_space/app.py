"""Serve the page of a dermalert release: an image in, a melanoma alert and nine probabilities out.

    MODEL_ID=USER/REPO MODEL_REVISION=v1.0.0 python app.py

MODEL_ID may be a folder; without it the release in `model/`, beside this file, is served.
"""

import functools
import os
import signal
import sys

from dermalert_space import triage
from dermalert_space.page import upload_retention


def main() -> int:
    """Serve the release that the environment names; return the exit code."""
    model = os.environ.get("MODEL_ID") or (triage.BUNDLED if triage.BUNDLED.is_dir() else None)
    if model is None:
        print("Set MODEL_ID to a release, USER/REPO or a folder, and MODEL_REVISION to its tag.", file=sys.stderr)
        return 2
    try:
        release = triage.Release.load(model, os.environ.get("MODEL_REVISION") or None)
        release.metrics()
        release.check_answers(functools.partial(print, file=sys.stderr))
        serve(release)
    except triage.NoRelease as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def serve(release: triage.Release) -> None:
    """Serve a release until the process is told to end; no upload outlives it."""
    with upload_retention.upload_folder() as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        # Only now, because gradio notes that folder while it is imported.
        from dermalert_space.page import build
        build.launch(release)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that the uploads are removed then too
    sys.exit(main())
