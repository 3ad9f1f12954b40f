"""The table of layer groups: parameters, output shape and multiply-adds of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thawline.layer_groups.layer_group import LayerGroup
from thawline.layer_groups.meta_device import META_FAILURES, known_input_size, run_on_meta

if TYPE_CHECKING:
    from torch import nn


_REARRANGEMENTS = frozenset(
    {"permute", "transpose", "reshape", "view", "flatten", "contiguous", "pad", "roll", "split", "chunk", "unbind"}
)
"""Functions that prepare a value for the next group rather than make it."""


@dataclass(frozen=True)
class GroupRow:
    """What is to be known of a layer group before anyone trains.

    Attributes:
        index: position from the input, 0 is the stem.
        name: the group's name.
        k: the depth at which the group thaws; the group nearest to the output has k = 1.
        parameters: count of parameters.
        share: share of all of the network's parameters, 0 to 1.
        output_shape: shape of the value that leaves the group for one image, without the batch dimension;
            None where the network does not run on the meta device.
        multiply_adds: multiply-adds of convolutions, linear layers and attention for one image; None as above.
    """

    index: int
    name: str
    k: int
    parameters: int
    share: float
    output_shape: tuple[int, ...] | None
    multiply_adds: int | None


def group_table(
    backbone: nn.Module, groups: Sequence[LayerGroup], input_size: tuple[int, int] | None = None
) -> tuple[GroupRow, ...]:
    """Parameters, output shape and multiply-adds of each layer group, for one image of `input_size` (H, W)."""
    sizes = {name: parameter.numel() for name, parameter in backbone.named_parameters()}
    counts = [sum(sizes[name] for name in group.parameters) for group in groups]
    group_of = {name: group.index for group in groups for name in group.parameters}
    shapes, operations = _trace_groups(backbone, group_of, known_input_size(backbone, input_size))
    return tuple(
        GroupRow(
            index=group.index,
            name=group.name,
            k=len(groups) - group.index,
            parameters=count,
            share=count / sum(counts),
            output_shape=shapes.get(group.index),
            multiply_adds=operations.get(group.index) if operations else None,
        )
        for group, count in zip(groups, counts, strict=True)
    )


def _trace_groups(
    backbone: nn.Module, group_of: Mapping[str, int], input_size: tuple[int, int]
) -> tuple[dict[int, tuple[int, ...]], dict[int, int]]:
    """Per group, the shape of the last value made before the next group begins, and the multiply-adds.

    An operation without parameters (the products of attention, an activation, pooling) counts for the group whose
    parameter was used last.
    """
    from torch import Tensor
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    shapes: dict[int, tuple[int, ...]] = {}
    operations: Counter[int] = Counter(dict.fromkeys(group_of.values(), 0))
    current = 0

    def keep_shape(output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim > 1:
            shapes[current] = tuple(output.shape[1:])

    def observe(function: str, used: list[str], call: Callable[[], Any]) -> Any:
        nonlocal current
        current = max([current, *(group_of[name] for name in used)])
        before = counter.get_total_flops()
        output = call()
        if function not in _REARRANGEMENTS:
            keep_shape(output)
        operations[current] += (counter.get_total_flops() - before) // 2  # one multiply-add is two of its operations
        return output

    try:
        with counter:
            run_on_meta(backbone, input_size, observe, keep_shape)
    except META_FAILURES:
        return {}, {}
    return shapes, dict(operations)
