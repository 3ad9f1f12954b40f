"""The metrics of regression, from sums that add up over batches and devices."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torchmetrics import Metric


class RegressionMetrics(Metric):
    """loss, mae, rmse and r2 over all images seen; the last three in the targets' units.

    ``r2`` is NaN where the true numbers are all the same: there is no variance that could be explained.

    Args:
        values: outputs (B, 1) -> predicted numbers (B, 1) in the targets' units.
        losses: outputs and true numbers (B, 1) -> the loss of each image (B, 1).
    """

    full_state_update = False
    count: torch.Tensor
    loss: torch.Tensor
    absolute: torch.Tensor
    squared: torch.Tensor
    total: torch.Tensor
    total_squared: torch.Tensor
    least: torch.Tensor
    most: torch.Tensor

    def __init__(
        self,
        values: Callable[[torch.Tensor], torch.Tensor],
        losses: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> None:
        super().__init__()
        self._values, self._losses = values, losses
        for name in ("loss", "absolute", "squared", "total", "total_squared"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("least", default=torch.tensor(torch.inf, dtype=torch.float64), dist_reduce_fx="min")
        self.add_state("most", default=torch.tensor(-torch.inf, dtype=torch.float64), dist_reduce_fx="max")

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Add outputs (B, 1) and true numbers (B, 1)."""
        true = targets.double()
        error = self._values(outputs).double() - true
        self.loss += self._losses(outputs, targets).double().sum()
        self.absolute += error.abs().sum()
        self.squared += error.square().sum()
        self.total += true.sum()
        self.total_squared += true.square().sum()
        self.count += len(true)
        self.least = torch.minimum(self.least, true.min())
        self.most = torch.maximum(self.most, true.max())

    def compute(self) -> dict[str, torch.Tensor]:
        """The metrics by name, scalars."""
        around_mean = self.total_squared - self.total.square() / self.count
        # Of equal numbers, rounding leaves this near 0 rather than at it.
        varies = self.most > self.least
        return {
            "loss": self.loss / self.count,
            "mae": self.absolute / self.count,
            "rmse": (self.squared / self.count).sqrt(),
            "r2": torch.where(varies, 1.0 - self.squared / around_mean, torch.nan),
        }
