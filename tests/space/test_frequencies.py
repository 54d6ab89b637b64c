import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dermalert_space import frequencies
from dermalert_space.contract import PREDICTIONS
from dermalert_space.prediction import Attention
from scipy import stats

ATTENTION = Attention(labels=("melanoma", "carcinoma"), threshold=0.15)


@dataclasses.dataclass
class Folder:
    """What a release has that frequencies are read from."""

    root: Path
    labels: tuple[str, ...] = ("melanoma", "carcinoma", "nevus")
    alert_label: str = "melanoma"
    threshold: float | None = 0.04
    attention: Attention = ATTENTION

    def file(self, name):
        return self.root / name if (self.root / name).is_file() else None


def table(folder, **columns):
    """Predictions of 400 lesions, two photos each; changed by columns."""
    n = 800
    melanoma = np.tile(np.linspace(0, 1, n // 2), 2).astype(np.float32)
    rows = {
        "image_id": [f"{photo}{i:03d}" for photo in "ab" for i in range(n // 2)],
        "group": [f"{i}" for i in range(n // 2)] * 2,
        "truth": ["melanoma" if p > 0.5 else "nevus" for p in melanoma],
        "refused": [False] * n,
        "split": ["held_out"] * n,
        "melanoma": melanoma,
        "carcinoma": np.zeros(n, np.float32),
        "nevus": 1 - melanoma,
    }
    (folder / PREDICTIONS).parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(rows | columns), folder / PREDICTIONS)
    return Folder(folder)


@pytest.mark.parametrize(("k", "n"), [(0, 5), (5, 5), (1, 40), (36, 53), (500, 4000)])
def test_the_interval_is_that_of_clopper_and_pearson(k, n):
    exact = stats.binomtest(k, n).proportion_ci(method="exact")
    assert frequencies.exact_interval(k, n) == pytest.approx((exact.low, exact.high), abs=1e-6)


def test_bands_hold_enough_lesions_lie_on_one_side_of_the_threshold_and_leave_none_out():
    rng = np.random.default_rng(0)
    scores = rng.beta(0.3, 2, 900)
    hits = rng.random(900) < scores
    bands = frequencies.bands(scores, hits, 0.0275)
    assert sum(band.lesions for band in bands.bands) == bands.lesions == 900
    assert min(band.lesions for band in bands.bands) >= frequencies.LEAST
    assert 0.0275 in {band.low for band in bands.bands} and len(bands.bands) > 5
    assert sum(round(band.rate.value * band.lesions) for band in bands.bands) == hits.sum()
    assert [bands.find(p) is bands.bands[-1] for p in (0.9999, 1.0)] == [True, True]


def test_a_band_of_few_lesions_is_joined_to_the_one_below_it():
    scores = np.array([0.01] * 40 + [0.15] * 30 + [0.6] * 3)
    highest = frequencies.bands(scores, scores > 0.5, 0.05).find(0.7)
    assert (highest.low, highest.high, highest.lesions, highest.rate.value) == (0.05, 1.0, 33, 3 / 33)
    assert frequencies.bands(scores[-3:], scores[-3:] > 0.5, 0.05).find(0.7) is None


def test_a_lesion_counts_once_by_its_first_photo_and_not_where_it_cannot_be_assessed(tmp_path):
    everything = frequencies.read_frequencies(table(tmp_path))
    assert (everything.alert.lesions, everything.alert.share) == (400, 0.5)
    assert everything.alert.find(0.99).rate.value == 1.0 and everything.alert.find(0.03) is None
    assert everything.attention.find(0.99).low == 0.7
    half = frequencies.read_frequencies(table(tmp_path, refused=([False] * 200 + [True] * 200) * 2))
    assert half.alert.lesions == 200
    elsewhere = frequencies.read_frequencies(table(tmp_path, split=["clean_test"] * 800))
    assert elsewhere.alert.bands == ()


def test_a_release_without_a_table_that_can_be_read_has_no_frequencies(tmp_path):
    assert frequencies.read_frequencies(Folder(tmp_path)) == frequencies.Frequencies()
    release = table(tmp_path)
    (tmp_path / PREDICTIONS).write_bytes(b"no table")
    assert frequencies.read_frequencies(release) == frequencies.Frequencies()
    pq.write_table(pa.table({"image_id": ["a"], "split": ["held_out"]}), tmp_path / PREDICTIONS)
    assert frequencies.read_frequencies(release) == frequencies.Frequencies()
