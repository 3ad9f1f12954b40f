"""The metrics of instance segmentation, from the evidence of detection and these arrays beside it.

| array | rows of an image |
| :--- | :--- |
| ``masks``, ``true_masks`` | the runs of all its masks, one after the other, as `masks.runs_of` gives them |
| ``mask_runs``, ``true_mask_runs`` | how many runs each of its masks has: (n,), (m,) |
| ``size`` | (N, 2), not ragged: height and width of the image in pixels |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from thawline.tasks.detection.metrics import SHAPES as BOX_SHAPES
from thawline.tasks.detection.metrics import Arrays, Shapes, average_precision, image_counts, rows_of
from thawline.tasks.instance_segmentation.masks import Runs, area_of, mask_of

SHAPES: Shapes = {
    **BOX_SHAPES,
    "masks": (torch.int32, ()),
    "mask_runs": (torch.int64, ()),
    "true_masks": (torch.int32, ()),
    "true_mask_runs": (torch.int64, ()),
}
"""The ragged arrays of the evidence: their type, and the shape of one row."""
IMAGES: Shapes = {"size": (torch.int64, (2,))}
"""The array that has one row for each image."""


def mask_precision(arrays: Arrays, classes: int) -> NDArray[np.float64]:
    """The average precisions of masks, as `thawline.tasks.detection.metrics.average_precision` gives them."""
    found = _shapes(arrays, "", arrays["labels_rows"])
    truth = _shapes(arrays, "true_", arrays["true_labels_rows"])
    return average_precision(arrays, classes, "segm", found, truth)


def mask_image_counts(arrays: Arrays, iou: float = 0.5, score: float = 0.5) -> dict[str, NDArray[Any]]:
    """``tp``, ``fp``, ``fn`` and ``f1`` (N,) of masks, as `thawline.tasks.detection.metrics.image_counts` says."""
    found = _runs_by_image(arrays, "", arrays["labels_rows"])
    truth = _runs_by_image(arrays, "true_", arrays["true_labels_rows"])
    crowds = rows_of(arrays["true_crowd"], arrays["true_crowd_rows"])

    def overlaps(image: int) -> NDArray[np.float64]:
        return _overlaps(found[image], truth[image], crowds[image], arrays["size"][image])

    return image_counts(arrays, overlaps, iou, score)


def _overlaps(found: list[Runs], truth: list[Runs], crowd: NDArray[Any], size: NDArray[Any]) -> NDArray[np.float64]:
    if not (found and truth):
        return np.zeros((len(found), len(truth)))
    pixels = [np.array([mask_of(runs, size).ravel() for runs in masks], dtype=np.float32) for masks in (found, truth)]
    shared = (pixels[0] @ pixels[1].T).astype(np.float64)
    areas = [np.array([area_of(runs) for runs in masks], dtype=np.float64) for masks in (found, truth)]
    union = np.where(crowd.astype(bool)[None], areas[0][:, None], areas[0][:, None] + areas[1][None] - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _runs_by_image(arrays: Arrays, prefix: str, counts: NDArray[Any]) -> list[list[Runs]]:
    """For each image the runs of each of its masks."""
    every = rows_of(arrays[f"{prefix}masks"], arrays[f"{prefix}mask_runs"])
    ends = np.cumsum(counts)
    return [every[end - count : end] for end, count in zip(ends.tolist(), counts.tolist(), strict=True)]


def _shapes(arrays: Arrays, prefix: str, counts: NDArray[Any]) -> list[Mapping[str, Any]]:
    """What COCO's format says of each mask."""
    sizes = np.repeat(arrays["size"], counts, axis=0).tolist()
    masks = rows_of(arrays[f"{prefix}masks"], arrays[f"{prefix}mask_runs"])
    return [
        {"segmentation": {"counts": runs.tolist(), "size": size}, "area": area_of(runs)}
        for runs, size in zip(masks, sizes, strict=True)
    ]
