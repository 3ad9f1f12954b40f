"""Targets on their way through an augmentation: wrapped so that v2 transforms move them, and sanitised afterwards.

A target is a dict of tensors in pixels of the input, in one of two forms:

- ``{"mask": (H, W) uint8}``, where 255 is unlabelled;
- ``{"boxes": (n, 4) float, "masks": (n, H, W) uint8, ...}``, where boxes are xmin, ymin, xmax, ymax, "masks" may be
  missing, and every other tensor has a row for each box.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from thawline.transforms.placement import Size

if TYPE_CHECKING:
    from torch import Tensor

Target = Mapping[str, "Tensor"]
_LEAST_SIDE = 1.0
"""A box with a side below this, in pixels, shows nothing that could be learned."""


def wrapped(target: Target, size: Size) -> dict[str, Any]:
    """The target as v2 transforms move it, on an image of `size` (H, W).

    A mask is counted up by one, so that unlabelled is 0: what a step puts around a mask is 0, with or without a `fill`.

    Raises:
        TypeError: the mask is not uint8.
    """
    import torch
    from torchvision import tv_tensors

    found: dict[str, Any] = dict(target)
    if "mask" in found:
        if found["mask"].dtype != torch.uint8:
            raise TypeError(f"a mask is uint8, not {found['mask'].dtype}")
        found["mask"] = tv_tensors.Mask(found["mask"] + 1)
    if "masks" in found:
        found["masks"] = tv_tensors.Mask(found["masks"])
    if "boxes" in found:
        found["boxes"] = tv_tensors.BoundingBoxes(found["boxes"], format="XYXY", canvas_size=size)
    return found


def unwrapped(moved: Mapping[str, Any], size: Size) -> dict[str, Tensor]:
    """The moved target as plain tensors, with its boxes clipped to the image of `size` (H, W).

    Boxes with a side below a pixel, and objects whose mask is empty, are left out with all that belongs to them.
    """
    import torch

    found = {name: value.as_subclass(torch.Tensor) for name, value in moved.items()}
    if "mask" in found:
        found["mask"] = found["mask"] - 1
    return _sanitised(found, size) if "boxes" in found else found


def blank(kind: str, size: Size) -> dict[str, Tensor] | None:
    """A target of the kind (`Task.TARGET`) on an image of `size` (H, W); None where it does not lie in the image."""
    import torch

    height, width = size
    if kind == "mask":
        return {"mask": torch.zeros(size, dtype=torch.uint8)}
    if kind not in ("boxes", "instances"):
        return None
    box = torch.tensor([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]])
    masks = {"masks": torch.ones((1, *size), dtype=torch.uint8)} if kind == "instances" else {}
    return {"boxes": box, **masks}


def _sanitised(target: Mapping[str, Tensor], size: Size) -> dict[str, Tensor]:
    height, width = size
    boxes = target["boxes"]
    boxes = boxes.clamp(min=boxes.new_zeros(4), max=boxes.new_tensor([width, height, width, height]))
    seen = (boxes[:, 2:] - boxes[:, :2] >= _LEAST_SIDE).all(dim=1)
    if "masks" in target:
        seen &= (target["masks"] != 0).flatten(1).any(dim=1)
    rows = {name: value[seen] for name, value in target.items() if name != "mask"}
    return {**target, **rows, "boxes": boxes[seen]}
