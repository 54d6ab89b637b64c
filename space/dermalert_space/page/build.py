"""The page of a release, put together from its tabs, and the endpoints for programs."""

import functools
import json
import os
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import mcp, processing_utils
from gradio.components.api_component import Api
from gradio_client.utils import python_type_to_json_schema

from dermalert_space import batch, comparison
from dermalert_space.contract import CONFIG, METRICS, Json, is_hub_name
from dermalert_space.page import (
    api,
    batch_slots,
    examples,
    language,
    markup,
    request_guard,
    tab_batch,
    tab_evaluation,
    tab_single,
    tab_versions,
    two_pictures,
    upload_retention,
)
from dermalert_space.page.language import ENGLISH, Language
from dermalert_space.release import Release
from dermalert_space.release_loading import NoRelease

STYLE = Path(__file__).parent / "style.css"
SCRIPTS = [Path(__file__).parent / name for name in ("words.js", "crop.js", "batch.js", "row_keys.js")]

_BLUE, _PALE = "#1d5fbf", "#8ab4f8"  # both 4.5:1 on what they stand on, as WCAG 2.2 asks
THEME = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"]).set(
    color_accent=_BLUE,
    button_primary_background_fill=_BLUE,
    button_primary_background_fill_dark=_BLUE,
    button_primary_background_fill_hover="#174a94",
    button_primary_background_fill_hover_dark="#174a94",
    body_text_color_subdued="#4b5563",
    body_text_color_subdued_dark="#b8bfca",
    link_text_color=_BLUE,
    link_text_color_dark=_PALE,
    block_info_text_color="#4b5563",
    block_info_text_color_dark="#b8bfca",
)

_ABOUT = "Melanoma alert for dermoscopy images, with its limits in view. For research and education; no medical device."
HEAD = (
    f'<meta name="description" content="{_ABOUT}"><meta property="og:title" content="dermalert">'
    f'<meta property="og:description" content="{_ABOUT}">'
    "<style>@media print { footer { display: none !important; } }</style>"
    f"<script>window.dermalertTexts = {json.dumps(language.of_scripts())};"
    f"{''.join(script.read_text() for script in SCRIPTS)}</script>"
)
"""What the page's own style cannot say: gradio keeps that to what lies above the footer."""

WAITING = 256
"""Requests that may wait; past that the answer is that the server is busy."""

EVERY, AGE = 30, 240
"""Seconds: how often what was uploaded is looked through, and how old it gets."""


class Page(gr.Blocks):
    """A page that says in a sentence what is wrong with what a program sends: gradio gives an error of no text."""

    def get_api_info(self, all_endpoints: bool = False, page: str | None = None) -> Any:
        """The description of the endpoints, which is of no visitor's language."""
        info = super().get_api_info(all_endpoints, page)
        info["named_endpoints"]["/judge"]["parameters"][0]["label"] = ENGLISH("dermoscopy_image")
        return info

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> list[Any]:
        """The arguments of a function; those of `/judge` as `api.image_of` has them."""
        try:
            if block_fn.api_name == "judge":
                image = api.image_of(inputs)
                if isinstance(image, bytes):
                    return [image]
                inputs = [image]
            return await super().preprocess_data(block_fn, inputs, state, explicit_call)
        except gr.Error:
            raise
        except api.NoPicture as error:
            raise gr.Error(str(error), print_exception=False) from error
        except Exception as error:  # of gradio, or of what it checks with: a path outside, too few arguments, ...
            raise gr.Error(_WRONG, print_exception=False) from error


_WRONG = "Not read: what was sent is no upload to this server, or not the arguments that are described under /info."


def build_demo(release: Release) -> gr.Blocks:
    """The page that assesses images with `release`; nothing is launched."""
    metrics = release.metrics()

    def waiting() -> int:
        batches = demo._queue.event_queue_per_concurrency_id.get("batch")
        return len(batches.queue) if batches else 0

    held, static = batch_slots.Places(waiting), language.Static()
    with Page(title="dermalert", analytics_enabled=False, delete_cache=(EVERY, AGE)) as demo:
        gr.HTML(static(functools.partial(markup.notice, release, metrics)), elem_id="notice")
        gr.Markdown(static(lambda words: f"# dermalert\n{words('question')} {markup.review(words)}"))
        with gr.Tabs():
            with gr.Tab(static("single_image")):
                picture = tab_single.add(release, static)
                two_pictures.add(release, picture, static)
                tab_single.add_meaning(release, metrics, static)
            with gr.Tab(static("batch")):
                tab_batch.add(release, held, static)
            with gr.Tab(static("performance")) as tab:
                tab_evaluation.add(release, metrics, tab, static)
            if (shelf := comparison.Shelf(release)).on_the_hub:
                with gr.Tab(static("versions")) as tab:
                    tab_versions.add(shelf, tab, static)
        gr.HTML(static(functools.partial(_about, release)), elem_id="release", elem_classes="words")
        _add_judge(release, picture)
        _add_triage(release, picture.GRADIO_CACHE, held)
        _add_release(release, metrics)
    _show_how_to_call(demo, picture)
    demo.i18n_instance = gr.I18n(**static.translations)
    return demo.queue(max_size=WAITING)


def _about(release: Release, words: Language) -> str:
    about = f"<p>{markup.escaped(markup.source(release, words))}{_links(release, words)}</p>"
    return f"{about}<p class='fine'>{words('privacy')}</p>"


def _links(release: Release, words: Language) -> str:
    """Where the model and this Space are on the Hub, if they are there."""
    space, links = os.environ.get("SPACE_ID"), {}
    if is_hub_name(release.name) and not Path(release.name).is_dir():
        at = f"/tree/{release.revision}" if release.revision else ""
        links["model_card"] = f"https://huggingface.co/{release.name}{at}"
    if space:
        links["code"] = f"https://huggingface.co/spaces/{space}/tree/main"
        links["duplicate"] = f"https://huggingface.co/spaces/{space}?duplicate=true"
    return "".join(f' <a href="{markup.escaped(url)}">{words(key)}</a>' for key, url in links.items())


def _add_judge(served: Release, picture: gr.Image) -> None:
    """Add `/judge` for programs."""

    def judge(image: Json | bytes | None) -> api.PredictionRecord:
        """Assess one dermoscopy image. For research and education only: not a medical device.

        Args:
            image: a picture of one lesion, taken with a dermatoscope: an upload, its path, or data:...;base64,...

        Returns:
            Its `state`: melanoma_alert, malignant_likely, cannot_assess, none or unreadable; and what is said of it.
            Where `refused` says why it cannot be assessed, the probabilities are for the record only; of what is
            unreadable there are none.
        """
        try:
            pixels = api.read(image, picture.GRADIO_CACHE)
        except api.CannotRead as error:
            return api.unreadable(served, error)
        except api.NoPicture as error:
            raise gr.Error(str(error), print_exception=False) from error
        return api.prediction_record(served, served.predict_all([pixels])[0])

    # preprocess=False: see `tab_single.add`.
    plain = {"preprocess": False, "postprocess": False}
    one = Api(None, python_type_to_json_schema(api.PredictionRecord), "answer")
    gr.on([], judge, picture, one, api_name="judge", concurrency_id="model", **plain)


def _add_triage(served: Release, cache: str, held: batch_slots.Places) -> None:
    """Add `/triage` for programs."""

    def triage(files: list[str | Json], request: gr.Request) -> api.Batch:  # noqa: D417
        """Assess many dermoscopy images, the most urgent first. For research and education only: not a medical device.

        Args:
            files: each an upload (image or zip), the path that an upload was given, or an image as data:...;base64,...

        Returns:
            The files, the most urgent first: the `state` of each, and what is said of it. Last come unreadable ones,
            with the reason in `problem`.
        """
        if not isinstance(files, list):
            what = "the files must be a list: data holds one list, and that the files."
            raise gr.Error(f"Not read: {what}", print_exception=False)
        rows = batch.predict_files(served, api.batch_inputs(files, cache))
        rows = held.held(
            upload_retention.keep_fresh(rows, api.upload_paths(files, cache)), batch_slots.visitor(request)
        )
        return api.batch_record(served, rows)

    gr.api(triage, concurrency_limit=batch_slots.AT_ONCE, concurrency_id="batch")


def _add_release(served: Release, metrics: Json | None) -> None:
    """Add `/release` for programs."""

    def release() -> api.Served:
        """Tell which release answers here, and how good it was found to be on images that it was not trained on.

        Returns:
            Its name and tag, diagnoses, thresholds of alert and attention, the states of an image, and figures of the
            evaluation with their 95% intervals.
        """
        return api.release_record(served, metrics)

    gr.api(release, queue=False)


def _show_how_to_call(demo: gr.Blocks, picture: gr.Image) -> None:
    """Have the API page show calls that run: gradio's own examples are a bus, of an address, and three dots."""
    file = {"path": "lesion.jpg", "url": "lesion.jpg", "meta": {"_type": "gradio.FileData"}}
    (files,) = (fn.inputs[0] for fn in demo.fns.values() if fn.api_name == "triage")
    for component, example in ((picture, file), (files, [file])):
        component.example_payload = lambda example=example: example  # type: ignore[method-assign,union-attr]


async def _fetch_nothing(*_: object, **__: object) -> str:
    raise ValueError("nothing is fetched from an address")


def _as_it_is(_: mcp.GradioMCPServer, arguments: Any, __: list[Any]) -> Any:
    return arguments


def launch(release: Release) -> None:
    """Serve the page until the process is told to end, or raise NoRelease where the page cannot be built."""
    try:
        demo = build_demo(release)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise NoRelease(
            f"{release} cannot be shown: its {CONFIG} or {METRICS} lacks or misstates something "
            f"({type(error).__name__}: {str(error)[:100]})."
        ) from error
    # What a program sends in a tool call comes to `Page.preprocess_data` as it is; gradio would write it to a file.
    mcp.GradioMCPServer.convert_strings_to_filedata = _as_it_is  # type: ignore[method-assign, assignment]
    # In the place of an upload gradio takes an address, of any public server, and would fetch what lies there.
    processing_utils.async_ssrf_protected_download = _fetch_nothing
    demo.launch(
        css_paths=STYLE,
        theme=THEME,
        head=HEAD,
        footer_links=["api", "gradio"],
        app_kwargs={
            "lifespan": request_guard.lifespan(demo, Path(os.environ["GRADIO_TEMP_DIR"])),
            "exception_handlers": request_guard.SENTENCES,
        },
        mcp_server=True,
        share=False,
        i18n=demo.i18n_instance,
        run_history=False,
        enable_monitoring=False,
        state_session_capacity=100,  # gradio would hold what 10,000 visitors were shown; see `upload_retention.forget`
        max_file_size="50mb",
        allowed_paths=[str(examples.FOLDER)],
        ssr_mode=False,
    )
