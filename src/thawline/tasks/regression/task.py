"""Regression: one number for each image; outputs (B, 1), targets (B, 1)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, final

from pydantic import Field

from thawline.records.metrics import MetricDefinition
from thawline.tasks.task import LossTerm, Task

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from thawline.tasks.regression.metrics import RegressionMetrics
    from thawline.tasks.task import Arrays, Bounds

_LOSSES = {"mse": "mean squared error", "l1": "mean absolute error", "huber": "mean Huber loss"}
_DEFINITIONS = {
    "mae": MetricDefinition(direction="min", label="mean absolute error", lower=0.0),
    "rmse": MetricDefinition(direction="min", label="root mean squared error", lower=0.0),
    "r2": MetricDefinition(direction="max", label="coefficient of determination", upper=1.0),
}

_MOST_SCALED, _LEAST_PART = 5.0, 20.0
"""Scaled targets with a mean or a spread beyond this, or a spread below one part in so many, train slowly."""


@final
class Regression(Task):
    """One number for each image.

    The predicted number is ``center + scale * output``, and the loss is of outputs against ``(target - center) /
    scale``. By default that is the number itself. Where the numbers are large, `center` and `scale` near the mean and
    the standard deviation of the training targets let the usual learning rates work; metrics stay in the targets'
    units.

    Attributes:
        loss: mse, l1 or huber.
        huber_delta: Where the Huber loss goes from squared to absolute, in units of `scale`.
        center: The number that an output of 0 stands for, in the targets' units.
        scale: What an output of 1 adds to it, in the targets' units.
    """

    NAME: ClassVar[str] = "regression"
    TARGET: ClassVar[str] = "number"
    HEADLINE: ClassVar[str] = "mae"
    MONITORS: ClassVar[tuple[str, ...]] = ("mae", "rmse", "r2", "loss")
    IMAGE_SCORE: ClassVar[str] = "the absolute error of the image's number, negated"

    loss: Literal["mse", "l1", "huber"] = "mse"
    huber_delta: float = Field(default=1.0, gt=0.0)
    center: float = Field(default=0.0, allow_inf_nan=False)
    scale: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)

    def outputs(self, classes: Sequence[str]) -> tuple[str, ...]:
        """One number."""
        return ("value",)

    def remarks(self, targets: NDArray[np.float64]) -> Sequence[str]:
        """That the numbers (N, 1) are far from where outputs start, or that their spread is of another order."""
        mean, spread = float(targets.mean()), float(targets.std())
        is_far = abs(mean - self.center) > _MOST_SCALED * self.scale
        is_wide, is_narrow = spread > _MOST_SCALED * self.scale, 0 < spread < self.scale / _LEAST_PART
        if not (is_far or is_wide or is_narrow):
            return ()
        scale = f", task.scale={spread:.3g}" if spread else ""
        found = f"the training targets have a mean of {mean:.3g} and a standard deviation of {spread:.3g}"
        start = f"an output of 0 stands for {self.center:g} and one of 1 for {self.center + self.scale:g}"
        return [f"{found}, but {start}: training goes faster with task.center={mean:.3g}{scale}"]

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> Mapping[str, LossTerm]:
        """The loss, a mean over the images."""
        return {"loss": LossTerm(self._of_images(outputs, targets).mean(), len(targets))}

    def constant_scores(self, per_output: Sequence[int], images: int) -> dict[str, float]:
        """That of saying the mean of the numbers."""
        return {"r2": 0.0}

    def metrics(self, outputs: Sequence[str]) -> RegressionMetrics:
        """loss, mae, rmse and r2 of outputs (B, 1) and numbers (B, 1)."""
        from thawline.tasks.regression.metrics import RegressionMetrics

        return RegressionMetrics(self.values, self._of_images)

    def definitions(self, names: Iterable[str]) -> dict[str, MetricDefinition]:
        """Direction, label and bounds of each metric."""
        label = _LOSSES[self.loss] + (" of the scaled numbers" if self.scale != 1.0 else "")
        loss = MetricDefinition(direction="min", label=label, lower=0.0)
        known = {**_DEFINITIONS, "loss": loss}
        return {name: known[name] for name in sorted(names) if name in known}

    def predictions(self, outputs: torch.Tensor, targets: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """``target`` (B, 1) and ``output`` (B, 1), float32."""
        return {"target": targets.float(), "output": outputs.float()}

    @property
    def outputs_told(self) -> str:
        """`center` and `scale` are no part of the network."""
        if (self.center, self.scale) == (0.0, 1.0):
            return ""
        return f"The number of an image is {self.center!r} + {self.scale!r} * output (task.center, task.scale)."

    def values(self, outputs: torch.Tensor) -> torch.Tensor:
        """The predicted numbers (B, 1) in the targets' units, float32."""
        return self.center + self.scale * outputs.float()

    def why_missing(self, metric: str) -> str:
        """R² divides by the variance of the targets."""
        return "all targets are equal" if metric == "r2" else super().why_missing(metric)

    def image_scores(self, arrays: Arrays, outputs: Sequence[str]) -> NDArray[np.float64]:
        """The absolute error, negated."""
        import torch

        errors = self.values(torch.from_numpy(arrays["output"])).double() - torch.from_numpy(arrays["target"])
        scores: NDArray[np.float64] = -errors.abs()[:, 0].numpy()
        return scores

    def recomputed(self, arrays: Arrays, outputs: Sequence[str]) -> Bounds:
        """The metrics of the outputs on file."""
        import torch

        metrics = self.metrics(outputs)
        metrics.update(torch.from_numpy(arrays["output"]), torch.from_numpy(arrays["target"]))
        found = {name: float(value) for name, value in metrics.compute().items()}
        return {name: (value, value) for name, value in found.items() if math.isfinite(value)}

    def _of_images(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional as F

        outputs, scaled = outputs.float(), (targets.float() - self.center) / self.scale
        if self.loss == "huber":
            return F.huber_loss(outputs, scaled, delta=self.huber_delta, reduction="none")
        loss = F.mse_loss if self.loss == "mse" else F.l1_loss
        return loss(outputs, scaled, reduction="none")
