"""Classification: one class for each image."""

from thawline.tasks.classification.task import Classification

__all__ = ["Classification"]
