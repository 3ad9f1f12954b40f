"""Maps at several strides for heads that read them: those of the backbone, or a pyramid made of a single map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from timm.layers.norm import LayerNorm2d
from torch import nn

from thawline.errors import usage_error
from thawline.network import Features


class Maps(nn.Module):
    """Those maps of a backbone that a head reads, (B, C, ~H / stride, ~W / stride), by ascending stride.

    Args:
        features: what the backbone gives. A single map, as that of a plain vision transformer, serves every head: one
            that reads one map takes it, for one that reads several a `SimplePyramid` makes them.
        strides: of the maps that are read, ascending.

    Attributes:
        channels: stride -> channels of each map.

    Raises:
        UsageError: the backbone has no map at one of the strides.
    """

    def __init__(self, features: Features, strides: Sequence[int]) -> None:
        super().__init__()
        given = dict(features.channels)
        self.channels: Mapping[int, int]
        self.pyramid: SimplePyramid | None = None
        self._places: Sequence[int] = ()
        if len(given) == 1 and len(strides) > 1:
            ((stride, channels),) = given.items()
            self.pyramid = SimplePyramid(channels, stride, strides)
            self.channels = self.pyramid.channels
            return
        if len(given) == 1:
            strides = tuple(given)
        missing = [str(stride) for stride in strides if stride not in given]
        if missing:
            there = ", ".join(map(str, given)) or "none"
            raise usage_error(
                "head.strides", f"the backbone has no map at stride {', '.join(missing)} (it has {there})"
            )
        self.channels = {stride: given[stride] for stride in strides}
        self._places = [list(given).index(stride) for stride in strides]

    def forward(self, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The backbone's maps, by ascending stride -> those that the head reads."""
        if self.pyramid is None:
            return tuple(maps[place] for place in self._places)
        made: tuple[torch.Tensor, ...] = self.pyramid(maps)
        return made


class SimplePyramid(nn.Module):
    """Maps at several strides from one map (B, C, h, w), as for the plain vision transformers of Li et al. 2022.

    A map that is finer by 2^n comes from n transposed convolutions of 2x2, with layer normalisation and GELU between
    them, each of which halves the channels; a coarser one from max pooling. Strides need not be powers of two apart:
    from stride 14, that nearest to 8 is 7.

    Args:
        channels: C of the map.
        stride: of the map.
        strides: of the maps that are made, ascending.

    Attributes:
        channels: stride -> channels of each map.
    """

    def __init__(self, channels: int, stride: int, strides: Sequence[int]) -> None:
        super().__init__()
        doublings = {wanted: round(math.log2(stride / wanted)) for wanted in strides}
        self.channels = {wanted: channels // 2 ** max(times, 0) for wanted, times in doublings.items()}
        self.levels = nn.ModuleList(_level(channels, times) for times in doublings.values())

    def forward(self, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """A single map, in a sequence -> one map for each stride."""
        (deepest,) = maps
        return tuple(level(deepest) for level in self.levels)


def _level(channels: int, doublings: int) -> nn.Module:
    if doublings == 0:
        return nn.Identity()
    if doublings < 0:
        return nn.MaxPool2d(2**-doublings)
    layers: list[nn.Module] = []
    for step in range(doublings):
        width = channels // 2**step
        layers += [LayerNorm2d(width), nn.GELU()] if step else []
        layers.append(nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2))
    return nn.Sequential(*layers)
