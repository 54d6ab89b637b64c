"""Photos of one lesion: which files show it, its state, and two of them on the page."""

import csv
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from dermalert_space import batch, lesions, tables
from dermalert_space.cli import main
from dermalert_space.contract import BUNDLED, CONFIG, PREDICTIONS
from dermalert_space.page import batch_slots, tab_batch, two_pictures
from dermalert_space.page.language import LANGUAGES
from dermalert_space.prediction import Prediction
from dermalert_space.release import Release
from PIL import Image
from support.paths import REPOSITORY
from support.releases import make_image, make_release

NAMES = ["clinic_1/12_1.jpg", "clinic_1/12_2.jpg", "clinic_1/7-a.jpg", "clinic_1/other.jpg"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_release(tmp_path_factory.mktemp("release"), threshold=0.0135)


@pytest.fixture(scope="module")
def release(folder) -> Release:
    return Release.load(folder)


def row(file: str, state: str, melanoma: float | None = None, lesion: str | None = None) -> batch.Row:
    prediction = Prediction(
        state=state,
        alert=state == "melanoma_alert",
        abstained="it is too dark." if state == "cannot_assess" else None,
        sentence="...",
        probabilities={"melanoma": melanoma or 0.0},
        malignant=None,
        attention=None,
        urgency=(melanoma or 0.0) / 0.1,
    )
    read = state != "unreadable"
    problem = None if read else "the file is no file."
    return batch.Row(
        file=file, prediction=prediction if read else None, watched=melanoma, problem=problem, lesion=lesion
    )


# Which lesion a file shows


def test_names_alike_up_to_their_last_separator_show_one_lesion_and_a_folders_separator_is_none():
    found = lesions.by_pattern(lesions.UP_TO_LAST, NAMES)
    assert found == {NAMES[0]: "clinic_1/12", NAMES[1]: "clinic_1/12", NAMES[2]: "clinic_1/7"}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "'(' is no regular expression: missing ), unterminated subpattern"),
        ("lesion", "'lesion' has 0 groups: it needs one"),
        ("(a)(b)", "'(a)(b)' has 2 groups: it needs one"),
        ("(x)y", "no file has a name with the pattern '(x)y'; the first is 'clinic_1/12_1.jpg'."),
    ],
)
def test_a_pattern_that_groups_nothing_has_its_sentence(pattern, message):
    with pytest.raises(lesions.NoLesions, match=re.escape(message)):
        lesions.by_pattern(pattern, NAMES)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_names_files_by_the_end_of_their_path(tmp_path, delimiter):
    lines = ["site,file,lesion", "arm,12_1.jpg,A", "arm,clinic_1/12_2.jpg,A", "leg,nowhere.jpg,B", "leg,other.jpg, "]
    (tmp_path / "t.csv").write_text("\ufeff" + "\n".join(lines).replace(",", delimiter))
    assert lesions.by_table(tmp_path / "t.csv", NAMES) == {NAMES[0]: "A", NAMES[1]: "A"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,patient\na.jpg,1\n", "'t.csv' lacks the column 'lesion': it needs 'file' and 'lesion'."),
        (b"", "'t.csv' lacks the column 'file'"),
        (b"\xff\xd8\xff\xe0", "'t.csv' is no table: it is no CSV in UTF-8."),
        (b"file,lesion\na.jpg,1\n", "'t.csv' lists none of the files; the first is 'x/1.jpg'."),
        (b"file,lesion\nx/1.jpg,1\nx/1.jpg,2\n", "'t.csv' lists 'x/1.jpg' with two lesions, '1' and '2'."),
        (b"file,lesion\n1.jpg,1\n", "'1.jpg' in 't.csv' may be any of 2 files: write more of its path."),
        (b"file,lesion\n" + b"x" * 4_000_000, "'t.csv' is larger than 4 MB"),
        (None, "'t.csv' cannot be read: No such file or directory."),
    ],
)
def test_a_table_that_cannot_be_used_has_its_sentence(tmp_path, content, message):
    if content is not None:
        (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(lesions.NoLesions, match=re.escape(message)) as raised:
        lesions.by_table(tmp_path / "t.csv", ["x/1.jpg", "y/1.jpg"])
    for words in map(LANGUAGES.get, ("de", "es") if content is not None else ()):
        why = words.translate(f"Not grouped by lesion: {raised.value}")
        assert "Not grouped" not in why and str(raised.value) not in why


# The state of a lesion


def test_a_lesion_is_in_the_most_urgent_state_of_its_photos_and_no_photo_takes_an_alert_back():
    given = {
        "melanoma_alert": ["none", "melanoma_alert", "cannot_assess"],
        "malignant_likely": ["malignant_likely", "none"],
        "none": ["cannot_assess", "none", "unreadable"],
        "cannot_assess": ["unreadable", "cannot_assess"],
    }
    rows = [row("x", state, lesion=name) for name, states in given.items() for state in states]
    assert lesions.states([*rows, row("alone", "melanoma_alert")]) == {name: name for name in given}


def test_the_mean_is_of_log_odds_and_never_below_the_lowest_photo():
    assert lesions.mean_probability([0.2, 0.5]) == pytest.approx(1 / 3)  # odds of 1/4 and 1: their root is 1/2
    for pair in np.random.default_rng(0).uniform(0, 1, (50, 2)):
        assert pair.min() <= lesions.mean_probability(pair) <= pair.max()
    assert 0 < lesions.mean_probability([0.0, 1.0]) < 1


def test_the_page_on_the_space_has_the_alerts_of_lesions_by_each_rule_as_the_bundled_release_raises_them():
    table = pd.read_parquet(BUNDLED / PREDICTIONS).query("split == 'held_out' and not refused")
    photos = table[table.groupby("group")["truth"].transform("size") > 1].groupby("group")
    threshold = json.loads((BUNDLED / CONFIG).read_text())["alert"]["threshold"]
    by_rule = photos["melanoma"].agg(each=min, mean=lambda p: lesions.mean_probability(list(p)), any=max) >= threshold
    melanoma = photos["truth"].first() == "melanoma"
    text = (REPOSITORY / "docs" / "space.md").read_text()
    assert f"| of {melanoma.sum()} melanomas | of {(~melanoma).sum()} others |" in text
    for rule, name in (("each", "by each of its"), ("mean", "by the mean of the log-odds"), ("any", "by any of its")):
        raised = by_rule[rule]
        assert re.search(rf"\| {name}.*\| {raised[melanoma].sum()} \| {raised[~melanoma].sum()} \|", text), rule
    odds = table["melanoma"] / (1 - table["melanoma"])
    factors = (odds.groupby(table["group"]).max() / odds.groupby(table["group"]).min())[melanoma.index]
    assert f"a factor of {factors.median():.1f} in the median" in text
    assert f"a factor of {factors.quantile(0.9):.1f} or more" in text


def test_photos_of_one_lesion_stand_together_where_its_most_urgent_one_would_stand():
    rows = [
        row("alone", "melanoma_alert", 0.5),
        row("b1", "none", 0.01, "b"),
        row("a1", "melanoma_alert", 0.3, "a"),
        row("a2", "none", 0.02, "a"),
        row("b2", "melanoma_alert", 0.9, "b"),
        row("c1", "cannot_assess", 0.9, "c"),
        row("c2", "none", 0.03, "c"),
        row("dark", "cannot_assess", 0.1),
        row("c3", "unreadable", lesion="c"),
    ]
    assert [r.file for r in tables.by_urgency(rows)] == ["b2", "b1", "alone", "a1", "a2", "dark", "c1", "c2", "c3"]


def test_the_tables_say_which_lesion_and_its_state_where_files_are_grouped_and_nothing_where_not(release):
    rows = [row("a1", "melanoma_alert", 0.3, "=a"), row("a2", "none", 0.02, "=a"), row("b", "none", 0.02)]
    first, second, third = csv.DictReader(io.StringIO(tables.as_csv(rows, release)))
    assert [first["lesion"], second["lesion"], third["lesion"]] == ["'=a", "'=a", ""]
    assert second["state"] == "none" and third["lesion state"] == ""
    assert first["lesion state"] == second["lesion state"] == "melanoma_alert"
    files = json.loads(tables.as_json(rows, release))["files"]
    assert [(file["lesion"], file["lesion_state"]) for file in files] == [("=a", "melanoma_alert")] * 2 + [(None, None)]
    text = tables.as_text(rows, release)
    assert "a2  [=a: melanoma alert]" in text and "Lesions: 1 (1 melanoma alert). Files without a lesion: 1." in text
    assert '"lesion' not in tables.as_csv(rows[2:], release).splitlines()[0]
    assert "lesion_state" not in tables.as_json(rows[2:], release)


def test_the_command_groups_by_pattern_or_table_and_refuses_bad_ones_before_a_model_is_loaded(
    folder, tmp_path, capsys, monkeypatch
):
    (tmp_path / "images").mkdir()
    for number, name in enumerate(("12_1", "12_2", "7_1")):
        make_image(seed=number).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "t.csv").write_text("file,lesion\n12_1.png,A\n7_1.png,A\n")
    arguments = [str(tmp_path / "images"), "--model", str(folder), "--json", str(tmp_path / "out.json"), "--lesions"]
    for given, together in ((r"(\d+)_\d", {"12_1", "12_2"}), (str(tmp_path / "t.csv"), {"12_1", "7_1"})):
        assert main([*arguments, given]) == 0
        files = json.loads((tmp_path / "out.json").read_text())["files"]
        groups = {file["lesion"]: {f["file"] for f in files if f["lesion"] == file["lesion"]} for file in files}
        assert {str(tmp_path / "images" / f"{name}.png") for name in together} in groups.values()
    monkeypatch.setattr(Release, "load", lambda *_: pytest.fail("loaded"))
    capsys.readouterr()
    assert main([*arguments, "("]) == 2
    assert capsys.readouterr().err.startswith("'(' is no regular expression")


# The page


def test_the_list_of_a_batch_has_a_heading_a_lesion_and_a_bad_table_its_sentence(release, tmp_path):
    for number, name in enumerate(("12_1", "12_2", "other")):
        make_image(seed=number).save(tmp_path / f"{name}.png")
    uploads = [{"path": str(path)} for path in sorted(tmp_path.glob("*.png"))]
    (tmp_path / "t.csv").write_text("file\n12_1.png\n")

    def listed(table=None, *, alike=False) -> str:
        by = tab_batch.Grouping(table=table, alike=alike)
        places = batch_slots.Places(lambda: 0)
        return list(tab_batch.answers(release, uploads, by, str(tmp_path), places, "visitor"))[-1]

    alike = listed(alike=True)
    (section,) = re.findall('<section class="lesion">.*?</section>', alike, re.DOTALL)
    assert section.startswith('<section class="lesion"><h3>12: ') and section.count("<details ") == 2
    assert "Lesions: 1 (" in alike and "Lesions: " not in listed()
    assert "Not grouped by lesion: &#x27;t.csv&#x27; lacks the column" in listed({"path": str(tmp_path / "t.csv")})


def pair(release: Release, folder, when: str, first: Image.Image, second: Image.Image | None) -> str:
    given = []
    for name, image in (("1.png", first), ("2.png", second)):
        if image:
            image.save(folder / name)
        given.append({"path": str(folder / name)} if image else None)
    return two_pictures.compared(release, tuple(given), when, str(folder))


def test_two_pictures_of_a_day_give_the_mean_of_the_log_odds_and_the_state_of_the_more_urgent(release, tmp_path):
    images = sorted((make_image(seed=seed) for seed in range(12)), key=lambda image: watched(release, image))
    low, high = images[0], images[-1]
    assert watched(release, low) < release.threshold <= watched(release, high), "or nothing is shown"
    said = pair(release, tmp_path, two_pictures.SAME_DAY, low, high)
    mean = lesions.mean_probability([watched(release, low), watched(release, high)])
    assert (
        f"Both together: melanoma alert. The mean of the log-odds gives a probability of melanoma of {mean:.2%}" in said
    )
    assert said.count("<section>") == said.count("<img ") == 2
    assert "no melanoma alert" not in said.split("<section>")[0].lower()
    assert pair(release, tmp_path, two_pictures.SAME_DAY, low, None) == ""


def watched(release: Release, image: Image.Image) -> float:
    return release.predict_all([image])[0].probabilities["melanoma"]


def test_then_and_now_states_both_and_that_a_change_is_no_evidence_of_growth(release, tmp_path):
    said = pair(release, tmp_path, two_pictures.LATER, make_image(seed=1), make_image(seed=2))
    assert re.search(r"Probability of melanoma: [\d.]+% \(.*alert\) then, [\d.]+% \(.*alert\) now\.", said)
    assert "no evidence of growth" in said and "mean of the log-odds" not in said
    assert re.findall("<h3>(.*?)</h3>", said) == ["Earlier picture", "Later picture"]


def test_where_one_of_two_pictures_cannot_be_assessed_that_is_said_and_the_other_answers(
    release, tmp_path, monkeypatch
):
    sentence = release.predict_all([make_image(seed=2)])[0].sentence
    monkeypatch.setattr(Release, "_reasons", lambda *_: ["it is too dark.", None])
    said = pair(release, tmp_path, two_pictures.SAME_DAY, make_image(seed=1), make_image(seed=2))
    assert f"Only one of both can be assessed: Second picture. {sentence}" in said
    assert "Cannot be assessed: it is too dark." in said and "Both together" not in said
    (tmp_path / "broken.png").write_bytes(b"no picture")
    broken = {"path": str(tmp_path / "broken.png")}
    said = two_pictures.compared(release, (broken, broken), two_pictures.LATER, str(tmp_path))
    assert "Neither picture can be assessed." in said and "Not read: the file cannot be read" in said
