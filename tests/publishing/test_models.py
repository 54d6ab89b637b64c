import contextlib
import copy
import itertools
import json
import os
import shutil
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest
from dermalert_space import contract
from dermalert_space.contract import FIGURES
from dermalert_space.release import Release
from support.hub_server import Fault, HubServer, environment
from support.pictures import class_folders
from support.publisher import REPO, TIME, Publisher
from support.releases import IMAGES, make_release, measured_release
from support.training import command
from transformers import AutoModelForImageClassification
from typer.testing import CliRunner

from dermalert.cli import app
from dermalert.errors import RunError, UsageError
from dermalert.publishing import models, versions
from dermalert.release import release_folder, widget

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> dict[str, Path]:
    """Releases to copy: two as good as each other, one that is worse."""
    root = tmp_path_factory.mktemp("kinds")
    for name in ("first", "as good"):  # each has a file that the other has not, so that some have to be deleted
        (root / name / "evaluation" / "figures").mkdir(parents=True)
        (root / name / "evaluation" / "figures" / f"{name}.png").write_bytes(b"a picture")
    return {
        "first": measured_release(root / "first"),
        "as good": measured_release(root / "as good", seed=1),
        "worse": measured_release(root / "worse", seed=2, blind=0.3),
        "over-sure": measured_release(root / "over-sure", over_sure=8.0),
    }


@pytest.fixture
def folder(kinds, tmp_path) -> Path:
    return Path(shutil.copytree(kinds["first"], tmp_path / "release"))


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch):
    for patch in TIME:
        monkeypatch.setattr(*patch)


def held(hub: HubServer, revision: str) -> dict[str, bytes]:
    """What a revision holds of a release."""
    return {name: data for name, data in hub.files(REPO, revision).items() if contract.belongs(name)}


def publish_first(hub: HubServer, kinds: dict[str, Path]) -> None:
    hub.once("first", lambda: models.publish(kinds["first"], REPO, "v1.0.0"))


def figures_at(hub: HubServer, revision: str) -> dict:
    return json.loads(hub.files(REPO, revision)["evaluation/metrics.json"])


# What is published


def test_publishing_makes_a_tag_that_loads_with_the_same_weights_and_says_its_version_everywhere(hub, folder):
    before = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert models.publish(folder, REPO, "v2.3.4").startswith("Published: tester/derm@v2.3.4.")
    assert hub.branches(REPO) == {"main": hub.tags(REPO)["v2.3.4"]}
    files = hub.files(REPO, "v2.3.4")
    photographs = [f"{FIGURES}/{example.file}" for example in widget.photographs()]
    assert set(files) - {".gitattributes"} == {*before, *photographs}
    assert len(photographs) == 2 and all(f"src: {name}" in files["README.md"].decode() for name in photographs)
    loaded = Release.load("tester/derm@v2.3.4")
    for name, tensor in Release.load(folder).model.state_dict().items():
        assert tensor.equal(loaded.model.state_dict()[name])
    assert json.loads(files["config.json"])["dermalert"]["version"] == "v2.3.4"
    assert figures_at(hub, "v2.3.4")["version"] == "v2.3.4"
    assert b"# dermalert v2.3.4" in files["README.md"]
    assert {name: (folder / name).read_bytes() for name in before} == before  # the local release stays


def test_a_second_release_replaces_main_and_leaves_the_first_tag(hub, kinds):
    publish_first(hub, kinds)
    before = held(hub, "v1.0.0")
    models.publish(kinds["as good"], REPO, "v1.1.0")
    assert held(hub, "v1.0.0") == before
    second = Release.load(REPO, "v1.1.0").model.state_dict()
    assert any(
        not tensor.equal(second[name]) for name, tensor in Release.load(REPO, "v1.0.0").model.state_dict().items()
    )
    main = AutoModelForImageClassification.from_pretrained(REPO).state_dict()
    assert all(tensor.equal(main[name]) for name, tensor in second.items())


def test_publishing_the_same_release_again_does_nothing_whatever_has_come_after_it(hub, kinds):
    publish_first(hub, kinds)
    models.publish(kinds["as good"], REPO, "v1.1.0")
    heads = hub.branches(REPO)
    for kind, version in (("first", "v1.0.0"), ("as good", "v1.1.0")):
        assert models.publish(kinds[kind], REPO, version).startswith(f"Nothing to do: tester/derm@{version} holds")
    assert hub.branches(REPO) == heads


def test_a_release_whose_card_would_be_worded_otherwise_today_is_the_same_release(hub, kinds, monkeypatch):
    publish_first(hub, kinds)
    monkeypatch.setattr(release_folder.card, "NOT_A_DEVICE", "No device.")
    assert models.publish(kinds["first"], REPO, "v1.0.0").startswith("Nothing to do")
    assert b"No device." not in hub.files(REPO, "v1.0.0")["README.md"]


def test_only_a_releases_own_files_are_uploaded_and_only_those_are_deleted(hub, folder):
    hub.create(REPO)
    hub.commit(REPO, {"LICENSE": b"mine", "models/x.safetensors": b"mine", "evaluation/old.json": b"{}"})
    for name in ("training_args.bin", "optimizer.pt", ".env", "model.pkl"):
        (folder / name).write_text("hf_write")
    models.publish(folder, REPO, "v1.0.0")
    files = hub.files(REPO, "v1.0.0")
    assert {"LICENSE", "models/x.safetensors", "config.json", "model.safetensors"} <= set(files)
    assert not {"training_args.bin", "optimizer.pt", ".env", "model.pkl", "evaluation/old.json"} & set(files)


def test_a_published_release_can_be_published_elsewhere_without_its_history_there(hub, kinds, tmp_path):
    publish_first(hub, kinds)
    models.publish(kinds["as good"], REPO, "v1.1.0")
    for name, data in held(hub, "v1.1.0").items():
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(data)
    models.publish(tmp_path / "copy", "acme/derm", "v1.0.0")
    figures = json.loads(hub.files("acme/derm", "v1.0.0")["evaluation/metrics.json"])
    assert "previous" not in figures
    assert figures["gate"]["against"] is None


# What is refused

REFUSED = {
    "a token that may only read": ("hf_read", REPO, "v1.0.0", "may only read"),
    "an unknown token": ("hf_nobody", REPO, "v1.0.0", "does not know this token"),
    "another owner": ("hf_write", "somebody/derm", "v1.0.0", "cannot write to somebody/derm"),
    "a tag that is taken": ("hf_write", REPO, "v0.9.0", "has a v0.9.0 already"),
    "a version below the last": ("hf_write", REPO, "v0.8.9", "v0.8.9 is below v0.9.0, the last version of"),
    "no owner": ("hf_write", "derm", "v1.0.0", "write it as USER/REPO"),
    "a name that is none": ("hf_write", "tester/de rm", "v1.0.0", "is no repository name"),
    "a version that is none": ("hf_write", REPO, "1.0", "write it like v1.0.0"),
}


def test_what_cannot_be_published_is_refused_before_anything_is_sent(hub, kinds, monkeypatch):
    models.publish(kinds["first"], REPO, "v0.9.0")
    before = hub.branches(REPO)
    for token, repo_id, version, sentence in REFUSED.values():
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(UsageError, match=sentence):
            models.publish(kinds["as good"], repo_id, version)
        assert hub.branches(REPO) == before, sentence


def test_what_is_no_release_is_refused(hub, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")  # which would be asked for first
    with pytest.raises(UsageError, match="holds no release: name a run that has finished"):
        models.publish(tmp_path, REPO, "v1.0.0")
    assert not hub.requests


def test_a_release_that_does_not_load_is_refused_before_anything_is_sent(hub, folder):
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UsageError, match="cannot be served"):
        models.publish(folder, REPO, "v1.0.0")
    assert not hub.requests


def test_a_release_with_other_answers_than_those_measured_is_refused_before_anything_is_sent(hub, folder, tmp_path):
    shutil.copy(make_release(tmp_path / "other", seed=7) / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(RunError, match=r"is not published: .* answers otherwise here than it was measured"):
        models.publish(folder, REPO, "v1.0.0")
    assert not hub.requests


@pytest.mark.parametrize("name", ["model.safetensors", "README.md"])  # one kept in LFS, one in git
def test_what_the_hub_does_not_give_back_as_it_was_sent_never_gets_to_main(name, hub, folder):
    def damage() -> None:
        tree = hub.repo(REPO).tree("staging-v1.0.0")
        entry = tree[name].get("lfs", tree[name])
        whole = hub.blobs[entry["oid"]]
        hub.blobs[entry["oid"]] = whole[:-1] + bytes([whole[-1] ^ 1])

    hub.faults.append(Fault("HEAD", "/README.md$", 503, meanwhile=damage))  # the first that is read back
    with pytest.raises(RunError, match=f"is not what was sent .{name}"):
        models.publish(folder, REPO, "v1.0.0")
    assert set(hub.files(REPO)) == {".gitattributes"}
    assert not hub.tags(REPO)


# The gate


def test_a_first_release_is_asked_for_its_calibration_alone(hub, kinds):
    with pytest.raises(RunError, match=r"v1.0.0 is refused on tester/derm: the expected calibration error is 0.3"):
        models.publish(kinds["over-sure"], REPO, "v1.0.0")
    assert not hub.repos
    models.publish(kinds["over-sure"], REPO, "v1.0.0", accept="to be compared with")
    text = " ".join(hub.files(REPO, "v1.0.0")["README.md"].decode().split())
    assert "It is published against the rules (n = 600 images held out): the expected calibration error is" in text
    assert "The reason given: to be compared with**" in text


def test_a_worse_release_is_refused_with_the_figures_before_anything_is_sent(hub, kinds):
    publish_first(hub, kinds)
    before = hub.branches(REPO), hub.tags(REPO), len(hub.blobs)
    for _ in range(2):  # a retry is no way around it
        with pytest.raises(RunError, match=r"has changed by -0\.\d+ \[-0\.\d+ to -0\.\d+\].*67 melanomas.*--accept"):
            models.publish(kinds["worse"], REPO, "v1.1.0")
    assert (hub.branches(REPO), hub.tags(REPO), len(hub.blobs)) == before


def test_the_reason_for_a_worse_release_is_in_its_figures_and_in_its_card(hub, kinds):
    publish_first(hub, kinds)
    models.publish(kinds["worse"], REPO, "v1.1.0", accept="half the size,\n and made for phones")
    gate = figures_at(hub, "v1.1.0")["gate"]
    assert gate["accepted_because"] == "half the size, and made for phones"
    assert gate["against"] == "v1.0.0"
    assert "melanoma AUROC" in gate["refused_for"][0]
    card = " ".join(hub.files(REPO, "v1.1.0")["README.md"].decode().split())
    assert "The reason given: half the size, and made for phones**" in card


def test_a_reason_is_not_written_where_none_was_needed(hub, kinds):
    models.publish(kinds["first"], REPO, "v1.0.0", accept="made for phones")
    assert figures_at(hub, "v1.0.0")["gate"]["accepted_because"] is None
    assert b"made for phones" not in hub.files(REPO, "v1.0.0")["README.md"]


@pytest.mark.usefixtures("hub")
def test_no_reason_is_no_reason(kinds):
    for reason in ("", "  \n"):
        with pytest.raises(UsageError, match="needs the reason"):
            models.publish(kinds["first"], REPO, "v1.0.0", accept=reason)


@pytest.mark.usefixtures("hub")
def test_a_release_of_too_few_images_in_common_is_refused(kinds, tmp_path):
    models.publish(kinds["first"], REPO, "v1.0.0")
    few = measured_release(tmp_path / "few", images=IMAGES // 2)
    with pytest.raises(
        RunError, match=r"^v1.1.0 is refused.*\d+ melanomas and \d+ others .* takes 50 of each to compare"
    ):
        models.publish(few, REPO, "v1.1.0")


def test_a_tag_that_is_no_release_is_said_and_not_compared_with(hub, kinds):
    hub.create(REPO)
    hub.repo(REPO).tags["v0.9.0"] = hub.commit(REPO, {"config.json": b"{}"})
    said = models.publish(kinds["worse"], REPO, "v1.0.0")
    assert "Compared with nothing: v0.9.0 is no dermalert release." in said
    assert set(hub.tags(REPO)) == {"v0.9.0", "v1.0.0"}


def test_what_replaces_a_release_that_was_rolled_back_to_is_compared_with_that_one(hub, kinds):
    publish_first(hub, kinds)
    models.publish(kinds["worse"], REPO, "v1.1.0", accept="a mistake")
    models.rollback(REPO, "v1.0.0")
    with pytest.raises(RunError, match=r"in the place of v1.0.0"):
        models.publish(kinds["worse"], REPO, "v1.2.0")
    models.publish(kinds["as good"], REPO, "v1.2.0")
    assert figures_at(hub, "v1.2.0")["gate"]["against"] == "v1.0.0"


def test_a_release_without_a_tag_on_main_is_not_replaced_uncompared(hub, kinds):
    publish_first(hub, kinds)
    models.publish(kinds["as good"], REPO, "v1.1.0")
    del hub.repo(REPO).tags["v1.1.0"]  # as if it had been stopped there
    for version, there in (("v1.2.0", "v1.1.0"), ("v1.1.0", "another v1.1.0")):
        sentence = f"main of tester/derm holds {there}, which has no tag yet.*rollback tester/derm v1.0.0"
        with pytest.raises(UsageError, match=sentence):
            models.publish(kinds["first"], REPO, version)
        with pytest.raises(UsageError, match=sentence):  # before the training, too
            models.check_can_publish(REPO, version)
    models.rollback(REPO, "v1.0.0")
    models.check_can_publish(REPO, "v1.2.0")
    models.publish(kinds["first"], REPO, "v1.2.0")


def test_a_first_release_that_waits_for_its_tag_is_not_said_to_have_one(hub, kinds):
    publish_first(hub, kinds)
    del hub.repo(REPO).tags["v1.0.0"]
    sentence = "holds another v1.0.0, which has no tag yet: finish publishing it by .* or choose the next --tag"
    with pytest.raises(UsageError, match=sentence):
        models.publish(kinds["as good"], REPO, "v1.0.0")
    with pytest.raises(UsageError, match=sentence):
        models.check_can_publish(REPO, "v1.0.0")
    models.check_can_publish(REPO, "v1.1.0")
    models.publish(kinds["as good"], REPO, "v1.1.0")


@pytest.mark.parametrize("stopped_at", ["/commit/main", "/tag/"])
def test_a_release_is_finished_with_the_reason_that_it_was_begun_with(stopped_at, hub, kinds):
    hub.faults.append(Fault("POST", stopped_at, 500, times=100))
    with pytest.raises(RunError, match="same command again"):
        models.publish(kinds["over-sure"], REPO, "v1.0.0", accept="to be compared with")
    hub.faults.clear()
    models.publish(kinds["over-sure"], REPO, "v1.0.0", accept="worded otherwise")
    assert figures_at(hub, "v1.0.0")["gate"]["accepted_because"] == "to be compared with"
    assert b"worded otherwise" not in hub.files(REPO, "v1.0.0")["README.md"]


def test_what_the_last_release_has_learnt_from_is_not_known_where_it_has_no_list(hub, kinds, folder):
    (folder / "evaluation" / "seen.parquet").unlink()
    models.publish(folder, REPO, "v1.0.0")
    models.publish(kinds["as good"], REPO, "v1.1.0")
    assert figures_at(hub, "v1.1.0")["gate"]["compared"]["learnt_from_not_known"] == ["old"]
    assert b"What v1.0.0 has learnt from is not known" in hub.files(REPO, "v1.1.0")["README.md"]


def test_a_damaged_table_of_the_last_release_is_named(hub, kinds):
    publish_first(hub, kinds)
    files = held(hub, "v1.0.0") | {"evaluation/predictions.parquet": b"damaged"}
    hub.repo(REPO).tags["v1.0.0"] = hub.commit(REPO, files)
    with pytest.raises(UsageError, match=r"evaluation/predictions.parquet of 'v1.0.0' is damaged"):
        models.publish(kinds["as good"], REPO, "v1.1.0")


def test_a_card_lists_the_versions_before_it_with_their_days(hub, kinds):
    for version, kind in (("v1.0.0", "first"), ("v1.1.0", "as good"), ("v1.2.0", "first")):
        models.publish(kinds[kind], REPO, version)
    card = hub.files(REPO, "v1.2.0")["README.md"].decode()
    day = figures_at(hub, "v1.2.0")["released"]
    assert f"v1.2.0 was released on {day}." in card
    assert [line.split(" | ")[:3] for line in card.splitlines() if line.startswith("| v1.")] == [
        ["| v1.1.0", day, "600"],
        ["| v1.0.0", day, "600"],
    ]


# Failures on the way


def test_the_token_is_in_no_file_and_no_message(hub, kinds, caplog, capsys):
    publish_first(hub, kinds)
    hub.faults.append(Fault("POST", "/tag/", 500, times=100))
    with pytest.raises(RunError) as failed:
        models.publish(kinds["as good"], REPO, "v1.1.0")
    assert not [blob for blob in hub.blobs.values() if b"hf_write" in blob]
    assert "hf_write" not in str(failed.value) + caplog.text + "".join(capsys.readouterr())


BEFORE, AFTER = (500, False), ("drop", True)  # its effect; after it only the answer is lost
ON_THE_WAY = [("whoami", BEFORE), ("/refs", AFTER), ("repos/create", BEFORE), ("/branch/", AFTER)]
ON_THE_WAY += [("/commit/staging", BEFORE), ("/commit/main", BEFORE), ("/commit/main", AFTER), ("/tree/", BEFORE)]
ON_THE_WAY += [("/tag/", BEFORE), ("/tag/", AFTER)]


@pytest.mark.parametrize(("path", "fault"), ON_THE_WAY)
def test_a_failure_that_stays_leaves_no_tag_or_a_whole_one_and_the_same_call_finishes(path, fault, hub, folder):
    status, after = fault
    hub.faults.append(Fault("GET|POST", path, status, after=after, times=100))
    # A commit that is there although each answer was lost is found by the next look at the branch.
    with (
        contextlib.nullcontext()
        if after and "/commit/" in path
        else pytest.raises(RunError, match="same command again")
    ):
        models.publish(folder, REPO, "v1.0.0")
    hub.faults.clear()
    if "models/tester/derm" in hub.repos and hub.tags(REPO):
        assert "model.safetensors" in hub.files(REPO, "v1.0.0")
    models.publish(folder, REPO, "v1.0.0")
    assert set(hub.tags(REPO)) == {"v1.0.0"}
    assert set(hub.branches(REPO)) == {"main"}


@pytest.mark.parametrize("fault", [{"status": 500, "times": 100}, {"status": 429, "headers": {"Retry-After": "700"}}])
def test_a_staging_branch_that_cannot_be_deleted_does_not_fail_the_release(fault, hub, folder):
    hub.faults.append(Fault("DELETE", "/branch/", **fault))
    assert models.publish(folder, REPO, "v1.0.0").startswith("Published")
    assert set(hub.branches(REPO)) == {"main", "staging-v1.0.0"}
    hub.faults.clear()
    models.publish(folder, REPO, "v1.0.0")
    assert set(hub.branches(REPO)) == {"main"}


VANISHED = "the Hub has no such repository any more, or does not show it to this token"


@pytest.mark.parametrize("at", ["repos/create", "/commit/staging", "/commit/main", "resolve/.*/config.json"])
def test_a_new_repository_that_vanishes_on_the_way_is_not_made_again(at, hub, folder):
    hub.requests.clear()
    hub.vanish(REPO, at=at)
    with pytest.raises(RunError, match=VANISHED):
        models.publish(folder, REPO, "v1.0.0")
    assert not hub.faults[0].times
    assert not hub.repos
    assert hub.creations() == 1


@pytest.mark.long
def test_a_repository_that_vanishes_after_any_request_is_not_made_again(hub, kinds):
    sweep = Sweep(hub, kinds)
    for index in range(2, sweep.requests):  # the first two ask for the account and, here first, for the repository
        sweep.reset()
        hub.requests.clear()
        hub.vanish(REPO, skip=index - 1)
        try:
            models.publish(sweep.folder, REPO, "v1.1.0")
        except RunError as error:
            assert VANISHED in str(error), index
        assert not hub.faults[0].times, index
        assert not hub.repos, index
        assert not hub.creations(), index


def test_a_repository_that_was_there_before_the_training_is_not_made_after_it(hub, folder):
    hub.create(REPO)
    assert models.check_can_publish(REPO, "v1.0.0")
    hub.repos.clear()
    assert not models.check_can_publish(REPO, "v1.0.0")
    with pytest.raises(RunError, match=VANISHED):
        models.publish(folder, REPO, "v1.0.0", must_exist=True)
    assert not hub.repos


def test_what_was_staged_on_another_day_is_finished_as_the_release_of_that_day(hub, folder, monkeypatch):
    hub.faults.append(Fault("POST", "/commit/main", 500, times=100))
    with monkeypatch.context() as then, pytest.raises(RunError):
        then.setattr(models, "_today", lambda: "2020-02-02")
        models.publish(folder, REPO, "v1.0.0")
    hub.faults.clear()
    staged = hub.branches(REPO)["staging-v1.0.0"]
    models.publish(folder, REPO, "v1.0.0")
    assert figures_at(hub, "v1.0.0")["released"] == "2020-02-02"
    assert held(hub, "v1.0.0") == held(hub, staged)


class Sweep:
    """A second release, published again and again from the same state of the Hub, each time with another failure."""

    def __init__(self, hub: HubServer, kinds: dict[str, Path]):
        self.hub, self.folder = hub, kinds["as good"]
        publish_first(hub, kinds)
        self._state = hub.state()
        self.before = held(hub, "main")
        hub.requests.clear()
        models.publish(self.folder, REPO, "v1.1.0")
        self.whole, self.requests = held(hub, "v1.1.0"), len(hub.requests)

    def reset(self, fault: Fault | None = None) -> None:
        """Bring back the Hub as it was before the second release, and order a failure."""
        self.hub.restore(self._state)
        self.hub.faults[:] = [fault] if fault else []

    def check_nothing_is_half_there(self, where: object) -> None:
        """Look at what a failure has left."""
        assert held(self.hub, "main") in (self.before, self.whole), where
        if "v1.1.0" in self.hub.tags(REPO):
            assert held(self.hub, "v1.1.0") == self.whole, where
        assert held(self.hub, "v1.0.0") == self.before, where

    def check_it_is_finished(self, where: object) -> None:
        """Look at what the same command has made of it."""
        assert held(self.hub, "v1.1.0") == self.whole, where
        assert self.hub.branches(REPO) == {"main": self.hub.tags(REPO)["v1.1.0"]}, where
        assert not [blob for blob in self.hub.blobs.values() if b"hf_write" in blob], where

    def of_faults(self, names: list[str], every: int = 1) -> None:
        """Let each request in turn, or every so many, fail once, in turn by each name: that must not fail a release."""
        for index, name in zip(range(0, self.requests, every), itertools.cycle(names)):
            self.reset(Fault(".*", "", skip=index, **FAULTS[name]))
            models.publish(self.folder, REPO, "v1.1.0")
            assert self.hub.faults[0].times == 0, (name, index)
            self.check_it_is_finished((name, index))

    def of_kills(self, publisher: Publisher, faults: list[Fault]) -> None:
        """Kill the process where each fault stands."""
        for fault in faults:
            pid, known = [], threading.Event()

            def kill(pid=pid, known=known) -> None:
                assert known.wait(60)
                os.kill(pid[0], signal.SIGKILL)

            fault.meanwhile = kill
            self.reset(fault)
            pid.append(publisher.start(self.folder, "v1.1.0"))
            known.set()
            code, said = publisher.end()
            assert code is None, (fault, said)
            self.check_nothing_is_half_there(fault)
            publisher.start(self.folder, "v1.1.0")
            code, said = publisher.end()
            assert code == 0, (fault, said)
            assert "hf_write" not in said
            self.check_it_is_finished(fault)


FAULTS = {
    "429": {"status": 429},
    "429 with Retry-After": {"status": 429, "headers": {"Retry-After": "7"}},
    "429 with RateLimit": {"status": 429, "headers": {"RateLimit": '"api";r=0;t=7'}},
    "500": {"status": 500},
    "503": {"status": 503},
    "broken off before its effect": {"status": "drop"},
    "broken off after its effect": {"status": "drop", "after": True},
    "500 after its effect": {"status": 500, "after": True},
}


@pytest.fixture
def sweep(hub, kinds) -> Sweep:
    return Sweep(hub, kinds)


@pytest.fixture(scope="module")
def publishers():
    started = [Publisher(environment(os.environ["HF_ENDPOINT"], Path(os.environ["HF_HOME"]))) for _ in range(2)]
    yield started
    for publisher in started:
        publisher.close()


def test_one_request_that_fails_does_not_fail_the_release(sweep):
    assert sweep.requests > 50
    sweep.of_faults([*FAULTS], every=7)  # each fault about once


@pytest.mark.parametrize("path", ["/branch/", "/commit/staging", "/commit/main", "/tag/"])
def test_what_took_effect_although_its_answer_was_lost_is_no_error(path, sweep):
    sweep.reset(Fault("POST|DELETE", path, "drop", after=True))
    models.publish(sweep.folder, REPO, "v1.1.0")
    assert sweep.hub.faults[0].times == 0
    sweep.check_it_is_finished(path)


@pytest.mark.long
@pytest.mark.parametrize(
    "name", [name for name in FAULTS if name not in ("429 with RateLimit", "500 after its effect")]
)
def test_no_request_that_fails_once_fails_the_release(name, sweep):
    sweep.of_faults([name])


@pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after its effect"])
def test_a_publisher_that_is_killed_leaves_nothing_half_and_the_same_command_finishes(after, sweep, publishers):
    sweep.of_kills(publishers[0], [Fault("POST", "/commit/main", "drop", after=after)])


@pytest.mark.long
@pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after its effect"])
def test_a_publisher_may_be_killed_at_any_request(after, sweep, publishers):
    sweep.of_kills(publishers[0], [Fault(".*", "", "drop", skip=i, after=after) for i in range(sweep.requests)])


# Two at once


def race(sweep: Sweep, publishers: list[Publisher], folders: list[Path], versions: list[str]) -> list[tuple]:
    sweep.reset()
    for publisher, folder, version in zip(publishers, folders, versions, strict=True):
        publisher.start(folder, version)
    return [publisher.end() for publisher in publishers]


def check_race(hub: HubServer, ends: list[tuple], folders: list[Path], versions: list[str]) -> int:
    """Look at who won, and return how many did."""
    won = [(folder, version) for (code, _), folder, version in zip(ends, folders, versions, strict=True) if code == 0]
    assert won, ends
    assert set(hub.tags(REPO)) == {"v1.0.0", *(version for _, version in won)}, ends
    assert hub.branches(REPO)["main"] in hub.tags(REPO).values(), ends
    for folder, version in won:
        there = held(hub, version)
        assert json.loads(there["config.json"])["dermalert"]["version"] == version
        weights, parity = "model.safetensors", "evaluation/parity.safetensors"
        assert [there[name] for name in (weights, parity)] == [
            (folder / name).read_bytes() for name in (weights, parity)
        ]
    for code, said in ends:
        if code != 0:
            assert " / " not in said, said
            assert "somebody else has changed" in said or "already" in said or "has no tag yet" in said, said
    return len(won)


def races(sweep: Sweep, publishers: list[Publisher], folders: list[Path], versions: list[str], tries: int) -> Counter:
    found = Counter()
    for _ in range(tries):
        ends = race(sweep, publishers, folders, versions)
        found[check_race(sweep.hub, ends, folders, versions)] += 1
    return found


@pytest.mark.parametrize("tries", [1, pytest.param(40, marks=pytest.mark.long)])
def test_of_two_publishers_of_one_version_one_wins_and_the_other_is_told(tries, sweep, publishers, kinds):
    assert set(races(sweep, publishers, [kinds["first"], kinds["as good"]], ["v1.1.0"] * 2, tries)) == {1}


def test_two_publishers_of_one_release_both_find_it_there(sweep, publishers, kinds):
    ends = race(sweep, publishers, [kinds["as good"]] * 2, ["v1.1.0"] * 2)
    assert 0 in [code for code, _ in ends], ends
    assert held(sweep.hub, "v1.1.0") == sweep.whole


@pytest.mark.long
def test_two_publishers_of_two_versions_never_mix(sweep, publishers, kinds):
    races(sweep, publishers, [kinds["first"], kinds["as good"]], ["v1.1.0", "v1.2.0"], tries=40)


@pytest.mark.parametrize("path", ["/commit/staging", "/commit/main"])
def test_who_comes_second_is_told_in_one_sentence(path, hub, kinds):
    publish_first(hub, kinds)

    def other() -> None:
        branch = "main" if path.endswith("main") else "staging-v1.1.0"
        hub.commit(REPO, {"config.json": b'{"of": "another"}'}, branch)

    hub.faults.append(Fault("POST", path, 503, meanwhile=other))
    with pytest.raises(RunError, match=r"^somebody else has changed tester/derm at the same time, and was first"):
        models.publish(kinds["as good"], REPO, "v1.1.0")
    assert set(hub.tags(REPO)) == {"v1.0.0"}


# Back to an earlier release


def test_a_rollback_makes_main_hold_the_earlier_release_by_a_new_commit(hub, kinds):
    publish_first(hub, kinds)
    models.publish(kinds["as good"], REPO, "v1.1.0")
    hub.commit(REPO, {"evaluation/new.json": b"{}", "NOTES.md": b"mine"})
    tags, head = hub.tags(REPO), hub.branches(REPO)["main"]
    assert models.rollback(REPO, "v1.0.0").startswith("main of tester/derm holds v1.0.0 again")
    assert held(hub, "main") == held(hub, "v1.0.0")
    assert hub.files(REPO)["NOTES.md"] == b"mine"
    assert hub.tags(REPO) == tags
    main = hub.branches(REPO)["main"]
    assert hub.repo(REPO).commits[main]["parent"] == head
    assert models.rollback(REPO, "v1.0.0") == "Nothing to do: main of tester/derm holds v1.0.0 already."
    assert hub.branches(REPO)["main"] == main


def test_a_rollback_uploads_no_weights(hub, kinds):
    publish_first(hub, kinds)
    models.publish(kinds["as good"], REPO, "v1.1.0")
    hub.requests.clear()
    models.rollback(REPO, "v1.0.0")
    assert not [request for request in hub.requests if request.method == "PUT" or "safetensors" in request.path]


def test_no_request_that_fails_once_fails_a_rollback(sweep):
    published = copy.deepcopy(sweep.hub.repos)
    sweep.hub.requests.clear()
    models.rollback(REPO, "v1.0.0")
    requests = len(sweep.hub.requests)
    for i, name in zip(range(requests), itertools.cycle(FAULTS)):
        sweep.hub.repos.update(copy.deepcopy(published))
        sweep.hub.faults[:] = [Fault(".*", "", skip=i, **FAULTS[name])]
        models.rollback(REPO, "v1.0.0")
        assert held(sweep.hub, "main") == sweep.before, (i, name)
        assert sweep.hub.faults[0].times == 0


def test_what_cannot_be_rolled_back_to_is_refused(hub, kinds):
    hub.create(REPO)
    hub.repo(REPO).tags["v0.9.0"] = hub.commit(REPO, {"LICENSE": b"mine"})
    models.publish(kinds["first"], REPO, "v1.0.0")
    before = hub.branches(REPO)
    sentences = {"v3.0.0": "only v0.9.0, v1.0.0", "v0.9.0": "no dermalert release", "1": "write it like v1.0.0"}
    for version, sentence in sentences.items():
        with pytest.raises(UsageError, match=sentence):
            models.rollback(REPO, version)
    assert hub.branches(REPO) == before


# What is there


def test_the_versions_are_listed_with_days_and_figures_the_last_first(hub, kinds):
    models.publish(kinds["first"], REPO, "v1.9.0")
    models.publish(kinds["as good"], REPO, "v1.10.0")
    hub.repo(REPO).tags["before"] = hub.commit(REPO, {"LICENSE": b"mine"}, "main")
    models.rollback(REPO, "v1.9.0")
    found = versions.read(REPO)
    assert [(row.tag, row.is_on_main) for row in found] == [("v1.10.0", False), ("v1.9.0", True), ("before", False)]


def test_figures_of_somebody_else_are_listed_as_no_release(hub):
    hub.create(REPO)
    hub.repo(REPO).tags["v0.1.0"] = hub.commit(REPO, {"evaluation/metrics.json": b'{"schema": 3, "splits": {}}'})
    found = versions.read(REPO)
    assert [row.figures for row in found] == [None]
    assert list(versions.as_table(found, title=REPO).columns[1].cells) == ["no dermalert release"]


@pytest.mark.usefixtures("hub")
def test_the_versions_of_nothing_are_refused():
    with pytest.raises(UsageError, match="'tester/nothing' is no model repository of the Hub"):
        versions.read("tester/nothing")


# As a user types it


def dermalert(*words: object):
    return CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "200"})


@pytest.mark.usefixtures("hub")
def test_publish_versions_compare_and_rollback_as_a_user_types_them(kinds, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(kinds["first"], run / "release")
    assert "Published: tester/derm@v1.0.0." in dermalert("publish", run, REPO, "--tag", "v1.0.0").stdout
    refused = dermalert("publish", kinds["worse"], REPO, "--version", "v1.1.0")
    assert refused.exit_code == 1
    assert "v1.1.0 is refused in the place of v1.0.0" in refused.stderr
    why = ["--accept-regression", "a test"]
    assert dermalert("publish", kinds["worse"], REPO, "--version", "v1.1.0", *why).exit_code == 0
    told = dermalert("compare", run, f"{REPO}@v1.1.0", "--json", tmp_path / "told.json")
    assert "600 images in 600 groups were held out of both" in told.stdout
    assert json.loads((tmp_path / "told.json").read_text())["melanoma_auroc"]["difference"]["high"] < 0
    assert "main of tester/derm holds v1.0.0 again" in dermalert("rollback", REPO, "v1.0.0").stdout
    listed = dermalert("versions", REPO).stdout
    assert "v1.0.0 (main)" in listed
    assert "v1.1.0" in listed
    assert "hf_write" not in refused.stderr + told.stdout + listed


@pytest.mark.long
def test_two_trainings_publish_their_releases_the_second_from_the_tag_of_the_first(hub, tmp_path, capsys):
    class_folders(tmp_path / "pictures", images=30)

    def run(name: str, base: str, version: str) -> str:
        more = ("--num_train_epochs", "1", "--push_to_hub", "--hub_model_id", REPO, "--tag", version)
        more += ("--accept_regression", "too few pictures to compare", "--hub_private_repo")
        assert command(tmp_path / "pictures", base, tmp_path / name, *more) == 0
        return "".join(capsys.readouterr())

    output = run("one", str(make_release(tmp_path / "base", alert=False)), "v1.0.0")
    output += run("two", f"{REPO}@v1.0.0", "v1.1.0")
    assert set(hub.tags(REPO)) == {"v1.0.0", "v1.1.0"}
    assert hub.repo(REPO).private
    weights = [hub.files(REPO, version)["model.safetensors"] for version in ("v1.0.0", "v1.1.0")]
    assert weights[0] != weights[1]
    for version in ("v1.0.0", "v1.1.0"):
        files = hub.files(REPO, version)
        assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
        assert not [name for name, data in files.items() if os.environ["HF_TOKEN"].encode() in data]
        assert b"\nlicense:" in files["README.md"].split(b"---\n", 2)[1]
    assert b"too few pictures to compare" in hub.files(REPO, "v1.1.0")["README.md"]
    again = run("two", f"{REPO}@v1.0.0", "v1.1.0")
    assert "nothing is left to train" in again
    assert "Nothing to do: tester/derm@v1.1.0 holds this release already" in again
    assert "hf_write" not in output + again
