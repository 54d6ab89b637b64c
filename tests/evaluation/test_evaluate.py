"""The figures of a split: which images a release fails on."""

import numpy as np
from datasets import Dataset

from dermalert.evaluation.evaluate import failures
from dermalert.taxonomy import DIAGNOSES


def test_failures_say_on_which_images_the_release_abstains():
    dataset = Dataset.from_dict({"image_id": list("abcd"), "label": [DIAGNOSES.index("melanoma"), 4, 4, 4]})
    score, alert = np.array([0.9, 0.8, 0.2, 0.6]), np.array([True, True, False, True])
    found = failures(dataset, score, alert, np.array([True, False, True, True]))
    rows = found["lowest_melanomas"] + found["highest_others"]
    assert [(row["image_id"], row["alert"], row["refused"]) for row in rows] == [
        ("a", True, True),
        ("b", True, False),
        ("d", True, True),
        ("c", False, True),
    ]
    assert not any(row["refused"] for rows in failures(dataset, score, alert, None).values() for row in rows)
