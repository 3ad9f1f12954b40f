"""Instance segmentation: the pixels and classes of an image's objects."""

from thawline.tasks.instance_segmentation.task import InstanceSegmentation

__all__ = ["InstanceSegmentation"]
