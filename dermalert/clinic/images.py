"""A clinic's images: a folder, with labels or without."""

import dataclasses
import io
from pathlib import Path

import datasets
from datasets import Dataset
from dermalert_space.contract import Json
from PIL import Image

from dermalert.data import folder_files, folder_layout, label_repair, loading, near_duplicates
from dermalert.data.loading import Reading
from dermalert.data.table_columns import Columns
from dermalert.errors import UsageError

_MAKE = 271  # of EXIF: who made the camera
_PHONES = ("apple", "samsung", "huawei", "xiaomi", "google", "oneplus", "oppo", "vivo", "honor", "motorola", "realme")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClinicImages:
    """The readable images of a folder, and what was not taken of it."""

    dataset: Dataset
    """In the schema of `schema.FEATURES` or `BINARY_FEATURES`, without the label where there are none; near duplicates
    are in one group."""
    labelled: bool
    files: int
    """Images in the folder, whatever became of them."""
    unreadable: list[str]
    without_label: int
    other_kinds: dict[str, int]
    """Images left out by what their table calls them: a diagnosis that is none of the nine, another kind of picture."""
    under_two_labels: int
    copies: int
    """Files that are, byte for byte, another one of the folder."""
    phones: int
    """Images that the camera of a telephone has made, by their EXIF."""


def load(folder: Path, labels: Path | None = None, columns: Columns | None = None) -> ClinicImages:
    """The images of a folder, with the labels of a table, or with what the folder itself says, or without.

    Raises:
        UsageError: there is no such folder or table, no image in it, or a table that cannot be used.
    """
    files = count_files(folder, labels)
    columns = columns or Columns()
    labelled = labels is not None or folder_layout.say_diagnoses(folder, columns)
    if labelled:
        reading = Reading(columns=columns, label_file=labels, stand_ins=True, shortcuts=True)
        loaded = loading.load([str(folder)], reading, labels=None)
    else:
        loaded = loading.load_unlabelled(folder, Reading(columns=columns))
    columns.check()
    linked = near_duplicates.link(loaded.dataset)
    dataset, dropped, copies, n = linked, 0, 0, len(linked)
    if labelled:
        dataset, report = label_repair.repair(linked, "drop-conflicts")
        dropped, copies = sum(report.dropped.values()), report.copies
    others = {word: n for fields in loaded.left_out.values() for each in fields.values() for word, n in each.items()}
    return ClinicImages(
        dataset=dataset,
        labelled=labelled,
        files=files,
        unreadable=list(loaded.unreadable),
        without_label=max(files - n - len(loaded.unreadable) - sum(others.values()), 0) if labelled else n,
        other_kinds=others,
        under_two_labels=dropped,
        copies=copies,
        phones=_count_phones(dataset),
    )


def count_files(folder: Path, labels: Path | None) -> int:
    """The number of images in a folder; what is no folder or no file of labels is refused."""
    if not folder.is_dir():
        raise UsageError(f"'{folder}' is no folder: name one that holds the clinic's images.")
    if labels is not None and not labels.is_file():
        raise UsageError(f"--labels '{labels}' is no file: name a table with a row an image (CSV).")
    files = folder_files.sort_files(folder)
    if not files.images:
        inside = f" but {len(files.others):,} other files" if files.others else ""
        raise UsageError(f"'{folder}' has no images{inside}: put JPEG, PNG, TIFF, BMP or WebP files there.")
    return len(files.images)


def _count_phones(dataset: Dataset) -> int:
    """The images whose EXIF names a maker of telephones; only their headers are read."""
    encoded = dataset.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
    return sum(_is_of_phone(row["image"]) for row in encoded)


def _is_of_phone(image: Json) -> bool:
    try:
        with Image.open(image["path"] if image["bytes"] is None else io.BytesIO(image["bytes"])) as opened:
            maker = str(opened.getexif().get(_MAKE, "")).lower()
    except (OSError, ValueError, SyntaxError):  # a damaged header says nothing of a camera
        return False
    return maker.startswith(_PHONES)
