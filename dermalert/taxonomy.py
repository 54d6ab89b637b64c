"""The nine diagnoses, every source's names for them, and which are malignant."""

import functools
import re
from collections.abc import Iterable

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

MELANOMA = DIAGNOSES.index(ALERT)
"""The label id of melanoma."""

MALIGNANT = frozenset({"melanoma", "basal cell carcinoma", "squamous cell carcinoma"})

MALIGNANCIES = ("benign", "malignant")
"""Label ids 0 and 1 where it is known of an image only whether what it shows is malignant."""

PRECURSOR = "actinic keratosis"
"""Not malignant itself, and no harmless finding either: it can become a squamous cell carcinoma."""

CLINICAL_GROUPS = {
    "malignant": [name for name in DIAGNOSES if name in MALIGNANT],
    "precursor": [PRECURSOR],
    "benign": [name for name in DIAGNOSES if name not in MALIGNANT and name != PRECURSOR],
}
"""As a release tells its serving side."""

ISIC_2025 = {
    "AKIEC": frozenset({"actinic keratosis"}),
    "BCC": frozenset({"basal cell carcinoma"}),
    "BEN_OTH": frozenset[str](),
    "BKL": frozenset({"pigmented benign keratosis", "seborrheic keratosis"}),
    "DF": frozenset({"dermatofibroma"}),
    "INF": frozenset[str](),
    "MAL_OTH": frozenset[str](),
    "MEL": frozenset({"melanoma"}),
    "NV": frozenset({"nevus"}),
    "SCCKA": frozenset({"squamous cell carcinoma"}),
    "VASC": frozenset({"vascular lesion"}),
}
"""MILK10k's eleven classes (ISIC challenge of 2025), and those of the nine that each is the sum of.

No part of the nine are other benign lesions, other malignant ones, and inflammations. AKIEC holds Bowen's disease too,
which the nine count as squamous cell carcinoma.
"""

_OF_ISIC_2025_ALONE = frozenset({"BEN_OTH", "INF", "MAL_OTH", "SCCKA"})

# Parts of HAM10000's `bkl` that are none of the nine by their own names.
_OF_BKL = frozenset({"solar lentigo", "ink spot lentigo", "lichenoid keratosis"})

# Without the nine themselves. In the order of: HAM10000 (`dx`) and the ISIC challenges, PAD-UFES-20, the archive
# (older names, levels of `diagnosis_1` to `_5`, the misspelt names of its diagnosis list), HAM10000 on the Hub.
_OTHER_NAMES = {
    "actinic keratosis": ("ak", "ack", "solar or actinic keratosis", "solar keratosis"),
    "basal cell carcinoma": ("bcc",),
    "dermatofibroma": ("df",),
    # A metastasis is melanoma under the microscope, and the archive files it there.
    "melanoma": ("mel", "melanoma metastasis", "malignant melanocytic proliferations (melanoma)"),
    # PH2 parts its nevi into common and atypical ones; an atypical (dysplastic) nevus is a nevus.
    "nevus": (
        "nv",
        "nev",
        "nevus spilus",
        "melanocytic nevi",
        "melanocytic nevus",
        "common nevus",
        "atypical nevus",
        "dysplastic nevus",
        "benign nevus",
        "nevus, nos",
    ),
    # ISIC writes "pigmented benign keratosis" for HAM10000's `bkl`, which mixes seborrheic keratosis, solar lentigo
    # and lichen-planus-like keratosis (Tschandl 2018, doi 10.1038/sdata.2018.161); so do BKL of ISIC 2019 and of
    # MILK10k, the ink-spot lentigo (a reticulated solar lentigo) among them. Where seborrheic keratosis is named it is
    # that; the others' names have no class of their own, so that they stay in this one.
    "pigmented benign keratosis": (
        "bkl",
        "benign ketarosis",
        "benign keratosis",
        "benign keratosis like lesions",
        *sorted(_OF_BKL),
    ),
    "seborrheic keratosis": ("sek", "sk", "seborrheic ketarosis"),
    # In situ too (Bowen's disease): so the archive does with the part of HAM10000's `akiec` that is, and PAD-UFES-20.
    # MILK10k's AKIEC holds it beside actinic keratosis; its fine diagnosis tells. A keratoacanthoma is malignant in the
    # archive, and with invasive carcinoma one class of MILK10k (SCCKA).
    "squamous cell carcinoma": (
        "scc",
        "sccka",
        "squamous cell carcinoma in situ",
        "squamous cell carcinoma in situ, bowens disease",
        "bowen disease",
        "bowens disease",
        "bowen's disease",
        "intraepidermal carcinoma",
        "intraepithelial carcinoma",
        "squamous cell carcinoma, invasive",
        "squamous cell carcinoma, nos",
        "keratoacanthoma",
    ),
    # "Angiomas, angiokeratomas, pyogenic granulomas and hemorrhage" (Tschandl 2018).
    "vascular lesion": (
        "vasc",
        "angioma",
        "angiokeratoma",
        "pyogenic granuloma",
        "hemorrhage",
        "benign soft tissue proliferations vascular",
        "vascular lesions",
    ),
}
_DIAGNOSIS = {name: name for name in DIAGNOSES} | {n: to for to, names in _OTHER_NAMES.items() for n in names}

MIXED = dict.fromkeys(("akiec", "actinic keratoses"), frozenset({"actinic keratosis", "squamous cell carcinoma"}))
"""Names that stand for two of the nine: HAM10000 puts Bowen's disease there too, 197 of its 327 images. Nothing in the
name tells which; with the archive's diagnosis of the image it is known."""

# What HAM10000's `bkl` and the challenges' `BKL` mix (Tschandl 2018): beside a name of its parts, theirs counts.
_COARSE = frozenset({"pigmented benign keratosis", "seborrheic keratosis"}) | _OF_BKL

BINARY = frozenset({"benign", "malignant", "indeterminate", "indeterminate/benign", "indeterminate/malignant"})
"""What a source says that does not name a diagnosis at all."""

SILENT = BINARY | {"", "other", "unk", "unknown"}
"""The same, and words that say nothing at all."""

_OUTSIDE = SILENT | {
    "acrochordon",
    "adnexal tumor",
    "aimp",
    "angiofibroma or fibrous papule",
    "atypical melanocytic proliferation",
    "atypical spitz tumor",
    "cafe au lait macule",
    "clear cell acanthoma",
    "ephelis",
    "epidermal nevus",
    "lentigo nos",
    "lentigo simplex",
    "merkel cell carcinoma",
    "mucosal melanosis",
    "neurofibroma",
    "scar",
    "sebaceous adenoma",
    "sebaceous hyperplasia",
    "verruca",
}


# The spellings of Britain and of Latin, plurals, and two words for one thing: one word each.
_SPELLINGS = [
    (re.compile(r"\bna?e?vi\b|\bn(?:ae|æ)vus\b"), "nevus"),
    (re.compile(r"\bseborrh(?:oe|œ)ic\b"), "seborrheic"),
    (re.compile(r"\bh(?:ae|æ)m(?=orrhag|angio)"), "hem"),
    (re.compile(r"\btumour"), "tumor"),
    (re.compile(r"\blichen planus like\b"), "lichenoid"),
]


@functools.lru_cache(4096)  # a table has a word a row, and few different ones
def find(name: str, *, archive_label: str | None = None) -> str | None:
    """Return the diagnosis that a source's name stands for, or None where the name is known and fits none of the nine.

    Args:
        name: in any case, with spaces, `_` or `-`; or the levels of the ISIC archive, the widest first, joined by `:`.
            The deepest of those that names a diagnosis counts; below `Benign`, `Malignant` and `Indeterminate` all
            names are known.
        archive_label: the image's diagnosis from elsewhere, which settles a name that stands for two of the nine.

    Raises:
        KeyError: nobody knows the name.
    """
    levels = [plain(level) for level in name.split(":")]
    for level in reversed(levels):
        if level in _DIAGNOSIS:
            return _DIAGNOSIS[level]
        if level in MIXED:
            return archive_label if archive_label in MIXED[level] else None
    if levels[0] in BINARY or levels[-1] in _OUTSIDE:
        return None
    raise KeyError(name)


def isic_2025(name: str) -> str:
    """The class of MILK10k's eleven that a source's name is.

    Raises:
        KeyError: it is none of them.
    """
    return {plain(known): known for known in ISIC_2025}[plain(name)]


def are_isic_2025(names: Iterable[str]) -> bool:
    """Whether names are MILK10k's eleven classes, some of which no other source has."""
    known = {plain(name): name for name in ISIC_2025}
    classes = {known.get(plain(name)) for name in set(names)}
    return None not in classes and bool(classes & _OF_ISIC_2025_ALONE)


def malignancy(name: str, *, archive_label: str | None = None) -> str | None:
    """Return `benign` or `malignant` for a source's name, or None where the name leaves it open.

    Those two words count as they are, and as the widest of the archive's levels. Of the nine, those in `MALIGNANT` are,
    so that `PRECURSOR` is benign here. Names outside the nine are not guessed.

    Args:
        name: as for `find`.
        archive_label: the same.

    Raises:
        KeyError: nobody knows the name.
    """
    widest = plain(name.split(":")[0])
    if widest in MALIGNANCIES:
        return widest
    label = find(name, archive_label=archive_label)
    return None if label is None else MALIGNANCIES[label in MALIGNANT]


def finer(first: str, second: str) -> str | None:
    """Return which of two names of one image says more, the first where they say as much; None if they contradict.

    `akiec` may be an actinic keratosis or a squamous cell carcinoma, so that either of these says more, and so with
    what `bkl` mixes; `unknown` says nothing, nor does `malignant`.
    """
    one, other = _may_be(first), _may_be(second)
    if not one or not other:
        return first if one or not other else second
    return (second if other < one else first) if one & other else None


@functools.lru_cache(4096)
def _may_be(name: str) -> frozenset[str]:
    """Return what a name can stand for, of the nine and of what fits none of them; nothing where it says nothing."""
    try:
        label = find(name)
    except KeyError:
        return frozenset({name})
    word = plain(name.split(":")[-1])
    if label == "pigmented benign keratosis":
        return frozenset({word}) if word in _OF_BKL else _COARSE
    if label or word in MIXED:
        return frozenset({label}) if label else MIXED[word]
    return frozenset({word} & _OUTSIDE - SILENT)


def diagnosis(name: str) -> str:
    """Return the diagnosis that a source's name stands for.

    Raises:
        UsageError: the name stands for none of the nine.
    """
    try:
        label = find(name)
    except KeyError:
        label = None
    if label is None:
        raise none_of_the_nine([name])
    return label


def none_of_the_nine(names: Iterable[str], *, binary: bool = False) -> UsageError:
    """The error that lists the names, each with the nearest that is known, `binary` of `MALIGNANCIES` too."""
    names_of_ours = [*_DIAGNOSIS, *MIXED, *(MALIGNANCIES if binary else ())]
    each = [f"'{name}' is none of the nine diagnoses.{did_you_mean(plain(name), names_of_ours)}" for name in names]
    return UsageError(f"{' '.join(each)} They are: {', '.join(DIAGNOSES)}.")


def plain(name: str) -> str:
    """A name in small letters, with single spaces and without the number that the archive's list gives it."""
    name = re.sub(r"^\d+\. ", "", name.strip())
    words = re.sub(r"[_-]", " ", name).lower()
    for spelling, ours in _SPELLINGS:
        words = spelling.sub(ours, words)
    return " ".join(words.split())
