import copy
import functools
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
import pytest
from dermalert_space.reader_studies import READERS
from matplotlib.text import Text
from PIL import Image
from scipy import special
from sklearn.metrics import roc_curve

from dermalert.evaluation import plots
from dermalert.evaluation.intervals import clopper_pearson
from dermalert.evaluation.report import report as measure
from dermalert.taxonomy import DIAGNOSES

MELANOMA, NEVUS = 3, 4
HISTORY = [
    {"epoch": 1.0, "eval_train_loss": 2.0, "eval_train_balanced_accuracy": 0.2},
    {"epoch": 1.0, "eval_validation_loss": 2.1, "eval_validation_balanced_accuracy": 0.1},
    {"epoch": 1.0, "loss": 2.2},
]
OF_HELD_OUT = ["roc.png", "alert_trade_off.png", "per_class.png", "confusion.png", "reliability.png"]


@functools.cache
def a_release(classes=(0, MELANOMA, NEVUS, 5, 7, 8), n=90, threshold=0.2, copies=1):
    """A report and predictions of `n` held-out images of these classes, and of some of another split."""
    rng = np.random.default_rng(0)
    truth = np.resize(list(classes), n)
    probabilities = special.softmax(rng.normal(size=(n, 9)) + 2 * np.eye(9)[truth], axis=1).astype(np.float32)
    truth, probabilities = np.repeat(truth, copies), np.repeat(probabilities, copies, axis=0)
    groups = np.repeat([f"lesion {i}" for i in range(n)], copies)
    alert = None if threshold is None else probabilities[:, MELANOMA] >= threshold
    report = {
        "splits": {"held_out": measure(truth, probabilities, groups, alert=alert).to_json()},
        "alert": {"threshold": threshold},
    }
    table = {"split": ["held_out"] * len(truth), "group": groups, "truth": [DIAGNOSES[label] for label in truth]}
    table = pa.table(table | {name: probabilities[:, i] for i, name in enumerate(DIAGNOSES)})
    elsewhere = table.slice(0, 1).set_column(0, "split", pa.array(["official_test"]))
    return report, pa.concat_tables([elsewhere, table])


def artefacts(times=1):
    figure = {"value": 0.1, "low": 0.05, "high": 0.2}
    nothing = dict.fromkeys(figure)
    rest = {"n": 200 * times, "quiet": 150 * times, "caught": 0, "alerts_gained": figure, "alerts_lost": nothing}
    return {name: rest | {"score_change": figure} for name in ("ink", "dark_corners")}


@pytest.fixture(scope="module")
def release():
    """The report and the predictions of a release whose artefacts were measured."""
    report, table = copy.deepcopy(a_release())
    report["splits"]["held_out"]["artefacts"] = artefacts()
    return report, table


@pytest.fixture(scope="module")
def held_out(release):
    return release[0]["splits"]["held_out"]


@pytest.fixture(scope="module")
def folder(release, tmp_path_factory):
    """All figures of the release, drawn once, as files."""
    folder = tmp_path_factory.mktemp("figures")
    names = plots.draw(folder, *release, HISTORY)
    assert names == ["learning_curves.png", *OF_HELD_OUT, "artefacts.png"]
    assert sorted(names) == sorted(path.name for path in folder.iterdir())
    return folder


def unsaved(*arguments) -> dict:
    """The figures that `draw` would save, by name."""
    figures = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "_save", lambda figure, path: figures.setdefault(path.name, figure))
        plots.draw(Path(), *arguments)
    return figures


@pytest.fixture(scope="module")
def figures(release):
    return unsaved(*release, HISTORY)


def parts(report, table):
    return report["splits"]["held_out"], plots._images(table, "held_out")


def points(axis):
    """The x and y of each point that is marked in an axis."""
    marked = [line.get_xydata()[0] for line in axis.lines if line.get_marker() == "o" and len(line.get_xydata()) == 1]
    return np.array(marked).reshape(-1, 2)


def words(figure):
    return " | ".join(text.get_text() for text in figure.findobj(Text))


@pytest.mark.integration
def test_all_figures_are_as_wide_as_two_cards_and_show_something(folder):
    for path in folder.iterdir():
        with Image.open(path) as image:
            assert image.width == 1400
            assert len(np.unique(np.asarray(image.convert("L")))) > 10


@pytest.mark.integration
def test_the_same_release_gives_the_same_bytes_whatever_the_readers_style(folder, release, tmp_path):
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "yellow"}):
        plots.draw(tmp_path, *release, HISTORY)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


@pytest.mark.parametrize("times", [1, 1000])
def test_no_text_is_cut_or_too_small_for_a_card(times, release, figures):
    if times > 1:
        report, table = copy.deepcopy(release)
        held_out = report["splits"]["held_out"] | {"artefacts": artefacts(times)}
        held_out["confusion"] = (np.array(held_out["confusion"]) * times).tolist()
        for one in held_out["per_class"].values():
            one["n"] *= times
        report["splits"]["held_out"] = held_out
        figures = unsaved(report, pa.concat_tables([table] * 10), HISTORY)
    assert len(figures) == 7
    with plots.style.context(plots.STYLE):
        for name, figure in figures.items():
            figure.draw_without_rendering()
            box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
            assert box.x0 > -0.01 and box.y0 > -0.01 and box.x1 < width + 0.01 and box.y1 < height + 0.01, name
            assert figure.get_suptitle(), name
            assert min(text.get_fontsize() for text in figure.findobj(Text)) >= 9, name


@pytest.mark.parametrize(("classes", "n"), [((0, 1, NEVUS), 90), ((MELANOMA,), 1), ((MELANOMA,), 12)])
def test_of_one_class_or_without_melanoma_only_what_is_defined_is_drawn(classes, n):
    report, table = a_release(classes=classes, n=n)
    figures = unsaved(report, table, [])
    assert list(figures) == ["per_class.png", "confusion.png", "reliability.png"]
    assert len(figures["reliability.png"].axes) == 1
    assert ("melanoma, n = 0" in words(figures["per_class.png"])) == (MELANOMA not in classes)
    assert "not defined" in words(figures["per_class.png"])


def test_without_a_threshold_none_is_marked():
    figures = unsaved(*a_release(threshold=None), [])
    for figure in (figures["roc.png"], figures["alert_trade_off.png"]):
        assert "threshold (" not in words(figure) and "at the threshold" not in words(figure)
        assert all(len(points(axis)) == 0 for axis in figure.axes)


def test_what_is_undefined_at_the_threshold_is_not_marked():
    report, table = a_release(threshold=None)
    figure = plots._alert_trade_off(*parts(report, table), 0.2)
    assert len(points(figure.axes[0])) == 0 and "at the threshold" not in words(figure)
    assert all(len(points(axis)) == 0 for axis in plots._roc_figure(*parts(report, table), 0.2, readers=True).axes)


def test_without_nevi_the_doctors_who_told_melanoma_from_nevi_are_left_out():
    figure = plots._roc_figure(*parts(*a_release(classes=(0, MELANOMA))), 0.2, readers=True)
    assert len(figure.axes) == 1
    labels = " ".join(text.get_text() for text in figure.legends[0].get_texts())
    assert "Haenssle" not in labels and "Phillips" in labels


def test_without_training_or_held_out_images_their_figures_are_left_out(release):
    report, table = release
    assert not unsaved({"splits": {}, "alert": report["alert"]}, table, HISTORY[:1])
    assert not unsaved(report, table.slice(0, 1), [])


def test_the_doctors_stand_in_the_panel_of_their_own_task_and_are_told_apart_from_the_release(figures):
    doctors = [
        [line.get_xydata()[0].tolist() for line in axis.lines if line.get_marker() in ("^", "s", "D")]
        for axis in figures["roc.png"].axes
    ]
    assert doctors == [[[0.814, 0.875], [0.709, 0.799]], [[0.713, 0.866]]]
    labels = [text.get_text() for text in figures["roc.png"].legends[0].get_texts()]
    assert len(labels) == len(set(labels))
    assert sum("on other lesions" in label for label in labels) == len(READERS) == 3


def test_the_operating_point_and_the_areas_are_those_of_the_report(figures, held_out):
    melanoma = held_out["melanoma"]
    names = (("specificity", "auroc"), ("specificity_nevi", "auroc_nevi"))
    for axis, (specificity, area) in zip(figures["roc.png"].axes, names, strict=True):
        assert points(axis).tolist() == [[melanoma[specificity]["value"], melanoma["sensitivity"]["value"]]]
        assert plots.format_estimate(melanoma[area]) in axis.get_title(loc="center") + axis.get_title(loc="left")


@pytest.mark.parametrize("seed", range(5))
def test_the_roc_curve_is_scikit_learns_with_ties_and_weights(seed):
    rng = np.random.default_rng(seed)
    positive, score = rng.random(50) < 0.4, rng.random(50).round(1)
    weights = rng.integers(0, 3, 50)
    false_alarms, sensitivity = plots._roc(positive, score, weights)
    theirs = roc_curve(positive, score, sample_weight=weights, drop_intermediate=False)
    # Scores of no weight are steps of no length in ours, and not there in theirs.
    ours = {(round(x, 9), round(y, 9)) for x, y in zip(false_alarms, sensitivity, strict=True)}
    assert ours == {(round(float(x), 9), round(float(y), 9)) for x, y in zip(*theirs[:2], strict=True)}


def test_the_band_holds_the_curve_and_is_never_certain():
    _, images = parts(*a_release())
    positive, score = images.truth == MELANOMA, images.probabilities[:, MELANOMA]
    low, high = plots._roc_band(positive, score, images.groups)
    curve = np.interp(plots._FALSE_ALARMS, *plots._roc(positive, score, np.ones(len(score))))
    assert (low <= curve).all() and (curve <= high).all() and (low < high).all()
    assert low[-1] == pytest.approx(clopper_pearson(15, 15)[0])


def test_photos_of_one_lesion_do_not_narrow_the_band():
    widths = []
    for copies in (1, 3):
        _, images = parts(*a_release(copies=copies))
        low, high = plots._roc_band(images.truth == MELANOMA, images.probabilities[:, MELANOMA], images.groups)
        widths.append((high - low).mean())
    assert widths[1] == pytest.approx(widths[0], rel=0.01)


def test_the_points_of_the_top_label_add_up_to_the_calibration_error(figures, held_out):
    axis = figures["reliability.png"].axes[0]
    sizes = np.array([int(text.get_text()) for text in axis.texts if text.get_text().isdigit()])
    gaps = np.abs(np.diff(points(axis), axis=1)[:, 0])
    assert sizes.sum() == 90
    assert sizes @ gaps / 90 == pytest.approx(held_out["calibration"]["ece"]["value"], abs=1e-6)


def test_the_bins_of_the_melanoma_probability_are_of_equal_size():
    rng = np.random.default_rng(0)
    assert np.bincount(plots._quantile_bins(rng.random(1000))).tolist() == [100] * 10
    assert np.bincount(plots._quantile_bins(rng.random(45))).tolist() in ([22, 23], [23, 22])
    assert set(plots._quantile_bins(np.full(1000, 0.5))) in ({0}, {9})


def test_the_trade_off_by_hand():
    # Of 2 melanomas 1 is caught, of 4 others 1 raises the alert; of 100 images 20 are melanomas: 10 + 20 alerts.
    truth, score = np.array([3, 3, 4, 4, 0, 0]), np.array([0.9, 0.1, 0.6, 0.2, 0.2, 0.0], np.float32)
    probabilities = np.zeros((6, 9), np.float32)
    probabilities[:, MELANOMA], probabilities[:, 8] = score, 1 - score
    images = plots._Images(truth, probabilities, np.arange(6))
    held_out = measure(truth, probabilities, np.arange(6), alert=score >= 0.5).to_json()
    figure = plots._alert_trade_off(held_out, images, 0.5)
    assert points(figure.axes[0]) == pytest.approx(np.array([[25.25, 50], [26.25, 50], [30, 50]]))
    curve = figure.axes[0].lines[-2].get_xydata()  # of 20%; the last line is the legend's
    # From the highest threshold down: none, the score of 0.9, then 0.6, both of 0.2, 0.1 and 0.
    assert curve == pytest.approx(np.array([[0, 100], [10, 50], [30, 50], [70, 50], [80, 0], [100, 0]]))
    assert "20% melanomas: 30 alerts at the threshold" in words(figure)


def test_an_image_of_which_two_diagnoses_are_as_probable_is_counted_in_its_row_only():
    truth, probabilities = np.array([NEVUS, NEVUS]), np.eye(9)[[NEVUS, NEVUS]]
    probabilities[0, [NEVUS, MELANOMA]] = 0.5
    held_out = measure(truth, probabilities, np.arange(2), alert=None).to_json()
    figure = plots._confusion(held_out)
    assert "(NV), n = 2" in words(figure)
    assert [text.get_text() for text in figure.axes[0].texts] == ["1"]


def test_the_cells_of_the_confusion_are_the_reports(figures, held_out):
    texts = figures["confusion.png"].axes[0].texts
    shown = {tuple(text.get_position()[::-1]): int(text.get_text()) for text in texts}
    counts = np.array(held_out["confusion"])
    assert shown == {(row, column): counts[row, column] for row, column in zip(*np.nonzero(counts), strict=True)}


def test_the_forest_shows_the_reports_figures_and_says_where_one_is_undefined(figures, held_out):
    for axis, metric in zip(figures["per_class.png"].axes, ("sensitivity", "auroc"), strict=True):
        shown = {DIAGNOSES[int(row)]: value for value, row in points(axis)}
        assert shown == {DIAGNOSES[i]: held_out["per_class"][DIAGNOSES[i]][metric]["value"] for i in (0, 3, 4, 5, 7, 8)}
        assert [text.get_text() for text in axis.texts] == ["not defined"] * 3


def test_artefacts_are_drawn_where_they_were_measured(figures):
    figure = figures["artefacts.png"]
    assert [len(points(axis)) for axis in figure.axes] == [2, 2, 0]
    assert "dark corners" in words(figure) and "share of\n150 others" in words(figure)


def test_generated_lesions_are_drawn_beside_no_reader_and_at_no_prevalence(release, figures):
    report, table = release
    generated = unsaved(report | {"data": {"generated": True}}, table, [])
    assert figures.keys() - generated.keys() == {"learning_curves.png", "alert_trade_off.png"}
    assert "on other lesions" not in words(generated["roc.png"])
