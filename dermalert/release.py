"""A release: what is in its folder, its card, and its way to the Hub."""

import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import safetensors.torch
import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import get_token, validate_repo_id

from dermalert import card
from dermalert.errors import RunError, UsageError
from dermalert.hub import HTTP_ERROR

_VERSION = re.compile(r"v\d+\.\d+\.\d+")
# What belongs to a release; nothing else is uploaded, and nothing else is deleted from a repository.
_CONTRACT = (
    "README.md",
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "evaluation/*",
    "onnx/*.onnx",
)
# The client also raises ValueError (refused metadata), KeyError (an answer without what it needs) and RuntimeError
# (an upload that broke off).
_FAILURES = (HTTP_ERROR, OSError, ValueError, KeyError, RuntimeError)


def find(name: str | Path) -> Path:
    """Return the release folder that a run's folder holds, or the folder itself."""
    inside = Path(name) / "release"
    return inside if (inside / "config.json").is_file() else Path(name)


def about(model, *, base_model: str, data: dict, split_seed: int) -> dict:
    """Return what a release's config will say of its making; what its base was trained on is part of that.

    A base model's folder is named by its version or its last part, never by its path.
    """
    base, path = getattr(model.config, "dermalert", {}), Path(base_model)
    if path.exists():
        base_model = base.get("version") or public_name(path)
    return {
        "version": None,  # until it is published
        "base_model": base_model,
        "data": sorted({*base.get("data", []), *data["sources"]}),
        "generated": data["generated"] and base.get("generated", True),
        "split_seed": split_seed,
    }


def public_name(folder: Path) -> str:
    """Return the name of a release's or a model's folder, without where it lies on this machine."""
    return (folder.parent if folder.name == "release" else folder).resolve().name


def compact(folder: Path) -> None:
    """Store in half precision what loses nothing by it; the config still asks for single precision to compute in.

    A config that asked for half precision would make inference on a CPU several times slower.
    """
    for path in folder.glob("model*.safetensors"):
        tensors = safetensors.torch.load_file(path)
        for name, tensor in tensors.items():
            if tensor.dtype == torch.float32 and torch.equal(tensor.half().float(), tensor):
                tensors[name] = tensor.half()
        safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def commit() -> str | None:
    """Return the commit of the code that runs, with `+` where files differ from it; None where it is no checkout."""

    def git(*words: str) -> str:
        found = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        return found.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # an installed copy may lie in another checkout
        return git("rev-parse", "HEAD") + "+" * bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None


@contextlib.contextmanager
def assembled(folder: Path) -> Iterator[Path]:
    """Give a folder to write a release to, which takes its place when all of it is there."""
    staging = folder.with_name(folder.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    yield staging
    staging.replace(folder)


def read_metrics(folder: Path) -> dict:
    """Return the figures of a release folder."""
    return json.loads((folder / "evaluation" / "metrics.json").read_text())


def dump_metrics(figures: dict) -> str:
    """Return the text of `metrics.json`."""
    return json.dumps(figures, indent=1, allow_nan=False) + "\n"


def write_card(folder: Path) -> None:
    """Write the card of a release folder, every number of it out of `metrics.json`."""
    pictures = frozenset(path.name for path in (folder / "evaluation" / "figures").glob("*.png"))
    (folder / "README.md").write_text(card.render_card(read_metrics(folder), pictures))


def _stamped(folder: Path, to: Path, version: str, previous: dict | None) -> Path:
    """Copy the files of a release, with the version in config, figures and card, and what the last one measured."""
    for name in _files(folder):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, to / name)
    config = json.loads((to / "config.json").read_text())
    config["dermalert"]["version"] = version
    (to / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    figures = read_metrics(to) | {"version": version}
    if previous:
        figures["previous"] = _compared(previous, figures)
    (to / "evaluation" / "metrics.json").write_text(dump_metrics(figures))
    write_card(to)
    return to


def _compared(previous: dict, figures: dict) -> dict:
    """Return what a card says of the version before: its headline, and the settings in which the two differ."""
    held_out, settings = previous["splits"]["held_out"], _settings(previous)
    here = _settings(figures)
    return {
        "version": previous["version"],
        "fingerprint": previous["data"]["fingerprint"],
        "settings": {k: [settings.get(k), here[k]] for k in here if settings.get(k) != here[k]},
        "held_out": {
            "n": held_out["n"],
            "balanced_accuracy": held_out["balanced_accuracy"],
            "macro_auroc": held_out["macro_auroc"],
            "melanoma_auroc": held_out["melanoma"]["auroc"],
            "ece": held_out["calibration"]["ece"],
        },
    }


def _settings(figures: dict) -> dict:
    return figures["training"]["settings"] | {"base_model": figures["base_model"]}


def _files(folder: Path) -> list[str]:
    """Return the files of a folder that belong to a release; pickles, optimizers and notes do not."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if belongs(name))


def belongs(name: str) -> bool:
    """Tell whether a file of this name is part of the release contract."""
    return any(fnmatch(name, pattern) for pattern in _CONTRACT)


def check_can_publish(repo_id: str, version: str) -> None:
    """Find out, before the work is done, whether a release could be published.

    Raises:
        UsageError: malformed name or version, no token, a token that may not write there, or a tag that is taken.
        RunError: the Hub cannot be reached.
    """
    _check_names(repo_id, version)
    with on_the_hub("asking the Hub about " + repo_id):
        api = HfApi()
        check_token(api, repo_id)
        if version in _tags(api, repo_id):
            raise _taken(repo_id, version)


def publish(folder: Path, repo_id: str, version: str) -> str:
    """Publish a release folder as a tag of a model repository, and return the tagged commit.

    The files are staged on a branch of their own, so that nothing half-uploaded is ever on `main`; `main` then gets
    them in one commit, and that commit the tag. Called again after any failure it finishes the job; where the tag
    already holds this release it does nothing.

    Raises:
        UsageError, RunError: see `check_can_publish`; a tag is taken if it holds another release.
    """
    _check_names(repo_id, version)
    with tempfile.TemporaryDirectory() as scratch, on_the_hub(f"publishing {repo_id} {version}"):
        api, staging = HfApi(), f"staging-{version}"
        check_token(api, repo_id)
        tags = _tags(api, repo_id)
        ready = _stamped(folder, Path(scratch), version, _previous(repo_id, tags, version))
        commit = tags.get(version)
        if commit is None:
            api.create_repo(repo_id, exist_ok=True)
            api.create_branch(repo_id, branch=staging, exist_ok=True)
            _commit(api, ready, repo_id, staging, f"Stage {version}")
            commit = _commit(api, ready, repo_id, "main", f"Release {version}")
            api.create_tag(repo_id, tag=version, revision=commit, tag_message=f"dermalert release {version}")
        elif not _holds(api, repo_id, version, ready):
            raise _taken(repo_id, version)
        with contextlib.suppress(*_FAILURES):  # a branch that is left over does no harm
            api.delete_branch(repo_id, branch=staging)
    return commit


def _previous(repo_id: str, tags: Iterable[str], version: str) -> dict | None:
    """Return the figures of the last version before this one, or None where there is none, or no release of ours."""
    earlier = [tag for tag in tags if _VERSION.fullmatch(tag) and _order(tag) < _order(version)]
    if not earlier:
        return None
    try:
        path = hf_hub_download(repo_id, "evaluation/metrics.json", revision=max(earlier, key=_order))
    except LocalEntryNotFoundError:  # the Hub does not answer
        raise
    except EntryNotFoundError:
        return None
    return json.loads(Path(path).read_text())


def _order(version: str) -> list[int]:
    return [int(number) for number in version[1:].split(".")]


def _check_names(repo_id: str, version: str) -> None:
    if not _VERSION.fullmatch(version):
        raise UsageError(f"--version '{version}' is no version: write it like v1.0.0.")
    check_repo(repo_id)


def check_repo(repo_id: str) -> None:
    """Refuse what is no name of a repository with its owner, and a computer without a token."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(f"'{repo_id}' is no repository name: {error}") from error
    if "/" not in repo_id:
        raise UsageError(f"'{repo_id}' needs its owner: write it as USER/REPO.")
    if get_token() is None:
        raise UsageError("publishing needs a token: run `hf auth login`, or set HF_TOKEN to one that may write.")


def check_token(api: HfApi, repo_id: str) -> None:
    """Refuse a token that the Hub does not know or that may not write to a repository."""
    try:
        account = api.whoami()
    except HfHubHTTPError as error:
        if error.response.status_code == 401:
            raise UsageError("the Hub does not know this token: run `hf auth login` or set HF_TOKEN anew.") from error
        raise
    role = account.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise UsageError("this token may only read: create one with the role 'write'.")
    owners = [account["name"], *(org["name"] for org in account.get("orgs", []))]
    # A fine-grained token's rights cannot be read from this answer; there the Hub itself will say no.
    if role == "write" and repo_id.split("/")[0] not in owners:
        raise UsageError(f"this token belongs to {account['name']}, which cannot write to {repo_id}.")


def _tags(api: HfApi, repo_id: str) -> dict[str, str]:
    try:
        return {tag.name: tag.target_commit for tag in api.list_repo_refs(repo_id).tags}
    except RepositoryNotFoundError:
        return {}


def _taken(repo_id: str, version: str) -> UsageError:
    return UsageError(f"{repo_id} has a tag {version} already: choose the next --version.")


def _commit(api: HfApi, folder: Path, repo_id: str, branch: str, message: str) -> str:
    """Make a branch hold the release in a folder, in one commit; files that are no part of a release are left alone."""
    names = _files(folder)
    stale = [name for name in api.list_repo_files(repo_id, revision=branch) if belongs(name) and name not in names]
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names]
    operations += [CommitOperationDelete(path_in_repo=name) for name in stale]
    return api.create_commit(repo_id, operations, commit_message=message, revision=branch).oid


def _holds(api: HfApi, repo_id: str, revision: str, folder: Path) -> bool:
    """Tell whether a revision holds the very release that is in a folder."""
    entries = api.list_repo_tree(repo_id, revision=revision, recursive=True)
    files = {entry.path: entry for entry in entries if isinstance(entry, RepoFile) and belongs(entry.path)}
    if set(files) != set(_files(folder)):
        return False
    for name, entry in files.items():
        data = (folder / name).read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # git's id of a file
        if (entry.lfs.sha256 if entry.lfs else entry.blob_id) not in (blob, hashlib.sha256(data).hexdigest()):
            return False
    return True


@contextlib.contextmanager
def on_the_hub(what: str) -> Iterator[None]:
    """Turn a failure on the way into one sentence, without what could hold a token."""
    try:
        yield
    except _FAILURES as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise RunError(f"{what} failed ({type(error).__name__}: {reason}). Run the same command again.") from error
