"""The card of a release: `model_card.md` filled with the numbers of `metrics.json`, and with no others."""

import functools
import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jinja2
from dermalert_space.contract import FIGURES, NOT_A_DEVICE, HubName, Json
from dermalert_space.estimate import UNDEFINED, format_estimate
from dermalert_space.page.markup import lesions_as_served
from dermalert_space.prediction import threshold_share
from dermalert_space.reader_studies import AGAINST_NEVI, READERS
from huggingface_hub import EvalResult, ModelCardData

from dermalert.config import as_flag
from dermalert.data import provenance
from dermalert.evaluation import subgroups
from dermalert.formatting import COMPARED, at_most, percent, percent_at_least, percent_at_most
from dermalert.release import checklist, widget

_CARD = Path(__file__).with_name("model_card.md")

_MEANINGS = {
    "official_test": "the test split that the data set ships, as it is, with its labels as they are",
    "clean_test": "its images unrelated to the shipped training split, under the ISIC archive's labels",
    "out_of_fold": "each image predicted by the one of several such models that had not learnt from it",
}
_PREVALENCE = 0.05  # of melanomas, in the summary: about that of a clinic for suspect moles
_JOBS = {
    "train": "weights",
    "validation": "early stopping, choice of recipe",
    "calibration": "temperature and prior, abstention, operating points",
    "held_out": "reported; the gate compares releases on it",
    "official_test": "reported; chose nothing",
    "set_aside": "excluded: related to the shipped test images, or known to the base model",
}
_HEADLINE = {
    "images of melanoma": lambda split: str(split["melanoma"]["n"]),
    "accuracy": lambda split: format_estimate(split["accuracy"]),
    "balanced accuracy": lambda split: format_estimate(split["balanced_accuracy"]),
    "the same, were all diagnoses equally common": lambda split: format_estimate(
        split.get("balanced_accuracy_equal_priors", UNDEFINED)
    ),
    "balanced accuracy, both benign keratoses as one": lambda split: format_estimate(
        split["balanced_accuracy_benign_keratosis_merged"]
    ),
    "macro AUROC": lambda split: format_estimate(split["macro_auroc"]),
    "melanoma AUROC": lambda split: format_estimate(split["melanoma"]["auroc"]),
    "melanoma partial AUC": lambda split: format_estimate(split["melanoma"]["partial_auc_80"], 3),
    "melanoma sensitivity, as served": lambda split: format_estimate(split["melanoma"]["sensitivity_refusals_missed"]),
    "melanoma sensitivity, without abstention": lambda split: format_estimate(split["melanoma"]["sensitivity"]),
    "melanoma specificity, without abstention": lambda split: format_estimate(split["melanoma"]["specificity"]),
    "the same among nevi alone": lambda split: format_estimate(split["melanoma"]["specificity_nevi"]),
    "expected calibration error": lambda split: format_estimate(split["calibration"]["ece"], 3),
}


def render_card(metrics: Json, pictures: frozenset[str] = frozenset()) -> str:
    """The card of the figures of `metrics.json`, with those files in `FIGURES` that `pictures` names."""

    def picture(name: str, title: str) -> str:
        return f"![{title}]({FIGURES}/{name})\n" if name in pictures else ""

    held_out = metrics["splits"]["held_out"]
    tests = held_out.get("subgroup_sensitivity", {}).get("tests", [])
    text = render(
        _CARD,
        metrics=metrics,
        differing=subgroups.differing([subgroups.SubgroupTest.read(test) for test in tests]),
        of_lesions=lambda kind, name: lesions_as_served(kind, name, tests),
        front_matter=_front_matter(metrics, shown := [each for each in widget.photographs() if each.file in pictures]),
        licence=_licence(metrics["data"]),
        credits=_credits(metrics["data"]),
        examples=shown,
        title=_title(metrics),
        prevalence=min(held_out["melanoma"]["predictive_values"], key=lambda p: abs(float(p) - _PREVALENCE)),
        unseen=_unseen(metrics),
        by_split=_by_split(metrics["splits"]),
        by_diagnosis=_by_diagnosis(held_out["per_class"]),
        by_diagnosis_and_split=_by_diagnosis_and_split(metrics["data"]["classes"]),
        origins={name: provenance.ORIGINS.get(name) for name in metrics["data"]["trained_on"]},
        checklist=checklist.items(metrics, external=bool(_unseen(metrics))),
        meanings=[f"`{name}`: {text}." for name, text in _meanings(metrics).items() if name in metrics["splits"]],
        compared=COMPARED,
        jobs=_JOBS,
        readers=READERS,
        on_nevi=[reader for reader in READERS if reader.task == AGAINST_NEVI],
        picture=picture,
        shortcut_sentence=_shortcut_sentence(metrics),
        failures=_failures(held_out["failures"]),
    )
    return _spaced(text)


def render(template: Path, **given: Any) -> str:
    """The card that a template makes of some values; a value that it lacks stops it."""
    return _compile(template).render(not_a_device=NOT_A_DEVICE, **given)


def _spaced(text: str) -> str:
    """A card with one blank line between blocks: without it Markdown takes a table or a list for text."""
    matter, body = text.split("\n---\n", 1)
    lines, in_code, before = [], False, ""
    for line in body.splitlines():
        fence = line.startswith("```")
        begins = line.startswith("#") or _block(line) != _block(before)
        if before and line and begins and not in_code and not line.startswith("  "):
            lines.append("")
        lines.append(line)
        in_code, before = in_code != fence, line
    return f"{matter}\n---\n" + re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def _block(line: str) -> str:
    """What kind of block a line of Markdown is part of."""
    return next((start for start in ("#", "|", "![", "<", "- ", "```") if line.startswith(start)), "")


@functools.cache
def _compile(template: Path) -> jinja2.Template:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "percent": percent,
        "at_least": percent_at_least,
        "at_most": percent_at_most,
        "threshold": threshold_share,
        "figure": format_estimate,
        "probability": lambda value: f"{value:.3f}",
        "p_value": lambda value: f"{value:.2g}",
        "difference": at_most,
        "as_flag": lambda value, key: as_flag(key, value),
        "decimal": lambda value, digits=1: f"{value:.{digits}f}",
    }
    return environment.from_string(template.read_text())


def _title(metrics: Json) -> str:
    """The name of the release, with its version; of generated lesions it says so."""
    name = "dermalert demo (generated lesions)" if metrics["data"]["generated"] else "dermalert"
    return f"{name} {metrics['version'] or '(not published)'}"


def _front_matter(metrics: Json, examples: Sequence[widget.Example]) -> str:
    data = metrics["data"]
    base = HubName.parse(metrics["base_model"]).repo if "/" in metrics["base_model"] else None
    results = [result for name, split in metrics["splits"].items() for result in _results(name, split, data)]
    return ModelCardData(
        language="en",
        license=_licence(data),
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["dermalert", "synthetic"]
        if data["generated"]
        else ["dermatology", "dermoscopy", "melanoma", "skin-lesion", "dermalert"],
        datasets=data.get("hub_datasets") or None,
        base_model=base,
        base_model_relation="finetune" if base else None,
        metrics=sorted({result.metric_type for result in results}),
        model_name=_title(metrics),
        eval_results=results,
        widget=[each.to_json() for each in examples] or None,
    ).to_yaml()


def _licence(data: Json) -> str:
    """The licence of the weights as the Hub names it: the strictest that the images ask for."""
    terms = [provenance.terms(name) for name in data["trained_on"]]
    return provenance.strictest(origin.license for origin in terms if origin) if all(terms) else "other"


def _credits(data: Json) -> list[str]:
    """The credits of the pictures; drawn ones need none."""
    terms = [provenance.terms(name) for name in data["trained_on"] if name != provenance.GENERATED]
    return list(dict.fromkeys(origin.credit for origin in terms if origin))


def _results(name: str, split: Json, data: Json) -> list[EvalResult]:
    """The entries of a split in the Hub's `model-index`; a figure that is undefined has none."""
    figures = {
        "Accuracy": ("accuracy", split["accuracy"]),
        "Balanced accuracy": ("balanced_accuracy", split["balanced_accuracy"]),
        "Macro AUROC": ("roc_auc", split["macro_auroc"]),
        "Melanoma AUROC": ("roc_auc", split["melanoma"]["auroc"]),
        "Expected calibration error": ("expected_calibration_error", split["calibration"]["ece"]),
    }
    made_of = data["external"][name.removeprefix("external/")] if name.startswith("external/") else data
    where = ", ".join(made_of["sources"])
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type="imagefolder",  # as the Trainer names what is no data set of the Hub
            dataset_name=f"{name} of {where} (n = {split['n']})",
            dataset_split=name,
            metric_type=kind,
            metric_name=title,
            metric_value=figure["value"],
        )
        for title, (kind, figure) in figures.items()
        if figure["value"] is not None
    ]


def _unseen(metrics: Json) -> dict[str, Json]:
    """The reported splits whose images are all of sources that the release has not learnt from, by name."""
    external, trained_on = metrics["data"]["external"], set(metrics["data"]["trained_on"])
    names = [name for name, made_of in external.items() if not trained_on & set(made_of["sources"])]
    return {name: split for name in names if (split := metrics["splits"].get(f"external/{name}"))}


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def _by_split(splits: Mapping[str, Json]) -> str:
    head = ["figure", *(f"{name}, n = {split['n']}" for name, split in splits.items())]
    return _table(head, [[title, *map(figure, splits.values())] for title, figure in _HEADLINE.items()])


def _by_diagnosis(per_class: Mapping[str, Json]) -> str:
    figures = {"sensitivity": "sensitivity", "specificity": "specificity", "auroc": "AUROC"}
    rows = [[name, str(of["n"]), *(format_estimate(of[key]) for key in figures)] for name, of in per_class.items()]
    return _table(["diagnosis", "n", *figures.values()], rows)


def _by_diagnosis_and_split(classes: Mapping[str, Mapping[str, int]]) -> str:
    """How many images of each diagnosis each split has."""
    splits = list(dict.fromkeys(split for counts in classes.values() for split in counts))
    rows = [[name, *(str(counts.get(split, "-")) for split in splits)] for name, counts in classes.items()]
    return _table(["diagnosis", *(split.replace("_", " ") for split in splits)], rows)


def _meanings(metrics: Json) -> dict[str, str]:
    others = [name for name in metrics["splits"] if name.startswith("external/")]
    return _MEANINGS | dict.fromkeys(others, "another data set, without images related to those learnt from")


def _shortcut_sentence(metrics: Json) -> str:
    """Whether a model without medicine does as well, and in what."""
    shortcut = metrics["shortcut"]

    def names(figure: str) -> str:
        *others, last = (name.replace("_", " ") for name in shortcut[figure])
        return f"{', '.join(others)} and {last}" if others else last

    titles = {"balanced_accuracy": "balanced accuracy", "melanoma_auroc": "melanoma AUROC"}
    below = [
        f"in {title} it is not shown to be above {names(figure)}"
        for figure, title in titles.items()
        if shortcut[figure]
    ]
    above = [title for key, title in titles.items() if not shortcut[key] and key not in shortcut["not_measured"]]
    sentences = [f"{'; '.join(below)}: it may read how and where the pictures were made."] if below else []
    sentences += [f"in {' and '.join(above)} it is above each of them."] if above else []
    sentences += [f"{titles[key]} could not be compared." for key in shortcut["not_measured"]]
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)


def _failures(images: Json) -> list[tuple[Json, Json]]:
    nothing = {"image_id": "", "truth": "", "score": None}
    return list(zip_longest(images["lowest_melanomas"], images["highest_others"], fillvalue=nothing))
