"""The one `evaluate.Metric` over the project's metrics, which the Trainer calls after each epoch."""

import datasets
import evaluate
import numpy as np
from dermalert_space.prediction import likeliest
from numpy.typing import ArrayLike
from scipy import special

from dermalert.evaluation.metrics import auroc, balanced_accuracy, macro_auroc
from dermalert.taxonomy import MELANOMA


class SkinLesionMetric(evaluate.Metric):  # type: ignore[misc]
    """Accuracy, balanced accuracy, macro and melanoma AUROC of nine logits an image."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions: ArrayLike, references: ArrayLike) -> dict[str, float | None]:
        probabilities, truth = special.softmax(np.asarray(predictions), axis=1), np.asarray(references)
        once = np.ones(len(truth))
        figures = {
            "accuracy": (likeliest(probabilities) == truth).mean(),
            "balanced_accuracy": balanced_accuracy(truth, likeliest(probabilities), once),
            "macro_auroc": macro_auroc(truth, probabilities, once),
            "melanoma_auroc": auroc(truth == MELANOMA, probabilities[:, MELANOMA], once),
        }
        return {name: float(value) if np.isfinite(value) else None for name, value in figures.items()}
