"""A Space of the Hub that serves a release: the files of `space/`, and which release in its variables and metadata."""

import importlib.metadata
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import dermalert_space
import jinja2
import yaml
from dermalert_space import contract
from dermalert_space.contract import CARD, SERVED, HubName, Json
from dermalert_space.page import examples
from dermalert_space.release import Release
from dermalert_space.release_loading import NoRelease
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, SpaceCard
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from dermalert.errors import RunError, UsageError, did_you_mean, first_few
from dermalert.hub import client
from dermalert.hub.retries import HTTP_ERROR, status, with_retries
from dermalert.publishing import web_export, web_model

SOURCE = Path(dermalert_space.__file__).parents[1]

_PICTURE = "thumbnail.png"  # what stands beside a link to a Space
_PAGE = "dermalert_space/page"

# What belongs to the Space; nothing else is uploaded, and nothing else is deleted from it.
_OURS = (
    *(CARD, "*.py", "*.css", "*requirements.txt", "packages.txt", "dermalert_space/*.py"),
    *(f"{_PAGE}/*.{kind}" for kind in ("py", "css", "js", "json", "png")),
    *(f"examples/*{kind}" for kind in examples.KINDS),
    f"examples/{examples.TABLE}",
)
_STATIC = (
    *(CARD, _PICTURE, web_export.PAGE, web_export.ABOUT, "*.js", "*.css"),
    *(f"{folder}/*" for folder in (web_export.RUNTIME, web_model.FOLDER, "examples")),
)
"""The same of a static Space."""

_STATIC_README = Path(__file__).with_name("static_space.md")

# huggingface.co/docs/hub/spaces-config-reference, November 2026, of Spaces with gradio.
_KEYS = (
    *("title", "emoji", "colorFrom", "colorTo", "short_description", "license", "tags", "thumbnail", "header"),
    *("sdk", "sdk_version", "python_version", "app_file", "models", "datasets", "preload_from_hub", "pinned"),
    *("suggested_hardware", "startup_duration_timeout", "disable_embedding", "fullWidth", "custom_headers"),
    *("hf_oauth", "hf_oauth_scopes", "hf_oauth_expiration_minutes", "hf_oauth_authorized_org"),
)
_ON_ITS_WAY = {"BUILDING", "RUNNING_BUILDING", "APP_STARTING", "RUNNING_APP_STARTING"}
_DOWN = {"PAUSED", "STOPPED", "SLEEPING", "BUILD_ERROR", "RUNTIME_ERROR", "CONFIG_ERROR"}  # until it is restarted

POLL = 10.0
"""Seconds between two looks at a Space that is not running yet."""

GRACE = 30.0
"""Seconds after a change in which a Space may still be told as it was before, where the answer does not say which."""

PATIENCE = 2400.0
"""Seconds after which a Space that is not running is given up: ten minutes for its build, and its
`startup_duration_timeout`."""


def deploy(
    space_id: str,
    model: str,
    *,
    private: bool = False,
    shown: Path | None = None,
    static: bool = False,
    say: Callable[[str], object] = print,
) -> None:
    """Have a Space serve a release, and wait until it runs; called again, it changes only what is not so yet.

    Args:
        space_id: `USER/SPACE`; made where it is missing, and not again if it vanishes.
        model: the release, `USER/REPO@TAG`.
        private: for nobody else to see.
        shown: a folder of examples, see `dermalert_space.page.examples`, in the place of the generated ones.
        static: whether it is the page of `web_export`, which assesses images in the browser.
        say: what is done with a sentence for the person who waits.

    Raises:
        UsageError: malformed names, examples that cannot be shown, a token that may not write there, no such tag, no
            dermalert release, a Space that holds something else or is open where it should not be, or a wrong
            `space/README.md`.
        RunError: the Hub cannot be reached, or the Space does not run.
    """
    _parts(model)
    client.check_repo(space_id)
    serve = _deploy_static if static else _deploy_app
    serve(space_id, model, private=private, shown=shown, say=say)


def _deploy_app(space_id: str, model: str, *, private: bool, shown: Path | None, say: Callable[[str], object]) -> None:
    repo_id, tag = _parts(model)
    check_front_matter(SOURCE)
    api, files = HfApi(), _files(SOURCE) | _examples(shown or SOURCE / "examples")
    with client.on_the_hub(f"asking the Hub about {space_id} and {model}"):
        client.check_token(api, space_id)
        exists = _check_space(api, space_id, private=private)
        files |= {CARD: _readme(api, space_id, repo_id, _commit_of(api, repo_id, tag), say).encode()}
    with client.on_the_hub(f"deploying {space_id}"):
        if not exists:
            _create(api, space_id, private=private)
        changed = _set_variables(api, space_id, {"MODEL_ID": repo_id, "MODEL_REVISION": tag})
        before = _head(api, space_id)
        head = _upload(api, space_id, files, f"Serve {model}", parent=before)
        say(f"{space_id}: {'changed' if changed or head != before else 'nothing to change'}; it is to serve {model}.")
        if down := with_retries(api.get_space_runtime, space_id).stage in _DOWN:
            with_retries(api.restart_space, space_id)  # which a commit alone need not do
        # Where the state before was of the same commit, none proves that the new one runs.
        proofs: set[str | None] = (
            set() if down or (changed and head == before) else {head} if head != before else {head, None}
        )
        _wait(api, space_id, head, say, proofs)


def _create(api: HfApi, space_id: str, *, private: bool, sdk: str = "gradio") -> None:
    space = {"repo_type": "space", "space_sdk": sdk, "private": private or None}
    with_retries(api.create_repo, space_id, **space, exist_ok=True)


def _deploy_static(
    space_id: str, model: str, *, private: bool, shown: Path | None, say: Callable[[str], object]
) -> None:
    repo_id, tag = _parts(model)
    with client.on_the_hub(f"asking the Hub about {space_id} and {model}"):
        api = HfApi()
        client.check_token(api, space_id)
        exists = _check_space(api, space_id, private=private, mark=web_export.ABOUT)
        _commit_of(api, repo_id, tag)
        info = with_retries(api.model_info, repo_id)
    if (info.private or info.gated) and not private:
        raise UsageError(f"{repo_id} is not open to all, and a static Space holds the model itself: add --private.")
    readme = jinja2.Template(_STATIC_README.read_text(), keep_trailing_newline=True).render(
        model=repo_id, tag=tag, thumbnail=_address(api, space_id, _PICTURE)
    )
    files = web_export.build(web_export.load(model), shown=shown) | {CARD: readme.encode()}
    files |= {_PICTURE: (SOURCE / _PAGE / _PICTURE).read_bytes()}
    with client.on_the_hub(f"deploying {space_id}"):
        if not exists:
            _create(api, space_id, private=private, sdk="static")
        before = _head(api, space_id)
        head = _upload(api, space_id, files, f"Serve {model}", parent=before, ours=_STATIC)
        say(f"{space_id}: {'changed' if head != before else 'nothing to change'}; it is to serve {model}.")
        _wait(api, space_id, head, say, {head, None})  # nothing is built: it runs at once


def _parts(model: str) -> tuple[str, str]:
    repo_id, tag = HubName.parse(model)
    if not tag or "/" not in repo_id:
        raise UsageError(f"--model '{model}' is no release: write it as USER/REPO@TAG, such as USER/REPO@v1.0.0.")
    if not client.is_name(repo_id):
        raise UsageError(f"--model '{repo_id}' is no repository name: write it as USER/REPO@TAG.")
    return repo_id, tag


def check_front_matter(folder: Path) -> None:
    """Refuse a Space whose README the Hub would build otherwise than what runs here, or not at all."""
    if not (folder / CARD).is_file():
        raise UsageError("The wheel has no files of a Space: run deploy-space in a clone of the repository.")
    try:
        data = SpaceCard.load(folder / CARD).data.to_dict()
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"'{folder / 'README.md'}' has no metadata that can be read: {error}") from error
    for wrong in _wrongs(data, folder):
        raise UsageError(f"'{folder / 'README.md'}': {wrong}")


def _wrongs(data: Json, folder: Path) -> Iterator[str]:
    for key in sorted(set(data).difference(_KEYS)):
        yield f"the Hub does not know the key '{key}'.{did_you_mean(key, _KEYS)}"
    installed, python = importlib.metadata.version("gradio"), data.get("python_version")
    if data.get("sdk") != "gradio" or data.get("sdk_version") != installed:
        yield (
            f"sdk {data.get('sdk')}, sdk_version {data.get('sdk_version')} is not what is installed here and was "
            f'tested: sdk gradio, sdk_version "{installed}". Say that there, or install the other one.'
        )
    if not isinstance(python, str):
        yield f"python_version {python} must be stated, in quotes: 3.10 is read as 3.1, and is what a Space gets else."
    for name, supported in _pythons(folder / "requirements.txt"):
        if f"{python}.99" not in supported:  # the Space takes the newest patch
            yield f"{name} needs Python {supported}, not python_version {python}: state one that it runs on."
    if not (folder / str(data.get("app_file"))).is_file():
        yield f"app_file {data.get('app_file')} does not exist: name the file that starts the Space."


def _pythons(requirements: Path) -> Iterator[tuple[str, SpecifierSet]]:
    """Give each package that the Space installs and which Python it runs on, by the copy that is installed here."""
    lines = requirements.read_text().splitlines()
    for name in (Requirement(line).name for line in lines if line.strip() and not line.startswith("#")):
        yield name, SpecifierSet(importlib.metadata.metadata(name)["Requires-Python"] or "")


def _check_space(api: HfApi, space_id: str, *, private: bool, mark: str = "triage.py") -> bool:
    """Refuse a Space that is not ours or is open where it should not be; return whether there is one."""
    try:
        there = with_retries(api.space_info, space_id)
    except RepositoryNotFoundError:
        return False
    if private and not there.private:
        raise UsageError(f"{space_id} is public: make it private in its settings on the Hub, or leave out --private.")
    names = {file.rfilename for file in there.siblings or []}
    if mark not in names and names - client.EMPTY:
        raise UsageError(f"{space_id} holds another app ({first_few(sorted(names))}): choose another name.")
    return True


def _commit_of(api: HfApi, repo_id: str, tag: str) -> str:
    refs = client.refs(api, repo_id)
    if not refs.branches:
        raise UsageError(f"--model: the Hub has no {repo_id}, or does not show it to this token.")
    if tag not in refs.tags:
        raise UsageError(f"--model: {repo_id} has no tag {tag}, only {first_few(sorted(refs.tags)) or 'none at all'}.")
    return refs.tags[tag]


def _readme(api: HfApi, space_id: str, repo_id: str, commit: str, say: Callable[[str], object]) -> str:
    """The Space's README with the release in its metadata, once the release has been loaded here."""
    names = served(with_retries(api.list_repo_files, repo_id, revision=commit))
    _try_out(repo_id, commit, names)
    card, info = SpaceCard.load(SOURCE / CARD), with_retries(api.model_info, repo_id)
    card.data.models = [repo_id]
    card.data["thumbnail"] = _address(api, space_id, f"{_PAGE}/{_PICTURE}")
    if info.private or info.gated:
        say(f"{repo_id} is not open to all: give the Space a secret HF_TOKEN, in its settings, that may read it.")
    else:  # the build reads without a token
        card.data["preload_from_hub"] = [f"{repo_id} {','.join(sorted(names))} {commit}"]
    return str(card)


def _address(api: HfApi, space_id: str, name: str) -> str:
    """Where a file of a Space is: the Hub takes a whole address for its picture, and no path."""
    return f"{api.endpoint}/spaces/{space_id}/resolve/main/{name}"


def _try_out(repo_id: str, commit: str, names: set[str]) -> None:
    """Load a release as the Space will, and refuse what cannot be loaded."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = client.fetch(repo_id, commit, names, Path(scratch) / contract.RELEASE_FOLDER)
        try:
            Release.load(folder)
        except NoRelease as error:
            reason = str(error).replace(str(folder), repo_id)  # where it lay here is of no use to anybody
            raise UsageError(f"--model: {reason}") from error


def served(names: Iterable[str]) -> set[str]:
    """Those of a release's files that a Space reads."""
    return set(filter_repo_objects(names, allow_patterns=list(SERVED)))


def _files(folder: Path) -> dict[str, bytes]:
    """The contents of a Space by name: no bundled release, no caches, nothing that was left lying there."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name: (folder / name).read_bytes() for name in names if _belongs(name) and not name.startswith("examples/")}


def _examples(folder: Path) -> dict[str, bytes]:
    """The examples in a folder by their names in a Space."""
    try:
        names = [examples.TABLE, *(each.path.name for each in examples.read(folder))]
    except examples.BadExamples as error:
        raise UsageError(f"--examples: {error}") from error
    return {f"examples/{name}": (folder / name).read_bytes() for name in names}


def _belongs(name: str, ours: Iterable[str] = _OURS) -> bool:
    return contract.belongs(name, ours)


def _set_variables(api: HfApi, space_id: str, variables: dict[str, str]) -> bool:
    """Give a Space the variables that it lacks; whether there were any.

    Before the files, so that no build starts without knowing what to serve.
    """
    there = {key: variable.value for key, variable in with_retries(api.get_space_variables, space_id).items()}
    missing = {key: value for key, value in variables.items() if there.get(key) != value}
    for key, value in missing.items():
        with_retries(api.add_space_variable, space_id, key, value)
    return bool(missing)


def _upload(
    api: HfApi,
    space_id: str,
    files: dict[str, bytes],
    message: str,
    *,
    parent: str,
    ours: Collection[str] = _OURS,
) -> str:
    """Make a Space hold these files and none of `ours` besides, in one commit on `parent` or in none; its head."""
    if _holds(api, space_id, parent, files, ours):
        return parent
    there = with_retries(api.list_repo_files, space_id, repo_type="space", revision=parent)
    gone = [name for name in there if _belongs(name, ours) and name not in files]

    def make() -> str:  # with operations of its own for each try: the client notes in them what it has sent
        operations: list[Any] = [CommitOperationAdd(name, data) for name, data in files.items()]
        operations += [CommitOperationDelete(name) for name in gone]
        return api.create_commit(
            space_id, operations, commit_message=message, repo_type="space", parent_commit=parent
        ).oid

    try:
        return with_retries(make)
    except HfHubHTTPError as error:
        if status(error) not in (409, 412):
            raise
        head = _head(api, space_id)  # a try of our own may have got there, its answer lost
        if not _holds(api, space_id, head, files, ours):
            raise
        return head


def _head(api: HfApi, space_id: str) -> str:
    """The newest commit of a Space."""
    commit = with_retries(api.space_info, space_id).sha
    assert commit is not None  # of every Space that there is
    return commit


def _holds(api: HfApi, space_id: str, commit: str, files: dict[str, bytes], ours: Collection[str]) -> bool:
    """Whether a commit of a Space holds these files and none of `ours` besides."""
    there = client.content(api, space_id, commit, belongs=lambda name: _belongs(name, ours), repo_type="space")
    return not client.differing(there, {name: client.ids(data) for name, data in files.items()})


def _wait(api: HfApi, space_id: str, commit: str, say: Callable[[str], object], proofs: Collection[str | None]) -> None:
    """Look at a Space until it runs a commit; the last argument is that of `_states`."""
    stage, page = None, f"{api.endpoint}/spaces/{space_id}"
    for state in _states(api, space_id, commit, proofs):
        if state["stage"] != stage:
            say(f"{space_id}: {state['stage']}")
        stage = state["stage"]
        if stage == "RUNNING":
            return
        if stage not in _ON_ITS_WAY:
            why = (state.get("errorMessage") or "the Hub does not say why").strip()
            raise RunError(f"{space_id} does not run ({stage}): {why}\nIts log: {page}")
    raise RunError(
        f"{space_id} does not run after {PATIENCE / 60:.0f} minutes ({stage or 'its build has not begun'}): look at "
        f"{page}, and run the same command again."
    )


def _states(api: HfApi, space_id: str, commit: str, proofs: Collection[str | None]) -> Iterator[Json]:
    """The states of a Space that is to run a commit, look by look, for `PATIENCE`; none that may be of before a change.

    An answer with a `sha` among `proofs` (None: no `sha`) is believed at once; others are believed from the first stage
    on the way on, or after `GRACE`. One that names another commit is left out.
    """
    begun, moved = time.monotonic(), False
    while (waited := time.monotonic() - begun) < PATIENCE:
        state = _state(api, space_id)
        if state and state.get("sha") in (None, commit):
            moved |= state["stage"] in _ON_ITS_WAY
            if moved or state.get("sha") in proofs or waited >= GRACE:
                yield state
        time.sleep(POLL)


def _state(api: HfApi, space_id: str) -> Json:
    """The state of a Space as the Hub has it; {} where it cannot answer just now, which the next look makes up."""
    try:
        return api.get_space_runtime(space_id).raw
    except HTTP_ERROR as error:
        if (status(error) or 500) < 429:
            raise
        return {}
