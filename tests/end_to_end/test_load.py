"""The running Space under load, and under fire."""

import contextlib
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from dermalert_space.release import Release
from support import hostile, serving
from support.releases import make_image, make_release
from support.serving import Visitor, resident

pytestmark = pytest.mark.integration

CALLS = 2000
CLIENTS = 64
BOUND = 128
"""Requests that must find a place in the queue."""


def write_images(folder: Path, n: int) -> list[Path]:
    for number in range(n):
        make_image((90, 70), seed=number).save(folder / f"{number}.png")
    return sorted(folder.glob("*.png"))


def stands(visitor: Visitor, path: Path, release: Release) -> None:
    """Assert that the Space still answers, and rightly."""
    kind, (answer,) = visitor.call("judge", visitor.upload(path))
    assert kind == "complete"
    assert answer["probabilities"] == pytest.approx(release.predict(path).probabilities, abs=1e-5)


def load(url: serving.Address, release: Release, paths: list[Path], *, calls: int, clients: int) -> str:
    """Have many ask at once, each of whom must get the answer to its own image; return what it took."""
    truth = [release.predict(path).probabilities["melanoma"] for path in paths]
    visitor = Visitor(url)
    memory, seconds, kinds = [], [], Counter()

    def ask(number: int) -> None:
        began = time.monotonic()
        kind, answer = visitor.call("judge", visitor.upload(paths[number % len(paths)]))
        seconds.append(time.monotonic() - began)
        memory.append(resident(url.pid))
        kinds[kind] += 1
        if kind == "complete":
            assert answer[0]["probabilities"]["melanoma"] == pytest.approx(truth[number % len(paths)], abs=1e-5)
        else:
            assert kind == "busy" and "Queue is full" in str(answer), (kind, answer)

    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, range(calls)))
    took = time.monotonic() - began
    visitor.close()
    part = min(100, calls // 4)
    first, last = np.median(memory[:part]), np.median(memory[-part:])
    assert kinds["complete"] == calls, kinds
    assert last < 1.1 * first, f"{first / 1e6:.0f} MB became {last / 1e6:.0f} MB"
    return (
        f"{calls} requests by {clients} at once: {calls / took:.1f} a second, p95 {np.percentile(seconds, 95):.1f} s, "
        f"memory {first / 1e6:.0f} then {last / 1e6:.0f} MB"
    )


def test_many_at_once_each_get_the_answer_to_their_own_image(demo_space, demo_release, tmp_path):
    print(load(demo_space, Release.load(demo_release), write_images(tmp_path, 8), calls=64, clients=16))


@pytest.mark.long
def test_thousands_of_requests_leave_the_answers_right_and_the_memory_flat(tmp_path_factory, tmp_path):
    folder = make_release(tmp_path / "release", groups=True)
    home = tmp_path_factory.mktemp("load")
    with serving.space(home, MODEL_ID=str(folder), HF_HUB_OFFLINE="1") as url:
        print(load(url, Release.load(folder), write_images(tmp_path, 8), calls=CALLS, clients=CLIENTS))


# Honest visitors beside those that mean harm


def _sent(url: str, head: str, body: bytes) -> None:
    """Send a request as it is, and leave."""
    host, port = url.removeprefix("http://").split(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=20) as line:
        line.sendall(f"POST /gradio_api/{head}\r\nHost: {host}\r\n".encode() + body)


def large_json(url: str) -> None:
    with contextlib.suppress(httpx.HTTPError):
        httpx.post(f"{url}/gradio_api/queue/join", content=b'{"data":"' + b"A" * 40_000_000, timeout=60)


def many_objects(url: str) -> None:
    body = b'{"data": [' + b"[[]]," * 1_000_000 + b"0]}"
    assert httpx.post(f"{url}/gradio_api/call/triage", content=body, timeout=60).status_code == 413


def a_field_for_a_file(url: str) -> None:
    httpx.post(f"{url}/gradio_api/upload", data={"files": "x" * 20_000_000}, files={"a": b"x"}, timeout=60)


def cut_off(url: str) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + bytes(2_000_000)
    head = b"Content-Length: 900000000\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n"
    _sent(url, "upload HTTP/1.1", head + part)


def without_end(url: str) -> None:
    chunks = (b"100000\r\n" + bytes(0x100000) + b"\r\n") * 30
    _sent(url, "call/judge HTTP/1.1", b"Transfer-Encoding: chunked\r\n\r\n" + chunks)


def the_same_again(url: str) -> None:
    files = [{"path": "/etc/passwd"}] * 5_000
    httpx.post(f"{url}/gradio_api/call/triage", json={"data": [files]}, timeout=60)


HARM = (large_json, many_objects, a_field_for_a_file, cut_off, without_end, the_same_again)


def beside_harm(url: serving.Address, release: Release, paths: list[Path], *, clients: int, calls: int) -> str:
    """Have visitors ask so many times each, a quarter of it hostile; the honest ones must get their answers."""
    truth = [release.predict(path).probabilities["melanoma"] for path in paths]
    visitor, memory = Visitor(url), [resident(url.pid)]

    def ask(number: int) -> int:
        if number % 4 == 3:
            HARM[number // 4 % len(HARM)](url)
        else:
            kind, answer = visitor.call("judge", visitor.upload(paths[number % len(paths)]))
            assert kind == "complete", (kind, answer)
            assert answer[0]["probabilities"]["melanoma"] == pytest.approx(truth[number % len(paths)], abs=1e-5)
        memory.append(resident(url.pid))
        return number % 4 < 3

    for number in range(3):
        ask(number)
    before = resident(url.pid)
    with ThreadPoolExecutor(clients) as pool:
        honest = sum(pool.map(ask, range(clients * calls)))
    visitor.close()
    assert max(memory) < 1.5 * before, f"{before / 1e6:.0f} MB became {max(memory) / 1e6:.0f} MB"
    return (
        f"{clients} x {calls} requests: {honest} honest ones answered rightly beside {clients * calls - honest} "
        f"hostile ones, memory {before / 1e6:.0f} then at most {max(memory) / 1e6:.0f} MB"
    )


def test_honest_visitors_are_answered_beside_hostile_ones(demo_space, demo_release, tmp_path):
    print(beside_harm(demo_space, Release.load(demo_release), write_images(tmp_path, 8), clients=12, calls=4))


@pytest.mark.long
def test_sixty_four_clients_with_hostile_bodies_among_them_leave_the_memory_within_bounds(tmp_path_factory, tmp_path):
    folder = make_release(tmp_path / "release", groups=True)
    home = tmp_path_factory.mktemp("harm")
    with serving.space(home, MODEL_ID=str(folder), HF_HUB_OFFLINE="1") as url:
        print(beside_harm(url, Release.load(folder), write_images(tmp_path, 8), clients=CLIENTS, calls=10))


SLOW = """
import runpy, time
from dermalert_space.release import Release

predict_arrays = Release.predict_arrays

def changed(self, images, **options):
    time.sleep(0.05)
    return predict_arrays(self, images, **options)

Release.predict_arrays = changed
runpy.run_path("app.py", run_name="__main__")
"""


@pytest.mark.long
def test_past_its_bound_the_queue_says_that_it_is_full_and_answers_all_that_it_took(tmp_path):
    folder = make_release(tmp_path / "release")
    (path,) = write_images(tmp_path, 1)
    (tmp_path / "home").mkdir()
    with serving.space(tmp_path / "home", script=SLOW, MODEL_ID=str(folder), HF_HUB_OFFLINE="1") as url:
        visitor = Visitor(url)
        upload = visitor.upload(path)
        asked = [visitor.ask("judge", upload) for _ in range(800)]
        taken = [event for status, event in asked if status == 200]
        assert len(taken) >= BOUND
        busy = [text for status, text in asked if status != 200]
        assert busy and all(status in (200, 503) for status, _ in asked)
        assert all("Queue is full" in text for text in busy)
        assert {visitor.answer("judge", event)[0] for event in taken} == {"complete"}
        stands(visitor, path, Release.load(folder))
        visitor.close()


# Files that mean harm


def fire(visitor: Visitor, paths: list[Path]) -> Counter:
    """Have each file judged alone and in a batch, each of which must give a sentence; return what became of them."""
    said = Counter()
    for path in paths:
        upload = visitor.upload(path)
        if isinstance(upload, str):  # refused on its way, by its name or its size
            said["not taken"] += 1
            assert upload.strip()
            continue
        kind, answer = visitor.call("judge", upload)
        text = answer[0]["sentence"] if kind == "complete" else answer["error"]
        assert "alert" in text or text.startswith(("Cannot be assessed: ", "Not read: ")), (path.name, text)
        judged = kind == "complete" and answer[0]["state"] != "unreadable"
        said["judged" if judged else "refused"] += 1
        kind, answer = visitor.call("triage", [upload])
        assert kind == "complete", (path.name, answer)
        assert all(row["problem"] or row["sentence"] for row in answer[0]["files"]), path.name
    return said


def secrets(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_hostile_uploads_each_get_a_sentence(demo_space, demo_release, tmp_path):
    (path,) = write_images(tmp_path, 1)
    with contextlib.closing(Visitor(demo_space)) as visitor:
        said = fire(visitor, hostile.files(tmp_path / "hostile", 60))
        assert said.total() == 60 and said["refused"] > 10
        stands(visitor, path, Release.load(demo_release))


@pytest.mark.long
def test_five_hundred_hostile_uploads_leave_the_server_up_and_the_disk_as_it_was(tmp_path):
    folder = make_release(tmp_path / "release")
    (path,) = write_images(tmp_path, 1)
    home = tmp_path / "home"
    home.mkdir()
    own = {"MODEL_ID": str(folder), "HF_HUB_OFFLINE": "1", "TMPDIR": str(home), "HOME": str(home)}
    with serving.space(home, script=serving.QUICK, **own) as url:
        before = secrets(tmp_path) - secrets(home / "uploads")
        files = hostile.files(tmp_path / "hostile", 500)
        visitor = Visitor(url)
        said = fire(visitor, files)
        print(dict(said), f"{resident(url.pid) / 1e6:.0f} MB")
        assert said.total() == 500
        stands(visitor, path, Release.load(folder))
        visitor.close()
        deadline = time.monotonic() + 60
        while secrets(home / "uploads") and time.monotonic() < deadline:
            time.sleep(0.2)
        assert secrets(tmp_path) - set(files) - before == set()
