"""Where pictures were made, by their numbers and attribution: under which licence they are, and who is to be named.

A source is the clinic. The archive's `attribution` names it, so that two collections of one clinic are one source, and
a clinic can be left out of a training. MILK10k has five centres and one attribution: which of them made a picture is
not published. HAM10000 and the older archive keep the names that their numbers give them.
"""

import dataclasses
from collections.abc import Iterable

from dermalert.data import identifiers
from dermalert.data.identifiers import archive_number

GENERATED = "generated"


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a place where pictures were made asks of whoever uses them."""

    license: str
    """As the Hub calls it. The archive's images are under CC-0, CC BY or CC BY-NC, each its own; which one is not known
    here, so that the strictest is stated."""
    credit: str
    """Who is to be named, with the paper."""
    centres: str = "not recorded"
    """Where the images were made, as the paper says."""


_ARCHIVE = "newer ISIC archive"

ORIGINS = {
    "older ISIC archive": Origin(
        "cc-by-nc-4.0",
        "ISIC archive, International Skin Imaging Collaboration: Codella 2018, arXiv 1710.05006",
    ),
    "HAM10000": Origin(
        "cc-by-nc-4.0",
        "HAM10000: Tschandl, Rosendahl and Kittler 2018, doi 10.1038/sdata.2018.161",
        "Medical University of Vienna, Austria; a skin cancer practice in Queensland, Australia",
    ),
    _ARCHIVE: Origin(
        "cc-by-nc-4.0",
        "ISIC archive, BCN20000 and ISIC 2020: Combalia 2019, arXiv 1908.02288; Rotemberg 2021, arXiv 2008.07360",
    ),
    "MILK10k": Origin(
        "cc-by-nc-4.0",
        "MILK10k: MILK study team 2025, ISIC archive, doi 10.34970/648456; Tschandl 2026, "
        "doi 10.1016/j.jid.2025.06.1594",
        "five centres; which of them made an image is not published",
    ),
    "Hospital Clínic de Barcelona": Origin(
        "cc-by-nc-4.0",
        "Department of Dermatology, Hospital Clínic de Barcelona, ISIC archive: BCN20000, Hernández-Pérez 2024, "
        "doi 10.1038/s41597-024-03387-w",
        "Hospital Clínic de Barcelona, Spain",
    ),
    "International Dermoscopy Society": Origin("cc-by-nc-4.0", "International Dermoscopy Society, ISIC archive"),
    # CC BY, CC-0 and, of ISIC 2020, CC BY-NC.
    "Memorial Sloan Kettering Cancer Center": Origin(
        "cc-by-nc-4.0", "Memorial Sloan Kettering Cancer Center, ISIC archive (CC-0, CC BY and CC BY-NC)"
    ),
    "Hospital Italiano de Buenos Aires": Origin(
        "cc-by-4.0",
        "Hospital Italiano de Buenos Aires, ISIC archive, doi 10.34970/587329 (CC BY): Ricci Lara 2023, "
        "doi 10.1038/s41597-023-02630-0",
    ),
    "University of Queensland": Origin(
        "cc-by-nc-4.0",
        "The University of Queensland Diamantina Institute, Dermatology Research Centre, ISIC archive "
        "(CC BY and CC BY-NC)",
    ),
    "PAD-UFES-20": Origin("cc-by-4.0", "PAD-UFES-20: Pacheco 2020, doi 10.1016/j.dib.2020.106221"),
    GENERATED: Origin("apache-2.0", "drawn by dermalert", "none"),
}
"""By name; a folder that is called so proves nothing, see `origin`."""

# The archive's attributions of a clinic that has a shorter name, or several.
_CLINICS = {
    "milk study team": "MILK10k",
    "department of dermatology, hospital clínic de barcelona": "Hospital Clínic de Barcelona",
    "the university of queensland diamantina institute, the university of queensland, dermatology research centre": (
        "University of Queensland"
    ),
}
_BY_NUMBER = ("HAM10000", "older ISIC archive", "PAD-UFES-20", GENERATED)
_LONGEST = 100  # characters of a source's name

_STRICTEST_FIRST = ("cc-by-nc-4.0", "cc-by-4.0", "apache-2.0")


def source(image_id: str, named: str, *, attribution: str | None = None, image_type: str | None = None) -> str:
    """The source of an image: its `origin`, and what kind of picture it is if that is no dermoscopy.

    Close-ups of a clinic are a source of their own, because they are another domain: figures, sampling and shortcut
    baselines keep them apart from its dermoscopy, and lesions join the two in one group.
    """
    place = origin(image_id, named, attribution)
    return f"{place}, {image_type[:_LONGEST]}" if image_type else place


def terms(source: str) -> Origin | None:
    """What a source asks of whoever uses its images, of whatever kind they are; None where it is not known here."""
    return ORIGINS.get(source) or ORIGINS.get(source.rpartition(", ")[0])


def origin(image_id: str, named: str, attribution: str | None = None) -> str:
    """An image's origin by its number and attribution: HAM10000 came into the archive as one block, to ISIC_0034320.

    Args:
        image_id: by which its source calls it.
        named: what holds it, which is its origin where neither number nor attribution tells it.
        attribution: who made the picture, in the words of the source's table.
    """
    if identifiers.pad_ufes(image_id):
        return "PAD-UFES-20"
    number, clinic = archive_number(image_id), _clinic(attribution)
    if number is None:
        named = clinic or named
        return named if not terms(named) or image_id.startswith("DEMO_") else f"a folder {named}"
    if "ISIC_0024306" <= number <= "ISIC_0034320":
        return "HAM10000"
    return "older ISIC archive" if number < "ISIC_0024306" else clinic or _ARCHIVE


def _clinic(attribution: str | None) -> str | None:
    """The clinic that an attribution names; nobody's, and the names that only a number gives, are none."""
    name = identifiers.clean(attribution)
    clinic = _CLINICS.get(name.casefold(), name)[:_LONGEST].strip()
    return None if clinic in _BY_NUMBER or identifiers.is_nobody(clinic) else clinic


def strictest(licenses: Iterable[str]) -> str:
    """The licence that allows least, of one or more that origins have."""
    return min(licenses, key=_STRICTEST_FIRST.index)


def finer(source: str, other: str | None) -> str:
    """The source of an image by two tables: the clinic, where only one of them names one that is known here."""
    return other if other in ORIGINS and source == _ARCHIVE else source
