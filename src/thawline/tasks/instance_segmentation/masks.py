"""Masks of single objects: pasted into their image, and written as the lengths of their runs.

A mask (h, w) is read column by column, as COCO does; its runs are the lengths of stretches of equal pixels, zeros
first (a mask that starts with ones has a first run of 0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from thawline.transforms import Placement

Mask = NDArray[np.bool_]
Runs = NDArray[np.int32]
_INSIDE = 0.5
"""From which probability on a pixel belongs to the object."""


def pasted(probabilities: torch.Tensor, box: torch.Tensor, placement: Placement) -> Mask:
    """The mask (h, w) of one object in the pixels of its image: by the probability at each pixel's centre, bilinear.

    torchvision's own pasting rounds boxes to whole pixels and makes them one pixel larger.

    Args:
        probabilities: (M, M), in equal cells of the box; beside the box there is nothing of the object.
        box: (4,) xmin, ymin, xmax, ymax in pixels of the input.
        placement: how the image lies in the input.
    """
    mask = np.zeros(placement.original, dtype=np.bool_)
    corners = box - box.new_tensor([placement.left, placement.top] * 2)
    scales = [placement.original[1] / placement.width, placement.original[0] / placement.height]
    # Not clipped to the image: the cells are those of the whole box.
    left, top, right, bottom = (corners * corners.new_tensor(scales * 2)).tolist()
    rows, down = _centres(top, bottom, mask.shape[0])
    columns, across = _centres(left, right, mask.shape[1])
    places = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1)
    values = F.grid_sample(probabilities[None, None], places[None], padding_mode="border", align_corners=False)
    mask[rows, columns] = (values[0, 0] >= _INSIDE).numpy()
    return mask


def _centres(start: float, end: float, pixels: int) -> tuple[slice, torch.Tensor]:
    """The pixels whose centres lie between `start` and `end`, and where they lie there: -1 at start, 1 at end."""
    first, last = (min(max(math.ceil(edge - 0.5), 0), pixels) for edge in (start, end))
    return slice(first, last), (torch.arange(first, last) + 0.5 - start) / (end - start) * 2 - 1


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
