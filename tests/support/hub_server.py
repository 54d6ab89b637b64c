"""A Hugging Face Hub on 127.0.0.1, so that the tests can create, upload, tag and download with the real client.

    with HubServer() as hub:
        subprocess.run([sys.executable, "publish.py"], env=environment(hub.url, tmp_path))
        assert "model.safetensors" in hub.files("tester/retina", "v1.0")

It answers what huggingface_hub asks when it uploads through plain LFS: `environment` turns Xet off in the client.
Multipart uploads are left out; a pull request can be opened, read and added to. The user of its tokens is "tester", a
member of "acme".
"""

import base64
import copy
import hashlib
import json
import os
import re
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKENS = {"hf_write": "write", "hf_read": "read"}
USER, ORGANIZATION = "tester", "acme"
Entry = dict[str, Any]  # a file or folder, as the Hub gives it out
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".onnx", ".zip", ".gz", ".parquet", ".png", ".jpg", ".jpeg")
LARGEST_REGULAR_FILE = 10 * 2**20


@dataclass(frozen=True)
class Request:
    """One line of the request log; `path` is as it was sent, without the query."""

    index: int
    method: str
    path: str
    status: int | Literal["drop"]


@dataclass
class Fault:
    """A failure on order: of the requests that match, the first `skip` pass, the next `times` get `status`.

    `method` is a regular expression for the whole method, `path` for any part of the percent-encoded path. The status
    "drop" breaks the connection off without an answer. With `after`, the request takes effect first: only the answer
    is lost; with the status None it is not lost either. `meanwhile` is called before the answer is sent: to kill the
    client, or to do what somebody else would.
    """

    method: str
    path: str
    status: int | Literal["drop"] | None
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    after: bool = False
    skip: int = 0
    meanwhile: Callable[[], object] | None = None


class HubError(Exception):
    """A refusal; the client chooses its exception by the status and by `code`, sent as X-Error-Code."""

    def __init__(self, status: int, text: str, code: str = "", commit: str = "", **body: str):
        super().__init__(text)
        headers = {"X-Error-Message": " ".join(text.split()), "X-Error-Code": code, "X-Repo-Commit": commit}
        self.answer = Answer(status, {"error": text, **body}, {name: value for name, value in headers.items() if value})


@dataclass
class Answer:
    """What is sent back; a content that is not bytes becomes JSON."""

    status: int | Literal["drop"]
    content: Any = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Repo:
    """A repository: its commits by id, and the branches and tags that point to them.

    A commit is kept in the form in which the Hub gives it out, with two keys more: `parent`, and `tree`, its files by
    path. They too are in the Hub's form.
    """

    repo_id: str
    repo_type: str
    private: bool = False
    sdk: str | None = None
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Any]] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    pulls: list[str] = field(default_factory=list)  # titles; the first's branch is refs/pr/1

    def head(self, branch: str) -> str:
        """Return the commit that a branch points to; tags and commit ids, which are not writable, are refused."""
        if branch not in self.branches:
            raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        return self.branches[branch]

    def resolve(self, revision: str) -> str:
        """Return the commit that a branch, a tag, or a commit id or its first letters stand for."""
        for prefix, refs in (("refs/heads/", self.branches), ("refs/tags/", self.tags)):
            if (name := revision.removeprefix(prefix)) in refs:
                return refs[name]
        found = [sha for sha in self.commits if len(revision) >= 7 and sha.startswith(revision)]
        if len(found) != 1:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found[0]

    def tree(self, revision: str) -> dict[str, Entry]:
        """Return the files of a revision by path."""
        return self.commits[self.resolve(revision)]["tree"]

    def add_commit(self, branch: str, tree: dict[str, Entry], title: str, message: str = "") -> str:
        """Move a branch, old or new, on to a commit of these files; return the commit's id."""
        date = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        commit = {"title": title, "message": message, "date": date, "authors": [{"user": USER, "avatar": ""}]}
        commit |= {"parent": self.branches.get(branch), "tree": tree}
        sha = hashlib.sha1(json.dumps(commit).encode()).hexdigest()
        self.commits[sha] = {"id": sha, **commit}
        self.branches[branch] = sha
        return sha


def git_oid(data: bytes) -> str:
    """Return the id that git gives a content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def file_entry(path: str, data: bytes, lfs: bool) -> Entry:
    """Return a file as the tree routes give it: its `oid` in LFS is that of the pointer that git keeps instead."""
    entry = {"type": "file", "path": path, "size": len(data)}
    if not lfs:
        return {**entry, "oid": git_oid(data)}
    sha256 = hashlib.sha256(data).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
    in_lfs = {"oid": sha256, "sha256": sha256, "size": len(data), "pointerSize": len(pointer)}
    return {**entry, "oid": git_oid(pointer), "lfs": in_lfs}


def etag(entry: Entry) -> str:
    """Return what the client compares with its own file, and names the cached copy after."""
    return entry.get("lfs", entry)["oid"]


def goes_to_lfs(path: str, start: bytes, size: int) -> bool:
    """Tell from its name, first bytes and size whether a file is to be uploaded through LFS."""
    return size > 0 and (path.lower().endswith(LFS_SUFFIXES) or b"\0" in start or size > LARGEST_REGULAR_FILE)


def front_matter(text: str) -> dict[str, Any]:
    """Return the metadata at the head of a card; raise ValueError or yaml.YAMLError where they are broken."""
    match = re.match(r"---\s*\n(.*?)^---\s*$", text, re.DOTALL | re.MULTILINE)
    data = (yaml.safe_load(match[1]) if match else None) or {}
    if not isinstance(data, dict):
        raise ValueError("the metadata must be a mapping")
    return data


def with_folders(tree: dict[str, Entry]) -> dict[str, Entry]:
    """Return all files, and all folders above them, by path."""
    entries: dict[str, Entry] = {}
    for path, file in sorted(tree.items()):
        for folder in [str(parent) for parent in Path(path).parents][-2::-1]:
            oid = git_oid(folder.encode())  # a stand-in: nothing asks for a folder by its id
            entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": oid}
        entries[path] = file
    return entries


class HubServer:
    """The Hub, served while the context is open; opened again, it has the same address.

    Attributes:
        repos: The repositories by type and id, such as "models/tester/retina".
        blobs: The contents of files by git's id, those in LFS by sha256.
        requests: All requests answered so far, in order.
        faults: Failures on order; of those that match, the first with `times` left is used.
        stages: What the next requests for the state of a Space are told (without a `sha` where that is None); after
            them, that it is RUNNING.
    """

    def __init__(self, port: int = 0):
        self.port = port
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.stages: list[dict[str, str | None]] = []
        self._kept: dict[str, Any] = {}
        self.lock = threading.RLock()

    @property
    def url(self) -> str:
        """The value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "HubServer":
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._server.daemon_threads = self.open = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self.lock:
            self.open = False  # clients keep connections, on which the answers would go on
        self._server.shutdown()
        self._server.server_close()

    def repo(self, repo_id: str, repo_type: str = "model") -> Repo:
        """Return a repository; raise KeyError where there is none."""
        return self.repos[f"{repo_type}s/{repo_id}"]

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> dict[str, bytes]:
        """Return the contents of all files of a revision by path; raise HubError where there is no such revision."""
        with self.lock:
            tree = self.repo(repo_id, repo_type).tree(revision)
            return {path: self.blobs[etag(entry)] for path, entry in tree.items()}

    def vanish(self, repo_id: str, repo_type: str = "model", *, at: str = "", skip: int = 0) -> None:
        """Order that somebody takes a repository away right after a request, of those whose path has `at` in it."""
        gone = f"{repo_type}s/{repo_id}"
        self.faults.append(Fault(".*", at, None, skip=skip, meanwhile=lambda: self.repos.pop(gone, None)))

    def creations(self) -> int:
        """Return how many requests there were to make a repository."""
        return sum(request.path == "/api/repos/create" for request in self.requests)

    def tags(self, repo_id: str, repo_type: str = "model") -> dict[str, str]:
        """Return the commit id of each tag."""
        return dict(self.repo(repo_id, repo_type).tags)

    def branches(self, repo_id: str, repo_type: str = "model") -> dict[str, str]:
        """Return the commit id of each branch."""
        return dict(self.repo(repo_id, repo_type).branches)

    def create(self, repo_id: str, repo_type: str = "model", private: bool = False, sdk: str | None = None) -> Repo:
        """Create a repository whose first commit holds `.gitattributes`, as on the public Hub."""
        rules = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        with self.lock:
            repo = self.repos[f"{repo_type}s/{repo_id}"] = Repo(repo_id, repo_type, private, sdk)
            repo.add_commit("main", {".gitattributes": self.store(".gitattributes", rules.encode())}, "initial commit")
        return repo

    def commit(self, repo_id: str, files: dict[str, bytes], branch: str = "main", repo_type: str = "model") -> str:
        """Add or replace files without a request, as somebody else would; return the commit's id."""
        with self.lock:
            repo = self.repo(repo_id, repo_type)
            new = {path: self.store(path, data, goes_to_lfs(path, data, len(data))) for path, data in files.items()}
            return repo.add_commit(branch, repo.tree(repo.head(branch)) | new, "A change by somebody else")

    def state(self) -> tuple[dict[str, Repo], dict[str, bytes]]:
        """All that is held, for `restore`."""
        return copy.deepcopy(self.repos), dict(self.blobs)

    def restore(self, state: tuple[dict[str, Repo], dict[str, bytes]]) -> None:
        """Hold what was held before, and nothing else."""
        with self.lock:
            for now, then in zip((self.repos, self.blobs), state, strict=True):
                now.clear()
                now.update(copy.deepcopy(then))

    def once(self, name: str, fill: Callable[[], Any]) -> Any:
        """What `fill` returns; what it has put on the empty Hub is put there again, the next times, without it."""
        if name not in self._kept:
            self._kept[name] = fill(), self.state()
        value, state = self._kept[name]
        self.restore(state)
        return value

    def store(self, path: str, data: bytes, lfs: bool = False) -> Entry:
        """Keep a content; return the file it makes."""
        entry = file_entry(path, data, lfs)
        self.blobs[etag(entry)] = data
        return entry


ROUTES: list[tuple[re.Pattern[str], bool, Callable[..., Any]]] = []
REPO = r"/api/(?P<kind>models|datasets|spaces)/(?P<repo>[^/]+/[^/]+)"
FILES = r"/(?:(?P<kind>datasets|spaces)/)?(?P<repo>[^/]+/[^/]+)"
REV = r"/(?P<rev>[^/]+)"


def route(method: str, path: str, write: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Have a method of the handler answer what matches; with `write`, only to who may write to the repository."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        ROUTES.append((re.compile(f"(?:{method}) {path}"), write, function))
        return function

    return register


class _Handler(BaseHTTPRequestHandler):
    """The requests of one connection. Paths are matched as sent: the slash of a branch `exp/one` comes as %2F."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: HubServer

    def do_GET(self) -> None:
        # The whole body is read before any answer, or what is left of it would be taken for the next request.
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.origin = f"http://{self.headers['Host']}"
        url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        with self.hub.lock:  # one request at a time, so that each of them is atomic
            fault = self._fault(url.path) if self.hub.open else Fault("", "", "drop")
            answer = self._answer(url.path) if fault is None or fault.after or fault.status is None else None
            if fault is not None:
                if fault.meanwhile is not None:
                    fault.meanwhile()
                if fault.status is not None:
                    answer = Answer(fault.status, {"error": "A fault on order."}, fault.headers)
            self.hub.requests.append(Request(len(self.hub.requests), self.command, url.path, answer.status))
        if answer.status == "drop":
            self.close_connection = True
        else:
            self._send(answer)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *_: Any) -> None:
        """Keep quiet: the log is `HubServer.requests`."""

    def _fault(self, path: str) -> Fault | None:
        for fault in self.hub.faults:
            if fault.times and re.fullmatch(fault.method, self.command) and re.search(fault.path, path):
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def _answer(self, path: str) -> Answer:
        try:
            for pattern, write, function in ROUTES:
                if match := pattern.fullmatch(f"{self.command} {path}"):
                    content = function(self, **self._arguments(match, write))
                    return content if isinstance(content, Answer) else Answer(200, content)
            raise HubError(404, f"No such route: {self.command} {path}")
        except HubError as error:
            return error.answer
        except Exception:
            return Answer(500, {"error": traceback.format_exc()})

    def _arguments(self, match: re.Match[str], write: bool) -> dict[str, Any]:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.role = TOKENS.get(token)
        if token and self.role is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        found: dict[str, Any] = {name: unquote(text) for name, text in match.groupdict().items() if text is not None}
        kind = found.pop("kind", "models")
        if "repo" in found:
            found["repo"] = self._find(f"{kind}/{found['repo']}")
            if write and not self._is_pull_request(found.get("rev", "")):
                self._must_write(found["repo"].repo_id)
        return found

    def _is_pull_request(self, rev: str) -> bool:
        """Whether what is asked changes a pull request alone, which anybody with an account may."""
        return self.role is not None and ("create_pr" in self.query or rev.startswith("refs/pr/"))

    def _find(self, key: str) -> Repo:
        repo = self.hub.repos.get(key)
        if repo is None or (repo.private and self.role is None):
            raise HubError(404 if self.role else 401, "Repository not found", "RepoNotFound")
        return repo

    def _must_write(self, repo_id: str) -> None:
        if self.role is None:
            raise HubError(401, "Invalid username or password.")
        if self.role != "write" or repo_id.split("/")[0] not in (USER, ORGANIZATION):
            raise HubError(403, f"Forbidden: this token, with the role {self.role}, may not write to {repo_id}.")

    def _send(self, answer: Answer) -> None:
        content = answer.content
        if not isinstance(content, bytes):
            content = json.dumps(content, default=str).encode()  # YAML has dates
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value.encode("ascii", "replace").decode())
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # The account and its repositories

    @route("GET", "/api/whoami-v2")
    def whoami(self) -> Any:
        if self.role is None:
            raise HubError(401, "Invalid username or password.")
        orgs = [{"type": "org", "name": ORGANIZATION, "roleInOrg": "admin"}]
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": self.role}}
        user = {"type": "user", "id": "0", "name": USER, "fullname": USER, "email": None, "isPro": False}
        return {**user, "orgs": orgs, "auth": auth}

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self) -> Any:
        try:
            front_matter(json.loads(self.body)["content"])
        except (ValueError, yaml.YAMLError) as error:
            return Answer(400, {"errors": [{"message": f"Invalid metadata: {error}"}], "warnings": []})
        return {"errors": [], "warnings": []}

    @route("POST", "/api/repos/create")
    def create_repo(self) -> Any:
        body, repo_type, repo_id = self._named()
        url = f"{self.origin}{self._page(repo_type, repo_id)}"
        if f"{repo_type}s/{repo_id}" in self.hub.repos:
            raise HubError(409, f"You already created this {repo_type} repo: {repo_id}", url=url)
        if repo_type == "space" and not body.get("sdk"):
            raise HubError(400, "A Space needs an sdk.")
        private = body.get("visibility") == "private" or bool(body.get("private"))
        repo = self.hub.create(repo_id, repo_type, private, body.get("sdk"))
        repo.variables = {item["key"]: item["value"] for item in body.get("variables") or ()}
        return {"url": url, "name": repo_id, "id": "0"}

    def _named(self) -> tuple[dict[str, Any], str, str]:
        body = json.loads(self.body)
        repo_id = f"{body.get('organization') or USER}/{body['name']}"
        self._must_write(repo_id)
        return body, body.get("type") or "model", repo_id

    def _page(self, repo_type: str, repo_id: str) -> str:
        return f"/{repo_id}" if repo_type == "model" else f"/{repo_type}s/{repo_id}"

    @route("GET", f"{REPO}/auth-check")
    @route("GET", f"{REPO}/auth-check/write", write=True)
    def auth_check(self, repo: Repo) -> Any:
        return {"id": repo.repo_id}

    @route("GET", f"{REPO}(?:/revision{REV})?")
    def info(self, repo: Repo, rev: str = "main") -> Any:
        commit = repo.commits[repo.resolve(rev)]
        card, config = (
            self._metadata(commit["tree"].get(path), parse)
            for path, parse in (("README.md", front_matter), ("config.json", json.loads))
        )
        classifies = any(name.endswith("ForImageClassification") for name in config.get("architectures") or ())
        space = {"sdk": repo.sdk} if repo.repo_type == "space" else {}
        return {
            "id": repo.repo_id,
            "author": repo.repo_id.split("/")[0],
            "sha": commit["id"],
            "createdAt": min(each["date"] for each in repo.commits.values()),
            "lastModified": commit["date"],
            "private": repo.private,
            "tags": card.get("tags") or [],
            "pipeline_tag": card.get("pipeline_tag") or ("image-classification" if classifies else None),
            "library_name": card.get("library_name") or ("transformers" if config else None),
            "config": {key: config[key] for key in ("architectures", "model_type") if key in config},
            "cardData": card,
            "siblings": [{"rfilename": p, "blobId": entry["oid"], **entry} for p, entry in commit["tree"].items()],
            **space,
        }

    def _metadata(self, entry: Entry | None, parse: Callable[[str], Any]) -> dict[str, Any]:
        try:
            return parse(self.hub.blobs[etag(entry)].decode()) if entry else {}
        except (ValueError, yaml.YAMLError):
            return {}

    @route("GET", f"{REPO}/runtime")
    def runtime(self, repo: Repo) -> Any:
        hardware = {"current": "cpu-basic", "requested": "cpu-basic"}
        state = {"hardware": hardware, "storage": None, "gcTimeout": 172800, "devMode": False}
        stage = self.hub.stages.pop(0) if self.hub.stages else {"stage": "RUNNING"}
        told = {**state, "sha": repo.head("main"), **stage}
        return {name: value for name, value in told.items() if name != "sha" or value}  # the Hub may leave it out

    @route("POST", f"{REPO}/restart", write=True)
    def restart(self, repo: Repo) -> Any:
        self.hub.stages.insert(0, {"stage": "APP_STARTING"})
        return self.runtime(repo)

    @route("GET|POST", f"{REPO}/variables", write=True)
    def variables(self, repo: Repo) -> Any:
        if self.command == "POST":
            item = json.loads(self.body)
            repo.variables[item["key"]] = item["value"]
        return {key: {"key": key, "value": value} for key, value in repo.variables.items()}

    # Upload

    @route("POST", f"{REPO}/preupload{REV}", write=True)
    def preupload(self, repo: Repo, rev: str) -> Any:
        tree, files = repo.tree(repo.head(rev)), []
        for file in json.loads(self.body)["files"]:
            lfs = goes_to_lfs(file["path"], base64.b64decode(file["sample"]), file["size"])
            oid = etag(tree[file["path"]]) if file["path"] in tree else None
            mode = "lfs" if lfs else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": files}

    @route("POST", rf"{FILES}\.git/info/lfs/objects/batch", write=True)
    def lfs_batch(self, repo: Repo) -> Any:  # noqa: ARG002 - all repositories share the contents
        objects = json.loads(self.body)["objects"]
        for item in objects:
            if item["oid"] not in self.hub.blobs:
                upload = {"href": f"{self.origin}/_lfs/{item['oid']}", "header": {}}
                item["actions"] = {"upload": upload, "verify": {"href": f"{self.origin}/_lfs_verify", "header": {}}}
        return {"transfer": "basic", "objects": objects}

    @route("PUT", "/_lfs/(?P<oid>[0-9a-f]{64})")
    def lfs_put(self, oid: str) -> Any:  # the client sends no token here
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, f"The content uploaded does not have the sha256 {oid}.")
        self.hub.store("", self.body, lfs=True)
        return {}

    @route("POST", "/_lfs_verify")
    def lfs_verify(self) -> Any:
        item = json.loads(self.body)
        if len(self.hub.blobs.get(item["oid"], b"")) != item["size"]:
            raise HubError(404, f"Never uploaded in this size: {item}")
        return {}

    @route("POST", f"{REPO}/commit{REV}", write=True)
    def commit(self, repo: Repo, rev: str) -> Any:
        head = repo.head(rev)
        operations = [json.loads(line) for line in self.body.split(b"\n") if line.strip()]
        header = next(each["value"] for each in operations if each["key"] == "header")
        if header.get("parentCommit") not in (None, "", head):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(repo.tree(head))
        for each in operations:
            self._apply(each["key"], each["value"], tree, head)
        page, pull = f"{self.origin}{self._page(repo.repo_type, repo.repo_id)}", {}
        if "create_pr" in self.query:
            repo.pulls.append(header["summary"])
            rev = f"refs/pr/{len(repo.pulls)}"
            repo.branches[rev] = head
            pull = {"pullRequestUrl": f"{page}/discussions/{len(repo.pulls)}"}
        sha = repo.add_commit(rev, tree, header["summary"], header.get("description") or "")
        return {"success": True, "commitUrl": f"{page}/commit/{sha}", "commitOid": sha, "hookOutput": "", **pull}

    @route("GET", f"{REPO}/discussions")
    def discussions(self, repo: Repo) -> Any:
        commits = [repo.commits[repo.branches[f"refs/pr/{n}"]] for n in range(1, len(repo.pulls) + 1)]
        listed = [
            {
                **{"num": n, "title": title, "status": "open", "isPullRequest": True, "createdAt": commit["date"]},
                **{"author": {"name": USER}, "repo": {"name": repo.repo_id, "type": repo.repo_type}},
            }
            for n, (title, commit) in enumerate(zip(repo.pulls, commits, strict=True), 1)
        ]
        return {"discussions": listed, "count": len(listed), "start": 0}

    def _apply(self, key: str, value: dict[str, Any], tree: dict[str, Entry], head: str) -> None:
        path = value["path"] if key != "header" else ""
        if key == "file":
            tree[path] = self.hub.store(path, base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if value["oid"] not in self.hub.blobs:
                raise HubError(400, f"The content of {path} was never uploaded.")
            tree[path] = self.hub.store(path, self.hub.blobs[value["oid"]], lfs=True)
        elif key in ("deletedFile", "deletedFolder"):
            folder = path.rstrip("/") + "/"
            gone = [p for p in tree if (p.startswith(folder) if key == "deletedFolder" else p == path)]
            if not gone:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound", commit=head)
            for name in gone:
                del tree[name]
        elif key != "header":
            raise HubError(400, f"Unknown operation: {key}")

    # Refs and history

    @route("GET", f"{REPO}/refs")
    def refs(self, repo: Repo) -> Any:
        answer: dict[str, Any] = {"converts": [], "pullRequests": []}
        branches = {name: sha for name, sha in repo.branches.items() if not name.startswith("refs/pr/")}
        for name, kind, refs in (("branches", "heads", branches), ("tags", "tags", repo.tags)):
            answer[name] = [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": sha} for n, sha in refs.items()]
        return answer

    @route("POST", f"{REPO}/tag{REV}", write=True)
    def create_tag(self, repo: Repo, rev: str) -> Any:
        return self._add_ref(repo.tags, json.loads(self.body)["tag"], repo.resolve(rev))

    @route("POST", f"{REPO}/branch/(?P<name>[^/]+)", write=True)
    def create_branch(self, repo: Repo, name: str) -> Any:
        start = json.loads(self.body or b"{}").get("startingPoint") or "main"
        return self._add_ref(repo.branches, name, repo.resolve(start))

    def _add_ref(self, refs: dict[str, str], name: str, sha: str) -> Any:
        if name in refs:
            raise HubError(409, f"Reference already exists: {name}")
        refs[name] = sha
        return {}

    @route("DELETE", f"{REPO}/branch/(?P<name>[^/]+)", write=True)
    def delete_branch(self, repo: Repo, name: str) -> Any:
        repo.head(name)
        if name == "main":
            raise HubError(403, "The branch main cannot be deleted.")
        del repo.branches[name]
        return {}

    @route("GET", f"{REPO}/commits{REV}")
    def commits(self, repo: Repo, rev: str) -> Any:
        history, sha = [], repo.resolve(rev)
        while sha is not None:
            history.append({key: value for key, value in repo.commits[sha].items() if key != "tree"})
            sha = repo.commits[sha]["parent"]
        return history

    @route("POST", f"{REPO}/super-squash{REV}", write=True)
    def super_squash(self, repo: Repo, rev: str) -> Any:
        tree, message = repo.tree(repo.head(rev)), json.loads(self.body)["message"]
        del repo.branches[rev]  # so that the commit has no parent
        repo.add_commit(rev, tree, message)
        return {}

    # Reading

    @route("GET", f"{REPO}/tree{REV}(?:/(?P<path>.+))?")
    def tree(self, repo: Repo, rev: str, path: str = "") -> Any:
        sha = repo.resolve(rev)
        entries = with_folders(repo.tree(sha))
        if path and entries.get(path, {}).get("type") != "directory":
            raise HubError(404, "Entry not found", "EntryNotFound", commit=sha)
        start, deep = f"{path}/" if path else "", self.query.get("recursive") == "true"
        return [e for p, e in entries.items() if p.startswith(start) and (deep or "/" not in p[len(start) :])]

    @route("POST", f"{REPO}/paths-info{REV}")
    def paths_info(self, repo: Repo, rev: str) -> Any:
        entries = with_folders(repo.tree(rev))
        return [entries[path] for path in parse_qs(self.body.decode()).get("paths", []) if path in entries]

    @route("GET|HEAD", f"{FILES}/resolve{REV}/(?P<path>.+)")
    def resolve(self, repo: Repo, rev: str, path: str) -> Any:
        sha = repo.resolve(rev)
        entry = repo.tree(sha).get(path)
        if entry is None:
            raise HubError(404, "Entry not found", "EntryNotFound", commit=sha)
        headers = {"ETag": f'"{etag(entry)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if "lfs" in entry:
            headers |= {"X-Linked-ETag": f'"{etag(entry)}"', "X-Linked-Size": str(entry["size"])}
        data = self.hub.blobs[etag(entry)]
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part is None:
            return Answer(200, data, headers)
        first, last = int(part[1]), min(int(part[2] or len(data)), len(data) - 1)
        if first > last:
            return Answer(416, b"", {**headers, "Content-Range": f"bytes */{len(data)}"})
        return Answer(206, data[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"})


def environment(url: str, home: Path, token: str | None = "hf_write") -> dict[str, str]:
    """Return an environment for a subprocess in which huggingface_hub finds this Hub, and nothing of the public one.

    The client reads it once, when it is imported; a change of `os.environ` after that does nothing.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
    switches = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS")
    direct = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    hub = {"HF_ENDPOINT": url, "HF_HOME": str(home), **({"HF_TOKEN": token} if token else {})}
    return {**kept, **dict.fromkeys(switches, "1"), **direct, **hub}
