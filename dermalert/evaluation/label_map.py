"""Which of the nine diagnoses each class of anyone's checkpoint covers: by its name, or by a label map."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from dermalert_space.contract import Json

from dermalert import taxonomy
from dermalert.errors import UsageError, did_you_mean
from dermalert.taxonomy import ALERT, DIAGNOSES, ISIC_2025, MALIGNANT, MELANOMA

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

_OF_ELEVEN = (
    "These are MILK10k's eleven classes, by sums of the model's. BEN_OTH, INF and MAL_OTH have no probability, and no "
    "figure counts them. Bowen's disease is AKIEC there and squamous cell carcinoma here: its probability is SCCKA's."
)

_OF_NEVI = frozenset({"auroc_nevi", "specificity_nevi", "specificity_nevi_at_sensitivity"})
_OF_THE_NINE = frozenset({"balanced_accuracy_benign_keratosis_merged", "malignant", "subgroup_sensitivity"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classes:
    """What the classes of a checkpoint cover, in the order of its logits; nothing for one that is to be left out."""

    names: tuple[str, ...]
    covers: tuple[frozenset[str], ...]
    note: str = ""
    """What else must be known to read their figures, in sentences."""

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

    def truth(self, diagnoses: Iterable[str | None]) -> np.ndarray:
        """The label id of the class that covers each diagnosis, -1 where none does."""
        of = {name: label for label, covered in zip(self.first, self.covers, strict=True) for name in covered}
        return np.array([-1 if name is None else of.get(name, -1) for name in diagnoses], int)

    def as_malignancies(self) -> "Classes":
        """The same for truths that say benign or malignant; a class is what half of its diagnoses are."""
        halves = [None if not covered else 2 * len(covered & MALIGNANT) >= len(covered) for covered in self.covers]
        covers = [frozenset() if half is None else MALIGNANT if half else _BENIGN for half in halves]
        return Classes(names=self.names, covers=tuple(covers))

    def as_isic_2025(self) -> "Classes":
        """The same for truths of MILK10k's eleven classes, each of which is the sum of classes.

        Raises:
            UsageError: a class covers diagnoses of several of them.
        """
        names = [[wide for wide, part in ISIC_2025.items() if part & covered] for covered in self.covers]
        for name, wide in zip(self.names, names, strict=True):
            if len(wide) > 1:
                raise UsageError(
                    f"the model's class '{name}' covers parts of {' and '.join(wide)}, which the data set has apart: "
                    "evaluate it under other labels, or leave the class out with --label-map."
                )
        covers = [ISIC_2025[wide[0]] if wide else frozenset() for wide in names]
        renamed = [wide[0] if wide else name for wide, name in zip(names, self.names, strict=True)]
        return Classes(names=tuple(renamed), covers=tuple(covers), note=_OF_ELEVEN)

    def rename(self, figures: Json) -> Json:
        """The figures of a split under the checkpoint's names, without what its classes cannot tell.

        That is diagnoses that no class covers, nevi where no class is theirs alone, and the nine with both benign
        keratoses as one where the classes are others. The melanomas of a subgroup are called `positives`.
        """
        figures = _without(figures, self._undefined_figures)
        used = sorted({label for label in self.first if label is not None})
        name_of = {label: name for name, label in zip(self.names, self.first, strict=True) if label is not None}
        name_of |= {MELANOMA: self.positive}
        per_class = {name_of[label]: figures["per_class"][DIAGNOSES[label]] for label in used}
        confusion = np.array(figures["confusion"])[np.ix_(used, used)].tolist()
        rest = {key: value for key, value in figures.items() if key != ALERT}
        rest |= {"per_class": per_class, "confusion": confusion, "subgroups": _with_positives(figures["subgroups"])}
        rest["calibration"] = {self.positive if key == ALERT else key: v for key, v in figures["calibration"].items()}
        return rest | {self.positive: figures[ALERT]}

    @property
    def _undefined_figures(self) -> frozenset[str]:
        """The figures that mean nothing for these classes."""
        nine = set(self.covers) == {frozenset({name}) for name in DIAGNOSES}
        nevi = frozenset({"nevus"}) in self.covers
        return (frozenset() if nevi else _OF_NEVI) | (frozenset() if nine else _OF_THE_NINE)

    def spread(self, probabilities: np.ndarray) -> np.ndarray:
        """A checkpoint's probabilities (n, its classes) as (n, 9), each class in the column that stands for it.

        What it gives to classes that are left out is shared among the others.
        """
        spread = np.zeros((len(probabilities), len(DIAGNOSES)))
        for column, label in zip(probabilities.T, self.first, strict=True):
            if label is not None:
                spread[:, label] += column
        return spread / np.maximum(spread.sum(1, keepdims=True), 1e-12)


def _without(figures: Json, keys: frozenset[str]) -> Json:
    """The figures without these keys, at any depth."""
    rest = {key: value for key, value in figures.items() if key not in keys}
    return {key: _without(value, keys) if isinstance(value, dict) else value for key, value in rest.items()}


def _with_positives(subgroups: Json) -> Json:
    """The figures of subgroups with their `melanomas` called `positives`."""

    def rename(figures: Json) -> Json:
        return {"positives" if key == "melanomas" else key: value for key, value in figures.items()}

    return {
        kind: part | {"of": {name: rename(figures) for name, figures in part["of"].items()}} if "of" in part else part
        for kind, part in subgroups.items()
    }


def classes(names: Iterable[str], label_map: Mapping[str, str | None] | None = None) -> Classes:
    """The diagnoses that the classes of a checkpoint cover, by their names or by a label map.

    Args:
        names: the checkpoint's, in the order of its logits.
        label_map: a class's name and what it covers: a diagnosis in any source's words, several joined by ` + `,
            `malignant`, `benign` or `not melanoma`; None leaves the class out. Classes it does not name keep their own.

    Raises:
        UsageError: a name is no known diagnosis, two classes cover one diagnosis, or none covers melanoma.
    """
    names, label_map = tuple(names), dict(label_map or {})
    for name in label_map:
        if name not in names:
            raise UsageError(f"the model has no class '{name}'.{did_you_mean(name, names)} It has: {', '.join(names)}.")
    texts = [label_map.get(name, name) for name in names]
    covers = [frozenset() if text is None else _diagnoses(name, text) for name, text in zip(names, texts, strict=True)]
    covers = _complete_benign_keratoses(covers)
    twice = sorted(name for name, n in Counter(name for covered in covers for name in covered).items() if n > 1)
    if twice:
        raise UsageError(f"several classes of the model stand for {', '.join(twice)}: leave one out with --label-map.")
    if not any(ALERT in covered for covered in covers):
        raise UsageError(f"no class of the model stands for {ALERT} ({', '.join(names)}): say which with --label-map.")
    return Classes(names=names, covers=tuple(covers))


def _diagnoses(name: str, text: str) -> frozenset[str]:
    parts = text.split(" + ")
    return frozenset().union(*(_GROUPS.get(taxonomy.plain(part)) or _diagnosis(name, part) for part in parts))


def _diagnosis(name: str, text: str) -> frozenset[str]:
    """The one diagnosis of a text; nothing where the text says that there is none."""
    try:
        diagnosis = taxonomy.find(text)
    except KeyError:
        raise UsageError(
            f"the model's class '{name}' is no diagnosis that is known: name it in --label-map FILE, a JSON object "
            f'such as {{"{name}": "nevus"}}, or null to leave it out.'
        ) from None
    return frozenset() if diagnosis is None else frozenset({diagnosis})


def _complete_benign_keratoses(covers: list[frozenset[str]]) -> list[frozenset[str]]:
    """Give `bkl` the seborrheic keratoses of a checkpoint that has no class of its own for them.

    That is what the name means in HAM10000 and in the challenges of 2018 and 2019 (Tschandl 2018).
    """
    keratoses = {"pigmented benign keratosis", "seborrheic keratosis"}
    if sum(bool(covered & keratoses) for covered in covers) != 1:
        return covers
    return [covered | keratoses if covered & keratoses else covered for covered in covers]


def read_label_map(path: Path | None) -> dict[str, str | None]:
    """The content of a label map: a class's name and the diagnoses that it covers.

    Raises:
        UsageError: the file is not there, or no JSON object of names.
    """
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"--label-map '{path}' cannot be read as JSON: {error}.") from error
    if not isinstance(content, dict) or not all(text is None or isinstance(text, str) for text in content.values()):
        raise UsageError(
            f'--label-map \'{path}\' must be a JSON object such as {{"LABEL_0": "nevus", "LABEL_1": null}}.'
        )
    return content
