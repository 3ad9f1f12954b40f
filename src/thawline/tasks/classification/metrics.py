"""The metrics of classification, by torchmetrics, under the names that records and reports use."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)


def classification_metrics(classes: int, top_k: int) -> MetricCollection:
    """loss, top1, top<k>, macro accuracy, macro F1 and calibration error (15 bins, L1), of logits (B, C), labels (B,).

    Classes that do not occur in a split count as zero in the macro averages, as torchmetrics defines them.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "loss": CrossEntropy(),
        "top1": MulticlassAccuracy(classes, average="micro", validate_args=False),
        "macro_accuracy": MulticlassAccuracy(classes, average="macro", validate_args=False),
        "macro_f1": MulticlassF1Score(classes, average="macro", validate_args=False),
        "calibration_error": MulticlassCalibrationError(classes, n_bins=15, norm="l1", validate_args=False),
    }
    if 1 < top_k < classes:
        metrics[f"top{top_k}"] = MulticlassAccuracy(classes, top_k=top_k, average="micro", validate_args=False)
    return MetricCollection(metrics)


def confusion_matrix(labels: torch.Tensor, predicted: torch.Tensor, classes: int) -> list[list[int]]:
    """Counts (classes, classes): row = true class, column = predicted class."""
    matrix = MulticlassConfusionMatrix(classes, validate_args=False)
    counts: list[list[int]] = matrix(predicted, labels).tolist()
    return counts


class CrossEntropy(Metric):
    """The mean cross-entropy over all samples seen, exact for unequal batches and unequal shards."""

    full_state_update = False
    total: torch.Tensor
    samples: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Add logits (B, C) and labels (B,)."""
        self.total += F.cross_entropy(preds, target, reduction="sum").double()
        self.samples += len(target)

    def compute(self) -> torch.Tensor:
        """The mean, a scalar."""
        return self.total / self.samples
