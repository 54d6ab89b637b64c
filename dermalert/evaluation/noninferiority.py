"""Whether the answers of two releases to the same images show a loss, and how likely a loss would have been found."""

import numpy as np
from scipy import stats

MARGIN = 0.05
"""The loss, of a sensitivity or an AUROC, that matters: the power is that of finding it."""

SIGNIFICANCE = 0.05
"""How often at most equal releases are refused, by all rules together."""


def p_of_lower_sensitivity(old: np.ndarray, new: np.ndarray, groups: np.ndarray) -> float:
    """How probable so large a loss of hits is by chance, one-sided and exact, were the releases exchangeable.

    Of each group the answers of the two could then as well be swapped: the loss is held against all such swaps. Where
    each image is a group of its own that is McNemar's exact test.

    Args:
        old: (n,) which images are hits.
        new: (n,) the same.
        groups: (n,) the group of each.
    """
    changes = _by_group(new.astype(int) - old.astype(int), groups).astype(int)
    sizes = np.abs(changes)
    chances = np.ones(1)  # of each sum, from the lowest
    for size in sizes[sizes > 0]:
        step = np.zeros(2 * size + 1)
        step[[0, -1]] = 0.5
        chances = np.convolve(chances, step)
    return float(min(chances[: sizes.sum() + changes.sum() + 1].sum(), 1))


def worth(old: np.ndarray, new: np.ndarray, groups: np.ndarray) -> tuple[int, float]:
    """How many independent images these are worth, and the discordance of releases with a loss of `MARGIN`.

    Images of a group that change together are worth one; where none changes, each group is. The discordance is the
    share of images to which the two answer otherwise, and what the loss that they show lacks of the margin.
    """
    changes = np.abs(_by_group(new.astype(int) - old.astype(int), groups))
    missing = MARGIN - max(old.mean() - new.mean(), 0)
    discordance = float(min(changes.sum() / len(old) + max(missing, 0), 1))
    if not changes.any():
        return len(changes), discordance
    return max(round(len(old) * changes.sum() / (changes**2).sum()), 1), discordance


def power_of_lower_sensitivity(lesions: int, discordance: float, level: float) -> float:
    """How probable it is that the exact test at a level finds a loss of `MARGIN` in independent images.

    Args:
        lesions: how many they are.
        discordance: share of them to which the two releases answer otherwise; at least the margin is taken.
        level: p from which a loss is found.
    """
    discordance = max(discordance, MARGIN)
    differing = np.arange(lesions + 1)
    # Of so many lesions answered otherwise, the fewest that must be lost.
    needed = stats.binom.isf(level, differing, 0.5) + 1
    needed += stats.binom.sf(needed - 1, differing, 0.5) > level
    power = stats.binom.sf(needed - 1, differing, (discordance + MARGIN) / (2 * discordance))
    return float((stats.binom.pmf(differing, lesions, discordance) * power).sum())


def area_change(positive: np.ndarray, old: np.ndarray, new: np.ndarray, groups: np.ndarray) -> tuple[float, float, int]:
    """The change of the AUROC, its standard error and degrees of freedom (DeLong 1988; groups: Obuchowski 1997).

    Args:
        positive: (n,) which images show the diagnosis; some do, some do not.
        old: (n,) scores.
        new: (n,) scores.
        groups: (n,) the group of each.
    """
    moved = [
        new_places - old_places
        for old_places, new_places in zip(_places(positive, old), _places(positive, new), strict=True)
    ]
    change = float(moved[0].mean())
    pulls, sides = np.zeros(len(positive)), (positive, ~positive)
    for side, values in zip(sides, moved, strict=True):
        pulls[side] = (values - change) / len(values)
    fewest = min(len(np.unique(groups[side])) for side in sides)
    variance = (_by_group(pulls, groups) ** 2).sum() * fewest / max(fewest - 1, 1)
    return change, float(variance**0.5), max(fewest - 1, 1)


def p_of_lower_area(change: float, error: float, freedom: int) -> float:
    """How probable so low a change of an AUROC is by chance, one-sided (Student's t)."""
    if error == 0:
        return 1.0 if change >= 0 else 0.0
    return float(stats.t.cdf(change / error, freedom))


def power_of_lower_area(error: float, freedom: int, level: float) -> float:
    """How probable it is that a loss of `MARGIN` is found with this standard error."""
    if error == 0:
        return 1.0
    return float(stats.t.cdf(MARGIN / error + stats.t.ppf(level, freedom), freedom))


def _places(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each positive the share of others that score less, of each other that of positives above."""
    ups, downs = np.sort(score[positive]), np.sort(score[~positive])

    def below(values: np.ndarray, ranked: np.ndarray) -> np.ndarray:
        left, right = np.searchsorted(ranked, values, side="left"), np.searchsorted(ranked, values, side="right")
        return (left + right) / 2 / len(ranked)

    return below(score[positive], downs), 1 - below(score[~positive], ups)


def _by_group(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    _, member = np.unique(groups, return_inverse=True)
    return np.bincount(member, values)
