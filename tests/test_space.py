import ast
import asyncio
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio
import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from huggingface_hub import SpaceCard
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from PIL import Image
from releases import LABELS, make_image, make_release
from transformers import pipeline

from dermalert import evaluation
from space import app, cleaning, words
from space import page as pages
from space.triage import NOT_A_DEVICE, REFERENCE, Release

SPACE = Path(app.__file__).parent
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
# A browser has servers of its own that it likes to ask.
QUIET = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-features=OptimizationHints,MediaRouter",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A release that alerts to most images, and was trained on generated ones."""
    return make_release(tmp_path_factory.mktemp("runs") / "demo-release", melanoma_bias=3, generated=True)


@pytest.fixture(scope="module")
def release(folder) -> Release:
    return Release.load(folder)


def copy_of_the_space(to: Path) -> Path:
    """What lies at the root of the Space on the Hub: the folder alone, no project around it."""
    return Path(shutil.copytree(SPACE, to, ignore=shutil.ignore_patterns("model", "__pycache__")))


def environment(**variables: str) -> dict[str, str]:
    cleared = {k: v for k, v in os.environ.items() if k not in ("MODEL_ID", "MODEL_REVISION")}
    return cleared | {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"} | variables


@pytest.fixture(scope="module")
def url(folder, tmp_path_factory):
    """The address of the running Space."""
    home = tmp_path_factory.mktemp("space")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {"MODEL_ID": str(folder), "GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(home / "uploads")}
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=copy_of_the_space(home / "space"),
            env=environment(**variables),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
    try:
        while True:
            try:
                httpx.get(address)
                break
            except httpx.TransportError:
                assert server.poll() is None and time.monotonic() < deadline, (home / "log").read_text()
                time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def client(url, tmp_path_factory) -> Client:
    return Client(url, verbose=False, analytics_enabled=False, download_files=tmp_path_factory.mktemp("client"))


# The files of the Space


def test_the_front_matter_is_valid():
    data = SpaceCard.load(SPACE / "README.md").data.to_dict()
    known = (
        "title emoji colorFrom colorTo sdk sdk_version python_version app_file short_description license models "
        "datasets tags pinned suggested_hardware preload_from_hub startup_duration_timeout disable_embedding"
    )
    assert set(data) <= set(known.split())
    assert {"title", "emoji", "sdk", "sdk_version", "python_version", "app_file", "license"} <= set(data)
    assert data["sdk"] == "gradio"
    assert re.fullmatch(r"\d+\.\d+\.\d+", data["sdk_version"]), "and quoted, or 6.30 becomes 6.3"
    assert isinstance(data["python_version"], str)
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {data["colorFrom"], data["colorTo"]} <= colours
    assert len(data["short_description"]) <= 60
    assert data["license"] == "apache-2.0"
    assert (SPACE / data["app_file"]).is_file()
    assert not data.get("models"), "deploying fills it in"


def requirements() -> list[Requirement]:
    lines = (SPACE / "requirements.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_the_requirements_are_pinned_inside_the_ranges_of_the_project():
    needed = tomllib.loads((SPACE.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    project = {r.name: r.specifier for r in map(Requirement, needed)}
    pinned = {r.name: str(r.specifier).removeprefix("==") for r in requirements()}
    assert pinned["gradio"] == SpaceCard.load(SPACE / "README.md").data.sdk_version
    for name, version in pinned.items():
        assert Version(version) in project[name], name


def test_every_requirement_runs_on_the_python_of_the_space():
    python = SpaceCard.load(SPACE / "README.md").data.python_version
    for name in ["dermalert", *(r.name for r in requirements())]:
        supported = importlib.metadata.metadata(name)["Requires-Python"]
        assert f"{python}.9" in SpecifierSet(supported), f"{name} needs Python {supported}"


def test_the_space_needs_nothing_but_its_requirements():
    allowed = {r.name.replace("pillow", "PIL") for r in requirements()} | {path.stem for path in SPACE.glob("*.py")}
    allowed.add("gradio_client")  # a part of gradio
    for path in SPACE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            else:
                continue
            roots = {name.partition(".")[0] for name in names}
            assert roots <= allowed | sys.stdlib_module_names, f"{path.name} imports {roots}"


def test_the_readme_says_that_it_is_no_device():
    assert NOT_A_DEVICE in (SPACE / "README.md").read_text()


# Starting


def test_without_a_model_it_says_what_to_set(tmp_path):
    command = [sys.executable, "app.py"]
    run = subprocess.run(
        command, cwd=copy_of_the_space(tmp_path / "space"), env=environment(), capture_output=True, text=True
    )
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr == "Set MODEL_ID to a release, USER/REPO or a folder, and MODEL_REVISION to its tag.\n"


def test_a_model_that_cannot_be_loaded_is_named_without_a_traceback():
    variables = environment(MODEL_ID="tester/none", MODEL_REVISION="v9")
    run = subprocess.run(
        [sys.executable, "space/app.py"], cwd=SPACE.parent, env=variables, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert re.fullmatch(r"cannot load the release tester/none@v9: .*\n", run.stderr)


def in_a_loop(function: Callable[[], Any]) -> Any:
    """Call where an event loop runs: without one gradio opens its own, and leaves them open."""

    async def call() -> Any:
        return function()

    return asyncio.run(call())


def launched(monkeypatch, **variables: str) -> dict:
    """Run `main` up to the launch, and return the launch's arguments with the demo."""
    calls = []
    monkeypatch.setattr(gradio.Blocks, "launch", lambda demo, **options: calls.append(options | {"demo": demo}))
    monkeypatch.setenv("GRADIO_TEMP_DIR", os.environ["GRADIO_TEMP_DIR"])  # which serving changes
    for name in ("MODEL_ID", "MODEL_REVISION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert in_a_loop(app.main) == 0
    return calls[0]


def test_the_bundled_release_is_served_where_none_is_named(monkeypatch, folder):
    monkeypatch.setattr(app, "BUNDLED", folder)
    assert "demo-release" in json.dumps(launched(monkeypatch)["demo"].get_config_file())


def test_a_release_that_answers_otherwise_than_it_was_measured_is_not_served(monkeypatch, tmp_path, capsys):
    folder = make_release(tmp_path / "release")
    evaluation.write_reference(folder / REFERENCE, Release.load(folder))
    assert Release.load(folder).deviation() < 1e-5
    assert launched(monkeypatch, MODEL_ID=str(folder))
    make_release(folder, seed=1)  # other weights, the same reference
    monkeypatch.setenv("MODEL_ID", str(folder))
    assert in_a_loop(app.main) == 1
    assert "is not served" in capsys.readouterr().err


def test_damaged_reference_images_are_told_without_a_traceback(monkeypatch, tmp_path, capsys):
    folder = make_release(tmp_path / "release")
    (folder / REFERENCE).parent.mkdir()
    (folder / REFERENCE).write_bytes(b"not a safetensors file")
    monkeypatch.setenv("MODEL_ID", str(folder))
    assert in_a_loop(app.main) == 1
    assert "cannot read evaluation/parity.safetensors" in capsys.readouterr().err


def test_a_release_without_reference_images_is_served(folder):
    assert Release.load(folder).deviation() is None


def test_nothing_of_a_visitor_is_kept_or_shared(monkeypatch, folder):
    call = launched(monkeypatch, MODEL_ID=str(folder))
    assert (call["run_history"], call["enable_monitoring"], call["share"]) == (False, False, False)
    assert call["max_file_size"] == "50mb"
    demo = call["demo"]
    assert demo.analytics_enabled is False
    assert sum(demo.delete_cache) < cleaning.EVERY + cleaning.AGE <= 360, "six minutes, as the page says"
    assert demo._queue.max_size >= 128
    config = demo.get_config_file()
    picture = next(c["props"] for c in config["components"] if c["props"].get("elem_id") == "picture")
    assert "share" not in picture["buttons"]
    assert "webcam" not in picture["sources"]


# What the page says of the release


def page(release: Release) -> str:
    return in_a_loop(lambda: json.dumps(pages.build_demo(release).get_config_file(), ensure_ascii=False))


@pytest.mark.parametrize(("generated", "said"), [(True, True), (False, False), (None, False)])
def test_the_page_says_when_the_training_pictures_were_generated(tmp_path, generated, said):
    shown = page(Release.load(make_release(tmp_path, generated=generated)))
    sentence = "This model was trained on generated pictures only: its answers mean nothing on real skin."
    assert (sentence in shown) is said
    assert NOT_A_DEVICE in shown


def test_the_page_names_the_release_and_its_tag(release, folder):
    assert "Release: folder demo-release; version 0.1.0; trained on demo." in page(release)
    assert str(folder.parent) not in page(release)
    named = types.SimpleNamespace(name="tester/derm", revision="v1.0.0", model=release.model)
    assert words.source(named).startswith("Release: tester/derm; tag v1.0.0; version 0.1.0")
    named.revision = None
    assert words.source(named).startswith("Release: tester/derm; its newest state, no tag; version 0.1.0")


# The endpoint


def endpoints(client: Client) -> dict:
    return client.view_api(return_format="dict", print_info=False)["named_endpoints"]


JUDGED = (
    "sentence: str, alert: None | bool, refused: None | str, probabilities: dict(str, float), "
    "malignant: None | float, release: str, notice: str"
)
SORTED = (
    "file: str, problem: None | str, sentence: None | str, alert: None | bool, refused: None | str, "
    "probabilities: None | dict(str, float), malignant: None | float"
)
SERVED = (
    "release: str, version: None | str, diagnoses: list[str], groups: dict(str, list[str]), alert_label: str, "
    "threshold: None | float, trained_on: list[str], generated: bool, evaluation: None | dict(str, Any), notice: str"
)


def test_the_contract_with_programs(client):
    found = endpoints(client)
    types = {
        name: (
            {p["parameter_name"]: p["python_type"]["type"] for p in endpoint["parameters"]},
            [r["python_type"]["type"] for r in endpoint["returns"]],
        )
        for name, endpoint in found.items()
    }
    assert types == {
        "/judge": ({"image": "filepath"}, [f"dict({JUDGED})"]),
        "/triage": (
            {"files": "list[str | dict(str, Any)]"},
            [f"dict(files: list[dict({SORTED})], release: str, notice: str)"],
        ),
        "/release": ({}, [f"dict({SERVED})"]),
    }
    assert found["/judge"]["description"].startswith("Judge one dermoscopy image. For research and education only")


def test_the_endpoint_gives_the_floats_of_a_bare_pipeline(client, folder, tmp_path):
    make_image((90, 70)).save(tmp_path / "lesion.png")
    plain = pipeline("image-classification", model=str(folder))(str(tmp_path / "lesion.png"), top_k=9)
    answer = client.predict(handle_file(tmp_path / "lesion.png"), api_name="/judge")
    assert answer["probabilities"] == pytest.approx({row["label"]: row["score"] for row in plain}, abs=1e-5)
    sentence = r"Melanoma alert: the probability of melanoma is \d+\.\d%; .* alerts from 10\.0%\."
    assert re.fullmatch(sentence, answer["sentence"])
    assert (answer["alert"], answer["refused"], answer["malignant"]) == (True, None, None)
    assert (answer["release"], answer["notice"]) == ("folder demo-release", NOT_A_DEVICE)


def write_odd_files(folder: Path) -> list[Path]:
    image, exif = make_image((90, 70)), Image.Exif()
    exif[0x0112] = 6
    faded = image.convert("RGBA")
    faded.putalpha(image.convert("L"))
    image.save(folder / "turned.jpg", exif=exif)
    image.convert("CMYK").save(folder / "print.jpg")
    faded.save(folder / "alpha.png")
    image.quantize(8).save(folder / "palette.gif", transparency=0)
    Image.fromarray(np.asarray(image.convert("L"), dtype=np.uint16) * 257).save(folder / "grey16.png")
    image.save(folder / "lesion.tif")
    image.save(folder / "no_suffix", format="webp")
    return sorted(folder.iterdir())


def test_an_image_reaches_the_model_as_it_was_uploaded(client, release, tmp_path):
    for path in write_odd_files(tmp_path):
        answer = client.predict(handle_file(path), api_name="/judge")
        assert answer["probabilities"] == pytest.approx(release.judge(path).probabilities, abs=1e-5), path.name


@pytest.mark.parametrize("content", ["cut short", "a letter", "nothing"])
def test_an_unreadable_upload_gives_a_sentence(client, tmp_path, content):
    path = tmp_path / "lesion.jpg"
    make_image((90, 70)).save(path)
    path.write_bytes({"cut short": path.read_bytes()[:800], "a letter": b"Dear Sir", "nothing": b""}[content])
    with pytest.raises(AppError, match=r"^Cannot judge: the file cannot be read as an image: damaged"):
        client.predict(handle_file(path), api_name="/judge")


def test_no_upload_gives_a_sentence(client):
    with pytest.raises(AppError, match=r"^Cannot judge: no image was uploaded\.$"):
        client.predict(None, api_name="/judge")


@pytest.mark.parametrize("meta", [{}, {"meta": {}}, {"meta": {"_type": "gradio.FileData"}}])
def test_a_file_of_the_server_that_was_not_uploaded_is_not_read(url, tmp_path, meta):
    make_image().save(tmp_path / "private.png")
    call = f"{url}/gradio_api/call/judge"
    event = httpx.post(call, json={"data": [{"path": str(tmp_path / "private.png")} | meta]}).json()["event_id"]
    answer = httpx.get(f"{call}/{event}").text
    assert answer.startswith("event: error")
    assert "melanoma" not in answer


# The page in a browser


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip("needs the browser: install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the browser: install playwright")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, url):
    """Open the page with the given context options; afterwards there was no error and no request to elsewhere."""
    contexts, errors, hosts = [], [], set()

    def visit(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: errors.append(error))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
        page.goto(url)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not errors
    assert hosts - {None} == {"127.0.0.1"}  # blob: and data: have no host


def upload(page, path: Path) -> None:
    page.locator("#picture input[type=file]").set_input_files(path)


def expect(locator):
    from playwright.sync_api import expect

    return expect(locator)


def in_view(locator) -> bool:
    return locator.evaluate(
        "e => { const r = e.getBoundingClientRect(); return r.top >= 0 && r.bottom <= innerHeight }"
    )


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_an_upload_gives_a_sentence_and_nine_probabilities(visit, folder, tmp_path, color_scheme):
    make_image((640, 480), seed=1).save(tmp_path / "lesion.png")
    plain = pipeline("image-classification", model=str(folder))(str(tmp_path / "lesion.png"), top_k=9)
    page = visit(color_scheme=color_scheme)
    upload(page, tmp_path / "lesion.png")
    expect(page.locator("#result .sentence")).to_contain_text("Melanoma alert: the probability of melanoma is")
    assert page.locator("#result th").all_inner_texts() == [row["label"] for row in plain]
    assert page.locator("#result .share").all_inner_texts() == [f"{row['score']:.1%}" for row in plain]
    assert {row["label"] for row in plain} == set(LABELS)
    assert page.get_by_text(NOT_A_DEVICE).is_visible()
    assert page.get_by_text("trained on generated pictures only").is_visible()
    expect(page.locator("#release")).to_contain_text("Release: folder demo-release")
    expect(page.get_by_alt_text("The image that was uploaded")).to_be_visible()


def test_an_answer_never_outlives_its_image(visit, tmp_path):
    make_image((640, 480)).save(tmp_path / "lesion.png")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    page = visit()
    sentence = page.locator("#result .sentence")
    for _ in range(2):
        upload(page, tmp_path / "lesion.png")
        expect(sentence).to_contain_text("Melanoma alert")
        page.get_by_label("Remove Image").click()
        expect(sentence).to_contain_text("Upload a dermoscopy image")
        upload(page, tmp_path / "broken.jpg")
        expect(sentence).to_contain_text("Cannot judge: the file cannot be read")
        expect(page.locator("#result table")).to_have_count(0)
        page.get_by_label("Remove Image").click()


def test_no_former_answer_is_left_where_the_server_fails(visit, tmp_path):
    make_image((640, 480)).save(tmp_path / "lesion.png")
    page = visit()
    upload(page, tmp_path / "lesion.png")
    expect(page.locator("#result .sentence")).to_contain_text("Melanoma alert")
    page.route("**/queue/join*", lambda route: route.abort())
    page.get_by_label("Remove Image").click()
    # At once: a few seconds later gradio, which has lost its server, loads the page anew.
    expect(page.locator("#result .sentence")).to_have_count(0, timeout=1000)


def test_the_page_fits_a_phone_and_keeps_the_notice_in_view(visit, tmp_path):
    make_image((640, 480)).save(tmp_path / "lesion.png")
    page = visit(viewport={"width": 360, "height": 640}, is_mobile=True, has_touch=True)
    upload(page, tmp_path / "lesion.png")
    expect(page.locator("#result table")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.locator("#release").scroll_into_view_if_needed()
    assert page.evaluate("scrollY") > 0
    assert in_view(page.get_by_text(NOT_A_DEVICE))
    assert in_view(page.locator("#release"))
