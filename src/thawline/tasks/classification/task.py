"""Image classification: each image has one class; outputs are logits (B, C), targets class indices (B,)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from pydantic import Field

from thawline.records.metrics import MetricDefinition, classification_definitions
from thawline.tasks.shown import Probabilities, Shown
from thawline.tasks.task import LossTerm, Task

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torchmetrics import MetricCollection

    from thawline.tasks.task import Arrays, Bounds
    from thawline.transforms import Placement

_LEAST_PROBABILITY = 1e-30
"""Below it a float32 probability says too little of its logarithm."""


@final
class Classification(Task):
    """One class for each image, by cross-entropy.

    Attributes:
        label_smoothing: Mixes each target with the uniform distribution over the classes (Szegedy et al. 2016).
        top_k: Adds a top-k accuracy to the metrics.
    """

    NAME: ClassVar[str] = "classification"
    TARGET: ClassVar[str] = "class"
    HEADLINE: ClassVar[str] = "top1"
    MONITORS: ClassVar[tuple[str, ...]] = ("top1", "macro_accuracy", "macro_f1", "loss")
    TARGET_ARRAY: ClassVar[str] = "label"
    TRAINING_SCORES: ClassVar[tuple[str, ...]] = ("top1",)
    IMAGE_SCORE: ClassVar[str] = "1 where the image is classified right, 0 where it is not"
    RIGHT_OR_WRONG: ClassVar[bool] = True
    SHOWN: ClassVar[type[Shown]] = Probabilities

    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    top_k: int = Field(default=5, ge=1)

    def outputs(self, classes: Sequence[str]) -> tuple[str, ...]:
        """A logit for each class."""
        return tuple(classes)

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> Mapping[str, LossTerm]:
        """The cross-entropy, a mean over the batch."""
        import torch
        from torch.nn import functional as F

        logits = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        mean = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        return {"loss": LossTerm(mean, len(targets))}

    def constant_loss(self, outputs: Sequence[str]) -> float:
        """Log C: every class with the same probability."""
        return math.log(len(outputs))

    def constant_scores(self, per_output: Sequence[int], images: int) -> dict[str, float]:
        """Those of saying the most frequent class; none where all images are of one class."""
        shown = sum(count > 0 for count in per_output)
        return {"top1": max(per_output) / images, "macro_accuracy": 1 / shown} if shown > 1 else {}

    def training_scores(self, outputs: torch.Tensor, targets: torch.Tensor) -> Sequence[torch.Tensor]:
        """How many images of the batch were classified right."""
        return ((outputs.argmax(dim=1) == targets).sum(),)

    def metrics(self, outputs: Sequence[str]) -> MetricCollection:
        """loss, top1, top<k>, macro accuracy, macro F1, calibration error of logits (B, C) and classes (B,)."""
        from thawline.tasks.classification.metrics import classification_metrics

        return classification_metrics(len(outputs), self.top_k)

    def definitions(self, names: Iterable[str]) -> dict[str, MetricDefinition]:
        """Direction, label and bounds of each metric."""
        return classification_definitions(names)

    def predictions(self, outputs: torch.Tensor, targets: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """``label`` (B,) and ``probabilities`` (B, C), float32."""
        return {"label": targets, "probabilities": self.values(outputs)}

    def values(self, outputs: torch.Tensor) -> torch.Tensor:
        """The probabilities of the classes (B, C), float32."""
        return outputs.float().softmax(dim=1)

    def shown(
        self, outputs: torch.Tensor, names: Sequence[str], placements: Sequence[Placement] = (), score: float = 0.5
    ) -> list[Probabilities]:
        """The probability of each class, of which the image has one."""
        return [Probabilities(dict(zip(names, row, strict=True))) for row in self.values(outputs).tolist()]

    def image_scores(self, arrays: Arrays, outputs: Sequence[str]) -> NDArray[np.float64]:
        """1 where the image is classified right, 0 where it is not."""
        right: NDArray[np.bool_] = arrays["probabilities"].argmax(axis=1) == arrays["label"]
        return right.astype(np.float64)

    def ranking(self, arrays: Arrays, outputs: Sequence[str]) -> tuple[str, NDArray[np.float64]]:
        """The probability of the image's class: it tells the surest mistakes from the others."""
        of_class = arrays["probabilities"][np.arange(len(arrays["label"])), arrays["label"].astype(np.int64)]
        return "probability of the image's class", of_class.astype(np.float64)

    def recomputed(self, arrays: Arrays, outputs: Sequence[str]) -> Bounds:
        """The metrics of the probabilities on file.

        The loss is left out where a probability is too small for its logarithm; of a top-k accuracy only bounds are
        known where probabilities are equal that were different logits.
        """
        import torch

        from thawline.tasks.classification.metrics import classification_metrics

        labels, probabilities = arrays["label"].astype(np.int64), arrays["probabilities"]
        if not np.isfinite(probabilities.astype(np.float64)).all():
            return {}
        metrics = classification_metrics(len(outputs), top_k=1)
        # The softmax of logarithms of probabilities are the probabilities.
        logits = torch.from_numpy(np.log(np.maximum(probabilities.astype(np.float64), _LEAST_PROBABILITY)))
        metrics.update(logits, torch.from_numpy(labels))
        bounds = {name: (float(value), float(value)) for name, value in metrics.compute().items()}
        of_labels = probabilities[np.arange(len(labels)), labels].astype(np.float64)
        if (of_labels <= _LEAST_PROBABILITY).any():
            del bounds["loss"]
        # A confidence on the edge of a bin may fall to its other side.
        error, edge = bounds["calibration_error"][0], 2.0 / max(1, len(labels))
        bounds["calibration_error"] = (error - edge, error + edge)
        if 1 < self.top_k < len(outputs):
            bounds[f"top{self.top_k}"] = _top_k(probabilities, of_labels, self.top_k)
        return bounds

    def record_fields(self, arrays: Arrays, outputs: Sequence[str]) -> dict[str, Any]:
        """The confusion matrix (C, C): row = true class, column = predicted class."""
        import torch

        from thawline.tasks.classification.metrics import confusion_matrix

        labels = torch.from_numpy(np.asarray(arrays["label"]))
        predicted = torch.from_numpy(np.asarray(arrays["probabilities"])).argmax(dim=1)
        return {"confusion_matrix": confusion_matrix(labels, predicted, len(outputs))}

    def per_output(self, targets: NDArray[np.generic], outputs: Sequence[str]) -> list[int]:
        """How many images each class has."""
        return [int(count) for count in np.bincount(targets.astype(np.int64), minlength=len(outputs))]

    def without_training(
        self, features: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor], outputs: Sequence[str]
    ) -> dict[str, float | None]:
        """``nearest_mean_top1``: the accuracy of the class whose mean training feature is nearest (Euclidean)."""
        import torch

        train, labels = features["train"], targets["train"]
        means = torch.stack([train[labels == label].mean(dim=0) for label in range(len(outputs))])
        nearest = torch.cdist(features["val"], means).argmin(dim=1)
        return {"nearest_mean_top1": float((nearest == targets["val"]).float().mean())}


def _top_k(probabilities: NDArray[np.generic], of_labels: NDArray[np.float64], k: int) -> tuple[float, float]:
    values = probabilities.astype(np.float64)
    before = (values > of_labels[:, None]).sum(axis=1)
    with_equals = (values >= of_labels[:, None]).sum(axis=1)
    return float((with_equals <= k).mean()), float((before < k).mean())
