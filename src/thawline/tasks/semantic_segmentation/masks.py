"""How masks are read: at the input's size in training, in the image's own pixels in evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from thawline.datasets.targets import IGNORE

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from thawline.tasks.targets import Rows, Target, Views
    from thawline.transforms import Transform


_MOST_KEPT_BYTES = 64 * 2**20
"""Of the decoded masks of a split."""


@dataclass
class _Kept:
    """Decoded masks: a fit reads each of them in every epoch, and decoding one costs as much as a step on a head."""

    masks: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    room: int = _MOST_KEPT_BYTES

    def mask(self, row: int, decode: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The mask of this row, (H, W), decoded now if it is not kept."""
        found = self.masks.get(row)
        if found is None:
            found = decode()
            if found.nbytes <= self.room:
                self.masks[row] = found
                self.room -= found.nbytes
        return found


@dataclass(frozen=True)
class TrainingMasks:
    """Masks that move with their images: scaled to the input by the nearest pixel, then augmented.

    Attributes:
        masks: (N,) `thawline.datasets.Mask`.
        views: what augmentation makes of the images.
    """

    masks: NDArray[Any]
    views: Views
    _kept: _Kept = field(default_factory=_Kept, repr=False, compare=False)

    def placed(self, row: int) -> Target:
        """``mask``: the classes (H, W), uint8, at the input's size before augmentation."""
        import torch
        from torchvision import tv_tensors

        return {"mask": tv_tensors.Mask(torch.as_tensor(self._kept.mask(row, lambda: self._at_input_size(row))))}

    def _at_input_size(self, row: int) -> NDArray[np.uint8]:
        import numpy as np

        mask = self.masks[row].read()
        return np.asarray(self.views.transform.placement(mask.shape).mask_to_input(mask, IGNORE))

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
    _kept: _Kept = field(default_factory=_Kept, repr=False, compare=False)

    def read(self, epoch: int, rows: Rows) -> list[Target]:
        """Of each of the B images ``mask`` (h, w), uint8, and ``placement``."""
        import torch

        masks: list[NDArray[np.uint8]] = [self._kept.mask(row, self.masks[row].read) for row in rows.tolist()]
        return [{"mask": torch.from_numpy(mask), "placement": self.transform.placement(mask.shape)} for mask in masks]
