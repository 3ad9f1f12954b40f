"""The metrics of detection: COCO's average precision from per-image evidence, and a score of each image.

The evidence is what a run keeps of its test images, as `numpy` arrays. Of a ragged array ``boxes`` all rows of all
images lie one below the other, and ``boxes_rows`` (N,) says how many are of each image.

| array | rows of an image |
| :--- | :--- |
| ``boxes``, ``scores``, ``labels`` | its detections: (n, 4) xmin, ymin, xmax, ymax in its own pixels; (n,); (n,) |
| ``true_boxes``, ``true_labels``, ``true_crowd`` | its objects: (m, 4), (m,), and whether each is a crowd (m,) |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray
from torchmetrics import Metric

from thawline.evaluation.images.matching import box_overlaps

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Shapes = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]

SHAPES: Shapes = {
    "boxes": (torch.float32, (4,)),
    "scores": (torch.float32, ()),
    "labels": (torch.int64, ()),
    "true_boxes": (torch.float32, (4,)),
    "true_labels": (torch.int64, ()),
    "true_crowd": (torch.bool, ()),
}
"""The arrays of the evidence, all ragged: their type, and the shape of one row."""
_ROW = "row"
_AREAS = ("", "_small", "_medium", "_large")
_HALF, _THREE_QUARTERS = 0, 5
"""Of COCO's ten IoU thresholds 0.5, 0.55, ... 0.95."""


class EvidenceMetrics(Metric):
    """Metrics of all images seen, from the evidence that a task keeps of each.

    The result depends neither on how images are batched nor on which device saw them: they are put in the order of
    their rows before anything is computed, which decides between detections of one score.

    torchmetrics' own ``MeanAveragePrecision`` keeps a list entry for each image and gathers entry by entry, so devices
    with unequal shares wait for each other forever; here every array is gathered once.

    Args:
        evidence: what is kept of a batch: ``(outputs, targets) -> {name: a tensor for each image}``.
        shapes: the ragged arrays that it gives.
        metrics: the metrics of the arrays, by name.
        whole: the arrays that have one row for each image.
    """

    full_state_update = False

    def __init__(
        self,
        evidence: Callable[[Any, Any], Mapping[str, torch.Tensor | Sequence[torch.Tensor]]],
        shapes: Shapes,
        metrics: Callable[[Arrays], Mapping[str, float]],
        whole: Shapes | None = None,
    ) -> None:
        super().__init__()
        self._evidence, self._metrics, self._ragged = evidence, metrics, tuple(shapes)
        self._whole = (_ROW, *(whole or {}))
        counts = {f"{name}_rows": (torch.int64, ()) for name in shapes}
        self._shapes: Shapes = {_ROW: (torch.int64, ()), **(whole or {}), **shapes, **counts}
        for name in self._shapes:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, outputs: Sequence[Mapping[str, torch.Tensor]], targets: Sequence[Mapping[str, Any]]) -> None:
        """Add a batch: the head's detections and the evaluation targets of its images."""
        self._add(_ROW, torch.tensor([target["row"] for target in targets]))
        for name, values in self._evidence(outputs, targets).items():
            if isinstance(values, torch.Tensor):
                self._add(name, values)
            else:
                self._add(name, torch.cat(list(values)))
                self._add(f"{name}_rows", torch.tensor([len(value) for value in values]))

    def compute(self) -> dict[str, torch.Tensor]:
        """The metrics by name, float64 scalars; NaN where there is no object that a value could be of."""
        order = np.argsort(self._joined(_ROW), kind="stable")
        arrays = {name: self._joined(name)[order] for name in self._whole}
        for name in self._ragged:
            counts = self._joined(f"{name}_rows")
            parts = rows_of(self._joined(name), counts)
            arrays[name] = np.concatenate([parts[index] for index in order])
            arrays[f"{name}_rows"] = counts[order]
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in self._metrics(arrays).items()}

    def _add(self, name: str, values: torch.Tensor) -> None:
        getattr(self, name).append(values.to(self.device, self._shapes[name][0]))

    def _joined(self, name: str) -> Array:
        state = getattr(self, name)
        found: Array = (torch.cat(state) if isinstance(state, list) else state).cpu().numpy()
        return found

    def _sync_dist(self, *arguments: Any, **keywords: Any) -> None:
        """A device without an image still takes part in the gathering, with arrays of the right type."""
        for name, (dtype, shape) in self._shapes.items():
            if not getattr(self, name):
                setattr(self, name, [torch.zeros((0, *shape), dtype=dtype, device=self.device)])
        super()._sync_dist(*arguments, **keywords)


def rows_of(values: Array, counts: Array) -> list[Array]:
    """The rows of each image of a ragged array: `values` (sum of counts, ...), `counts` (N,)."""
    return np.split(values, np.cumsum(counts)[:-1]) if len(counts) else []


def summary(precision: NDArray[np.float64]) -> dict[str, float]:
    """``map``, ``map50``, ``map75``, ``map_small``, ``map_medium``, ``map_large`` of what `average_precision` gives."""
    found = {f"map{area}": _mean(precision[:, :, index]) for index, area in enumerate(_AREAS)}
    return {
        "map": found.pop("map"),
        "map50": _mean(precision[_HALF, :, 0]),
        "map75": _mean(precision[_THREE_QUARTERS, :, 0]),
        **found,
    }


def per_class(
    precision: NDArray[np.float64], names: Sequence[str], prefix: str = ""
) -> dict[str, dict[str, float | None]]:
    """``map`` and ``map50`` of each class by its name, of what `average_precision` gives; None: it has no object.

    Args:
        precision: (10, classes, 4).
        names: of the classes.
        prefix: what the metrics' names start with.
    """
    found = {f"{prefix}map": precision[:, :, 0].mean(axis=0), f"{prefix}map50": precision[_HALF, :, 0]}
    return {
        name: {metric: None if np.isnan(values[index]) else float(values[index]) for metric, values in found.items()}
        for index, name in enumerate(names)
    }


def box_precision(arrays: Arrays, classes: int) -> NDArray[np.float64]:
    """The average precisions of boxes, as `average_precision` gives them."""
    return average_precision(arrays, classes, "bbox", _boxes(arrays["boxes"]), _boxes(arrays["true_boxes"]))


def average_precision(
    arrays: Arrays,
    classes: int,
    kind: str,
    found: Sequence[Mapping[str, Any]],
    truth: Sequence[Mapping[str, Any]],
) -> NDArray[np.float64]:
    """COCO's average precisions: at most 100 detections of a class in an image, 101 recalls, crowds ignored.

    Computed by faster-coco-eval, whose numbers are those of pycocotools.

    Args:
        arrays: the evidence, of which scores, labels, crowds and ``size``, if it has it, are taken.
        classes: how many there are.
        kind: ``bbox`` or ``segm``.
        found: of each detection what COCO's format says of its shape, and its ``area`` in pixels.
        truth: the same of each object.

    Returns:
        (10, classes, 4): IoU thresholds 0.5, 0.55 ... 0.95; areas: all, small (below 32 x 32), medium, large (from
        96 x 96). NaN where there is no object of the class and area.
    """
    sizes = arrays.get("size", np.zeros((len(arrays["true_labels_rows"]), 2), dtype=np.int64))
    frame = {
        "images": [{"id": image, "height": int(h), "width": int(w)} for image, (h, w) in enumerate(sizes)],
        "categories": [{"id": index, "name": str(index)} for index in range(classes)],
    }
    objects = _annotations(arrays, "true_labels", truth, "iscrowd", arrays["true_crowd"].astype(np.int64))
    detections = _annotations(arrays, "labels", found, "score", arrays["scores"].astype(np.float64))
    evaluation = COCOeval_faster(
        COCO({**frame, "annotations": objects}), COCO({**frame, "annotations": detections}), kind
    )
    evaluation.evaluate()
    evaluation.accumulate()
    # (IoU thresholds, recalls, classes, areas, limits of detections), -1 where there is nothing
    precision = np.asarray(evaluation.eval["precision"], dtype=np.float64)[..., -1]
    averaged: NDArray[np.float64] = np.where(precision[:, 0] < 0, np.nan, precision.mean(axis=1))
    return averaged


def image_counts(
    arrays: Arrays, overlaps: Callable[[int], Array] | None = None, iou: float = 0.5, score: float = 0.5
) -> dict[str, Array]:
    """What was found in each image, right and wrong, for statistics over images.

    Detections of at least `score` are taken by descending score; each is right if an object of its class that is not
    taken yet overlaps it by at least `iou`, and the one with the largest overlap is then taken. One that is not right
    does not count where it lies in a crowd of its class (by at least `iou` of its own area).

    Args:
        arrays: the evidence.
        overlaps: image -> IoU (n, m) of its detections and objects, of a crowd the part of the detection that lies in
            it; None: of boxes.
        iou: from which overlap a detection is right.
        score: the least score of a detection that counts.

    Returns:
        ``tp``, ``fp``, ``fn`` (N,), int64, and ``f1`` (N,), float64: 2 tp / (2 tp + fp + fn), and 1 for an image where
        there is nothing to find and nothing was found.
    """
    of_image = {
        name: rows_of(arrays[name], arrays[f"{name}_rows"])
        for name in ("boxes", "scores", "labels", "true_boxes", "true_labels", "true_crowd")
    }
    counts = np.zeros((len(arrays["labels_rows"]), 3), dtype=np.int64)
    for image in range(len(counts)):
        scores, labels, crowd = (of_image[name][image] for name in ("scores", "labels", "true_crowd"))
        if overlaps is None:
            overlap = box_overlaps(of_image["boxes"][image], of_image["true_boxes"][image], crowd)
        else:
            overlap = overlaps(image)
        overlap = np.where(labels[:, None] == of_image["true_labels"][image][None], overlap, 0.0)
        taken = np.argsort(-scores, kind="stable")
        counts[image] = _counts(overlap[taken[scores[taken] >= score]], crowd, iou)
    tp, fp, fn = counts.T
    all_of_them = 2 * tp + fp + fn
    f1 = np.where(all_of_them == 0, 1.0, 2 * tp / np.maximum(all_of_them, 1))
    return {"tp": tp, "fp": fp, "fn": fn, "f1": f1}


def _counts(overlap: NDArray[np.float64], crowd: Array, iou: float) -> tuple[int, int, int]:
    """Right, wrong and missed, of detections (n, m) by descending score."""
    crowd = crowd.astype(bool)
    free = ~crowd
    right = wrong = 0
    for row in overlap:
        best = int(np.where(free, row, -1.0).argmax()) if free.any() else None
        if best is not None and row[best] >= iou:
            free[best] = False
            right += 1
        elif not (row[crowd] >= iou).any():
            wrong += 1
    return right, wrong, int(free.sum())


def _annotations(
    arrays: Arrays, labels: str, shapes: Sequence[Mapping[str, Any]], name: str, values: Array
) -> list[dict[str, Any]]:
    """COCO's annotations; their numbers count from 1, since 0 says there that nothing was matched."""
    images = np.repeat(np.arange(len(arrays[f"{labels}_rows"])), arrays[f"{labels}_rows"])
    columns = zip(images.tolist(), arrays[labels].tolist(), values.tolist(), shapes, strict=True)
    return [
        {"id": number, "image_id": image, "category_id": label, name: value, **shape}
        for number, (image, label, value, shape) in enumerate(columns, start=1)
    ]


def _boxes(corners: Array) -> list[dict[str, Any]]:
    """Boxes (n, 4) as COCO's format has them: a corner and the sides."""
    corners = corners.astype(np.float64)
    sides = corners[:, 2:] - corners[:, :2]
    boxes = np.concatenate([corners[:, :2], sides], axis=1)
    return [{"bbox": box, "area": area} for box, area in zip(boxes.tolist(), sides.prod(axis=1).tolist(), strict=True)]


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
