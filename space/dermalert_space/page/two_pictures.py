"""Two pictures of one lesion, of one day or of two: both answers, and what they say together."""

from collections.abc import Sequence

import gradio as gr

from dermalert_space import batch, lesions
from dermalert_space.contract import Json, State
from dermalert_space.page import api, language, markup, tab_single
from dermalert_space.page.language import ENGLISH, Language
from dermalert_space.prediction import share, shares
from dermalert_space.release import Release

_SIDE = 480
"""Pixels: so large that two pictures can be compared by eye."""

SAME_DAY, LATER = "same_day", "later"
_NAMES = {SAME_DAY: ("first_picture", "second_picture"), LATER: ("earlier_picture", "later_picture")}


def add(release: Release, first: gr.Image, static: language.Static) -> None:
    """Add a second picture, folded, to the one that is there."""
    with gr.Accordion(static("two_pictures"), open=False, elem_id="two"):
        with gr.Row():
            second = tab_single.image_input(static("second_picture"), ENGLISH("js.second_image"), elem_id="second")
            choices = [(static(each), each) for each in (SAME_DAY, LATER)]
            when = gr.Radio(choices, value=SAME_DAY, label=static("second_taken"), elem_id="when")
        both = gr.HTML("", elem_id="pair", elem_classes="words")

    def show(one: Json | None, other: Json | None, when: str, request: gr.Request) -> str:
        return compared(release, (one, other), when, first.GRADIO_CACHE, language.of(request))

    # Another first picture may show another lesion: a former second one must not be compared with it.
    first.change(None, outputs=[second, both], js="() => [null, '']", show_progress="hidden")
    waiting = static(lambda words: f"<p>{words('pictures_assessed')}</p>")
    asked = [second.change, when.change]
    gr.on(asked, None, second, both, js=f"second => second ? {waiting!r} : ''", show_progress="hidden")
    run = gr.on(
        asked,
        show,
        [first, second, when],
        both,
        preprocess=False,  # as in `tab_single.add`
        concurrency_id="model",
        api_visibility="private",
        show_progress="hidden",
    )
    run.failure(None, outputs=both, js=f"() => {markup.busy(static)!r}")


def compared(
    release: Release, pictures: tuple[Json | None, Json | None], when: str, cache: str, words: Language = ENGLISH
) -> str:
    """What the page says of two uploads, the earlier first; "" where there is no second."""
    if pictures[1] is None:
        return ""
    if pictures[0] is None:
        return markup.sentence(words("first_is_missing"), kind="refused")
    try:
        paths = [api.upload_path(picture, cache) for picture in pictures]
    except api.NoPicture as error:
        return markup.sentence(f"{words.translate(str(error))} {words('deleted')}", kind=State.UNREADABLE)
    names = map(words, _NAMES[LATER if when == LATER else SAME_DAY])
    rows = list(batch.predict_files(release, zip(names, paths, strict=True), thumbnails=_SIDE))
    sides = "".join(f"<section><h3>{row.file}</h3>{_side(release, row, words)}</section>" for row in rows)
    below = f'<p class="fine">{markup.review(words)}</p>'
    return f'{_summary(release, rows, when, words)}<div class="pair">{sides}</div>{below}'


def _side(release: Release, row: batch.Row, words: Language) -> str:
    if row.prediction is None or row.thumbnail is None:
        return markup.sentence(words.translate(f"Not read: {row.problem}"), kind=row.state, aloud=False)
    return markup.picture(row.thumbnail, row.file) + markup.answer(release, row.prediction, words, aloud=False)


def _summary(release: Release, rows: Sequence[batch.Row], when: str, words: Language) -> str:
    assessed = [row for row in rows if row.prediction and not row.prediction.abstained]
    if len(assessed) == len(rows):
        return _change(release, rows, words) if when == LATER else _together(release, rows, words)
    if not assessed:
        return markup.sentence(words("neither_picture"), kind=State.CANNOT_ASSESS)
    (row,) = assessed
    said = words.translate(row.prediction.sentence) if row.prediction else ""
    return markup.sentence(f"{words('one_picture', name=row.file)} {said}", kind=row.state)


def _together(release: Release, rows: Sequence[batch.Row], words: Language) -> str:
    state = lesions.most_urgent(row.state for row in rows)
    mean = lesions.mean_probability([row.watched for row in rows if row.watched is not None])
    value, threshold = (share(mean), "-") if release.threshold is None else shares(mean, release.threshold)
    text = words(
        "both_together",
        state=markup.state_name(release, state, words),
        label=words.translate(release.alert_label),
        value=words.number(value),
        threshold=words.number(threshold),
    )
    return f'{markup.sentence(text, kind=state)}<p class="fine">{words("promise_of_two")}</p>'


def _change(release: Release, rows: Sequence[batch.Row], words: Language) -> str:
    before, after = (
        f"{words.number(share(row.watched or 0))} ({markup.state_name(release, row.state, words)})" for row in rows
    )
    text = words("then_and_now", label=words.translate(release.alert_label), before=before, after=after)
    return f'{markup.sentence(text)}<p class="next">{words("no_growth")}</p>'
