"""Semantic segmentation: each pixel has one class; outputs are logits (B, C, H, W) at the input's size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from pydantic import Field, field_validator, model_validator

from thawline.datasets.targets import IGNORE
from thawline.errors import counted, usage_error
from thawline.records.metrics import MetricDefinition
from thawline.tasks.semantic_segmentation.losses import cross_entropy, dice, focal
from thawline.tasks.semantic_segmentation.masks import OriginalMasks, TrainingMasks
from thawline.tasks.semantic_segmentation.shown import ClassMask, predicted_classes
from thawline.tasks.shown import Shown
from thawline.tasks.task import LossTerm, SpatialTask

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from thawline.tasks.semantic_segmentation.metrics import SegmentationMetrics, Targets
    from thawline.tasks.targets import Views
    from thawline.tasks.task import Arrays, Bounds
    from thawline.transforms import Placement, Transform

_DEFINITIONS = {
    "loss": MetricDefinition(direction="min", label="cross-entropy", lower=0.0),
    "mean_iou": MetricDefinition(direction="max", label="mean IoU", lower=0.0, upper=1.0),
    "pixel_accuracy": MetricDefinition(direction="max", label="pixel accuracy", lower=0.0, upper=1.0),
    "dice": MetricDefinition(direction="max", label="mean dice", lower=0.0, upper=1.0),
}


@final
class SemanticSegmentation(SpatialTask):
    """One class for each pixel. Metrics are of the image's own pixels; 255 in a mask is no class and ignored.

    What is minimised is the weighted sum of three losses (`thawline.tasks.semantic_segmentation.losses`).

    Attributes:
        cross_entropy: The weight of the cross-entropy, a mean over pixels.
        dice: The weight of the dice loss, a mean over images.
        focal: The weight of the focal loss, a mean over pixels.
        focal_gamma: How much less the focal loss counts a pixel that is right already; 0 is the cross-entropy.
        class_weights: One factor for each class, in the data set's order, on the cross-entropy of its pixels.
        label_smoothing: Mixes each pixel's target of the cross-entropy with the uniform distribution over the classes.
    """

    NAME: ClassVar[str] = "semantic_segmentation"
    TARGET: ClassVar[str] = "mask"
    HEADLINE: ClassVar[str] = "mean_iou"
    MONITORS: ClassVar[tuple[str, ...]] = ("mean_iou", "pixel_accuracy", "dice", "loss")
    TRAINING_SCORES: ClassVar[tuple[str, ...]] = ("pixel_accuracy",)
    COUNTS_IMAGES: ClassVar[bool] = False
    IMAGE_SCORE: ClassVar[str] = "mean IoU over the classes that the image shows or is said to show"
    SHOWN: ClassVar[type[Shown]] = ClassMask

    cross_entropy: float = Field(default=1.0, ge=0.0)
    dice: float = Field(default=0.0, ge=0.0)
    focal: float = Field(default=0.0, ge=0.0)
    focal_gamma: float = Field(default=2.0, ge=0.0)
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)

    @field_validator("class_weights")
    @classmethod
    def _not_negative(cls, weights: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if weights is not None and (min(weights, default=0.0) < 0.0 or not any(weights)):
            raise ValueError("weights of classes are not negative, and one of them is above 0")
        return weights

    @model_validator(mode="after")
    def _something_to_minimise(self) -> SemanticSegmentation:
        if not (self.cross_entropy or self.dice or self.focal):
            raise ValueError("cross_entropy, dice and focal are 0: there is nothing to minimise")
        return self

    def outputs(self, classes: Sequence[str]) -> tuple[str, ...]:
        """A map of logits for each class."""
        weights = self.class_weights
        if weights is not None and len(weights) != len(classes):
            raise usage_error(
                "task.class_weights",
                f"{counted(len(weights), 'weight')} for {len(classes)} classes: {', '.join(classes)}",
            )
        return tuple(classes)

    def training_targets(self, targets: NDArray[Any], views: Views) -> TrainingMasks:
        """Classes (B, H, W), int64, in the pixels of the augmented input; what lies outside the image is `IGNORE`."""
        return TrainingMasks(targets, views)

    def evaluation_targets(self, targets: NDArray[Any], transform: Transform) -> OriginalMasks:
        """Of each image its ``mask`` (h, w), uint8 in its own pixels, and its ``placement`` in the input."""
        return OriginalMasks(targets, transform)

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> Mapping[str, LossTerm]:
        """The weighted terms of logits (B, C, H, W) and classes (B, H, W) in the input's pixels."""
        logits = outputs.float()
        found = {}
        if self.cross_entropy:
            term = cross_entropy(logits, targets, self.class_weights, self.label_smoothing)
            found["cross_entropy"] = _weighted(term, self.cross_entropy)
        if self.dice:
            found["dice"] = _weighted(dice(logits, targets), self.dice)
        if self.focal:
            found["focal"] = _weighted(focal(logits, targets, self.focal_gamma), self.focal)
        return found

    def constant_loss(self, outputs: Sequence[str]) -> float | None:
        """Log C where the loss is the plain cross-entropy: every class with the same probability."""
        if self.dice or self.focal or self.class_weights is not None:
            return None
        return self.cross_entropy * math.log(len(outputs))

    def training_scores(self, outputs: torch.Tensor, targets: torch.Tensor) -> Sequence[torch.Tensor]:
        """The sum over the images of the share of counted pixels that are right."""
        counted = targets != IGNORE
        # On a CPU torch's argmax over classes takes five times as long.
        right = ((outputs.max(dim=1).indices == targets) & counted).sum(dim=(1, 2))
        return ((right / counted.sum(dim=(1, 2)).clamp(min=1)).sum(),)

    def metrics(self, outputs: Sequence[str]) -> SegmentationMetrics:
        """mean_iou, pixel_accuracy, dice and loss, in the images' own pixels."""
        from thawline.tasks.semantic_segmentation.metrics import SegmentationMetrics

        return SegmentationMetrics(len(outputs))

    def definitions(self, names: Iterable[str]) -> dict[str, MetricDefinition]:
        """Direction, label and bounds of each metric."""
        return {name: _DEFINITIONS[name] for name in sorted(names) if name in _DEFINITIONS}

    def predictions(self, outputs: torch.Tensor, targets: Targets) -> Mapping[str, torch.Tensor]:
        """``intersection``, ``predicted``, ``truth`` (B, C) int64 pixels; ``loss_sum``, ``loss_count`` (B,)."""
        from thawline.tasks.semantic_segmentation.metrics import pixel_counts

        return pixel_counts(outputs, targets)

    def values(self, outputs: torch.Tensor) -> torch.Tensor:
        """The probabilities of the classes (B, C, H, W), float32."""
        return outputs.float().softmax(dim=1)

    def shown(
        self, outputs: torch.Tensor, names: Sequence[str], placements: Sequence[Placement] = (), score: float = 0.5
    ) -> list[ClassMask]:
        """The most probable class of each of the image's own pixels."""
        pairs = zip(outputs, placements, strict=True)
        return [ClassMask(predicted_classes(logits, placement), tuple(names)) for logits, placement in pairs]

    def true(self, targets: Targets, names: Sequence[str]) -> list[ClassMask]:
        """The masks."""
        return [ClassMask(target["mask"].numpy(), tuple(names)) for target in targets]

    def why_missing(self, metric: str) -> str:
        """Without a labelled pixel nothing can be measured."""
        return "no image has a labelled pixel"

    def image_scores(self, arrays: Arrays, outputs: Sequence[str]) -> NDArray[np.float64]:
        """The mean IoU over the classes that the image shows or is said to show; NaN where no pixel counts."""
        intersection, predicted, truth = (
            arrays[name].astype(np.int64) for name in ("intersection", "predicted", "truth")
        )
        union = predicted + truth - intersection
        classes = (union > 0).sum(axis=1)
        iou = intersection / np.maximum(union, 1)
        return np.where(classes > 0, iou.sum(axis=1) / np.maximum(classes, 1), np.nan)

    def recomputed(self, arrays: Arrays, outputs: Sequence[str]) -> Bounds:
        """The metrics of the pixel counts on file."""
        from thawline.tasks.semantic_segmentation.metrics import metrics_of

        values = {name: float(value) for name, value in metrics_of(_summed(arrays)).items()}
        return {name: (value, value) for name, value in values.items() if math.isfinite(value)}

    def record_fields(self, arrays: Arrays, outputs: Sequence[str]) -> dict[str, Any]:
        """``per_class``: the IoU and the dice of each class; None: it is neither shown nor predicted."""
        from thawline.tasks.semantic_segmentation.metrics import of_classes

        table = {name: values.tolist() for name, values in of_classes(_summed(arrays)).items()}
        return {
            "per_class": {
                output: {name: _or_none(values[index]) for name, values in table.items()}
                for index, output in enumerate(outputs)
            }
        }

    def per_output(self, targets: NDArray[Any], outputs: Sequence[str]) -> list[int]:
        """How many images show each class."""
        return [sum(index in mask.present for mask in targets) for index in range(len(outputs))]

    def per_output_on_file(self, arrays: Arrays, outputs: Sequence[str]) -> list[int]:
        """The same by the pixels of each class."""
        return [int(images) for images in np.count_nonzero(arrays["truth"], axis=0)]


def _weighted(term: LossTerm, weight: float) -> LossTerm:
    return LossTerm(weight * term.mean, term.count)


def _summed(arrays: Arrays) -> dict[str, torch.Tensor]:
    import torch

    from thawline.tasks.semantic_segmentation.metrics import COUNTS

    return {name: torch.from_numpy(arrays[name]).sum(dim=0) for name in COUNTS}


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
