"""What a task is: the one place that knows what a target means, and everything that follows from it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from thawline.records.metrics import MetricDefinition
from thawline.specs import Spec
from thawline.tasks.shown import Numbers, Shown
from thawline.tasks.targets import ArrayTargets, MovingTargets, Targets, Views

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from thawline.transforms import Placement, Transform

    Arrays = Mapping[str, NDArray[np.generic]]
    Bounds = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class LossTerm:
    """One named part of the loss: its mean over a batch, and over how many items the mean is taken.

    A mean over no items is 0.
    """

    mean: torch.Tensor
    count: int


class Metrics(Protocol):
    """What computes a task's metrics, batch by batch, over all devices; torchmetrics' `MetricCollection` is one."""

    def update(self, outputs: Any, targets: Any) -> None:
        """Add a batch."""
        ...

    def compute(self) -> Mapping[str, Any]:
        """Each metric, a scalar; NaN where it does not exist."""
        ...

    def reset(self) -> None:
        """Forget all batches."""
        ...


class Task(Spec):
    """Base of every task: a target's meaning, the loss, the metrics, and what is kept of each image.

    B is a batch's number of images; what a target and an output are is the task's own business: tensors whose first
    dimension counts images, or a sequence with an entry for each image.

    Attributes:
        NAME: the task's name, in records and on the command line.
        TARGET: the kind of target that a data set must give (`thawline.datasets.Splits.target`).
        HEADLINE: the metric that stands for a run where one number is shown.
        TIE_BREAK: the metric that decides where the one that is compared ties; None: the first of the equals.
        MONITORS: the metrics that may choose the epoch.
        TARGET_ARRAY: the name of the targets among what `predictions` gives.
        TRAINING_SCORES: what `training_scores` gives, in its order.
        HEAD_TAKES_TARGETS: whether the head computes the losses itself, from the targets, in training.
        COUNTS_IMAGES: whether each term of the loss is a mean over the images of a batch.
        IMAGE_SCORE: what `image_scores` are, in words; empty: there are none.
        RIGHT_OR_WRONG: whether these are 1 and 0, which `predictions` say by themselves.
        SHOWN: what a reader is shown of an image.
    """

    NAME: ClassVar[str]
    TARGET: ClassVar[str]
    HEADLINE: ClassVar[str]
    TIE_BREAK: ClassVar[str | None] = "loss"
    MONITORS: ClassVar[tuple[str, ...]]
    TARGET_ARRAY: ClassVar[str] = "target"
    TRAINING_SCORES: ClassVar[tuple[str, ...]] = ()
    HEAD_TAKES_TARGETS: ClassVar[bool] = False
    COUNTS_IMAGES: ClassVar[bool] = True
    IMAGE_SCORE: ClassVar[str] = ""
    RIGHT_OR_WRONG: ClassVar[bool] = False
    SHOWN: ClassVar[type[Shown]] = Numbers

    @abstractmethod
    def outputs(self, classes: Sequence[str]) -> tuple[str, ...]:
        """What each output of the head stands for; `classes` are the data set's, if it has any."""

    def training_targets(self, targets: NDArray[Any], views: Views) -> Targets:
        """The targets (N, ...) of a data set's images as the model is trained with them."""
        return ArrayTargets(targets)

    def evaluation_targets(self, targets: NDArray[Any], transform: Transform) -> Targets:
        """The same as the model is evaluated on them."""
        return ArrayTargets(targets)

    def remarks(self, targets: NDArray[Any]) -> Sequence[str]:
        """What of the training targets (N, ...) a reader has to know, such as that they do not fit the settings."""
        return ()

    @abstractmethod
    def losses(self, outputs: Any, targets: Any) -> Mapping[str, LossTerm]:
        """The named terms of the loss of a batch; what is minimised is the sum of their means."""

    def constant_loss(self, outputs: Sequence[str]) -> float | None:
        """The loss of saying the same of every image, which shows divergence; None: there is no such bound."""
        return None

    def constant_scores(self, per_output: Sequence[int], images: int) -> dict[str, float]:
        """What saying the same of every image can score at best, by metric of which more is better.

        A run that is better by none of them has learned nothing. Empty where that is not known.

        Args:
            per_output: how many of the images each output is right for (see `per_output`).
            images: how many there are.
        """
        return {}

    def training_scores(self, outputs: Any, targets: Any) -> Sequence[torch.Tensor]:
        """For each of `TRAINING_SCORES`, its sum over the images of a training batch."""
        return ()

    @abstractmethod
    def metrics(self, outputs: Sequence[str]) -> Metrics:
        """The metrics of outputs and targets, by name; `outputs` are their names."""

    @abstractmethod
    def definitions(self, names: Iterable[str]) -> dict[str, MetricDefinition]:
        """The definitions of those of `names` that are metrics of this task."""

    @abstractmethod
    def predictions(self, outputs: Any, targets: Any) -> Mapping[str, torch.Tensor | Sequence[torch.Tensor]]:
        """What is kept of each image, from which the metrics can be computed again.

        By name, a tensor (B, ...), or B tensors whose first dimensions differ, such as the boxes of each image. On file
        those are one array, with the length of each image's part under ``<name>_rows``.
        """

    @property
    def outputs_told(self) -> str:
        """How the outputs of the plain network become numbers in the targets' units; empty where they are those."""
        return ""

    def values(self, outputs: Any) -> Any:
        """What a reader is shown of outputs (B, ...): by default the outputs themselves."""
        return outputs

    def shown(
        self, outputs: Any, names: Sequence[str], placements: Sequence[Placement] = (), score: float = 0.5
    ) -> Sequence[Shown]:
        """What a reader is shown of each image of a batch.

        Args:
            outputs: of the head, for B images.
            names: of the outputs.
            placements: where each image lies in its input, of a `SpatialTask`.
            score: of found objects, the least that is shown.
        """
        return [Numbers(dict(zip(names, row, strict=True))) for row in self.values(outputs).tolist()]

    def image_scores(self, arrays: Arrays, outputs: Sequence[str]) -> NDArray[np.float64]:
        """How well each image was predicted (N,), by what is kept of it: more is better, NaN where there is no score.

        Worst and best images are found by it, and statistics over images pair by it.
        """
        import numpy as np

        return np.full(len(arrays["index"]), np.nan)

    def ranking(self, arrays: Arrays, outputs: Sequence[str]) -> tuple[str, NDArray[np.float64]]:
        """What the worst images are found by, in words, and its values (N,): by default `image_scores`."""
        return self.IMAGE_SCORE, self.image_scores(arrays, outputs)

    def why_missing(self, metric: str) -> str:
        """Why a metric has no value where it has none, such as that no image shows what it measures."""
        return "there is nothing to compute it from"

    @abstractmethod
    def recomputed(self, arrays: Arrays, outputs: Sequence[str]) -> Bounds:
        """The bounds between which each metric lies, from `predictions`, for verification."""

    def record_fields(self, arrays: Arrays, outputs: Sequence[str]) -> dict[str, Any]:
        """What the record has of this task alone, from the predictions on test."""
        return {}

    def per_output(self, targets: NDArray[Any], outputs: Sequence[str]) -> list[int]:
        """How many images there are for each output, by a data set's targets (N, ...); empty: it has no meaning."""
        return []

    def per_output_on_file(self, arrays: Arrays, outputs: Sequence[str]) -> list[int]:
        """The same by what is kept of each image."""
        return self.per_output(arrays[self.TARGET_ARRAY], outputs)

    def without_training(
        self, features: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor], outputs: Sequence[str]
    ) -> dict[str, float | None]:
        """Metrics of a source's features (N, D) of ``train`` and ``val`` that need no training at all."""
        return {}


class SpatialTask(Task):
    """A task whose targets lie in the image: masks, boxes.

    Nothing of an image may be cut off to make the input, image and target move together, and the head reads feature
    maps.
    """

    @abstractmethod
    def training_targets(self, targets: NDArray[Any], views: Views) -> MovingTargets:
        """The targets (N,) of a data set's images in the pixels of the input."""

    @abstractmethod
    def evaluation_targets(self, targets: NDArray[Any], transform: Transform) -> Targets:
        """The same in the pixels of the images, one dictionary an image, with its ``placement`` in the input."""

    @abstractmethod
    def true(self, targets: Any, names: Sequence[str]) -> Sequence[Shown]:
        """What is true of each image of a batch, by its evaluation targets."""
