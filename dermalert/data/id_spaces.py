"""Whose the ids of a folder are: `patient_1` of two clinics is two people, of two parts of one data set it is one."""

import logging
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dermalert.data.identifiers import clean

logger = logging.getLogger(__name__)

_EVERYBODYS = set(
    """all archive class classes crops data dataset datasets dermoscopy export exports files folder image images img
    imgs input inputs jpeg jpg main photo photos pic pics picture pictures png raw source sources split splits test
    testing train training val valid validation v version final new old copy""".split()  # noqa: SIM905
)

PARTS_OF_A_SPLIT = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


def home(root: Path) -> Path:
    """Return whose a folder's ids are: the nearest folder whose name is not one that everybody uses, as `images_2024`.

    Two folders of one clinic, `clinic/train` and `clinic/test`, have one; `images` of two clinics have two.
    """
    folder = root.resolve()
    for one in (folder, *folder.parents):
        if not _EVERYBODYS.issuperset(words_of(one.name)):
            return one
    return folder


def owners(roots: Iterable[Path]) -> dict[Path, tuple[Path, int]]:
    """Return for each of the folders that are given together whose its ids are, and how many last names tell it.

    Folders of one home are different people's, however they are called: each has its own. Only the parts of one split,
    `clinic/train` and `clinic/test_2024`, share their home's.
    """
    homes = {root.resolve(): home(root) for root in roots}
    parts: dict[tuple[Any, ...], list[tuple[str, ...]]] = {}
    of: dict[Path, tuple[Any, ...]] = {}
    for root, place in homes.items():
        below = root.relative_to(place).parts
        splits = tuple(name for name in below if PARTS_OF_A_SPLIT.intersection(words_of(name)))  # `train_images`
        of[root] = (place, tuple(name for name in below if name not in splits))
        words = tuple(word for name in splits for word in words_of(name) if word in PARTS_OF_A_SPLIT)
        parts.setdefault(of[root], []).append(words)
    owner_of = {}
    for root, place in homes.items():
        beside = parts[of[root]]
        one = place.joinpath(*of[root][1]) if len(set(beside)) == len(beside) > 1 else root
        alone = sum(other == place for other in homes.values()) == (len(beside) if one != root else 1)
        owner_of[root] = (place, 1) if alone else (one, len(one.relative_to(place).parts) + 1)
    return owner_of


def words_of(name: str) -> list[str]:
    """The words of a folder's name, in small letters."""
    return re.findall(r"[^\W\d_]+", name.casefold())


def spaces_of(names: Iterable[str], beside: Iterable[str]) -> dict[str, str]:
    """Return for each folder whose its ids are: a name that no other folder has, with as many folders above as needed.

    One that stands alone is called by its name only, so that the key of its patients' groups is that of ever.
    """
    names = [name for name in names if Path(name).is_dir()]
    owner_of = owners(Path(name) for name in (*names, *beside) if Path(name).is_dir())
    spaces, shared, apart = {}, defaultdict(set), []
    for name in names:
        owner, depth = owner_of[Path(name).resolve()]
        apart += [clean(name)] * (depth > 1)
        others = {other.parts for other, _ in owner_of.values()} - {owner.parts}
        while any(other[-depth:] == owner.parts[-depth:] for other in others):
            depth += 1
        spaces[name] = clean("/".join(owner.parts[-depth:]))
        shared[spaces[name]].add(Path(name).resolve())
    for space, namesakes in shared.items():
        if len(namesakes) > 1:
            each = ", ".join(sorted(f"'{folder.name}'" for folder in namesakes))
            logger.warning("%s are parts of one split: patients of equal ids there are one of '%s'", each, space)
    if apart:
        logger.warning(
            "%s count as different people's: put what is of one clinic into one folder",
            ", ".join(f"'{name}'" for name in apart),
        )
    return spaces
