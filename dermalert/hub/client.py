"""A repository of the Hub: who may write to it, what it holds of a release, and its next commit."""

import contextlib
import dataclasses
import hashlib
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dermalert_space import contract
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import get_token, validate_repo_id

from dermalert.errors import RunError, UsageError, first_line
from dermalert.hub.retries import HTTP_ERROR, status, with_retries

FAILURES = (HTTP_ERROR, OSError, ValueError, KeyError, RuntimeError)
"""The errors of the Hub's client: beside HTTP errors ValueError (refused metadata), KeyError (an incomplete answer) and
RuntimeError (an interrupted upload)."""

NOT_THERE = (
    "the Hub has no such repository any more, or does not show it to this token. A command makes a repository once, at "
    "its start, and never again: find out who has removed it, then run the same command again."
)

EMPTY = {".gitattributes", contract.CARD}
"""The files that the Hub's page puts into a new repository."""

Content = Mapping[str, Collection[str]]
"""Files by path, each with the ids that the Hub may give it: git's, or its sha256 where it is kept in LFS."""


@contextlib.contextmanager
def on_the_hub(what: str) -> Iterator[None]:
    """Turn a failure of the Hub's client into a RunError of one sentence, without what could hold a token."""
    try:
        yield
    except RepositoryNotFoundError as error:
        raise RunError(f"{what} failed: {NOT_THERE}") from error
    except FAILURES as error:
        if constants.HF_HUB_OFFLINE:
            raise RunError(f"{what} failed: HF_HUB_OFFLINE is set. Unset it where there is a network.") from error
        raise RunError(
            f"{what} failed ({type(error).__name__}: {reason(error)}). Run the same command again."
        ) from error


def reason(error: Exception) -> str:
    """The cause of a failure in the Hub's words, or the client's; without the signatures of addresses."""
    message = getattr(error, "server_message", None)
    if message:
        return f"HTTP {status(error)}: {message.strip().rstrip('.')}"
    return re.sub(r"\?[^\s'\"]*", "", first_line(error))


def is_name(text: str) -> bool:
    """Whether a repository could be called so."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def check_repo(repo_id: str, *, write: bool = True) -> None:
    """Refuse a malformed name, one without an owner, and, to write, a computer without a token."""
    if not is_name(repo_id):
        raise UsageError(f"'{repo_id}' is no repository name: write it as USER/REPO, of letters, digits, -, _ and .")
    if "/" not in repo_id:
        raise UsageError(f"'{repo_id}' needs its owner: write it as USER/REPO.")
    if write and get_token() is None:
        raise UsageError("publishing needs a token: run `hf auth login`, or set HF_TOKEN to one that may write.")


def check_token(api: HfApi, repo_id: str) -> None:
    """Refuse a token that the Hub does not know, or that may not write to a repository."""
    try:
        account = with_retries(api.whoami)
    except HfHubHTTPError as error:
        if status(error) == 401:
            raise UsageError("the Hub does not know this token: run `hf auth login` or set HF_TOKEN anew.") from error
        raise
    role = account.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise UsageError("this token may only read: create one with the role 'write'.")
    owners = [account["name"], *(org["name"] for org in account.get("orgs", []))]
    # A fine-grained token's rights are not in this answer: there the Hub itself refuses.
    if role == "write" and repo_id.split("/")[0] not in owners:
        raise UsageError(f"this token belongs to {account['name']}, which cannot write to {repo_id}.")


@dataclasses.dataclass(frozen=True)
class Refs:
    """The commits of a repository's branches and tags, by name; none where it does not exist."""

    branches: dict[str, str] = dataclasses.field(default_factory=dict)
    tags: dict[str, str] = dataclasses.field(default_factory=dict)


def refs(api: HfApi, repo_id: str, *, must_exist: bool = False) -> Refs:
    """The branches and tags of a repository, which must exist where it did a moment ago."""
    try:
        listed = with_retries(api.list_repo_refs, repo_id)
    except RepositoryNotFoundError as error:
        if must_exist:
            raise RunError(f"{repo_id}: {NOT_THERE}") from error
        return Refs()
    return Refs(*({ref.name: ref.target_commit for ref in kind} for kind in (listed.branches, listed.tags)))


def content(
    api: HfApi,
    repo_id: str,
    commit: str,
    *,
    belongs: Callable[[str], bool] = contract.belongs,
    repo_type: str | None = None,
) -> Content:
    """The files of a commit that belong to a release, or to what else `belongs` selects by name."""
    entries = with_retries(
        lambda: list(api.list_repo_tree(repo_id, revision=commit, repo_type=repo_type, recursive=True))
    )
    files = [entry for entry in entries if isinstance(entry, RepoFile) and belongs(entry.path)]
    return {file.path: [file.lfs.sha256 if file.lfs else file.blob_id] for file in files}


def content_of(folder: Path) -> Content:
    """The files of a folder that belong to a release."""
    return {name: ids((folder / name).read_bytes()) for name in contract.files(folder)}


def ids(data: bytes) -> tuple[str, str]:
    """The ids that the Hub may give a file: git's, and that of LFS."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(), hashlib.sha256(data).hexdigest()


def differing(one: Content, other: Content) -> list[str]:
    """The names of the files that differ, or that one side lacks, sorted."""
    return sorted(name for name in {*one, *other} if not set(one.get(name, ())) & set(other.get(name, ())))


def fetch(repo_id: str, commit: str, names: Collection[str], to: Path) -> Path:
    """Download the files of a commit that have these names into a new folder, and return the folder.

    Not `snapshot_download`: offline, an incomplete snapshot in the cache passes there for the whole.
    """
    to.mkdir(parents=True)
    download(repo_id, commit, sorted(names & content(HfApi(), repo_id, commit).keys()), to)
    return to


def download(repo_id: str, commit: str, names: Iterable[str], to: Path) -> None:
    """Download files of a commit, each of which must be there, into a folder."""
    for name in names:
        with_retries(hf_hub_download, repo_id, name, revision=commit, local_dir=to)


def commit(
    api: HfApi,
    repo_id: str,
    branch: str,
    operations: Callable[[], list[Any]],
    *,
    parent: str,
    target: Content,
    message: str,
) -> str:
    """Commit to a branch, whose head is `parent`, and return the commit, which then holds the `target`.

    `operations` makes what leads from the parent to the target, anew for each attempt.

    Raises:
        RunError: somebody else has moved the branch meanwhile.
    """

    def create() -> str:
        with warnings.catch_warnings():  # the tables in a release are no data set
            warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")
            return api.create_commit(
                repo_id, operations(), revision=branch, parent_commit=parent, commit_message=message
            ).oid

    try:
        head: str | None = with_retries(create)
    except HfHubHTTPError as error:
        if status(error) not in (409, 412) and not isinstance(error, RevisionNotFoundError | EntryNotFoundError):
            raise
        # An attempt of our own may have succeeded, its answer lost.
        head = refs(api, repo_id, must_exist=True).branches.get(branch)
    if head is None or differing(content(api, repo_id, head), target):
        raise RunError(
            f"somebody else has changed {repo_id} at the same time, and was first: look at what it holds now "
            f"(dermalert versions {repo_id}), then run the same command again."
        )
    return head
