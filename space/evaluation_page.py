"""The tab that says how good a release is: its evaluation in tables, its own pictures, and the limits."""

from collections.abc import Iterator
from pathlib import Path

import gradio as gr

if __package__:
    from . import readers, triage, words
else:  # run as a script, as on the Hub
    import readers
    import triage
    import words


FIGURES = {
    "roc": "ROC curves of melanoma, against all other diagnoses and against nevi, with the points of dermatologists",
    "alert_trade_off": "Melanomas missed against alerts, as the threshold moves",
    "per_class": "Sensitivity and AUROC of each diagnosis",
    "confusion": "Which diagnosis was taken for which",
    "reliability": "How often the model is right against how sure it is",
    "artefacts": "What artefacts such as ink and rulers do to the melanoma probability",
    "learning_curves": "Learning curves of the training",
}
"""Of a release, in `evaluation/figures`, and what they show."""

SIDES = {
    "held_out": "held out",
    "official_test": "the data set's own test images, as shipped",
    "clean_test": "those without kin in training, relabelled by the archive",
}

LIMITS = (
    "It is for dermoscopy of one lesion. Photographs of moles, such as a phone takes, were not measured.",
    "It knows nine diagnoses and says one of them of any lesion; what is none of the nine it cannot tell.",
    "The alert is for melanoma alone. That there is none says nothing of carcinomas, and rules no melanoma out.",
    "Figures are for images drawn like those of the evaluation. Another clinic, camera or population may differ by "
    "more than the intervals say.",
    "Images of dark skin may be declined as too dark; how it judges the others is not known.",
    "What the images show was settled in part by histology, in part by experts' agreement or follow-up.",
)


def add(release: triage.Release, metrics: dict | None, tab: gr.Tab) -> None:
    """Add the tab's parts to the page that is being built; it is filled when it is opened."""
    held = gr.HTML(words.sentence("The figures are on their way."), elem_id="evaluation", elem_classes="words")
    text = told(release, metrics)
    tab.select(lambda: text, None, held, queue=False, api_visibility="private", show_progress="hidden")


def told(release: triage.Release, metrics: dict | None) -> str:
    """Return all that the tab says."""
    subgroups = metrics["splits"]["held_out"]["subgroups"] if metrics else {}
    lines = "".join(f"<li>{words.escaped(line)}</li>" for line in (*LIMITS, *_unmeasured(subgroups)))
    limits = f"<h2>Limits</h2><ul>{lines}</ul>"
    if metrics is None:
        return f"<p>{words.NO_METRICS}</p>{limits}"
    held_out = metrics["splits"]["held_out"]
    parts = (
        f"<h2>In short</h2>{words.meaning(release, metrics)}",
        limits,
        f"<h2>Melanoma</h2>{_drawn(release, 'alert_trade_off')}{_by_side(metrics)}{_by_source(held_out)}",
        f"<h2>Beside dermatologists</h2>{_beside_readers(held_out)}{_drawn(release, 'roc')}",
        f"<h2>Each diagnosis</h2>{_by_class(held_out)}{_drawn(release, 'per_class')}{_drawn(release, 'confusion')}",
        f"<h2>Probabilities</h2>{_calibration(held_out)}{_drawn(release, 'reliability')}",
        f"<h2>What it declines</h2>{_declined(metrics)}",
        f"<h2>Subgroups and artefacts</h2>{_subgroups(held_out)}{_artefacts(held_out)}{_drawn(release, 'artefacts')}",
        f"<h2>How it was made</h2>{_made(metrics)}{_drawn(release, 'learning_curves')}",
    )
    return "".join(parts)


def _unmeasured(subgroups: dict) -> Iterator[str]:
    for kind, found in subgroups.items():
        if "not_measured" in found:
            yield f"How it does by {kind} is not known: {found['not_measured']}."


def _drawn(release: triage.Release, name: str) -> str:
    try:
        path = release.file(f"evaluation/figures/{name}.png")
    except triage.NoRelease:  # a link to what is no file of the release
        path = None
    if path is None:
        return ""
    image = words.data_uri(Path(path).read_bytes(), "png")
    return f'<figure class="drawn"><img src="{image}" alt="{FIGURES[name]}"></figure>'


def _by_side(metrics: dict) -> str:
    sides = {name: side for name, side in metrics["splits"].items() if side["n"]}
    lines = {
        "images": lambda side: side["n"],
        "of them melanoma": lambda side: side["melanoma"]["n"],
        "melanoma AUROC": lambda side: words.figure(side["melanoma"]["auroc"]),
        "sensitivity of the alert": lambda side: words.figure(side["melanoma"]["sensitivity"]),
        "specificity of the alert": lambda side: words.figure(side["melanoma"]["specificity"]),
        "the same among nevi alone": lambda side: words.figure(side["melanoma"]["specificity_nevi"]),
        "sensitivity, refused melanomas counted as missed": lambda side: words.figure(
            side["melanoma"]["sensitivity_refusals_missed"]
        ),
        "balanced accuracy over nine diagnoses": lambda side: words.figure(side["balanced_accuracy"]),
    }
    rows = [[name, *(line(side) for side in sides.values())] for name, line in lines.items()]
    note = "Square brackets: 95 % interval. Held out: images of lesions and patients that it was not trained on."
    return words.table("The alert on each set of images", ["", *(SIDES.get(s, s) for s in sides)], rows, note=note)


def _by_source(held_out: dict) -> str:
    rows = [
        [name, of["n"], of["others"], *(words.figure(of[key]) for key in ("auroc", "sensitivity", "specificity"))]
        for name, of in held_out["melanoma"].get("by_source", {}).items()
    ]
    head = ["source", "melanomas", "others", "AUROC", "sensitivity", "specificity"]
    return words.table("Held-out images by where they were made", head, rows) if rows else ""


def _beside_readers(held_out: dict) -> str:
    melanoma, nevi = held_out["melanoma"], held_out["per_class"]["nevus"]["n"]
    if not melanoma["n"]:
        return "<p>No melanoma was held out: there is nothing to compare.</p>"
    rows = [
        [
            f"this release, any threshold that reaches {reference}",
            words.figure(value),
            words.figure(melanoma["specificity_nevi_at_sensitivity"][reference]),
        ]
        for reference, value in melanoma["specificity_at_sensitivity"].items()
    ]
    for reader in readers.READERS:
        where = [reader.specificity, ""] if reader.task == readers.AMONG_PIGMENTED else ["", reader.specificity]
        rows.append([f"{reader.who}, at {reader.sensitivity}, on other lesions ({reader.source})", *where])
    note = (
        "The doctors judged other lesions, in part with the patient before them: no row says who is better. Of the "
        "release it is the best that its curve shows, not what a threshold fixed before would give."
    )
    head = [
        "who, and at which sensitivity",
        f"specificity among all others (n = {held_out['n'] - melanoma['n']})",
        f"specificity among nevi (n = {nevi})",
    ]
    return words.table(f"Specificity at a given sensitivity ({melanoma['n']} melanomas)", head, rows, note=note)


def _by_class(held_out: dict) -> str:
    rows = [
        [name, of["n"], *(words.figure(of[key]) for key in ("sensitivity", "specificity", "auroc"))]
        for name, of in held_out["per_class"].items()
    ]
    note = f"By the likeliest diagnosis, of the {held_out['n']} held-out images; the alert is another rule."
    return words.table("By diagnosis", ["diagnosis", "images", "sensitivity", "specificity", "AUROC"], rows, note=note)


def _calibration(held_out: dict) -> str:
    names = {"ece": "expected calibration error", "brier": "Brier score, 0 to 2", "nll": "negative log-likelihood"}
    rows = [[name, words.figure(held_out["calibration"][key], digits=3)] for key, name in names.items()]
    note = "An error of 0.02 means: where it says 30 %, it is right 28 to 32 times in 100, on average over all it says."
    return words.table(f"Calibration on {held_out['n']} held-out images", ["", "value"], rows, note=note)


def _declined(metrics: dict) -> str:
    refusal, melanoma = metrics.get("refusal"), metrics["splits"]["held_out"]["melanoma"]
    if refusal is None:
        return "<p>It declines no image: it names a diagnosis of whatever it is shown.</p>"
    rows = [
        ["held out" if source == "all" else f"held out, {source}", told["n"], words.figure(told["refused"], digits=3)]
        for source, told in refusal["held_out"].items()
    ]
    rows += [
        [f"{kind} (generated or spoilt)", told["n"], words.figure(told["refused"])]
        for kind, told in refusal["unfit"].items()
    ]
    share = words.figure(melanoma["refused"], digits=3)
    note = (
        f"Of the {melanoma['n']} held-out melanomas a share of {share} is declined. "
        "Phone photographs of moles were not measured; another clinic's pictures may be declined far more often."
    )
    return words.table("Share of images that it declines to judge", ["images", "n", "declined"], rows, note=note)


def _subgroups(held_out: dict) -> str:
    rows = [
        [
            f"{kind}: {name}",
            of["n"],
            of["melanomas"],
            *(words.figure(of[key]) for key in ("auroc", "sensitivity", "specificity")),
        ]
        for kind, found in held_out["subgroups"].items()
        for name, of in found.get("of", {}).items()
    ]
    head = ["subgroup", "images", "melanomas", "AUROC", "sensitivity", "specificity"]
    return words.table("Melanoma in subgroups of the held-out images", head, rows)


def _artefacts(held_out: dict) -> str:
    rows = [
        [
            name.replace("_", " "),
            of["n"],
            words.figure(of["score_change_absolute"]),
            f"{words.figure(of['alerts_gained'])} (n = {of['quiet']})",
            f"{words.figure(of['alerts_lost'])} (n = {of['caught']})",
        ]
        for name, of in held_out.get("artefacts", {}).items()
    ]
    head = ["drawn on the images", "images", "change of the probability", "alerts gained", "melanomas lost"]
    return words.table("What artefacts do", head, rows) if rows else ""


def _made(metrics: dict) -> str:
    data = metrics["data"]
    return "".join(f"<p>{words.escaped(line)}</p>" for line in _making(metrics, data))


def _making(metrics: dict, data: dict) -> Iterator[str]:
    yield (
        f"Fine-tuned from {metrics['base_model']} on {data['sides'].get('train', 0)} of {data['images']} images of "
        f"{data['groups']} lesions or patients ({', '.join(data['sources'])}); no lesion that the data "
        "name is on two sides."
    )
    alert = metrics["alert"]
    if alert["threshold"] is not None:
        shown = "which shows with" if alert["bound_met"] else "which are too few to show with"
        yield (
            f"The alert's threshold, {alert['threshold']:.1%}, was set on {alert['lesions']} other melanomas, of which "
            f"it misses {alert['missed']}: {shown} {alert['confidence']:.0%} confidence that it finds at least "
            f"{alert['target_sensitivity']:.0%} of their kind."
        )
    if metrics["shortcut"]["found"]:
        yield (
            "Part of what it scores can be had without looking at the lesion, from colours, frame or origin of the "
            "picture: see the release's card."
        )
