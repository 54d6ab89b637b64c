import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Value
from dermalert_space.contract import EXPOSURE
from PIL import Image
from support.pictures import picture, write_table

from dermalert.data import contamination, loading
from dermalert.errors import RunError, UsageError

pytestmark = pytest.mark.integration


def rows(*images, **columns):
    """Images by number, each its own lesion unless `lesion_id` says otherwise."""
    n = len(images)
    content = [f"{i:016d}".ljust(64, "0") for i in images]
    facts = {"image_id": [f"photo{i}" for i in images], "lesion_id": [None] * n, "patient_id": [None] * n}
    facts |= {"content": content, "group": [c[:16] for c in content]}
    features = Features(dict.fromkeys(facts, Value("string")) | {"label": Value("int64")})
    return Dataset.from_dict({"label": [0] * n} | facts | columns, features=features)


def sides(**given):
    names = ("train", "validation", "calibration", "held_out", "set_aside", "clean_test", "official_test")
    return {name: given.get(name, rows()) for name in names}


FOUR = {"train": rows(1, 2), "validation": rows(3), "calibration": rows(4), "held_out": rows(5, 6)}


def numbers(dataset):
    return sorted(int(name.removeprefix("photo")) for name in dataset["image_id"])


def test_the_same_sides_again_stay_as_they_are():
    apart = contamination.exclude_exposed(sides(**FOUR), contamination.of(sides(**FOUR)))
    assert {name: numbers(apart[name]) for name in FOUR} == {name: numbers(rows) for name, rows in FOUR.items()}
    assert len(apart["set_aside"]) == 0


def test_what_a_base_model_has_learnt_from_is_neither_held_out_nor_calibrated_on():
    now = sides(train=rows(9), validation=rows(3, 8), calibration=rows(2, 7), held_out=rows(1, 3, 4, 6))
    apart = contamination.exclude_exposed(now, contamination.of(sides(**FOUR)))
    expected = {"validation": [3, 8], "calibration": [7], "held_out": [6], "set_aside": [1, 2, 3, 4]}
    assert {name: numbers(apart[name]) for name in expected} == expected


@pytest.mark.parametrize(
    ("column", "learnt", "again"),
    [
        ("lesion_id", "HAM_1", ["HAM_1", "HAM_2"]),
        ("image_id", "ISIC_0000007_downsampled", ["ISIC_0000007", "ISIC_0000008"]),
    ],
)
def test_another_photo_is_known_by_its_lesion_or_its_number_in_the_archive(column, learnt, again):
    exposure = contamination.of(sides(**FOUR | {"train": rows(1, **{column: [learnt]})}))
    assert contamination.are_unseen(rows(20, 21, **{column: again}), exposure).tolist() == [False, True]


def test_a_clean_test_has_no_image_that_the_base_model_knows():
    apart = contamination.exclude_exposed(sides(**FOUR, clean_test=rows(1, 30)), contamination.of(sides(train=rows(1))))
    assert numbers(apart["clean_test"]) == [30]


def test_a_base_model_that_knows_all_that_would_be_held_out_is_refused():
    with pytest.raises(UsageError, match="all images of the split held_out: take another base"):
        contamination.exclude_exposed(sides(**FOUR), contamination.of(sides(train=rows(5, 6))))


def test_a_side_that_loses_a_diagnosis_to_the_base_model_is_refused():
    labels = {name: rows(*range(i, i + 2), label=[0, 3]) for i, name in zip((1, 3, 5, 7), FOUR, strict=True)}
    with pytest.raises(UsageError, match="'melanoma' has 3 groups"):
        contamination.exclude_exposed(sides(**labels), contamination.of(sides(train=rows(6))))


def test_the_list_of_a_chain_of_models_holds_what_all_of_them_have_seen(tmp_path):
    (tmp_path / "evaluation").mkdir()
    first = contamination.of(sides(calibration=rows(1, 2)))
    contamination.write(contamination.of(sides(train=rows(2)), first), tmp_path)
    learnt = contamination.read(tmp_path)
    assert contamination.are_unseen(rows(1, 2, 3), learnt).tolist() == [False, False, True]
    assert contamination.are_unseen(rows(1, 2), learnt, but_as="calibration").tolist() == [True, False]
    assert "photo1" not in learnt  # names of lesions and patients are nobody's business


@pytest.mark.parametrize("model", ["efficientnet-lite0", "nowhere"])
def test_of_a_model_without_a_list_nothing_is_known(model, tmp_path):
    assert contamination.read(tmp_path) == contamination.read(model) == {}


def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch):
    def silent(*_, **__):
        raise contamination.LocalEntryNotFoundError("no way through")

    monkeypatch.setattr(contamination, "hf_hub_download", silent)
    with pytest.raises(RunError, match="'user/repo' has learnt from: no way through"):
        contamination.read("user/repo")


def test_nothing_is_known_where_the_base_has_learnt_nothing():
    now = sides(**FOUR)
    assert contamination.exclude_exposed(now, {}) is now
    assert np.all(contamination.are_unseen(now["train"], {}))


def drawn(root, alter=lambda image: image, *, names="abcdef", first=0, **how):
    """Smooth pictures in one class folder, each altered, under names of their own."""
    (root / "nevus").mkdir(parents=True)
    for i, name in enumerate(names):
        image = picture(first + i, size=24).resize((240, 180), Image.Resampling.BICUBIC)
        alter(image).save(root / "nevus" / f"{root.name}-{name}.jpg", **({"quality": 95} | how))
    return loading.load([str(root)]).dataset


@pytest.mark.parametrize(
    ("alter", "quality"),
    [
        (lambda image: image, 50),
        (lambda image: image.resize((120, 90)), 90),
        (lambda image: image.resize((168, 168)), 80),
        (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 70),
        (lambda image: image.transpose(Image.Transpose.ROTATE_270).resize((162, 216)), 90),
    ],
    ids=["encoded anew", "scaled", "squashed", "mirrored", "turned and scaled"],
)
def test_a_copy_that_was_made_anew_under_another_name_is_known(tmp_path, alter, quality):
    learnt = contamination.of(sides(train=drawn(tmp_path / "clinic")))
    assert not contamination.are_unseen(drawn(tmp_path / "copies", alter, quality=quality), learnt).any()
    assert contamination.are_unseen(drawn(tmp_path / "others", alter, first=50, quality=quality), learnt).all()


def test_the_pictures_are_kept_in_a_column_of_their_own_and_a_list_without_it_is_read(tmp_path):
    dataset = drawn(tmp_path / "clinic")
    learnt = contamination.of(sides(train=dataset))
    (tmp_path / "evaluation").mkdir()
    contamination.write(learnt, tmp_path)
    assert contamination.read(tmp_path) == learnt
    table = pq.read_table(tmp_path / EXPOSURE)
    assert sum(cell is not None for cell in table["picture"].to_pylist()) == len(dataset)
    pq.write_table(table.select(["name", "side"]), tmp_path / EXPOSURE)
    before = contamination.read(tmp_path)
    assert not contamination.are_unseen(dataset, before).any()
    assert contamination.are_unseen(drawn(tmp_path / "copies", quality=60), before).all()


def test_a_copy_of_what_a_base_model_was_trained_on_is_not_held_out(tmp_path):
    learnt = contamination.of(sides(train=drawn(tmp_path / "clinic")))
    copies, others = drawn(tmp_path / "copies", quality=60), drawn(tmp_path / "others", first=50)
    now = dict.fromkeys(("train", "validation", "calibration", "clean_test", "set_aside", "official_test"), others)
    now["held_out"] = loading.concatenate_datasets([copies, others])
    assert len(contamination.exclude_exposed(now, learnt)["held_out"]) == len(others)


def two_clinics(root, folder, patients):
    """Data sets of two clinics, each in a folder of this name, whose six images have these patients."""
    for i, clinic in enumerate(("here", "there")):
        place = root / clinic / folder
        drawn(place, first=100 * i)
        rows = [{"file_name": p.name, "patient_id": patients[j]} for j, p in enumerate(sorted(place.rglob("*.jpg")))]
        write_table(place / "metadata.csv", rows)
        yield loading.load([str(place)]).dataset


@pytest.mark.parametrize("patient", ["patient_001", "7", "case_12"])
def test_the_patient_of_another_clinic_is_not_one_that_was_learnt_from(tmp_path, patient):
    here, there = two_clinics(tmp_path, "images", ["other", *[patient] * 5])
    learnt = contamination.of(sides(train=here))
    assert contamination.are_unseen(there, learnt).all()
    assert not contamination.are_unseen(here, learnt).any()


@pytest.mark.parametrize("folder", ["ward/images", "derm", "scans/2021"])
def test_patients_of_equal_ids_in_equally_named_folders_are_the_same_where_it_is_measured_and_that_is_said(
    tmp_path, folder, caplog
):
    here, there = two_clinics(tmp_path, folder, range(6))
    assert not contamination.are_unseen(there, contamination.of(sides(train=here))).any()
    assert caplog.text.count("6 images count as learnt from only because patients or lesions of equal ids") == 1
    together = loading.load([str(tmp_path / clinic / folder) for clinic in ("here", "there")]).dataset
    assert len(set(together["patient_id"])) == len(together)
    assert not contamination.are_unseen(there, contamination.of(sides(train=together))).any()
