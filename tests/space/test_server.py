import ast
import asyncio
import base64
import datetime
import http.server
import importlib.metadata
import json
import os
import random
import re
import socket
import sys
import threading
import time
import tomllib
import types
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import gradio
import httpx
import numpy as np
import pytest
from dermalert_space import batch, inputs, server
from dermalert_space.contract import BUNDLED, NOT_A_DEVICE, REFERENCE
from dermalert_space.page import api, markup, tab_single, upload_retention
from dermalert_space.page import build as pages
from dermalert_space.release import Release
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from huggingface_hub import SpaceCard
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from PIL import Image
from support import serving
from support.releases import make_image, make_release
from support.serving import SPACE, in_a_loop
from transformers import pipeline

from dermalert.evaluation import evaluate
from dermalert.publishing import spaces
from dermalert.taxonomy import MALIGNANT, PRECURSOR

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def release(demo_release) -> Release:
    return Release.load(demo_release)


@pytest.fixture(scope="module")
def client(demo_space, tmp_path_factory) -> Client:
    return Client(demo_space, verbose=False, analytics_enabled=False, download_files=tmp_path_factory.mktemp("client"))


# The files of the Space


def test_the_front_matter_is_valid():
    spaces.check_front_matter(SPACE)
    data = SpaceCard.load(SPACE / "README.md").data.to_dict()
    assert {"title", "emoji", "sdk_version", "python_version"} <= set(data)
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {data["colorFrom"], data["colorTo"]} <= colours
    assert len(data["short_description"]) <= 60
    assert data["license"] == "apache-2.0"
    assert not data.get("models"), "deploying fills it in"
    assert f"{data['python_version']}.9" in SpecifierSet(importlib.metadata.metadata("dermalert")["Requires-Python"])


def requirements() -> list[Requirement]:
    lines = (SPACE / "requirements.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_the_requirements_are_pinned_inside_the_ranges_of_the_project():
    project = tomllib.loads((SPACE.parent / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["formats"]]
    project = {r.name: r.specifier for r in map(Requirement, needed)}
    pinned = {r.name: str(r.specifier).removeprefix("==") for r in requirements()}
    assert pinned["gradio"] == SpaceCard.load(SPACE / "README.md").data.sdk_version
    for name, version in pinned.items():
        assert Version(version) in project[name], name


def test_the_space_needs_nothing_but_its_requirements():
    allowed = {{"pillow": "PIL"}.get(r.name, r.name.replace("-", "_")) for r in requirements()} | {"dermalert_space"}
    allowed |= {"gradio_client", "fastapi", "starlette"}  # parts of gradio
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


def test_without_a_model_it_says_what_to_set(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(server, "BUNDLED", tmp_path / "nowhere")
    monkeypatch.delenv("MODEL_ID", raising=False)
    assert server.main() == 2
    written = capsys.readouterr()
    assert written.out == "" and "set MODEL_ID" in written.err and len(written.err.splitlines()) == 1


@pytest.mark.usefixtures("hub")
def test_a_model_that_cannot_be_loaded_is_named_without_a_traceback(monkeypatch, capsys):
    monkeypatch.setenv("MODEL_ID", "tester/none")
    monkeypatch.setenv("MODEL_REVISION", "v9")
    assert in_a_loop(server.main) == 1
    assert re.fullmatch(r"cannot load the release tester/none@v9: .*\n", capsys.readouterr().err)


def launched(monkeypatch, **variables: str) -> dict:
    """Run `main` up to the launch, and return the launch's arguments with the demo."""
    calls = []
    monkeypatch.setattr(gradio.Blocks, "launch", lambda demo, **options: calls.append(options | {"demo": demo}))
    monkeypatch.setenv("GRADIO_TEMP_DIR", os.environ["GRADIO_TEMP_DIR"])  # which serving changes
    for name in ("MODEL_ID", "MODEL_REVISION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert in_a_loop(server.main) == 0
    return calls[0]


def test_the_bundled_release_is_served_where_none_is_named(monkeypatch, demo_release):
    monkeypatch.setattr(server, "BUNDLED", demo_release)
    assert "demo-release" in json.dumps(launched(monkeypatch)["demo"].get_config_file())


def test_a_release_that_answers_otherwise_than_it_was_measured_is_not_served(monkeypatch, tmp_path, capsys):
    folder = make_release(tmp_path / "release")
    evaluate.write_reference(folder / REFERENCE, Release.load(folder))
    assert Release.load(folder).parity_error() < 1e-5
    assert launched(monkeypatch, MODEL_ID=str(folder))
    make_release(folder, seed=1)  # other weights, the same reference
    monkeypatch.setenv("MODEL_ID", str(folder))
    assert in_a_loop(server.main) == 1
    assert "answers otherwise here than it was measured" in capsys.readouterr().err


def test_damaged_reference_images_are_told_without_a_traceback(monkeypatch, tmp_path, capsys):
    folder = make_release(tmp_path / "release")
    (folder / REFERENCE).parent.mkdir()
    (folder / REFERENCE).write_bytes(b"not a safetensors file")
    monkeypatch.setenv("MODEL_ID", str(folder))
    assert in_a_loop(server.main) == 1
    assert "cannot read evaluation/parity.safetensors" in capsys.readouterr().err


def test_a_release_without_reference_images_is_served(demo_release):
    assert Release.load(demo_release).parity_error() is None


def test_nothing_of_a_visitor_is_kept_or_shared(monkeypatch, demo_release):
    call = launched(monkeypatch, MODEL_ID=str(demo_release))
    assert (call["run_history"], call["enable_monitoring"], call["share"]) == (False, False, False)
    assert call["max_file_size"] == "50mb"
    demo = call["demo"]
    assert demo.analytics_enabled is False
    assert sum(demo.delete_cache) < upload_retention.EVERY + upload_retention.AGE <= 360, (
        "six minutes, as the page says"
    )
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


def test_the_page_names_the_release_and_its_tag(release, demo_release):
    assert "Model: demo-release; version 0.1.0; trained on demo." in page(release)
    assert str(demo_release.parent) not in page(release)
    named = types.SimpleNamespace(name="tester/derm", revision="v1.0.0", model=release.model)
    named.file = lambda name: Path("models--tester--derm/snapshots", "0123456789" * 4, name)
    assert markup.source(named).startswith("Model: tester/derm; tag v1.0.0; version 0.1.0; commit 0123456; trained on")
    named.revision = None
    assert markup.source(named).startswith("Model: tester/derm; its newest state, no tag; version 0.1.0")


@pytest.mark.parametrize("version", [None, "", "absent"])
def test_a_release_without_a_version_is_called_so_wherever_a_version_is_shown(tmp_path, monkeypatch, version):
    folder = make_release(tmp_path / "mine", generated=False)
    config = json.loads((folder / "config.json").read_text())
    config["dermalert"]["version"] = version
    if version == "absent":
        del config["dermalert"]["version"]
    (folder / "config.json").write_text(json.dumps(config))
    release = Release.load(folder)
    assert markup.source(release) == "Model: mine; unversioned; trained on demo."
    assert api.release_record(release, None)["version"] == "unversioned"
    monkeypatch.setattr(markup, "BUNDLED", folder)
    assert markup.source(release) == "Model: dermalert; bundled; trained on demo."
    assert api.release_record(release, None)["version"] == "bundled"


# The endpoint


def endpoints(client: Client) -> dict:
    return client.view_api(return_format="dict", print_info=False)["named_endpoints"]


PREDICTION_FIELDS = (
    "state: str, sentence: str, alert: None | bool, refused: None | str, diagnosis: None | str, "
    "probabilities: dict(str, float), malignant: None | float, attention: None | float, threshold: None | float, "
    "attention_threshold: None | float, release: str, version: str, notice: str"
)
SORTED = (
    "file: str, state: str, problem: None | str, sentence: None | str, alert: None | bool, refused: None | str, "
    "diagnosis: None | str, probabilities: None | dict(str, float), malignant: None | float, attention: None | float"
)
SERVED = (
    "release: str, version: str, diagnoses: list[str], groups: dict(str, list[str]), alert_label: str, "
    "threshold: None | float, attention_labels: None | list[str], attention_threshold: None | float, "
    "states: list[str], trained_on: list[str], generated: bool, evaluation: None | dict(str, Any), notice: str"
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
        "/judge": ({"image": "filepath"}, [f"dict({PREDICTION_FIELDS})"]),
        "/triage": (
            {"files": "list[str | dict(str, Any)]"},
            [f"dict(files: list[dict({SORTED})], release: str, notice: str)"],
        ),
        "/release": ({}, [f"dict({SERVED})"]),
    }
    assert found["/judge"]["description"].startswith("Assess one dermoscopy image. For research and education only")


def test_the_endpoint_gives_the_floats_of_a_bare_pipeline(client, demo_release, tmp_path):
    make_image((90, 70)).save(tmp_path / "lesion.png")
    plain = pipeline("image-classification", model=str(demo_release))(str(tmp_path / "lesion.png"), top_k=9)
    answer = client.predict(handle_file(tmp_path / "lesion.png"), api_name="/judge")
    assert answer["probabilities"] == pytest.approx({row["label"]: row["score"] for row in plain}, abs=1e-5)
    sentence = r"Melanoma alert: the probability of melanoma is \d+\.\d%; alert threshold 10\.0%\."
    assert re.fullmatch(sentence, answer["sentence"])
    assert (answer["alert"], answer["refused"]) == (True, None)
    assert (answer["threshold"], answer["diagnosis"]) == (0.1, max(plain, key=lambda row: row["score"])["label"])
    malignant = sum(answer["probabilities"][name] for name in (*MALIGNANT, PRECURSOR))
    assert answer["malignant"] == pytest.approx(malignant)
    assert (answer["release"], answer["notice"]) == ("folder demo-release", NOT_A_DEVICE)


def test_a_refused_image_has_its_reason_and_probabilities_for_the_record(client, tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "black.png")
    answer = client.predict(handle_file(tmp_path / "black.png"), api_name="/judge")
    assert answer["sentence"].startswith("Cannot be assessed: ")
    assert (answer["alert"], bool(answer["refused"]), answer["diagnosis"]) == (None, True, None)
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


def test_a_batch_comes_back_by_urgency_with_a_reason_for_each_bad_file(client, release, tmp_path):
    for number in range(3):
        make_image((64, 48), seed=number).save(tmp_path / f"{number}.png")
    Image.new("RGB", (64, 48)).save(tmp_path / "black.png")
    (tmp_path / "letter.txt").write_text("Dear Sir")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(tmp_path / "0.png", "inner/again.png")
    files = [handle_file(path) for path in sorted(tmp_path.iterdir())]
    held = address_of(tmp_path / "1.png")
    private = str(Path(__file__).resolve())
    answer = client.predict([*files, held, "data:,x", private, {"path": private}, 7, None], api_name="/triage")
    rows = answer["files"]
    assert answer["notice"] == NOT_A_DEVICE
    assert [row["alert"] for row in rows] == [True] * 5 + [None] * 7
    assert [row["state"] for row in rows] == ["melanoma_alert"] * 5 + ["cannot_assess"] + ["unreadable"] * 6
    shares = [row["probabilities"]["melanoma"] for row in rows[:5]]
    assert shares == sorted(shares, reverse=True)
    assert rows[5]["refused"]
    assert {row["file"]: row["problem"] for row in rows[6:]} == {
        "letter.txt": "the file cannot be read as an image: it is none of JPEG, PNG, TIFF, BMP and WebP: "
        "save it as JPEG or PNG.",
        "file 8": "the address holds no base64: write data:image/...;base64, and then the file in base64.",
        **dict.fromkeys(("file 9", "file 10", "file 11", "file 12"), "no such file was uploaded."),
    }
    named = {row["file"]: row["probabilities"] for row in rows[:5]}
    assert named["file 7"] == pytest.approx(named["1.png"], abs=1e-5)
    assert named["more.zip/inner/again.png"] == pytest.approx(named["0.png"], abs=1e-5)
    assert named["2.png"] == pytest.approx(release.predict(tmp_path / "2.png").probabilities, abs=1e-5)


def test_a_program_can_ask_which_release_answers(client, release):
    told = client.predict(api_name="/release")
    assert (told["release"], told["version"], told["generated"]) == ("folder demo-release", "0.1.0", True)
    assert (told["threshold"], told["diagnoses"], told["groups"]) == (0.1, release.labels, release.groups)
    assert told["evaluation"] is None


def by_mcp(space: str, *calls: tuple[str, dict]) -> tuple[dict, list]:
    """The tools of a Space by their names, and what calls of them give."""

    async def ask() -> tuple:
        async with (
            streamable_http_client(f"{space}/gradio_api/mcp/") as (reads, writes, _),
            ClientSession(reads, writes) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            return tools, [await session.call_tool(*call) for call in calls]

    return asyncio.run(ask())


def address_of(path: Path) -> str:
    """A picture as a text."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def test_by_mcp_the_same_is_asked_and_nothing_else(demo_space, client, tmp_path):
    make_image((64, 48)).save(tmp_path / "lesion.png")
    held = address_of(tmp_path / "lesion.png")
    calls = (("judge", {"image": held}), ("triage", {"files": [held, held]}), ("release", {}))
    tools, answers = by_mcp(demo_space, *calls)
    assert set(tools) == {"judge", "triage", "release"}
    assert all("research and education only" in tools[name].description for name in ("judge", "triage"))
    assert "taken with a dermatoscope" in tools["judge"].inputSchema["properties"]["image"]["description"]
    judged, sorted_, served = (ast.literal_eval(answer.content[0].text) for answer in answers)
    assert judged == client.predict(handle_file(tmp_path / "lesion.png"), api_name="/judge")
    assert [row["sentence"] for row in sorted_["files"]] == [judged["sentence"]] * 2
    assert served == client.predict(api_name="/release")


def write_odd_files(folder: Path) -> list[Path]:
    image, exif = make_image((90, 70)), Image.Exif()
    exif[0x0112] = 6
    faded = image.convert("RGBA")
    faded.putalpha(image.convert("L"))
    image.save(folder / "turned.jpg", exif=exif)
    image.convert("CMYK").save(folder / "print.jpg")
    faded.save(folder / "alpha.png")
    image.quantize(8).save(folder / "palette.png", transparency=0)
    Image.fromarray(np.asarray(image.convert("L"), dtype=np.uint16) * 257).save(folder / "grey16.png")
    image.save(folder / "lesion.tif")
    image.save(folder / "no_suffix", format="webp")
    return sorted(folder.iterdir())


def test_an_image_reaches_the_model_as_it_was_uploaded(client, release, tmp_path):
    for path in write_odd_files(tmp_path):
        answer = client.predict(handle_file(path), api_name="/judge")
        assert answer["probabilities"] == pytest.approx(release.predict(path).probabilities, abs=1e-5), path.name


@pytest.mark.parametrize("content", ["cut short", "a letter", "nothing"])
def test_an_unreadable_upload_gives_a_sentence(client, tmp_path, content):
    path = tmp_path / "lesion.jpg"
    make_image((90, 70)).save(path)
    path.write_bytes({"cut short": path.read_bytes()[:800], "a letter": b"Dear Sir", "nothing": b""}[content])
    why = {"cut short": "damaged or cut short", "a letter": "none of JPEG", "nothing": "empty"}[content]
    answer = client.predict(handle_file(path), api_name="/judge")
    assert answer["sentence"].startswith(f"Not read: the file cannot be read as an image: it is {why}")
    assert (answer["state"], answer["probabilities"]) == ("unreadable", {})
    assert (answer["alert"], answer["refused"], answer["malignant"], answer["attention"]) == (None, None, None, None)
    assert (answer["release"], answer["notice"]) == ("folder demo-release", NOT_A_DEVICE)
    (row,) = client.predict([handle_file(path)], api_name="/triage")["files"]
    assert (row["state"], f"Not read: {row['problem']}") == ("unreadable", answer["sentence"])


def test_no_upload_gives_a_sentence(client):
    with pytest.raises(AppError, match=r"^Not read: no image was uploaded\.$"):
        client.predict(None, api_name="/judge")


def asked(space: str, what: str, data: list) -> str:
    """What a call by REST and server-sent events ends with."""
    call = f"{space}/gradio_api/call/{what}"
    event = httpx.post(call, json={"data": data}).json()["event_id"]
    return httpx.get(f"{call}/{event}").text


MISTAKES = {
    "a plain text": (["a lesion"], "no upload to this server"),
    "a path outside": ([str(Path(__file__).resolve())], "no upload to this server"),
    "a path outside, as an object": ([{"path": "/etc/passwd"}], "no upload to this server"),
    "a path up": ([{"path": "../../etc/passwd", "meta": {"_type": "gradio.FileData"}}], "no upload to this server"),
    "a zero byte": (["a\0b"], "Not read: "),
    "a number": ([7], "the image must be an upload, its path, or a text data:image"),
    "true": ([True], "the image must be an upload"),
    "a list": ([[{"path": "x.png"}]], "the image must be an upload"),
    "an empty object": ([{}], "the image must be an upload"),
    "an object of numbers": ([{"path": 5, "url": 6}], "the image must be an upload"),
    "no argument": ([], "the list 'data' is empty; it must hold one image"),
    "nothing": ([None], "no image was uploaded"),
    "an empty text": ([""], "the image must be an upload"),
    "bad base64": (["data:image/png;base64,???"], "the address holds no base64"),
    "no base64": (["data:image/png,abc"], "the address holds no base64"),
    "an empty address": (["data:"], "the address holds no base64"),
    "bad base64 as an url": ([{"url": "data:image/png;base64,@"}], "the address holds no base64"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_call_gets_a_sentence_by_every_way(demo_space, client, mistake):
    data, said = MISTAKES[mistake]
    answer = asked(demo_space, "judge", data)
    assert answer.startswith("event: error\ndata: ")
    error = json.loads(answer.split("data: ")[1])["error"]
    assert error.startswith("Not read: ") and said in error and error.endswith(".")
    if data and "meta" not in str(data):  # that the client would upload itself
        with pytest.raises(AppError, match=f"^{re.escape(error)}$"):
            client.predict(data[0], api_name="/judge")
    log = Path(demo_space.log).read_text()
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"Dear Sir", "none of JPEG, PNG, TIFF, BMP and WebP"),
        (b"GIF89a\1\0\1\0\0\0\0,", "it is a GIF: save it as JPEG or PNG"),
        (b"\x89PNG\r\n\x1a\n", "it is damaged or cut short"),
    ],
)
def test_what_is_no_image_in_base64_is_unreadable_by_rest(demo_space, content, said):
    answer = asked(demo_space, "judge", [f"data:image/png;base64,{base64.b64encode(content).decode()}"])
    assert answer.startswith("event: complete\ndata: ")
    (judged,) = json.loads(answer.split("data: ")[1])
    assert (judged["state"], judged["probabilities"], judged["alert"]) == ("unreadable", {}, None)
    assert judged["sentence"].startswith("Not read: ") and said in judged["sentence"]


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("call/judge", "{}", 422, "'data' is missing"),
        ("call/triage", '{"files": []}', 422, "'data' is missing"),
        ("queue/join", '{"session_hash": "s"}', 422, "'data' is missing"),
        ("run/release", "{}", 422, "'data' is missing"),
        ("call/judge", '{"data": {"image": "x"}}', 422, "'data' is of another type"),
        ("call/judge", '{"data": null}', 422, "'data' is of another type"),
        ("call/judge", "[]", 422, "the body is no JSON object"),
        ("call/judge", "", 422, "the body is no JSON object"),
        ("call/judge", '{"data": [', 422, "the body is no JSON"),
        ("call/v2/judge", "{}", 422, "the arguments are not those of this call"),
        ("call/v2/triage", '{"data": [[]]}', 422, "the arguments are not those of this call"),
        ("cancel", "{}", 422, "'session_hash' is missing"),
        ("queue/join", '{"data": [], "session_hash": "s", "fn_index": 100000}', 422, "the arguments are not those"),
        ("call/nothing", '{"data": []}', 404, "There is nothing here."),
        ("call/v2/nothing", "{}", 404, "There is nothing here."),
    ],
)
def test_a_body_that_is_none_of_a_call_gets_a_sentence(demo_space, path, body, status, said):
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{demo_space}/gradio_api/{path}", content=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "text/plain; charset=utf-8")
    assert said in answer.text and answer.text.endswith(".") and "\n" not in answer.text


def test_one_picture_spelled_in_many_ways_is_judged_once(release, monkeypatch, tmp_path):
    make_image((64, 48)).save(tmp_path / "lesion.png")
    held = base64.b64encode((tmp_path / "lesion.png").read_bytes()).decode()
    ways = [f"data:{kind};base64,{' ' * n}{held}" for kind in ("image/png", "image/jpeg", "") for n in range(20)]
    judged, judge = [], release.predict_all
    monkeypatch.setattr(release, "predict_all", lambda images: judged.extend(images) or judge(images))
    rows = batch.predict_files(release, api.batch_inputs(ways, str(tmp_path)))
    files = api.batch_record(release, rows)["files"]
    assert len(files) == 60 and len({file["sentence"] for file in files}) == 1
    assert {file["file"] for file in files} == {f"file {number}" for number in range(1, 61)}
    assert len(judged) == 1


def test_what_is_named_again_keeps_its_own_name_and_an_upload_the_one_that_it_has(release, tmp_path):
    made = [tmp_path / f"{name}.png" for name in ("one", "other")]
    for number, path in enumerate(made):
        make_image((64, 48), seed=number).save(path)
    first, second = map(address_of, made)
    with zipfile.ZipFile(tmp_path / "both.zip", "w") as archive:
        for path in made:
            archive.write(path, path.name)

    def names(sent: list) -> list[tuple]:
        rows = batch.predict_files(release, api.batch_inputs(sent, str(tmp_path)))
        files = api.batch_record(release, rows)["files"]
        return sorted((file["file"], file["sentence"]) for file in files)

    (_, of_first), (_, of_second) = names([first, second])
    broken = "data:image/png;base64,RGVhciBTaXI="
    found = names([first, second, first, broken, second, first])
    assert found == [
        (f"file {n + 1}", of) for n, of in enumerate([of_first, of_second, of_first, None, of_second, of_first])
    ]
    assert [name for name, _ in names([str(made[0]), first, str(made[0])])] == ["file 2", "one.png", "one.png"]
    archive = str(tmp_path / "both.zip")
    assert [name for name, _ in names([archive, archive])] == ["both.zip/one.png"] * 2 + ["both.zip/other.png"] * 2


def test_a_call_by_mcp_with_a_mistake_gets_the_same_sentence(demo_space):
    texts = ("a lesion", "/etc/passwd", "data:image/png;base64,???", "data:image/png;base64,RGVhciBTaXI=")
    _, answers = by_mcp(demo_space, *(("judge", {"image": text}) for text in texts))
    assert [bool(answer.isError) for answer in answers] == [True, True, True, False]
    assert "'state': 'unreadable'" in answers[3].content[0].text
    said = ["no upload to this server", "no upload to this server", "the address holds no base64", "none of JPEG"]
    for answer, words_of_it in zip(answers, said, strict=True):
        assert "Not read: " in answer.content[0].text and words_of_it in answer.content[0].text


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """A server that notes who asks it."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_) -> None:
        """Say nothing."""


@pytest.fixture
def elsewhere() -> Iterator[http.server.HTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_what_lies_at_an_address_is_not_fetched(elsewhere, demo_space, tmp_path):
    url = demo_space
    (tmp_path / "file.png").write_bytes(b"x")
    there = f"127.0.0.1:{elsewhere.server_port}/a.png"
    addresses = [f"http://{there}", f"HTTP://{there}", f" http://{there}", f"http:{there}", f"https://{there}"]
    addresses += [f"file://{tmp_path}/file.png", f"FILE:{tmp_path}/file.png", f"ftp://{there}", f"//{there}"]
    meta = {"meta": {"_type": "gradio.FileData"}}
    for address in addresses:
        for sent in (address, {"path": address}, {"url": address}, {"path": address, "url": address} | meta):
            error = json.loads(asked(url, "judge", [sent]).split("data: ")[1])["error"]
            said = "no upload to this server" if address.startswith("//") else "nothing is fetched from an address"
            assert error.startswith("Not read: ") and said in error
        rows = json.loads(asked(url, "triage", [[address]]).split("data: ")[1])[0]["files"]
        assert [row["problem"] for row in rows] == ["no such file was uploaded."]
    for number, function in enumerate(httpx.get(f"{url}/config").json()["dependencies"]):
        data = [{"path": addresses[0], "url": addresses[0]} | meta] * len(function["inputs"])
        for path in ("queue/join", f"run/{function['api_name']}"):
            body = {"data": data, "fn_index": function["id"], "session_hash": f"s{number}"}
            httpx.post(f"{url}/gradio_api/{path}", json=body)
    asked(url, "triage", [[]])  # whatever came before it has been looked at
    assert elsewhere.asked == []


NO_BATCH = [([], ""), ([None], "")]
NO_BATCH += [([mistake], "must be a list") for mistake in ("a lesion", 7, {"a": 1}, {"path": "x"})]


@pytest.mark.parametrize(("mistake", "said"), NO_BATCH)
def test_a_mistake_in_a_call_for_a_batch_gets_a_sentence(demo_space, mistake, said):
    error = json.loads(asked(demo_space, "triage", mistake).split("data: ")[1])["error"]
    assert error.startswith("Not read: ") and said in error and error.endswith(".")


def test_what_stands_for_an_upload_is_taken_everywhere_alike(demo_space, client, tmp_path):
    make_image((64, 48)).save(tmp_path / "lesion.png")
    content = (tmp_path / "lesion.png").read_bytes()
    expected = client.predict(handle_file(tmp_path / "lesion.png"), api_name="/judge")
    held = base64.b64encode(content).decode()
    wrapped = base64.encodebytes(content).decode()
    (path,) = httpx.post(f"{demo_space}/gradio_api/upload", files={"files": ("lesion.png", content)}).json()
    ways = (
        f"data:image/png;base64,{held}",
        f"DATA:;BASE64,{wrapped}",
        {"url": f"data:image/png;base64,{held}", "meta": {"_type": "gradio.FileData"}},
        path,
        {"path": path},
        {"path": path, "meta": {"_type": "gradio.FileData"}},
    )
    for way in ways:
        answer = asked(demo_space, "judge", [way])
        assert json.loads(answer.split("data: ")[1]) == [expected], way
    rows = json.loads(asked(demo_space, "triage", [[way]]).split("data: ")[1])[0]["files"]
    assert [row["sentence"] for row in rows] == [expected["sentence"]]


@pytest.mark.parametrize("meta", [{}, {"meta": {}}, {"meta": {"_type": "gradio.FileData"}}])
def test_a_file_of_the_server_that_was_not_uploaded_is_not_read(demo_space, tmp_path, meta):
    make_image().save(tmp_path / "private.png")
    answer = asked(demo_space, "judge", [{"path": str(tmp_path / "private.png")} | meta])
    assert answer.startswith("event: error")
    assert "melanoma" not in answer


@pytest.mark.long
def test_real_images_get_the_answers_of_a_bare_pipeline(real_images, tmp_path):
    (tmp_path / "home").mkdir()
    plain = pipeline("image-classification", model=str(BUNDLED), top_k=9)
    paths = sorted(path for path in real_images.rglob("*.jpg"))
    chosen = random.Random(0).sample(paths, 50)
    with serving.space(tmp_path / "home", MODEL_ID=str(BUNDLED), HF_HUB_OFFLINE="1") as url:
        client = Client(url, verbose=False, analytics_enabled=False, download_files=tmp_path / "client")
        for path in chosen:
            answer = client.predict(handle_file(path), api_name="/judge")
            expected = {each["label"]: each["score"] for each in plain(str(path))}
            assert answer["probabilities"] == pytest.approx(expected, abs=1e-5), path.name


def test_the_answer_stands_where_no_map_can_be_made(release, tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise RuntimeError("no layer")

    monkeypatch.setattr(tab_single, "where", fails)
    make_image((64, 48)).save(tmp_path / "lesion.png")
    *_, (said, looked) = tab_single.answers(release, {"path": str(tmp_path / "lesion.png")}, str(tmp_path))
    assert "elanoma alert" in said
    assert "cannot be shown for this image" in looked
    assert "no layer" in capsys.readouterr().err


def test_what_is_named_again_is_judged_once_and_answered_each_time(release, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for number in range(2):
            make_image((64, 48), seed=number).save(tmp_path / f"{number}.png")
            archive.write(tmp_path / f"{number}.png", f"{number}.png")
    held = address_of(tmp_path / "1.png")
    paths = [str(tmp_path / name) for name in ("0.png", "two.zip", "no.png")]
    files = [*paths, held, {"path": paths[0]}, f"{tmp_path}/./0.png", paths[1], held, *[paths[0]] * 100]
    judged, judge = [], Release.predict_all
    monkeypatch.setattr(Release, "predict_all", lambda self, images: judged.extend(images) or judge(self, images))
    answer = api.batch_record(release, batch.predict_files(release, api.batch_inputs(files, str(tmp_path))))
    assert len(judged) == 4
    names = Counter(row["file"] for row in answer["files"])
    assert names == {"0.png": 103, "two.zip/0.png": 2, "two.zip/1.png": 2, "file 3": 1, "file 4": 1, "file 8": 1}
    assert len({row["sentence"] for row in answer["files"] if row["file"] == "0.png"}) == 1


def test_one_archive_named_often_is_no_way_around_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "LIMIT", 5)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(5):
            archive.writestr(f"{number}.png", b"x")
    assert len(list(api.batch_inputs([str(tmp_path / "many.zip")] * 5, str(tmp_path)))) == 6


def test_what_a_visitor_was_shown_is_forgotten():
    old, new = datetime.datetime.now() - datetime.timedelta(seconds=60), datetime.datetime.now()
    holder = types.SimpleNamespace(
        lock=threading.Lock(), session_data={"old": 1, "new": 2}, time_last_used={"old": old, "new": new}
    )
    upload_retention.forget(types.SimpleNamespace(state_holder=holder), age=30)
    assert (list(holder.session_data), list(holder.time_last_used)) == (["new"], ["new"])


# What is left on the disk


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_no_upload_outlives_its_time_or_the_server(demo_release, tmp_path):
    home, mark = tmp_path / "home", b"GPS of the visitor"
    home.mkdir()
    named = {"MODEL_ID": str(demo_release), "HF_HUB_OFFLINE": "1", "TMPDIR": str(home), "HOME": str(home)}
    exif = Image.Exif()
    exif[0x010E] = mark.decode()
    make_image((64, 48)).save(tmp_path / "lesion.jpg", exif=exif)
    assert mark in (tmp_path / "lesion.jpg").read_bytes()
    left = home / "uploads" / f"{upload_retention.PREFIX}of-a-server-that-was-killed"
    left.mkdir(parents=True)
    (left / "a.jpg").write_bytes(mark)

    with serving.space(home, script=serving.QUICK, **named) as url:
        assert not left.exists()
        (uploads,) = (home / "uploads").glob(f"{upload_retention.PREFIX}*")
        client = Client(url, verbose=False, analytics_enabled=False, download_files=tmp_path / "client")
        client.predict(handle_file(tmp_path / "lesion.jpg"), api_name="/judge")
        client.predict([handle_file(tmp_path / "lesion.jpg")], api_name="/triage")
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as cut_off:
            head = "POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n"
            part = '--b\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
            head += "Content-Type: multipart/form-data; boundary=b\r\n\r\n" + part
            cut_off.sendall(head.encode() + mark * 5000)
            deadline = time.monotonic() + 20
            while len(files_below(uploads)) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            assert len(files_below(uploads)) >= 2, "the upload, and the one that is on its way"
        deadline = time.monotonic() + 30
        while files_below(uploads) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert files_below(uploads) == []
        client.predict(handle_file(tmp_path / "lesion.jpg"), api_name="/judge")
    assert not uploads.exists()
    written = [path for path in files_below(home) if home / "space" not in path.parents]
    assert not [path for path in written if mark in path.read_bytes()]
    assert {path.suffix for path in written} <= {"", ".json", ".txt", ".lock"}, written


def test_what_another_running_server_holds_is_not_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with upload_retention.upload_folder() as first, upload_retention.upload_folder() as second:
        assert first != second
        assert first.is_dir() and second.is_dir()
        (first / "a.jpg").write_bytes(b"pixels")
    assert list(tmp_path.iterdir()) == []


def test_what_waits_in_a_long_batch_does_not_grow_old(tmp_path, monkeypatch):
    monkeypatch.setattr(upload_retention, "EVERY", 0.01)
    paths = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "deleted.png"]
    for path in paths[:2]:
        path.write_bytes(b"pixels")
    for number in upload_retention.keep_fresh(range(20), paths):
        time.sleep(0.02)
        upload_retention.sweep(tmp_path, age=0.2)
        assert paths[1].exists(), number
    time.sleep(0.3)
    upload_retention.sweep(tmp_path, age=0.2)
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_takes_what_is_old_and_leaves_the_rest(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "upload.jpg").write_bytes(b"pixels")
    (tmp_path / "link").symlink_to(tmp_path)
    upload_retention.sweep(tmp_path, age=60)
    assert (tmp_path / "folder" / "upload.jpg").exists()
    upload_retention.sweep(tmp_path, age=-1)
    assert list(tmp_path.iterdir()) == []


def test_the_calls_that_the_api_page_shows_send_a_file(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    image, files = (endpoints[name]["parameters"][0]["example_input"] for name in ("/judge", "/triage"))
    assert [image] == files and image["path"] == image["url"] == "lesion.jpg"
