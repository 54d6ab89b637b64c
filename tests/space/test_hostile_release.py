"""What a hostile release says of itself is shown as text, and as nothing else, wherever it is shown."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from dermalert_space import batch, comparison, inputs, tables
from dermalert_space.page import api, markup, tab_batch, tab_evaluation, tab_versions
from dermalert_space.release import NoRelease, Predictions, Release
from PIL import Image
from support.releases import LABELS, make_image, make_release, measured_release

pytestmark = pytest.mark.integration

TAGS = (
    "<img src=x onerror=alert(1)>",
    "\"'><script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "[a](javascript:alert(1)) ![b](http://127.0.0.1/b.png)",
    "+1+cmd|' /C calc'!A0",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
)
"""Put in the place of names: some that a page would run, and some that a spreadsheet would."""


def hostile(folder: Path, tag: str) -> Release:
    """A release with such names of diagnoses, version, data and base model."""
    path = make_release(folder / "release", groups=True, attention=0.2, generated=False) / "config.json"
    config = json.loads(path.read_text())
    renamed = {name: f"{tag} {number}" for number, name in enumerate(LABELS)}
    config["id2label"] = {number: renamed[name] for number, name in enumerate(LABELS)}
    config["label2id"] = {name: number for number, name in config["id2label"].items()}
    config["alert"]["label"] = renamed["melanoma"]
    config["attention"]["labels"] = [renamed[name] for name in config["attention"]["labels"]]
    config["clinical_groups"] = {
        kind: [renamed[name] for name in names] for kind, names in config["clinical_groups"].items()
    }
    config["dermalert"] = {"version": tag, "data": [tag], "generated": False}
    path.write_text(json.dumps(config))
    return Release.load(path.parent)


@pytest.fixture(params=TAGS, ids=["image", "script", "formula", "Markdown", "sum", "escaped"])
def release(request, tmp_path) -> Release:
    try:
        return hostile(tmp_path, request.param)
    except NoRelease as error:  # refused for its names is as good, in words that show them safely
        assert str(error).isprintable()
        pytest.skip("refused when it is loaded")


def rows(release: Release) -> list[batch.Row]:
    """One row in each state, under names that are as bad."""
    found = []
    for number, (melanoma, carcinoma) in enumerate([(0.9, 0.0), (0.0, 0.5), (0.0, 0.0)]):
        row = np.zeros(9, np.float32)
        shares = {"melanoma": melanoma, "basal cell carcinoma": carcinoma, "nevus": 1 - melanoma - carcinoma}
        for name, share in shares.items():
            row[LABELS.index(name)] = share
        predictions = Predictions(probabilities=row[None], abstained=[None])
        release.predict_arrays = lambda _, predictions=predictions: predictions
        (prediction,) = release.predict_all([make_image()])
        found.append(batch.Row(file=f"{TAGS[number]}.png", prediction=prediction, watched=melanoma, problem=None))
    return [*found, batch.Row(file=TAGS[0], prediction=None, watched=None, problem=f"the file {TAGS[1]}.")]


def check(html: str) -> None:
    """No tag of the release's own, and no attribute that is left."""
    for tag in re.findall(r"<[^>]*>", html):
        assert not re.match(r"<(script|img src=x)", tag), tag
        assert "onerror" not in re.sub(r"=\"[^\"]*\"|='[^']*'", "", tag), tag


def test_the_page_runs_nothing_of_it(release, measured):
    listed = tab_batch.listed(release, tables.by_urgency(rows(release)))
    shown = "".join(markup.answer(release, row.prediction) for row in rows(release) if row.prediction)
    meant = markup.meaning(release, measured.metrics())
    for html in (listed, shown, meant, markup.notice(release, None)):
        check(html)
        assert TAGS[0] not in html
    assert [row.state for row in rows(release)] == ["melanoma_alert", "malignant_likely", "none", "unreadable"]


def test_a_spreadsheet_runs_nothing_of_it(release):
    table = csv.reader(io.StringIO(tables.as_csv(rows(release), release)))
    for line in table:
        assert not [cell for cell in line if cell.lstrip().startswith(("=", "+", "-", "@"))], line


def test_json_and_terminal_show_it_as_text(release):
    table = json.loads(tables.as_json(rows(release), release))
    assert [file["state"] for file in table["files"]] == [row.state for row in rows(release)]
    text = tables.as_text(rows(release), release)
    assert all(line.isprintable() for line in text.splitlines())
    assert api.release_record(release, None)["diagnoses"] == release.labels


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Release:
    return Release.load(measured_release(tmp_path_factory.mktemp("measured") / "release"))


def bad(value: object, tag: str) -> object:
    """Figures in which each text, and each name of what is counted, is hostile."""
    if isinstance(value, dict):
        return {key: bad(each, tag) for key, each in value.items()}
    if isinstance(value, list):
        return [bad(each, tag) for each in value]
    return tag if isinstance(value, str) else value


@pytest.mark.parametrize("tag", TAGS)
def test_figures_of_it_are_shown_as_text(measured, tag):
    figures = bad(measured.metrics(), tag)
    held_out = figures["splits"]["held_out"]
    held_out["melanoma"]["by_source"] = {tag: next(iter(held_out["melanoma"]["by_source"].values()))}
    held_out["subgroups"] |= {tag: {"not_measured": tag}}
    held_out["subgroup_sensitivity"] = {"sentences": [tag]}
    held_out["artefacts"] = {tag: next(iter(held_out["artefacts"].values()))}
    held_out["per_class"] |= {tag: held_out["per_class"]["melanoma"]}
    figures["splits"] |= {tag: held_out}
    html = tab_evaluation.html(measured, figures) + markup.meaning(measured, figures)
    check(html)
    assert markup.escaped(tag) in html


def test_versions_are_compared_as_text(measured):
    other = Release.load(measured.name)
    other.name = measured.name
    other.revision = TAGS[0]
    ids = [TAGS[1]]
    compared = comparison.Compared(
        images=2,
        watched=1,
        flagged=(1, 1),
        false=(0, 0),
        won=ids,
        lost=ids,
        false_new=ids,
        false_gone=ids,
        diagnoses=0,
        left_out=0,
        unknown=[TAGS[0]],
    )
    check(tab_versions._sentences(measured, other, compared))


@pytest.mark.parametrize("text", ["\u202ednilb", "a\u2066b", "\x1b[31mred", "one\ntwo", "a\u200b"])
def test_what_turns_a_line_round_is_not_shown_of_a_release(measured, tmp_path, text):
    release = hostile(tmp_path, "odd")
    release.model.config.dermalert |= {"version": text, "data": [text]}
    figures = bad(measured.metrics(), text)
    html = markup.source(release), tab_evaluation.html(measured, figures)
    shown = [markup.escaped(html[0]), html[1]]
    assert all(text not in one and "\ufffd" in one for one in shown)


@pytest.mark.parametrize(
    "change",
    [
        {"attention": {"labels": ["\x1b[2Jcleared"], "threshold": 0.1}},
        {"\u202ehidden_layers": 10**9},
        {"problem_type": "one\ntwo"},
    ],
)
def test_a_sentence_on_a_release_is_one_line_that_can_be_shown(tmp_path, change):
    path = make_release(tmp_path / "release") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(NoRelease) as refused:
        Release.load(path.parent)
    assert str(refused.value).isprintable() and str(refused.value).endswith(".")


@pytest.mark.parametrize("name", ["\x1b]0;x\x07", "\u202egnp.exe", "a\u200b", "\x00"])
def test_what_turns_a_line_round_is_shown_as_what_cannot_be_shown(measured, name):
    shown = inputs.display_name(f"{name}.png")
    assert shown.isprintable()
    row = batch.Row(file=shown, prediction=None, watched=None, problem="the file does not exist.")
    for text in (tables.as_text([row], measured), tables.as_csv([row], measured)):
        assert all(line.isprintable() for line in text.splitlines())


def test_an_image_as_part_of_the_page_holds_nothing_of_its_file():
    image = Image.new("RGB", (8, 8))
    image.info["comment"] = TAGS[1]
    assert "script" not in markup.picture(image, TAGS[0], caption=TAGS[1]).split("base64,")[1].split('"')[0]
    check(markup.picture(image, TAGS[0], caption=TAGS[1]))
