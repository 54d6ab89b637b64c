"""What a person reads when a training has ended: how good, where it is, what to type."""

from pathlib import Path

from dermalert_space.contract import Json
from dermalert_space.estimate import format_estimate

from dermalert.formatting import percent


def what_next(folder: Path, figures: Json) -> str:
    """The last lines of a training: how good the release is, where it is, what to type."""
    held_out = figures["splits"]["held_out"]
    accuracy = format_estimate(held_out["balanced_accuracy"])
    subgroups = "".join(f"{sentence}\n" for sentence in held_out.get("subgroup_sensitivity", {}).get("sentences", []))
    return (
        f"Held out: balanced accuracy {accuracy}, n = {held_out['n']} images in {held_out['groups']} groups.\n"
        f"{alert_in_short(figures)}"
        f"{subgroups}"
        f"The release: {folder}\n"
        f"Next: make space RELEASE={folder}"
    )


def alert_in_short(figures: Json) -> str:
    """Sensitivity and specificity of the alert as served, in a line; empty without a threshold or a melanoma."""
    alert, melanoma = figures["alert"], figures["splits"]["held_out"]["melanoma"]
    if alert["threshold"] is None or not melanoma["n"]:
        return ""
    lesions = melanoma["lesions"]
    sensitivity = format_estimate(lesions["sensitivity_as_served"])
    specificity = format_estimate(melanoma["specificity_as_served"])
    return (
        f"Melanoma alert as served: sensitivity {sensitivity}, n = {lesions['n']} lesions; specificity {specificity}. "
        f"The bound of {percent(alert['target_sensitivity'])} is {'' if alert['bound_met'] else 'not '}met.\n"
    )
