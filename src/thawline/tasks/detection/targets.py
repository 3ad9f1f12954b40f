"""The objects of images as detectors are trained on them, and as they are evaluated on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from thawline.tasks.targets import Target, Views
    from thawline.transforms import Transform

    Rows = NDArray[np.int64]


@dataclass(frozen=True)
class TrainingObjects:
    """Objects in the pixels of the input, in each epoch where the view of the image has them; crowds are left out.

    Attributes:
        objects: (N,) `thawline.datasets.targets.Objects`.
        views: what augmentation makes of an image.
        masks: whether the pixels of each object are read.
    """

    objects: NDArray[Any]
    views: Views
    masks: bool = False

    def placed(self, row: int) -> Target:
        """Before augmentation: ``boxes`` (n, 4) float32, ``labels`` (n,) int64, ``masks`` (n, H, W) uint8."""
        import torch

        objects = self.objects[row]
        kept = ~objects.crowd
        placement = self.views.transform.placement(objects.size)
        target = {
            "boxes": placement.boxes_to_input(torch.from_numpy(objects.boxes[kept])),
            "labels": torch.from_numpy(objects.labels[kept]),
        }
        if self.masks:
            target["masks"] = placement.mask_to_input(objects.masks(objects.size)[kept], 0)
        return target

    def read(self, epoch: int, rows: Rows) -> list[Target]:
        """Those of each image in this epoch."""
        return [self.views.target(self.placed(row), epoch, row) for row in rows.tolist()]


@dataclass(frozen=True)
class EvaluationObjects:
    """Objects in the pixels of the image itself, crowds too.

    Attributes:
        objects: (N,) `thawline.datasets.targets.Objects`.
        transform: says how each image lies in the input.
        masks: whether the pixels of each object are read.
    """

    objects: NDArray[Any]
    transform: Transform
    masks: bool = False

    def read(self, epoch: int, rows: Rows) -> list[dict[str, Any]]:
        """Of each image ``boxes`` (n, 4), ``labels``, ``crowd`` (n,), ``masks`` (n, h, w), ``placement``, ``row``."""
        return [self._of(row) for row in rows.tolist()]

    def _of(self, row: int) -> dict[str, Any]:
        import torch

        objects = self.objects[row]
        masks: dict[str, torch.Tensor] = {}
        if self.masks:
            masks["masks"] = torch.from_numpy(objects.masks(objects.size))
        return {
            "boxes": torch.from_numpy(objects.boxes),
            "labels": torch.from_numpy(objects.labels),
            "crowd": torch.from_numpy(objects.crowd),
            "placement": self.transform.placement(objects.size),
            "row": row,
            **masks,
        }
