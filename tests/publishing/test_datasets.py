"""A data set published by the command line to the Hub on loopback, and read back as anybody would read it."""

import copy
import functools
import hashlib
import json
import re
import shutil
from pathlib import Path

import jinja2
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset, Image, load_dataset
from support.hub_server import Fault
from support.pictures import picture
from typer.testing import CliRunner

from dermalert.cli import app
from dermalert.data import audit, loading, schema, splits
from dermalert.errors import UsageError
from dermalert.hub import retries
from dermalert.publishing import datasets

pytestmark = pytest.mark.integration

REPO = "tester/lesions"
IMAGES, DIFFERENT = 148, 149  # after the repair and before it


@pytest.fixture
def hub(hub):
    """The Hub without the contents that other tests have uploaded, which would not be sent again."""
    hub.blobs.clear()
    return hub


@pytest.fixture
def folders(tmp_path) -> Path:
    return shipped_folders(tmp_path / "somewhere" / "private")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Path:
    """The same, to be read alone."""
    return shipped_folders(tmp_path_factory.mktemp("somewhere") / "private")


@pytest.fixture
def said(hub, shipped) -> str:
    """What the command says as it publishes `shipped`, which the Hub has then."""
    return hub.once("lesions", lambda: published(shipped, REPO))


def shipped_folders(root: Path, *, prefix: str = "ISIC_9") -> Path:
    """Two diagnoses under Train/ and Test/; an image under both, and two test images that Train has as well.

    Of those one is the same file, one only the same picture. With a prefix that is not the archive's, nothing tells
    where the images are from.
    """
    for i, label in enumerate(("melanoma", "nevus")):
        for part, n in (("Train", 70), ("Test", 4)):
            (root / part / label).mkdir(parents=True)
            for j in range(n):
                seed = 1000 * i + 100 * (part == "Test") + j
                picture(seed, tint=i).save(root / part / label / f"{prefix}{seed:06d}.png")
    train, test = root / "Train", root / "Test"
    shutil.copy(train / "nevus" / f"{prefix}001000.png", train / "melanoma")
    shutil.copy(test / "nevus" / f"{prefix}001100.png", train / "nevus" / f"{prefix}009998.png")
    picture(1101, tint=1).save(train / "nevus" / f"{prefix}009999.png", compress_level=0)
    return root


def publish(*arguments: object) -> tuple[int, str]:
    """Type the command; return its exit code and all that it says."""
    done = CliRunner().invoke(app, ["publish-dataset", *map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def published(*arguments: object) -> str:
    code, said = publish(*arguments)
    assert code == 0, said
    return said


def read_back(tmp_path: Path, *config: str) -> dict[str, Dataset]:
    return load_dataset(REPO, *config, cache_dir=str(tmp_path / "-".join(["fresh", *config])))


def uploaded(hub) -> dict[str, bytes]:
    files = hub.files(REPO, repo_type="dataset")
    return {name: data for name, data in files.items() if name != ".gitattributes"}


def uploads(hub) -> int:
    """How many files were sent through LFS."""
    return sum(request.path.startswith("/_lfs/") for request in hub.requests)


def tables(hub, tmp_path: Path) -> list[list[dict]]:
    """The rows of every Parquet file as they are stored."""
    found = []
    for name, data in uploaded(hub).items():
        if name.endswith(".parquet"):
            (tmp_path / "one.parquet").write_bytes(data)
            found.append(pq.read_table(tmp_path / "one.parquet").to_pylist())
    return found


@functools.cache
def _prepared(folders: Path) -> tuple[dict[str, Dataset], dict]:
    return datasets.prepare(loading.load([str(folders)]), "archive", "cc-by-nc-4.0")


def prepared(folders: Path) -> tuple[dict[str, Dataset], dict]:
    parts, figures = _prepared(folders)
    return parts, copy.deepcopy(figures)


def test_what_is_published_is_read_back_with_the_same_features_rows_and_bytes(hub, said, shipped, tmp_path):
    assert f"{REPO} will be private, under the licence cc-by-nc-4.0." in said
    assert f'Published: {IMAGES} images, load_dataset("{REPO}").' in said
    assert hub.repo(REPO, "dataset").private
    expected, _ = prepared(shipped)
    found = {**read_back(tmp_path), **read_back(tmp_path, "clean_test"), **read_back(tmp_path, "set_aside")}
    assert set(found) == set(expected)
    for name, rows in found.items():
        assert rows.features == schema.FEATURES
        pictures = rows.cast_column("image", Image(decode=False))["image"]
        assert [hashlib.sha256(image["bytes"]).hexdigest() for image in pictures] == rows["content"][:]
        columns = [column for column in rows.column_names if column != "image"]
        theirs, ours = (part.select_columns(columns).to_list() for part in (rows, expected[name]))
        assert sorted(theirs, key=repr) == sorted(ours, key=repr)


@pytest.mark.usefixtures("said")
def test_no_group_is_in_two_splits_and_each_image_is_stored_once(hub, tmp_path):
    found = read_back(tmp_path)
    assert set(found) == {*splits.SHARES, "test"}
    groups = [set(rows["group"]) for rows in found.values()]
    assert len(set.union(*groups)) == sum(map(len, groups))
    stored = [row["content"] for rows in tables(hub, tmp_path) for row in rows]
    assert len(stored) == len(set(stored)) == IMAGES


@pytest.mark.usefixtures("said")
def test_what_has_kin_in_the_shipped_test_split_is_apart_and_the_clean_part_of_it_has_a_name(tmp_path):
    test = read_back(tmp_path)["test"]
    clean, aside = (read_back(tmp_path, name)[name] for name in ("clean_test", "set_aside"))
    assert (len(test), len(clean), len(aside)) == (8, 6, 1)
    assert set(clean["image_id"]) == set(test["image_id"]) - {"ISIC_9001100", "ISIC_9001101"}
    assert aside["image_id"][:] == ["ISIC_9009999"]


def test_a_data_set_without_a_shipped_test_split_has_the_four_sides_alone(hub, folders, tmp_path):
    published(folders / "Train", REPO)
    assert set(read_back(tmp_path)) == set(splits.SHARES)
    card = uploaded(hub)["README.md"].decode()
    assert [each["config_name"] for each in yaml.safe_load(card.split("---\n")[1])["configs"]] == ["default"]
    assert "clean_test" not in card
    assert "set_aside" not in card


@pytest.mark.usefixtures("said")
def test_every_figure_of_the_card_is_the_audits_or_the_data_sets(hub, shipped):
    files = uploaded(hub)
    report, card = json.loads(files["audit.json"]), files["README.md"].decode()
    parts, figures = prepared(shipped)
    assert report == json.loads(json.dumps(figures["audit"]))
    for kind, finding in report["findings"].items():
        count = f"{finding['count']} of {finding['of']} {finding['unit']}"
        said = "cannot tell" if finding["count"] is None else count
        assert f"| {audit.KINDS[kind]} | {said} | {finding['known_from']} | {finding['text']} |\n" in card
    header, *lines = re.findall(r"^\| (?:diagnosis|melanoma|nevus|all) \|.*$", card, re.MULTILINE)
    names = header.strip("| ").split(" | ")[1:]
    assert set(names) == set(parts)
    counts = {line.split(" | ")[0].strip("| "): list(map(int, line.strip("| ").split(" | ")[1:])) for line in lines}
    assert counts["all"] == [len(parts[name]) for name in names]
    assert counts["melanoma"] == [parts[name]["label"][:].count(3) for name in names]
    assert f"{figures['shipped']['images']} files with {DIFFERENT} different images" in card
    assert "- 1 images under melanoma / nevus were left out.\n" in card
    assert f"| newer ISIC archive | {IMAGES} | cc-by-nc-4.0 |" in card


@pytest.mark.usefixtures("said")
def test_the_front_matter_tells_the_hub_licence_task_size_splits_and_features(hub, shipped):
    told = yaml.safe_load(uploaded(hub)["README.md"].split(b"---\n")[1])
    parts, _ = prepared(shipped)
    assert told["license"] == "cc-by-nc-4.0"
    assert told["task_categories"] == ["image-classification"]
    assert told["size_categories"] == ["n<1K"]
    assert [column["name"] for column in told["dataset_info"]["features"]] == list(schema.FEATURES)
    counts = {split["name"]: split["num_examples"] for split in told["dataset_info"]["splits"]}
    assert counts == {name: len(parts[name]) for name in [*splits.SHARES, "test"]}


def test_the_card_stops_at_a_figure_that_is_missing(shipped):
    _, figures = prepared(shipped)
    sizes = dict.fromkeys(figures["data"]["sides"], 1)
    assert datasets.render_card(figures, REPO, sizes)
    del figures["repair"]["copies"]
    with pytest.raises(jinja2.UndefinedError, match="copies"):
        datasets.render_card(figures, REPO, sizes)


def test_the_card_says_of_generated_pictures_that_they_are(shipped):
    _, figures = prepared(shipped)
    sizes = dict.fromkeys(figures["data"]["sides"], 1)
    assert "Drawn by a program" not in datasets.render_card(figures, REPO, sizes)
    figures["data"]["generated"] = True
    assert "Drawn by a program" in datasets.render_card(figures, REPO, sizes)


def test_neither_a_folders_place_nor_a_token_is_in_any_uploaded_file(hub, folders, tmp_path):
    (folders / "Train" / "nevus" / "broken.png").write_bytes(b"no image")
    published(folders, REPO)
    for data in uploaded(hub).values():
        assert str(tmp_path).encode() not in data
        assert b"hf_write" not in data
    for row in (row for rows in tables(hub, tmp_path) for row in rows):
        assert re.fullmatch(r"ISIC_\d+\.png", row["image"]["path"])
        assert not [value for value in row.values() if isinstance(value, str) and ("/" in value or "hf_" in value)]


@pytest.mark.usefixtures("said")
def test_a_second_call_finds_it_there_and_sends_no_image(hub, shipped):
    heads, sent = hub.branches(REPO, "dataset"), uploads(hub)
    assert "Nothing to do, it is there already" in published(shipped, REPO)
    assert hub.branches(REPO, "dataset") == heads
    assert uploads(hub) == sent


def test_another_version_replaces_its_own_files_and_leaves_those_of_others(hub, folders, monkeypatch):
    with monkeypatch.context() as small:
        small.setattr(datasets, "_ROWS", 8)
        small.setattr(datasets, "_SHARD", 1)
        published(folders, REPO)
    before = set(uploaded(hub))
    hub.commit(REPO, {"LICENSE": b"mine", "notes/mine.md": b"mine"}, repo_type="dataset")
    assert "Published" in published(folders, REPO, "--repair", "none")
    assert set(uploaded(hub)) - before == {"LICENSE", "notes/mine.md"}
    assert "data/train-00001.parquet" in before - set(uploaded(hub))
    assert b"Policy `none`" in uploaded(hub)["README.md"]


def test_many_files_are_read_back_as_one_split(hub, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_ROWS", 8)
    monkeypatch.setattr(datasets, "_SHARD", 40_000)
    published(folders, REPO)
    assert sum(name.startswith("data/train-") for name in uploaded(hub)) > 1
    assert all(len(data) < 80_000 for name, data in uploaded(hub).items() if name.startswith("data/"))
    assert {name: len(rows) for name, rows in read_back(tmp_path).items()} == {
        name: len(rows) for name, rows in prepared(folders)[0].items() if name in (*splits.SHARES, "test")
    }


def test_the_order_of_the_files_changes_nothing(folders):
    dataset = loading.load([str(folders)]).dataset
    parts, figures = datasets.prepare(loading.Loaded(dataset), "none", "other")
    turned, others = datasets.prepare(loading.Loaded(dataset.select(range(len(dataset))[::-1])), "none", "other")
    assert figures["data"] == others["data"]
    for name, rows in parts.items():
        first, second = (list(datasets._tables(part)) for part in (rows, turned[name]))
        assert first == second


LICENCES = [
    (["older ISIC archive", "HAM10000", "newer ISIC archive"], None, "cc-by-nc-4.0"),
    (["PAD-UFES-20"], None, "cc-by-4.0"),
    (["PAD-UFES-20", "generated"], None, "cc-by-4.0"),
    (["PAD-UFES-20", "HAM10000"], None, "cc-by-nc-4.0"),
    (["generated"], None, "apache-2.0"),
    (["generated"], "mit", "mit"),
    (["unknown"], "cc0-1.0", "cc0-1.0"),
    (["unknown", "HAM10000"], "cc-by-nc-4.0", "cc-by-nc-4.0"),
    (["unknown", "HAM10000"], "other", "other"),
]


def from_sources(origins: list[str]) -> Dataset:
    """An image of each source, with a number of the kind that it gives."""
    numbers = {"PAD-UFES-20": "PAT_1_1_1", "generated": "DEMO_0000001"}
    return Dataset.from_dict({"source": origins, "image_id": [numbers.get(name, "ISIC_0024306") for name in origins]})


@pytest.mark.parametrize(("origins", "given", "expected"), LICENCES)
def test_the_licence_is_the_strictest_of_the_sources_or_the_one_given(origins, given, expected):
    assert datasets.license_of(from_sources(origins), given) == expected


def test_a_licence_that_allows_more_than_a_source_is_refused():
    sentence = "--license 'mit': images from HAM10000, PAD-UFES-20 are under cc-by-nc-4.0; say that or other"
    with pytest.raises(UsageError, match=sentence):
        datasets.license_of(from_sources(["PAD-UFES-20", "HAM10000", "unknown", "generated"]), "mit")


@pytest.mark.parametrize("name", ["generated", "HAM10000", "older ISIC archive"])
def test_a_folder_that_is_called_like_a_source_has_no_known_licence(name):
    mine = Dataset.from_dict({"source": [name], "image_id": ["photo_1"]})
    with pytest.raises(UsageError, match=f"the licence of the images from '{name}' is not known here"):
        datasets.license_of(mine)
    assert datasets.license_of(mine, "cc-by-4.0") == "cc-by-4.0"


def test_images_of_unknown_licence_are_refused_until_it_is_named(hub, tmp_path):
    folders = shipped_folders(tmp_path / "mine", prefix="clinic_")
    code, said = publish(folders, REPO)
    assert code == 2
    assert re.search(r"the licence of the images from '\w+' is not known here: .* name it with --license ID", said)
    assert not hub.repos
    assert "under the licence cc-by-4.0" in published(folders, REPO, "--license", "cc-by-4.0")
    assert b"\nlicense: cc-by-4.0\n" in uploaded(hub)["README.md"]


REFUSED = {
    "a token that may only read": ("hf_read", REPO, [], "may only read"),
    "an unknown token": ("hf_nobody", REPO, [], "does not know this token"),
    "no token": ("", REPO, [], "publishing needs a token"),
    "another owner": ("hf_write", "somebody/lesions", [], "cannot write to somebody/lesions"),
    "no owner": ("hf_write", "lesions", [], "'lesions' needs its owner: write it as USER/REPO"),
    "a name that is none": ("hf_write", "tester/le sions", [], "'tester/le sions' is no repository name"),
    "a repair that is none": ("hf_write", REPO, ["--repair", "magic"], "'magic' is not one of"),
    "another data set": ("hf_write", "tester/other", [], "holds another data set (.gitattributes, data/mine.parquet)"),
    "an open repository": ("hf_write", "tester/open", [], "tester/open is public: add --public"),
    "a closed repository": ("hf_write", "tester/closed", ["--public"], "tester/closed is private: open it in its"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_published_is_refused_before_an_image_is_read(case, hub, monkeypatch):
    hub.create("tester/other", "dataset", private=True)
    hub.commit("tester/other", {"data/mine.parquet": b"mine"}, repo_type="dataset")
    hub.create("tester/open", "dataset")
    hub.create("tester/closed", "dataset", private=True)
    before = {name: repo.branches.copy() for name, repo in hub.repos.items()}
    token, repo_id, options, sentence = REFUSED[case]
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(loading, "load", lambda *_: pytest.fail("the images were read"))
    code, said = publish("demo", repo_id, *options)
    assert code == 2
    assert sentence in " ".join(said.replace("│", " ").split())
    assert {name: repo.branches for name, repo in hub.repos.items()} == before


def test_a_licence_that_the_hub_does_not_know_is_refused_before_an_image_is_read(hub, monkeypatch):
    hub.faults.append(Fault("POST", "/validate-yaml", 400))  # as it answers there
    monkeypatch.setattr(loading, "load", lambda *_: pytest.fail("the images were read"))
    code, said = publish("demo", REPO, "--license", "cc-by-nd-nc")
    assert code == 2
    assert "--license 'cc-by-nd-nc' is no licence that the Hub knows" in said
    assert not hub.repos


def test_an_open_repository_is_published_to_with_public(hub, folders):
    said = published(folders, REPO, "--public")
    assert f"{REPO} will be public" in said
    assert not hub.repo(REPO, "dataset").private
    assert "Nothing to do" in published(folders, REPO, "--public")


def test_a_repository_that_was_made_on_the_hubs_page_is_filled(hub, folders):
    hub.create(REPO, "dataset", private=True)
    hub.commit(REPO, {"README.md": b"---\nlicense: mit\n---\n"}, repo_type="dataset")
    assert "Published" in published(folders, REPO)


# Uploads are retried by the client where the Hub is overloaded, for half a minute; a refusal of one is not.
ON_THE_WAY = [("whoami", 500, False), ("repos/create", 500, True), ("/_lfs/", 403, False)]
ON_THE_WAY += [("/commit/main", 500, False), ("/commit/main", 500, True)]  # before its effect and after it


@pytest.mark.parametrize(("path", "status", "after"), ON_THE_WAY)
def test_a_failure_on_the_way_shows_nothing_or_all_and_the_same_command_finishes(
    path, status, after, hub, folders, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(retries, "SECOND", 0)
    hub.faults.append(Fault("GET|POST|PUT", path, status, times=100, after=after))
    code, said = publish(folders, REPO)
    hub.faults.clear()
    assert code == 1
    assert said.count("Run the same command again.") == 1
    if f"datasets/{REPO}" in hub.repos:
        assert len(uploaded(hub)) in (0, 9)
    said += published(folders, REPO)
    assert sum(map(len, read_back(tmp_path).values())) == IMAGES - 1
    assert "hf_write" not in said + caplog.text


@pytest.mark.parametrize(
    ("exists", "at"),
    [(False, "repos/create"), (False, "/_lfs/"), (True, "/api/datasets/tester/lesions$"), (True, "/preupload/")],
)
def test_a_repository_that_vanishes_on_the_way_is_not_made_again(exists, at, hub, folders, monkeypatch):
    monkeypatch.setattr(retries, "SECOND", 0)
    if exists:
        hub.create(REPO, "dataset", private=True)
    hub.requests.clear()
    hub.vanish(REPO, "dataset", at=at)
    code, said = publish(folders, REPO)
    assert code == 1
    assert "the Hub has no such repository any more" in said
    assert not hub.repos
    assert hub.creations() == (0 if exists else 1)


def test_a_hub_that_cannot_be_reached_is_said_in_one_sentence(hub, folders, monkeypatch):
    monkeypatch.setattr(retries, "SECOND", 0)
    hub.faults.append(Fault("GET", "whoami", "drop", times=100))
    code, said = publish(folders, REPO)
    assert code == 1
    assert f"asking the Hub about {REPO} failed" in said


@pytest.mark.parametrize(
    ("images", "name"),
    [(999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (100_000, "100K<n<1M"), (2_000_000, "1M<n<10M")],
)
def test_the_size_is_named_in_the_hubs_words(images, name):
    assert datasets._size_category(images) == name
