"""Detection: the boxes and classes of an image's objects."""

from thawline.tasks.detection.task import Detection

__all__ = ["Detection"]
