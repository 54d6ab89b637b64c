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
from dermalert_space.page import api, examples, language, markup
from dermalert_space.page.language import ENGLISH, Language
from dermalert_space.release import Release

_WAIT = """() => {
    document.querySelector('#result').scrollIntoView({block: 'nearest'});
    return [%r, '', %r];
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
    return %r;
}"""
"""Without https a browser has no clipboard: what is selected can be copied all the same."""


_PRINT = "() => { document.querySelectorAll('#map').forEach(e => e.open = true); window.print(); }"

_SLIDER = (
    '<input type="range" value="100" oninput="'
    "this.closest('details').querySelector('figure + figure img').style.opacity = this.value / 100\">"
)
"""It fades the map over the picture: from the picture alone to the map alone."""


def add(release: Release, static: language.Static) -> gr.Image:
    """Add the tab's parts to the page that is being built; return the picture, with which programs ask too."""
    with gr.Row(elem_id="single"):
        with gr.Column(min_width=280, elem_id="given"):
            only = static(lambda words: f"<p class='fine'>{words('for_dermoscopy')}</p>")
            gr.HTML(only, elem_id="for", elem_classes="words")
            picture = image_input(static("dermoscopy_image"), ENGLISH("js.uploaded_image"), elem_id="picture")
            closer = gr.Button(static("look_closer_or_crop"), size="sm", elem_id="closer-open")
        with gr.Column(min_width=280, elem_id="assessed"):
            gr.HTML(static(lambda words: f"<h2>{words('assessment')}</h2>"), elem_classes="words")
            hint = static(lambda words: markup.sentence(words("hint")))
            result = gr.HTML(hint, elem_id="result", elem_classes="words")
            with gr.Row(elem_id="take"):
                copy = gr.Button(static("copy"), size="sm", elem_id="copy")
                report = gr.Button(static("print"), size="sm", elem_id="report")
        with gr.Column(min_width=280, elem_id="tries"):
            _add_examples(picture, static)
        looked = gr.HTML("", elem_id="looked", elem_classes="words")
    closer.click(None, js="() => window.dermalertLookCloser()", api_visibility="private")
    copy.click(None, None, copy, js=_COPY % static("copied"), api_visibility="private")
    report.click(None, js=_PRINT, api_visibility="private")

    def show(file: Json | None, request: gr.Request) -> Iterator[tuple[str, str]]:
        yield from answers(release, file, picture.GRADIO_CACHE, language.of(request))

    both = [result, looked]
    # The former answer goes at once: it must not stand beside another image, whatever becomes of this one.
    waiting = _WAIT % (static(lambda words: f"<p>{words('being_assessed')}</p>"), static("copy"))
    picture.change(None, outputs=[*both, copy], js=waiting, show_progress="hidden")
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
    run.failure(None, outputs=both, js=f"() => [{markup.busy(static)!r}, '']", show_progress="hidden")
    return picture


def add_meaning(release: Release, metrics: Json | None, static: language.Static) -> None:
    """Add what an alert is worth, which holds for any image."""
    means = static(lambda words: f"<h2>{words('what_it_means')}</h2>{markup.meaning(release, metrics, words)}")
    gr.HTML(means, elem_id="means", elem_classes="words")


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


def _add_examples(picture: gr.Image, static: language.Static) -> None:
    """Add what a visitor can try who has no image at hand."""
    shown = examples.read(examples.FOLDER) if (examples.FOLDER / examples.TABLE).is_file() else []
    if not shown:
        return
    gr.HTML(static(lambda words: f"<h2>{words('try_one')}</h2>"), elem_classes="words")
    with gr.Row(elem_id="examples"):
        for example in shown:
            # A file would be copied to where uploads are deleted.
            icon: Any = {"url": _thumbnail(example.path)}
            caption = static(functools.partial(_caption, example))
            button = gr.Button(caption, icon=icon, size="sm", elem_classes="example")
            button.click(functools.partial(str, example.path), None, picture, queue=False, api_visibility="private")
    gr.HTML(static(functools.partial(_sources, shown)), elem_classes="words")


def _thumbnail(path: Path) -> str:
    image, buffer = read_image(path), io.BytesIO()
    image.thumbnail((200, 200))
    image.save(buffer, "JPEG", quality=85)
    return markup.data_uri(buffer.getvalue(), "image/jpeg")


def _caption(example: examples.Example, words: Language) -> str:
    return markup.capitalised(words.translate(example.caption))


def _sources(shown: list[examples.Example], words: Language) -> str:
    items = "".join(f"<li>{_source(example, words)}</li>" for example in shown)
    return f"<details><summary>{words('what_and_whose')}</summary><ul>{items}</ul></details>"


def _source(example: examples.Example, words: Language) -> str:
    truth, confirmation = map(words.translate, (example.truth, example.confirmation))
    truth = words("confirmed_by", truth=truth, confirmation=confirmation) if confirmation else truth
    parts = [part for part in (_caption(example, words), truth, words.translate(example.attribution)) if part]
    link = f' <a href="{markup.escaped(example.url)}" rel="noopener">{markup.escaped(example.url)}</a>'
    return markup.escaped(": ".join(parts)) + (link if example.url.startswith("https://") else "")


def answers(release: Release, file: Json | None, cache: str, words: Language = ENGLISH) -> Iterator[tuple[str, str]]:
    """Give what the page says of an upload, and the same again with where the model looked."""
    if file is None:
        yield markup.sentence(words("hint")), ""
        return
    try:
        image = api.read(file, cache)
    except api.NoPicture as error:
        yield markup.sentence(words.translate(str(error)), kind=State.UNREADABLE), ""
        return
    prediction = release.predict_all([image])[0]
    html = markup.answer(release, prediction, words) + _record(release, file, words)
    yield html, ""
    if prediction.abstained:
        return
    try:
        yield html, where(release, image, words)
    except Exception as error:  # whatever becomes of the map: the answer stands
        print(f"no map could be made: {error!r}", file=sys.stderr)
        yield html, markup.sentence(words("no_map"), kind="refused")


def _record(release: Release, file: Json, words: Language) -> str:
    """Which file was assessed, when and by what, for whoever prints or copies the answer."""
    when = datetime.datetime.now(datetime.UTC)
    name = file.get("orig_name") or words("an_image")
    text = words("record", name=name, when=f"{when:%Y-%m-%d %H:%M} UTC", source=markup.source(release, words))
    return f'<p class="fine record">{markup.escaped(f"{text} {markup.review(words)}")}</p>'


def where(release: Release, image: Image.Image, words: Language = ENGLISH) -> str:
    """Where the model looked: a map that a slider lays over the image."""
    saliency = attribution.attribute(release, image)
    plain = image.resize((saliency.shape[1], saliency.shape[0]), Image.Resampling.LANCZOS)
    watched = words.translate(release.alert_label)
    coloured = attribution.overlay(image, saliency)
    below = markup.picture(plain, words("map_below"))
    above = markup.picture(coloured, words("map_above", label=watched), caption=words("map_caption", label=watched))
    limits = words.translate(attribution.LIMITS)
    return (
        f'<details id="map"><summary>{words("map")}</summary><p class="fine">{limits}</p>'
        f'<div class="stack">{below}{above}</div><label>{words("map_over")} {_SLIDER}</label></details>'
    )
