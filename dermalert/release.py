"""A release: what is in its folder, its card, and its way to the Hub."""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import jinja2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import get_token, validate_repo_id

from dermalert.errors import RunError, UsageError
from space.triage import NOT_A_DEVICE

_CARD = Path(__file__).parent.parent / "model_card.md"
_VERSION = re.compile(r"v\d+\.\d+\.\d+")
_NETWORK = (HfHubHTTPError, OSError, ValueError, KeyError)


def find(name: str | Path) -> Path:
    """Return the release folder that a run's folder holds, or the folder itself."""
    inside = Path(name) / "release"
    return inside if (inside / "config.json").is_file() else Path(name)


def public_name(base_model: str) -> str:
    """Return a base model's name as a release states it: of a folder, its name alone."""
    return Path(base_model).name if Path(base_model).exists() else base_model


@contextlib.contextmanager
def assembled(folder: Path) -> Iterator[Path]:
    """Give a folder to write a release to, which takes its place when all of it is there."""
    staging = folder.with_name(folder.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    yield staging
    staging.replace(folder)


def save_model(folder: Path, model, processor, *, alert: dict, about: dict) -> None:
    """Write weights, config and processor; the config tells a serving side of the alert and of the data."""
    model.config.alert = alert
    model.config.dermalert = {"version": None, **{k: about[k] for k in ("base_model", "split_seed", "generated")}}
    model.config.dermalert["data"] = about["sources"]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def read_metrics(folder: Path) -> dict:
    """Return the figures of a release folder."""
    return json.loads((folder / "evaluation" / "metrics.json").read_text())


def write_card(folder: Path) -> None:
    """Write the card of a release folder, every number of it out of `metrics.json`."""
    (folder / "README.md").write_text(render_card(read_metrics(folder)))


def stamp(folder: Path, version: str) -> None:
    """Write the version that a release is published as into its config, its figures and its card."""
    config = json.loads((folder / "config.json").read_text())
    config["dermalert"]["version"] = version
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    figures = read_metrics(folder) | {"version": version}
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n")
    write_card(folder)


def render_card(figures: dict) -> str:
    """Return the card that belongs to the figures.

    Raises:
        jinja2.UndefinedError: the template asks for what the figures do not have.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"percent": _percent, "figure": _figure}
    return environment.from_string(_CARD.read_text()).render(metrics=figures, not_a_device=NOT_A_DEVICE)


def _figure(figure: dict, digits: int = 2) -> str:
    if figure["value"] is None:
        return "not defined"
    return f"{figure['value']:.{digits}f} [{figure['low']:.{digits}f}-{figure['high']:.{digits}f}]"


def _percent(value: float) -> str:
    return f"{float(value):.1%}"


def check_can_publish(repo_id: str, version: str) -> None:
    """Find out, before the work is done, whether a release could be published.

    Raises:
        UsageError: malformed name or version, no token, a token that may not write there, or a tag that is taken.
        RunError: the Hub cannot be reached.
    """
    if not _VERSION.fullmatch(version):
        raise UsageError(f"--version '{version}' is no version: write it like v1.0.0.")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(f"--push_to_hub '{repo_id}' is no repository name: {error}") from error
    if "/" not in repo_id:
        raise UsageError(f"--push_to_hub '{repo_id}' needs its owner: write it as USER/REPO.")
    if get_token() is None:
        raise UsageError("publishing needs a token: run `hf auth login`, or set HF_TOKEN to one that may write.")
    api = HfApi()
    _check_token(api, repo_id)
    if version in _tags(api, repo_id):
        raise UsageError(f"{repo_id} has a tag {version} already: choose the next --version.")


def _check_token(api: HfApi, repo_id: str) -> None:
    try:
        account = api.whoami()
    except HfHubHTTPError as error:
        if error.response.status_code == 401:
            raise UsageError("the Hub does not know this token: run `hf auth login` or set HF_TOKEN anew.") from error
        raise RunError(f"cannot ask the Hub about the token: {_reason(error)}") from error
    except OSError as error:
        raise RunError(f"cannot reach the Hub: {_reason(error)}") from error
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
    except (HfHubHTTPError, OSError) as error:
        raise RunError(f"cannot ask the Hub for the tags of {repo_id}: {_reason(error)}") from error


def publish(folder: Path, repo_id: str, version: str) -> str:
    """Publish a release folder as a tag of a model repository, and return the tagged commit.

    The files are staged on a branch of their own, so that nothing half-uploaded is ever on `main`; `main` then gets
    them in one commit, and that commit the tag.

    Raises:
        UsageError, RunError: see `check_can_publish`; or the upload failed, and the same command can be run again.
    """
    check_can_publish(repo_id, version)
    stamp(folder, version)
    api, staging = HfApi(), f"staging-{version}"
    try:
        api.create_repo(repo_id, exist_ok=True)
        api.create_branch(repo_id, branch=staging, exist_ok=True)
        _commit(api, folder, repo_id, staging, f"Stage {version}")
        commit = _commit(api, folder, repo_id, "main", f"Release {version}")
        api.create_tag(repo_id, tag=version, revision=commit, tag_message=f"dermalert release {version}")
        api.delete_branch(repo_id, branch=staging)
    except _NETWORK as error:
        raise RunError(f"publishing {repo_id} {version} failed: {_reason(error)}. Run the command again.") from error
    return commit


def _commit(api: HfApi, folder: Path, repo_id: str, branch: str, message: str) -> str:
    """Make a branch hold exactly the files of a folder, in one commit."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    stale = set(api.list_repo_files(repo_id, revision=branch)) - set(files) - {".gitattributes"}
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()]
    operations += [CommitOperationDelete(path_in_repo=name) for name in sorted(stale)]
    return api.create_commit(repo_id, operations, commit_message=message, revision=branch).oid


def _reason(error: Exception) -> str:
    """Return the first line of an error, without what could hold a token."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
