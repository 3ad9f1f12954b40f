"""The modules of segmentation heads: feature maps -> logits (B, C, H, W) at the input's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from thawline.heads.pyramid import Maps

_GROUPS = 8
"""Of group normalisation."""


class Decoded(nn.Module):
    """What all of them do: read maps, decode them to logits, and bring these to the input's size bilinearly.

    Args:
        maps: which maps are read.
        decoder: a tuple of maps, by ascending stride -> logits (B, C, h, w).
        size: (H, W) of the input images.
    """

    def __init__(self, maps: Maps, decoder: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.maps, self.decoder, self._size = maps, decoder, size

    def forward(self, maps: Sequence[torch.Tensor], targets: Any = None) -> torch.Tensor:
        """The backbone's maps, by ascending stride -> logits (B, C, H, W); `targets` are not read."""
        logits = self.decoder(self.maps(maps))
        return F.interpolate(logits, self._size, mode="bilinear", align_corners=False)


class OnDeepest(nn.Module):
    """A module that reads the deepest of the maps."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Maps -> logits (B, C, h, w) at the deepest one's size."""
        logits: torch.Tensor = self.module(maps[-1])
        return logits


class FeaturePyramid(nn.Module):
    """A feature pyramid (Lin et al. 2017) whose levels are summed at the finest one (Kirillov et al. 2019).

    Args:
        channels: of each map, by ascending stride.
        classes: how many.
        width: channels of every level.
        normalization: after each 3x3 convolution: none, batch or group.
        dropout: on whole channels before the last convolution.
    """

    def __init__(
        self, channels: Sequence[int], classes: int, *, width: int, normalization: str, dropout: float
    ) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(own, width, kernel_size=1) for own in channels)
        self.smooth = nn.ModuleList(_convolution(width, normalization) for _ in channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Maps, by ascending stride -> logits (B, C, h, w) at the finest one's size.

        The sum of the levels is classified level by level, since that is linear: a few classes are cheaper to bring to
        the finest size than many channels are.
        """
        level: torch.Tensor | None = None
        finest, kept, levels = maps[0].shape[-2:], self._kept_channels(maps[0]), []
        for own, lateral, smooth in zip(reversed(maps), reversed(self.lateral), reversed(self.smooth), strict=True):
            value = lateral(own)
            level = value if level is None else value + F.interpolate(level, value.shape[-2:], mode="nearest")
            smoothed = smooth(level) if kept is None else smooth(level) * kept
            classified = F.conv2d(smoothed, self.classifier.weight)
            levels.append(F.interpolate(classified, finest, mode="bilinear", align_corners=False))
        bias: torch.Tensor = self.classifier.get_parameter("bias")
        return torch.stack(levels).sum(dim=0) + bias[:, None, None]

    def _kept_channels(self, finest: torch.Tensor) -> torch.Tensor | None:
        """The factors (B, width, 1, 1) of dropout, the same for all levels; None: it drops nothing."""
        if not (self.training and self.dropout.p):
            return None
        kept: torch.Tensor = self.dropout(finest.new_ones((len(finest), self.classifier.in_channels, 1, 1)))
        return kept


class OfPyramidDecoder(nn.Module):
    """A decoder of segmentation_models_pytorch, and the last convolution.

    Those decoders read the input and a map at every stride from 2 on, of which the first two serve for their sizes
    alone: they are given without channels, as by encoders that have no such maps.

    Args:
        decoder: maps at strides 1 to 32 -> (B, width, h, w).
        width: of what it gives.
        classes: how many.
        size: (H, W) of the input images.
    """

    def __init__(self, decoder: nn.Module, width: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.decoder, self._size = decoder, size
        self.classifier = nn.Conv2d(width, classes, kernel_size=3, padding=1)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Maps at strides 4, 8, 16 and 32 -> logits (B, C, h, w)."""
        height, width = self._size
        sizes = ((height, width), (-(-height // 2), -(-width // 2)))
        without_channels = [maps[0].new_empty((len(maps[0]), 0, *size)) for size in sizes]
        logits: torch.Tensor = self.classifier(self.decoder([*without_channels, *maps]))
        return logits


def _convolution(width: int, normalization: str) -> nn.Sequential:
    convolution = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=normalization == "none")
    norms: dict[str, nn.Module] = {
        "none": nn.Identity(),
        "batch": nn.BatchNorm2d(width),
        "group": nn.GroupNorm(_GROUPS, width),
    }
    return nn.Sequential(convolution, norms[normalization], nn.ReLU(inplace=True))
