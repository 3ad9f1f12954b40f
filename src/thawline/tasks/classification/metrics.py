"""The metrics of classification, by torchmetrics, under the names that records and reports use."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)


def classification_metrics(classes: int, top_k: int) -> MetricCollection:
    """loss, top1, top<k>, macro accuracy, macro F1 and calibration error (15 bins, L1), of logits (B, C), labels (B,).

    A class that has no sample and is never predicted is left out of the macro averages; one that is only predicted
    counts as 0 there.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "loss": CrossEntropy(),
        "top1": MulticlassAccuracy(classes, average="micro", validate_args=False),
        "macro_accuracy": MulticlassAccuracy(classes, average="macro", validate_args=False),
        "macro_f1": MulticlassF1Score(classes, average="macro", validate_args=False),
        "calibration_error": CalibrationError(bins=15),
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


class CalibrationError(Metric):
    """Expected calibration error (Guo et al. 2017): the mean gap between confidence and accuracy over equal bins.

    The confidence is the highest probability. A confidence of exactly 1 belongs to the last bin: torchmetrics gives it
    a bin of its own, which makes the error of a certain model larger than the definition says.
    """

    full_state_update = False
    sums: torch.Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        self._bins = bins
        # of each bin: how many are right, their confidences, how many there are
        self.add_state("sums", default=torch.zeros((bins, 3), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Add logits (B, C) and labels (B,)."""
        confidence, predicted = preds.softmax(dim=1).max(dim=1)
        edges = torch.linspace(0, 1, self._bins + 1, dtype=confidence.dtype, device=confidence.device)
        of_bin = F.one_hot(torch.bucketize(confidence, edges[1:-1], right=True), self._bins).double()
        counted = torch.stack([(predicted == target).double(), confidence.double(), of_bin.sum(dim=1)], dim=1)
        self.sums += of_bin.T @ counted

    def compute(self) -> torch.Tensor:
        """The error, a scalar: the sum over the bins of ``|right - confidences|``, over all samples."""
        right, confidence, samples = self.sums.unbind(dim=1)
        return (right - confidence).abs().sum() / samples.sum()
