import numpy as np
import pytest
from support.predictions import random_case

from dermalert.evaluation import metrics
from dermalert.evaluation.report import report
from dermalert.evaluation.trainer_metric import SkinLesionMetric
from dermalert.taxonomy import DIAGNOSES

ONCE = np.ones(60)


def test_the_trainers_metric_gives_the_same_figures_as_the_functions():
    truth, probabilities = random_case(3)
    metric = SkinLesionMetric(keep_in_memory=True)
    figures = metric.compute(predictions=np.log(probabilities), references=truth)
    balanced_accuracy = metrics.balanced_accuracy(truth, probabilities.argmax(1), ONCE)
    assert figures["balanced_accuracy"] == pytest.approx(float(balanced_accuracy))
    assert figures["macro_auroc"] == pytest.approx(float(metrics.macro_auroc(truth, probabilities, ONCE)), abs=1e-6)
    assert set(report(truth, probabilities, np.arange(60), alert=None).per_class) == set(DIAGNOSES)
