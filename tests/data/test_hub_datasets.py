"""Data sets of the Hub, in the columns that HAM10000 has there, from the Hub on loopback."""

import io
import itertools
import socket
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import support.loading
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from huggingface_hub.constants import HF_HUB_CACHE
from support.hub_server import Fault
from support.pictures import class_folders, picture, write_table

from dermalert.data import isic9, label_repair, loading, schema
from dermalert.errors import RunError, UsageError
from dermalert.taxonomy import DIAGNOSES, MALIGNANCIES

ROWS = [
    ("ISIC_8000000", "HAM_9000000", "melanocytic_Nevi"),
    ("ISIC_8000001", "HAM_9000000", "melanocytic_Nevi"),
    ("ISIC_8000002", "HAM_9000001", "melanoma"),
    ("ISIC_8000003", "HAM_9000002", "benign_keratosis-like_lesions"),
]


pytestmark = pytest.mark.integration
both_ways = pytest.mark.parametrize("options", [{}, {"streaming": True}], ids=["downloaded", "streamed"])


def in_turns(name: str, values):
    """A mark: each of these, downloaded and streamed in turns."""
    ways = itertools.cycle([{}, {"streaming": True}])
    return pytest.mark.parametrize((name, "options"), list(zip(values, ways, strict=False)))


def parquet(rows: Dataset) -> bytes:
    buffer = io.BytesIO()
    rows.to_parquet(buffer)
    return buffer.getvalue()


def encoded(seed: int) -> dict:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"{seed}.png"}


def ham10000(rows=ROWS, *, first_seed: int = 0) -> bytes:
    table = [
        {"image": encoded(first_seed + i), "image_id": image_id, "lesion_id": lesion, "dx": dx, "dx_type": "histo"}
        | {"age": 80.0, "sex": "male", "localization": "scalp"}
        for i, (image_id, lesion, dx) in enumerate(rows)
    ]
    words = dict.fromkeys(("image_id", "lesion_id", "dx", "dx_type", "sex", "localization"), Value("string"))
    return parquet(Dataset.from_list(table, features=Features({"image": Image(), "age": Value("float64"), **words})))


def publish(hub, files: dict[str, bytes], name: str = "tester/lesions") -> str:
    if f"datasets/{name}" not in hub.repos:
        hub.create(name, "dataset")
    return hub.commit(name, files, repo_type="dataset")


def published(hub, features: dict, rows: list[dict]) -> None:
    """Publish rows of these columns; where none is of images, with one of these."""
    if not any(isinstance(feature, Image) for feature in features.values()):
        features = {"image": Image()} | features
        rows = [{"image": encoded(i)} | row for i, row in enumerate(rows)]
    publish(hub, {"data/train-0.parquet": parquet(Dataset.from_list(rows, features=Features(features)))})


def load(name: str = "tester/lesions", **options) -> Dataset:
    return support.loading.load(name, **options)


@both_ways
def test_a_data_set_of_the_hub_is_read_into_the_schema(hub, options):
    publish(hub, {"data/train-00000-of-00001.parquet": ham10000()})
    dataset = load(**options)
    assert dataset.features == schema.FEATURES
    names = ["nevus", "nevus", "melanoma", "pigmented benign keratosis"]
    assert [DIAGNOSES[i] for i in dataset["label"]] == names
    assert dataset["image_id"] == [row[0] for row in ROWS]
    assert dataset["group"] == [row[1] for row in ROWS]
    assert set(dataset["site"]) == {"head/neck"}
    assert dataset[2]["image"].tobytes() == picture(2).tobytes()


@both_ways
def test_its_test_split_is_a_shipped_one_and_its_validation_split_is_for_training(hub, options):
    parts = {
        "train": ham10000(),
        "test": ham10000([("ISIC_8000004", "HAM_9000002", "melanoma")], first_seed=10),
        "validation": ham10000([("ISIC_8000005", "HAM_9000003", "melanoma")], first_seed=20),
    }
    publish(hub, {f"data/{name}-0.parquet": rows for name, rows in parts.items()})
    dataset = load(**options)
    shipped = dict(zip(dataset["image_id"], dataset["shipped_split"], strict=True))
    assert shipped == dict.fromkeys(shipped, "train") | {"ISIC_8000004": "test"}
    assert len(shipped) == 6


def test_a_stream_is_written_once_and_downloads_no_file(hub):
    publish(hub, {"data/train-0.parquet": ham10000()}, "tester/streamed")
    load("tester/streamed", streaming=True)
    assert not list(Path(HF_HUB_CACHE, "datasets--tester--streamed").rglob("*.parquet"))
    load("tester/streamed")
    assert len(list(Path(HF_HUB_CACHE, "datasets--tester--streamed").rglob("*.parquet"))) == 1
    commit = publish(hub, {"data/train-0.parquet": ham10000()})
    streamed = load(streaming=True)
    assert load().to_dict() == streamed.to_dict()
    assert streamed[2]["image"].tobytes() == picture(2).tobytes()
    hub.requests.clear()
    assert load(streaming=True).to_dict() == streamed.to_dict()
    # Its columns are looked up again, its rows are not read again.
    read = [request for request in hub.requests if request.method == "GET" and "train-0.parquet" in request.path]
    assert sum(request.status == 206 for request in read) <= 2, read
    # A change in the data set is seen.
    assert publish(hub, {"data/train-0.parquet": ham10000(ROWS[:1])}) != commit
    assert len(load(streaming=True)) == 1


def test_a_stream_leaves_out_other_columns_of_images(hub):
    rows = [{"image": encoded(i), "mask": encoded(9 + i), "dx": "mel"} for i in range(2)]
    published(hub, {"image": Image(), "mask": Image(), "dx": Value("string")}, rows)
    dataset = load(streaming=True, columns={"image": "image"})
    assert [image.tobytes() for image in dataset["image"]] == [picture(i).tobytes() for i in range(2)]


def test_a_hub_that_fails_in_the_middle_of_a_stream_is_no_fault_of_the_asker(hub, monkeypatch):
    def broken():
        raise ConnectionError("the connection was cut")
        yield

    publish(hub, {"data/train-0.parquet": ham10000()})
    monkeypatch.setattr("datasets.IterableDataset.__iter__", lambda _: broken())
    with pytest.raises(RunError, match="the Hub cannot be asked for it: the connection was cut"):
        load(streaming=True)


def test_a_revision_is_what_it_was(hub):
    first = publish(hub, {"data/train-0.parquet": ham10000()})
    publish(hub, {"data/train-0.parquet": ham10000(ROWS[:1])})
    assert len(load()) == 1
    assert len(load(f"tester/lesions@{first}")) == 4
    with pytest.raises(UsageError, match=r"'tester/lesions@v9' is neither .* that the Hub has at revision 'v9'"):
        load("tester/lesions@v9")


def test_class_labels_and_no_names_of_images_are_enough(hub):
    features = {"picture": Image(), "label": ClassLabel(names=["mel", "nv"])}
    published(hub, features, [{"picture": encoded(i), "label": i % 2} for i in range(3)])
    dataset = load()
    assert dataset["label"] == [3, 4, 3]
    assert set(dataset["source"]) == {"tester/lesions"}
    assert len(set(dataset["group"])) == 3


@both_ways
def test_what_cannot_be_used_is_named_and_left_out(hub, caplog, options):
    strange = [(f"ISIC_800000{4 + i}", "HAM_9000003", dx) for i, dx in enumerate(["unknown", "", "mel", "mel", "mel"])]
    table = pq.read_table(io.BytesIO(ham10000([*ROWS, *strange, ROWS[0]]))).to_pylist()
    table[6]["image"]["bytes"] = b"no image"
    table[7]["image"] = None
    table[8] |= {"age": "eighty", "sex": "?", "localization": ""}
    table[9]["image"] = table[0]["image"]
    words = ("image_id", "lesion_id", "dx", "age", "sex", "localization")
    features = Features({name: Value("string") for name in words} | {"image": Image()})
    table = [{name: row[name] for name in features} | {"age": str(row["age"])} for row in table]
    publish(hub, {"data/train-0.parquet": parquet(Dataset.from_list(table, features=features))})
    dataset = load(**options)
    # The copy of a row stays: the audit counts it, and a repair merges it.
    assert dataset["image_id"] == [row[0] for row in ROWS] + ["ISIC_8000008", "ISIC_8000000"]
    assert [dataset[4][name] for name in ("age", "sex", "site")] == [None, None, None]
    assert "left out 2 images of 'tester/lesions'" in caplog.text and "1 unknown, 1 without" in caplog.text
    assert "skipped 2 of 8 files in 'tester/lesions': 'ISIC_8000006'" in caplog.text
    assert "'ISIC_8000007' (there is no file)" in caplog.text
    with pytest.raises(UsageError, match="2 of 8 files in 'tester/lesions' are no images"):
        load(strict=True, **options)


def test_a_set_of_benign_and_malignant_is_refused_for_training_and_loaded_as_such(hub):
    published(hub, {"target": ClassLabel(names=["benign", "malignant"])}, [{"target": i % 2} for i in range(3)])
    with pytest.raises(UsageError, match="says of its images only whether they are malignant"):
        load()
    assert loading.load(["tester/lesions"], labels=MALIGNANCIES).dataset["label"] == [0, 1, 0]


def test_a_name_that_nobody_knows_is_refused(hub):
    publish(hub, {"data/train-0.parquet": ham10000([*ROWS, ("ISIC_8000004", "HAM_9000003", "nevuss")])})
    with pytest.raises(UsageError, match=r"'nevuss' is none of the nine diagnoses. Did you mean 'nevus'"):
        load()


def test_columns_with_names_of_their_own_can_be_named(hub):
    features = {"a": Image(), "b": Image(), "finding": Value("string"), "no": Value("int64")}
    rows = [{"a": encoded(i), "b": encoded(9 + i), "finding": "melanoma", "no": 7} for i in range(2)]
    published(hub, features, rows)
    with pytest.raises(UsageError, match=r"'tester/lesions' has 2 columns of images \(a, b\): name one"):
        load()
    with pytest.raises(UsageError, match="has no column that names a diagnosis among finding, no"):
        load(columns={"image": "a"})
    dataset = load(columns={"image": "b", "label": "finding", "lesion_id": "no"})
    assert dataset[0]["image"].tobytes() == picture(9).tobytes()
    assert dataset["group"] == ["tester/lesions: 7", "tester/lesions: 7"]
    with pytest.raises(UsageError, match=r"no column 'findings' for 'label'. Did you mean 'finding'"):
        load(columns={"image": "b", "label": "findings"})
    with pytest.raises(UsageError, match=r"'tester/lesions' has no column 'finding' of images, only a, b"):
        load(columns={"image": "finding"})


def test_columns_that_a_folder_and_the_hub_name_differently_can_be_named_for_both(hub, tmp_path):
    rows = [{"img": encoded(i), "finding": "melanoma"} for i in range(2)]
    published(hub, {"img": Image(), "finding": Value("string")}, rows)
    (tmp_path / "set").mkdir()
    picture(9).save(tmp_path / "set" / "a.png")
    write_table(tmp_path / "set" / "list.csv", [{"img": "a.png", "finding": "nevus"}])
    columns = {"image": "img", "label": "finding"}
    assert support.loading.load(tmp_path / "set", "tester/lesions", columns=columns)["label"] == [4, 3, 3]


def test_a_data_set_without_images_is_refused(hub):
    publish(hub, {"data/train-0.parquet": parquet(Dataset.from_dict({"dx": ["mel"]}))})
    with pytest.raises(UsageError, match="'tester/lesions' has no images"):
        load()


@pytest.mark.usefixtures("hub")
def test_a_data_set_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="'tester/nothing' is neither a folder nor a data set that the Hub has"):
        load("tester/nothing")


def test_a_hub_that_fails_is_no_fault_of_the_asker(hub):
    publish(hub, {"data/train-0.parquet": ham10000()})
    hub.faults.append(Fault(".*", "tester/lesions", 500, times=100))
    with pytest.raises(RunError, match="'tester/lesions' is no folder here, and the Hub cannot be asked for it"):
        load()


def test_a_hub_that_cannot_be_reached_is_no_fault_of_the_asker(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed_again:
        port = closed_again.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(RunError, match="'tester/lesions' is no folder here, and the Hub cannot be asked for it"):
        load()


def test_a_gated_data_set_says_how_to_get_in(hub):
    publish(hub, {"data/train-0.parquet": ham10000()})
    hub.faults.append(Fault("GET", "tester/lesions/auth-check", 403, {"X-Error-Code": "GatedRepo"}))
    with pytest.raises(UsageError, match=r"'tester/lesions' .* accept its terms on its page, then `hf auth login`"):
        load()


def test_an_image_that_a_folder_holds_too_is_one_row(hub, tmp_path):
    publish(hub, {"data/train-0.parquet": ham10000()})
    class_folders(tmp_path, images=0, labels=("nevus",))
    picture(77).save(tmp_path / "nevus" / "ISIC_8000000.png")
    dataset = loading.load([str(tmp_path), "tester/lesions"]).dataset
    assert sorted(dataset["image_id"]) == [row[0] for row in ROWS]
    mine = dataset[dataset["image_id"][:].index("ISIC_8000000")]
    assert (mine["lesion_id"], mine["age"]) == ("HAM_9000000", 80)
    assert mine["image"].tobytes() == picture(77).tobytes()


@both_ways
def test_the_archives_number_is_read_from_the_file_where_no_column_says_it(hub, options):
    """As in a set of images and labels alone: two of its nevi are actinic keratoses in the archive."""
    keratoses = [image_id for image_id, row in isic9.metadata().items() if row["diagnosis"] == "actinic keratosis"][:2]
    files = [*keratoses, "other", "other"]
    rows = [{"image": encoded(i) | {"path": f"{name}.png"}, "label": int(i == 3)} for i, name in enumerate(files)]
    published(hub, {"image": Image(), "label": ClassLabel(names=["nevus", "melanoma"])}, rows)
    dataset = load(**options)
    assert dataset["image_id"][:2] == keratoses
    assert dataset["image_id"][2:] == ["tester/lesions/train/2", "tester/lesions/train/3"]
    _, report = label_repair.repair(dataset, "archive")
    assert report.relabelled == {"nevus": {"actinic keratosis": 2}}


LIST_LABELS = {
    "of names": (List(Value("string")), ["melanoma"]),
    "of classes": (List(ClassLabel(names=["nevus", "melanoma"])), [1]),
    "as text": (Value("string"), "['nevus', 'melanoma']"),
}


@in_turns("kind", LIST_LABELS)
def test_a_list_as_a_label_is_refused_as_a_list(hub, kind, options):
    feature, label = LIST_LABELS[kind]
    published(hub, {"label": feature}, [{"label": label}, {"label": label}])
    with pytest.raises(UsageError, match=r"'tester/lesions' gives a list as the diagnosis of an image") as error:
        load(**options)
    assert "none of the nine" not in str(error.value)


@both_ways
def test_every_column_that_is_not_used_is_said(hub, options, caplog):
    words = {name: Value("string") for name in ("label", "camera", "case_no", "patient_id")}
    row = {"label": "nevus", "camera": "x", "case_no": "1", "patient_id": "P1"}
    published(hub, words | {"vector": List(Value("float32"))}, [row | {"vector": [1.0]}] * 2)
    load(**options)
    assert "3 columns of 'tester/lesions' are not used (--columns FIELD=COLUMN reads one): case_no" in caplog.text


@in_turns("column", ["image_path", "path", "img", "filepath", "file", "file_name", "image_name"])
def test_the_column_of_names_is_known_by_its_usual_names(hub, column, options):
    published(hub, {"label": Value("string"), column: Value("string")}, [{"label": "nevus", column: "a/ISIC_81.png"}])
    assert load(**options)["image_id"] == ["ISIC_81"]


def test_the_archives_number_of_a_file_tells_more_than_a_column_without_it(hub):
    row = {"image": encoded(1) | {"path": "ISIC_0025818.png"}, "label": "nevus", "file": "17.png"}
    published(hub, {"image": Image(), "label": Value("string"), "file": Value("string")}, [row])
    assert load()["image_id"] == ["ISIC_0025818"]


SPLITS = {
    "is_test": (Value("bool"), True, False),
    "Phase": (ClassLabel(names=["Training", "PublicTest"]), 1, 0),
    "usage": (Value("string"), "held-out", "val"),
    "in_train": (Value("int64"), 0, 1),
}


@in_turns("column", SPLITS)
def test_a_column_that_plainly_says_a_split_is_one(hub, column, options):
    feature, test, train = SPLITS[column]
    rows = [{"label": "nevus", "fold": i, column: test if i == 2 else train} for i in range(3)]
    published(hub, {"label": Value("string"), "fold": Value("int64"), column: feature}, rows)
    assert load(**options)["shipped_split"] == ["train", "train", "test"]
