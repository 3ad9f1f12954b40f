"""The layer groups of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from thawline.layer_groups.forward_pass import forward_order
from thawline.layer_groups.intervals import contiguous_labels, merge_weightless, with_unlabelled
from thawline.layer_groups.labels import parameter_labels
from thawline.layer_groups.layer_group import Granularity, LayerGroup
from thawline.layer_groups.names import group_names

if TYPE_CHECKING:
    from torch import Tensor, nn


def layer_groups(
    backbone: nn.Module,
    granularity: Granularity = "block",
    input_size: tuple[int, int] | None = None,
    order: Sequence[str] | None = None,
) -> tuple[LayerGroup, ...]:
    """The layer groups of a network without classifier, index 0 at the input.

    Every parameter is in exactly one group; the groups one after the other give the parameters in forward order.

    Args:
        backbone: maps images (B, 3, H, W) to features; it may be on the meta device. Nothing of it changes.
        granularity: residual blocks, transformer blocks or single layers (``block``), or their stages. A network that
            knows no stages is grouped by blocks.
        input_size: H and W of the images; default: what timm says of the model, else 224.
        order: the names of all parameters in forward order, where it is known already.
    """
    if order is None:
        order = forward_order(backbone, input_size)
    sizes = {name: parameter.numel() for name, parameter in backbone.named_parameters()}
    weights = {name for name, parameter in backbone.named_parameters() if _is_weight(parameter)}
    labels = contiguous_labels(order, parameter_labels(backbone, granularity, sizes, weights), sizes)
    groups = merge_weightless(with_unlabelled(order, labels, sizes, weights), weights)
    return tuple(
        LayerGroup(index, name, parameters)
        for index, (name, parameters) in enumerate(zip(group_names(groups, sizes), groups, strict=True))
    )


def _is_weight(parameter: Tensor) -> bool:
    """Whether it has two or more dimensions: not a norm's scale, even one stored as (1, C, 1, 1)."""
    return sum(size > 1 for size in parameter.shape) > 1
