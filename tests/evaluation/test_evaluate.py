"""The figures of a split: which images a release fails on."""

import dataclasses

import numpy as np
from datasets import Dataset

from dermalert.evaluation.evaluate import failures
from dermalert.evaluation.predict import SplitPredictions
from dermalert.taxonomy import DIAGNOSES


def test_failures_say_on_which_images_the_release_abstains():
    dataset = Dataset.from_dict({"image_id": list("abcd"), "label": [DIAGNOSES.index("melanoma"), 4, 4, 4]})
    score, alert = np.array([0.9, 0.8, 0.2, 0.6]), np.array([True, True, False, True])
    probabilities = np.zeros((4, 9))
    probabilities[:, DIAGNOSES.index("melanoma")] = score
    predictions = SplitPredictions(dataset=dataset, probabilities=probabilities, alert=alert)
    abstained = np.array([True, False, True, True])
    failed = failures(dataclasses.replace(predictions, abstained=abstained))
    rows = [(row.image_id, row.alert, row.refused) for row in failed.lowest_melanomas + failed.highest_others]
    assert rows == [("a", True, True), ("b", True, False), ("d", True, True), ("c", False, True)]
    failed = failures(predictions)
    assert not any(row.refused for row in failed.lowest_melanomas + failed.highest_others)
