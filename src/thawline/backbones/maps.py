"""From a library's network to a backbone that gives feature maps at several strides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from thawline.backbones.backbone import Backbone, Size
from thawline.backbones.features import ENCODER, PooledFeatures, keep_as_buffers, renamed
from thawline.errors import UsageError, first_line, usage_error
from thawline.layer_groups import META_FAILURES, Granularity, layer_groups, trace

Maps = tuple[torch.Tensor, ...]


class TimmMaps(nn.Module):
    """Some of the intermediate maps of a timm network, by timm's own `forward_intermediates`."""

    def __init__(self, encoder: nn.Module, indices: Sequence[int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.indices = list(indices)

    def forward(self, images: torch.Tensor) -> Maps:
        """The maps (B, C, H, W) for images (B, 3, H, W)."""
        return tuple(_intermediates(self.encoder, images, self.indices))


class GraphMaps(nn.Module):
    """Some of the intermediate maps of another library's network, by torchvision's feature extraction.

    The graph is followed over the network itself, so its modules may be replaced, as an adapter does.
    """

    def __init__(self, encoder: nn.Module, nodes: Sequence[str]) -> None:
        super().__init__()
        from torchvision.models.feature_extraction import create_feature_extractor

        self.encoder = encoder
        places = {node: str(place) for place, node in enumerate(nodes)}
        # What differs in training, dropout and stochastic depth, are modules, which know their own mode.
        self.graph: torch.fx.Graph = create_feature_extractor(encoder, return_nodes=places).eval().graph

    def forward(self, images: torch.Tensor) -> Maps:
        """The maps (B, C, H, W) for images (B, 3, H, W)."""
        return tuple(torch.fx.Interpreter(self.encoder, graph=self.graph).run(images).values())


def as_maps(backbone: Backbone, strides: Sequence[int], granularity: Granularity) -> Backbone:
    """The same network with the same weights, giving its deepest map at each of these strides, in this order.

    A network that has one map, such as a plain vision transformer, gives that one, whatever its stride.

    What no map uses, such as a last convolution before the pooling, becomes a buffer: it is no layer group, and *k*
    does not count it.

    Raises:
        UsageError: the network has no map at one of the strides.
    """
    whole = backbone.module
    network = whole.encoder if isinstance(whole, PooledFeatures) else whole
    size = backbone.input_size
    found = _found(network, size, backbone.name)
    if len(found) == 1:
        strides = list(found)
    missing = [stride for stride in strides if stride not in found]
    if missing:
        has = ", ".join(map(str, sorted(found))) or "none"
        raise usage_error(
            "head.strides",
            f"{backbone.name} has no map of stride {', '.join(map(str, missing))} at {size[0]} x {size[1]} pixels; "
            f"it has {has}",
        )
    chosen = [found[stride] for stride in strides]
    places = [place for place, _ in chosen]
    module: nn.Module = TimmMaps(network, places) if _is_timm(network) else GraphMaps(network, places)
    prefix = f"{ENCODER}."
    used = tuple(name.removeprefix(prefix) for name in trace(module, size).used)
    keep_as_buffers(module.get_submodule(ENCODER), {name for name, _ in network.named_parameters()}.difference(used))
    channels = {stride: width for stride, (_, width) in zip(strides, chosen, strict=True)}
    return replace(
        backbone,
        module=module,
        feature_dim=chosen[-1][1],
        channels=channels,
        groups=renamed(layer_groups(module.get_submodule(ENCODER), granularity, size, used)),
        source_classifier=None,
    )


def _is_timm(network: nn.Module) -> bool:
    return hasattr(network, "forward_intermediates")


def _found(network: nn.Module, size: Size, name: str) -> dict[int, tuple[Any, int]]:
    """Stride -> where the network's deepest map of that stride is, and its channels."""
    return _timm_maps(network, size, name) if _is_timm(network) else _graph_maps(network, size, name)


def _stride(shape: Sequence[int], size: Size) -> int:
    """By what a map (C, H, W) is smaller than the images, where that is no whole number the nearest power of two.

    0: it is no map.
    """
    if len(shape) != 3 or not min(shape):
        return 0
    exact = {side / extent for side, extent in zip(size, shape[1:], strict=True)}
    if len(exact) == 1 and min(exact).is_integer():
        return int(exact.pop())
    strides = {2 ** round(math.log2(side / extent)) for side, extent in zip(size, shape[1:], strict=True)}
    return int(strides.pop()) if len(strides) == 1 else 0


def _timm_maps(network: nn.Module, size: Size, name: str) -> dict[int, tuple[Any, int]]:
    shapes: list[tuple[int, ...]] = []

    class All(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> Maps:
            maps = _intermediates(self.network, images, None)
            shapes.extend(tuple(each.shape[1:]) for each in maps)
            return tuple(maps)

    try:
        trace(All(), size)
    except META_FAILURES as error:
        raise _no_maps(name, error) from None
    return {_stride(shape, size): (place, shape[0]) for place, shape in enumerate(shapes) if _stride(shape, size)}


def _graph_maps(network: nn.Module, size: Size, name: str) -> dict[int, tuple[Any, int]]:
    """The maps at which a network goes over to a larger stride: the outputs of the blocks before.

    Maps whose size does not follow the images', as of squeeze-and-excitation or of an adaptive pooling, are none.
    """
    larger = (2 * size[0], 2 * size[1])
    try:
        shapes, again = _graph_shapes(network, size), _graph_shapes(network, larger)
    except META_FAILURES as error:
        raise _no_maps(name, error) from None
    strides = {
        node: _stride(shape, size)
        for node, shape in shapes.items()
        if _stride(shape, size) and _stride(shape, size) == _stride(again.get(node, ()), larger)
    }
    found = {}
    for stride in sorted(set(strides.values())):
        deeper = next((node for node, other in strides.items() if other > stride), None)
        nodes = [node for node, other in strides.items() if other == stride and _block(node) != _block(deeper)]
        if nodes:
            found[stride] = (nodes[-1], shapes[nodes[-1]][0])
    return found


def _block(node: str | None) -> tuple[str, ...]:
    """The block that a node of the graph lies in, by the first two names of its path."""
    return () if node is None else tuple(node.split(".")[:2])


def _graph_shapes(network: nn.Module, size: Size) -> dict[str, tuple[int, ...]]:
    """The shape, of one image, of each tensor that the network computes, by its path, in order."""
    from torchvision.models.feature_extraction import get_graph_node_names

    nodes = get_graph_node_names(network)[1]
    shapes: dict[str, tuple[int, ...]] = {}

    class All(GraphMaps):
        def forward(self, images: torch.Tensor) -> Maps:
            maps = super().forward(images)
            pairs = zip(nodes, maps, strict=True)
            shapes.update({node: tuple(each.shape[1:]) for node, each in pairs if isinstance(each, torch.Tensor)})
            return maps

    trace(All(network, nodes), size)
    return shapes


def _no_maps(name: str, error: Exception) -> UsageError:
    return usage_error("head", f"{name} gives no feature maps, which this head reads: {first_line(error)}")


def _intermediates(network: Any, images: torch.Tensor, indices: list[int] | None) -> list[torch.Tensor]:
    maps: list[torch.Tensor] = network.forward_intermediates(
        images, indices=indices, norm=False, stop_early=True, output_fmt="NCHW", intermediates_only=True
    )
    return maps
