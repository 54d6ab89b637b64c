"""The nine diagnoses, their other names, and which are malignant."""

from dermalert.errors import UsageError, did_you_mean

DIAGNOSES = (
    "actinic keratosis",
    "basal cell carcinoma",
    "dermatofibroma",
    "melanoma",
    "nevus",
    "pigmented benign keratosis",
    "seborrheic keratosis",
    "squamous cell carcinoma",
    "vascular lesion",
)
"""Label ids 0 to 8, in this order, everywhere."""

ALERT = "melanoma"

# HAM10000's `dx` column. ISIC writes "pigmented benign keratosis" for its `bkl`, which mixes seborrheic keratosis,
# solar lentigo and lichen-planus-like keratosis (Tschandl 2018, doi 10.1038/sdata.2018.161).
_OTHER_NAMES = {
    "akiec": "actinic keratosis",
    "bcc": "basal cell carcinoma",
    "bkl": "pigmented benign keratosis",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "nevus",
    "vasc": "vascular lesion",
}


def diagnosis(name: str) -> str:
    """Return the diagnosis that a source's name stands for.

    Raises:
        UsageError: the name stands for none of the nine.
    """
    plain = " ".join(name.replace("_", " ").lower().split())
    plain = _OTHER_NAMES.get(plain, plain)
    if plain not in DIAGNOSES:
        hint = did_you_mean(plain, [*DIAGNOSES, *_OTHER_NAMES])
        raise UsageError(f"'{name}' is none of the nine diagnoses.{hint} They are: {', '.join(DIAGNOSES)}.")
    return plain
