"""The torch modules of the adapters, and what they ask of the layers beside them."""

from __future__ import annotations

import math

import torch
from timm.layers.std_conv import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import nn

_STANDARDISED = (StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame)
_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


class ScaleShift(nn.Module):
    """Channels times `scale` plus `shift`, both (C,); channels are the last dimension, or else the second."""

    def __init__(self, width: int, *, channels_last: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))
        self._channels_last = channels_last

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, ..., C) or (B, C, ...) -> the same shape."""
        if self._channels_last:
            return features * self.scale + self.shift
        shape = (-1, *[1] * (features.dim() - 2))
        return features * self.scale.view(shape) + self.shift.view(shape)


class BottleneckModule(nn.Module):
    """``scale * up(activation(down(x)))`` with `width` features between; `up` starts at 0.

    Over the last dimension by linear layers, or over the channels of (B, C, H, W) by convolutions of 1 x 1.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int, scale: float, activation: str, *, channels_last: bool
    ) -> None:
        super().__init__()
        if channels_last:
            self.down: nn.Module = nn.Linear(inputs, width)
            self.up: nn.Module = nn.Linear(width, outputs)
        else:
            self.down, self.up = nn.Conv2d(inputs, width, 1), nn.Conv2d(width, outputs, 1)
        self.activation = _ACTIVATIONS[activation]()
        self._scale = scale
        nn.init.kaiming_uniform_(self.down.get_parameter("weight"), a=math.sqrt(5))
        for tensor in (self.down.get_parameter("bias"), *self.up.parameters()):
            nn.init.zeros_(tensor)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, ..., inputs) or (B, inputs, H, W) -> what is added to the output."""
        added: torch.Tensor = self.up(self.activation(self.down(features))) * self._scale
        return added


class Prompts(nn.Module):
    """Learned tokens (P, D) for each image of a batch."""

    def __init__(self, count: int, width: int, bound: float, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(count, width))
        nn.init.uniform_(self.tokens, -bound, bound)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch_size: int) -> torch.Tensor:
        """Tokens (B, P, D)."""
        tokens: torch.Tensor = self.dropout(self.tokens.expand(batch_size, -1, -1))
        return tokens


def is_plain_convolution(module: nn.Module) -> bool:
    """Whether this is a convolution whose output is linear in its weight (timm has some that standardise it)."""
    return isinstance(module, nn.Conv2d) and not isinstance(module, _STANDARDISED)


def is_called(root: nn.Module, path: str) -> bool:
    """Whether the module at `path` is called by its parent, which `nn.MultiheadAttention` does not do."""
    return not isinstance(root.get_submodule(path.rpartition(".")[0]), nn.MultiheadAttention)
