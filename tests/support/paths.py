"""Where the project and the real images lie."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get("DERMALERT_DATA", REPOSITORY.parent / "shared" / "data"))
