"""The tab that sets another version of the release beside the one that is served."""

from typing import Any

import gradio as gr

from dermalert_space import comparison
from dermalert_space.contract import Json
from dermalert_space.page import api, markup, tab_single
from dermalert_space.release import Release

_NONE = "The repository has no other version yet."
_CHOOSE = "Choose a version to compare with {served}, the one that is served here."
_WAIT = "() => '<p>The versions are being asked.</p>'"
_FEW = 50  # melanomas below which a difference says little, as in the gate that a release passes


def add(shelf: comparison.Shelf, tab: gr.Tab) -> None:
    """Add the tab's parts to the page that is being built, for a release that is on the Hub."""
    release = shelf.served
    tag = gr.Dropdown([], label="Compare with", elem_id="tag")
    over = gr.HTML(markup.sentence(_CHOOSE.format(served=release)), elem_id="versions", elem_classes="words")
    with gr.Row():
        with gr.Column(min_width=300):
            label = "Dermoscopy image, to see the difference on it"
            picture = tab_single.image_input(label, "The image that both versions assess", elem_id="compared")
        with gr.Column(min_width=300, scale=2):
            both = gr.HTML("", elem_id="both", elem_classes="words")

    def choices() -> tuple[Json, str]:
        try:
            tags = shelf.tags()
        except comparison.NotThere as error:
            return gr.update(), markup.sentence(str(error), kind="refused")
        sentence = _CHOOSE.format(served=release) if tags else _NONE
        return gr.update(choices=tags, value=None), markup.sentence(sentence)

    def compared_on_image(tag: str | None, file: Json | None) -> str:
        return on_an_image(shelf, tag, file, picture.GRADIO_CACHE)

    busy = f"() => {markup.sentence(markup.BUSY, kind='refused')!r}"
    quiet: dict[str, Any] = {
        "api_visibility": "private",
        "preprocess": False,
        "show_progress": "hidden",
        "concurrency_id": "versions",
    }
    tab.select(choices, None, [tag, over], queue=False, show_progress="hidden", api_visibility="private")
    # `input`, not `change`: filling the list is no choice of a visitor.
    tag.input(None, outputs=[over, both], js="() => ['<p>The version is being loaded.</p>', '']")
    chosen = tag.input(lambda tag: over_the_evaluation(shelf, tag), tag, over, **quiet)
    chosen.failure(None, outputs=over, js=busy)
    chosen.then(compared_on_image, [tag, picture], both, **quiet)
    picture.change(None, outputs=both, js=_WAIT)
    picture.change(compared_on_image, [tag, picture], both, **quiet).failure(None, outputs=both, js=busy)


def over_the_evaluation(shelf: comparison.Shelf, tag: str | None) -> str:
    """How a version differs from the served one over what both held out."""
    if not tag:
        return markup.sentence(_CHOOSE.format(served=shelf.served))
    try:
        other = shelf.get(tag)
        compared = comparison.compare(shelf.served, other)
    except comparison.NotThere as error:
        return markup.sentence(str(error), kind="refused")
    return _sentences(shelf.served, other, compared)


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


def on_an_image(shelf: comparison.Shelf, tag: str | None, file: Json | None, cache: str) -> str:
    """What both versions say of an image, side by side."""
    if file is None or not tag:
        return ""
    try:
        image, other = api.read(file, cache), shelf.get(tag)
    except (api.NoPicture, comparison.NotThere) as error:
        return markup.sentence(str(error), kind="refused")
    sides = "".join(
        f"<section><h3>{markup.escaped(release)}</h3>{markup.answer(release, release.predict(image))}</section>"
        for release in (other, shelf.served)
    )
    return f'<div class="pair">{sides}</div>'
