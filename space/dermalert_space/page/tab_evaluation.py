"""The tab that says how good a release is: its evaluation in tables, its own pictures, and the limits."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from dermalert_space import contract, reader_studies
from dermalert_space.contract import ABSTAINED, ABSTENTION, ALERT_POINT, ATTENTION_POINT, Json
from dermalert_space.page import language, markup
from dermalert_space.page.language import ENGLISH, Static
from dermalert_space.prediction import threshold_share
from dermalert_space.release import Release
from dermalert_space.release_loading import NoRelease

FIGURES = {
    "roc": "ROC curves of melanoma without abstention, against all others and nevi, with points of dermatologists",
    "alert_trade_off": "Melanomas missed against alerts, as the threshold moves, without abstention",
    "per_class": "Sensitivity and AUROC of each diagnosis",
    "confusion": "Which diagnosis was taken for which",
    "reliability": "How often the model is right against how sure it is",
    "artefacts": "What artefacts such as ink and rulers do to the melanoma probability",
    "learning_curves": "Learning curves of the training",
}
"""Of a release, in `contract.FIGURES`, and what they show."""

SPLITS = {
    "held_out": "held out",
    "official_test": "the data set's own test images, as shipped",
    "clean_test": "those of them unrelated to training images, with the archive's labels",
}

LIMITS = (
    "It is for dermoscopy of one lesion. Its figures say nothing of photographs taken without a dermoscope, such as "
    "those of a phone.",
    "It knows nine diagnoses and says one of them of any lesion; what is none of the nine it cannot tell.",
    "The alert is for melanoma alone. That there is none says nothing of carcinomas, and rules no melanoma out.",
    "Figures are for images drawn like those of the evaluation. Another clinic, camera or population may differ by "
    "more than the intervals say.",
    "Images of dark skin may be turned away as too dark; how well it assesses the others is not known.",
    "What the images show was settled in part by histology, in part by experts' agreement or follow-up.",
)


def add(release: Release, metrics: Json | None, tab: gr.Tab, static: Static) -> None:
    """Add the tab's parts to the page that is being built; it is filled when it is opened."""
    waiting = static(lambda words: markup.sentence(words("figures_on_their_way")))
    held = gr.HTML(waiting, elem_id="evaluation", elem_classes="words")
    text = html(release, metrics)

    def show(request: gr.Request) -> str:
        return markup.in_english(text, language.of(request))

    tab.select(show, None, held, queue=False, api_visibility="private", show_progress="hidden")


def html(release: Release, metrics: Json | None) -> str:
    """All that the tab says."""
    subgroups = metrics["splits"]["held_out"]["subgroups"] if metrics else {}
    lines = "".join(f"<li>{markup.escaped(line)}</li>" for line in (*LIMITS, *_unmeasured(subgroups)))
    limits = f"<h2>Limits</h2><ul>{lines}</ul>"
    if metrics is None:
        return f"<p>{ENGLISH('no_metrics')}</p>{limits}"
    held_out = metrics["splits"]["held_out"]
    parts = (
        f"<h2>At a clinic that it has not seen</h2>{_unseen(release, metrics)}",
        f"<h2>In short</h2>{markup.meaning(release, metrics)}",
        limits,
        f"<h2>Melanoma</h2>{_drawn(release, 'alert_trade_off')}{_by_split(metrics)}{_by_source(held_out)}",
        _beside(release, metrics),
        f"<h2>Each diagnosis</h2>{_by_class(held_out)}{_drawn(release, 'per_class')}{_drawn(release, 'confusion')}",
        f"<h2>Probabilities</h2>{_calibration(held_out)}{_drawn(release, 'reliability')}",
        f"<h2>What it cannot assess</h2>{_declined(metrics)}",
        f"<h2>Subgroups and artefacts</h2>{_subgroups(held_out)}{_artefacts(held_out)}{_drawn(release, 'artefacts')}",
        f"<h2>How it was made</h2>{_made(metrics)}{_drawn(release, 'learning_curves')}",
    )
    return "".join(parts)


def _unseen(release: Release, metrics: Json) -> str:
    """What is known of clinics that the release was not trained on, and its weakest subgroup."""
    sentences = metrics["splits"]["held_out"].get("subgroup_sensitivity", {}).get("sentences", [])
    lines = [*_of_unseen_clinics(release, metrics), *sentences[-1:]]
    return f"<ul>{''.join(f'<li>{markup.escaped(line)}</li>' for line in lines)}</ul>"


def _of_unseen_clinics(release: Release, metrics: Json) -> Iterator[str]:
    external, trained_on = metrics["data"].get("external") or {}, set(metrics["data"].get("trained_on", []))
    names = [name for name, of in external.items() if not trained_on & set(of["sources"])]
    measured = {name: split for name in names if (split := metrics["splits"].get(f"external/{name}"))}
    for name, split in measured.items():
        melanoma = split["melanoma"]
        yield (
            f"{name}: melanoma AUROC {markup.figure(melanoma['auroc'])}, sensitivity of the alert as served "
            f"{_served_sensitivity(melanoma)} ({melanoma['n']} images of melanoma), specificity "
            f"{_served(melanoma, 'specificity')} ({split['n'] - melanoma['n']} others)."
        )
    if not measured:
        yield "This release was not measured at a clinic that it has not seen."
    if not measured and not markup.is_generated(release, metrics):
        yield _OTHERS_UNSEEN


_OTHERS_UNSEEN = (
    "Expect less there. The default recipe, trained on one source and measured on another, had a melanoma AUROC of "
    "0.69 [0.66-0.71] and 0.67 [0.64-0.70]; its alert found melanomas only by flagging nearly every lesion."
)
"""By `benchmarks/evaluation/sources.py`; `docs/results.md` has the figures."""


def _served_sensitivity(melanoma: Json) -> str:
    return markup.figure(melanoma.get("sensitivity_refusals_missed") or melanoma["sensitivity"])


def _unmeasured(subgroups: Json) -> Iterator[str]:
    for kind, groups in subgroups.items():
        if "not_measured" in groups:
            yield f"How it does by {kind} is not known: {groups['not_measured']}."


def _drawn(release: Release, name: str, *, alt: str | None = None) -> str:
    try:
        path = release.file(f"{contract.FIGURES}/{name}.png")
    except NoRelease:  # a link to what is no file of the release
        path = None
    if path is None:
        return ""
    image = markup.data_uri(Path(path).read_bytes(), "image/png")
    return f'<figure class="drawn"><img src="{image}" alt="{markup.escaped(alt or FIGURES[name])}"></figure>'


def _by_split(metrics: Json) -> str:
    splits = {name: split for name, split in metrics["splits"].items() if split["n"]}
    rows = [["images", *(split["n"] for split in splits.values())]]
    for name, keys in _FIGURES_OF_A_SPLIT.items():
        values = [_value_at(split, keys) for split in splits.values()]
        if any(value is not None for value in values):
            rows.append([name, *("not measured" if value is None else _shown(value) for value in values)])
    note = (
        "As served, what cannot be assessed raises no alert: a melanoma among it is missed. A lesion is found if each "
        "of its photos is. Square brackets: 95% interval. Held out: images of lesions and patients that it was not "
        "trained on."
    )
    return markup.table("The alert on each set of images", ["", *(SPLITS.get(s, s) for s in splits)], rows, note=note)


_FIGURES_OF_A_SPLIT = {
    "of them melanoma": "melanoma n",
    "melanoma AUROC": "melanoma auroc",
    "sensitivity of the alert, as served": "melanoma sensitivity_refusals_missed",
    "the same of lesions, by their worst photo": "melanoma lesions sensitivity_as_served",
    "specificity of the alert, as served": "melanoma specificity_as_served",
    "sensitivity without abstention": "melanoma sensitivity",
    "specificity without abstention": "melanoma specificity",
    "the same among nevi alone": "melanoma specificity_nevi",
    "images of what is malignant or a precursor": "malignant n",
    "AUROC of malignant or precursor": "malignant auroc",
    "sensitivity at the point of attention, as served": "malignant sensitivity_as_served",
    "the same of lesions with it, by their worst photo": "malignant lesions sensitivity_as_served",
    "specificity at the point of attention, as served": "malignant specificity_as_served",
    "balanced accuracy over nine diagnoses": "balanced_accuracy",
}
"""What is shown of a set of images, and where metrics.json has it; releases made before lack some."""


def _value_at(split: Json, keys: str) -> Any:
    """The value at keys, one below the other; None where one is missing."""
    value: Any = split
    for key in keys.split():
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _shown(value: Any) -> object:
    """A count as it is, and a figure with its interval; what is neither raises an error here, not in a cell."""
    return value if isinstance(value, int) else markup.figure(value)


def _served(figures: Json, key: str) -> str:
    """A figure as served; of a release made before there were such figures the one without abstention."""
    return markup.figure(figures.get(f"{key}_as_served") or figures[key])


def _by_source(held_out: Json) -> str:
    sources = held_out["melanoma"].get("by_source", {})
    rows = [
        [
            name,
            of["n"],
            of["others"],
            markup.figure(of["auroc"]),
            _served(of, "sensitivity"),
            _served(of, "specificity"),
        ]
        for name, of in sources.items()
    ]
    how = "as served" if all("sensitivity_as_served" in of for of in sources.values()) else "without abstention"
    head = ["source", "melanomas", "others", "AUROC", f"sensitivity, {how}", f"specificity, {how}"]
    return markup.table("Held-out images by where they were made", head, rows) if rows else ""


def _beside(release: Release, metrics: Json) -> str:
    """The ROC curve, and where lesions are real the dermatologists beside it."""
    if markup.is_generated(release, metrics):
        return f"<h2>ROC curves</h2>{_drawn(release, 'roc', alt='ROC curves of melanoma, without abstention')}"
    table = _beside_readers(metrics["splits"]["held_out"])
    return f"<h2>Beside dermatologists</h2>{table}{_drawn(release, 'roc')}"


def _beside_readers(held_out: Json) -> str:
    melanoma, nevi = held_out["melanoma"], held_out["per_class"]["nevus"]["n"]
    if not melanoma["n"]:
        return "<p>No melanoma was held out: there is nothing to compare.</p>"
    rows: list[list[object]] = [
        [
            f"this release, any threshold that reaches {reference}",
            markup.figure(value),
            markup.figure(melanoma["specificity_nevi_at_sensitivity"][reference]),
        ]
        for reference, value in melanoma["specificity_at_sensitivity"].items()
    ]
    for reader in reader_studies.READERS:
        where = [reader.specificity, ""] if reader.task == reader_studies.AMONG_PIGMENTED else ["", reader.specificity]
        rows.append([f"{reader.who}, at {reader.sensitivity}, on other lesions ({reader.source})", *where])
    note = (
        "The doctors assessed other lesions, in part with the patient before them: no row says who is better. Of the "
        "release it is the best that its curve shows without abstention, not what a threshold fixed before would give."
    )
    head = [
        "who, and at which sensitivity",
        f"specificity among all others (n = {held_out['n'] - melanoma['n']})",
        f"specificity among nevi (n = {nevi})",
    ]
    return markup.table(f"Specificity at a given sensitivity ({melanoma['n']} melanomas)", head, rows, note=note)


def _by_class(held_out: Json) -> str:
    rows = [
        [name, of["n"], *(markup.figure(of[key]) for key in ("sensitivity", "specificity", "auroc"))]
        for name, of in held_out["per_class"].items()
    ]
    note = (
        f"By the likeliest diagnosis, of the {held_out['n']} held-out images, with those that cannot be assessed; "
        "the alert is another rule."
    )
    return markup.table("By diagnosis", ["diagnosis", "images", "sensitivity", "specificity", "AUROC"], rows, note=note)


def _calibration(held_out: Json) -> str:
    names = {"ece": "expected calibration error", "brier": "Brier score, 0 to 2", "nll": "negative log-likelihood"}
    rows = [[name, markup.figure(held_out["calibration"][key], digits=3)] for key, name in names.items()]
    note = "An error of 0.02 means: where it says 30%, it is right 28 to 32 times in 100, on average over all it says."
    table = markup.table(f"Calibration on {held_out['n']} held-out images", ["", "value"], rows, note=note)
    return table + _calibration_of_melanoma(held_out["calibration"].get("melanoma"))


def _calibration_of_melanoma(calibration: Json | None) -> str:
    if calibration is None:
        return ""
    sources = calibration.get("by_source", {})
    parts = {"held out": calibration} | {f"held out, {name}": of for name, of in sources.items() if len(sources) > 1}
    keys = ("observed_over_expected", "slope", "intercept")
    rows = [[name, of["n"], of["melanomas"], *(markup.figure(of[key]) for key in keys)] for name, of in parts.items()]
    note = (
        "Of a calibrated model the melanomas observed over those expected are 1, the slope is 1 and the intercept 0; a "
        "slope below 1 means probabilities that are too extreme."
    )
    head = ["", "images", "melanomas", "observed / expected", "slope", "intercept"]
    return markup.table("Calibration of the probability of melanoma", head, rows, note=note)


def _declined(metrics: Json) -> str:
    abstention, melanoma = metrics.get(ABSTENTION), metrics["splits"]["held_out"]["melanoma"]
    if abstention is None:
        return "<p>It abstains from no image: it names a diagnosis of whatever it is shown.</p>"
    sources = {"held out" if name == "all" else f"held out, {name}": of for name, of in abstention["held_out"].items()}
    rows = [[name, of["n"], markup.figure(of[ABSTAINED], digits=3)] for name, of in sources.items()]
    spoilt = {f"{kind} (generated or spoilt)": of for kind, of in abstention["unfit"].items()}
    rows += [[name, of["n"], markup.figure(of[ABSTAINED])] for name, of in spoilt.items()]
    share = markup.figure(melanoma[ABSTAINED], digits=3)
    note = (
        f"Of the {melanoma['n']} held-out melanomas a share of {share} cannot be assessed; as served, they are missed. "
        "Photographs taken without a dermoscope are not in these figures: most may be assessed all the same. Another "
        "clinic's pictures may be so far more often."
    )
    return markup.table("Share of images that it cannot assess", ["images", "n", "cannot be assessed"], rows, note=note)


def _subgroups(held_out: Json) -> str:
    tests = held_out.get("subgroup_sensitivity", {}).get("tests", [])
    rows = [
        [
            f"{kind}: {name}",
            of["n"],
            of["melanomas"],
            _of_lesions(markup.lesions_as_served(kind, name, tests)),
            *(markup.figure(of[key]) for key in ("auroc", "sensitivity", "specificity")),
        ]
        for kind, groups in held_out["subgroups"].items()
        for name, of in groups.get("of", {}).items()
    ]
    raw = [f"{name}, without abstention" for name in ("sensitivity", "specificity")]
    head = ["subgroup", "images", "melanomas", "sensitivity as served, lesions", "AUROC", *raw]
    differing = held_out.get("subgroup_sensitivity", {}).get("sentences", [])
    lines = "".join(f"<li>{markup.escaped(line)} Lesions, as served.</li>" for line in differing)
    note = "A lesion is found if each of its photos raises the alert; one that cannot be assessed is missed."
    table = markup.table("Melanoma in subgroups of the held-out images", head, rows, note=note)
    return f"<ul>{lines}</ul>{table}" if lines else table


def _of_lesions(served: Json | None) -> str:
    return f"{markup.figure(served['sensitivity'])} (n = {served['n_melanomas']})" if served else ""


def _artefacts(held_out: Json) -> str:
    rows = [
        [
            name.replace("_", " "),
            of["n"],
            markup.figure(of["score_change_absolute"]),
            f"{markup.figure(of['alerts_gained'])} (n = {of['quiet']})",
            f"{markup.figure(of['alerts_lost'])} (n = {of['caught']})",
        ]
        for name, of in held_out.get("artefacts", {}).items()
    ]
    head = ["drawn on the images", "images", "mean size of the change", "alerts gained", "melanomas lost"]
    return markup.table("What artefacts do", head, rows) if rows else ""


def _made(metrics: Json) -> str:
    return "".join(f"<p>{markup.escaped(line)}</p>" for line in _making(metrics, metrics["data"]))


def _making(metrics: Json, data: Json) -> Iterator[str]:
    yield (
        f"Fine-tuned from {metrics['base_model']} on {data['sides'].get('train', 0)} of {data['images']} images of "
        f"{data['groups']} lesions or patients ({', '.join(data['sources'])}); no lesion that the data "
        "name is on two sides."
    )
    for point, label in ((metrics[ALERT_POINT], "melanomas"), (metrics.get(ATTENTION_POINT) or {}, _ATTENTION)):
        if point.get("threshold") is not None:
            yield _set_on(point, label)
    if metrics["shortcut"]["found"]:
        yield (
            "Part of what it scores can be had without looking at the lesion, from colours, frame or origin of the "
            "picture: see the release's card."
        )


_ATTENTION = "lesions that are malignant or a precursor"


def _set_on(point: Json, lesions: str) -> str:
    """What a threshold was set on, and what that shows of it as served."""
    name = "attention" if lesions == _ATTENTION else "the alert"
    few = point["lesions"] < point.get("lesions_needed", 0)
    shown = "which shows with" if point["bound_met"] else f"{'too few to' if few else 'which does not'} show with"
    raw = point.get("raw")
    how = (
        f" as served ({point['abstained']} because they cannot be assessed)" if raw else " without regard to abstention"
    )
    without = f" Without abstention it would miss {raw['missed']}." if raw else ""
    value = threshold_share(point["threshold"])
    return (
        f"The threshold of {name}, {value}, was set on {point['lesions']} other {lesions}, "
        f"of which it misses {point['missed']}{how}: {shown} {point['confidence']:.0%} confidence that it finds at "
        f"least {point['target_sensitivity']:.0%} of their kind.{without}"
    )
