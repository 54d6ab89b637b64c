"""The page of a dermalert release: an image in, a melanoma alert and nine probabilities out.

    MODEL_ID=USER/REPO MODEL_REVISION=v1.0.0 python app.py

MODEL_ID may be a folder; without it the release in `model/`, beside this file, is served.
"""

import html
import os
import sys
from pathlib import Path

import gradio as gr

if __package__:
    from . import triage
else:  # run as a script, as on the Hub
    import triage

BUNDLED = Path(__file__).parent / "model"
GENERATED = "This model was trained on generated pictures only: its answers mean nothing on real skin."
HINT = "Upload a dermoscopy image, or paste one, to have it judged."

CSS = """
.gradio-container { overflow: clip !important; } /* as gradio sets it, nothing in the page can be sticky */
#notice .html-container, #result .html-container, #release .html-container { padding: 0; }
#notice { position: sticky; top: 0; z-index: 50; background: var(--body-background-fill); }
#notice p, #result .sentence { margin: 0; padding: .5em .8em; font-weight: 600; overflow-wrap: anywhere;
    border-left: .35em solid var(--border-color-primary); background: var(--background-fill-secondary); }
#notice .generated, #result .alert { border-color: #c62828; background: color-mix(in srgb, #c62828 14%, transparent); }
#result { min-height: 6em; }
#result .sentence { font-size: 1.15em; }
#result table { width: 100%; margin-top: 1em; }
#result caption { padding-bottom: .3em; text-align: left; color: var(--body-text-color); }
#result table, #result tr { border: 0; }
#result th, #result td { border: 0; padding: .25em 0; text-align: left; font-weight: 400; }
#result .share { text-align: right; font-variant-numeric: tabular-nums; }
#result .watched > * { font-weight: 700; }
#result .bar { width: 40%; }
#result .bar div { min-width: 1px; height: .6em; border-radius: .3em; background: var(--color-accent); }
"""


def build_demo(release: triage.Release) -> gr.Blocks:
    """Return the page that judges images with `release`; nothing is launched."""

    def judge(image: dict | None) -> tuple[str, dict[str, float]]:
        """Judge one dermoscopy image. For research and education only: not a medical device.

        Args:
            image: a picture file of any kind that Pillow reads; upright, transparent, CMYK and 16-bit files are
                handled as the release was measured.

        Returns:
            One sentence (a melanoma alert, no melanoma alert, or why it cannot be judged), and each diagnosis with its
            calibrated probability from 0 to 1.
        """
        judgement = _judge(release, image, cache=picture.GRADIO_CACHE)
        return judgement.sentence, judgement.probabilities

    def show(image: dict | None) -> str:
        if image is None:
            return _sentence(HINT)
        try:
            judgement = _judge(release, image, cache=picture.GRADIO_CACHE)
        except gr.Error as error:
            return _sentence(error.message)
        return _sentence(judgement.sentence, alert=judgement.alert) + _table(judgement, release.alert_label)

    with gr.Blocks(title="dermalert", analytics_enabled=False, delete_cache=(600, 600)) as demo:
        gr.HTML(_notice(release), elem_id="notice")
        gr.Markdown("# dermalert\nDoes this skin lesion call for a dermatologist's look, on suspicion of melanoma?")
        with gr.Row():
            with gr.Column(min_width=300):
                picture = gr.Image(
                    label="Dermoscopy image",
                    alt_text="The image that was uploaded",
                    sources=["upload", "clipboard"],
                    buttons=["fullscreen"],
                    type="filepath",
                    height=340,
                    elem_id="picture",
                )
            with gr.Column(min_width=300):
                result = gr.HTML(_sentence(HINT), elem_id="result")
        gr.HTML(f"<p>{html.escape(_source(release))}</p>", elem_id="release")

        # The former answer goes at once: it must not stand beside another image, whatever becomes of this one.
        picture.change(None, outputs=result, js="() => ''")
        # preprocess=False: gr.Image would decode the file itself, and fail or re-encode where `triage` knows better.
        model = {"inputs": picture, "preprocess": False, "concurrency_id": "model"}
        picture.change(show, outputs=result, api_visibility="private", **model)
        answer = [gr.Textbox(label="sentence", visible=False), gr.Label(label="probabilities", visible=False)]
        gr.on([], judge, outputs=answer, api_name="judge", **model)
    return demo.queue(max_size=32)


def _judge(release: triage.Release, image: dict | None, *, cache: str) -> triage.Judgement:
    path = Path((image or {}).get("path") or "").resolve()
    # A caller may name any file of the server: only what was uploaded is read.
    if not (path.is_relative_to(Path(cache).resolve()) and path.is_file()):
        raise gr.Error("Cannot judge: no image was uploaded.", print_exception=False)
    try:
        return release.judge(path.read_bytes())
    except triage.UnreadableImage as error:
        raise gr.Error(f"Cannot judge: {error}", print_exception=False) from error


def _sentence(text: str, *, alert: bool | None = None) -> str:
    return f'<p class="sentence{" alert" if alert else ""}" role="status">{html.escape(text)}</p>'


def _table(judgement: triage.Judgement, watched: str) -> str:
    rows = "".join(
        f'<tr class="{"watched" if name == watched else ""}"><th scope="row">{html.escape(name)}</th>'
        f'<td class="bar"><div style="width: {share:.1%}"></div></td><td class="share">{share:.1%}</td></tr>'
        for name, share in judgement.probabilities.items()
    )
    return f"<table><caption>Calibrated probability of each diagnosis</caption>{rows}</table>"


def _about(release: triage.Release) -> dict:
    """Return what the release says of its making: {} when it says nothing."""
    return getattr(release.model.config, "dermalert", None) or {}


def _notice(release: triage.Release) -> str:
    generated = f'<p class="generated">{GENERATED}</p>' if _about(release).get("generated") else ""
    return f"<p>{triage.NOT_A_DEVICE}</p>{generated}"


def _source(release: triage.Release) -> str:
    """Return, as one line, the release and tag that are served and what the release says of its making."""
    # Of a folder only its name is shown: where it lies on the server is nobody's business.
    folder = Path(release.name).is_dir()
    parts = [f"Release: folder {Path(release.name).resolve().name}" if folder else f"Release: {release.name}"]
    if not folder:
        parts.append(f"tag {release.revision}" if release.revision else "its newest state, no tag")
    if version := _about(release).get("version"):
        parts.append(f"version {version}")
    if data := _about(release).get("data"):
        parts.append(f"trained on {', '.join(data)}")
    return "; ".join(parts) + "."


def main() -> int:
    """Serve the release that the environment names; return the exit code."""
    model = os.environ.get("MODEL_ID") or (BUNDLED if BUNDLED.is_dir() else None)
    if model is None:
        print("Set MODEL_ID to a release, USER/REPO or a folder, and MODEL_REVISION to its tag.", file=sys.stderr)
        return 2
    try:
        release = triage.Release.load(model, os.environ.get("MODEL_REVISION") or None)
        deviation = release.deviation()
    except triage.NoRelease as error:
        print(error, file=sys.stderr)
        return 1
    if deviation is not None and deviation > triage.TOLERANCE:
        print(
            f"{release} answers otherwise here than it was measured: a probability of a reference image is off by "
            f"{deviation:.2g}. It is not served: install the versions of requirements.txt, or load it anew.",
            file=sys.stderr,
        )
        return 1
    build_demo(release).launch(
        css=CSS,
        theme=gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"]),
        footer_links=["api", "gradio"],
        share=False,
        run_history=False,
        enable_monitoring=False,
        max_file_size="50mb",
        ssr_mode=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
