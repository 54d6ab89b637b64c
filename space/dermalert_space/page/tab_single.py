"""The tab that assesses one image: the answer first, then where the model looked."""

import datetime
import functools
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from dermalert_space import attribution
from dermalert_space.contract import Json, State
from dermalert_space.images import read_image
from dermalert_space.page import api, examples, markup
from dermalert_space.release import Release

_WAIT = """() => {
    document.querySelector('#result').scrollIntoView({block: 'nearest'});
    return ['<p>The image is being assessed.</p>', '', 'Copy text'];
}"""
_COPY = """() => {
    const cells = row => [...row.querySelectorAll('th, .share')].map(e => e.innerText).join(': ');
    const line = e => e.matches('tr') ? cells(e) : e.innerText;
    const parts = [...document.querySelectorAll('#result p, #result caption, #result tr, #notice p')];
    const text = parts.map(line).join('\\n');
    if (navigator.clipboard) navigator.clipboard.writeText(text);
    else {
        const field = document.body.appendChild(document.createElement('textarea'));
        field.value = text; field.select(); document.execCommand('copy'); field.remove();
    }
    return 'Copied';
}"""
"""Without https a browser has no clipboard: what is selected can be copied all the same."""


_PRINT = "() => { document.querySelectorAll('#map').forEach(e => e.open = true); window.print(); }"

_SLIDER = (
    '<input type="range" value="100" oninput="'
    "this.closest('details').querySelector('figure + figure img').style.opacity = this.value / 100\">"
)
"""It fades the map over the picture: from the picture alone to the map alone."""


def add(release: Release, metrics: Json | None) -> gr.Image:
    """Add the tab's parts to the page that is being built; return the picture, with which programs ask too."""
    with gr.Row(elem_id="single"):
        with gr.Column(min_width=280, elem_id="given"):
            gr.HTML(f"<p class='fine'>{markup.FOR_DERMOSCOPY}</p>", elem_id="for", elem_classes="words")
            picture = image_input("Dermoscopy image", "The image that was uploaded", elem_id="picture")
            closer = gr.Button("Look closer, or crop to the lesion", size="sm", elem_id="closer-open")
        with gr.Column(min_width=280, elem_id="assessed"):
            gr.HTML("<h2>Assessment</h2>", elem_classes="words")
            result = gr.HTML(markup.sentence(markup.HINT), elem_id="result", elem_classes="words")
            with gr.Row(elem_id="take"):
                copy = gr.Button("Copy text", size="sm", elem_id="copy")
                report = gr.Button("Print or save as PDF", size="sm", elem_id="report")
        with gr.Column(min_width=280, elem_id="tries"):
            _add_examples(picture)
        looked = gr.HTML("", elem_id="looked", elem_classes="words")
    means = f"<h2>What the alert means</h2>{markup.meaning(release, metrics)}"
    gr.HTML(means, elem_id="means", elem_classes="words")
    closer.click(None, js="() => window.dermalertLookCloser()", api_visibility="private")
    copy.click(None, None, copy, js=_COPY, api_visibility="private")
    report.click(None, js=_PRINT, api_visibility="private")

    def show(file: Json | None) -> Iterator[tuple[str, str]]:
        yield from answers(release, file, picture.GRADIO_CACHE)

    both = [result, looked]
    # The former answer goes at once: it must not stand beside another image, whatever becomes of this one.
    picture.change(None, outputs=[*both, copy], js=_WAIT, show_progress="hidden")
    # preprocess=False: gr.Image would decode the file itself, and fail or re-encode where `triage` knows better.
    run = picture.change(
        show,
        picture,
        both,
        preprocess=False,
        concurrency_id="model",
        api_visibility="private",
        show_progress="hidden",  # its overlay would lie on the sentence where the server is busy
    )
    busy = f"() => [{markup.sentence(markup.BUSY, kind='refused')!r}, '']"
    run.failure(None, outputs=both, js=busy, show_progress="hidden")
    return picture


def image_input(label: str, alt_text: str, *, elem_id: str) -> gr.Image:
    """Add where a visitor puts an image: by upload or clipboard, with no button that shares it."""
    return gr.Image(
        label=label,
        alt_text=alt_text,
        sources=["upload", "clipboard"],
        buttons=["fullscreen"],
        type="filepath",
        height=340,
        elem_id=elem_id,
    )


def _add_examples(picture: gr.Image) -> None:
    """Add what a visitor can try who has no image at hand."""
    shown = examples.read(examples.FOLDER) if (examples.FOLDER / examples.TABLE).is_file() else []
    if not shown:
        return
    gr.HTML("<h2>Or try one of these</h2>", elem_classes="words")
    with gr.Row(elem_id="examples"):
        for example in shown:
            # A file would be copied to where uploads are deleted.
            icon: Any = {"url": _thumbnail(example.path)}
            button = gr.Button(example.caption, icon=icon, size="sm", elem_classes="example")
            button.click(functools.partial(str, example.path), None, picture, queue=False, api_visibility="private")
    sources = "".join(f"<li>{_source(example)}</li>" for example in shown)
    gr.HTML(f"<details><summary>What they are and whose</summary><ul>{sources}</ul></details>", elem_classes="words")


def _thumbnail(path: Path) -> str:
    image, buffer = read_image(path), io.BytesIO()
    image.thumbnail((200, 200))
    image.save(buffer, "JPEG", quality=85)
    return markup.data_uri(buffer.getvalue(), "image/jpeg")


def _source(example: examples.Example) -> str:
    truth = f"{example.truth}, by {example.confirmation}" if example.confirmation else example.truth
    parts = [part for part in (example.caption, truth, example.attribution) if part]
    link = f' <a href="{markup.escaped(example.url)}" rel="noopener">{markup.escaped(example.url)}</a>'
    return markup.escaped(": ".join(parts)) + (link if example.url.startswith("https://") else "")


def answers(release: Release, file: Json | None, cache: str) -> Iterator[tuple[str, str]]:
    """Give what the page says of an upload, and the same again with where the model looked."""
    if file is None:
        yield markup.sentence(markup.HINT), ""
        return
    try:
        image = api.read(file, cache)
    except api.NoPicture as error:
        yield markup.sentence(str(error), kind=State.UNREADABLE), ""
        return
    prediction = release.predict_all([image])[0]
    html = markup.answer(release, prediction) + _record(release, file)
    yield html, ""
    if prediction.abstained:
        return
    try:
        yield html, where(release, image)
    except Exception as error:  # whatever becomes of the map: the answer stands
        print(f"no map could be made: {error!r}", file=sys.stderr)
        yield html, markup.sentence("Where the model looked cannot be shown for this image.", kind="refused")


def _record(release: Release, file: Json) -> str:
    """Which file was assessed, when and by what, for whoever prints or copies the answer."""
    when = datetime.datetime.now(datetime.UTC)
    name = file.get("orig_name") or "An image"
    text = f"{name}, assessed {when:%Y-%m-%d %H:%M} UTC. {markup.source(release)}"
    return f'<p class="fine record">{markup.escaped(text)}</p>'


def where(release: Release, image: Image.Image) -> str:
    """Where the model looked: a map that a slider lays over the image."""
    saliency = attribution.attribute(release, image)
    plain = image.resize((saliency.shape[1], saliency.shape[0]), Image.Resampling.LANCZOS)
    watched = release.alert_label
    coloured = attribution.overlay(image, saliency)
    alt = f"The same image in grey; coloured where it speaks for {watched}, in yellow most"
    below = markup.picture(plain, "The image as it was assessed")
    above = markup.picture(coloured, alt, caption=f"What spoke for {watched}: yellow most, then green and blue")
    return (
        f'<details id="map"><summary>Where the model looked</summary><p class="fine">{attribution.LIMITS}</p>'
        f'<div class="stack">{below}{above}</div><label>Map over the image {_SLIDER}</label></details>'
    )
