"""What one forward pass shows: which parameters it uses, in which order, and the shape of the output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thawline.layer_groups.meta_device import META_FAILURES, known_input_size, run_on_meta

if TYPE_CHECKING:
    from torch import nn


def forward_order(module: nn.Module, input_size: tuple[int, int] | None = None) -> tuple[str, ...]:
    """The names of all parameters, in the order in which a forward pass first uses them.

    The pass runs on the meta device: no data, no memory. A parameter that it does not use follows the one defined
    before it. Where the network cannot run there, the order is that of definition.
    """
    used = used_parameters(module, input_size)
    order = list(used)
    previous: str | None = None
    for name, _ in module.named_parameters():
        if name not in used:
            order.insert(0 if previous is None else order.index(previous) + 1, name)
        previous = name
    return tuple(order)


def used_parameters(module: nn.Module, input_size: tuple[int, int] | None = None) -> tuple[str, ...]:
    """The names of the parameters that a forward pass in eval mode uses, in the order of first use.

    All names, in the order of definition, where the network cannot run on the meta device.
    """
    try:
        return trace(module, known_input_size(module, input_size)).used
    except META_FAILURES:
        return tuple(name for name, _ in module.named_parameters())


@dataclass(frozen=True)
class ForwardPass:
    """A forward pass in eval mode on the meta device.

    Attributes:
        used: the parameters that it uses, in the order of first use.
        output_shape: of one image, without the batch dimension; None if the output is not one tensor.
    """

    used: tuple[str, ...]
    output_shape: tuple[int, ...] | None


def trace(module: nn.Module, input_size: tuple[int, int]) -> ForwardPass:
    """A forward pass of one image of `input_size` (H, W), without data and memory.

    Raises:
        RuntimeError, ValueError, ...: the module does not take images of this size, or cannot run on the meta device.
    """
    from torch import Tensor

    used: dict[str, None] = {}

    def note(_: str, names: list[str], call: Callable[[], Any]) -> Any:
        used.update(dict.fromkeys(names))
        return call()

    output = run_on_meta(module, input_size, note)
    return ForwardPass(tuple(used), tuple(output.shape[1:]) if isinstance(output, Tensor) else None)


def feature_shape(module: nn.Module, input_size: tuple[int, int]) -> tuple[int, ...] | None:
    """The shape of the module's output for one image, without the batch dimension; None if it is not one tensor.

    Raises:
        RuntimeError, ValueError, ...: as `trace`.
    """
    return trace(module, input_size).output_shape
