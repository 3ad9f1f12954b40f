"""How a fit reads targets: a batch's worth at a time, as the task wants them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from thawline.transforms import Transform

    Rows = NDArray[np.int64]

Target = Mapping[str, Any]
"""An image's target that moves with it: torchvision's ``tv_tensors``, and what goes with their rows, by name."""


class Targets(Protocol):
    """The targets of a data set's images, as the model is trained with them or evaluated on them."""

    def read(self, epoch: int, rows: Rows) -> Any:
        """Those of these rows in this epoch: a tensor (B, ...), or one entry for each of the B images."""
        ...


class MovingTargets(Targets, Protocol):
    """Targets that lie in the image, and move with it."""

    def placed(self, row: int) -> Target:
        """An image's target at the input's size, before augmentation: torchvision's ``tv_tensors`` by name."""
        ...


@dataclass(frozen=True)
class ArrayTargets:
    """Targets that are rows of an array, (N, ...), the same in every epoch."""

    array: NDArray[Any]

    def read(self, epoch: int, rows: Rows) -> torch.Tensor:
        """A tensor (B, ...)."""
        import torch

        return torch.from_numpy(self.array[rows])


@dataclass(frozen=True)
class Views:
    """The views of the training images: what augmentation makes of an image in an epoch.

    Attributes:
        transform: the fitted transform.
        data_seed: decides the views, with the view's number and the image's row.
        count: epochs cycle through that many views of each image; 0: each epoch has its own.
    """

    transform: Transform
    data_seed: int
    count: int = 0

    def number(self, epoch: int) -> int:
        """Which view an epoch sees."""
        return epoch % self.count if self.count else epoch

    def image(self, image: torch.Tensor, epoch: int, row: int, target: Target | None = None) -> torch.Tensor:
        """The view of an image, uint8 (3, H, W) as the image; with its target where the draws depend on it."""
        if target is None:
            return self.transform.augment(image, self.data_seed, self.number(epoch), row)
        view: torch.Tensor = self.transform.augment(image, self.data_seed, self.number(epoch), row, target)[0]
        return view

    def target(self, target: Target, epoch: int, row: int) -> Target:
        """An image's target in its view, without the image: its pixels decide nothing."""
        if not self.transform.is_random:
            return target
        import torch

        blank = torch.zeros((3, *self.transform.output_size), dtype=torch.uint8)
        moved: Target = self.transform.augment(blank, self.data_seed, self.number(epoch), row, target)[1]
        return moved
