"""Doctors beside whom a release is shown, on its page and, by the training side, in its card and figures."""

from typing import NamedTuple


class Readers(NamedTuple):
    """How well doctors recognised melanoma, as published: on other lesions than any release is measured on."""

    who: str
    task: str
    sensitivity: float
    specificity: float
    source: str


AGAINST_NEVI, AMONG_PIGMENTED = "melanoma against nevi", "melanoma among pigmented lesions"
READERS = (
    Readers("58 dermatologists", AGAINST_NEVI, 0.866, 0.713, "Haenssle 2018, doi 10.1093/annonc/mdy166"),
    Readers("dermatologists", AMONG_PIGMENTED, 0.875, 0.814, "Phillips 2020, PMC6936633"),
    Readers("primary care", AMONG_PIGMENTED, 0.799, 0.709, "Phillips 2020, PMC6936633"),
)
"""Dermoscopic images in the first; a meta-analysis of examinations with or without dermoscopy in the others."""
