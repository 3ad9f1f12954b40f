"""Where an image lies in the model's input, and the way there and back for boxes, masks and maps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Placement:
    """How all of an image of `original` size lies in an input of size `input`.

    Attributes:
        original: (h, w) of the upright image in pixels.
        input: (H, W) of the input in pixels.
        top: rows of the input above the scaled image.
        left: columns of the input on the left of it.
        height: rows of the scaled image.
        width: columns of the scaled image.
    """

    original: Size
    input: Size
    top: int
    left: int
    height: int
    width: int

    def boxes_to_input(self, boxes: Tensor) -> Tensor:
        """Boxes of the image in the input: (n, 4) float, xmin, ymin, xmax, ymax in pixels, as `boxes`."""
        down, right = self._scales
        return boxes * boxes.new_tensor([right, down, right, down]) + self._corner(boxes)

    def boxes_to_original(self, boxes: Tensor) -> Tensor:
        """Boxes of the input in the image, clipped to it: (n, 4) float, as `boxes`."""
        down, right = self._scales
        height, width = self.original
        back = (boxes - self._corner(boxes)) / boxes.new_tensor([right, down, right, down])
        return back.clamp(min=boxes.new_zeros(4), max=boxes.new_tensor([width, height, width, height]))

    def mask_to_input(self, mask: Tensor | NDArray[np.uint8], fill: int) -> Tensor:
        """A mask of the image in the input, by the nearest pixel.

        Args:
            mask: (..., h, w), one or several masks.
            fill: the value where the input shows none of the image.

        Returns:
            (..., H, W), of the type of `mask`.
        """
        import torch

        mask = torch.as_tensor(mask)
        if tuple(mask.shape[-2:]) != self.original:
            raise ValueError(f"a mask of {tuple(mask.shape[-2:])} on an image of {self.original}")
        rows = _nearest(self.original[0], self.height)
        columns = _nearest(self.original[1], self.width)
        inner = mask[..., rows[:, None], columns]
        if (self.height, self.width) == self.input:
            return inner
        whole = inner.new_full((*inner.shape[:-2], *self.input), fill)
        whole[..., self._rows, self._columns] = inner
        return whole

    def maps_to_original(self, values: Tensor) -> Tensor:
        """Maps of the input on the image, without what surrounds it, bilinear between pixels.

        Args:
            values: (..., H, W) float.

        Returns:
            (..., h, w), of the type of `values`.
        """
        from torch.nn import functional as F

        if tuple(values.shape[-2:]) != self.input:
            raise ValueError(f"maps of {tuple(values.shape[-2:])} for an input of {self.input}")
        inner = values[..., self._rows, self._columns]
        planes = inner.reshape(math.prod(inner.shape[:-2]), 1, self.height, self.width)
        return F.interpolate(planes, self.original, mode="bilinear").reshape(*inner.shape[:-2], *self.original)

    @property
    def _scales(self) -> tuple[float, float]:
        return self.height / self.original[0], self.width / self.original[1]

    @property
    def _rows(self) -> slice:
        return slice(self.top, self.top + self.height)

    @property
    def _columns(self) -> slice:
        return slice(self.left, self.left + self.width)

    def _corner(self, boxes: Tensor) -> Tensor:
        return boxes.new_tensor([self.left, self.top, self.left, self.top])


def _nearest(source: int, scaled: int) -> Tensor:
    """Which of `source` pixels holds the centre of each of `scaled` ones: (scaled,) int64, as Pillow's nearest."""
    import torch

    return (2 * torch.arange(scaled) + 1) * source // (2 * scaled)
