"""Semantic segmentation: a class for each pixel."""

from thawline.tasks.semantic_segmentation.task import SemanticSegmentation

__all__ = ["SemanticSegmentation"]
