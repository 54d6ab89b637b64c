"""What the recipe in `train_hf.py` needs beside the Trainer's own: a loss, a metric and when to stop."""

import numpy as np
import torch
from torch.nn import functional
from transformers import EarlyStoppingCallback

from dermalert import metrics
from dermalert.diagnoses import DIAGNOSES


def measure(metric: metrics.SkinLesionMetric):
    """Return what the Trainer calls with the logits and labels of a side."""
    return lambda output: metric.compute(predictions=output.predictions, references=output.label_ids)


def shares(labels: list[int]) -> np.ndarray:
    """Return the share of each diagnosis (9,); one without images counts as having one."""
    counts = np.maximum(np.bincount(labels, minlength=len(DIAGNOSES)), 1)
    return counts / counts.sum()


def balanced_softmax(labels: list[int]):
    """Return the loss that takes the shares of the classes into account (Ren 2020, arXiv 2007.10740)."""
    log_prior = torch.tensor(np.log(shares(labels)), dtype=torch.float32)

    def loss(outputs, labels: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
        total = functional.cross_entropy(outputs.logits + log_prior.to(labels.device), labels, reduction="sum")
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    return loss


class EarlyStopping(EarlyStoppingCallback):
    """Stops on the validation side alone, where the Trainer evaluates several sets."""

    def on_evaluate(self, args, state, control, metrics, **kwargs):  # noqa: D102
        if args.metric_for_best_model in metrics:
            super().on_evaluate(args, state, control, metrics, **kwargs)

    def on_train_begin(self, *args, **kwargs):
        """Leave out the check that asks for `load_best_model_at_end`."""
