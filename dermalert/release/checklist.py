"""Where the card stands by CLAIM, TRIPOD+AI and Model Cards, item by item; it claims to comply with none of them.

CLAIM: Tejani 2024, doi 10.1148/ryai.240300. TRIPOD+AI: Collins 2024, doi 10.1136/bmj-2023-078378. Model Cards:
Mitchell 2019, arXiv 1810.03993. The items are named by what they are about, not by their numbers.
"""

from typing import NamedTuple

from dermalert_space.contract import Json


class Item(NamedTuple):
    """What guidelines ask for, which of them, and where or why not it is in the card."""

    topic: str
    guidelines: str
    state: str


_ALL = "CLAIM, TRIPOD+AI, Model Cards"
_MEDICAL = "CLAIM, TRIPOD+AI"


def items(metrics: Json, *, external: bool) -> list[Item]:
    """The items for the release of these figures; `external`: whether a clinic that it has not seen is among them."""
    generated = metrics["data"]["generated"]
    slope = "melanoma" in metrics["splits"]["held_out"]["calibration"]
    return [
        Item("Purpose, users, uses to avoid", _ALL, "reported: In short"),
        Item("Sources, exclusions, splits", _ALL, "reported: Data"),
        Item("Participants: centres, dates, patients, skin type", _MEDICAL, _participants(metrics["data"])),
        Item("Reference standard", _MEDICAL, _reference(metrics["data"])),
        Item("Sample size", _MEDICAL, "partly: what the bound needs; not calculated before"),
        Item("Missing data", _MEDICAL, "partly: counted under Subgroups; nothing is imputed"),
        Item("Model, training, software", _ALL, "reported: Training"),
        Item("Thresholds set on other images than those reported", _MEDICAL, "reported: Operating points"),
        Item("Discrimination, with intervals", _ALL, "reported: Performance"),
        Item("Calibration", "TRIPOD+AI", f"{'reported' if slope else 'partly, without slope'}: Performance"),
        Item("External validation", _MEDICAL, "reported: In short" if external else "not done in this release"),
        Item("Net benefit", "TRIPOD+AI", "not reported" if generated else "not reported; predictive values are"),
        Item("Fairness", "TRIPOD+AI, Model Cards", "partly: Subgroups; training balances no age, sex or site"),
        Item("Robustness", "CLAIM", "reported: Shortcuts, Artefacts, Abstention"),
        Item("Failure analysis", "CLAIM", "partly: Where it fails; causes are not studied"),
        Item("Variation from seed to seed", "CLAIM", "not measured"),
        Item("Protocol, registration", _MEDICAL, "none"),
        Item("Ethics, consent", _ALL, "not applicable" if generated else "partly: Data refers to the sources"),
        Item("Funding, conflicts of interest", _MEDICAL, "not stated"),
        Item("Involvement of patients and the public", "TRIPOD+AI", "none"),
        Item("Use by clinicians, human factors", "TRIPOD+AI", "not studied"),
        Item("Availability of weights, predictions, code", _MEDICAL, "reported: this repository, Training"),
        Item("Licence, version, contact", "Model Cards", "reported: Licence and credits, Version, Limits"),
    ]


def _participants(data: Json) -> str:
    missing = "dates" if "patients" in data else "dates and number of patients"
    partly = f"partly: Data, Subgroups; {missing} not recorded, skin type of few images"
    return "not applicable: the lesions are drawn" if data["generated"] else partly


def _reference(data: Json) -> str:
    if data["generated"]:
        return "not applicable: the lesions are drawn"
    if "reference_standard" in data:
        return "reported: Data, by diagnosis; subgroups by reference standard"
    return "partly: Data; the share with histopathology is not recorded"
