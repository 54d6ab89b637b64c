"""The tab that sets another version of the release beside the one that is served."""

import functools
from typing import Any

import gradio as gr

from dermalert_space import comparison
from dermalert_space.contract import Json
from dermalert_space.page import api, language, markup, tab_single
from dermalert_space.page.language import ENGLISH, Language
from dermalert_space.release import Release

_FEW = 50  # melanomas below which a difference says little, as in the gate that a release passes


def add(shelf: comparison.Shelf, tab: gr.Tab, static: language.Static) -> None:
    """Add the tab's parts to the page that is being built, for a release that is on the Hub."""
    release = shelf.served
    tag = gr.Dropdown([], label=static("compare_with"), elem_id="tag")
    over = gr.HTML(static(functools.partial(_choose, release)), elem_id="versions", elem_classes="words")
    with gr.Row():
        with gr.Column(min_width=300):
            label = static("image_to_compare")
            picture = tab_single.image_input(label, ENGLISH("js.compared_image"), elem_id="compared")
        with gr.Column(min_width=300, scale=2):
            both = gr.HTML("", elem_id="both", elem_classes="words")

    def choices(request: gr.Request) -> tuple[Json, str]:
        words = language.of(request)
        try:
            tags = shelf.tags()
        except comparison.NotThere as error:
            return gr.update(), markup.sentence(words.translate(str(error)), kind="refused")
        sentence = _choose(release, words) if tags else markup.sentence(words("no_other_version"))
        return gr.update(choices=tags, value=None), sentence

    def chosen_version(tag: str | None, request: gr.Request) -> str:
        return over_the_evaluation(shelf, tag, language.of(request))

    def compared_on_image(tag: str | None, file: Json | None, request: gr.Request) -> str:
        return on_an_image(shelf, tag, file, picture.GRADIO_CACHE, language.of(request))

    busy = f"() => {markup.busy(static)!r}"
    loading = static(lambda words: f"<p>{words('version_loading')}</p>")
    asking = static(lambda words: f"<p>{words('versions_asked')}</p>")
    quiet: dict[str, Any] = {
        "api_visibility": "private",
        "preprocess": False,
        "show_progress": "hidden",
        "concurrency_id": "versions",
    }
    tab.select(choices, None, [tag, over], queue=False, show_progress="hidden", api_visibility="private")
    # `input`, not `change`: filling the list is no choice of a visitor.
    tag.input(None, outputs=[over, both], js=f"() => [{loading!r}, '']")
    chosen = tag.input(chosen_version, tag, over, **quiet)
    chosen.failure(None, outputs=over, js=busy)
    chosen.then(compared_on_image, [tag, picture], both, **quiet)
    picture.change(None, outputs=both, js=f"() => {asking!r}")
    picture.change(compared_on_image, [tag, picture], both, **quiet).failure(None, outputs=both, js=busy)


def _choose(served: Release, words: Language) -> str:
    return markup.sentence(words("choose_version", served=served))


def over_the_evaluation(shelf: comparison.Shelf, tag: str | None, words: Language = ENGLISH) -> str:
    """How a version differs from the served one over what both held out; in figures, which are in English."""
    if not tag:
        return _choose(shelf.served, words)
    try:
        other = shelf.get(tag)
        compared = comparison.compare(shelf.served, other)
    except comparison.NotThere as error:
        return markup.sentence(words.translate(str(error)), kind="refused")
    return markup.in_english(_sentences(shelf.served, other, compared), words)


def _sentences(served: Release, other: Release, compared: comparison.Compared) -> str:
    watched, rest = served.alert_label, compared.images - compared.watched
    if not compared.images:
        return markup.sentence(f"No image was held out of both {other} and {served}: they cannot be compared.")
    summary = (
        f"On {compared.images} images that both held out, {served} flags {len(compared.won)} {watched}s that "
        f"{_short(other)} missed, and misses {len(compared.lost)} that it flagged, of {compared.watched}; "
        f"{len(compared.false_new)} false alerts are new and {len(compared.false_gone)} gone, of {rest} other images."
    )
    rows = [
        [f"{watched}s flagged, of {compared.watched}", *compared.flagged, _p(len(compared.won), len(compared.lost))],
        [f"others flagged, of {rest}", *compared.false, _p(len(compared.false_new), len(compared.false_gone))],
    ]
    if compared.attended:
        name = f"malignant or precursor at the point of attention, of {compared.malignant}"
        rows.append([name, *compared.attended, _p(*compared.attended_alone)])
    notes = [f"The likeliest diagnosis differs on {compared.diagnoses} images; {compared.left_out} were left out."]
    notes += [
        f"{name} does not say what it has learnt from: these images may be among it." for name in compared.unknown
    ]
    notes += [f"With {compared.watched} {watched}s one image decides much."] if compared.watched < _FEW else []
    head = ["", _short(other), f"{_short(served)} (served)", "p of the difference (McNemar)"]
    lists = {
        f"{watched}s won": compared.won,
        f"{watched}s lost": compared.lost,
        "new false alerts": compared.false_new,
        "false alerts gone": compared.false_gone,
    }
    return (
        markup.sentence(summary)
        + markup.table("Alerts on the images that both held out", head, rows, note=" ".join(notes))
        + "".join(_ids(name, ids) for name, ids in lists.items() if ids)
    )


def _p(gained: int, lost: int) -> str:
    p = comparison.chance(gained, lost)
    return "<0.001" if p < 0.001 else f"{p:.2g}"


def _short(release: Release) -> str:
    return release.revision or "newest"


def _ids(name: str, ids: list[str]) -> str:
    listed = markup.escaped(", ".join(ids))
    return f"<details><summary>{markup.escaped(name)}: {len(ids)}</summary><p>{listed}</p></details>"


def on_an_image(
    shelf: comparison.Shelf, tag: str | None, file: Json | None, cache: str, words: Language = ENGLISH
) -> str:
    """What both versions say of an image, side by side."""
    if file is None or not tag:
        return ""
    try:
        image, other = api.read(file, cache), shelf.get(tag)
    except (api.NoPicture, comparison.NotThere) as error:
        return markup.sentence(words.translate(str(error)), kind="refused")
    sides = "".join(
        f"<section><h3>{markup.escaped(release)}</h3>{markup.answer(release, release.predict(image), words)}</section>"
        for release in (other, shelf.served)
    )
    return f'<div class="pair">{sides}</div>'
