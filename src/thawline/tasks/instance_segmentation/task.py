"""Instance segmentation: each image has objects, each with a box, a class and its pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from thawline.tasks.detection.shown import FoundObjects, ShownObject
from thawline.tasks.detection.targets import EvaluationObjects, TrainingObjects
from thawline.tasks.detection.task import (
    best_first,
    evidence,
    image_losses,
    images_with,
    images_with_on_file,
    in_image,
    precision_definitions,
    true_objects,
    why_no_precision,
)
from thawline.tasks.shown import Shown
from thawline.tasks.task import LossTerm, SpatialTask

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from thawline.records.metrics import MetricDefinition
    from thawline.tasks.detection.metrics import EvidenceMetrics
    from thawline.tasks.targets import Targets, Views
    from thawline.tasks.task import Arrays, Bounds
    from thawline.transforms import Placement, Transform

_MASKS = "mask_"


@final
class InstanceSegmentation(SpatialTask):
    """Box, class and pixels of each object, by the losses of the head."""

    NAME: ClassVar[str] = "instance_segmentation"
    TARGET: ClassVar[str] = "instances"
    HEADLINE: ClassVar[str] = "mask_map"
    TIE_BREAK: ClassVar[str | None] = None
    MONITORS: ClassVar[tuple[str, ...]] = ("mask_map", "mask_map50", "mask_map75", "map", "map50", "map75")
    TARGET_ARRAY: ClassVar[str] = "true_labels"
    HEAD_TAKES_TARGETS: ClassVar[bool] = True
    IMAGE_SCORE: ClassVar[str] = "F1 of the image's masks with a score of at least 0.5, at IoU 0.5"
    SHOWN: ClassVar[type[Shown]] = FoundObjects

    def outputs(self, classes: Sequence[str]) -> tuple[str, ...]:
        """A label for each class."""
        return tuple(classes)

    def training_targets(self, targets: NDArray[Any], views: Views) -> TrainingObjects:
        """``boxes`` and ``masks`` in the pixels of the input, ``labels``."""
        return TrainingObjects(targets, views, masks=True)

    def evaluation_targets(self, targets: NDArray[Any], transform: Transform) -> Targets:
        """``boxes`` and ``masks`` in the pixels of the image, ``labels``, ``crowd``, ``placement``, ``row``."""
        return EvaluationObjects(targets, transform, masks=True)

    def losses(self, outputs: Any, targets: Any) -> Mapping[str, LossTerm]:
        """The head's losses by its names; see `image_losses` on how devices add up.

        That of the masks is a mean over the proposals that hold an object, counted by images all the same.
        """
        return image_losses(outputs, targets)

    def metrics(self, outputs: Sequence[str]) -> EvidenceMetrics:
        """The metrics of detection, and the same of masks under ``mask_...``; the size of an object is its own."""
        from thawline.tasks.detection.metrics import EvidenceMetrics
        from thawline.tasks.instance_segmentation.metrics import IMAGES, SHAPES

        return EvidenceMetrics(mask_evidence, SHAPES, lambda arrays: self._metrics(arrays, outputs), IMAGES)

    def definitions(self, names: Iterable[str]) -> dict[str, MetricDefinition]:
        """Direction, label and bounds of each metric."""
        names = tuple(names)
        return {
            **precision_definitions(names, of="box "),
            **precision_definitions(names, prefix=_MASKS, of="mask "),
        }

    def predictions(self, outputs: Any, targets: Any) -> Mapping[str, torch.Tensor | Sequence[torch.Tensor]]:
        """What `thawline.tasks.instance_segmentation.metrics` lists."""
        return mask_evidence(outputs, targets)

    def shown(
        self, outputs: Any, names: Sequence[str], placements: Sequence[Placement] = (), score: float = 0.5
    ) -> list[FoundObjects]:
        """The objects of at least `score` with their masks, the highest first."""
        return [_shown(found, names, place, score) for found, place in zip(outputs, placements, strict=True)]

    def true(self, targets: Any, names: Sequence[str]) -> list[FoundObjects]:
        """The objects with their masks, crowds too."""
        from thawline.tasks.instance_segmentation.masks import runs_of

        found = []
        for target in targets:
            whole = true_objects(target, names)
            pairs = zip(whole.objects, target["masks"].numpy(), strict=True)
            found.append(replace(whole, objects=tuple(replace(item, runs=runs_of(mask)) for item, mask in pairs)))
        return found

    def why_missing(self, metric: str) -> str:
        """Precision needs an object to find."""
        return why_no_precision(metric)

    def image_scores(self, arrays: Arrays, outputs: Sequence[str]) -> NDArray[np.float64]:
        """F1 as `thawline.tasks.instance_segmentation.metrics.mask_image_counts` has it."""
        from thawline.tasks.instance_segmentation.metrics import mask_image_counts

        return mask_image_counts(arrays)["f1"]

    def recomputed(self, arrays: Arrays, outputs: Sequence[str]) -> Bounds:
        """The metrics of the detections on file."""
        found = self._metrics(arrays, outputs)
        return {name: (value, value) for name, value in found.items() if not np.isnan(value)}

    def record_fields(self, arrays: Arrays, outputs: Sequence[str]) -> dict[str, Any]:
        """``per_class``: map, map50, mask_map and mask_map50 of each class; None: it has no object."""
        from thawline.tasks.detection.metrics import box_precision, per_class
        from thawline.tasks.instance_segmentation.metrics import mask_precision

        boxes = per_class(box_precision(arrays, len(outputs)), outputs)
        masks = per_class(mask_precision(arrays, len(outputs)), outputs, _MASKS)
        return {"per_class": {name: {**boxes[name], **masks[name]} for name in outputs}}

    def per_output(self, targets: NDArray[Any], outputs: Sequence[str]) -> list[int]:
        """How many images show each class."""
        return images_with(targets, len(outputs))

    def per_output_on_file(self, arrays: Arrays, outputs: Sequence[str]) -> list[int]:
        """How many images show each class."""
        return images_with_on_file(arrays, len(outputs))

    def _metrics(self, arrays: Arrays, outputs: Sequence[str]) -> dict[str, float]:
        from thawline.tasks.detection.metrics import box_precision, summary
        from thawline.tasks.instance_segmentation.metrics import mask_precision

        boxes, masks = (summary(found(arrays, len(outputs))) for found in (box_precision, mask_precision))
        return {**boxes, **{f"{_MASKS}{name}": value for name, value in masks.items()}}


def _shown(found: Mapping[str, Any], names: Sequence[str], placement: Placement, score: float) -> FoundObjects:
    from thawline.tasks.instance_segmentation.masks import pasted, runs_of

    boxes = found["boxes"].float()
    original = placement.boxes_to_original(boxes)
    objects = [
        ShownObject(
            tuple(original[row].tolist()),
            int(found["labels"][row]),
            float(found["scores"][row]),
            runs=runs_of(pasted(found["masks"][row, 0].float(), boxes[row], placement)),
        )
        for row in best_first(found, original, score)
    ]
    return FoundObjects(tuple(objects), placement.original, tuple(names))


def mask_evidence(outputs: Sequence[Mapping[str, Any]], targets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Detections, objects and the masks of both, of each image in its own pixels.

    Masks are pasted one at a time: all of an image at once would be more than its pixels for every detection.
    """
    import torch

    from thawline.tasks.instance_segmentation.masks import pasted, runs_of

    kept: dict[str, Any] = evidence(outputs, targets)
    names = ("masks", "mask_runs", "true_masks", "true_mask_runs")
    kept.update({name: [] for name in names})
    for found, truth in zip(outputs, targets, strict=True):
        placement = truth["placement"]
        boxes, masks = found["boxes"].float().cpu(), found["masks"].float().cpu()[:, 0]
        inside = in_image(placement.boxes_to_original(boxes)).nonzero()[:, 0].tolist()
        mine = [runs_of(pasted(masks[index], boxes[index], placement)) for index in inside]
        theirs = [runs_of(mask) for mask in truth["masks"].cpu().numpy()]
        for name, runs in (("", mine), ("true_", theirs)):
            every = np.concatenate(runs) if runs else np.zeros(0, dtype=np.int32)
            kept[f"{name}masks"].append(torch.from_numpy(every))
            kept[f"{name}mask_runs"].append(torch.tensor([len(one) for one in runs], dtype=torch.int64))
    kept["size"] = torch.tensor([truth["placement"].original for truth in targets], dtype=torch.int64)
    return kept
