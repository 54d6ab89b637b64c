"""The files of the page that needs no server."""

import io
import re
import tarfile
from html.parser import HTMLParser
from urllib.error import URLError

import numpy as np
import onnxruntime
import pytest
from dermalert_space import onnx_graph
from dermalert_space.contract import BUNDLED
from dermalert_space.release import Inputs, Release
from support.releases import make_release
from transformers import ViTImageProcessorPil

from dermalert.errors import RunError, UsageError
from dermalert.publishing import web_export, web_model, web_runtime


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Release:
    return Release.load(make_release(tmp_path_factory.mktemp("runs") / "release", groups=True, attention=0.2))


@pytest.fixture
def files(release, monkeypatch) -> dict[str, bytes]:
    monkeypatch.setattr(web_runtime, "files", lambda: {web_runtime.SCRIPT: b"", f"{web_runtime.BINARY}.gz": b""})
    return web_export.build(release)


def answers(model: bytes, release: Release) -> tuple[np.ndarray, np.ndarray]:
    """What a model of the page computes, and the release itself."""
    pixels = onnx_graph.noise(release.processor)
    logits, _ = release.forward(Inputs(pixels={"pixel_values": pixels}, signals=[]), with_features=False)
    return onnxruntime.InferenceSession(model).run(["logits"], {"pixel_values": pixels.numpy()})[0], logits.numpy()


def test_a_release_without_a_graph_and_reference_images_gets_both(files, release):
    ours, own = answers(files["release/model.onnx"], release)
    np.testing.assert_allclose(ours, own, atol=1e-4)
    assert len(files["release/parity.safetensors"]) > 1000


def test_the_rules_of_the_page_allow_its_own_host_alone(files):
    page = files["index.html"].decode()
    rules = dict(
        rule.strip().partition(" ")[::2] for rule in re.search(r'Policy" content="([^"]*)"', page)[1].split(";")
    )
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'self'"
    assert rules["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert {source for rule in rules.values() for source in rule.split()} <= {
        *("'none'", "'self'", "'wasm-unsafe-eval'", "blob:", "data:"),
    }


class Named(HTMLParser):
    """What a page loads, and what it would run that does not lie in a file."""

    def __init__(self):
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        named = given.get("src") or (given.get("href") if tag == "link" else None)
        self.loaded += [named] if named and not named.startswith("data:") else []
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        self.inline += [tag] if tag == "style" or (tag == "script" and not given.get("src")) else []


def test_all_that_the_page_loads_is_among_its_files_and_kept_for_use_offline(files):
    page = Named()
    page.feed(files["index.html"].decode())
    assert set(page.loaded) <= set(files) and page.inline == []
    keeper = files["service_worker.js"].decode()
    kept = set(re.findall(r'"([^"]+)"', keeper.split("const FILES = ")[1].split("];")[0]))
    assert kept == {"./"} | set(files) - {"index.html", "service_worker.js"}


def test_another_file_makes_another_version_of_what_is_kept(files):
    version = re.compile(r'VERSION = "([^"]+)"')
    other = web_export._keeper({**files, "page.js": b"other"}).decode()
    same = web_export._keeper({name: files[name] for name in files if name != "service_worker.js"}).decode()
    assert version.search(other)[1] != version.search(same)[1] == version.search(files["service_worker.js"].decode())[1]


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is there already: name a new folder"):
        web_export.export(str(BUNDLED), tmp_path)


def test_a_name_of_no_release_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(UsageError, match="cannot load the release"):
        web_export.export(str(tmp_path / "none"), tmp_path / "page")


@pytest.mark.parametrize("change", [{"do_normalize": False}, {"resample": 0}, {"do_resize": False}])
def test_a_processor_that_does_something_else_is_refused(tmp_path, change):
    folder = make_release(tmp_path / "release")
    ViTImageProcessorPil(size={"height": 32, "width": 32}, **change).save_pretrained(folder)
    with pytest.raises(UsageError, match="its processor does more, or less, than resize to a fixed size"):
        web_model.processor(Release.load(folder))


def test_a_runtime_of_another_fingerprint_is_not_kept(cache, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: io.BytesIO(b"something else"))
    with pytest.raises(RunError, match="is not the file that this version of dermalert was made with"):
        web_runtime.files()
    assert not list(cache.parent.glob("*"))


def test_without_a_network_the_runtime_is_missed_in_a_sentence(cache, monkeypatch):
    def fail(*_, **__):
        raise URLError("no route")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    with pytest.raises(RunError, match="run the same command where there is a network"):
        web_runtime.files()
    assert not list(cache.parent.glob("*"))


def test_a_runtime_is_fetched_once(cache, monkeypatch):
    package = io.BytesIO()
    with tarfile.open(fileobj=package, mode="w:gz") as archive:
        for name in (web_runtime.SCRIPT, web_runtime.BINARY):
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"ort"))
    asked = []

    def give(address, **_):
        asked.append(address)
        return io.BytesIO(package.getvalue())

    monkeypatch.setattr("urllib.request.urlopen", give)
    monkeypatch.setattr(web_runtime, "INTEGRITY", web_runtime.integrity(package.getvalue()))
    names = {web_runtime.SCRIPT, f"{web_runtime.BINARY}.gz", *web_runtime.LICENCES}
    assert set(web_runtime.files()) == set(web_runtime.files()) == names
    assert len(asked) == 1 and cache.parent.is_dir()
