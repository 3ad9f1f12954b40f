"""Heads that find objects: torchvision's own Faster R-CNN, Mask R-CNN, FCOS and RetinaNet on the backbone's maps.

Each detector runs by torchvision's own forward, with a feature pyramid in its backbone's place. Defaults are those of
torchvision's models and of their training references (https://github.com/pytorch/vision/tree/main/references/detection)
unless a field says otherwise; the pyramid is narrower (64 channels instead of 256), for images and data of which there
are few.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, final

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from thawline.network import Features, SourceClassifier
from thawline.randomness import seeded
from thawline.specs import Spec

if TYPE_CHECKING:
    from torch import nn
    from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

    from thawline.heads.detectors import Anchors, Neck

Sizes = tuple[tuple[PositiveFloat, ...], ...]
TrainAndEvaluate = tuple[PositiveInt, PositiveInt]


class PyramidHead(Spec):
    """Base of the detection heads: a feature pyramid, and what is kept of what is found.

    Attributes:
        strides: Which of the backbone's maps it reads. Where the backbone has one map alone, as a plain vision
            transformer does, a simple pyramid makes them of it.
        width: Channels of every level.
        extra_levels: How many coarser levels are added, each of twice the stride.
        anchor_sizes: For each level, extra ones included, the sides of its square anchors in input pixels: one number
            or a list. Null: `ANCHOR_SCALES` times the stride of the level.
        score_threshold: Detections of a lower score are dropped.
        nms: Of two detections of a class that overlap with a larger IoU, the one of the lower score is dropped.
        detections_per_image: How many detections of an image are kept, the best ones; COCO's metrics count at most 100.
    """

    TASKS: ClassVar[frozenset[str] | None] = frozenset({"detection"})
    ANCHOR_SCALES: ClassVar[tuple[float, ...]]
    FIRST_CLASS: ClassVar[int]

    strides: tuple[PositiveInt, ...] = Field(min_length=1)
    width: int = Field(default=64, ge=1)
    extra_levels: int
    anchor_sizes: Sizes | None = None
    score_threshold: float = Field(default=0.05, ge=0.0, lt=1.0)
    nms: float = Field(default=0.5, gt=0.0, le=1.0)
    detections_per_image: int = Field(default=100, ge=1)

    @field_validator("anchor_sizes", mode="before")
    @classmethod
    def _one_size_for_a_level(cls, sizes: object) -> object:
        if isinstance(sizes, (list, tuple)):
            return tuple((size,) if isinstance(size, (int, float)) else size for size in sizes)
        return sizes

    @field_validator("strides")
    @classmethod
    def _ascending(cls, strides: tuple[int, ...]) -> tuple[int, ...]:
        if list(strides) != sorted(set(strides)):
            raise ValueError("must ascend")
        return strides

    @model_validator(mode="after")
    def _anchors_of_every_level(self) -> PyramidHead:
        levels = len(self.strides) + self.extra_levels
        if self.anchor_sizes is not None and len(self.anchor_sizes) != levels:
            raise ValueError(
                f"anchor_sizes has {len(self.anchor_sizes)} entries for {levels} levels "
                f"({len(self.strides)} strides and {self.extra_levels} extra)"
            )
        return self

    def build(
        self, features: Features, classes: Sequence[str], source: SourceClassifier | None, seed: int
    ) -> nn.Module:
        """Maps -> losses or detections, as `thawline.heads.detectors.Detector` says."""
        from thawline.heads.detectors import Detector, Neck

        with seeded("head", seed):
            neck = Neck(features, self.strides, self.width, self._extra())
            model = self._model(neck, len(classes))
        return Detector(model, self.FIRST_CLASS, features.size)

    @abstractmethod
    def _model(self, neck: Neck, classes: int) -> nn.Module:
        """Torchvision's detector on the neck."""

    @abstractmethod
    def _extra(self) -> ExtraFPNBlock | None:
        """What makes the extra levels."""

    def _anchors(self, neck: Neck, ratios: Sequence[float]) -> Anchors:
        from thawline.heads.detectors import Anchors

        strides = [*neck.strides, *(neck.strides[-1] * 2 ** (n + 1) for n in range(self.extra_levels))]
        sizes = self.anchor_sizes or [[scale * stride for scale in self.ANCHOR_SCALES] for stride in strides]
        return Anchors(sizes, ratios, strides)


class RegionHead(PyramidHead):
    """Base of the heads of two stages: proposals of a region proposal network, and a second look at each.

    Attributes:
        aspect_ratios: Of the anchors, height divided by width.
        proposals_before_nms: How many proposals of each level go into non-maximum suppression, in training and in
            evaluation.
        proposals: How many are left of an image after it, in training and in evaluation.
        proposal_nms: The IoU from which proposals suppress each other.
        rpn_batch: How many anchors of an image the proposal loss samples, half of them positive where there are.
        roi_batch: How many proposals of an image the second stage samples in training, a quarter of them positive.
        box_width: Width of the two layers of the second stage.
    """

    ANCHOR_SCALES: ClassVar[tuple[float, ...]] = (8.0,)
    FIRST_CLASS: ClassVar[int] = 1

    strides: tuple[PositiveInt, ...] = Field(default=(4, 8, 16, 32), min_length=1)
    extra_levels: Literal[0, 1] = 1
    aspect_ratios: tuple[PositiveFloat, ...] = Field(default=(0.5, 1.0, 2.0), min_length=1)
    proposals_before_nms: TrainAndEvaluate = (2000, 1000)
    proposals: TrainAndEvaluate = (2000, 1000)
    proposal_nms: float = Field(default=0.7, gt=0.0, le=1.0)
    rpn_batch: int = Field(default=256, ge=1)
    roi_batch: int = Field(default=512, ge=1)
    box_width: int = Field(default=1024, ge=1)

    def _extra(self) -> ExtraFPNBlock | None:
        from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

        return LastLevelMaxPool() if self.extra_levels else None

    def _arguments(self, neck: Neck, classes: int) -> dict[str, object]:
        """What torchvision's Faster R-CNN and Mask R-CNN take alike; `classes` without the background."""
        from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

        from thawline.heads.detectors import region_pooling

        side = 7
        return {
            "rpn_anchor_generator": self._anchors(neck, self.aspect_ratios),
            "rpn_pre_nms_top_n_train": self.proposals_before_nms[0],
            "rpn_pre_nms_top_n_test": self.proposals_before_nms[1],
            "rpn_post_nms_top_n_train": self.proposals[0],
            "rpn_post_nms_top_n_test": self.proposals[1],
            "rpn_nms_thresh": self.proposal_nms,
            "rpn_batch_size_per_image": self.rpn_batch,
            "box_roi_pool": region_pooling(neck.strides, side),
            "box_head": TwoMLPHead(self.width * side**2, self.box_width),
            "box_predictor": FastRCNNPredictor(self.box_width, classes + 1),
            "box_batch_size_per_image": self.roi_batch,
            "box_score_thresh": self.score_threshold,
            "box_nms_thresh": self.nms,
            "box_detections_per_img": self.detections_per_image,
        }


@final
class FasterRCNN(RegionHead):
    """Faster R-CNN (Ren et al. 2015) with a feature pyramid: proposals, then class and box of each."""

    def _model(self, neck: Neck, classes: int) -> nn.Module:
        from torchvision.models import detection

        model: nn.Module = detection.FasterRCNN(neck, **self._arguments(neck, classes))
        return model


@final
class MaskRCNN(RegionHead):
    """Mask R-CNN (He et al. 2017): Faster R-CNN, and a mask of 28 x 28 inside each box.

    Attributes:
        mask_width: Channels of the four convolutions that a mask comes from.
    """

    TASKS: ClassVar[frozenset[str] | None] = frozenset({"instance_segmentation"})

    mask_width: int = Field(default=256, ge=1)

    def _model(self, neck: Neck, classes: int) -> nn.Module:
        from torchvision.models import detection
        from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

        from thawline.heads.detectors import region_pooling

        model: nn.Module = detection.MaskRCNN(
            neck,
            mask_roi_pool=region_pooling(neck.strides, 14),
            mask_head=MaskRCNNHeads(self.width, (self.mask_width,) * 4, 1),
            mask_predictor=MaskRCNNPredictor(self.mask_width, self.mask_width, classes + 1),
            **self._arguments(neck, classes),
        )
        return model


class DenseHead(PyramidHead):
    """Base of the heads of one stage, which speak of every place of every level.

    Attributes:
        candidates: How many detections of each level go into non-maximum suppression.
    """

    FIRST_CLASS: ClassVar[int] = 0

    strides: tuple[PositiveInt, ...] = Field(default=(8, 16, 32), min_length=1)
    extra_levels: Literal[0, 2] = 2
    candidates: int = Field(default=1000, ge=1)

    def _extra(self) -> ExtraFPNBlock | None:
        from torchvision.ops.feature_pyramid_network import LastLevelP6P7

        return LastLevelP6P7(self.width, self.width) if self.extra_levels else None


@final
class FCOS(DenseHead):
    """FCOS (Tian et al. 2019): no anchors; class, box and centredness of every place.

    A level is responsible for boxes of 4 to 8 times its size in `anchor_sizes`, which are one for each level: the
    stride by default. `width` must be a multiple of 32, the groups of its normalisation.

    Attributes:
        center_radius: A place within this many anchor sizes of a box's centre is one of its places.
    """

    ANCHOR_SCALES: ClassVar[tuple[float, ...]] = (1.0,)

    width: int = Field(default=64, ge=32, multiple_of=32)
    score_threshold: float = Field(default=0.2, ge=0.0, lt=1.0)
    nms: float = Field(default=0.6, gt=0.0, le=1.0)
    center_radius: float = Field(default=1.5, gt=0.0)

    @field_validator("anchor_sizes")
    @classmethod
    def _one_anchor(cls, sizes: Sizes | None) -> Sizes | None:
        if sizes is not None and any(len(level) != 1 for level in sizes):
            raise ValueError("must be one number for each level")
        return sizes

    def _model(self, neck: Neck, classes: int) -> nn.Module:
        from torchvision.models import detection

        model: nn.Module = detection.FCOS(
            neck,
            classes,
            anchor_generator=self._anchors(neck, (1.0,)),
            center_sampling_radius=self.center_radius,
            score_thresh=self.score_threshold,
            nms_thresh=self.nms,
            detections_per_img=self.detections_per_image,
            topk_candidates=self.candidates,
        )
        return model


@final
class RetinaNet(DenseHead):
    """RetinaNet (Lin et al. 2017): class and box of every anchor, with the focal loss.

    Attributes:
        aspect_ratios: Of the anchors, height divided by width.
        normalization: ``group`` (GroupNorm of 32 groups, as in torchvision's second recipe, with a GIoU loss of the
            boxes; `width` must be a multiple of 32) or ``none`` (as in the paper, with an L1 loss).
    """

    ANCHOR_SCALES: ClassVar[tuple[float, ...]] = (4.0, 4.0 * 2 ** (1 / 3), 4.0 * 2 ** (2 / 3))

    aspect_ratios: tuple[PositiveFloat, ...] = Field(default=(0.5, 1.0, 2.0), min_length=1)
    normalization: Literal["group", "none"] = "group"
    detections_per_image: int = Field(default=300, ge=1)

    @model_validator(mode="after")
    def _whole_groups(self) -> RetinaNet:
        if self.normalization == "group" and self.width % 32:
            raise ValueError("width must be a multiple of 32 with normalization=group")
        return self

    def _model(self, neck: Neck, classes: int) -> nn.Module:
        from functools import partial

        from torch.nn import GroupNorm
        from torchvision.models import detection
        from torchvision.models.detection.retinanet import RetinaNetHead

        anchors = self._anchors(neck, self.aspect_ratios)
        grouped = self.normalization == "group"
        head = RetinaNetHead(
            self.width,
            anchors.num_anchors_per_location()[0],
            classes,
            norm_layer=partial(GroupNorm, 32) if grouped else None,
        )
        if grouped:
            head.regression_head._loss_type = "giou"
        model: nn.Module = detection.RetinaNet(
            neck,
            classes,
            anchor_generator=anchors,
            head=head,
            score_thresh=self.score_threshold,
            nms_thresh=self.nms,
            detections_per_img=self.detections_per_image,
            topk_candidates=self.candidates,
        )
        return model
