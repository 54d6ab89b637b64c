"""The languages of the page: complete, alike, used, and right in numbers."""

import re
import types
from html import unescape
from pathlib import Path

import pytest
from dermalert_space import abstention, attribution, formats, images, release, tables
from dermalert_space.contract import NOT_A_DEVICE, State
from dermalert_space.page import batch_slots, examples, language, markup, tab_batch
from dermalert_space.page.language import ENGLISH, FOREIGN, LANGUAGES
from dermalert_space.prediction import STATES
from dermalert_space.release import Release
from support.releases import make_image, measured_release

from dermalert.taxonomy import DIAGNOSES

PAGE = Path(language.__file__).parent
FOREIGNERS = [pytest.param(words, id=words.code) for words in LANGUAGES.values() if words is not ENGLISH]


def placeholders(text: str) -> set[str]:
    return set(re.findall(r"{(\w*)}", text))


@pytest.mark.parametrize("words", FOREIGNERS)
def test_a_language_has_the_keys_and_placeholders_of_english(words):
    assert list(words.texts) == list(ENGLISH.texts)
    assert {key: placeholders(text) for key, text in words.texts.items()} == {
        key: placeholders(text) for key, text in ENGLISH.texts.items()
    }
    assert not [text for text in words.texts.values() if not text.strip() or set(text) & set('<>&"')]  # they are HTML


def test_every_key_is_used():
    source = "".join(path.read_text() for pattern in ("*.py", "*.js") for path in PAGE.glob(pattern))
    named = {key for key in ENGLISH.texts if not key.startswith((*FOREIGN, "js.", "state.", "group."))}
    assert [key for key in named if not re.search(rf"""["']{key}["']""", source)] == []
    scripts = {key for key in language.of_scripts()["en"] if not re.search(rf"'{key}'", source)}
    assert scripts == set()
    assert {key for key in ENGLISH.texts if key.startswith("state.")} == {f"state.{state}" for state in STATES}
    assert {key for key in ENGLISH.texts if key.startswith("group.")} == {f"group.{group}" for group in markup.GROUPS}
    diagnoses = {text for key, text in ENGLISH.texts.items() if key.startswith("diagnosis.")}
    assert diagnoses == set(DIAGNOSES)


def test_states_are_called_in_english_as_the_api_and_the_tables_call_them():
    assert {state: ENGLISH.texts[f"state.{state}"] for state in STATES} == STATES
    assert ENGLISH("said.notice") == NOT_A_DEVICE


def unreadable() -> list[str]:
    """What is said of files that cannot be read."""
    kinds = [*formats.BEGINS.values(), *formats.BRANDS.values()]
    contents = (b"", b"letter", b"%PDF-1.4", b"<html>", b"<svg", b"\0" * 257 + b"ustar", b"\0" * 128 + b"DICM")
    others = [formats.other(content) for content in contents]
    names = ["it is damaged or cut short", *(f"it is {kind}" for kind in kinds), *filter(None, others)]
    shrink = "it has 70000 x 9 pixels; " + images._SHRINK
    return [*(f"the file cannot be read as an image: {name}." for name in names), f"the file cannot be read: {shrink}"]


def made_elsewhere() -> list[str]:
    """Sentences in English that a visitor may be shown."""
    reasons = [reason.format(value=20, threshold=100) for reason in abstention.REASONS.values()]
    rows = [types.SimpleNamespace(state=State.UNREADABLE)] * 3
    problems = [batch_slots.GIVEN_UP, images.too_large(300_000_000), *unreadable()]
    return [
        *(f"Cannot be assessed: {reason}" for reason in (*reasons, release.NO_NUMBER)),
        *(f"Not read: {problem}" for problem in problems),
        *(attribution.LIMITS, NOT_A_DEVICE, tables.not_read(rows[:1]), tables.not_read(rows)),
        *(text for example in examples.read(examples.FOLDER) for text in (example.caption, example.attribution)),
    ]


ENGLISH_WORDS = re.compile(r"\b(the|it|is|file|image|save|picture|read|and|of)\b")


@pytest.mark.parametrize("words", FOREIGNERS)
def test_sentences_that_are_made_in_english_are_translated_to_the_last_word(words):
    for sentence in made_elsewhere():
        translated = words.translate(sentence)
        assert not ENGLISH_WORDS.search(translated) and translated != sentence, translated
        assert "{" not in translated
        assert sorted(re.findall(r"\d", sentence)) == sorted(re.findall(r"\d", translated))


def test_every_sentence_of_the_zip_reader_and_of_the_decoders_has_a_translation():
    known = "\n".join(ENGLISH.texts.values())
    for module in ("zip_archives", "images"):
        source = PAGE.parent.joinpath(f"{module}.py").read_text()
        raised = re.findall(r'(?:return|lambda:|UnreadableImage\(|NoPicture\()\s*"([^"]+[.])"', source)
        assert raised and [text for text in raised if text not in known] == [], module
    refused = re.findall(r'NoPicture\(f"it is (.+): ', PAGE.parent.joinpath("dicom.py").read_text())
    bare = re.sub("{.+?}", "{}", known)
    assert refused and [text for text in refused if re.sub("{.+?}", "{}", text) not in bare] == []


def test_numbers_have_a_decimal_comma_and_a_sentence_keeps_them():
    german, spanish = LANGUAGES["de"], LANGUAGES["es"]
    sentence = "Melanoma alert: the probability of melanoma is 64.6%; alert threshold 2.75%."
    assert german.translate(sentence) == (
        "Melanom-Alarm: Die Wahrscheinlichkeit für Melanom ist 64,6 %; Alarmschwelle 2,75 %."
    )
    assert "64,6 %; umbral de alerta 2,75 %" in spanish.translate(sentence)
    assert ENGLISH.translate(sentence) == sentence
    assert [german.number(text) for text in ("1,260", "<0.1%", "0.87 [0.81-0.92]")] == [
        "1.260",
        "<0,1 %",
        "0,87 [0,81-0,92]",
    ]
    assert german.translate("0.87 [no interval]") == "0,87 [kein Intervall]"
    assert german.translate("a name of nobody's list") == "a name of nobody's list"


@pytest.mark.parametrize(
    ("asked", "code"),
    [("de-AT,de;q=0.9,en;q=0.8", "de"), ("ES", "es"), ("fr,de;q=0.9", "en"), ("", "en"), ("en-GB", "en")],
)
def test_the_language_is_the_one_that_the_browser_asks_for_first(asked, code):
    assert language.of(types.SimpleNamespace(headers={"accept-language": asked})).code == code
    assert language.of(None) is ENGLISH


def shown(html: str) -> str:
    """The text of a part of the page, without its tags."""
    return unescape(re.sub("<[^>]*>", " ", html)).replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Release:
    return Release.load(measured_release(tmp_path_factory.mktemp("measured")))


@pytest.mark.parametrize("words", FOREIGNERS)
def test_an_answer_has_no_english_word_and_the_same_figures(measured, words):
    prediction = measured.predict(make_image((64, 48)))
    english, translated = (shown(markup.answer(measured, prediction, each)) for each in (ENGLISH, words))
    assert not ENGLISH_WORDS.search(translated) and words("diagnosis.nevus") in translated
    assert words.translate(prediction.sentence) in translated and " %" in translated
    assert re.findall(r"\d+", translated) == re.findall(r"\d+", english)
    assert words("review") in tab_batch.listed(measured, [], words) and words("review") not in english
    assert not ENGLISH_WORDS.search(shown(markup.meaning(measured, measured.metrics(), words)))


def test_one_file_and_many_files_are_counted_in_words(measured):
    row = tab_batch.batch.Row(file="a", prediction=None, watched=None, problem="the file is damaged in its archive.")
    german = LANGUAGES["de"]
    assert "1 Datei: " in tab_batch.listed(measured, [row], german)
    listed = tab_batch.listed(measured, [row, row], german)
    assert "2 Dateien: " in listed and "2 Dateien waren nicht als Bilder lesbar" in listed
    assert "Nicht gelesen: Die Datei ist in ihrem Archiv beschädigt." in listed
