"""What serves a release, and what measures it."""

import os

# Here, because it counts only before ONNX Runtime is imported: else that sends what it runs on, and how long it took.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
