"""What all tests share: no network, no caches of the person who runs them, and what may not be skipped."""

import os
import tempfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
DATA = Path(os.environ.get("DERMALERT_DATA", REPOSITORY.parent / "shared" / "data"))

_HOME = tempfile.TemporaryDirectory(prefix="dermalert-tests-")
# Read once, when the libraries are imported: so before any test module.
os.environ |= {
    "HF_HOME": f"{_HOME.name}/hf",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_TEMP_DIR": f"{_HOME.name}/gradio",
    "MPLCONFIGDIR": f"{_HOME.name}/matplotlib",
}
os.environ.pop("HF_TOKEN", None)


@pytest.fixture
def isic9() -> Path:
    """The real nine-class set; never part of the project."""
    if not (DATA / "isic9").is_dir():
        pytest.skip(f"needs the real-images: no folder '{DATA / 'isic9'}' (set DERMALERT_DATA)")
    return DATA / "isic9"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Turn a skip into a failure for what DERMALERT_REQUIRED names."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = str(call.excinfo.value) if call.excinfo else ""
        if any(f"needs the {name}" in reason for name in os.environ.get("DERMALERT_REQUIRED", "").split()):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} may not be skipped here: {reason}"
    return report
