"""The real sets of the archive, where they are: what they hold by diagnosis and by source."""

from collections import Counter

import pytest

from dermalert.data import loading
from dermalert.taxonomy import DIAGNOSES

pytestmark = pytest.mark.integration

AK, BCC, DF, MEL, NV, PBK, SK, SCC, VASC = DIAGNOSES

HOLDS = {
    "milk10k": (
        {BCC: 2063, NV: 582, SCC: 557, MEL: 362, SK: 271, PBK: 164, AK: 106, DF: 42, VASC: 42},
        {"MILK10k": 4189},
    ),
    "acral": (
        {NV: 766, MEL: 508, VASC: 8, SK: 6, PBK: 2},
        {
            "Hospital Clínic de Barcelona": 580,
            "International Dermoscopy Society": 664,
            "Memorial Sloan Kettering Cancer Center": 14,
            "Hospital Italiano de Buenos Aires": 21,
            "HAM10000": 6,
            "older ISIC archive": 5,
        },
    ),
    "ham10000_224": (
        {NV: 3402, PBK: 516, MEL: 397, BCC: 255, SCC: 114, VASC: 80, AK: 68, DF: 59},
        {"HAM10000": 4891},
    ),
}


@pytest.mark.parametrize(
    "name", ["acral", *(pytest.param(name, marks=pytest.mark.long) for name in HOLDS if name != "acral")]
)
def test_a_real_set_loads_as_it_lies(real_images, name):
    if not (real_images / name).is_dir():
        pytest.skip(f"{real_images / name} is not here")
    dataset = loading.load([str(real_images / name)]).dataset
    labels, sources = HOLDS[name]
    assert Counter(DIAGNOSES[label] for label in dataset["label"]) == labels
    assert Counter(dataset["source"]) == sources
