"""The card of a release: `model_card.md` filled with the numbers of `metrics.json`, and with no others."""

import functools
from itertools import zip_longest
from pathlib import Path

import jinja2
from dermalert_space.contract import FIGURES, NOT_A_DEVICE, HubName
from dermalert_space.estimate import UNDEFINED, format_estimate
from dermalert_space.page.markup import lesions_as_served
from dermalert_space.prediction import threshold_share
from dermalert_space.reader_studies import AGAINST_NEVI, READERS
from huggingface_hub import EvalResult, ModelCardData

from dermalert.data import provenance
from dermalert.evaluation import subgroups
from dermalert.formatting import COMPARED, at_most, percent, percent_at_least, percent_at_most

_CARD = Path(__file__).with_name("model_card.md")

_MEANINGS = {
    "official_test": "the test split that the data set ships, as it is, with its labels as they are",
    "clean_test": "its images without known kin in the shipped training split, under the ISIC archive's labels",
    "out_of_fold": "each image answered by the one of several such models that had not learnt from it",
}
_JOBS = {
    "train": "weights",
    "validation": "early stopping, choice of recipe",
    "calibration": "temperature and prior, abstention, operating points",
    "held_out": "reported; the gate compares releases on it",
    "official_test": "reported; chose nothing",
    "set_aside": "kin of the shipped test images, or known to the base model: not used",
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


def render_card(metrics: dict, pictures: frozenset[str] = frozenset()) -> str:
    """The card that belongs to the figures of `metrics.json`, with the files in `FIGURES` that `pictures` names."""

    def picture(name: str, title: str) -> str:
        return f"![{title}]({FIGURES}/{name})\n" if name in pictures else ""

    held_out = metrics["splits"]["held_out"]
    tests = held_out.get("subgroup_sensitivity", {}).get("tests", [])
    return render(
        _CARD,
        metrics=metrics,
        differing=subgroups.differing([subgroups.SubgroupTest.read(test) for test in tests]),
        of_lesions=lambda kind, name: lesions_as_served(kind, name, tests),
        front_matter=_front_matter(metrics),
        licence=_licence(metrics["data"]),
        credits=_credits(metrics["data"]),
        headline=list(_HEADLINE.items()),
        meanings=_meanings(metrics),
        compared=COMPARED,
        jobs=_JOBS,
        readers=READERS,
        on_nevi=[reader for reader in READERS if reader.task == AGAINST_NEVI],
        picture=picture,
        shortcut_sentence=_shortcut_sentence(metrics),
        failures=_failures(held_out["failures"]),
    )


def render(template: Path, **given) -> str:
    """The card that a template makes of some values; a value that it lacks stops it."""
    return _compile(template).render(not_a_device=NOT_A_DEVICE, **given)


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
        "decimal": lambda value, digits=1: f"{value:.{digits}f}",
    }
    return environment.from_string(template.read_text())


def _front_matter(metrics: dict) -> str:
    data = metrics["data"]
    return ModelCardData(
        license=_licence(data),
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["dermalert"]
        if data["generated"]
        else ["dermatology", "dermoscopy", "melanoma", "skin-lesion", "dermalert"],
        base_model=HubName.parse(metrics["base_model"]).repo if "/" in metrics["base_model"] else None,
        model_name=f"dermalert {metrics['version'] or '(not published)'}" + ", generated lesions" * data["generated"],
        eval_results=[result for name, split in metrics["splits"].items() for result in _results(name, split, data)],
    ).to_yaml()


def _licence(data: dict) -> str:
    """The licence of the weights as the Hub names it: the strictest that the images ask for."""
    terms = [provenance.terms(name) for name in data["trained_on"]]
    return provenance.strictest(origin.license for origin in terms if origin) if all(terms) else "other"


def _credits(data: dict) -> list[str]:
    """The credits of the pictures; drawn ones need none."""
    terms = [provenance.terms(name) for name in data["trained_on"] if name != provenance.GENERATED]
    return list(dict.fromkeys(origin.credit for origin in terms if origin))


def _results(name: str, split: dict, data: dict) -> list[EvalResult]:
    """The entries of a split in the Hub's `model-index`; a figure that is undefined has none."""
    figures = {
        "accuracy": ("Accuracy", split["accuracy"]),
        "balanced_accuracy": ("Balanced accuracy", split["balanced_accuracy"]),
        "roc_auc": ("Macro AUROC", split["macro_auroc"]),
        "melanoma_roc_auc": ("Melanoma AUROC", split["melanoma"]["auroc"]),
        "expected_calibration_error": ("Expected calibration error", split["calibration"]["ece"]),
    }
    made_of = data["external"][name.removeprefix("external/")] if name.startswith("external/") else data
    where = ", ".join(made_of["sources"])
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=f"dermalert-{made_of['fingerprint']}",
            dataset_name=f"{name} of {where} (n = {split['n']})",
            dataset_split=name,
            metric_type=kind,
            metric_name=title,
            metric_value=figure["value"],
            metric_config=f"95 % interval {figure['low']:.3f} to {figure['high']:.3f}"
            if figure["low"] is not None
            else None,
        )
        for kind, (title, figure) in figures.items()
        if figure["value"] is not None
    ]


def _meanings(metrics: dict) -> dict[str, str]:
    others = [name for name in metrics["splits"] if name.startswith("external/")]
    return _MEANINGS | dict.fromkeys(others, "another data set, without images that have kin among those learnt from")


def _shortcut_sentence(metrics: dict) -> str:
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


def _failures(images: dict) -> list[tuple[dict, dict]]:
    nothing = {"image_id": "", "truth": "", "score": None}
    return list(zip_longest(images["lowest_melanomas"], images["highest_others"], fillvalue=nothing))
