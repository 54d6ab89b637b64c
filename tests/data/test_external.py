import shutil

import pytest
from support.pictures import class_folders, picture, write_table

from dermalert.data import contamination, external, loading, near_duplicates, splits
from dermalert.errors import UsageError

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    folder = class_folders(tmp_path_factory.mktemp("learnt") / "clinic", images=60, labels=("melanoma", "nevus"))
    return folder, splits.split(near_duplicates.link(loading.load([str(folder)]).dataset))


def load(named, learnt):
    sides = learnt[1]
    return external.load(named, splits=sides, exposure=contamination.of(sides), policy="none").splits


def test_another_data_set_is_reported_as_a_whole(learnt, tmp_path):
    other = class_folders(tmp_path / "other", images=2, first_seed=5000)
    (name, dataset), *rest = load([f"there={other}"], learnt).items()
    assert (name, len(dataset), rest) == ("external/there", 18, [])


def test_an_image_with_kin_among_those_learnt_from_is_left_out(learnt, tmp_path, caplog):
    _, sides = learnt
    other = class_folders(tmp_path / "other", images=2, first_seed=5000)
    image = sides["train"][0]["image"]
    shutil.copy(image.filename, other / "melanoma" / "copy.png")
    image.resize((48, 48)).save(other / "nevus" / "again.png")
    dataset = load([f"there={other}"], learnt)["external/there"]
    assert len(dataset) == 18
    assert "left out of there: 2 images related to those learnt from" in caplog.text


def test_what_was_held_out_may_be_reported_again(learnt, tmp_path):
    held_out = learnt[1]["held_out"][0]["image"]
    (tmp_path / "other" / "nevus").mkdir(parents=True)
    shutil.copy(held_out.filename, tmp_path / "other" / "nevus" / "copy.png")
    picture(9999).save(tmp_path / "other" / "nevus" / "new.png")
    assert len(load([f"there={tmp_path / 'other'}"], learnt)["external/there"]) == 2


def test_a_data_set_that_was_learnt_from_is_refused(learnt, tmp_path):
    (tmp_path / "same" / "nevus").mkdir(parents=True)
    shutil.copy(learnt[1]["train"][0]["image"].filename, tmp_path / "same" / "nevus" / "copy.png")
    with pytest.raises(UsageError, match="nothing is left of --external again: all its images are related to those"):
        load([f"again={tmp_path / 'same'}"], learnt)


def test_a_patient_of_another_clinic_whose_folder_has_the_same_name_is_no_kin(tmp_path):
    for n, place in enumerate(("north/derm", "south/derm")):
        root = class_folders(tmp_path / place, images=60 - 50 * n, first_seed=5000 * n, labels=("nevus",))
        rows = [{"image": p.stem, "patient_id": i} for i, p in enumerate(sorted(root.rglob("*.png")))]
        write_table(root / "metadata.csv", rows)
    north, south = str(tmp_path / "north/derm"), str(tmp_path / "south/derm")
    sides = splits.split(loading.load([north]).dataset)
    options = {"splits": sides, "exposure": contamination.of(sides), "policy": "none", "beside": [north]}
    assert len(external.load([f"south={south}"], **options).splits["external/south"]) == 10


@pytest.mark.parametrize("argument", ["photos/", "=photos/", "a b=photos/", "clinic="])
def test_a_data_set_without_a_name_is_refused(argument):
    with pytest.raises(UsageError, match="must be NAME=DATASET, such as clinic=photos/"):
        external.check([argument])


def test_a_name_used_twice_is_refused():
    with pytest.raises(UsageError, match="--external names two data sets 'a'"):
        external.check(["a=x", "a=y"])


def test_no_image_of_the_sides_that_are_learnt_from_is_in_two_of_them(learnt):
    names = [set().union(*contamination.names(learnt[1][side])) for side in contamination.SPLITS]
    assert not names[0] & names[1] | names[0] & names[2] | names[1] & names[2]
