"""Which of the nine diagnoses each class of anyone's checkpoint covers: by its name, or by a label map."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from dermalert import taxonomy
from dermalert.errors import UsageError, did_you_mean
from dermalert.taxonomy import ALERT, DIAGNOSES, MALIGNANT

_BENIGN = frozenset(DIAGNOSES) - MALIGNANT
_NOT_MELANOMA = frozenset(DIAGNOSES) - {ALERT}
_GROUPS = {
    "malignant": MALIGNANT,
    "benign": _BENIGN,
    "not melanoma": _NOT_MELANOMA,
    "non melanoma": _NOT_MELANOMA,
    "no melanoma": _NOT_MELANOMA,
} | taxonomy.MIXED
"""Names of classes that cover several of the nine; a label map may also list them, joined by ` + `."""

_OF_NEVI = frozenset({"auroc_nevi", "specificity_nevi", "specificity_nevi_at_sensitivity"})
_OF_THE_NINE = frozenset({"balanced_accuracy_benign_keratosis_merged", "malignant", "subgroup_sensitivity"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classes:
    """What the classes of a checkpoint cover, in the order of its logits; nothing for one that is to be left out."""

    names: tuple[str, ...]
    covers: tuple[frozenset[str], ...]

    @property
    def first(self) -> list[int | None]:
        """The label id that stands for each class: melanoma where it covers it, else the first that it covers."""
        return [
            None if not covered else DIAGNOSES.index(ALERT if ALERT in covered else min(covered))
            for covered in self.covers
        ]

    @property
    def positive(self) -> str:
        """What the class that covers melanoma stands for."""
        covered = next(covered for covered in self.covers if ALERT in covered)
        return ALERT if covered == {ALERT} else "malignant" if covered == MALIGNANT else " + ".join(sorted(covered))

    def truth(self, labels: Iterable[int]) -> np.ndarray:
        """Return the label id of the class that covers each diagnosis, -1 where none does."""
        of = {name: label for label, covered in zip(self.first, self.covers, strict=True) for name in covered}
        return np.array([of.get(DIAGNOSES[label], -1) for label in labels], int)

    def as_malignancies(self) -> "Classes":
        """Return the same for truths that say benign or malignant; a class is what half of its diagnoses are."""
        halves = [None if not covered else 2 * len(covered & MALIGNANT) >= len(covered) for covered in self.covers]
        covers = [frozenset() if half is None else MALIGNANT if half else _BENIGN for half in halves]
        return Classes(names=self.names, covers=tuple(covers))

    def named(self, figures: dict) -> dict:
        """Return the figures of a split under the checkpoint's names, without what its classes cannot tell.

        That is diagnoses that no class covers, nevi where no class is theirs alone, and the nine with both benign
        keratoses as one where the classes are others. The melanomas of a subgroup are called `positives`.
        """
        figures = _without(figures, self._untold)
        used = sorted({label for label in self.first if label is not None})
        name_of = {label: name for name, label in zip(self.names, self.first, strict=True) if label is not None}
        name_of |= {DIAGNOSES.index(ALERT): self.positive}
        per_class = {name_of[label]: figures["per_class"][DIAGNOSES[label]] for label in used}
        confusion = np.array(figures["confusion"])[np.ix_(used, used)].tolist()
        rest = {key: value for key, value in figures.items() if key != ALERT}
        rest |= {"per_class": per_class, "confusion": confusion, "subgroups": _with_positives(figures["subgroups"])}
        rest["calibration"] = {self.positive if key == ALERT else key: v for key, v in figures["calibration"].items()}
        return rest | {self.positive: figures[ALERT]}

    @property
    def _untold(self) -> frozenset[str]:
        """The figures that these classes leave without their meaning."""
        nine = set(self.covers) == {frozenset({name}) for name in DIAGNOSES}
        nevi = frozenset({"nevus"}) in self.covers
        return (frozenset() if nevi else _OF_NEVI) | (frozenset() if nine else _OF_THE_NINE)

    def spread(self, probabilities: np.ndarray) -> np.ndarray:
        """Return a checkpoint's probabilities (n, its classes) as (n, 9), each class in the column that stands for it.

        What it gives to classes that are left out is shared among the others.
        """
        spread = np.zeros((len(probabilities), len(DIAGNOSES)))
        for column, label in zip(probabilities.T, self.first, strict=True):
            if label is not None:
                spread[:, label] += column
        return spread / np.maximum(spread.sum(1, keepdims=True), 1e-12)


def _without(figures: dict, keys: frozenset[str]) -> dict:
    """Return the figures without these keys, at any depth."""
    kept = {key: value for key, value in figures.items() if key not in keys}
    return {key: _without(value, keys) if isinstance(value, dict) else value for key, value in kept.items()}


def _with_positives(subgroups: dict) -> dict:
    """Return the figures of subgroups with their `melanomas` called `positives`."""

    def renamed(figures: dict) -> dict:
        return {"positives" if key == "melanomas" else key: value for key, value in figures.items()}

    return {
        kind: told | {"of": {name: renamed(figures) for name, figures in told["of"].items()}} if "of" in told else told
        for kind, told in subgroups.items()
    }


def classes(names: Iterable[str], label_map: Mapping[str, str | None] | None = None) -> Classes:
    """Return what the classes of a checkpoint cover, by their names or by a label map.

    Args:
        names: the checkpoint's, in the order of its logits.
        label_map: a class's name and what it covers: a diagnosis in any source's words, several joined by ` + `,
            `malignant`, `benign` or `not melanoma`; None leaves the class out. Classes it does not name keep their own.

    Raises:
        UsageError: a name says nothing that is known, two classes cover one diagnosis, or none covers melanoma.
    """
    names, label_map = tuple(names), dict(label_map or {})
    for name in label_map:
        if name not in names:
            raise UsageError(f"the model has no class '{name}'.{did_you_mean(name, names)} It has: {', '.join(names)}.")
    asked = [label_map.get(name, name) for name in names]
    found = [frozenset() if said is None else _covered(name, said) for name, said in zip(names, asked, strict=True)]
    found = _with_the_rest(found)
    twice = sorted(name for name, n in Counter(name for covered in found for name in covered).items() if n > 1)
    if twice:
        raise UsageError(f"several classes of the model stand for {', '.join(twice)}: leave one out with --label-map.")
    if not any(ALERT in covered for covered in found):
        raise UsageError(f"no class of the model stands for {ALERT} ({', '.join(names)}): say which with --label-map.")
    return Classes(names=names, covers=tuple(found))


def _covered(name: str, said: str) -> frozenset[str]:
    parts: list[frozenset[str]] = []
    for part in said.split(" + "):
        group = _GROUPS.get(taxonomy.plain(part))
        try:
            diagnosis = taxonomy.find(part)
            parts.append(group or (frozenset() if diagnosis is None else frozenset({diagnosis})))
        except KeyError:
            raise UsageError(
                f"the model's class '{name}' is no diagnosis that is known: name it in --label-map FILE, a JSON object "
                f'such as {{"{name}": "nevus"}}, or null to leave it out.'
            ) from None
    return frozenset().union(*parts)


def _with_the_rest(found: list[frozenset[str]]) -> list[frozenset[str]]:
    """Give `bkl` the seborrheic keratoses of a checkpoint that has no class of its own for them.

    That is what the name means in HAM10000 and in the challenges of 2018 and 2019 (Tschandl 2018).
    """
    keratoses = {"pigmented benign keratosis", "seborrheic keratosis"}
    if sum(bool(covered & keratoses) for covered in found) != 1:
        return found
    return [covered | keratoses if covered & keratoses else covered for covered in found]


def read_label_map(path: Path | None) -> dict[str, str | None]:
    """Return what a label map says.

    Raises:
        UsageError: the file is not there, or no JSON object of names.
    """
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"--label-map '{path}' cannot be read as JSON: {error}.") from error
    if not isinstance(content, dict) or not all(said is None or isinstance(said, str) for said in content.values()):
        raise UsageError(
            f'--label-map \'{path}\' must be a JSON object such as {{"LABEL_0": "nevus", "LABEL_1": null}}.'
        )
    return content
