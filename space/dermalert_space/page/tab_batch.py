"""The tab that assesses many files and lists them by urgency; the list is held by the visitor's browser alone."""

import io
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import gradio as gr
from PIL import Image

from dermalert_space import batch, inputs, tables
from dermalert_space.contract import NOT_A_DEVICE, Json, State
from dermalert_space.page import api, batch_slots, markup, upload_retention
from dermalert_space.prediction import STATES, share, word
from dermalert_space.release import Release

LIMIT = 500
"""Files a batch on the page: so many rows with thumbnails a browser shows without delay."""

_FILTER = "(kind, text) => window.dermalertFilter(kind, text)"
_GRADES = "Three marks before an alert: a probability from {high:.0%}; two: from {middle:.0%}; one: below."
ORDER = (
    "First comes what raises the alert or needs attention, by how many times its threshold the probability is; then "
    "what only a person can assess; then the rest by the probability of any malignant diagnosis or precursor. The keys "
    f"j and k go from row to row, Enter opens one. {_GRADES.format(**markup.GRADES)} {NOT_A_DEVICE}"
)
"""In which order the files of a batch are listed."""
_STOPPED = "Stopped."
_HINT = (
    f"Choose images, or zip archives of them; {LIMIT} files at most. For folders of any size there is a command, "
    "<code>triage.py</code>, in this Space's repository."
)


def add(release: Release, held: batch_slots.Places) -> None:
    """Add the tab's parts to the page that is being built."""
    gr.HTML(f"<p>{_HINT}</p>", elem_classes="words")
    files = gr.File(label="Images and zip archives", file_count="multiple", height=160, elem_id="files")
    with gr.Row():
        start = gr.Button("Assess these files", variant="primary", elem_id="start")
        stop = gr.Button("Stop", elem_id="stop")
    with gr.Row():
        choices = ((f"{markup.ICONS[state]} {_word(release, state)}", state) for state in STATES)
        kind = gr.Radio([("all", "all"), *choices], value="all", label="Show", elem_id="kind")
        text = gr.Textbox("", label="File name contains", elem_id="text")
    rows = gr.HTML("", elem_id="rows", elem_classes="words")

    def show(uploads: list[Json] | None, request: gr.Request) -> Iterator[str]:
        yield from answers(release, uploads, files.GRADIO_CACHE, held, batch_slots.visitor(request))

    run = start.click(None, outputs=[kind, text, rows], js="() => ['all', '', '']").then(
        show,
        files,
        rows,
        preprocess=False,
        concurrency_limit=batch_slots.AT_ONCE,
        concurrency_id="batch",
        api_visibility="private",
        show_progress="hidden",
    )
    # To gradio a batch that was stopped has failed too.
    run.success(None, [kind, text], js=_FILTER)
    busy = f"shown => shown.includes({_STOPPED!r}) ? shown : {markup.sentence(markup.BUSY, kind='refused')!r}"
    run.failure(None, rows, rows, js=busy)
    stop.click(None, cancels=run, outputs=rows, js=f"() => {markup.sentence(_STOPPED)!r}")
    gr.on([kind.change, text.change], None, [kind, text], js=_FILTER)


def answers(
    release: Release, uploads: list[Json] | None, cache: str, held: batch_slots.Places, visitor: str
) -> Iterator[str]:
    """Give how far a batch is, again and again, and at last its list."""
    try:
        paths = list(dict.fromkeys(api.upload_path(file, cache) for file in (uploads or [])[: LIMIT + 1]))
    except api.NoPicture:
        paths = []
    if not paths:
        yield markup.sentence("Not read: no file was uploaded, or it was deleted since. Choose files first.")
        return
    rows, total, shown_at = [], inputs.count(paths, limit=LIMIT), 0.0
    predicted = batch.predict_files(release, inputs.expand(paths, limit=LIMIT), thumbnails=True)
    for row in held.held(upload_retention.keep_fresh(predicted, paths), visitor):
        rows.append(row)
        if time.monotonic() > shown_at + 0.5:
            yield _progress(len(rows), total)
            shown_at = time.monotonic()
    yield listed(release, tables.by_urgency(rows))


def _progress(done: int, total: int) -> str:
    bar = f'<progress value="{done}" max="{total}" aria-label="Files assessed"></progress>'
    return f'<p role="status">Assessed {done} of {total} files. {bar}</p>'


def listed(release: Release, rows: Sequence[batch.Row]) -> str:
    """The list of a batch, in the order in which its rows are given."""
    read, others = ([row for row in rows if bool(row.prediction) is kind] for kind in (True, False))
    shown = "".join(_row(release, row) for row in read)
    if others:
        below = "".join(_row(release, row) for row in others)
        shown += f"<section><h3>{tables.not_read(others)}</h3>{below}</section>"
    links = _link("triage.csv", "text/csv", tables.as_csv(rows, release)) + _link(
        "triage.json", "application/json", tables.as_json(rows, release)
    )
    return (
        f'<p class="sentence total" role="status">{len(rows)} files: {_counts(release, rows)}.</p>'
        f'<p>{links}<span class="left" aria-live="polite"></span></p>'
        f'{shown}<p class="fine">{ORDER}</p>'
    )


def _word(release: Release, state: str) -> str:
    return word(state, release.alert_label)


def _counts(release: Release, rows: Sequence[batch.Row]) -> str:
    counts = Counter(row.state for row in rows)
    return ", ".join(
        f'<span class="count {state}"{markup.marks(state)}>{counts[state]} '
        f"{markup.escaped(_word(release, state))}</span>"
        for state in STATES
        if counts[state]
    )


def _link(name: str, mime: str, content: str) -> str:
    """A link that holds the file to download: none is written to the server's disk."""
    address = markup.data_uri(content.encode(), f"{mime};charset=utf-8")
    return f'<a class="download" download="{name}" href="{address}">Download {name}</a> '


def _row(release: Release, row: batch.Row) -> str:
    name = markup.escaped(row.file)
    detail = (
        markup.answer(release, row.prediction, aloud=False)
        if row.prediction
        else markup.sentence(f"Not read: {row.problem}", kind=row.state, aloud=False)
    )
    grade = markup.grade(release, row.prediction) if row.prediction else ""
    marks = markup.marks(row.state, grade)
    return (
        f'<details data-state="{row.state}" data-file="{name.lower()}"><summary>{_thumbnail(row.thumbnail)}'
        f'<span class="texts"><span class="file">{name}</span>'
        f'<span class="verdict {row.state} {grade}"{marks}>{_verdict(release, row)}</span></span></summary>'
        f'<div class="detail">{detail}</div></details>'
    )


def _verdict(release: Release, row: batch.Row) -> str:
    prediction, word = row.prediction, _word(release, row.state)
    word = word[0].upper() + word[1:]
    if prediction is None or row.watched is None or prediction.state == State.CANNOT_ASSESS:
        return markup.escaped(word)
    value = prediction.malignant if prediction.attention is None else prediction.attention
    more = f"; malignant or precursor {share(value)}" if value is not None else ""
    return markup.escaped(f"{word}: {release.alert_label} {share(row.watched)}{more}")


def _thumbnail(image: Image.Image | None) -> str:
    if image is None:
        return '<span class="thumbnail"></span>'
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f'<img class="thumbnail" alt="" src="{markup.data_uri(buffer.getvalue(), "image/jpeg")}">'
