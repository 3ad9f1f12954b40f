"""Masks of single objects: pasted into their image, and written as the lengths of their runs.

A mask (h, w) is read column by column, as COCO does; its runs are the lengths of stretches of equal pixels, zeros
first (a mask that starts with ones has a first run of 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.models.detection.roi_heads import paste_masks_in_image

from thawline.transforms import Placement

Mask = NDArray[np.bool_]
Runs = NDArray[np.int32]
_INSIDE = 0.5
"""From which probability on a pixel belongs to the object."""


def pasted(probabilities: torch.Tensor, box: torch.Tensor, placement: Placement) -> Mask:
    """The mask (h, w) of one object in the pixels of its image.

    Args:
        probabilities: (M, M), inside the box.
        box: (4,) xmin, ymin, xmax, ymax in pixels of the input.
        placement: how the image lies in the input.
    """
    scales = [placement.original[1] / placement.width, placement.original[0] / placement.height]
    corners = box - box.new_tensor([placement.left, placement.top] * 2)
    # Not clipped to the image: the mask fills all of the box.
    whole = paste_masks_in_image(
        probabilities[None, None], (corners * corners.new_tensor(scales * 2))[None], placement.original
    )
    found: Mask = (whole[0, 0] >= _INSIDE).numpy()
    return found


def runs_of(mask: NDArray[Any]) -> Runs:
    """The runs of a mask (h, w)."""
    pixels = np.asarray(mask, dtype=bool).ravel(order="F")
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    first = [0, 0] if len(pixels) and pixels[0] else [0]
    return np.diff(np.concatenate([first, edges, [len(pixels)]])).astype(np.int32)


def mask_of(runs: NDArray[Any], size: Sequence[int] | NDArray[np.int64]) -> Mask:
    """The mask (h, w) of the runs, for a size (h, w)."""
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return pixels.reshape(tuple(size), order="F")


def area_of(runs: NDArray[Any]) -> int:
    """How many pixels the object has."""
    return int(runs[1::2].sum())
