"""The test Hub speaks the Hub's protocol: what the real client does to it, in processes of its own, comes out right."""

import http.client
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.hub_server import Fault, HubServer, environment

pytestmark = pytest.mark.integration

Client = Callable[[str, str], None]

PRELUDE = """
from pathlib import Path
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError, HfHubHTTPError, RemoteEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
)

api, repo_id = HfApi(), "tester/retina"

def status(call, *args, **kwargs):
    with pytest.raises(HfHubHTTPError) as caught:
        call(*args, **kwargs)
    return caught.value.response.status_code

def commit(name, data=b"x", **kwargs):
    return api.create_commit(repo_id, [CommitOperationAdd(name, data)], commit_message=name, **kwargs)
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server
    assert not [each for each in server.requests if each.status == 500]


@pytest.fixture
def client(tmp_path: Path) -> Client:
    """Return what runs a script in a process whose Hub is the given one, with a folder of its own to work in."""

    def run(url: str, script: str) -> None:
        command = [sys.executable, "-c", PRELUDE + textwrap.dedent(script)]
        env = environment(url, tmp_path / "home")
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def test_repositories_are_created_once_and_found(hub: HubServer, client: Client) -> None:
    client(
        hub.url,
        """
        url = api.create_repo("retina", exist_ok=True)
        assert url == api.create_repo(repo_id, exist_ok=True)
        assert (url.repo_id, url.repo_type) == (repo_id, "model")
        assert status(api.create_repo, repo_id) == 409
        assert api.create_repo("acme/lesions", repo_type="dataset", private=True).repo_type == "dataset"
        assert api.dataset_info("acme/lesions").private
        assert api.repo_exists(repo_id) and not api.repo_exists("tester/none") and not api.repo_exists("acme/lesions")
        assert not api.file_exists(repo_id, "config.json") and not api.file_exists("tester/none", "config.json")
        assert api.revision_exists(repo_id, "main") and not api.revision_exists(repo_id, "v1.0")
        """,
    )
    assert list(hub.repos) == ["models/tester/retina", "datasets/acme/lesions"]


def test_a_folder_arrives_whole_and_only_its_changes_are_sent_again(
    hub: HubServer, client: Callable[..., None]
) -> None:
    client(
        hub.url,
        """
        card = "---\\ntags: [medical]\\nlicense: apache-2.0\\ndate: 2026-11-23\\n---\\n# Retina\\n"
        files = {"README.md": card.encode(), "config.json": b'{"architectures": ["ViTForImageClassification"]}',
                 "model.safetensors": b"weights", "logs/a.txt": b"a", "logs/old/b.txt": b"b", "empty.bin": b""}
        for name, data in files.items():
            Path("folder", name).parent.mkdir(parents=True, exist_ok=True)
            Path("folder", name).write_bytes(data)
        api.create_repo(repo_id)
        first = api.upload_folder(repo_id=repo_id, folder_path="folder", commit_message="v1", commit_description="all")
        assert api.upload_folder(repo_id=repo_id, folder_path="folder").oid == first.oid

        info = api.model_info(repo_id, files_metadata=True)
        assert (info.sha, info.pipeline_tag, info.library_name) == (first.oid, "image-classification", "transformers")
        assert info.tags == ["medical"] and info.card_data.license == "apache-2.0"
        sizes = {each.rfilename: (each.size, each.lfs and each.lfs.size) for each in info.siblings}
        assert sizes["model.safetensors"] == (7, 7) and sizes["logs/a.txt"] == (1, None)

        tree = api.list_repo_tree
        top = {name for name in files if not name.startswith("logs/")}
        assert {each.path for each in tree(repo_id)} == {*top, ".gitattributes", "logs"}
        assert [each.path for each in tree(repo_id, "logs")] == ["logs/a.txt", "logs/old"]
        deep = [each.path for each in tree(repo_id, "logs", recursive=True)]
        assert deep == ["logs/a.txt", "logs/old", "logs/old/b.txt"]
        with pytest.raises(RemoteEntryNotFoundError):
            list(tree(repo_id, "none"))
        found = api.get_paths_info(repo_id, ["model.safetensors", "logs", "none"])
        assert [each.path for each in found] == ["model.safetensors", "logs"] and found[0].lfs.size == 7

        Path("folder/logs/a.txt").unlink()
        Path("folder/config.json").write_bytes(b"{}")
        api.upload_folder(repo_id=repo_id, folder_path="folder", delete_patterns="*.txt", commit_message="v2")
        assert [each.title for each in api.list_repo_commits(repo_id)] == ["v2", "v1", "initial commit"]
        assert api.list_repo_commits(repo_id)[1].message == "all"

        deleted = [CommitOperationDelete("empty.bin"), CommitOperationDelete("logs/")]
        api.create_commit(repo_id, deleted, commit_message="v3")
        for gone in deleted:
            with pytest.raises(EntryNotFoundError):
                api.create_commit(repo_id, [gone], commit_message="again")
        Path("local").mkdir()
        snapshot_download(repo_id, local_dir="local")
        assert Path("local/model.safetensors").read_bytes() == b"weights"
        """,
    )
    files = hub.files("tester/retina")
    assert set(files) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert (files["config.json"], files["model.safetensors"]) == (b"{}", b"weights")
    assert "lfs" in hub.repo("tester/retina").tree("main")["model.safetensors"]
    assert [each.status for each in hub.requests if each.method == "PUT"] == [200]
    assert [each.index for each in hub.requests] == list(range(len(hub.requests)))


def test_a_tag_stays_where_its_branch_moves_on(hub: HubServer, client: Client) -> None:
    hub.create("tester/retina")
    client(
        hub.url,
        """
        first = commit("weights.bin", b"1").oid
        api.create_tag(repo_id, tag="v1.0", tag_message="first")
        assert status(api.create_tag, repo_id, tag="v1.0") == 409
        api.create_tag(repo_id, tag="v1.0", exist_ok=True)
        second = commit("weights.bin", b"2", parent_commit=first).oid
        assert status(commit, "weights.bin", b"3", parent_commit=first) == 412

        for revision, data in {"v1.0": b"1", "main": b"2", first[:7]: b"1", "refs/heads/main": b"2"}.items():
            assert Path(snapshot_download(repo_id, revision=revision), "weights.bin").read_bytes() == data

        api.create_branch(repo_id, branch="exp/one", revision="v1.0")
        assert status(api.create_branch, repo_id, branch="exp/one") == 409
        third = commit("notes.txt", revision="exp/one").oid
        refs = api.list_repo_refs(repo_id)
        assert {each.name: each.target_commit for each in refs.branches} == {"main": second, "exp/one": third}
        assert [(each.ref, each.target_commit) for each in refs.tags] == [("refs/tags/v1.0", first)]
        assert not refs.converts and api.list_repo_refs(repo_id, include_pull_requests=True).pull_requests == []
        assert api.file_exists(repo_id, "notes.txt", revision="exp/one")

        for revision in ("v1.0", first, "none"):
            with pytest.raises(RevisionNotFoundError):
                commit("a.txt", revision=revision)
        api.create_branch(repo_id, branch="old")
        api.delete_branch(repo_id, branch="old")
        assert status(api.delete_branch, repo_id, branch="main") == 403
        """,
    )
    assert list(hub.tags("tester/retina")) == ["v1.0"]
    assert list(hub.branches("tester/retina")) == ["main", "exp/one"]
    assert hub.files("tester/retina", "v1.0")["weights.bin"] == b"1"


def test_a_token_decides_what_may_be_read_and_written(hub: HubServer, client: Client) -> None:
    hub.create("tester/retina", private=True)
    hub.create("other/retina")
    client(
        hub.url,
        """
        reader, stranger, anonymous = (HfApi(token=token) for token in ("hf_read", "hf_unknown", False))
        assert reader.whoami()["auth"]["accessToken"]["role"] == "read"
        assert reader.model_info(repo_id).private
        api.auth_check(repo_id)
        for call in (
            lambda: reader.create_repo("tester/new"),
            lambda: reader.upload_file(repo_id=repo_id, path_or_fileobj=b"x", path_in_repo="a.txt"),
            lambda: reader.create_tag(repo_id, tag="v1.0"),
            lambda: api.create_repo("other/new"),
            lambda: api.create_tag("other/retina", tag="v1.0"),
        ):
            assert status(call) == 403
        with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
            stranger.model_info("other/retina")
        assert status(anonymous.create_tag, "other/retina", tag="v1.0") == 401
        assert anonymous.model_info("other/retina").sha and not anonymous.repo_exists(repo_id)
        """,
    )


def test_faults_come_in_order_before_or_after_the_effect(hub: HubServer, client: Client) -> None:
    hub.create("tester/retina")
    hub.faults += [
        Fault("POST", "/preupload/", 503, headers={"Retry-After": "0"}),
        Fault("POST", "/commit/main$", 503),
        Fault("POST", "/commit/", "drop"),
        Fault("POST|PUT", "/commit/", "drop", after=True),
        Fault("GET", "/refs$", 403, times=2),
    ]
    client(
        hub.url,
        """
        assert status(commit, "a.txt") == 503
        for name in ("b.txt", "c.txt"):
            with pytest.raises(Exception, match="disconnected"):
                commit(name)
        commit("d.txt")
        assert status(api.list_repo_refs, repo_id) == status(api.list_repo_refs, repo_id) == 403
        api.list_repo_refs(repo_id)
        """,
    )
    assert set(hub.files("tester/retina")) == {".gitattributes", "c.txt", "d.txt"}
    assert not any(fault.times for fault in hub.faults)
    sent = [each for each in hub.requests if each.method == "POST"]
    assert [each.status for each in sent if "/preupload/" in each.path] == [503, 200, 200, 200, 200]
    assert [each.status for each in sent if "/commit/" in each.path] == [503, "drop", "drop", 200]


def test_of_two_commits_on_the_same_parent_one_wins(hub: HubServer, client: Client) -> None:
    hub.create("tester/retina")
    client(
        hub.url,
        """
        from concurrent.futures import ThreadPoolExecutor
        parent = api.model_info(repo_id).sha
        with ThreadPoolExecutor(2) as pool:
            tries = [pool.submit(commit, name, parent_commit=parent) for name in ("a.txt", "b.txt")]
        lost = [each.exception() for each in tries if each.exception()]
        assert [each.response.status_code for each in lost] == [412]
        """,
    )
    assert len(hub.files("tester/retina")) == 2


def get(connection: http.client.HTTPConnection, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read(), dict(answer.getheaders())


def test_a_part_of_a_file_can_be_asked_for(hub: HubServer) -> None:
    hub.create("tester/retina")
    sha = hub.commit("tester/retina", {"a/weights.bin": b"0123456789"})
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
