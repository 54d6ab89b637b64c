"""The tab that judges one image: the answer first, then where the model looked."""

import functools
import sys
from collections.abc import Iterator

import gradio as gr
from PIL import Image

from dermalert_space import attribution
from dermalert_space.contract import Json
from dermalert_space.images import read_image
from dermalert_space.page import api, examples, markup
from dermalert_space.release import Release

_WAIT = "() => ['<p>The image is being judged.</p>', '']"


def add(release: Release, metrics: Json | None) -> gr.Image:
    """Add the tab's parts to the page that is being built; return the picture, with which programs ask too."""
    with gr.Row():
        with gr.Column(min_width=300):
            picture = image_input("Dermoscopy image", "The image that was uploaded", elem_id="picture")
            gr.HTML(f"<p class='fine'>{markup.FOR_DERMOSCOPY}</p>", elem_classes="words")
        with gr.Column(min_width=300):
            result = gr.HTML(markup.sentence(markup.HINT), elem_id="result", elem_classes="words")
    _add_examples(picture)
    looked = gr.HTML("", elem_id="looked", elem_classes="words")
    means = f"<h2>What the alert means</h2>{markup.meaning(release, metrics)}"
    gr.HTML(means, elem_id="means", elem_classes="words")

    def show(file: Json | None) -> Iterator[tuple[str, str]]:
        yield from answers(release, file, picture.GRADIO_CACHE)

    both = [result, looked]
    # The former answer goes at once: it must not stand beside another image, whatever becomes of this one.
    picture.change(None, outputs=both, js=_WAIT, show_progress="hidden")
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
    with gr.Row(elem_id="examples"):
        for example in shown:
            with gr.Column(min_width=110):
                gr.HTML(_thumbnail(example), elem_classes="words")
                button = gr.Button(f"Try: {example.caption}", size="sm")
            button.click(functools.partial(str, example.path), None, picture, queue=False, api_visibility="private")


def _thumbnail(example: examples.Example) -> str:
    image = read_image(example.path)
    image.thumbnail((220, 220))
    return markup.picture(image, example.caption, caption=example.attribution)


def answers(release: Release, file: Json | None, cache: str) -> Iterator[tuple[str, str]]:
    """Give what the page says of an upload, and the same again with where the model looked."""
    if file is None:
        yield markup.sentence(markup.HINT), ""
        return
    try:
        image = api.read(file, cache)
    except api.NoPicture as error:
        yield markup.sentence(str(error), kind="unreadable"), ""
        return
    prediction = release.predict_all([image])[0]
    html = markup.answer(release, prediction)
    yield html, ""
    if prediction.abstained:
        return
    try:
        yield html, where(release, image)
    except Exception as error:  # whatever becomes of the map: the answer stands
        print(f"no map could be made: {error!r}", file=sys.stderr)
        yield html, markup.sentence("Where the model looked cannot be shown for this image.", kind="refused")


def where(release: Release, image: Image.Image) -> str:
    """Where the model looked, beside the image."""
    saliency = attribution.attribute(release, image)
    plain = image.resize((saliency.shape[1], saliency.shape[0]), Image.Resampling.LANCZOS)
    watched = release.alert_label
    pictures = markup.picture(plain, "The image as it was judged", caption="The image") + markup.picture(
        attribution.overlay(image, saliency),
        f"The same image in grey; coloured where it speaks for {watched}, in yellow most",
        caption=f"What spoke for {watched}: yellow most, then green and blue",
    )
    return f'<h2>Where the model looked</h2><div class="pair">{pictures}</div><p class="fine">{attribution.LIMITS}</p>'
