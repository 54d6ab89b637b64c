import numpy as np
import pytest
from datasets import Dataset

from dermalert.diagnoses import DIAGNOSES
from dermalert.subgroups import subgroups

MELANOMA = DIAGNOSES.index("melanoma")


def side(**columns):
    n = len(next(iter(columns.values())))
    blank = {"label": [4] * n, "group": [str(i) for i in range(n)]}
    blank |= {"age": [None] * n, "sex": [None] * n, "site": [None] * n, "source": ["here"] * n}
    return Dataset.from_dict(blank | columns)


def told(dataset, *, alert=True, **more):
    rng = np.random.default_rng(0)
    n = len(dataset)
    return subgroups(dataset, rng.dirichlet(np.ones(9), n), rng.random(n) < 0.5 if alert else None, **more)


def test_ages_fall_into_bands_in_their_order():
    ages = [5.0, 29.0, 30.0, 49.0, 50.0, 69.0, 70.0, 95.0, None]
    found = told(side(age=ages))["age"]
    assert list(found["of"]) == ["under 30", "30 to 49", "50 to 69", "70 and over"]
    assert [figures["n"] for figures in found["of"].values()] == [2, 2, 2, 2]
    assert found["not_recorded"] == 1


def test_each_subgroup_has_its_own_figures():
    labels = [MELANOMA, MELANOMA, 4, 4, 4, MELANOMA]
    dataset = side(sex=["female"] * 4 + ["male"] * 2, label=labels)
    probabilities = np.eye(9)[[MELANOMA, 4, 4, MELANOMA, 4, MELANOMA]]
    found = subgroups(dataset, probabilities, probabilities[:, MELANOMA] > 0.5)["sex"]["of"]
    assert (found["female"]["n"], found["female"]["melanomas"]) == (4, 2)
    assert found["female"]["sensitivity"]["value"] == found["female"]["specificity"]["value"] == 0.5
    assert found["female"]["accuracy"]["value"] == 0.5
    assert found["male"]["accuracy"]["value"] == found["male"]["auroc"]["value"] == 1


def test_photos_of_one_lesion_are_one_group():
    dataset = side(sex=["female"] * 4, group=["a", "a", "b", "b"])
    assert told(dataset)["sex"]["of"]["female"]["groups"] == 2


def test_a_subgroup_without_melanomas_has_no_sensitivity():
    figures = told(side(sex=["female", "female"]))["sex"]["of"]["female"]
    assert figures["sensitivity"] == figures["auroc"] == {"value": None, "low": None, "high": None}


def test_a_release_without_a_threshold_has_neither_sensitivity_nor_specificity():
    figures = told(side(sex=["female", "male"], label=[MELANOMA, 4]), alert=False)["sex"]["of"]["female"]
    assert figures["sensitivity"]["value"] is figures["specificity"]["value"] is None
    assert figures["accuracy"]["value"] is not None


@pytest.mark.parametrize("kind", ["age", "sex", "site", "skin type"])
def test_what_no_source_records_is_said_to_be_not_measured(kind):
    assert told(side(source=["here", "there"]))[kind] == {
        "not_measured": f"no source of these images records the {kind}"
    }


def test_the_source_is_a_subgroup_too():
    assert list(told(side(source=["there", "here"]))["source"]["of"]) == ["here", "there"]
