"""Multi-label classification: an image has any number of classes; outputs are logits (B, C), targets 0 or 1 (B, C)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, final

from thawline.records.metrics import MetricDefinition
from thawline.tasks.shown import Probabilities, Shown
from thawline.tasks.task import LossTerm, Task

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from thawline.tasks.multilabel.metrics import MultilabelMetrics
    from thawline.tasks.task import Arrays, Bounds
    from thawline.transforms import Placement

_DEFINITIONS = {
    "loss": MetricDefinition(direction="min", label="binary cross-entropy", lower=0.0),
    "map": MetricDefinition(direction="max", label="mean average precision", lower=0.0, upper=1.0),
    "macro_f1": MetricDefinition(direction="max", label="macro F1", lower=0.0, upper=1.0),
    "micro_f1": MetricDefinition(direction="max", label="micro F1", lower=0.0, upper=1.0),
}


@final
class Multilabel(Task):
    """Any number of classes for each image, each by its own binary cross-entropy."""

    NAME: ClassVar[str] = "multilabel"
    TARGET: ClassVar[str] = "classes"
    HEADLINE: ClassVar[str] = "map"
    MONITORS: ClassVar[tuple[str, ...]] = ("map", "macro_f1", "micro_f1", "loss")
    IMAGE_SCORE: ClassVar[str] = "F1 of the image's classes at a probability of one half"
    SHOWN: ClassVar[type[Shown]] = Probabilities

    def outputs(self, classes: Sequence[str]) -> tuple[str, ...]:
        """A logit for each class."""
        return tuple(classes)

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> Mapping[str, LossTerm]:
        """The binary cross-entropy, a mean over images and classes."""
        from torch.nn import functional as F

        mean = F.binary_cross_entropy_with_logits(outputs.float(), targets.float())
        return {"loss": LossTerm(mean, len(targets))}

    def constant_loss(self, outputs: Sequence[str]) -> float:
        """Log 2: each class with a probability of one half."""
        return math.log(2)

    def constant_scores(self, per_output: Sequence[int], images: int) -> dict[str, float]:
        """Of images with the same score, the precision is the share that shows the class."""
        shares = [count / images for count in per_output if count]
        return {"map": sum(shares) / len(shares)} if len(shares) > 1 else {}

    def metrics(self, outputs: Sequence[str]) -> MultilabelMetrics:
        """map, macro_f1, micro_f1 and loss of logits (B, C) and classes (B, C)."""
        from thawline.tasks.multilabel.metrics import MultilabelMetrics

        return MultilabelMetrics()

    def definitions(self, names: Iterable[str]) -> dict[str, MetricDefinition]:
        """Direction, label and bounds of each metric."""
        return {name: _DEFINITIONS[name] for name in sorted(names) if name in _DEFINITIONS}

    def predictions(self, outputs: torch.Tensor, targets: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """``target`` (B, C), uint8, and ``logits`` (B, C), float32."""
        import torch

        return {"target": targets.to(torch.uint8), "logits": outputs.float()}

    def values(self, outputs: torch.Tensor) -> torch.Tensor:
        """The probabilities of the classes (B, C), float32."""
        return outputs.float().sigmoid()

    def shown(
        self, outputs: torch.Tensor, names: Sequence[str], placements: Sequence[Placement] = (), score: float = 0.5
    ) -> list[Probabilities]:
        """The probability of each class; the image has those of at least one half."""
        rows = self.values(outputs).tolist()
        return [Probabilities(dict(zip(names, row, strict=True)), one=False) for row in rows]

    def why_missing(self, metric: str) -> str:
        """An average precision needs an image that shows a class."""
        return "no image shows any of the classes"

    def image_scores(self, arrays: Arrays, outputs: Sequence[str]) -> NDArray[np.float64]:
        """The F1 of the image's classes at a probability of one half; 1 where it has none and is said to have none."""
        import numpy as np

        predicted, truth = arrays["logits"].astype(np.float32) > 0, arrays["target"].astype(bool)
        counted = predicted.sum(axis=1) + truth.sum(axis=1)
        right = 2.0 * (predicted & truth).sum(axis=1)
        return np.where(counted == 0, 1.0, right / np.maximum(counted, 1))

    def recomputed(self, arrays: Arrays, outputs: Sequence[str]) -> Bounds:
        """The metrics of the logits on file."""
        from thawline.tasks.multilabel.metrics import multilabel_metrics

        found = {name: float(value) for name, value in multilabel_metrics(*_on_file(arrays)).items()}
        return {name: (value, value) for name, value in found.items() if math.isfinite(value)}

    def record_fields(self, arrays: Arrays, outputs: Sequence[str]) -> dict[str, Any]:
        """``per_class``: average precision and F1 of each class; None: see `multilabel_metrics`."""
        from thawline.tasks.multilabel.metrics import average_precisions, f1_of_classes

        logits, truth = _on_file(arrays)
        table = {
            "average_precision": average_precisions(logits, truth).tolist(),
            "f1": f1_of_classes(logits, truth).tolist(),
        }
        return {
            "per_class": {
                output: {name: _or_none(values[index]) for name, values in table.items()}
                for index, output in enumerate(outputs)
            }
        }

    def per_output(self, targets: NDArray[Any], outputs: Sequence[str]) -> list[int]:
        """How many images have each class."""
        return [int(count) for count in targets.astype(bool).sum(axis=0)]


def _on_file(arrays: Arrays) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    return torch.from_numpy(arrays["logits"]), torch.from_numpy(arrays["target"]).bool()


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
