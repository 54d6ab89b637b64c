"""Publishing a release on the Hub, whole or not at all; listing versions; rolling back to an earlier one.

The files are staged on a branch of their own, read back from there, put on `main` in one commit, and that commit gets
the tag. Whatever stops this, `main` holds a whole release, a tag is whole or not there, and the same call finishes.
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dermalert_space import contract, files
from dermalert_space.contract import CARD, CONFIG, FIGURES, METRICS, Json
from dermalert_space.estimate import format_estimate
from dermalert_space.release import ParityError, Release
from dermalert_space.release_loading import NoRelease
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

from dermalert.errors import RunError, UsageError, first_few
from dermalert.formatting import COMPARED
from dermalert.hub import client
from dermalert.hub.retries import status, with_retries
from dermalert.publishing import versions
from dermalert.release import regression_gate, release_comparison, release_folder, widget
from dermalert.release.regression_gate import Gate
from dermalert.release.release_comparison import ReleasePredictions

_ADDED = ("released", "previous", "history", "gate")  # to the figures, when a release is published


def check_can_publish(repo_id: str, version: str) -> bool:
    """Refuse, before the work is done, a release that could not be published; whether the repository exists.

    Raises:
        UsageError: malformed name or version, no token, a token that may not write there, a tag that is taken, a
            version below the last one, or a `main` whose release has no tag.
        RunError: the Hub cannot be reached.
    """
    versions.check_names(repo_id, version)
    with client.on_the_hub("asking the Hub about " + repo_id):
        api = HfApi()
        client.check_token(api, repo_id)
        refs = client.refs(api, repo_id)
        if version in refs.tags:
            raise _taken(repo_id, version)
        _check_order(repo_id, refs.tags, version)
        if "main" in refs.branches:
            _check_main(repo_id, refs, version)
        return bool(refs.branches)


def _check_main(repo_id: str, refs: client.Refs, version: str) -> None:
    """Refuse a `main` that holds a release without a tag, of the same version too: a new training makes another."""
    with tempfile.TemporaryDirectory() as scratch:
        on_main = versions.figures_at(repo_id, refs.branches["main"], Path(scratch) / "main") or {}
    _predecessor(repo_id, refs.tags, on_main, version)
    if on_main.get("version") == version:
        raise _unfinished(repo_id, f"another {version}", refs.tags)


def _check_order(repo_id: str, tags: Iterable[str], version: str) -> None:
    last = versions.last(tags)
    if last is not None and versions.order(version) < versions.order(last):
        raise UsageError(f"{version} is below {last}, the last version of {repo_id}: choose a higher --tag.")


def _taken(repo_id: str, version: str) -> UsageError:
    return UsageError(f"{repo_id} has a {version} already: choose the next --tag.")


def _unfinished(repo_id: str, release: str, tags: Iterable[str]) -> UsageError:
    last = versions.last(tags)
    instead = f"take it back (dermalert rollback {repo_id} {last})" if last else "choose the next --tag"
    return UsageError(
        f"main of {repo_id} holds {release}, which has no tag yet: finish publishing it by the command that began it, "
        f"or {instead}."
    )


def publish(
    folder: Path,
    repo_id: str,
    version: str,
    *,
    accept: str | None = None,
    private: bool | None = None,
    must_exist: bool = False,
) -> str:
    """Publish a release folder as a tag of a model repository, and return a sentence about it.

    Called again after any failure it finishes the job; where the tag already holds this release it does nothing.

    Args:
        folder: of the release; it is left as it is.
        repo_id: made if need be, once, and not again if it vanishes.
        version: the tag.
        accept: why a release that `regression_gate.gate` refuses is published all the same; goes into figures and card.
            What finishes a release keeps the reason that it was begun with.
        private: whether only its owner sees a repository that is made; None: as the owner has set it.
        must_exist: the repository has been there since this command began: it is not made.

    Raises:
        UsageError: see `check_can_publish`; a tag is taken if it holds another release.
        RunError: the gate refuses it, somebody else published at the same time, the repository has vanished, or it
            failed on the way.
    """
    if release_folder.find_metrics(folder) is None:
        raise UsageError(f"'{folder}' holds no release: name a run that has finished, or the folder of a release.")
    versions.check_names(repo_id, version)
    check_reason(accept)
    _check_parity(folder, f"'{folder}'")
    with tempfile.TemporaryDirectory() as scratch, client.on_the_hub(f"publishing {repo_id} {version}"):
        api, staging = HfApi(), f"staging-{version}"
        client.check_token(api, repo_id)
        refs = client.refs(api, repo_id, must_exist=must_exist)
        if version in refs.tags:
            _check_tagged(api, repo_id, refs, folder, version, Path(scratch))
            outcome = f"Nothing to do: {repo_id}@{version} holds this release already."
        else:
            _check_order(repo_id, refs.tags, version)
            outcome = _publish(api, repo_id, refs, folder, version, accept, private, Path(scratch))
        with contextlib.suppress(RunError, *client.FAILURES):  # a branch that is left over does no harm
            with_retries(api.delete_branch, repo_id, branch=staging)
    return outcome


def _check_tagged(api: HfApi, repo_id: str, refs: client.Refs, folder: Path, version: str, scratch: Path) -> None:
    """Refuse a tag that holds another release."""
    published = versions.figures_at(repo_id, refs.tags[version], scratch / "tagged") or {}
    ready = _stamp(folder, scratch / "ready", version, published)
    if _is_another(api, repo_id, refs.tags[version], ready):
        raise _taken(repo_id, version)


def check_reason(accept: str | None) -> None:
    """Refuse to accept a worse release for no reason."""
    if accept is not None and not accept.strip():
        raise UsageError("--accept-regression needs the reason, in words: it is published with the release.")


def _publish(
    api: HfApi,
    repo_id: str,
    refs: client.Refs,
    folder: Path,
    version: str,
    accept: str | None,
    private: bool | None,
    scratch: Path,
) -> str:
    branches, staging = refs.branches, f"staging-{version}"
    begun = {
        name: versions.figures_at(repo_id, branches[name], scratch / name)
        for name in ("main", staging)
        if name in branches
    }
    tag = _predecessor(repo_id, refs.tags, begun.get("main") or {}, version)
    old = _release_at(repo_id, tag, refs.tags[tag], scratch / "old") if tag else None
    gate = _pass_gate(regression_gate.gate(release_comparison.read(folder, version), old), repo_id, version, accept)
    added: dict[str, Any] = {"gate": gate.to_json(), "released": _today()}
    added |= _lineage(old.figures, release_folder.read_metrics(folder)) if old else {}
    added |= _begun_with(_figures_of(folder, version, added), begun.values())
    ready = _stamp(folder, scratch / "ready", version, added)
    on_main = begun.get("main") or {}
    # By a call that was stopped before the tag: of the same release, or of another, whose version this is.
    if on_main.get("version") == version and _is_another(api, repo_id, branches["main"], ready):
        raise _unfinished(repo_id, f"another {version}", refs.tags)
    if not branches:
        with_retries(api.create_repo, repo_id, private=private, exist_ok=True)
        branches = client.refs(api, repo_id, must_exist=True).branches
    head = _to_main(api, repo_id, branches, ready, version, scratch / "back")
    _tag(api, repo_id, head, ready, version)
    return f"Published: {repo_id}@{version}. {_describe(gate, tag)}"


def _figures_of(folder: Path, version: str, added: Json) -> Json:
    """The figures of a release as they are published: additions replace those of an earlier publication."""
    figures = {key: value for key, value in release_folder.read_metrics(folder).items() if key not in _ADDED}
    return figures | {"version": version} | {key: added[key] for key in _ADDED if key in added}


def _differing(api: HfApi, repo_id: str, commit: str, ready: Path) -> list[str]:
    """The names of the files in which a commit and a folder differ."""
    return client.differing(client.content(api, repo_id, commit), client.content_of(ready))


def _is_another(api: HfApi, repo_id: str, commit: str, ready: Path) -> bool:
    """Whether a commit holds another release; an earlier dermalert may have worded its card otherwise."""
    differing = _differing(api, repo_id, commit, ready)
    return any(name != CARD and not name.startswith(f"{FIGURES}/{widget.PREFIX}") for name in differing)


def _predecessor(repo_id: str, tags: Collection[str], on_main: Json, version: str) -> str | None:
    """The tag of the release that a new one replaces: the last one, or the one that was rolled back to.

    Where `main` holds the new one already, without its tag, the predecessor is what `main` held before. A `main` that
    holds another one without a tag is refused: nothing could be compared with that later on.
    """
    last, current = versions.last(tags), on_main.get("version")
    if current == version:
        current = on_main.get("previous", {}).get("version")
    elif last and current and current not in tags:
        raise _unfinished(repo_id, current, tags)
    return current if current is not None and current in tags else last


def _release_at(repo_id: str, tag: str, commit: str, to: Path) -> ReleasePredictions | None:
    """The predictions of the release at a tag; None where it is none of ours."""
    folder = client.fetch(repo_id, commit, set(release_comparison.FILES), to)
    return release_comparison.read(folder, tag) if release_folder.find_metrics(folder) else None


def _pass_gate(gate: Gate, repo_id: str, version: str, accept: str | None) -> Gate:
    """The gate's report, with the reason for passing it if there has to be one; RunError where that is lacking."""
    if gate.refused_for and accept is None:
        against = f" in the place of {gate.against}" if gate.against else ""
        figures = f" {_describe(gate)}" if gate.compared else ""
        raise RunError(
            f"{version} is refused{against} on {repo_id}: {'; '.join(gate.refused_for)}.{figures} Improve it, or "
            'publish it all the same with --accept-regression "WHY", which its card will say.'
        )
    return gate.with_reason(accept)


def _describe(gate: Gate, tag: str | None = None) -> str:
    """A sentence about what a release was compared with, and the figures."""
    compared = gate.compared
    if compared is None:
        return f"Compared with nothing: {tag} is no dermalert release." if tag else "It is the first release there."
    changes = [f"{COMPARED[key]} {format_estimate(change.difference, 3)}" for key, change in compared.changes.items()]
    return (
        f"Changes from {gate.against} on {compared.n} images held out of both ({compared.melanomas} "
        f"melanomas): {', '.join(changes) or 'none'}."
    )


def _lineage(old: Json, figures: Json) -> Json:
    """What a card says of the versions before: how the last one differs, and the headline of each."""
    held_out = old["splits"]["held_out"]
    headline = {
        "n": held_out["n"],
        "balanced_accuracy": held_out["balanced_accuracy"],
        "macro_auroc": held_out["macro_auroc"],
        "melanoma_auroc": held_out["melanoma"]["auroc"],
        "ece": held_out["calibration"]["ece"],
    }
    before, here = ({**each["training"]["settings"], "base_model": each["base_model"]} for each in (old, figures))
    previous = {
        "version": old["version"],
        "fingerprint": old["data"]["fingerprint"],
        "settings": {k: [before.get(k), here[k]] for k in here if before.get(k) != here[k]},
        "held_out": headline,
    }
    entry = {"version": old["version"], "released": old.get("released"), **headline}
    return {"previous": previous, "history": [entry, *old.get("history", [])]}


def _begun_with(figures: Json, begun: Iterable[Json | None]) -> Json:
    """The day and the gate, with its reason, of the same release if it was begun before: its files stay the same."""
    figures = json.loads(json.dumps(figures, allow_nan=False))
    for earlier in begun:
        if earlier and "gate" in earlier and _unsigned(earlier) == _unsigned(figures):
            return {key: earlier[key] for key in ("released", "gate")}
    return {}


def _unsigned(figures: Json) -> Json:
    """The figures of a release without the day and the reason for passing the gate."""
    return figures | {"released": None, "gate": figures["gate"] | {"accepted_because": None}}


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def _stamp(folder: Path, to: Path, version: str, added: Json) -> Path:
    """Copy the files of a release, with the version in config, figures and card, and what is added to the figures."""
    for name in contract.files(folder):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, to / name)
    config = json.loads((to / CONFIG).read_text())
    config["dermalert"]["version"] = version
    (to / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    figures = _figures_of(folder, version, added)
    files.write_json(to / METRICS, figures)
    if not figures["data"]["generated"]:
        widget.add(to)
    release_folder.write_card(to)
    return to


def _check_parity(folder: Path, name: str) -> None:
    """Refuse a release that does not load, or does not give the answers that were recorded when it was measured."""
    try:
        Release.load(folder).verify_parity()
    except ParityError as error:
        raise RunError(f"{name} is not published: {error}") from error
    except NoRelease as error:
        raise UsageError(f"{name} cannot be served: {error}") from error


def _to_main(api: HfApi, repo_id: str, branches: dict[str, str], ready: Path, version: str, scratch: Path) -> str:
    """Stage a release, read it back, and move `main` to it; return the commit."""
    staging, main, target = f"staging-{version}", branches["main"], client.content_of(ready)

    def add(name: str) -> CommitOperationAdd:
        return CommitOperationAdd(name, ready / name)

    if not _differing(api, repo_id, main, ready):
        return main
    if staging not in branches:
        with_retries(api.create_branch, repo_id, branch=staging, revision=main, exist_ok=True)
    staged = _put(api, repo_id, staging, branches.get(staging, main), target, add, f"Stage {version}")
    back = client.fetch(repo_id, staged, set(target), scratch)
    if wrong := client.differing(client.content_of(back), target):
        raise RunError(f"what the Hub gives back of {repo_id} is not what was sent ({first_few(wrong)}): try again.")
    _check_parity(back, f"{repo_id} at {staged}")
    return _put(api, repo_id, "main", main, target, add, f"Release {version}")


def _put(
    api: HfApi, repo_id: str, branch: str, parent: str, target: client.Content, add: Callable[[str], Any], message: str
) -> str:
    """Make a branch hold these files of a release, in one commit or in none; `add` gives the operation for a file."""
    names = client.differing(client.content(api, repo_id, parent), target)
    if not names:
        return parent

    def operations() -> list[Any]:
        return [add(name) if name in target else CommitOperationDelete(name) for name in names]

    return client.commit(api, repo_id, branch, operations, parent=parent, target=target, message=message)


def _tag(api: HfApi, repo_id: str, commit: str, ready: Path, version: str) -> None:
    """Tag a commit, unless it is tagged so already, perhaps by an attempt of ours whose answer was lost."""
    try:
        with_retries(api.create_tag, repo_id, tag=version, revision=commit, tag_message=f"dermalert release {version}")
    except HfHubHTTPError as error:
        if status(error) != 409:
            raise
        tagged = client.refs(api, repo_id, must_exist=True).tags[version]
        if _differing(api, repo_id, tagged, ready):
            raise _taken(repo_id, version) from error


def rollback(repo_id: str, version: str) -> str:
    """Make `main` hold an earlier release again, in a commit of its own, and return a sentence about it."""
    versions.check_names(repo_id, version)
    with client.on_the_hub(f"rolling {repo_id} back to {version}"):
        api = HfApi()
        client.check_token(api, repo_id)
        refs = client.refs(api, repo_id)
        if version not in refs.tags:
            raise UsageError(f"{repo_id} has no {version}, only {first_few(sorted(refs.tags)) or 'nothing'}.")
        target, main = client.content(api, repo_id, refs.tags[version]), refs.branches["main"]
        if CONFIG not in target or METRICS not in target:
            raise UsageError(f"{repo_id}@{version} is no dermalert release.")

        def copy(name: str) -> CommitOperationCopy:  # by the Hub itself: no weights travel
            return CommitOperationCopy(name, name, src_revision=refs.tags[version])

        if _put(api, repo_id, "main", main, target, copy, f"Roll back to {version}") == main:
            return f"Nothing to do: main of {repo_id} holds {version} already."
    return f"main of {repo_id} holds {version} again, as a commit of its own; all tags are as they were."
