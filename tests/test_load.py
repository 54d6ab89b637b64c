"""The Space under many visitors at once, and under files that mean it harm."""

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hostile
import httpx
import numpy as np
import pytest
import serving
from releases import make_image

from space import cleaning, page
from space.triage import Release

CLIENTS, REQUESTS = 64, 2000


class Visitor:
    """Asks the Space as any program can: by REST."""

    def __init__(self, url: str):
        self.http = httpx.Client(
            base_url=f"{url}/gradio_api", timeout=300, limits=httpx.Limits(max_keepalive_connections=0)
        )

    def __enter__(self) -> "Visitor":
        return self

    def __exit__(self, *_) -> None:
        self.http.close()

    def upload(self, path: Path) -> str:
        """Upload a file and return where it lies."""
        answer = self.http.post("/upload", files={"files": (path.name, path.read_bytes())})
        answer.raise_for_status()
        return answer.json()[0]

    def ask(self, endpoint: str, *data) -> tuple[str, object]:
        """Call an endpoint; return `complete` or `error`, and what comes with it."""
        call = self.http.post(f"/call/{endpoint}", json={"data": list(data)})
        if call.status_code != 200:
            return f"status {call.status_code}", call.json()
        with self.http.stream("GET", f"/call/{endpoint}/{call.json()['event_id']}") as stream:
            event = ""
            for line in stream.iter_lines():
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data: ") and event in ("complete", "error"):
                    return event, json.loads(line.removeprefix("data: "))
        return "nothing", None

    def judge(self, path: Path) -> tuple[str, object]:
        """Upload a file and have it judged."""
        return self.ask("judge", {"path": self.upload(path), "meta": {"_type": "gradio.FileData"}})


def resident(home: Path) -> int:
    """Return the resident memory of the server, in kilobytes."""
    status = Path(f"/proc/{(home / 'pid').read_text()}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


@pytest.fixture
def home(tmp_path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def running(home, demo_release):
    home.mkdir()
    with serving.space(home, MODEL_ID=str(demo_release), HF_HUB_OFFLINE="1") as url:
        yield url


def pictures(folder: Path, n: int) -> list[Path]:
    folder.mkdir()
    for number in range(n):
        make_image((200 + 10 * number, 150), seed=number).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize(("clients", "requests"), [(16, 64), pytest.param(CLIENTS, REQUESTS, marks=pytest.mark.long)])
def test_of_many_at_once_each_has_its_own_answer_and_the_memory_stays(
    clients, requests, running, home, demo_release, tmp_path
):
    paths, judge = pictures(tmp_path / "images", 20), Release.load(demo_release)
    expected = [judge.judge(path).probabilities for path in paths]
    memory = []

    def visit(number: int) -> float:
        started = time.monotonic()
        with Visitor(running) as visitor:
            event, answer = visitor.judge(paths[number % len(paths)])
        assert event == "complete", answer
        assert answer[0]["probabilities"] == pytest.approx(expected[number % len(paths)], abs=1e-5)
        memory.append(resident(home))
        return time.monotonic() - started

    started = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        seconds = list(pool.map(visit, range(requests)))
    rate, few = requests / (time.monotonic() - started), min(100, requests // 4)
    first, last = np.median(memory[:few]), np.median(memory[-few:])
    print(
        f"\n{requests} requests of {clients} clients: {rate:.1f} a second, median {np.median(seconds):.2f} s,", end=" "
    )
    print(f"95 % within {np.quantile(seconds, 0.95):.2f} s; resident {first / 1024:.0f}, then {last / 1024:.0f} MB")
    assert last < 1.15 * first


@pytest.mark.long
def test_past_the_bound_of_the_queue_the_answer_is_that_it_is_busy(running, tmp_path):
    (path,) = pictures(tmp_path / "images", 1)
    with Visitor(running) as visitor:
        where = visitor.upload(path)

    def visit(_: int) -> str:
        with Visitor(running) as visitor:
            event, answer = visitor.ask("judge", {"path": where, "meta": {"_type": "gradio.FileData"}})
        return event if event == "complete" else f"{event}: {answer}"

    with ThreadPoolExecutor(3 * page.WAITING) as pool:
        told = Counter(pool.map(visit, range(3 * page.WAITING)))
    print(f"\n{told}")
    assert told.pop("complete") >= page.WAITING
    assert all("queue is full" in answer.lower() or "busy" in answer.lower() for answer in told), told
    with Visitor(running) as visitor:
        assert visitor.judge(path)[0] == "complete"


@pytest.mark.parametrize("n", [40, pytest.param(500, marks=pytest.mark.long)])
def test_hostile_uploads_have_a_sentence_each_and_leave_nothing(n, running, home, tmp_path):
    told = Counter()
    with Visitor(running) as visitor:
        for path in hostile.files(tmp_path / "hostile", n):
            try:
                where = visitor.upload(path)
            except httpx.HTTPStatusError as error:  # gradio itself takes no such name or size
                assert error.response.status_code in (400, 413, 422), path.name
                told["not taken"] += 1
                continue
            event, answer = visitor.ask("judge", {"path": where, "meta": {"_type": "gradio.FileData"}})
            sentence = answer[0]["sentence"] if event == "complete" else answer["error"]
            assert sentence.endswith(".") and "Traceback" not in sentence, (path.name, sentence)
            event, answer = visitor.ask("triage", [where])
            assert event == "complete", (path.name, answer)
            assert all(row["problem"] or row["sentence"] for row in answer[0]["files"]), path.name
            told[sentence.split(":")[0]] += 1
        print(f"\n{told}")
        assert "Traceback" not in (home / "log").read_text()
        (good,) = pictures(tmp_path / "images", 1)
        assert visitor.judge(good)[0] == "complete"
        for path in ("/etc/passwd", str(home / "log"), "../../etc/passwd", f"{home}/uploads/../log"):
            assert visitor.http.get(f"/file={path}").status_code in (403, 404), path
    if n >= 500:
        deadline = time.monotonic() + cleaning.AGE + 2 * cleaning.EVERY
        while left(home) and time.monotonic() < deadline:
            time.sleep(5)
        assert left(home) == []


def left(home: Path) -> list[Path]:
    """Return what lies in the folder of the uploads."""
    return [path for path in (home / "uploads").rglob("*") if path.is_file()]
