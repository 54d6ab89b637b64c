"""What the server lets in, and what it keeps: bodies, routes, origins, lines of the log, results, places."""

import asyncio
import contextlib
import json
import socket
import time
import types
from collections.abc import Iterator
from pathlib import Path

import gradio
import httpx
import pytest
from dermalert_space import batch
from dermalert_space.page import batch_slots, logs, request_guard, upload_retention
from support import serving
from support.releases import make_image, make_release
from support.serving import Visitor, resident

pytestmark = pytest.mark.integration

API = "/gradio_api"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("limits")


@pytest.fixture(scope="module")
def url(home) -> Iterator[serving.Address]:
    """A Space of which all temporary files lie below `home`."""
    folder = make_release(home / "release")
    (home / "home").mkdir()
    own = {"MODEL_ID": str(folder), "HF_HUB_OFFLINE": "1", "TMPDIR": str(home / "home"), "HOME": str(home / "home")}
    with serving.space(home / "home", **own) as address:
        yield address


def sent(url: str, request: bytes, *, seconds: float = 20) -> bytes:
    """Send bytes as they are, and return what comes back at first."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as line:
        with contextlib.suppress(OSError):  # refused before all of it was sent
            line.sendall(request)
        return line.recv(65536)


# Routes


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/component_server"),
        ("POST", "/process_recording"),
        ("GET", "/proxy=https://example.com/"),
        ("GET", "/file=https://example.com/a.png"),
        ("GET", "/file=data:text/html,x"),
        ("GET", "/dev/reload"),
        ("GET", "/deep_link"),
        ("POST", "/stream/1"),
        ("POST", "/vibe-edit"),
        ("GET", "/vibe-code"),
        ("POST", "/run-history/connect"),
        ("GET", "/runs"),
        ("GET", "/token"),
        ("GET", "/user"),
        ("GET", "/mcp/sse"),
        ("POST", "/mcp/messages/"),
        ("PUT", "/upload"),
        ("GET", "/upload"),
        ("DELETE", "/queue/join"),
        ("GET", "/../monitoring"),
    ],
)
def test_a_route_that_nobody_needs_is_not_there(url, method, path):
    answer = httpx.request(method, url + API + path)
    assert (answer.status_code, answer.text) == (404, "There is nothing here.")


@pytest.mark.parametrize("path", ["/monitoring", "/monitoring/summary", "/login", "/docs", "/openapi.json", "/a/b"])
def test_what_is_below_the_root_is_the_page_alone(url, path):
    assert httpx.get(url + path).status_code == 404
    assert httpx.post(url + path, data={"username": "a"}).status_code == 404


@pytest.mark.parametrize(
    "path", ["/", "/config", "/theme.css", f"{API}/info", f"{API}/mcp/", f"{API}/mcp/schema", "/robots.txt"]
)
def test_what_the_page_and_programs_need_is_there(url, path):
    assert httpx.get(url + path).status_code == 200


# Bodies


def chunked(path: str, total: int, kind: str = "application/json") -> bytes:
    """A request that does not say how long it is."""
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
    return (
        head.encode()
        + b"10000\r\n"
        + b"9" * 65_536
        + b"\r\n"
        + (b"10000\r\n" + b"9" * 65_536 + b"\r\n") * (total // 65_536)
    )


PATHS = ["/call/judge", "/call/v2/judge", "/queue/join", "/run/release", "/cancel", "/reset", "/mcp/"]


@pytest.mark.parametrize("path", PATHS)
def test_a_body_above_the_size_is_refused_as_it_comes_and_the_memory_stays(url, path):
    before = resident(url.pid)
    claimed = httpx.post(url + API + path, content=b"[" + b" " * request_guard.MAX_JSON)
    assert (claimed.status_code, claimed.text) == (413, "The request is larger than 20 MB.")
    assert sent(url, chunked(API + path, 3 * request_guard.MAX_JSON)).startswith(b"HTTP/1.1 413")
    assert resident(url.pid) < before + 100_000_000


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"data": [' + b"0," * 60_000 + b"0]}", 413),
        (b'{"data": ' + b"[" * 60_000, 413),
        (b'{"data": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", 400),
        (b'{"data": "' + b"a" * 1_000_000 + b'"}', 422),
        (b"\xff\xfe", 400),
        (b"", 422),
    ],
    ids=["many parts", "many brackets", "deep", "a long string", "no text", "nothing"],
)
def test_a_hostile_body_is_refused(url, body, status):
    answer = httpx.post(url + API + "/call/judge", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (status, 422), answer.text[:200]


def test_a_compressed_body_is_refused(url):
    for encoding in ("gzip", "deflate", "br", "zstd"):
        headers = {"content-encoding": encoding, "content-type": "application/json"}
        assert httpx.post(url + API + "/queue/join", content=b"x", headers=headers).status_code == 415


def form(*parts: bytes) -> dict:
    content = b"".join(b"--b\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts) + b"--b--\r\n"
    return {"content": content, "headers": {"content-type": "multipart/form-data; boundary=b"}}


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([b'name="files"\r\n\r\n' + b"x" * 5_000_000], "A field has more than"),
        ([b'name="other"; filename="a.png"\r\n\r\nx'], "Files must come in the field"),
        ([b'name="files"; filename="a.png"\r\n\r\nx'] * 2_000, "Too many files"),
        ([b'name="a"\r\n\r\nx'] * 2_000, "Too many fields"),
        ([b'name="files"; filename="' + b"n" * 100_000 + b'"\r\n\r\nx'], "Headers exceeded"),
        ([b'name="files"; filename="a.png"\r\n\r\n' + b"x" * 53_000_000], "maximum allowed size"),
    ],
    ids=["long field", "another field", "many files", "many fields", "long name", "large file"],
)
def test_a_hostile_form_is_refused_and_leaves_no_file(url, home, parts, said):
    before = {path for path in home.rglob("*") if path.is_file()}
    answer = httpx.post(url + API + "/upload", params={"upload_id": "a"}, **form(*parts), timeout=60)
    assert answer.status_code in (400, 413) and said in answer.text
    assert {path for path in home.rglob("*") if path.is_file()} == before


def test_an_upload_that_is_cut_off_leaves_no_file(url, home):
    before = {path for path in home.rglob("*") if path.is_file()}
    head = f"POST {API}/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n"
    head += "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n' + b"PATIENT" * 50_000
    with pytest.raises(TimeoutError):
        sent(url, head.encode() + part, seconds=1)
    until = time.monotonic() + 10
    while {path for path in home.rglob("*") if path.is_file()} != before:
        assert time.monotonic() < until
        time.sleep(0.1)


# The guard alone


def answered(guard: request_guard.Guard, messages, **scope) -> list[dict]:
    """What a guard answers to a request whose body comes as given; a number is a pause of so many seconds."""
    answers, left = [], list(messages)

    async def receive() -> dict:
        while left and isinstance(left[0], float):
            await asyncio.sleep(left.pop(0))
        return left.pop(0) if left else {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        answers.append(message)

    whole = {"type": "http", "method": "POST", "path": API + "/upload", "headers": [], **scope}
    asyncio.run(guard(whole, receive, send))
    return answers


def part(size: int, *, more: bool = True) -> dict:
    return {"type": "http.request", "body": bytes(size), "more_body": more}


async def reads_all(_scope, receive, send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})


async def fails_as_it_reads(scope, receive, send) -> None:
    """As an application whose outermost part says that it failed, whatever the reason."""
    try:
        await reads_all(scope, receive, send)
    except Exception:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"failed"})
        raise


def guard(app=reads_all, events=()) -> request_guard.Guard:
    waiting = {str(number): event for number, event in enumerate(events)}
    return request_guard.Guard(app, types.SimpleNamespace(event_ids_to_events=waiting), Path("/"))


@pytest.mark.parametrize("app", [reads_all, fails_as_it_reads])
def test_an_upload_above_the_size_is_refused_in_the_middle(monkeypatch, app):
    monkeypatch.setattr(request_guard, "MAX_UPLOAD", 5_000_000)
    start, body = answered(guard(app), [part(1_000_000)] * 9)
    assert (start["status"], body["body"]) == (413, b"The request is larger than 5 MB.")
    assert answered(guard(app), [part(1_000_000)] * 4 + [part(1, more=False)])[0]["status"] == 200


@pytest.mark.parametrize("path", ["/upload", "/call/judge"])
def test_a_body_that_is_too_slow_is_given_up(monkeypatch, path):
    monkeypatch.setattr(request_guard, "SLACK", 0.2)
    slow = [part(1), 0.15, part(1), 0.15, part(1), 0.15, part(1, more=False)]
    start, _ = answered(guard(), slow, path=API + path)
    assert start["status"] == 408 and (b"connection", b"close") in start["headers"]
    quick = [part(1), 0.05, part(1, more=False)]
    assert answered(guard(), quick, path=API + path)[0]["status"] == 200


def test_bodies_that_wait_are_bounded_together(monkeypatch):
    monkeypatch.setattr(request_guard, "MAX_HELD", 1_000)
    request = types.SimpleNamespace(scope={"dermalert.held": 900})
    waiting = [types.SimpleNamespace(request=request)]
    assert answered(guard(events=waiting), [part(50, more=False)], path=API + "/queue/join")[0]["status"] == 200
    start, _ = answered(guard(events=waiting), [part(200, more=False)], path=API + "/queue/join")
    assert start["status"] == 503 and (b"retry-after", b"60") in start["headers"]


# Headers


@pytest.mark.parametrize("path", ["/", "/config", "/nowhere", f"{API}/info", f"{API}/file=/etc/passwd"])
def test_each_answer_has_the_headers_of_security(url, path):
    headers = httpx.get(url + path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "strict-origin-when-cross-origin"
    assert "frame-ancestors 'self' https://huggingface.co" in headers["content-security-policy"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://127.0.0.1.evil.example", "file://"])
def test_a_page_of_another_site_neither_asks_nor_reads(url, origin):
    headers = {"origin": origin}
    assert httpx.post(url + API + "/call/release", json={"data": []}, headers=headers).status_code == 403
    asks = headers | {"access-control-request-method": "POST"}
    assert httpx.options(url + API + "/call/release", headers=asks).status_code == 403
    answer = httpx.get(url + "/config", headers=headers)
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_its_own_page_may_ask(url):
    answer = httpx.post(url + API + "/call/release", json={"data": []}, headers={"origin": url})
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == url


@pytest.mark.parametrize(
    ("space", "host", "origin", "own"),
    [
        ("a-b.hf.space", "a-b.hf.space", "https://a-b.hf.space", True),
        ("a-b.hf.space", "a-b.hf.space", "https://c-d.hf.space", False),
        ("a-b.hf.space,skin.example", "skin.example", "https://skin.example", True),
        ("a-b.hf.space", "evil.example", "https://evil.example", False),
        ("", "192.168.0.7:7860", "http://192.168.0.7:7860", True),
        ("", "127.0.0.1:7860", "http://localhost:7860", True),
        ("", "127.0.0.1:7860", "http://localhost:9999", False),
        ("", "127.0.0.1:7860", "http://[", False),
    ],
)
def test_the_own_origin_is_that_of_the_space_or_the_host_that_was_asked(monkeypatch, space, host, origin, own):
    monkeypatch.setenv("SPACE_HOST", space)
    assert request_guard.is_own(origin, host) is own


# The log

FORGED = "x\n2026-01-01 INFO forged by a visitor\n"


META = {"meta": {"_type": "gradio.FileData"}}
TYPES = [{"forged by a visitor": FORGED}, [[FORGED]], {"path": [FORGED]}, {"path": "/x", "url": FORGED}]
HEADERS = ("x-forwarded-host", "x-gradio-server", "user-agent", "range")
FORGERIES = {
    "the path": [("POST", f"{API}/call/judge", {"json": {"data": [{"path": FORGED} | META]}})],
    "the query": [
        ("GET", f"{API}/queue/data", {"params": {"session_hash": FORGED}}),  # there is no such visitor
        ("GET", f"{API}/upload_progress", {"params": {"upload_id": FORGED}}),
    ],
    "the name of an upload": [
        ("POST", f"{API}/upload", {"files": {"files": (FORGED, b"x")}}),
        ("POST", f"{API}/upload", form(b'name="files"; filename="forged by a visitor\x00"\r\n\r\nx')),
    ],
    "the name of a route": [
        ("POST", f"{API}/run/forged by a visitor", {"json": {"data": []}}),
        ("POST", f"{API}/call/forged", {"json": {"data": ["forged by a visitor"]}}),
    ],
    "a header": [("GET", "/config", {"headers": {name: "bytes=forged by a visitor"}}) for name in HEADERS],
    "no HTTP": [b"forged by a visitor\r\n\r\n"],
    "another type": [
        *(("POST", f"{API}/call/judge", {"json": {"data": [data]}}) for data in TYPES),
        *(
            ("POST", f"{API}/queue/join", {"json": {"data": [data], "fn_index": 1, "session_hash": FORGED}})
            for data in TYPES
        ),
    ],
}


@pytest.mark.parametrize("where", FORGERIES)
def test_no_line_of_the_log_is_a_visitors(url, home, where):
    log = home / "home" / "log"
    before = log.stat().st_size
    for request in FORGERIES[where] * 3:
        with contextlib.suppress(httpx.HTTPError):
            if isinstance(request, bytes):
                sent(url, request)
            else:
                method, path, more = request
                httpx.request(method, url + path, **more)
    time.sleep(1)
    written = log.read_bytes()[before:].decode(errors="replace")
    assert "forged" not in written and "Traceback" not in written
    assert all(line.startswith("dermalert: ") for line in written.splitlines())
    assert len(written) < 5_000


def test_the_log_says_what_kind_of_error_and_where(capfd):
    try:
        json.loads("what a visitor sent")
    except ValueError as error:
        logs.say("a request failed", error)
    assert "dermalert: a request failed: JSONDecodeError at json/decoder.py:" in capfd.readouterr().err


# What is kept


def message_queue(**sessions: int) -> types.SimpleNamespace:
    """gradio's queue, with so many messages for each visitor."""
    with gradio.Blocks() as demo:
        queue = demo._queue
    for session, messages in sessions.items():
        queue.pending_messages_per_session[session] = asyncio.Queue()
        queue.pending_event_ids_session[session] = set()
        for number in range(messages):
            queue.pending_messages_per_session[session].put_nowait(number)
    return queue


def test_results_that_nobody_reads_are_forgotten_and_those_that_are_read_are_not():
    async def held() -> set[str]:
        queue = message_queue(unread=2, idle=0, read=0, busy=0)
        queue.event_ids_to_events["1"] = types.SimpleNamespace(session_hash="busy", _id="1")
        unread = request_guard.Unread(queue)
        for _ in range(6):
            messages = queue.pending_messages_per_session.get("read")
            if messages is not None:  # it has a result, and then it is read
                messages.get_nowait() if messages.qsize() else messages.put_nowait("result")
            await unread.forget(age=0.25)
            await asyncio.sleep(0.1)
        return set(queue.pending_messages_per_session)

    assert asyncio.run(held()) == {"read", "busy"}


def test_temporary_files_lie_where_the_uploads_do(tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    before = tempfile.gettempdir()
    with upload_retention.upload_folder() as folder:
        with tempfile.NamedTemporaryFile() as file, tempfile.SpooledTemporaryFile(max_size=1) as spooled:
            spooled.write(b"more than one")
            assert Path(file.name).parent == folder
        assert Path(tempfile.mkdtemp()).parent == folder
    assert tempfile.gettempdir() == before


# Places


def rows(n: int) -> Iterator[batch.Row]:
    for number in range(n):
        time.sleep(0.01)
        yield batch.Row(file=str(number), prediction=None, watched=None, problem="none")


@pytest.mark.parametrize(
    ("others", "waiting", "gives"),
    [("aaa", 1, True), ("abb", 2, True), ("bbb", 1, False), ("aaa", 0, False), ("aa", 1, False)],
)
def test_who_has_several_places_gives_one_up_where_others_wait(monkeypatch, others, waiting, gives):
    monkeypatch.setattr(batch_slots, "SHARE", 0.1)
    held = batch_slots.Places(lambda: waiting)
    mine = held.held(rows(50), "a")
    first = next(mine)
    running = [held.held(rows(50), visitor) for visitor in others]
    for each in running:
        next(each)
    got = [first, *mine]
    assert (got[-1].problem == batch_slots.GIVEN_UP) is gives
    assert len(got) < 30 if gives else len(got) == 50


def test_a_batch_that_ends_or_is_stopped_gives_its_place_back():
    held = batch_slots.Places(lambda: 1)
    assert len(list(held.held(rows(3), "a"))) == 3
    stopped = held.held(rows(3), "a")
    next(stopped)
    stopped.close()
    assert held._taken == []


@pytest.mark.parametrize(
    ("forwarded", "space", "seen"),
    [
        ("8.8.8.8", "a/b", "8.8.8.8"),
        ("1.1.1.1, 8.8.8.8, 10.0.0.1", "a/b", "8.8.8.8"),
        ("what I like", "a/b", "10.1.1.1"),
        ("8.8.8.8", "", "10.1.1.1"),
        ("", "a/b", "10.1.1.1"),
    ],
)
def test_a_visitor_is_who_the_last_proxy_saw(monkeypatch, forwarded, space, seen):
    monkeypatch.setenv("SPACE_ID", space)
    client = types.SimpleNamespace(host="10.1.1.1")
    request = types.SimpleNamespace(client=client, headers={"x-forwarded-for": forwarded})
    assert batch_slots.visitor(request) == seen


def test_a_batch_is_answered_beside_many_others(url, tmp_path):
    """Of one visitor, each of whose batches takes long."""
    with contextlib.closing(Visitor(url)) as visitor:
        paths = []
        for number in range(10):
            make_image((2000, 1500), seed=number).save(tmp_path / f"{number}.jpg")
            paths.append(visitor.upload(tmp_path / f"{number}.jpg"))
        for _ in range(4):
            visitor.ask("triage", paths)
        began = time.monotonic()
        kind, (answer,) = visitor.call("triage", paths[:1])
    assert kind == "complete" and answer["files"][0]["sentence"]
    assert time.monotonic() - began < 60
