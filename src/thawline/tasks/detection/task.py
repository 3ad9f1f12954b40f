"""Detection: each image has objects, each with a box and a class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from thawline.records.metrics import MetricDefinition
from thawline.tasks.detection.shown import FoundObjects, ShownObject
from thawline.tasks.detection.targets import EvaluationObjects, TrainingObjects
from thawline.tasks.shown import Shown
from thawline.tasks.task import LossTerm, SpatialTask

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from thawline.tasks.detection.metrics import EvidenceMetrics
    from thawline.tasks.targets import Targets, Views
    from thawline.tasks.task import Arrays, Bounds
    from thawline.transforms import Placement, Transform

_LABELS = {
    "map": "mAP",
    "map50": "mAP at IoU 0.5",
    "map75": "mAP at IoU 0.75",
    "map_small": "mAP of small objects",
    "map_medium": "mAP of medium objects",
    "map_large": "mAP of large objects",
}


def precision_definitions(names: Iterable[str], prefix: str = "", of: str = "") -> dict[str, MetricDefinition]:
    """The definitions of those of `names` that are average precisions; their names start with `prefix`."""
    known = {
        f"{prefix}{name}": MetricDefinition(direction="max", label=f"{of}{label}", lower=0.0, upper=1.0)
        for name, label in _LABELS.items()
    }
    return {name: known[name] for name in sorted(names) if name in known}


def image_losses(outputs: Mapping[str, torch.Tensor], targets: Sequence[Any]) -> dict[str, LossTerm]:
    """A detector's own losses, each counted by the batch's images.

    Devices and uneven batches add up by images. Of RetinaNet that is exact: its losses are means over images. Those of
    the two-stage heads are means over sampled anchors and proposals, of which every image gives the same number as
    long as it has enough of them. FCOS divides by the places that lie in objects, over the whole batch: a device whose
    images have fewer objects than another's weighs each of them more.
    """
    return {name: LossTerm(value, len(targets)) for name, value in outputs.items()}


def images_with(objects: NDArray[Any], classes: int) -> list[int]:
    """How many images show each class, of (N,) objects."""
    counts = np.zeros(classes, dtype=np.int64)
    for item in objects:
        counts[sorted(item.present)] += 1
    return [int(count) for count in counts]


def images_with_on_file(arrays: Arrays, classes: int) -> list[int]:
    """The same from the evidence; a crowd shows no class."""
    images = np.repeat(np.arange(len(arrays["true_labels_rows"])), arrays["true_labels_rows"].astype(np.int64))
    kept = ~arrays["true_crowd"].astype(bool)
    shown = np.zeros((len(arrays["true_labels_rows"]), classes), dtype=bool)
    shown[images[kept], arrays["true_labels"].astype(np.int64)[kept]] = True
    return [int(count) for count in shown.sum(axis=0)]


def evidence(outputs: Sequence[Mapping[str, Any]], targets: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Detections and objects of each image in its own pixels, as `thawline.tasks.detection.metrics` lists them."""
    kept: dict[str, list[Any]] = {
        name: [] for name in ("boxes", "scores", "labels", "true_boxes", "true_labels", "true_crowd")
    }
    for found, truth in zip(outputs, targets, strict=True):
        boxes = truth["placement"].boxes_to_original(found["boxes"].float().cpu())
        inside = in_image(boxes)
        kept["boxes"].append(boxes[inside])
        kept["scores"].append(found["scores"].float().cpu()[inside])
        kept["labels"].append(found["labels"].cpu()[inside])
        for name in ("boxes", "labels", "crowd"):
            kept[f"true_{name}"].append(truth[name])
    return kept


def why_no_precision(metric: str) -> str:
    """Why an average precision has no value: by whether it is one of a size, which is COCO's in square pixels."""
    size = metric.rpartition("_")[2]
    return f"no image shows {'a ' + size if size in ('small', 'medium', 'large') else 'an'} object"


def in_image(boxes: torch.Tensor) -> torch.Tensor:
    """Which boxes (n, 4), clipped to their image, show some of it: not those in the padding of the input."""
    return (boxes[:, 2:] > boxes[:, :2]).all(dim=1)


def shown_boxes(found: Mapping[str, Any], names: Sequence[str], placement: Placement, score: float) -> FoundObjects:
    """A head's detections in one image, in its own pixels, with a score of at least `score`; the highest first."""
    boxes = placement.boxes_to_original(found["boxes"].float())
    kept = best_first(found, boxes, score)
    objects = [
        ShownObject(tuple(boxes[row].tolist()), int(found["labels"][row]), float(found["scores"][row])) for row in kept
    ]
    return FoundObjects(tuple(objects), placement.original, tuple(names))


def best_first(found: Mapping[str, Any], boxes: torch.Tensor, score: float) -> list[int]:
    """The rows of a head's detections with at least `score` whose `boxes` (n, 4) lie in the image."""
    kept = (in_image(boxes) & (found["scores"] >= score)).nonzero()[:, 0]
    rows: list[int] = kept[found["scores"][kept].argsort(descending=True, stable=True)].tolist()
    return rows


def true_objects(target: Mapping[str, Any], names: Sequence[str]) -> FoundObjects:
    """The objects of one image, by its evaluation target."""
    columns = zip(target["boxes"].tolist(), target["labels"].tolist(), target["crowd"].tolist(), strict=True)
    objects = [ShownObject(tuple(box), index, crowd=crowd) for box, index, crowd in columns]
    return FoundObjects(tuple(objects), target["placement"].original, tuple(names))


@final
class Detection(SpatialTask):
    """A box and a class for each object, by the losses of the head."""

    NAME: ClassVar[str] = "detection"
    TARGET: ClassVar[str] = "boxes"
    HEADLINE: ClassVar[str] = "map"
    TIE_BREAK: ClassVar[str | None] = None
    MONITORS: ClassVar[tuple[str, ...]] = ("map", "map50", "map75")
    TARGET_ARRAY: ClassVar[str] = "true_labels"
    HEAD_TAKES_TARGETS: ClassVar[bool] = True
    IMAGE_SCORE: ClassVar[str] = "F1 of the image's boxes with a score of at least 0.5, at IoU 0.5"
    SHOWN: ClassVar[type[Shown]] = FoundObjects

    def outputs(self, classes: Sequence[str]) -> tuple[str, ...]:
        """A label for each class."""
        return tuple(classes)

    def training_targets(self, targets: NDArray[Any], views: Views) -> TrainingObjects:
        """``boxes`` in the pixels of the input, ``labels``."""
        return TrainingObjects(targets, views)

    def evaluation_targets(self, targets: NDArray[Any], transform: Transform) -> Targets:
        """``boxes`` in the pixels of the image, ``labels``, ``crowd``, ``placement``, ``row``."""
        return EvaluationObjects(targets, transform)

    def losses(self, outputs: Any, targets: Any) -> Mapping[str, LossTerm]:
        """The head's losses by its names; see `image_losses` on how devices add up."""
        return image_losses(outputs, targets)

    def metrics(self, outputs: Sequence[str]) -> EvidenceMetrics:
        """map, map50, map75, map_small, map_medium, map_large, as COCO defines them, in the pixels of the image."""
        from thawline.tasks.detection.metrics import SHAPES, EvidenceMetrics

        return EvidenceMetrics(evidence, SHAPES, lambda arrays: self._metrics(arrays, outputs))

    def definitions(self, names: Iterable[str]) -> dict[str, MetricDefinition]:
        """Direction, label and bounds of each metric."""
        return precision_definitions(names)

    def predictions(self, outputs: Any, targets: Any) -> Mapping[str, torch.Tensor | Sequence[torch.Tensor]]:
        """``boxes``, ``scores``, ``labels``, ``true_boxes``, ``true_labels``, ``true_crowd``, for each image."""
        return evidence(outputs, targets)

    def shown(
        self, outputs: Any, names: Sequence[str], placements: Sequence[Placement] = (), score: float = 0.5
    ) -> list[FoundObjects]:
        """The boxes of at least `score`, the highest first."""
        return [shown_boxes(found, names, place, score) for found, place in zip(outputs, placements, strict=True)]

    def true(self, targets: Any, names: Sequence[str]) -> list[FoundObjects]:
        """The objects, crowds too."""
        return [true_objects(target, names) for target in targets]

    def why_missing(self, metric: str) -> str:
        """Precision needs an object to find."""
        return why_no_precision(metric)

    def image_scores(self, arrays: Arrays, outputs: Sequence[str]) -> NDArray[np.float64]:
        """F1 as `thawline.tasks.detection.metrics.image_counts` has it."""
        from thawline.tasks.detection.metrics import image_counts

        return image_counts(arrays)["f1"]

    def recomputed(self, arrays: Arrays, outputs: Sequence[str]) -> Bounds:
        """The metrics of the detections on file."""
        found = self._metrics(arrays, outputs)
        return {name: (value, value) for name, value in found.items() if not np.isnan(value)}

    def record_fields(self, arrays: Arrays, outputs: Sequence[str]) -> dict[str, Any]:
        """``per_class``: map and map50 of each class; None: it has no object."""
        from thawline.tasks.detection.metrics import box_precision, per_class

        return {"per_class": per_class(box_precision(arrays, len(outputs)), outputs)}

    def per_output(self, targets: NDArray[Any], outputs: Sequence[str]) -> list[int]:
        """How many images show each class."""
        return images_with(targets, len(outputs))

    def per_output_on_file(self, arrays: Arrays, outputs: Sequence[str]) -> list[int]:
        """How many images show each class."""
        return images_with_on_file(arrays, len(outputs))

    def _metrics(self, arrays: Arrays, outputs: Sequence[str]) -> dict[str, float]:
        from thawline.tasks.detection.metrics import box_precision, summary

        return summary(box_precision(arrays, len(outputs)))
