"""Whose images these are: ids that can be those of one patient or of one lesion, each in one spelling."""

import dataclasses
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Mapping

from dermalert.data import identifiers
from dermalert.data.records import Record
from dermalert.errors import first_few

logger = logging.getLogger(__name__)

_MANY = 20  # images of one id, below which no count is implausible
_TIMES = 10  # as many as the next id has

_ZERO = re.compile(r"[^\W\d]*[\W_]*0+(?:[\W_]+0+)*")  # `0`, `P000`, `patient_0`, `00-00`
_HUGE = re.compile(r"\d+(?:[.,]\d+)?e\+?(\d{2,3})", re.IGNORECASE)  # `1e99`
# Words and letters that may be somebody's, and are nobody's where they have most images.
_MARKS = frozenset("n u x z nn n.n. n.n s/d n/b ns n.s. zzz test default external outside lost".split())  # noqa: SIM905

_FIELDS = {"patient_id": "patient", "lesion_id": "lesion"}


def settle(records: list[Record], where: str) -> None:
    """Replace, in place, the ids of a source by those that tell people and lesions apart, and say what was done.

    An id that has implausibly many images beside all others is a word for nobody that this package does not know, and
    so are a 0 (`P000`, `patient_0`) or a `U` that has more than the others, a 9999 that no 9998 comes before, and an
    `unknown_1` that no `unknown_2` stands beside: with a number each they are people of whom the name is not known. The
    archive's ids stay as they are.
    """
    for field, what in _FIELDS.items():
        counts = Counter(record.metadata[field] for record in records if field in record.metadata)
        counts = Counter({one: n for one, n in counts.items() if not identifiers.is_archive_id(one)})
        if counts:
            largest, few = counts.most_common(2), [n for n in counts.values() if n < _MANY]
            # Two words for nobody must not excuse each other.
            usual = max(few) if 2 * len(few) > len(counts) else None
            strange = [one for one in counts if _is_implausible(one, counts, largest, usual)]
            spelt = _one_spelling([one for one in counts if one not in strange], _sexes(records, field))
            _say(strange, spelt, counts, what, where)
            _apply(records, field, dict.fromkeys(strange) | spelt)


def _is_implausible(one: str, counts: Mapping[str, int], largest: list[tuple[str, int]], usual: int | None) -> bool:
    if _stands_for_nothing(one, counts):
        return True
    if one.endswith("_0"):  # as PAD-UFES-20's lesions are numbered
        return False
    others = next((n for other, n in largest if other != one), 0) if usual is None else usual
    return counts[one] >= _MANY and counts[one] >= _TIMES * max(others, 1)


def _stands_for_nothing(one: str, counts: Mapping[str, int]) -> bool:
    """Tell whether an id is a word or number that forms are filled in with, by what else the source has."""
    word = identifiers.numbered_nobody(one)
    if word:
        return all(identifiers.numbered_nobody(other) != word for other in counts if other != one)
    is_mark, huge = one.casefold() in _MARKS, _HUGE.fullmatch(one)
    zero, nines = _ZERO.fullmatch(one), re.fullmatch(r"(\D*0*)(9{2,})", one)
    if not (is_mark or huge or zero or nines):
        return False  # as nearly all are, of which there may be many
    others = [other for other in counts if other != one]
    if zero and any(_ZERO.fullmatch(other) and _letters(other) != _letters(one) for other in others):
        return False  # the letters tell people, who count from 0
    most = counts[one] > max(1, 3 * max((counts[other] for other in others if not _ZERO.fullmatch(other)), default=0))
    if is_mark:
        return most and not (len(one) == 1 and any(len(other) == 1 and other.isalpha() for other in others))
    if zero or (huge and int(huge[1]) > 30):
        return most
    if nines is None or f"{nines[1]}{int(nines[2]) - 1}" in counts:
        return False
    if len(nines[2]) == 2:
        numbered = any(re.fullmatch(re.escape(nines[1]) + r"\d\d?", other) for other in others)
        return most and (not numbered or counts[one] >= _MANY)
    return len(nines[2]) > 3 or counts[one] > max((counts[other] for other in others), default=1)


def _letters(text: str) -> str:
    return re.sub(r"[\W\d_]", "", text).casefold()


def _one_spelling(ids: list[str], sexes: Mapping[str, set[str]]) -> dict[str, str]:
    """Return for each id that is spelt in several ways, such as `P-1` and `p_1`, the one that stands for all.

    Leading zeros do not count, `P001` is `P1`, but where the sexes of the two tell that they are two people.
    """
    spellings: dict[str, list[str]] = defaultdict(list)
    for one in ids:
        spellings[identifiers.without_zeros(one)].append(one)
    for zeros, same in list(spellings.items()):
        if len(set.union(*(sexes[one] for one in same))) > 1:
            del spellings[zeros]
            for one in same:
                spellings[f"{identifiers.key(one)}\n{zeros}"].append(one)
    return {one: min(same) for same in spellings.values() if len(same) > 1 for one in same}


def _sexes(records: list[Record], field: str) -> Mapping[str, set[str]]:
    sexes = defaultdict(set)
    for record in records:
        if field in record.metadata and record.metadata.get("sex"):
            sexes[record.metadata[field]].add(record.metadata["sex"])
    return sexes


def _say(strange: list[str], spelt: dict[str, str], counts: Mapping[str, int], what: str, where: str) -> None:
    for one in strange:
        logger.warning(
            "'%s' is no %s: %d images of '%s' have it, %s, and are not joined by it",
            one,
            what,
            counts[one],
            where,
            "a mark for what is missing" if _stands_for_nothing(one, counts) else "implausibly many",
        )
    if spelt:
        logger.warning(
            "%d ids of a %s in '%s' are spelt in several ways, and taken for one: %s",
            len(set(spelt.values())),
            what,
            where,
            first_few(sorted(spelt)),
        )


def _apply(records: list[Record], field: str, changes: Mapping[str, str | None]) -> None:
    if not changes:
        return
    for i, record in enumerate(records):
        now = record.metadata.get(field)
        if now is not None and now in changes:
            metadata = {name: value for name, value in record.metadata.items() if name != field}
            metadata |= {field: changes[now]} if changes[now] else {}
            records[i] = dataclasses.replace(record, metadata=metadata)
