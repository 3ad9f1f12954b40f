"""What a reader is shown of an image whose pixels have classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from thawline.datasets.targets import IGNORE
from thawline.tasks.shown import Row, Shown

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image

    from thawline.transforms import Placement

_VALUES_AT_ONCE = 2**24
_MOST_NAMED = 4


@final
@dataclass(frozen=True)
class ClassMask(Shown):
    """A class for each pixel.

    Attributes:
        classes: (h, w) uint8, class indices in the image's own pixels; 255: no class.
        names: of the classes.
    """

    HAS_MASK: ClassVar[bool] = True

    classes: NDArray[np.uint8]
    names: tuple[str, ...]

    def shares(self) -> dict[str, float]:
        """The share of the image's pixels that each class has."""
        counts = np.bincount(self.classes.ravel(), minlength=IGNORE + 1)[: len(self.names)]
        return {name: float(count / self.classes.size) for name, count in zip(self.names, counts, strict=True)}

    def summary(self) -> Mapping[str, str]:
        """The classes with most pixels, and their shares."""
        ranked = sorted(self.shares().items(), key=lambda item: -item[1])
        told = [f"{name} {100 * share:.1f} %" for name, share in ranked[:_MOST_NAMED] if share > 0]
        return {"size": self._size, "pixels": ", ".join(told)}

    def facts(self) -> Mapping[str, Any]:
        """``width``, ``height``, and ``share`` of the pixels by class."""
        height, width = self.classes.shape
        return {"width": width, "height": height, "share": self.shares()}

    def rows(self) -> Sequence[Row]:
        """One row: the image's size, and the share of each class in a column of its own."""
        height, width = self.classes.shape
        return [{"width": width, "height": height, **{f"share.{name}": s for name, s in self.shares().items()}}]

    def drawn(self, image: Image, side: int) -> Image:
        """The image, tinted by class, with a legend."""
        from thawline.tasks.drawing import with_mask

        return with_mask(image, self.classes, self.names, side)

    def mask(self) -> Image:
        """An image of class indices, with a palette."""
        from PIL import Image

        from thawline.tasks.drawing import palette

        image = Image.fromarray(self.classes)
        image.putpalette(palette())
        return image

    @property
    def _size(self) -> str:
        return f"{self.classes.shape[1]} x {self.classes.shape[0]}"


def predicted_classes(logits: torch.Tensor, placement: Placement) -> NDArray[np.uint8]:
    """The class (h, w) of each of the image's own pixels, of logits (C, H, W) in the input's.

    The logits of all classes at the image's size may be gigabytes: a few classes at a time are compared.
    """
    import torch

    height, width = placement.original
    at_once = max(1, _VALUES_AT_ONCE // (height * width))
    best = torch.full((height, width), -torch.inf)
    chosen = torch.zeros((height, width), dtype=torch.uint8)
    for first in range(0, len(logits), at_once):
        values, index = placement.maps_to_original(logits[first : first + at_once].float()).max(dim=0)
        better = values > best
        best[better] = values[better]
        chosen[better] = (index[better] + first).to(torch.uint8)
    return chosen.numpy()
