"""How often `dermalert drift` is out of limits: by chance, and where the alert rate has doubled.

    python benchmarks/evaluation/drift.py

The false alarms are those of all ten statistics together, of simulated images; the power is exact, of the alert rate
alone, at its share of the false alarms.
"""

from collections import Counter

import numpy as np
from dermalert_space.abstention import REASONS
from dermalert_space.contract import State
from scipy import stats

from dermalert.evaluation import drift
from dermalert.evaluation.intervals import clopper_pearson
from dermalert.evaluation.triage_tables import Batch

_DRAWS = 1000
_RATE = 0.01  # of false alarms
_ALERTS = (0.05, 0.1, 0.2, 0.4)


def main() -> None:
    """Print both tables as `docs/monitoring.md` has them."""
    print("| reference | new images | batches of 1,000 out of limits, 10 expected at most |\n|---|---|---|")
    for n, new in ((200, 50), (1000, 200), (1000, 1000)):
        rng = np.random.default_rng(0)
        out = sum(
            bool(drift.compare(simulated(n, rng), simulated(new, rng), false_alarms=_RATE).out) for _ in range(_DRAWS)
        )
        low, high = clopper_pearson(out, _DRAWS)
        print(f"| {n:,} | {new:,} | {out} [{low * _DRAWS:.0f}-{high * _DRAWS:.0f}] |")
    print("\n| alert rate, before and after | reference 500 | 1,000 | 5,000 |\n|---|---|---|---|")
    for rate in _ALERTS:
        cells = (f"{power(rate, 2 * rate, n, 200):.2f}" for n in (500, 1000, 5000))
        print(f"| {rate:.2f}, {2 * rate:.2f} | {' | '.join(cells)} |")


def simulated(n: int, rng: np.random.Generator) -> Batch:
    """Independent images of one clinic."""
    states = rng.choice(
        [State.MELANOMA_ALERT, State.MALIGNANT_LIKELY, State.NO_ALERT, State.UNREADABLE], n, p=[0.3, 0.1, 0.59, 0.01]
    )
    abstained = rng.choice([*REASONS, ""], n, p=[0.005] * len(REASONS) + [1 - 0.005 * len(REASONS)])
    reasons = Counter(reason for reason in abstained if reason)
    return Batch(name="", files=n, states=Counter(states), reasons=reasons, scores=rng.beta(0.3, 3, n))


def power(rate: float, new_rate: float, n: int, new: int) -> float:
    """The probability that the alert rate of new images is out of limits, over all references."""
    counts = np.arange(n + 1)
    likely = counts[stats.binom.pmf(counts, n, rate) > 1e-9]
    total = 0.0
    for hits in likely:
        low, high = drift.rate_limits(int(hits), n, new, _RATE / len(drift.KINDS))
        inside = stats.binom.cdf(high, new, new_rate) - stats.binom.cdf(low - 1, new, new_rate)
        total += stats.binom.pmf(hits, n, rate) * (1 - inside)
    return float(total)


if __name__ == "__main__":
    main()
