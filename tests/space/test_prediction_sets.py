import csv
import json
from pathlib import Path

import pytest
from dermalert_space.cli import main
from dermalert_space.prediction_sets import PredictionSets, problems
from dermalert_space.release import NoRelease, Release
from support.releases import LABELS, make_image, make_release

SETS = {
    "alpha": 0.1,
    "split": "calibration",
    "lesions_needed": 9,
    "thresholds": dict.fromkeys(LABELS, 1e-6) | {"melanoma": 0.5, "vascular lesion": None},
    "lesions": dict.fromkeys(LABELS, 40) | {"vascular lesion": 3},
}


def release_with(folder: Path, sets: object) -> Path:
    path = make_release(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_sets": sets}))
    return folder


def test_a_set_holds_what_reaches_its_threshold_and_nothing_without_one():
    sets = PredictionSets.read(SETS)
    probabilities = {"melanoma": 0.5, "nevus": 0.2, "dermatofibroma": 0.0, "vascular lesion": 0.3}
    assert sets.of(probabilities) == ["melanoma", "nevus"]
    assert sets.of(probabilities | {"melanoma": 0.499}) == ["nevus"]
    assert (sets.without_promise, sets.lesions_needed) == (["vascular lesion"], 9)
    assert sets.to_json() == SETS


@pytest.mark.parametrize(
    ("changed", "clause"),
    [
        ({"thresholds": [0.1]}, "name no thresholds"),
        ({"lesions": None}, "name no thresholds"),
        ({"alpha": 1.5}, "leave out a share of 1.5"),
        ({"alpha": 1}, "leave out a share of 1"),
        ({"alpha": True}, "leave out a share of True"),
        ({"split": None}, "leave out a share"),
        ({"thresholds": {"wart": 0.1}}, "do not name each of its diagnoses"),
        ({"thresholds": SETS["thresholds"] | {"nevus": float("nan")}}, "is no number above 0"),
        ({"thresholds": SETS["thresholds"] | {"nevus": "0.1"}}, "is no number above 0"),
        ({"lesions": SETS["lesions"] | {"nevus": 1.5}}, "in no whole numbers"),
    ],
)
def test_damaged_sets_are_named(changed, clause):
    (problem,) = problems(SETS | changed, LABELS)
    assert clause in problem
    assert not list(problems(SETS, LABELS))


@pytest.mark.integration
def test_a_release_with_damaged_sets_is_refused(tmp_path):
    with pytest.raises(NoRelease, match="cannot be served: its 'prediction_sets' name no thresholds"):
        Release.load(release_with(tmp_path / "odd", "yes"))


@pytest.mark.integration
def test_the_command_writes_the_set_of_each_image_that_it_assesses(tmp_path, capsys):
    folder, tables = release_with(tmp_path / "release", SETS), [tmp_path / "a.csv", tmp_path / "a.json"]
    (tmp_path / "images").mkdir()
    make_image().save(tmp_path / "images" / "lesion.png")
    (tmp_path / "images" / "letter.txt").write_text("Dear colleague")
    words = [tmp_path / "images", "--model", folder, "--csv", tables[0], "--json", tables[1]]
    main([*map(str, words), "--prediction-sets"])
    text = capsys.readouterr().out
    with tables[0].open(newline="") as file:
        first, second = csv.DictReader(file)
    report = json.loads(tables[1].read_text())
    expected = Release.load(folder).predict(tmp_path / "images" / "lesion.png").probabilities
    members = [name for name, p in expected.items() if p >= (SETS["thresholds"][name] or 2)]
    assert members and first["prediction set"] == "; ".join(members) and second["prediction set"] == ""
    assert [file["prediction_set"] for file in report["files"]] == [members, None]
    assert report["prediction_sets"] == SETS
    assert f"{{{'; '.join(members)}}}" in text
    assert "lacks the right one in at most 10.0% of the lesions" in text
    assert "Too few lesions (9 are needed), and so in no set: vascular lesion (3)." in text


@pytest.mark.integration
def test_a_release_from_before_there_were_sets_says_so(tmp_path, capsys):
    make_image().save(tmp_path / "lesion.png")
    folder = make_release(tmp_path / "release")
    assert main([str(tmp_path / "lesion.png"), "--model", str(folder), "--prediction-sets"]) == 1
    assert "has no prediction sets, as it was made before there were any." in capsys.readouterr().err
