"""The metrics of semantic segmentation, from pixel counts that are summed over the data set.

Intersection and union of a class are summed over all images before they are divided: a mean over images would count a
pixel of a rare class more in an image that shows little of it. A class that is neither shown nor predicted anywhere has
no value and is left out of the means; one that is only predicted counts as 0 there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from torchmetrics import Metric

from thawline.datasets.targets import IGNORE

if TYPE_CHECKING:
    Targets = Sequence[Mapping[str, Any]]

COUNTS = ("intersection", "predicted", "truth", "loss_sum", "loss_count")


def pixel_counts(outputs: torch.Tensor, targets: Targets) -> dict[str, torch.Tensor]:
    """What each image adds to the metrics, counted in its own pixels.

    Args:
        outputs: logits (B, C, H, W) at the input's size.
        targets: of each image its ``mask`` (h, w), uint8 in the image's own pixels, and its ``placement``.

    Returns:
        By class, (B, C) int64: ``intersection``, the pixels that are predicted as the class and are of it,
        ``predicted`` and ``truth``; of the image, (B,): ``loss_sum``, float64, the sum of the cross-entropies of
        ``loss_count`` pixels. Ignored pixels are in none of them.
    """
    images = [
        _of_image(target["placement"].maps_to_original(logits.float()), target["mask"].to(logits.device))
        for logits, target in zip(outputs, targets, strict=True)
    ]
    return {name: torch.stack([image[name] for image in images]) for name in COUNTS}


def metrics_of(counts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """mean_iou, pixel_accuracy, dice and loss of `pixel_counts` that are summed over images; NaN: there is none."""
    values = of_classes(counts)
    return {
        "mean_iou": values["iou"].nanmean(),
        "pixel_accuracy": counts["intersection"].sum().double() / counts["truth"].sum(),
        "dice": values["dice"].nanmean(),
        "loss": counts["loss_sum"] / counts["loss_count"],
    }


def of_classes(counts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The IoU and the dice of each class, (C,) float64; NaN: it is neither shown nor predicted."""
    both = counts["predicted"] + counts["truth"]
    intersection = counts["intersection"].double()
    return {"iou": intersection / (both - counts["intersection"]), "dice": 2.0 * intersection / both}


class SegmentationMetrics(Metric):
    """mean_iou, pixel_accuracy, dice and loss over all images seen; sums, so that devices add up exactly."""

    full_state_update = False

    def __init__(self, classes: int) -> None:
        super().__init__()
        for name in ("intersection", "predicted", "truth"):
            self.add_state(name, default=torch.zeros(classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("loss_sum", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("loss_count", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, outputs: torch.Tensor, targets: Targets) -> None:
        """Add logits (B, C, H, W) and what `pixel_counts` takes of their images."""
        for name, counted in pixel_counts(outputs, targets).items():
            setattr(self, name, getattr(self, name) + counted.sum(dim=0))

    def compute(self) -> dict[str, torch.Tensor]:
        """The metrics by name, scalars."""
        return metrics_of({name: getattr(self, name) for name in COUNTS})


def _of_image(logits: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """The counts of one image, of logits (C, h, w) as they lie in memory: by pixel they take four times as long."""
    classes, truths = len(logits), mask.long()
    # The confusion of truth (rows, the last one for what is ignored) and prediction (columns), counted in one go.
    pairs = truths.where(mask != IGNORE, classes) * classes + logits.max(dim=0).indices
    confusion = pairs.flatten().bincount(minlength=(classes + 1) * classes).view(classes + 1, classes)[:classes]
    loss = F.cross_entropy(logits[None], truths[None], ignore_index=IGNORE, reduction="sum")
    return {
        "intersection": confusion.diagonal(),
        "predicted": confusion.sum(dim=0),
        "truth": confusion.sum(dim=1),
        "loss_sum": loss.double(),
        "loss_count": confusion.sum(),
    }
