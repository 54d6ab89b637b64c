"""Build `dermalert/data/isic9.csv`, the archive's metadata of the images of the nine-class set, and check them.

    python scripts/build_isic9.py METADATA

METADATA is a folder with `isic9_index.csv` (which images the set has, and the archive's diagnosis of each),
`isic9_near_duplicate_pairs.csv`, and what they are checked against: HAM10000_metadata.csv, the ISIC 2017 and 2019
ground truths and metadata, and the archive's diagnosis list.

Age, sex and site come from HAM10000, ISIC 2019 and ISIC 2017 alone. The archive's diagnosis list has them for every
image, but wherever the official files say "unknown" it says 50 or 55 and female: those are fillings.
"""

import csv
import sys
from collections import Counter
from pathlib import Path

from dermalert import taxonomy
from dermalert.data.isic9 import TABLE
from dermalert.data.table_cells import age_of, confirmation_of, label_of, sex_of, site_of

COLUMNS = ("image_id", "diagnosis", "lesion_id", "age", "sex", "site", "confirmation")


def main(folder: Path) -> None:
    """Write the table, and print what it was checked against."""
    archive = {row["isic_id"]: row["archive_class"] for row in read(folder / "isic9_index.csv")}
    check(archive, folder)
    official = official_metadata(folder)
    lesions = same_photograph(folder)
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for image_id in sorted(archive):
            row = {"image_id": image_id, "diagnosis": archive[image_id], "lesion_id": lesions.get(image_id)}
            writer.writerow(row | official.get(image_id, {}))
    written = list(read(TABLE))
    print(f"{TABLE}: {len(written)} images; {dict(sorted(Counter(row['diagnosis'] for row in written).items()))}")
    print("known:", {name: sum(bool(row[name]) for row in written) for name in COLUMNS[2:]})


def check(archive: dict[str, str], folder: Path) -> None:
    """Compare the archive's diagnoses with each official list, and stop at the first that disagrees."""
    lists = {
        "the archive's diagnosis list": [("isic_archive_diagnosis_41725.csv", "name")],
        "HAM10000": [("HAM10000_metadata.csv", "image_id")],
        "ISIC 2017": [(f"ISIC-2017_{part}_Part3_GroundTruth.csv", "image_id") for part in ("Training", "Validation")],
        "ISIC 2019": [("ISIC_2019_Training_GroundTruth.csv", "image")],
    }
    for name, files in lists.items():
        compared = 0
        for file, key in files:
            for row in read(folder / file):
                if row[key] in archive:
                    compared += 1
                    ours = archive[row[key]]
                    assert taxonomy.find(label_of(row), archive_label=ours) == ours, (name, row, ours)
        print(f"{name}: {compared} images in common, all of the same diagnosis")


def official_metadata(folder: Path) -> dict[str, dict]:
    """Lesion, age, sex, site and confirmation by image, of the most detailed official list that has them."""
    metadata: dict[str, dict] = {}
    for file in (
        "ISIC_2019_Training_Metadata.csv",
        "HAM10000_metadata.csv",
        "ISIC-2017_Training_Data_metadata.csv",
        "ISIC-2017_Validation_Data_metadata.csv",
    ):
        for row in read(folder / file):
            cells = {"lesion_id": row.get("lesion_id"), "age": age_of(row), "sex": sex_of(row), "site": site_of(row)}
            cells["confirmation"] = confirmation_of(row)
            before = metadata.setdefault(row.get("image_id") or row.get("image"), {})
            for name, value in cells.items():
                if value:
                    assert name == "site" or before.get(name, value) == value, (file, row, before)
                    before.setdefault(name, value)
    for cells in metadata.values():
        if "age" in cells:
            cells["age"] = f"{cells['age']:g}"
    return metadata


def same_photograph(folder: Path) -> dict[str, str]:
    """The lesion, called by its first number, of each image that the archive holds under two."""
    pairs = [(row["id_a"], row["id_b"]) for row in read(folder / "isic9_near_duplicate_pairs.csv")]
    return {image_id: a for a, b in pairs for image_id in (a, b)}


def read(path: Path):
    """Yield the rows of a CSV file."""
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
