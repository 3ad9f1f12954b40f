"""How masks are read: at the input's size in training, in the image's own pixels in evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thawline.datasets.targets import IGNORE

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from thawline.tasks.targets import Rows, Target, Views
    from thawline.transforms import Transform


@dataclass(frozen=True)
class TrainingMasks:
    """Masks that move with their images: scaled to the input by the nearest pixel, then augmented.

    Attributes:
        masks: (N,) `thawline.datasets.Mask`.
        views: what augmentation makes of the images.
    """

    masks: NDArray[Any]
    views: Views

    def placed(self, row: int) -> Target:
        """``mask``: the classes (H, W), uint8, at the input's size before augmentation."""
        import torch
        from torchvision import tv_tensors

        mask = self.masks[row].read()
        placement = self.views.transform.placement(mask.shape)
        return {"mask": tv_tensors.Mask(torch.as_tensor(placement.mask_to_input(mask, IGNORE)))}

    def read(self, epoch: int, rows: Rows) -> torch.Tensor:
        """Classes (B, H, W), int64."""
        import torch

        moved = [self.views.target(self.placed(row), epoch, row)["mask"] for row in rows.tolist()]
        return torch.stack([mask.as_subclass(torch.Tensor) for mask in moved]).long()


@dataclass(frozen=True)
class OriginalMasks:
    """Masks in their images' own pixels, each with where its image lies in the input.

    Attributes:
        masks: (N,) `thawline.datasets.Mask`.
        transform: the fitted transform.
    """

    masks: NDArray[Any]
    transform: Transform

    def read(self, epoch: int, rows: Rows) -> list[Target]:
        """Of each of the B images ``mask`` (h, w), uint8, and ``placement``."""
        import torch

        masks: list[NDArray[np.uint8]] = [self.masks[row].read() for row in rows.tolist()]
        return [{"mask": torch.from_numpy(mask), "placement": self.transform.placement(mask.shape)} for mask in masks]
