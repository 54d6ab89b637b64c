import numpy as np
import pytest
from dermalert_space.estimate import Estimate
from scipy import special
from support.predictions import approx, random_case

from dermalert.evaluation.intervals import clopper_pearson
from dermalert.evaluation.report import report

NOTHING = Estimate()


def values(figures, *names):
    return [getattr(figures, name).value for name in names]


def test_what_is_undefined_is_null_and_never_one():
    truth, probabilities = np.full(10, 4), special.softmax(np.random.default_rng(0).normal(size=(10, 9)), axis=1)
    figures = report(truth, probabilities, np.arange(10), alert=None)
    melanoma = figures.melanoma
    names = ["auroc", "auroc_nevi", "partial_auc_80", "average_precision"]
    for name in [*names, "sensitivity", "sensitivity_refusals_missed", "refused"]:
        assert getattr(melanoma, name) == NOTHING, name
    for name in ("specificity_at_sensitivity", "specificity_nevi_at_sensitivity"):
        assert getattr(melanoma, name) == {"0.866": NOTHING, "0.90": NOTHING, "0.95": NOTHING}
    for at_prevalence in melanoma.predictive_values.values():
        assert all(figure == NOTHING for figure in at_prevalence.values())
    assert melanoma.by_source == {}
    assert figures.macro_auroc == NOTHING
    assert figures.per_class["melanoma"].sensitivity == NOTHING
    assert figures.per_class["melanoma"].n == 0


def test_photos_of_one_lesion_widen_the_interval():
    truth, probabilities = random_case(1, n=400)
    alone = report(truth, probabilities, np.arange(400), alert=None)
    twice = [np.repeat(x, 2, axis=0) for x in (truth, probabilities)]
    doubled = report(*twice, np.arange(800), alert=None)
    grouped = report(*twice, np.repeat(np.arange(400), 2), alert=None)

    def width(figures, name):
        return getattr(figures, name).high - getattr(figures, name).low

    for name in ("accuracy", "balanced_accuracy", "macro_auroc"):
        assert width(grouped, name) == pytest.approx(width(alone, name), rel=0.15)
        assert width(doubled, name) < 0.85 * width(grouped, name)


def test_melanoma_figures_are_those_at_the_threshold():
    truth = np.array([3, 3, 3, 4, 4, 0])
    probabilities = np.zeros((6, 9))
    probabilities[:, 3] = [0.9, 0.2, 0.19, 0.2, 0.1, 0.3]
    alert = probabilities[:, 3] >= 0.2
    melanoma = report(truth, probabilities, np.arange(6), alert=alert).melanoma
    assert values(melanoma, "auroc", "auroc_nevi") == pytest.approx([5.5 / 9, 4.5 / 6])
    shares = values(melanoma, "sensitivity", "specificity", "specificity_nevi")
    assert shares == pytest.approx([2 / 3, 1 / 3, 1 / 2])
    assert melanoma.predictive_values["0.05"]["missed_per_100"].value == pytest.approx(5 / 3)
    # All three melanomas score 0.19 or more, and so do a nevus and the actinic keratosis.
    assert melanoma.specificity_at_sensitivity["0.95"].value == pytest.approx(1 / 3)
    assert melanoma.specificity_nevi_at_sensitivity["0.95"].value == 1 / 2


@pytest.mark.parametrize(
    ("melanomas", "missing"),
    [(16, ["0.866", "0.90", "0.95"]), (23, ["0.90", "0.95"]), (29, ["0.90", "0.95"]), (30, ["0.95"]), (60, [])],
)
def test_no_interval_at_a_sensitivity_that_fewer_than_three_lesions_may_miss(melanomas, missing):
    lesions = np.arange(melanomas + 40)
    truth = np.repeat(np.where(lesions < melanomas, 3, 4), 2)  # two photos each: it is lesions that count
    logits = np.random.default_rng(0).normal(size=(len(truth), 9)) + np.eye(9)[truth]
    probabilities = special.softmax(logits, axis=1)
    melanoma = report(truth, probabilities, np.repeat(lesions, 2), alert=None).melanoma
    for figures in (melanoma.specificity_at_sensitivity, melanoma.specificity_nevi_at_sensitivity):
        assert [at for at, figure in figures.items() if figure.low is None] == missing
        assert all(figure.value is not None for figure in figures.values())


def test_a_refused_melanoma_counts_as_missed():
    truth, probabilities = random_case(2)
    alert, abstained = np.ones(60, bool), np.arange(60) % 2 == 0
    arguments = (truth, probabilities, np.arange(60))
    can, cannot = (report(*arguments, alert=alert, abstained=which).melanoma for which in (abstained, None))
    share = abstained[truth == 3].mean()
    assert values(can, "refused", "sensitivity_refusals_missed") == pytest.approx([share, 1 - share])
    assert can.sensitivity == cannot.sensitivity == cannot.sensitivity_refusals_missed
    assert cannot.refused == Estimate(0.0)


def malignant_side():
    """A split of four lesions with two photos each (melanoma, carcinoma, precursor, nevus) and a lone nevus."""
    truth = np.array([3, 3, 1, 1, 0, 0, 4, 4, 4])
    groups = np.array(["a", "a", "b", "b", "c", "c", "d", "d", "e"])
    probabilities = np.full((9, 9), 0.01)
    probabilities[np.arange(9), [3, 4, 1, 7, 4, 0, 4, 4, 3]] = 0.92
    return truth, groups, probabilities


@pytest.mark.parametrize(
    ("abstained", "images", "lesions"),
    [([], 4 / 6, 1 / 3), ([0], 3 / 6, 1 / 3), ([2], 3 / 6, 0), ([2, 3, 0], 1 / 6, 0)]
    + [([1, 4], 4 / 6, 1 / 3), ([6], 4 / 6, 1 / 3)],
)
def test_a_malignant_lesion_is_found_as_served_if_every_photo_of_it_is(abstained, images, lesions):
    truth, groups, probabilities = malignant_side()
    attention = probabilities[:, [0, 1, 3, 7]].sum(1) >= 0.5
    abstained = np.isin(np.arange(9), abstained)
    figures = report(truth, probabilities, groups, alert=None, attention=attention, abstained=abstained)
    side = figures.malignant
    assert (side.n, side.others, side.lesions.n) == (6, 3, 3)
    assert values(side, "sensitivity", "sensitivity_as_served") == pytest.approx([4 / 6, images])
    assert values(side.lesions, "sensitivity", "sensitivity_as_served") == pytest.approx([1 / 3, lesions])
    assert side.lesions.sensitivity.high == pytest.approx(clopper_pearson(1, 3)[1])
    assert values(side, "specificity", "specificity_as_served") == pytest.approx([2 / 3, 2 / 3])
    assert side.auroc.value == pytest.approx((4 * 2 + 4 * 0.5 + 2 * 1) / 18)


def test_an_alert_that_is_not_served_is_no_false_alert():
    truth, groups, probabilities = malignant_side()
    alert = probabilities[:, 3] >= 0.5
    side = report(truth, probabilities, groups, alert=alert, abstained=np.arange(9) == 8).melanoma
    assert values(side, "specificity", "specificity_as_served") == pytest.approx([6 / 7, 1])
    assert (side.lesions.n, *values(side.lesions, "sensitivity", "sensitivity_as_served")) == (1, 0, 0)


def test_without_an_operating_point_its_figures_are_null_and_the_area_is_not():
    truth, groups, probabilities = malignant_side()
    side = report(truth, probabilities, groups, alert=None)
    names = ["sensitivity", "sensitivity_as_served", "specificity", "specificity_as_served"]
    assert values(side.malignant, *names) == [None] * 4
    for figures in (side.malignant, side.melanoma):
        assert figures.lesions.sensitivity == figures.lesions.sensitivity_as_served == NOTHING
        assert figures.auroc.value is not None


def test_each_source_has_the_figures_of_its_own_images():
    truth, probabilities = random_case(4, n=200)
    groups, alert, sources = np.arange(200), probabilities[:, 3] >= 0.2, np.array(["HAM10000", None] * 100)
    by_source = report(truth, probabilities, groups, alert=alert, sources=sources).melanoma.by_source
    assert list(by_source) == ["HAM10000", "not known"]
    for source, figures in enumerate(by_source.values()):
        alone = report(truth[source::2], probabilities[source::2], groups[source::2], alert=alert[source::2])
        assert (figures.n, figures.others) == (alone.melanoma.n, 100 - alone.melanoma.n)
        assert figures.auroc.value == pytest.approx(alone.melanoma.auroc.value)
        for name in ("sensitivity", "specificity"):
            assert getattr(figures, name) == approx(getattr(alone.melanoma, name))


def test_a_sensitivity_of_one_does_not_make_the_alert_certain():
    truth, probabilities = np.repeat([3, 4], [16, 44]), np.full((60, 9), 1 / 9)
    alert = np.arange(60) < 20
    melanoma = report(truth, probabilities, np.arange(60), alert=alert).melanoma
    at_five_percent = melanoma.predictive_values["0.05"]
    assert at_five_percent["npv"].value == 1 > at_five_percent["npv"].low
    assert at_five_percent["missed_per_100"] == approx(Estimate(0, 0, 5 * (1 - 0.794)), abs=5e-3)


def test_the_calibration_error_lies_in_its_own_interval():
    for seed in range(5):
        truth, probabilities = random_case(seed, n=150)
        error = report(truth, probabilities, np.arange(150), alert=None).calibration.ece
        assert 0 <= error.low < error.value < error.high


def test_each_source_has_its_own_calibration_of_melanoma():
    truth, probabilities = random_case(4, n=400)
    sources = np.array(["HAM10000", None] * 200)
    whole = report(truth, probabilities, np.arange(400), alert=None, sources=sources).calibration.melanoma
    assert list(whole.by_source) == ["HAM10000", "not known"]
    for start, figures in enumerate(whole.by_source.values()):
        alone = report(truth[start::2], probabilities[start::2], np.arange(200), alert=None).calibration
        assert {**vars(figures), "by_source": {}} == vars(alone.melanoma)
    assert whole.melanomas == (truth == 3).sum()


def test_at_equal_priors_a_rare_diagnosis_wins_where_it_is_likelier_than_its_share():
    prior = np.full(9, 0.01)
    prior[4] = 0.92  # nevi
    truth = np.array([3] * 20 + [4] * 20)
    probabilities = np.full((40, 9), 1e-3)
    probabilities[:, 4] = 0.8
    probabilities[:20, 3] = 0.1  # ten times its share, and never the likeliest
    groups = np.arange(40)
    plain, equal = (report(truth, probabilities, groups, alert=None, prior=each) for each in (None, prior))
    assert plain.balanced_accuracy.value == equal.balanced_accuracy.value == 0.5
    assert equal.balanced_accuracy_equal_priors.value == 1
    assert plain.balanced_accuracy_equal_priors is None
    assert "balanced_accuracy_equal_priors" not in plain.to_json()
