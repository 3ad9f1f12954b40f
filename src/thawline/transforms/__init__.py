"""From an image to the uint8 tensor that the model takes, where the image lies in it, and random augmentation."""

from thawline.transforms.placement import Placement, Size
from thawline.transforms.transform import Transform

__all__ = ["Placement", "Size", "Transform"]
