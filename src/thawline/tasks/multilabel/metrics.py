"""The metrics of multi-label classification: mean average precision, F1 at a probability of one half, cross-entropy."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torchmetrics import Metric


def multilabel_metrics(logits: torch.Tensor, truth: torch.Tensor) -> dict[str, torch.Tensor]:
    """map, macro_f1, micro_f1 and loss of logits (N, C) and truth (N, C), 0 or 1; NaN: there is none.

    A class without a positive image has no average precision. One that is neither true nor predicted anywhere has no
    F1; one that is only predicted counts as 0.
    """
    truth = truth.bool()
    f1 = f1_of_classes(logits, truth)
    predicted = logits > 0
    return {
        "map": average_precisions(logits, truth).nanmean(),
        "macro_f1": f1.nanmean(),
        "micro_f1": 2.0 * (predicted & truth).sum().double() / (predicted.sum() + truth.sum()),
        "loss": F.binary_cross_entropy_with_logits(logits.double(), truth.double()),
    }


def average_precisions(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The average precision of each class, (C,) float64, of logits (N, C) and truth (N, C), bool.

    ``sum_n (R_n - R_{n-1}) P_n`` over the distinct scores, without interpolation, as scikit-learn has it.
    """
    return torch.stack([_average_precision(*columns) for columns in zip(logits.T, truth.T, strict=True)])


def f1_of_classes(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The F1 of each class, (C,) float64, where a probability above one half says that the image has the class."""
    predicted = logits > 0
    return 2.0 * (predicted & truth).sum(dim=0).double() / (predicted.sum(dim=0) + truth.sum(dim=0))


class MultilabelMetrics(Metric):
    """map, macro_f1, micro_f1 and loss over all images seen. A precision needs all of them, so all are kept."""

    full_state_update = False
    logits: list[torch.Tensor]
    truth: list[torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("logits", default=[], dist_reduce_fx="cat")
        self.add_state("truth", default=[], dist_reduce_fx="cat")

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Add logits (B, C) and classes (B, C), 0 or 1."""
        self.logits.append(outputs.float())
        self.truth.append(targets.bool())

    def compute(self) -> dict[str, torch.Tensor]:
        """The metrics by name, scalars."""
        from torchmetrics.utilities import dim_zero_cat

        return multilabel_metrics(dim_zero_cat(self.logits), dim_zero_cat(self.truth))


def _average_precision(scores: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    scores, order = scores.sort(descending=True)
    # Images with equal scores are taken together.
    last = torch.cat([scores[1:] != scores[:-1], scores.new_ones(1, dtype=torch.bool)])
    right = truth[order].cumsum(dim=0)[last].double()
    taken = torch.arange(1, len(scores) + 1, device=scores.device)[last]
    recall = right / right[-1]
    return (recall.diff(prepend=recall.new_zeros(1)) * right / taken).sum()
