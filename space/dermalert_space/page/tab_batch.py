"""The tab that assesses many files and lists them by urgency; the list is held by the visitor's browser alone."""

import dataclasses
import functools
import io
import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import gradio as gr
from PIL import Image

from dermalert_space import batch, inputs, lesions, tables
from dermalert_space.contract import Json, State
from dermalert_space.page import api, batch_slots, language, markup, upload_retention
from dermalert_space.page.language import ENGLISH, Language
from dermalert_space.prediction import STATES, share
from dermalert_space.release import Release

LIMIT = 500
"""Files a batch on the page: so many rows with thumbnails a browser shows without delay."""

_FILTER = "(kind, text) => window.dermalertFilter(kind, text)"


def order(words: Language = ENGLISH) -> str:
    """In which order the files of a batch are listed."""
    grades = {name: words.number(f"{least:.0%}") for name, least in markup.GRADES.items()}
    return f"{words('order')} {words('grades', **grades)} {words('said.notice')}"


def add(release: Release, held: batch_slots.Places, static: language.Static) -> None:
    """Add the tab's parts to the page that is being built."""
    hint = static(lambda words: f"<p>{words('batch_hint', limit=LIMIT, command='<code>triage.py</code>')}</p>")
    gr.HTML(hint, elem_classes="words")
    files = gr.File(label=static("images_and_zips"), file_count="multiple", height=160, elem_id="files")
    with gr.Accordion(static("photos_of_a_lesion"), open=False, elem_id="lesions"):
        gr.HTML(static(lambda words: f"<p class='fine'>{words('state_of_a_lesion')}</p>"), elem_classes="words")
        alike = gr.Checkbox(False, label=static("names_alike"), elem_id="alike")
        table = gr.File(label=static("lesion_table"), file_types=[".csv"], height=120, elem_id="lesion-table")
    with gr.Row():
        start = gr.Button(static("assess_files"), variant="primary", elem_id="start")
        stop = gr.Button(static("stop"), elem_id="stop")
    with gr.Row():
        choices = [(static(functools.partial(_choice, release, state)), state) for state in STATES]
        kind = gr.Radio([(static("all"), "all"), *choices], value="all", label=static("show"), elem_id="kind")
        text = gr.Textbox("", label=static("name_contains"), elem_id="text")
    rows = gr.HTML("", elem_id="rows", elem_classes="words")

    def show(uploads: list[Json] | None, table: Json | None, alike: bool, request: gr.Request) -> Iterator[str]:
        words, by = language.of(request), Grouping(table=table, alike=alike)
        yield from answers(release, uploads, by, files.GRADIO_CACHE, held, batch_slots.visitor(request), words)

    run = start.click(None, outputs=[kind, text, rows], js="() => ['all', '', '']").then(
        show,
        [files, table, alike],
        rows,
        preprocess=False,
        concurrency_limit=batch_slots.AT_ONCE,
        concurrency_id="batch",
        api_visibility="private",
        show_progress="hidden",
    )
    # To gradio a batch that was stopped has failed too.
    run.success(None, [kind, text], js=_FILTER)
    busy = f"shown => shown.includes('stopped') ? shown : {markup.busy(static)!r}"
    run.failure(None, rows, rows, js=busy)
    stopped = static(lambda words: markup.sentence(words("stopped"), kind="stopped"))
    stop.click(None, cancels=run, outputs=rows, js=f"() => {stopped!r}")
    gr.on([kind.change, text.change], None, [kind, text], js=_FILTER)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grouping:
    """How a visitor wants files grouped by lesion, if at all."""

    table: Json | None
    """An upload; the names count where there is none."""
    alike: bool

    def of(self, paths: Sequence[Path], cache: str) -> dict[str, str]:
        """The lesion of each file, {} where none is asked for; NoLesions or NoPicture where they cannot be had."""
        names = inputs.names(paths, limit=LIMIT)
        if self.table:
            return lesions.by_table(api.upload_path(self.table, cache), names)
        # No pattern of a visitor's own: one of a few letters can keep a server busy for ever.
        return lesions.by_pattern(lesions.UP_TO_LAST, names) if self.alike else {}


def answers(
    release: Release,
    uploads: list[Json] | None,
    by: Grouping,
    cache: str,
    held: batch_slots.Places,
    visitor: str,
    words: Language = ENGLISH,
) -> Iterator[str]:
    """Give how far a batch is, again and again, and at last its list."""
    try:
        paths = list(dict.fromkeys(api.upload_path(file, cache) for file in (uploads or [])[: LIMIT + 1]))
    except api.NoPicture:
        paths = []
    if not paths:
        yield markup.sentence(words("no_files"))
        return
    try:
        by_file = by.of(paths, cache)
    except (lesions.NoLesions, api.NoPicture) as error:
        yield markup.sentence(words.translate(f"Not grouped by lesion: {error}"), kind="refused")
        return
    rows, total, shown_at = [], inputs.count(paths, limit=LIMIT), 0.0
    found = batch.predict_files(release, inputs.expand(paths, limit=LIMIT), thumbnails=batch.THUMBNAIL)
    predicted = lesions.grouped(found, by_file)
    for row in held.held(upload_retention.keep_fresh(predicted, paths), visitor):
        rows.append(row)
        if time.monotonic() > shown_at + 0.5:
            yield _progress(len(rows), total, words)
            shown_at = time.monotonic()
    yield listed(release, tables.by_urgency(rows), words)


def _progress(done: int, total: int, words: Language) -> str:
    bar = f'<progress value="{done}" max="{total}" aria-label="{words("files_assessed")}"></progress>'
    return f'<p role="status">{words("assessed_of", done=done, total=total)} {bar}</p>'


def listed(release: Release, rows: Sequence[batch.Row], words: Language = ENGLISH) -> str:
    """The list of a batch, in the order in which its rows are given."""
    read, others = ([row for row in rows if bool(row.prediction) is kind] for kind in (True, False))
    states = lesions.states(rows)
    shown = "".join(
        _lesion(release, lesion, states, list(of_lesion), words)
        for lesion, of_lesion in itertools.groupby(read, lambda row: row.lesion)
    )
    if others:
        below = "".join(_row(release, row, words) for row in others)
        shown += f"<section><h3>{words.translate(tables.not_read(others))}</h3>{below}</section>"
    links = _link("triage.csv", "text/csv", tables.as_csv(rows, release), words) + _link(
        "triage.json", "application/json", tables.as_json(rows, release), words
    )
    total = words(
        "file" if len(rows) == 1 else "files", n=len(rows), counts=_counts(release, (row.state for row in rows), words)
    )
    return (
        f'<p class="sentence total" role="status">{total}{_of_lesions(release, rows, states, words)}</p>'
        f'<p>{links}<span class="left" aria-live="polite"></span></p>'
        f'{shown}<p class="fine">{order(words)} {markup.review(words)}</p>'
    )


def _lesion(
    release: Release, lesion: str | None, states: dict[str, str], rows: Sequence[batch.Row], words: Language
) -> str:
    """Rows that stand together, under their lesion's name and state where they show one."""
    shown = "".join(_row(release, row, words) for row in rows)
    if lesion is None:
        return shown
    state = states[lesion]
    named = markup.escaped(markup.state_name(release, state, words))
    verdict = f'<span class="verdict {state}"{markup.marks(state)}>{named}</span>'
    return f'<section class="lesion"><h3>{markup.escaped(lesion)}: {verdict}</h3>{shown}</section>'


def _of_lesions(release: Release, rows: Sequence[batch.Row], states: dict[str, str], words: Language) -> str:
    """How many lesions are in each state, and how many files show none; "" where files are not grouped by lesion."""
    if not states:
        return ""
    alone = sum(row.lesion is None for row in rows)
    without = f" {words('without_lesion', n=alone)}" if alone else ""
    return f" {words('lesions', n=len(states), counts=_counts(release, states.values(), words))}{without}"


def _choice(release: Release, state: str, words: Language) -> str:
    return f"{markup.ICONS[state]} {markup.state_name(release, state, words)}"


def _counts(release: Release, states: Iterable[str], words: Language) -> str:
    counts = Counter(states)
    return ", ".join(
        f'<span class="count {state}"{markup.marks(state)}>{counts[state]} '
        f"{markup.escaped(markup.state_name(release, state, words))}</span>"
        for state in STATES
        if counts[state]
    )


def _link(name: str, mime: str, content: str, words: Language) -> str:
    """A link that holds the file to download: none is written to the server's disk."""
    address = markup.data_uri(content.encode(), f"{mime};charset=utf-8")
    return f'<a class="download" download="{name}" href="{address}">{words("download", name=name)}</a> '


def _row(release: Release, row: batch.Row, words: Language) -> str:
    name = markup.escaped(row.file)
    detail = (
        markup.answer(release, row.prediction, words, aloud=False)
        if row.prediction
        else markup.sentence(words.translate(f"Not read: {row.problem}"), kind=row.state, aloud=False)
    )
    grade = markup.grade(release, row.prediction) if row.prediction else ""
    marks = markup.marks(row.state, grade)
    return (
        f'<details data-state="{row.state}" data-file="{name.lower()}"><summary>{_thumbnail(row.thumbnail)}'
        f'<span class="texts"><span class="file">{name}</span>'
        f'<span class="verdict {row.state} {grade}"{marks}>{_verdict(release, row, words)}</span></span></summary>'
        f'<div class="detail">{detail}</div></details>'
    )


def _verdict(release: Release, row: batch.Row, words: Language) -> str:
    prediction, word = row.prediction, markup.capitalised(markup.state_name(release, row.state, words))
    if prediction is None or row.watched is None or prediction.state == State.CANNOT_ASSESS:
        return markup.escaped(word)
    value = prediction.malignant if prediction.attention is None else prediction.attention
    more = f"; {words('any_malignant')} {words.number(share(value))}" if value is not None else ""
    watched = f"{words.translate(release.alert_label)} {words.number(share(row.watched))}"
    return markup.escaped(f"{word}: {watched}{more}")


def _thumbnail(image: Image.Image | None) -> str:
    if image is None:
        return '<span class="thumbnail"></span>'
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f'<img class="thumbnail" alt="" src="{markup.data_uri(buffer.getvalue(), "image/jpeg")}">'
