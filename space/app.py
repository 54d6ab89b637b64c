"""Serve the page of a dermalert release: an image in, a melanoma alert and nine probabilities out.

    MODEL_ID=USER/REPO MODEL_REVISION=v1.0.0 python app.py

MODEL_ID may be a folder; without it the release in `model/`, beside this file, is served.
"""

import signal
import sys

from dermalert_space import process

if __name__ == "__main__":
    process.configure()

from dermalert_space.server import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that the uploads are removed then too
    sys.exit(main())
