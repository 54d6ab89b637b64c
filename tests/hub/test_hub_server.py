"""The test Hub keeps tags, heeds tokens and fails on order; tests of publishing show the rest with the real client."""

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError
from support.hub_server import Fault, HubServer, environment

pytestmark = pytest.mark.integration

REPO = "tester/retina"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.create(REPO)
        yield server
    assert not [each for each in server.requests if each.status == 500]


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.url, token="hf_write")


def status(call, *args, **kwargs) -> int:
    with pytest.raises(HfHubHTTPError) as caught:
        call(*args, **kwargs)
    return caught.value.response.status_code


def commit(api: HfApi, name: str, data: bytes = b"x", **kwargs):
    return api.create_commit(REPO, [CommitOperationAdd(name, data)], commit_message=name, **kwargs)


def test_a_tag_stays_where_its_branch_moves_on(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    first = commit(api, "weights.bin", b"1").oid
    api.create_tag(REPO, tag="v1.0", tag_message="first")
    assert status(api.create_tag, REPO, tag="v1.0") == 409
    api.create_tag(REPO, tag="v1.0", exist_ok=True)
    second = commit(api, "weights.bin", b"2", parent_commit=first).oid
    assert status(commit, api, "weights.bin", b"3", parent_commit=first) == 412

    for revision, data in {"v1.0": b"1", "main": b"2", first[:7]: b"1", "refs/heads/main": b"2"}.items():
        folder = snapshot_download(REPO, revision=revision, endpoint=hub.url, token="hf_write", cache_dir=tmp_path)
        assert Path(folder, "weights.bin").read_bytes() == data

    api.create_branch(REPO, branch="exp/one", revision="v1.0")
    assert status(api.create_branch, REPO, branch="exp/one") == 409
    third = commit(api, "notes.txt", revision="exp/one").oid
    refs = api.list_repo_refs(REPO)
    assert {each.name: each.target_commit for each in refs.branches} == {"main": second, "exp/one": third}
    assert [(each.ref, each.target_commit) for each in refs.tags] == [("refs/tags/v1.0", first)]
    assert not refs.converts and api.list_repo_refs(REPO, include_pull_requests=True).pull_requests == []
    assert api.file_exists(REPO, "notes.txt", revision="exp/one")

    for revision in ("v1.0", first, "none"):
        with pytest.raises(RevisionNotFoundError):
            commit(api, "a.txt", revision=revision)
    api.create_branch(REPO, branch="old")
    api.delete_branch(REPO, branch="old")
    assert status(api.delete_branch, REPO, branch="main") == 403
    assert list(hub.tags(REPO)) == ["v1.0"]
    assert list(hub.branches(REPO)) == ["main", "exp/one"]
    assert hub.files(REPO, "v1.0")["weights.bin"] == b"1"


def test_a_token_decides_what_may_be_read_and_written(hub: HubServer, api: HfApi) -> None:
    hub.repo(REPO).private = True
    hub.create("other/retina")
    reader, stranger, anonymous = (HfApi(endpoint=hub.url, token=token) for token in ("hf_read", "hf_unknown", False))
    assert reader.whoami()["auth"]["accessToken"]["role"] == "read"
    assert reader.model_info(REPO).private
    api.auth_check(REPO)
    for call in (
        lambda: reader.create_repo("tester/new"),
        lambda: reader.upload_file(repo_id=REPO, path_or_fileobj=b"x", path_in_repo="a.txt"),
        lambda: reader.create_tag(REPO, tag="v1.0"),
        lambda: api.create_repo("other/new"),
        lambda: api.create_tag("other/retina", tag="v1.0"),
    ):
        assert status(call) == 403
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        stranger.model_info("other/retina")
    assert status(anonymous.create_tag, "other/retina", tag="v1.0") == 401
    assert anonymous.model_info("other/retina").sha and not anonymous.repo_exists(REPO)


def test_faults_come_in_order_before_or_after_the_effect(hub: HubServer, api: HfApi) -> None:
    hub.faults += [
        Fault("POST", "/preupload/", 503, headers={"Retry-After": "0"}),
        Fault("POST", "/commit/main$", 503),
        Fault("POST", "/commit/", "drop"),
        Fault("POST|PUT", "/commit/", "drop", after=True),
        Fault("GET", "/refs$", 403, times=2),
    ]
    assert status(commit, api, "a.txt") == 503
    for name in ("b.txt", "c.txt"):
        with pytest.raises(Exception, match="disconnected"):
            commit(api, name)
    commit(api, "d.txt")
    assert status(api.list_repo_refs, REPO) == status(api.list_repo_refs, REPO) == 403
    api.list_repo_refs(REPO)
    assert set(hub.files(REPO)) == {".gitattributes", "c.txt", "d.txt"}
    assert not any(fault.times for fault in hub.faults)
    sent = [each for each in hub.requests if each.method == "POST"]
    assert [each.status for each in sent if "/preupload/" in each.path] == [503, 200, 200, 200, 200]
    assert [each.status for each in sent if "/commit/" in each.path] == [503, "drop", "drop", 200]


def get(connection: http.client.HTTPConnection, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read(), dict(answer.getheaders())


def test_a_part_of_a_file_can_be_asked_for(hub: HubServer) -> None:
    sha = hub.commit(REPO, {"a/weights.bin": b"0123456789"})
    connection = http.client.HTTPConnection("127.0.0.1", hub.port)
    path = "/tester/retina/resolve/main/a/weights.bin"
    for asked, status, content, part in (
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=8-", 206, b"89", "bytes 8-9/10"),
        ("bytes=0-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
    ):
        answer = get(connection, path, Range=asked)
        assert (*answer[:2], answer[2]["Content-Range"]) == (status, content, part)
    assert get(connection, path)[2]["X-Repo-Commit"] == sha
    status, _, headers = get(connection, f"{path}.none")
    assert (status, headers["X-Error-Code"], headers["X-Repo-Commit"]) == (404, "EntryNotFound", sha)
    connection.close()


def test_a_closed_server_answers_no_more_and_comes_back_at_its_address() -> None:
    hub = HubServer()
    with hub:
        url = hub.url
        kept = http.client.HTTPConnection("127.0.0.1", hub.port)
        assert get(kept, "/api/whoami-v2")[0] == 401
    with pytest.raises(http.client.RemoteDisconnected):
        get(kept, "/api/whoami-v2")
    with pytest.raises(ConnectionRefusedError):
        get(http.client.HTTPConnection("127.0.0.1", hub.port), "/api/whoami-v2")
    with hub:
        assert hub.url == url
        assert get(kept, "/api/whoami-v2", Authorization="Bearer hf_read")[0] == 200
    kept.close()


def test_the_environment_hides_the_settings_for_the_public_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.setenv(name, "1")
    found = environment("http://127.0.0.1:1", tmp_path, token=None)
    assert not {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"} & set(found)
    assert (found["HF_ENDPOINT"], found["HF_HUB_DISABLE_XET"]) == ("http://127.0.0.1:1", "1")
