"""A data set as the checks of an audit read it, and how they say what they find."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cached_property
from typing import Any, TypedDict, cast

import datasets
from dermalert_space.contract import Json

from dermalert import taxonomy
from dermalert.data import copies, isic9, near_duplicates
from dermalert.imaging import thumbnail
from dermalert.taxonomy import MALIGNANCIES

CONTENT, IDS, METADATA, ARCHIVE = "content", "image ids", "metadata", "facts table"
"""Where a finding can come from: the files, their names, what the data set says of them, `isic9.csv`."""

NO_SPLIT = "no test split is shipped"


class Finding(TypedDict):
    """How often an offence occurs, as the report has it; some kinds have more keys."""

    found: bool
    count: int | None
    """None where the data set cannot tell, such as leaks where no test split is shipped."""
    of: int
    unit: str
    known_from: str
    text: str
    cases: list[Json]
    """Each with its `images`, and what else there is to say of it."""


class Rows:
    """The columns of a data set as lists, and what the checks share; `i` is always a row."""

    def __init__(self, dataset: datasets.Dataset, pairs: near_duplicates.Pairs, across: copies.Copies):
        self.dataset, self.pairs, self.across = dataset, pairs, across
        self.content, self.image_id = dataset["content"][:], dataset["image_id"][:]
        self.names = dataset.features["label"].names
        self.label = [None if label is None else self.names[label] for label in dataset["label"][:]]
        self.source, self.split = dataset["source"][:], dataset["shipped_split"][:]
        self.archive_rows = list(map(isic9.metadata_of, self.image_id))
        columns = zip(dataset["lesion_id"][:], self.archive_rows, strict=True)
        self.lesion = [own or row.get("lesion_id") for own, row in columns]
        self.patient = dataset["patient_id"][:]
        self.named = dataset["named"][:] if "named" in dataset.column_names else []

    def __len__(self) -> int:
        return len(self.label)

    @property
    def binary(self) -> bool:
        """Whether the labels are benign and malignant."""
        return self.names == list(MALIGNANCIES)

    def archive(self, i: int) -> str | None:
        """The archive's label of a row, where its table has it."""
        diagnosis = self.archive_rows[i].get("diagnosis")
        return taxonomy.malignancy(diagnosis) if diagnosis and self.binary else diagnosis

    @cached_property
    def copies(self) -> dict[str, list[int]]:
        """The rows of each different content."""
        return positions_of(self.content)

    @cached_property
    def fingerprints(self) -> thumbnail.Fingerprints:
        """The images' thumbnails and sizes."""
        return thumbnail.fingerprints(self.dataset)

    @cached_property
    def near(self) -> list[tuple[int, int, Json]]:
        """Pairs of rows, the first of each different content, and how alike they are."""
        pairs = self.pairs
        columns = (pairs.first.tolist(), pairs.second.tolist(), pairs.similarity.tolist(), pairs.turn.tolist())
        return [
            (first, second, {"similarity": round(similarity, 4), "turn": turn})
            for first, second, similarity, turn in zip(*columns, strict=True)
        ]

    @cached_property
    def ships_splits(self) -> bool:
        """Whether the source ships a training and a test split."""
        return {"train", "test"} <= set(self.split)

    def of(self, split: str) -> list[int]:
        """The rows of a shipped split."""
        return [i for i, part in enumerate(self.split) if part == split]

    def labels_of(self, content: str) -> set[str]:
        """The labels under which a content stands."""
        return {label for i in self.copies[content] if (label := self.label[i])}

    def image(self, i: int) -> Json:
        """What a report says of a row."""
        description = {"row": int(i), "image_id": self.image_id[i], "label": self.label[i], "source": self.source[i]}
        description |= {"shipped_split": self.split[i]} if self.split[i] else {}
        return description | ({"named": self.named[i]} if len(set(self.named)) > 1 else {})

    def case(self, members: Iterable[int], **more: Any) -> Json:
        """An offence, and the images that commit it."""
        return {"images": [self.image(i) for i in members], **more}


def positions_of(keys: Iterable[Any]) -> dict[Any, list[int]]:
    """The positions of each key, without None."""
    positions = defaultdict(list)
    for i, key in enumerate(keys):
        if key is not None:
            positions[key].append(i)
    return dict(positions)


def finding(text: str, cases: list[Json], *, of: int, unit: str, known_from: str, **more: Any) -> Finding:
    """A finding as the report has it; `found` and `count` follow from the cases unless they are given."""
    count = more.pop("count", len(cases))
    is_found = more.pop("found", bool(count))
    report = {"found": is_found, "count": count, "of": of, "unit": unit, "known_from": known_from, "text": text}
    return cast(Finding, report | more | {"cases": cases})


def cannot_tell(why: str, *, unit: str, known_from: str) -> Finding:
    """A finding of which the data set does not say whether it is there, and why."""
    return finding(why, [], count=None, found=False, of=0, unit=unit, known_from=known_from)


def training_rows(rows: Rows, members: Iterable[int]) -> list[int]:
    """Those of the rows that are shipped for training."""
    return [i for i in members if rows.split[i] == "train"]


def lesion_origin(rows: Rows, members: Iterable[int]) -> str:
    """Whether the archive's table alone names the lesions of these rows."""
    return ARCHIVE if all(rows.archive_rows[i].get("lesion_id") for i in members) else METADATA


def counts_text(counter: Counter[str]) -> str:
    """Counts in a line, the largest first."""
    return ", ".join(f"{n} {name}" for name, n in counter.most_common())
