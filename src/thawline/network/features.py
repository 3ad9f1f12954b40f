"""What a backbone gives of an image to a head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Features:
    """One vector of an image, or maps at several strides.

    Attributes:
        width: the length of the vector (B, width); of maps, the channels of the deepest.
        channels: of maps, stride -> channels, by ascending stride: the maps are (B, channels, H / stride, W / stride),
            rounded as the backbone rounds. Empty: it is one vector.
        size: (H, W) of the input images in pixels.
    """

    width: int
    channels: Mapping[int, int] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
