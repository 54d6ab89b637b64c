"""Where pictures were made, as far as their numbers tell: under which licence they are, and who is to be named."""

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


ORIGINS = {
    "older ISIC archive": Origin(
        "cc-by-nc-4.0",
        "ISIC archive, International Skin Imaging Collaboration: Codella 2018, arXiv 1710.05006",
    ),
    "HAM10000": Origin("cc-by-nc-4.0", "HAM10000: Tschandl, Rosendahl and Kittler 2018, doi 10.1038/sdata.2018.161"),
    "newer ISIC archive": Origin(
        "cc-by-nc-4.0",
        "ISIC archive, BCN20000 and ISIC 2020: Combalia 2019, arXiv 1908.02288; Rotemberg 2021, arXiv 2008.07360",
    ),
    "PAD-UFES-20": Origin("cc-by-4.0", "PAD-UFES-20: Pacheco 2020, doi 10.1016/j.dib.2020.106221"),
    GENERATED: Origin("apache-2.0", "drawn by dermalert"),
}
"""By name; a folder that is called so proves nothing, see `origin`."""

_STRICTEST_FIRST = ("cc-by-nc-4.0", "cc-by-4.0", "apache-2.0")


def origin(image_id: str, named: str) -> str:
    """Tell an image's origin from its number: HAM10000 came into the archive as one block, to ISIC_0034320.

    Args:
        image_id: by which its source calls it.
        named: what holds it, which is its origin where the number tells nothing.
    """
    if identifiers.pad_ufes(image_id):
        return "PAD-UFES-20"
    number = archive_number(image_id)
    if number is None:
        return named if named not in ORIGINS or image_id.startswith("DEMO_") else f"a folder {named}"
    if "ISIC_0024306" <= number <= "ISIC_0034320":
        return "HAM10000"
    return "older ISIC archive" if number < "ISIC_0024306" else "newer ISIC archive"


def strictest(licenses: Iterable[str]) -> str:
    """The licence that allows least, of one or more that origins have."""
    return min(licenses, key=_STRICTEST_FIRST.index)
