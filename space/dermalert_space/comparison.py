"""Other releases of the same Hub repository, beside the one that is served: on an image, and on what both held out."""

import dataclasses
import hashlib
import math
import re
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from huggingface_hub import HfApi

from dermalert_space import checks
from dermalert_space.contract import EXPOSURE, PREDICTIONS
from dermalert_space.release import NoRelease, Release


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
        """Return the tags of the repository, the newest first, without the served one.

        Raises:
            NotThere: the Hub cannot be asked.
        """
        try:
            found = [ref.name for ref in HfApi().list_repo_refs(self.served.name).tags]
        except Exception as error:  # of the Hub, of the line to it, of the system: not one type
            raise NotThere("The Hub cannot be asked for other versions just now.") from error
        return sorted((tag for tag in found if tag != self.served.revision), key=_in_order, reverse=True)

    def get(self, tag: str) -> Release:
        """Return the release of a tag, loaded where it is not the last one that was asked for.

        Raises:
            NotThere: there is no such tag, it is no release, or answers otherwise than it was measured.
        """
        with self._lock:
            if self._other is None or self._other.revision != tag:
                self._other = None  # two in memory, not three
                self._other = self._loaded(tag)
            return self._other

    def _loaded(self, tag: str) -> Release:
        if tag not in self.tags():
            raise NotThere(f"{self.served.name} has no tag {tag}.")
        try:
            release = Release.load(self.served.name, tag)
            release.verify_parity()
        except NoRelease as error:
            raise NotThere(f"{tag} cannot be compared: {error}") from error
        return release


def _in_order(tag: str) -> list[tuple[int, str]]:
    """Return what sorts v1.10.0 after v1.9.0."""
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


def compare(served: Release, other: Release) -> Compared:
    """Return how the served release differs from another one on what both held out.

    As `python -m dermalert compare` does: an image counts where it can be told from all others, neither release has
    learnt from it or its lesion, and both have it under the same label. What a release declines raises no alert.

    Raises:
        NotThere: one of them has no predictions, or no threshold.
    """
    tables, seen = [_held_out(release) for release in (other, served)], [_seen(release) for release in (other, served)]
    both = [(tables[0][key], tables[1][key]) for key in tables[1] if key in tables[0]]
    fair = [pair for pair in both if pair[0]["truth"] == pair[1]["truth"] and not _learnt(pair, seen)]
    alerts, attentions, top = [], [], []
    for release, rows in zip((other, served), zip(*fair, strict=True) if fair else ([], []), strict=True):
        probabilities = np.array([[row[label] for label in release.labels] for row in rows], np.float32)
        probabilities = probabilities.reshape(-1, len(release.labels))
        declined = np.array([row["refused"] for row in rows], bool)
        for flags, raised in ((alerts, release.alerts), (attentions, release.attentions)):
            flags.append(None if (flag := raised(probabilities)) is None else flag & ~declined)
        top.append(np.array([release.labels[i] for i in probabilities.argmax(1)], object))
    if any(found is None for found in alerts):
        raise NotThere("One of the two has no alert threshold: there is nothing to compare.")
    ids = np.array([row["image_id"] for row, _ in fair], object)
    watched = np.array([row["truth"] == served.alert_label for row, _ in fair], bool)
    (old, new), left = alerts, lambda chosen: ids[chosen].tolist()
    return Compared(
        images=len(fair),
        watched=int(watched.sum()),
        flagged=(int((old & watched).sum()), int((new & watched).sum())),
        false=(int((old & ~watched).sum()), int((new & ~watched).sum())),
        won=left(new & ~old & watched),
        lost=left(old & ~new & watched),
        false_new=left(new & ~old & ~watched),
        false_gone=left(old & ~new & ~watched),
        diagnoses=int((top[0] != top[1]).sum()),
        left_out=len(both) - len(fair),
        unknown=[str(release) for release, known in zip((other, served), seen, strict=True) if not known],
        **_attended(served, [row["truth"] for row, _ in fair], attentions),
    )


def _attended(served: Release, truth: list[str], attentions: list[np.ndarray | None]) -> dict:
    """Return what `Compared` says of the points of attention."""
    if any(flags is None for flags in attentions):
        return {}
    among = np.array([label in served.attention.labels for label in truth], bool)
    old, new = (flags & among for flags in attentions)
    return {
        "malignant": int(among.sum()),
        "attended": (int(old.sum()), int(new.sum())),
        "attended_alone": (int((old & ~new).sum()), int((new & ~old).sum())),
    }


def _held_out(release: Release) -> dict[tuple[str, str], dict]:
    """Return the held-out images of a release with its answers, without those that cannot be told from another."""
    path = _table(release, PREDICTIONS)
    if path is None:
        raise NotThere(f"{release} does not say what it answers to its evaluation images.")
    columns = {"image_id", "source", "group", "split", "truth", "refused", *release.labels}
    if lacking := sorted(columns - set(pq.read_schema(path).names)):
        raise NotThere(f"{PREDICTIONS} of {release} has no column '{lacking[0]}'.")
    rows = pq.read_table(path, filters=[("split", "==", "held_out")]).to_pylist()
    keys = Counter((row["image_id"], row["source"]) for row in rows)
    return {key: row for row in rows if keys[key := (row["image_id"], row["source"])] == 1}


def _table(release: Release, name: str) -> Path | None:
    """Return where a table of a release lies, if it has one.

    Raises:
        NotThere: it is damaged, or unpacks to more than there is room for.
    """
    try:
        path = release.file(name)
        if path is not None:
            checks.table(path)
        return path
    except (NoRelease, checks.Unfit) as error:
        raise NotThere(f"{name} of {release} cannot be read: {error}.") from error


def _seen(release: Release) -> set[str]:
    path = _table(release, EXPOSURE)
    return set() if path is None else set(pq.read_table(path, columns=["name"])["name"].to_pylist())


def _learnt(pair: tuple[dict, dict], seen: list[set[str]]) -> bool:
    """Tell whether a release is known to have learnt from an image or its group, by hashes as its list has them."""
    names = {row["group"] for row in pair}
    if number := re.fullmatch(r"(ISIC_\d{7})(_downsampled)?", pair[1]["image_id"]):
        names.add(hashlib.sha256(number[1].encode()).hexdigest()[:16])
    return any(names & known for known in seen)


def chance(gained: int, lost: int) -> float:
    """Return how probable so uneven a split is by chance: McNemar's exact test, two-sided."""
    n = gained + lost
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(min(gained, lost) + 1)) / 2**n)
