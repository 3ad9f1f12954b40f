"""From a library's network to a backbone: one feature vector for each image, and no parameter that nothing uses."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import nn

from thawline.backbones.backbone import Size
from thawline.errors import first_line, usage_error
from thawline.layer_groups import ForwardPass, Granularity, LayerGroup, layer_groups, trace

ENCODER = "encoder"
"""The place of a library's network in a module of ours."""


class PooledFeatures(nn.Module):
    """The mean over the positions of an encoder that does not pool by itself.

    Tokens (B, N, D) or maps (B, D, H, W) -> features (B, D).
    """

    def __init__(self, encoder: nn.Module, dims: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.positions = (1,) if dims == 3 else (2, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features (B, D) for images (B, 3, H, W)."""
        features: torch.Tensor = self.encoder(images).mean(dim=self.positions)
        return features


def as_backbone(
    network: nn.Module, size: Size, granularity: Granularity, name: str
) -> tuple[nn.Module, int, tuple[LayerGroup, ...]]:
    """The network as a module that gives one vector an image, the vector's length, and the layer groups.

    Parameters that no forward pass uses become buffers (EfficientViM keeps the weights of its classifiers' vote when
    the classifiers are gone): nothing can ask for their gradient, and the state dict stays the library's.

    Raises:
        UsageError: the network does not take images of this size, or gives something else than features.
    """
    traced = _traced(network, size, name)
    keep_as_buffers(network, {parameter for parameter, _ in network.named_parameters()}.difference(traced.used))
    groups = layer_groups(network, granularity, size, traced.used)
    shape = traced.output_shape
    if shape is None or len(shape) > 3:
        raise usage_error("backbone.name", f"{name} gives outputs of shape {shape}, not features")
    if len(shape) == 1:
        return network, shape[0], groups
    module = PooledFeatures(network, len(shape) + 1)
    return module, shape[1] if len(shape) == 2 else shape[0], renamed(groups)


def renamed(groups: Sequence[LayerGroup]) -> tuple[LayerGroup, ...]:
    """The layer groups of a network by the names that its parameters have where it is an encoder."""
    return tuple(
        LayerGroup(group.index, group.name, tuple(f"{ENCODER}.{parameter}" for parameter in group.parameters))
        for group in groups
    )


def _traced(network: nn.Module, size: Size, name: str) -> ForwardPass:
    try:
        return trace(network, size)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, ZeroDivisionError) as error:
        message = f"{name} does not take images of {size[0]} x {size[1]} pixels: {first_line(error)}"
        raise usage_error("backbone.input_size", message) from None


def keep_as_buffers(network: nn.Module, names: Collection[str]) -> None:
    """Make buffers of these parameters; the state dict stays what it is."""
    for name in names:
        path, _, own = name.rpartition(".")
        owner = network.get_submodule(path)
        value = getattr(owner, own).detach()
        delattr(owner, own)
        owner.register_buffer(own, value)
