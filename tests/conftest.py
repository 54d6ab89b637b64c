"""What all tests share: a Hub on loopback, no caches of the person who runs them, and what may not be skipped."""

import functools
import gc
import hashlib
import os
import socket
import sys
import tempfile
from pathlib import Path

import pytest
from support import browser as browsers
from support.hub_server import HubServer, environment
from support.paths import DATA, REPOSITORY

# The Hub client reads these once, when it is imported: so before any test module.
_HOME = tempfile.TemporaryDirectory(prefix="dermalert-tests-")
with socket.socket() as _probe:  # the server starts with the first test: collecting starts none
    _probe.bind(("127.0.0.1", 0))
    _HUB = HubServer(port=_probe.getsockname()[1])
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.pop(name, None)
os.environ |= {k: v for k, v in environment(_HUB.url, Path(_HOME.name), token=None).items() if k not in os.environ}
os.environ |= {
    "HF_ENDPOINT": _HUB.url,
    "HF_HOME": f"{_HOME.name}/hf",
    "XDG_CACHE_HOME": f"{_HOME.name}/cache",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_TEMP_DIR": f"{_HOME.name}/gradio",
    "MPLCONFIGDIR": f"{_HOME.name}/matplotlib",
    "COLUMNS": "120",  # of the terminal that tables are made for, which a process of pytest-xdist has none of
    "SSL_CERT_DIR": _HOME.name,  # nobody here speaks TLS: else each HTTP client reads all authorities, 30 ms
    "OMP_NUM_THREADS": "1",  # the models are tiny: more threads would only wait for each other
}
os.environ.pop("HF_TOKEN", None)


ONE_SPACE = ("space/test_server", "space/test_page", "end_to_end/test_load")
"""The files that ask `demo_space`, whose start takes 20 s: one worker runs them all."""

LONGEST = (
    *ONE_SPACE,
    *("end_to_end/test_train", "training/test_distributed", "space/test_request_guard", "training/test_arguments"),
    *("training/test_checkpoint_sync", "training/test_tuning", "publishing/test_models", "test_real_images"),
    *("publishing/test_spaces", "space/test_batch", "release/test_archive_triage", "end_to_end/test_startup"),
)
"""The files that take longest, in that order."""


@pytest.fixture(scope="session", autouse=True)
def _hub_is_open():
    with _HUB:
        yield


@pytest.fixture
def hub(monkeypatch) -> HubServer:
    """An empty Hub, and a token in the environment that may write to it."""
    for held in (_HUB.repos, _HUB.blobs, _HUB.faults, _HUB.requests, _HUB.stages):
        held.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    return _HUB


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; of one file, for its event loop would stand in the way of others."""
    with browsers.launched() as chromium:
        yield chromium


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and the file that fingerprints are kept in there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dermalert" / "looks-1.sqlite"


@pytest.fixture(autouse=True)
def _a_graph_is_tried_out_once(monkeypatch):
    """Start a process for a graph that has passed no more: it takes 0.3 s, and most tests are of something else."""
    graphs = sys.modules.get("dermalert_space.onnx_graph")
    if graphs:
        monkeypatch.setattr(graphs, "try_out", functools.partial(_try_out_once, graphs.try_out))


_passed = set()


def _try_out_once(try_out, path, *rest) -> None:
    files = (path, path.parents[1] / "model.safetensors")
    key = tuple(hashlib.sha256(file.read_bytes()).digest() for file in files if file.exists())
    if key not in _passed:
        try_out(path, *rest)
        _passed.add(key)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Nine classes of pictures that differ in colour, with a test split."""
    from support.pictures import class_folders

    root = tmp_path_factory.mktemp("pictures")
    class_folders(root / "Train", images=30)
    class_folders(root / "Test", images=2, first_seed=1000)
    return root


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory) -> Path:
    """A ViT with random weights, small enough to train in a second."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("base") / "tiny-vit"
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_resnet(tmp_path_factory) -> Path:
    """A ResNet with random weights, as small: it has running statistics beside its weights."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("base") / "tiny-resnet"
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def demo_release(tmp_path_factory) -> Path:
    """A release that alerts to most images, and was trained on generated ones."""
    from support.releases import make_release

    folder = tmp_path_factory.mktemp("runs") / "demo-release"
    return make_release(folder, melanoma_bias=3, generated=True, groups=True)


@pytest.fixture(scope="session")
def demo_space(demo_release, tmp_path_factory):
    """The address of a running Space that serves it, and declines black images."""
    from support import serving

    home = tmp_path_factory.mktemp("space")
    with serving.space(home, script=serving.ABSTAINS_ON_BLACK, MODEL_ID=str(demo_release), HF_HUB_OFFLINE="1") as url:
        yield url


@pytest.fixture(scope="session")
def real_images() -> Path:
    """The folder of real images, which is never part of the project."""
    if not (DATA / "isic9").is_dir():
        pytest.skip(f"needs the real-images: no folder '{DATA / 'isic9'}' (set DERMALERT_DATA)")
    return DATA


def pytest_ignore_collect(collection_path, config):
    """Import no module of integration tests alone where these are left out: imports take longer than the units."""
    if collection_path.suffix == ".py" and "not integration" in config.option.markexpr:
        return "\npytestmark = pytest.mark.integration\n" in collection_path.read_text() or None
    return None


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what `-m` does not name
def pytest_collection_modifyitems(items):
    """Mark what asks the Hub: no unit does. Begin with the longest: at the end, others would wait for such a file."""
    place = {REPOSITORY / "tests" / f"{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))
    for item in items:
        if "hub" in item.fixturenames:
            item.add_marker(pytest.mark.integration)


def pytest_collection_finish():
    """Take what was imported from the garbage collector, which a training calls: 0.4 s each time."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file is run by one worker, in the order of `LONGEST`; by default those with the most tests would come first."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "one Space" if file.removeprefix("tests/").removesuffix(".py") in ONE_SPACE else file

    config.option.loadscopereorder = False
    return ByFile(config, log)


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
