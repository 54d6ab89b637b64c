"""What is known of the 2202 images of the nine-class set, from the ISIC archive and the official ground truths.

`isic9.csv` is built, and checked against those ground truths, by `scripts/build_isic9.py`. Metadata only: no image.
"""

import csv
import functools
from pathlib import Path

from datasets import Dataset
from dermalert_space.contract import Json

from dermalert import taxonomy
from dermalert.data.identifiers import archive_number

TABLE = Path(__file__).parent / "isic9.csv"


@functools.cache
def metadata() -> dict[str, Json]:
    """By ISIC id `diagnosis`, `lesion_id`, `age` (years), `sex`, `site`, `confirmation`; None for what is not known."""
    with TABLE.open(newline="") as file:
        rows = [{name: value or None for name, value in row.items()} for row in csv.DictReader(file)]
    return {str(row.pop("image_id")): row | {"age": float(row["age"]) if row["age"] else None} for row in rows}


def metadata_of(image_id: str) -> Json:
    """The row of `metadata` of an image, by the archive's number in its id; empty for an image of another set."""
    number = archive_number(image_id)
    return metadata().get(number, {}) if number else {}


def diagnosis(image_id: str) -> str | None:
    """The archive's diagnosis of an image of the nine-class set."""
    return metadata_of(image_id).get("diagnosis")


def archive_labels(dataset: Dataset) -> list[int]:
    """The label of each image: the archive's where the table knows it, else the data set's own."""
    feature = dataset.features["label"]
    if feature.names == list(taxonomy.ISIC_2025):  # whose squamous cell carcinomas the table does not tell apart
        return dataset["label"][:]
    find = taxonomy.malignancy if feature.names == list(taxonomy.MALIGNANCIES) else taxonomy.find
    archive = [diagnosis(image_id) for image_id in dataset["image_id"][:]]
    return [feature.str2int(find(a)) if a else label for a, label in zip(archive, dataset["label"][:], strict=True)]
