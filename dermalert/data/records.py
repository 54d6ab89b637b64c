"""An image that a source holds, before anybody has looked at it, and the label that its name stands for."""

import dataclasses
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dermalert import taxonomy
from dermalert.data import identifiers, isic9
from dermalert.errors import UsageError, did_you_mean

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """An image that a source holds, before anybody has looked at it."""

    image_id: str
    name: str
    """The diagnosis in the source's words."""
    path: str = ""
    """Where the image lies, if it is a file of its own."""
    row: int = -1
    """Which of the source's images it is."""
    source: str = "unknown"
    """Where the picture was made, if its number does not tell: the name of what holds it."""
    space: str = ""
    """Whose ids of patients and lesions these are, if not the source's; see `home`."""
    shipped_split: str | None = None
    malignancy: str = ""
    """What the source says of just that, if it has a column or folder for it."""
    duplicates: tuple[str, ...] = ()
    """Images that the source calls copies of this one."""
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Lesion, patient, age, sex, site and who made the picture, of those that the source knows."""


DERMOSCOPIC = "dermoscopic"
IMAGE_TYPES = (DERMOSCOPIC, "clinical", "tbp")
"""The archive's kinds of pictures, by the word that its `image_type` begins with."""


class Selection:
    """Which kinds of pictures are taken of a source, and the counts of what is left out of it.

    Args:
        image_types: some of `IMAGE_TYPES`; by default dermoscopy alone.

    Raises:
        UsageError: there is no such type.
    """

    def __init__(self, image_types: Iterable[str] | None = None):
        self.image_types = tuple(image_types or [DERMOSCOPIC])
        for word in self.image_types:
            if word not in IMAGE_TYPES:
                hint = did_you_mean(word, IMAGE_TYPES)
                raise UsageError(f"'{word}' is no image type.{hint} They are: {', '.join(IMAGE_TYPES)}.")
        self._others = tuple(word for word in self.image_types if word != DERMOSCOPIC)
        self._left_out: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))

    def admits(self, kind: str) -> bool:
        """Whether pictures of a kind are taken; `kind` as `table_cells.kind_of` gives it."""
        return DERMOSCOPIC in self.image_types if kind == DERMOSCOPIC else kind.lower().startswith(self._others)

    def leave_out(self, where: str, field: str, words: Counter[str]) -> None:
        """Count images that are left out of a source because of what a field says."""
        if words:
            name = identifiers.clean(Path(where).resolve().name) if Path(where).is_dir() else where
            self._left_out[name][field].update(words)

    @property
    def left_out(self) -> dict[str, dict[str, dict[str, int]]]:
        """The counts by source, by field of the table (`label`, `malignancy`, `image_type`) and by what it says."""
        return {
            where: {field: dict(words.most_common()) for field, words in fields.items()}
            for where, fields in self._left_out.items()
        }


def warn_of_nobody(nobody: Counter[str], where: str) -> None:
    """Say which ids of patients and lesions were taken for nobody's, but for those that are just empty."""
    words = {word: n for word, n in nobody.items() if word.casefold() not in ("nan", "none", "null", "na", "n/a")}
    if words:
        each = ", ".join(f"{n} '{word}'" for word, n in words.items())
        logger.warning("ids of '%s' that name no patient and no lesion, and join no images: %s", where, each)


def with_labels(
    records: list[Record], where: str, labels: tuple[str, ...], selection: Selection, *, stand_ins: bool = False
) -> list[Record]:
    """The records whose name stands for one of the labels, with that; say what is left out.

    Args:
        records: under the source's own names.
        where: the source.
        labels: `DIAGNOSES`, `MALIGNANCIES` or `ISIC_2025`.
        selection: where what is left out is counted.
        stand_ins: label what is surely no melanoma but none of the nine as the nearest of them, for whoever asks of
            melanoma alone: what is only called benign as a nevus, `akiec` as an actinic keratosis.

    Raises:
        UsageError: names that nobody knows, only benign and malignant where a diagnosis is asked, or no label at all.
    """
    binary = labels == taxonomy.MALIGNANCIES
    left_out: Counter[str] = Counter()
    kept, unknown = [], []
    for record in records:
        try:
            label = _label(record, labels)
        except KeyError as error:
            unknown.append(error.args[0])
            continue
        if label is None and stand_ins and labels == taxonomy.DIAGNOSES:
            label = _stand_in(record)
        if label is None:
            left_out[record.name.split(":")[-1]] += 1
        else:
            kept.append(dataclasses.replace(record, name=label))
    _check_names(unknown, where, binary=binary)
    if left_out and not kept:
        raise _nothing_left(left_out, where, binary=binary)
    if left_out:
        by_word = Counter({name or "without a diagnosis": n for name, n in left_out.items()})
        selection.leave_out(where, "malignancy" if binary else "label", by_word)
        nine, malignancy = "that are none of the nine diagnoses", "of which it does not say whether they are malignant"
        total, counts = left_out.total(), _counts_text(left_out)
        logger.warning("left out %d images of '%s' %s: %s", total, where, malignancy if binary else nine, counts)
    return kept


def _check_names(unknown: list[str], where: str, *, binary: bool) -> None:
    """Refuse names of lesions that nobody knows."""
    of_lists = [name for name in unknown if name.startswith(("[", "{"))]
    if of_lists:
        raise UsageError(
            f"'{where}' gives a list as the diagnosis of an image ({of_lists[0][:60]}), not one name: give each image "
            "one, or name another column (--columns label=COLUMN)."
        )
    if unknown:
        names = list(dict.fromkeys(unknown))
        more = f" And {len(names) - 5} more such names." if len(names) > 5 else ""
        raise UsageError(f"'{where}': {taxonomy.none_of_the_nine(names[:5], binary=binary)}{more}")


def _stand_in(record: Record) -> str | None:
    """A diagnosis that is as far from melanoma as what the source says."""
    if taxonomy.plain(record.name.split(":")[-1]) in taxonomy.MIXED:
        return taxonomy.PRECURSOR
    return "nevus" if _malignancy(record) == "benign" else None


def names_a_diagnosis(record: Record) -> bool:
    """Tell whether the source has a name for what an image shows that is more than benign or malignant."""
    return taxonomy.plain(record.name) not in taxonomy.SILENT


def _label(record: Record, labels: tuple[str, ...]) -> str | None:
    if labels == taxonomy.MALIGNANCIES:
        return _malignancy(record)
    if labels == tuple(taxonomy.ISIC_2025):
        return taxonomy.isic_2025(record.name)
    return taxonomy.find(record.name, archive_label=_archive_diagnosis(record))


def _malignancy(record: Record) -> str | None:
    malignancy = taxonomy.malignancy(record.malignancy)
    return malignancy or taxonomy.malignancy(record.name, archive_label=_archive_diagnosis(record))


def _archive_diagnosis(record: Record) -> str | None:
    return isic9.diagnosis(record.image_id)


def _nothing_left(left_out: Counter[str], where: str, *, binary: bool) -> UsageError:
    if binary:
        return UsageError(f"'{where}' says of no image whether it is malignant: {_counts_text(left_out)}.")
    if any(left_out) and {name.lower() for name in left_out if name} <= taxonomy.BINARY:
        return UsageError(
            f"'{where}' says of its images only whether they are malignant: training needs a diagnosis. Such a set can "
            "be evaluated on."
        )
    return UsageError(f"'{where}' has no image of the nine diagnoses: {_counts_text(left_out)}.")


def _counts_text(left_out: Counter[str]) -> str:
    names = ", ".join(f"{n} {name or 'without a diagnosis'}" for name, n in left_out.most_common())
    mixed = " and ".join(repr(name) for name in left_out if taxonomy.plain(name) in taxonomy.MIXED)
    why = f" ({mixed} stands for actinic keratosis or squamous cell carcinoma)" if mixed else ""
    return names + why


def leave_out_kinds(other: Counter[str], where: str, selection: Selection) -> None:
    """Count the images that were left out because of their kind, and say it."""
    selection.leave_out(where, "image_type", other)
    if other:
        kinds = ", ".join(f"{n} {kind}" for kind, n in other.most_common())
        only_dermoscopy = selection.image_types == (DERMOSCOPIC,)
        wanted = "no dermoscopy" if only_dermoscopy else f"not {' or '.join(selection.image_types)}"
        logger.warning("left out %d images of '%s' that are %s: %s", other.total(), where, wanted, kinds)
