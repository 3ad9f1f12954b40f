"""Semantic segmentation: a class for each pixel."""

from thawline.tasks.semantic_segmentation.losses import SegmentationLoss
from thawline.tasks.semantic_segmentation.task import SemanticSegmentation

__all__ = ["SegmentationLoss", "SemanticSegmentation"]
