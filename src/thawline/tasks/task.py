"""What a task is: the one place that knows what a target means, and everything that follows from it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from thawline.records.metrics import MetricDefinition
from thawline.specs import Spec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torchmetrics import MetricCollection

    Arrays = Mapping[str, NDArray[np.generic]]
    Bounds = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class LossTerm:
    """One named part of the loss: its mean over a batch, and over how many items the mean is taken."""

    mean: torch.Tensor
    count: int


class Task(Spec):
    """Base of every task: a target's meaning, the loss, the metrics, and what is kept of each image.

    B is a batch's number of images; what a target and an output are is the task's own business, as long as both are
    tensors whose first dimension counts images.

    Attributes:
        NAME: the task's name, in records and on the command line.
        TARGET: the kind of target that a data set must give (`thawline.datasets.Splits.target`).
        HEADLINE: the metric that stands for a run where one number is shown.
        TIE_BREAK: the metric that decides where the one that is compared ties; None: the first of the equals.
        MONITORS: the metrics that may choose the epoch.
        TARGET_ARRAY: the name of the targets among what `predictions` gives.
        TRAINING_SCORES: what `training_scores` gives, in its order.
    """

    NAME: ClassVar[str]
    TARGET: ClassVar[str]
    HEADLINE: ClassVar[str]
    TIE_BREAK: ClassVar[str | None] = "loss"
    MONITORS: ClassVar[tuple[str, ...]]
    TARGET_ARRAY: ClassVar[str] = "target"
    TRAINING_SCORES: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def outputs(self, classes: Sequence[str]) -> tuple[str, ...]:
        """What each output of the head stands for; `classes` are the data set's, if it has any."""

    @abstractmethod
    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> Mapping[str, LossTerm]:
        """The named terms of the loss of a batch; what is minimised is the sum of their means."""

    def constant_loss(self, outputs: Sequence[str]) -> float | None:
        """The loss of saying the same of every image, which shows divergence; None: there is no such bound."""
        return None

    def training_scores(self, outputs: torch.Tensor, targets: torch.Tensor) -> Sequence[torch.Tensor]:
        """For each of `TRAINING_SCORES`, its sum over the images of a training batch."""
        return ()

    @abstractmethod
    def metrics(self, outputs: Sequence[str]) -> MetricCollection:
        """The metrics of outputs and targets, by name; `outputs` are their names."""

    @abstractmethod
    def definitions(self, names: Iterable[str]) -> dict[str, MetricDefinition]:
        """The definitions of those of `names` that are metrics of this task."""

    @abstractmethod
    def predictions(self, outputs: torch.Tensor, targets: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """What is kept of each image: arrays by name, (B, ...), from which the metrics can be computed again."""

    def values(self, outputs: torch.Tensor) -> torch.Tensor:
        """What a reader is shown of outputs (B, ...): by default the outputs themselves."""
        return outputs

    @abstractmethod
    def recomputed(self, arrays: Arrays, outputs: Sequence[str]) -> Bounds:
        """The bounds between which each metric lies, from `predictions`, for verification."""

    def record_fields(self, arrays: Arrays, outputs: Sequence[str]) -> dict[str, Any]:
        """What the record has of this task alone, from the predictions on test."""
        return {}

    def per_output(self, targets: NDArray[np.generic], outputs: Sequence[str]) -> list[int]:
        """How many images there are for each output; empty where that has no meaning."""
        return []

    def without_training(
        self, features: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor], outputs: Sequence[str]
    ) -> dict[str, float | None]:
        """Metrics of a source's features (N, D) of ``train`` and ``val`` that need no training at all."""
        return {}
