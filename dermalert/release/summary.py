"""What a person reads when a training has ended: how good, where it is, what to type."""

from pathlib import Path

from dermalert_space.contract import ALERT_POINT, CARD, Json
from dermalert_space.estimate import format_estimate

from dermalert.formatting import percent, percent_at_least


def what_next(folder: Path, figures: Json, *, published: bool) -> str:
    """The last lines of a training: how good the release is, where it is, what to type."""
    held_out = figures["splits"]["held_out"]
    accuracy = format_estimate(held_out["balanced_accuracy"])
    lines = [
        f"Held out: balanced accuracy {accuracy}, n = {held_out['n']} images in {held_out['groups']} groups.",
        *alert_in_short(figures),
        *shortcut_in_short(figures),
        *held_out.get("subgroup_sensitivity", {}).get("sentences", []),
        f"The release: {folder}",
        f"The card:    {folder / CARD}",
        f'Use it:      pipeline("image-classification", model="{folder}", top_k=9)',
        f"See it:      dermalert space {folder}, or make space RELEASE={folder}",
    ]
    publish = [] if published else [f"Publish it:  dermalert publish {folder.parent} USER/REPO --tag v1.0.0"]
    return "\n".join(lines + publish)


def alert_in_short(figures: Json) -> list[str]:
    """Sensitivity, its bound and specificity of the alert as served; nothing without a threshold or a melanoma."""
    alert, melanoma = figures[ALERT_POINT], figures["splits"]["held_out"]["melanoma"]
    if alert["threshold"] is None or not melanoma["n"]:
        return []
    lesions = melanoma["lesions"]
    sensitivity = format_estimate(lesions["sensitivity_as_served"])
    specificity = format_estimate(melanoma["specificity_as_served"])
    return [
        f"Melanoma alert as served: sensitivity {sensitivity}, n = {lesions['n']} lesions; specificity {specificity}.",
        f"On {alert['lesions']} calibration lesions its sensitivity is at least "
        f"{percent_at_least(alert['lower_bound'])} with {percent(alert['confidence'])} confidence; the target of "
        f"{percent(alert['target_sensitivity'])} is {'' if alert['bound_met'] else 'not '}met.",
    ]


def shortcut_in_short(figures: Json) -> list[str]:
    """The melanoma AUROC beside that of the best shortcut baseline; nothing where either is undefined."""
    auroc = figures["splits"]["held_out"]["melanoma"]["auroc"]
    baselines = {name: baseline["melanoma_auroc"] for name, baseline in figures["baselines"].items()}
    defined = {name: area for name, area in baselines.items() if area["value"] is not None}
    if auroc["value"] is None or not defined:
        return []
    best = max(defined, key=lambda name: defined[name]["value"])
    return [
        f"Melanoma AUROC {format_estimate(auroc)}; the best shortcut baseline, {best.replace('_', ' ')}, has "
        f"{format_estimate(defined[best])}."
    ]
