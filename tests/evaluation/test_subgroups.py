import dataclasses

import numpy as np
import pytest
from datasets import Dataset
from dermalert_space.estimate import Estimate
from dermalert_space.page.markup import lesions_as_served
from scipy import stats

from dermalert.evaluation.subgroups import (
    NotMeasured,
    SubgroupSensitivity,
    SubgroupTest,
    differing,
    holm,
    sensitivity_by_subgroup,
    subgroups,
)
from dermalert.taxonomy import DIAGNOSES

MELANOMA = DIAGNOSES.index("melanoma")


def side(**columns):
    n = len(next(iter(columns.values())))
    blank = {"label": [4] * n, "group": [str(i) for i in range(n)]}
    blank |= {"age": [None] * n, "sex": [None] * n, "site": [None] * n, "source": ["here"] * n}
    return Dataset.from_dict(blank | columns)


def figures_of(dataset, *, alert=True):
    rng = np.random.default_rng(0)
    n = len(dataset)
    return subgroups(dataset, rng.dirichlet(np.ones(9), n), rng.random(n) < 0.5 if alert else None)


def test_ages_fall_into_bands_in_their_order():
    ages = [5.0, 29.0, 30.0, 49.0, 50.0, 69.0, 70.0, 95.0, None]
    bands = figures_of(side(age=ages))["age"]
    assert list(bands.of) == ["under 30", "30 to 49", "50 to 69", "70 and over"]
    assert [figures.n for figures in bands.of.values()] == [2, 2, 2, 2]
    assert bands.not_recorded == 1


def test_each_subgroup_has_its_own_figures():
    labels = [MELANOMA, MELANOMA, 4, 4, 4, MELANOMA]
    dataset = side(sex=["female"] * 4 + ["male"] * 2, label=labels)
    probabilities = np.eye(9)[[MELANOMA, 4, 4, MELANOMA, 4, MELANOMA]]
    of = subgroups(dataset, probabilities, probabilities[:, MELANOMA] > 0.5)["sex"].of
    female, male = of["female"], of["male"]
    assert (female.n, female.melanomas) == (4, 2)
    assert female.sensitivity.value == female.specificity.value == female.accuracy.value == 0.5
    assert male.accuracy.value == male.auroc.value == 1


def test_photos_of_one_lesion_are_one_group():
    dataset = side(sex=["female"] * 4, group=["a", "a", "b", "b"])
    assert figures_of(dataset)["sex"].of["female"].groups == 2


def test_a_subgroup_without_melanomas_has_no_sensitivity():
    figures = figures_of(side(sex=["female", "female"]))["sex"].of["female"]
    assert figures.sensitivity == figures.auroc == Estimate()


def test_a_release_without_a_threshold_has_neither_sensitivity_nor_specificity():
    figures = figures_of(side(sex=["female", "male"], label=[MELANOMA, 4]), alert=False)["sex"].of["female"]
    assert figures.sensitivity.value is figures.specificity.value is None
    assert figures.accuracy.value is not None


@pytest.mark.parametrize("kind", ["age", "sex", "site", "skin type", "reference standard"])
def test_what_no_source_records_is_said_to_be_not_measured(kind):
    assert figures_of(side(source=["here", "there"]))[kind] == NotMeasured(
        not_measured=f"no source of these images records the {kind}"
    )


def test_the_source_is_a_subgroup_too():
    assert list(figures_of(side(source=["there", "here"]))["source"].of) == ["here", "there"]


def test_the_reference_standard_has_figures_but_is_no_subgroup_of_patients():
    split = side(confirmation=["histopathology", "follow-up"] * 30, label=[MELANOMA] * 60)
    assert list(figures_of(split)["reference standard"].of) == ["follow-up", "histopathology"]
    assert not sensitivity_by_subgroup(split, np.arange(60) % 2 == 0).tests


def melanomas(kind, *counts):
    """A split of melanomas, a photo each, and which raise the alert: (name, alerts, all) a subgroup."""
    names = [name for name, _, n in counts for _ in range(n)]
    alert = [i < hits for _, hits, n in counts for i in range(n)]
    return side(**{kind: names, "label": [MELANOMA] * len(names)}), np.array(alert)


def compare(kind, *counts):
    return sensitivity_by_subgroup(*melanomas(kind, *counts))


def test_a_subgroup_whose_melanomas_are_missed_beyond_chance_is_named():
    comparison = compare("age", (40.0, 23, 29), (60.0, 79, 80), (80.0, 70, 71))
    test = next(test for test in comparison.tests if test.name == "30 to 49")
    assert (test.n_found, test.n_melanomas, test.rest.n_found) == (23, 29, 149)
    assert test.p == pytest.approx(0.0002, abs=5e-5)
    assert test.p_corrected == pytest.approx(3 * test.p)
    assert comparison.weakest.name == "30 to 49"
    beyond_chance, weakest = comparison.sentences
    for words in ("age 30 to 49", "23 of 29 melanomas, 0.79 [0.60-0.92]"):
        assert words in beyond_chance and words in weakest
    assert "the others whose age is known 149 of 151" in beyond_chance
    assert "p = 0.00024, and 0.00072 corrected for 3 subgroups" in beyond_chance
    assert "with at least 20 melanomas" in weakest


@pytest.mark.parametrize(
    ("counts", "named"),
    [
        ([("arm", 30, 40), ("leg", 40, 40), ("neck", 40, 40)], ["arm"]),
        ([("arm", 38, 40), ("leg", 40, 40), ("neck", 39, 40)], []),
        ([("arm", 10, 40), ("leg", 12, 40), ("neck", 40, 40)], ["arm", "leg", "neck"]),
        ([("arm", 1, 3), ("leg", 40, 40), ("neck", 40, 40), ("face", 0, 1)], ["arm"]),
        ([("arm", 0, 2), ("leg", 0, 0)], []),
    ],
)
def test_only_what_differs_beyond_chance_is_named(counts, named):
    comparison = compare("site", *counts)
    assert [test.name for test in comparison.tests if test.p_corrected < 0.05] == sorted(named)
    lines = [line for line in comparison.sentences if "beyond chance: " in line]
    assert [line.split(" site ")[1].split(",")[0] for line in lines] == sorted(named)
    assert all(test.p_corrected >= test.p for test in comparison.tests)


def test_the_p_values_are_those_of_the_hypergeometric_distribution():
    comparison = compare("sex", ("female", 67, 73), ("male", 110, 112))
    (test,) = comparison.tests  # the two are each other's rest
    pmf = stats.hypergeom(185, 8, 73).pmf(np.arange(9))
    assert test.p == pytest.approx(pmf[pmf <= pmf[6] * (1 + 1e-9)].sum())
    assert test.name == "female"


def test_lesions_are_counted_and_not_photos():
    dataset, alert = melanomas("sex", ("female", 3, 6), ("male", 6, 6))
    lesions = dataset.remove_columns("group").add_column("group", list("aabbccddeeff"))
    (test,) = sensitivity_by_subgroup(lesions, alert).tests
    assert (test.n_found, test.n_melanomas) == (1, 3)  # one photo of b, and both of c, are missed
    assert (test.rest.n_found, test.rest.n_melanomas) == (3, 3)


def test_a_lesion_in_two_subgroups_is_not_compared_with_itself():
    dataset, alert = melanomas("site", ("arm", 1, 1), ("leg", 1, 2), ("neck", 1, 1))
    lesions = dataset.remove_columns("group").add_column("group", ["a", "a", "b", "c"])
    arm = sensitivity_by_subgroup(lesions, alert).tests[0]
    assert (arm.name, arm.n_melanomas, arm.rest.n_melanomas) == ("arm", 1, 2)


def test_the_weakest_subgroup_has_twenty_melanomas_or_is_not_named():
    assert compare("site", ("arm", 0, 19), ("leg", 18, 20), ("neck", 29, 30)).weakest.name == "leg"
    comparison = compare("site", ("arm", 10, 19), ("leg", 11, 19))
    assert comparison.weakest is None
    assert "No subgroup has 20 melanomas" in comparison.sentences[-1]


@pytest.mark.parametrize(
    ("kind", "one", "others"),
    [("age", 40.0, (60.0, 80.0)), ("sex", "female", ("male",)), ("site", "arm", ("leg", "neck"))],
)
def test_a_melanoma_of_which_the_field_is_not_recorded_is_not_among_the_others(kind, one, others):
    counts = [(one, 10, 30), *((name, 40, 40) for name in others)]
    comparison = compare(kind, *counts, (None, 3, 7))
    n = 40 * len(others)
    assert f"; of the others whose {kind} is known {n} of {n} (" in comparison.sentences[0]
    even = compare(kind, *((name, 40, 40) for name in (one, *others)), (None, 3, 7))
    assert "from that of the others of whom the same is known" in even.sentences[0]


def test_nothing_is_said_without_a_threshold_or_a_melanoma():
    nothing = SubgroupSensitivity(tests=[], weakest=None, sentences=[])
    dataset, _ = melanomas("site", ("arm", 10, 19), ("leg", 11, 19))
    assert sensitivity_by_subgroup(dataset, None) == nothing
    assert sensitivity_by_subgroup(side(site=["arm", "leg"]), np.array([True, False])) == nothing


@pytest.mark.parametrize("seed", range(5))
def test_holms_correction_is_what_its_steps_are_one_by_one(seed):
    p = np.random.default_rng(seed).random(7) ** 3
    by_hand = [max(min(1, (7 - (p < other).sum()) * other) for other in p if other <= own) for own in p]
    assert holm(p.tolist()) == pytest.approx(by_hand)


@pytest.mark.integration
def test_equal_subgroups_are_named_in_at_most_one_of_twenty_splits():
    rng, named = np.random.default_rng(0), 0
    for _ in range(150):
        sizes = rng.integers(5, 60, 6)
        counts = [(str(i), rng.binomial(n, 0.93), n) for i, n in enumerate(sizes)]
        named += any(test.p_corrected < 0.05 for test in compare("site", *counts).tests)
    assert named / 150 <= 0.05


def as_json(tests):
    return [dataclasses.asdict(test) for test in tests]


def test_a_test_is_read_back_from_json():
    tests = compare("age", (40.0, 5, 5), (60.0, 4, 5), (80.0, 5, 5)).tests
    assert [SubgroupTest.read(content) for content in as_json(tests)] == tests


def test_of_two_subgroups_that_are_each_others_rest_both_have_their_lesions_as_served():
    tests = as_json(compare("sex", ("female", 7, 10), ("male", 29, 30)).tests)
    assert [lesions_as_served("sex", name, tests)["n_found"] for name in ("female", "male")] == [7, 29]
    assert lesions_as_served("sex", "male", tests)["sensitivity"]["value"] == pytest.approx(29 / 30)


def test_what_was_not_compared_has_no_lesions_as_served():
    tests = as_json(compare("age", (40.0, 5, 5), (60.0, 4, 5), (80.0, 5, 5)).tests)
    assert lesions_as_served("age", "under 30", tests) is None
    assert lesions_as_served("site", "trunk", tests) is None
    assert lesions_as_served("age", "50 to 69", tests)["n_found"] == 4


def test_only_subgroups_that_differ_beyond_chance_are_differing():
    tests = compare("age", (40.0, 10, 29), (60.0, 79, 80), (80.0, 70, 71)).tests
    assert [line.split(",")[0] for line in differing(tests) if line.startswith("Lower")] == [
        "Lower sensitivity beyond chance: age 30 to 49"
    ]
    assert differing(compare("sex", ("female", 9, 10), ("male", 9, 10)).tests) == []
