import contextlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dermalert_space.contract import BUNDLED
from dermalert_space.page import examples
from dermalert_space.release import Release
from huggingface_hub import HfApi, SpaceCard, snapshot_download
from PIL import Image
from support.hub_server import Fault, environment
from support.paths import REPOSITORY
from support.releases import figures, make_image, make_release
from transformers import pipeline
from typer.testing import CliRunner

from dermalert.cli import app
from dermalert.errors import RunError, UsageError
from dermalert.hub import retries
from dermalert.publishing import models, spaces, web_export, web_runtime
from dermalert.release import onnx_export, release_folder

pytestmark = pytest.mark.integration

SPACE, MODEL = "tester/alert", "tester/derm"
BUILDING = {"stage": "BUILDING"}
EXAMPLES = {f"examples/{path.name}" for path in examples.FOLDER.iterdir()}
PAGE = spaces.SOURCE / "dermalert_space" / "page"
SOURCES = [*spaces.SOURCE.rglob("*.py"), *(path for kind in ("js", "json", "png") for path in PAGE.glob(f"*.{kind}"))]
PARTS = {path.relative_to(spaces.SOURCE).as_posix() for path in SOURCES}
STYLE = "dermalert_space/page/style.css"
FILES = {".gitattributes", "README.md", "requirements.txt", STYLE} | PARTS | EXAMPLES


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(spaces, "POLL", 0.01)
    monkeypatch.setattr(spaces, "GRACE", 0.1)
    monkeypatch.setattr(retries, "SECOND", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A release with weights, config, processor, figures and card, without training."""
    folder = make_release(tmp_path_factory.mktemp("runs") / "release", generated=False)
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(figures()))
    (folder / "onnx").mkdir()
    for name in ("graph", "model"):
        onnx_export.export(folder, Release.load(folder).processor, name)
    release_folder.write_card(folder)
    return folder


@pytest.fixture
def published(hub, folder):
    """The Hub with two releases."""
    versions, why = ("v1.0.0", "v1.1.0"), "the same once more"
    hub.once("two releases", lambda: [models.publish(folder, MODEL, version, accept=why) for version in versions])
    return hub


def deploy(model: str = f"{MODEL}@v1.0.0", **options) -> str:
    """Deploy, and return all that was said."""
    said: list[str] = []
    spaces.deploy(SPACE, model, say=said.append, **options)
    return "\n".join(said)


def told(said: str) -> list[str]:
    """The stages that were said."""
    return re.findall(f"^{SPACE}: ([A-Z_]+)$", said, re.MULTILINE)


def metadata(hub) -> dict:
    text = hub.files(SPACE, repo_type="space")["README.md"].decode()
    assert text.endswith((REPOSITORY / "space" / "README.md").read_text().split("---\n", 2)[2]), "the rest is as it was"
    return SpaceCard(text).data.to_dict()


def writes(hub, since: int) -> list[str]:
    """The requests since the one of a number that change something on the Hub."""
    harmless = ("/preupload/", "/api/validate-yaml", "/api/repos/create")  # the last where it exists already
    sent = [f"{each.method} {each.path}" for each in hub.requests[since:] if each.method not in ("GET", "HEAD")]
    return [line for line in sent if not any(part in line for part in harmless)]


# What a deployment leaves


def test_a_space_holds_its_files_and_nothing_that_lies_beside_them(published, tmp_path, monkeypatch):
    source = Path(shutil.copytree(spaces.SOURCE, tmp_path / "space", ignore=shutil.ignore_patterns("model")))
    for name in (".env", "model/config.json", "__pycache__/app.pyc", "examples/a.txt", "app.py.orig", ".gradio/x.py"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("hf_write")
    monkeypatch.setattr(spaces, "SOURCE", source)
    deploy()
    files = published.files(SPACE, repo_type="space")
    assert set(files) == FILES
    for name in FILES - {".gitattributes", "README.md"}:
        assert files[name] == (REPOSITORY / "space" / name).read_bytes()


def own_examples(
    folder: Path, *, table: str = "file,caption,attribution\na.jpg,A nevus,Dr Doe (CC0)\n", **save
) -> Path:
    folder.mkdir()
    make_image((90, 70)).save(folder / "a.jpg", **save)
    (folder / "attribution.csv").write_text(table)
    return folder


def test_the_publishers_own_examples_take_the_place_of_the_generated_ones(published, tmp_path):
    deploy()
    deploy(shown=own_examples(tmp_path / "own"))
    files = published.files(SPACE, repo_type="space")
    assert {name for name in files if name.startswith("examples/")} == {"examples/a.jpg", "examples/attribution.csv"}
    assert files["examples/a.jpg"] == (tmp_path / "own" / "a.jpg").read_bytes()
    deploy()
    assert set(published.files(SPACE, repo_type="space")) == FILES


EXIF = Image.Exif()
EXIF[0x010E] = "Jane Doe, born 1970"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"table": "file,caption,attribution\n"}, r"must name each image .* once: a\.jpg\."),
        (
            {"table": "file,caption,attribution\na.jpg,A nevus,\n"},
            r"say what 'a\.jpg' shows \(caption\) and whose it is",
        ),
        ({"table": "file,caption,attribution\na.jpg,x,y\n../b.jpg,x,y\n"}, r"once: \.\./b\.jpg\."),
        ({"exif": EXIF}, r"has EXIF metadata, which may tell of a patient"),
    ],
)
def test_examples_that_cannot_be_shown_are_refused_before_anything_is_written(published, tmp_path, wrong, said):
    sent = len(published.requests)
    with pytest.raises(UsageError, match=f"--examples: .*{said}"):
        deploy(shown=own_examples(tmp_path / "own", **wrong))
    assert len(published.requests) == sent


@pytest.mark.usefixtures("published")
def test_a_folder_without_a_table_of_its_examples_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"has no attribution\.csv that can be read: write one with the columns file"):
        deploy(shown=tmp_path)


def test_a_release_is_served_by_tag_and_fetched_at_build_time_by_commit(published):
    assert "RUNNING" in deploy()
    assert published.repo(SPACE, "space").variables == {"MODEL_ID": MODEL, "MODEL_REVISION": "v1.0.0"}
    data = metadata(published)
    assert data["models"] == [MODEL]
    (preloaded,) = data["preload_from_hub"]
    assert "onnx/model.onnx" in published.files(MODEL), "which is for others"
    names = "config.json,evaluation/metrics.json,model.safetensors,onnx/graph.onnx,preprocessor_config.json"
    assert preloaded == f"{MODEL} {names} {published.tags(MODEL)['v1.0.0']}"
    source = SpaceCard.load(REPOSITORY / "space" / "README.md").data.to_dict()
    picture = data["thumbnail"].partition(f"/spaces/{SPACE}/resolve/main/")[2]
    assert published.files(SPACE, repo_type="space")[picture].startswith(b"\x89PNG")
    assert data.keys() - source.keys() == {"models", "preload_from_hub", "thumbnail"} and data | source == data


def test_another_release_takes_the_place_of_the_one_before_and_back(published):
    for version in ("v1.0.0", "v1.1.0", "v1.0.0"):
        assert ": changed" in deploy(f"{MODEL}@{version}")
        assert published.repo(SPACE, "space").variables["MODEL_REVISION"] == version
        assert metadata(published)["preload_from_hub"][0].split()[-1] == published.tags(MODEL)[version]


def test_the_same_again_changes_nothing_and_says_so(published):
    deploy()
    head, sent = published.branches(SPACE, "space"), len(published.requests)
    assert "nothing to change" in deploy()
    assert published.branches(SPACE, "space") == head
    assert writes(published, sent) == []


def test_what_an_earlier_version_left_goes_and_what_somebody_added_stays(published):
    deploy()
    mine = {"notes/mine.py": b"", "LICENSE": b"mine", "helpers.py": b""}
    published.commit(SPACE, mine, repo_type="space")
    deploy()
    assert set(published.files(SPACE, repo_type="space")) == FILES | {"notes/mine.py", "LICENSE"}


def test_a_private_space_stays_private(published):
    deploy(private=True)
    assert published.repo(SPACE, "space").private
    deploy()
    assert published.repo(SPACE, "space").private


def test_a_release_that_is_not_open_is_not_fetched_at_build_time_and_asks_for_a_token(published):
    published.repo(MODEL).private = True
    assert "give the Space a secret HF_TOKEN" in deploy()
    assert "preload_from_hub" not in metadata(published)
    assert metadata(published)["models"] == [MODEL]


# Waiting


def test_the_stages_on_the_way_are_told_once_each(published):
    published.stages += [BUILDING] * 3 + [{"stage": "APP_STARTING"}]
    assert told(deploy()) == ["BUILDING", "APP_STARTING", "RUNNING"]


def test_the_state_of_the_commit_before_is_not_taken_for_this_ones(published):
    before = {"sha": "0" * 40}
    published.stages += [BUILDING, {"stage": "RUNNING"} | before, {"stage": "BUILD_ERROR"} | before, BUILDING]
    assert told(deploy()) == ["BUILDING", "RUNNING"]


@pytest.mark.parametrize("stage", ["RUNNING", "BUILD_ERROR"])
def test_an_answer_without_a_commit_is_not_taken_for_the_new_ones_until_it_is_on_its_way(published, stage, monkeypatch):
    monkeypatch.setattr(spaces, "GRACE", 60)
    published.stages += [BUILDING] + [{"stage": stage, "sha": None}] * 3 + [BUILDING | {"sha": None}]
    published.stages += [{"stage": "RUNNING", "sha": None}]
    assert told(deploy()) == ["BUILDING", "RUNNING"]
    assert not published.stages


def test_where_only_a_variable_changed_the_state_from_before_the_restart_is_not_the_end(published, monkeypatch):
    deploy()
    published.repo(SPACE, "space").variables["MODEL_REVISION"] = "v0.9.0"
    monkeypatch.setattr(spaces, "GRACE", 60)
    published.stages += [{"stage": "RUNNING"}] * 4 + [{"stage": "RUNNING_APP_STARTING"}]
    assert told(deploy()) == ["RUNNING_APP_STARTING", "RUNNING"]


def test_what_is_never_seen_on_its_way_is_believed_after_a_while(published):
    published.stages += [BUILDING] + [{"stage": "BUILD_ERROR", "sha": None}] * 1000
    with pytest.raises(RunError, match=r"does not run \(BUILD_ERROR\)"):
        deploy()
    assert 0 < len(published.stages) < 999, "not at the first look"


def test_where_nothing_changed_an_answer_without_a_commit_is_believed_at_once(published, monkeypatch):
    deploy()
    monkeypatch.setattr(spaces, "GRACE", 60)
    published.stages += [{"stage": "RUNNING", "sha": None}] * 2
    assert told(deploy()) == ["RUNNING"]
    assert not published.stages


@pytest.mark.parametrize("stage", ["BUILD_ERROR", "RUNTIME_ERROR", "CONFIG_ERROR", "PAUSED"])
def test_a_space_that_does_not_run_is_told_with_what_the_hub_says(published, stage):
    published.stages += [BUILDING, {"stage": stage, "errorMessage": "Exit code: 2. Reason: no model"}]
    with pytest.raises(RunError, match=rf"does not run \({stage}\): Exit code: 2. Reason: no model"):
        deploy()


def test_a_space_that_had_stopped_is_restarted_where_nothing_else_is_to_be_done(published):
    deploy()
    sent = len(published.requests)
    published.stages.append({"stage": "RUNTIME_ERROR"})
    assert "RUNNING" in deploy()
    assert writes(published, sent) == [f"POST /api/spaces/{SPACE}/restart"]


@pytest.mark.parametrize("stage", ["PAUSED", "STOPPED", "SLEEPING", "RUNTIME_ERROR"])
def test_a_space_that_had_stopped_is_restarted_after_a_change_too(published, stage, monkeypatch):
    deploy()
    sent = len(published.requests)
    monkeypatch.setattr(spaces, "GRACE", 60)
    published.stages += [{"stage": stage}, {"stage": stage}, {"stage": stage}, {"stage": "APP_STARTING"}]
    assert told(deploy(f"{MODEL}@v1.1.0")) == ["APP_STARTING", "RUNNING"]
    assert writes(published, sent)[-1] == f"POST /api/spaces/{SPACE}/restart"


def test_a_space_that_takes_too_long_is_given_up(published, monkeypatch):
    monkeypatch.setattr(spaces, "PATIENCE", 0.1)
    published.stages += [BUILDING] * 1000
    with pytest.raises(RunError, match=r"does not run after 0 minutes \(BUILDING\)"):
        deploy()


@pytest.mark.parametrize("status", [503, 429, "drop"])
def test_a_look_that_fails_is_made_up_by_the_next(published, status):
    published.faults.append(Fault("GET", "/runtime", status, skip=1, times=20))  # the first is not of the wait
    assert "RUNNING" in deploy()
    assert published.faults[0].times == 0


def test_a_look_that_is_refused_is_not_repeated(published):
    published.faults.append(Fault("GET", "/runtime", 403, skip=1, times=1000))
    with pytest.raises(RunError, match="deploying tester/alert failed"):
        deploy()


ON_THE_WAY = ["whoami", "/refs", "repos/create", "/variables", "/commit/", f"/{MODEL}/resolve/"]


@pytest.mark.parametrize("path", ON_THE_WAY)
def test_a_failure_that_passes_fails_no_deployment_although_it_took_effect(path, published, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    published.faults.append(Fault("GET|POST|HEAD", path, 500, after=True))
    assert "RUNNING" in deploy()
    assert published.faults[0].times == 0
    assert set(published.files(SPACE, repo_type="space")) == FILES


@pytest.mark.parametrize(
    ("exists", "at"),
    [
        (False, "repos/create"),
        (False, "/variables"),
        (False, "/commit/"),
        (True, f"/api/spaces/{SPACE}$"),
        (True, "/preupload/"),
        (True, "/runtime"),
    ],
)
def test_a_space_that_vanishes_on_the_way_is_not_made_again(exists, at, published):
    if exists:
        published.create(SPACE, "space", sdk="gradio")
    published.requests.clear()
    published.vanish(SPACE, "space", at=at)
    with pytest.raises(RunError, match="the Hub has no such repository any more"):
        deploy()
    assert f"spaces/{SPACE}" not in published.repos
    assert published.creations() == (0 if exists else 1)


BEFORE, AFTER = (500, False), ("drop", True)  # its effect


@pytest.mark.parametrize(
    ("path", "fault"), [*((path, (BEFORE, AFTER)[i % 2]) for i, path in enumerate(ON_THE_WAY)), ("/commit/", BEFORE)]
)
def test_after_a_failure_on_the_way_the_same_call_finishes(path, fault, published, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    status, after = fault
    fault = Fault("GET|POST|HEAD", path, status, times=200, after=after)
    published.faults.append(fault)
    made = after and path == "/commit/"  # the next try finds the files there, and sends nothing
    with contextlib.nullcontext() if made else pytest.raises(RunError, match="Run the same command again"):
        deploy()
    fault.times = 0
    deploy()
    assert set(published.files(SPACE, repo_type="space")) == FILES
    assert published.repo(SPACE, "space").variables == {"MODEL_ID": MODEL, "MODEL_REVISION": "v1.0.0"}


def test_what_somebody_else_commits_meanwhile_is_not_overwritten(published, monkeypatch):
    deploy()
    ask = HfApi.list_repo_files

    def and_then_somebody_commits(*words, **options):
        names = ask(*words, **options)
        if options.get("repo_type") == "space":
            published.commit(SPACE, {"app.py": b"print('theirs')"}, repo_type="space")
        return names

    monkeypatch.setattr(HfApi, "list_repo_files", and_then_somebody_commits)
    with pytest.raises(RunError, match="412"):
        deploy(f"{MODEL}@v1.1.0")
    assert published.files(SPACE, repo_type="space")["app.py"] == b"print('theirs')"


@pytest.mark.parametrize("status", [409, 412])
def test_a_commit_that_is_refused_because_it_was_made_already_is_taken(published, status):
    published.faults.append(Fault("POST", f"spaces/{SPACE}/commit/", status, after=True))
    assert "RUNNING" in deploy()
    assert published.faults[0].times == 0
    assert set(published.files(SPACE, repo_type="space")) == FILES


def test_each_try_of_a_commit_has_operations_of_its_own(published, monkeypatch):
    create, tries = HfApi.create_commit, []

    def and_keep(api, repo_id, operations, **options):
        tries.append(list(operations))
        return create(api, repo_id, operations, **options)

    monkeypatch.setattr(HfApi, "create_commit", and_keep)
    published.faults.append(Fault("POST", f"spaces/{SPACE}/commit/", 500))
    deploy()
    assert len(tries) == 2
    assert not {id(each) for each in tries[0]} & {id(each) for each in tries[1]}


# What is refused


def test_a_space_of_another_app_is_left_alone(published):
    published.create(SPACE, "space", sdk="gradio")
    published.commit(SPACE, {"app.py": b"print('mine')"}, repo_type="space")
    with pytest.raises(UsageError, match=r"tester/alert holds another app \(.*app.py"):
        deploy()
    assert published.files(SPACE, repo_type="space")["app.py"] == b"print('mine')"


def test_a_new_space_made_on_the_hubs_page_is_taken(published):
    published.create(SPACE, "space", sdk="gradio")
    published.commit(SPACE, {"README.md": b"---\nsdk: gradio\n---\n"}, repo_type="space")
    deploy()
    assert set(published.files(SPACE, repo_type="space")) == FILES


@pytest.mark.usefixtures("published")
def test_a_public_space_is_not_taken_for_a_private_one():
    deploy()
    with pytest.raises(UsageError, match="is public: make it private"):
        deploy(private=True)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (MODEL, "write it as USER/REPO@TAG"),
        ("space/model", "write it as USER/REPO@TAG"),
        ("derm@v1.0.0", "write it as USER/REPO@TAG"),
        ("tester/de rm@v1.0.0", "is no repository name"),
        ("tester/none@v1.0.0", "the Hub has no tester/none"),
        (f"{MODEL}@v9.9.9", r"has no tag v9.9.9, only v1.0.0, v1.1.0\."),
        (f"{MODEL}@main", "has no tag main"),
        ("tester/other@v1", "tester/other is no dermalert release"),
        ("tester/broken@v1", "tester/broken is no dermalert release"),
    ],
)
def test_what_is_no_release_at_a_tag_is_refused_before_anything_is_sent(published, tmp_path, model, sentence):
    make_release(tmp_path / "other", alert=False)
    for name in ("other", "broken"):
        repo = published.create(f"tester/{name}")
        files = {path.name: path.read_bytes() for path in (tmp_path / "other").iterdir()}
        files |= {"model.safetensors": b"cut"} if name == "broken" else {}
        repo.tags["v1"] = published.commit(f"tester/{name}", files)
    with pytest.raises(UsageError, match=sentence):
        deploy(model)
    assert f"spaces/{SPACE}" not in published.repos


@pytest.mark.parametrize(
    ("token", "space_id", "sentence"),
    [
        ("hf_read", SPACE, "may only read"),
        ("hf_nobody", SPACE, "does not know this token"),
        ("hf_write", "somebody/alert", "cannot write to somebody/alert"),
        ("hf_write", "alert", "write it as USER/REPO"),
    ],
)
def test_who_may_not_write_is_told_before_anything_is_sent(published, monkeypatch, token, space_id, sentence):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UsageError, match=sentence):
        spaces.deploy(space_id, f"{MODEL}@v1.0.0")
    assert not [key for key in published.repos if key.startswith("spaces/")]


WRONG = {
    "a key that is none": ("emoji:", "emojis:", "does not know the key 'emojis'. Did you mean 'emoji'"),
    "another gradio": ('sdk_version: "6.31.0"', 'sdk_version: "5.9.1"', "sdk_version 5.9.1 is not what is installed"),
    "another sdk": ("sdk: gradio", "sdk: docker", "sdk docker"),
    "a Python that is too old": ('"3.11"', '"3.9"', r"needs Python >=3.\d+(\.0)?, not python_version 3.9"),
    "a Python without quotes": ('"3.11"', "3.10", "python_version 3.1 must be stated, in quotes"),
    "no Python": ('python_version: "3.11"\n', "", "python_version None must be stated"),
    "no app": ("app_file: app.py", "app_file: main.py", "app_file main.py does not exist"),
    "no YAML": ("title: dermalert", "title: [", "has no metadata that can be read"),
}


@pytest.mark.parametrize("case", WRONG)
def test_metadata_that_the_hub_would_build_otherwise_are_refused(case, tmp_path):
    folder = Path(shutil.copytree(spaces.SOURCE, tmp_path / "space", ignore=shutil.ignore_patterns("model")))
    spaces.check_front_matter(folder)
    before, after, sentence = WRONG[case]
    text = (folder / "README.md").read_text()
    assert before in text
    (folder / "README.md").write_text(text.replace(before, after))
    with pytest.raises(UsageError, match=sentence):
        spaces.check_front_matter(folder)


def test_an_installed_copy_without_the_files_of_a_space_says_where_to_deploy_from(tmp_path):
    with pytest.raises(UsageError, match="in a clone of the repository"):
        spaces.check_front_matter(tmp_path)


# The whole way


def test_a_deployed_space_answers_as_the_release_does(published, tmp_path):
    """What lies on the Hub is downloaded into an empty folder and run there, with the variables that were set."""
    deploy(f"{MODEL}@v1.1.0")
    snapshot_download(SPACE, repo_type="space", local_dir=tmp_path / "app")
    make_image((90, 70)).save(tmp_path / "lesion.png")
    program = (
        "import json, os\n"
        "from dermalert_space.page import build\n"
        "from dermalert_space.release import Release\n"
        "release = Release.load(os.environ['MODEL_ID'], os.environ['MODEL_REVISION'])\n"
        "build.build_demo(release)\n"
        "print(json.dumps(release.predict('../lesion.png').probabilities))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path / "app",
        env=environment(published.url, tmp_path / "home", token=None) | published.repo(SPACE, "space").variables,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    served = json.loads(run.stdout.splitlines()[-1])
    classify = pipeline("image-classification", model=MODEL, revision="v1.1.0")
    answers = classify(Image.open(tmp_path / "lesion.png"), top_k=9)
    assert {each["label"]: each["score"] for each in answers} == pytest.approx(served, abs=1e-5)


# As a user types it


@pytest.mark.parametrize(
    ("stages", "code"), [([], 0), ([BUILDING, {"stage": "BUILD_ERROR", "errorMessage": "no space"}], 1)]
)
def test_the_command_says_how_it_ended(published, stages, code):
    published.stages += stages
    done = CliRunner().invoke(app, ["deploy-space", SPACE, "--model", f"{MODEL}@v1.0.0"])
    assert done.exit_code == code
    assert ("RUNNING" if code == 0 else "does not run (BUILD_ERROR): no space") in done.output
    assert "hf_write" not in done.output


@pytest.mark.usefixtures("hub")
def test_the_command_names_what_was_asked_wrongly():
    done = CliRunner().invoke(app, ["deploy-space", SPACE, "--model", MODEL])
    assert done.exit_code == 2
    assert "write it as USER/REPO@TAG" in done.output


def test_all_that_a_release_is_served_by_is_fetched(tmp_path):
    """Of the bundled release as it would be downloaded: what is left out would be missing."""
    for path in (path for path in BUNDLED.rglob("*") if path.is_file()):
        name = path.relative_to(BUNDLED).as_posix()
        if spaces.served([name]):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / name)
    release = Release.load(tmp_path)
    assert release.abstention is not None
    assert release.metrics() is not None
    assert release.parity_error() < 1e-4


# A static Space


@pytest.fixture
def static(monkeypatch):
    """Deploy a static Space, once there are releases; its ONNX Runtime is no more than two names."""
    monkeypatch.setattr(web_runtime, "files", lambda: {web_runtime.SCRIPT: b"", f"{web_runtime.BINARY}.gz": b""})
    return lambda *model, **options: deploy(*model, static=True, **options)


def test_a_static_space_holds_the_page_of_a_release_and_changes_only_with_it(published, static):
    assert told(static()) == ["RUNNING"]
    files = published.files(SPACE, repo_type="space")
    page = set(web_export.build(web_export.load(f"{MODEL}@v1.0.0")))
    assert set(files) == page | {"README.md", ".gitattributes", "thumbnail.png"}
    data = SpaceCard(files["README.md"].decode()).data.to_dict()
    assert data["thumbnail"].endswith(f"/spaces/{SPACE}/resolve/main/thumbnail.png")
    assert published.repo(SPACE, "space").sdk == data["sdk"] == "static"
    assert data["models"] == [MODEL] and data["app_file"] in files and len(data["short_description"]) <= 60
    head, sent = published.branches(SPACE, "space"), len(published.requests)
    assert "nothing to change" in static()
    assert published.branches(SPACE, "space") == head and writes(published, sent) == []
    assert ": changed" in static(f"{MODEL}@v1.1.0")
    about = json.loads(published.files(SPACE, repo_type="space")["about.json"])
    assert (about["release"], about["tag"]) == (MODEL, "v1.1.0")


def test_a_release_that_is_not_open_goes_into_no_open_static_space(published, static):
    published.repo(MODEL).private = True
    with pytest.raises(UsageError, match="a static Space holds the model itself: add --private"):
        static()
    assert f"spaces/{SPACE}" not in published.repos


def test_a_static_space_takes_not_the_place_of_one_with_a_server(published, static):
    deploy()
    with pytest.raises(UsageError, match="tester/alert holds another app"):
        static()
    assert published.files(SPACE, repo_type="space")["app.py"]
