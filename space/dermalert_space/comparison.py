"""Other releases of the same Hub repository, beside the one that is served: on an image, and on what both held out."""

import dataclasses
import hashlib
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi

from dermalert_space import checks
from dermalert_space.contract import ABSTAINED, EXPOSURE, PREDICTIONS
from dermalert_space.prediction import likeliest
from dermalert_space.release import Release
from dermalert_space.release_loading import NoRelease


class NotThere(ValueError):
    """The Hub or a release of it cannot be had; the text says which and why."""


class Shelf:
    """The releases of a repository: the served one, and at most one other in memory."""

    def __init__(self, served: Release):
        self.served = served
        self._other: Release | None = None
        self._lock = threading.Lock()

    @property
    def on_the_hub(self) -> bool:
        """Whether there can be others: a folder is one release alone."""
        return not Path(self.served.name).is_dir()

    def tags(self) -> list[str]:
        """The tags of the repository, the newest first, without the served one."""
        try:
            tags = [ref.name for ref in HfApi().list_repo_refs(self.served.name).tags]
        except Exception as error:  # of the Hub, of the line to it, of the system: not one type
            raise NotThere("The Hub cannot be asked for other versions just now.") from error
        return sorted((tag for tag in tags if tag != self.served.revision), key=_in_order, reverse=True)

    def get(self, tag: str) -> Release:
        """The release of a tag, loaded where it is not the one before; NotThere where it cannot be compared."""
        with self._lock:
            if self._other is None or self._other.revision != tag:
                self._other = None  # two in memory, not three
                if tag not in self.tags():
                    raise NotThere(f"{self.served.name} has no tag {tag}.")
                try:
                    release = Release.load(self.served.name, tag)
                    release.verify_parity()
                except NoRelease as error:
                    raise NotThere(f"{tag} cannot be compared: {error}") from error
                self._other = release
            return self._other


def _in_order(tag: str) -> list[tuple[int, str]]:
    """What sorts v1.10.0 after v1.9.0."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", tag) if part]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """Two releases on the images that were held out of both: the one that is served against another."""

    images: int
    watched: int
    """How many of these images show what the alert is for."""
    flagged: tuple[int, int]
    """Of those, with an alert: by the other release, by the served one."""
    false: tuple[int, int]
    """Of the rest."""
    won: list[str]
    """Ids of images that show what the alert is for, and that the served release flags and the other does not."""
    lost: list[str]
    """The other way round."""
    false_new: list[str]
    false_gone: list[str]
    diagnoses: int
    """Images whose likeliest diagnosis is another."""
    left_out: int
    """Held out of both but not compared: known to one by what it learnt from, or under another label."""
    unknown: list[str]
    """Releases that do not say what they have learnt from."""
    malignant: int = 0
    """How many of these images show what the served release asks for attention to."""
    attended: tuple[int, int] | None = None
    """Of those, at or above the point of attention of the other, and of the served one; None where one has none."""
    attended_alone: tuple[int, int] = (0, 0)
    """Of those, only by the other, and only by the served one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What a release predicted of the images that were held out of it."""

    rows: pa.Table
    """Of `predictions.parquet`."""
    exposure: Collection[str]
    """Hashed names of what it was trained on; empty where that is not known."""


class Pairs(NamedTuple):
    """Images held out of two releases, the old one first, that can be compared; and how many cannot, by reason."""

    old: pa.Table
    new: pa.Table
    """Row by row the same image."""
    exposed: int
    """Known to one of them by what it was trained on."""
    relabelled: int
    """Under another label."""


def _archive_number(image_id: str) -> str | None:
    number = re.fullmatch(r"(ISIC_\d{7})(_downsampled)?", image_id)
    return number[1] if number else None


def pair(old: HeldOut, new: HeldOut, archive_number: Callable[[str], str | None] = _archive_number) -> Pairs:
    """Pair the predictions of two releases, of images that are distinct from all others.

    `archive_number` gives the archive's number of an image by its id.
    """
    exposure = {*old.exposure, *new.exposure}
    before, after = (side.rows.select(["group", "truth"]).to_pydict() for side in (old, new))
    places, rows, exposed, relabelled = _places(old.rows), [], 0, 0
    for key, j in _places(new.rows).items():
        if (i := places.get(key)) is None:
            continue
        number = archive_number(key[0])
        names = {before["group"][i], after["group"][j]} | (
            {hashlib.sha256(number.encode()).hexdigest()[:16]} if number else set()
        )
        if names & exposure:
            exposed += 1
        elif before["truth"][i] != after["truth"][j]:
            relabelled += 1
        else:
            rows.append((i, j))
    chosen = np.array(rows, int).reshape(-1, 2).T
    return Pairs(old.rows.take(chosen[0]), new.rows.take(chosen[1]), exposed, relabelled)


def _places(rows: pa.Table) -> dict[tuple[str, str], int]:
    """The row of each image that is distinct from all others."""
    keys = list(zip(rows["image_id"].to_pylist(), rows["source"].to_pylist(), strict=True))
    often = Counter(keys)
    return {key: i for i, key in enumerate(keys) if often[key] == 1}


def compare(served: Release, other: Release) -> Compared:
    """Compare the served release with another one on what both held out; an abstention raises no alert."""
    held_out = [_held_out(release) for release in (other, served)]
    pairs = pair(held_out[0], held_out[1])
    (old, old_attention, old_top), (new, new_attention, new_top) = (
        _served(release, rows) for release, rows in ((other, pairs.old), (served, pairs.new))
    )
    if old is None or new is None:
        raise NotThere("One of the two has no alert threshold: there is nothing to compare.")
    ids, truth = pairs.new["image_id"].to_numpy(), pairs.new["truth"].to_pylist()
    watched = np.array([label == served.alert_label for label in truth], bool)

    return Compared(
        images=len(truth),
        watched=int(watched.sum()),
        flagged=(int((old & watched).sum()), int((new & watched).sum())),
        false=(int((old & ~watched).sum()), int((new & ~watched).sum())),
        won=ids[new & ~old & watched].tolist(),
        lost=ids[old & ~new & watched].tolist(),
        false_new=ids[new & ~old & ~watched].tolist(),
        false_gone=ids[old & ~new & ~watched].tolist(),
        diagnoses=int((old_top != new_top).sum()),
        left_out=pairs.exposed + pairs.relabelled,
        unknown=[str(r) for r, side in zip((other, served), held_out, strict=True) if not side.exposure],
        **_attended(served, truth, old_attention, new_attention),
    )


def _served(release: Release, rows: pa.Table) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray]:
    """Whether each image raises the alert, whether it asks for attention, and its likeliest diagnosis."""
    columns = [rows[label].to_numpy().astype(np.float32) for label in release.labels]
    probabilities, abstained = np.stack(columns, axis=1), rows[ABSTAINED].to_numpy().astype(bool)
    flags = release.alerts(probabilities), release.attentions(probabilities)
    alert, attention = (None if flag is None else flag & ~abstained for flag in flags)
    return alert, attention, np.array([*release.labels, ""], object)[likeliest(probabilities)]


def _attended(served: Release, truth: list[str], old: np.ndarray | None, new: np.ndarray | None) -> dict[str, Any]:
    """What `Compared` says of the points of attention."""
    if served.attention is None or old is None or new is None:
        return {}
    labels = served.attention.labels
    among = np.array([label in labels for label in truth], bool)
    old, new = old & among, new & among
    return {
        "malignant": int(among.sum()),
        "attended": (int(old.sum()), int(new.sum())),
        "attended_alone": (int((old & ~new).sum()), int((new & ~old).sum())),
    }


def _held_out(release: Release) -> HeldOut:
    path, exposure = _table(release, PREDICTIONS), _table(release, EXPOSURE)
    if path is None:
        raise NotThere(f"{release} does not say what it answers to its evaluation images.")
    columns = ["image_id", "source", "group", "split", "truth", ABSTAINED, *release.labels]
    if lacking := sorted(set(columns) - set(pq.read_schema(path).names)):
        raise NotThere(f"{PREDICTIONS} of {release} has no column '{lacking[0]}'.")
    names = [] if exposure is None else pq.read_table(exposure, columns=["name"])["name"].to_pylist()
    rows = pq.read_table(path, columns=columns, filters=[("split", "==", "held_out")])
    return HeldOut(rows=rows, exposure=set(names))


def _table(release: Release, name: str) -> Path | None:
    """The path of a table of a release, if it has one; NotThere where it is damaged or unpacks to too much."""
    try:
        if path := release.file(name):
            checks.table(path)
        return path
    except (NoRelease, checks.Unfit) as error:
        raise NotThere(f"{name} of {release} cannot be read: {error}.") from error


def chance(gained: int, lost: int) -> float:
    """How probable so uneven a split is by chance: McNemar's exact test, two-sided."""
    n = gained + lost
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(min(gained, lost) + 1)) / 2**n)
