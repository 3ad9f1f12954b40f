"""A forward pass on the meta device: without data, without memory, and without a change to the module."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

META_FAILURES = (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError, IndexError, AttributeError)
"""What networks raise that look at values, refuse the input size or keep tensors outside of parameters and buffers."""

_INSPECTIONS = frozenset({"__get__", "size", "dim", "stride", "numel", "is_floating_point", "is_complex"})
"""Functions that look at a tensor without using its values."""

CallHook = Callable[[str, list[str], Callable[[], Any]], Any]
"""Runs a torch function, given its name, the names of the parameters among its arguments, and the call itself."""


def run_on_meta(
    module: nn.Module, input_size: tuple[int, int], observe: CallHook, finished: Callable[[Any], None] | None = None
) -> Any:
    """The module's output for one image on the meta device, in eval mode; the module itself stays as it is.

    `finished` is given the output of every part of the module.
    """
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._pytree import tree_leaves

    shadow = _shadow(module).eval()
    names = {id(parameter): name for name, parameter in shadow.named_parameters()}
    if finished is not None:
        for part in shadow.modules():
            part.register_forward_hook(lambda _module, _inputs, output: finished(output))

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(func, "__name__", "")
            call = functools.partial(func, *args, **(kwargs or {}))
            if name in _INSPECTIONS:
                return call()
            used = [names[id(leaf)] for leaf in tree_leaves((args, kwargs)) if id(leaf) in names]
            result = observe(name, used, call)
            # torch 2.6 computes such a convolution on the meta device, though on no other.
            if name == "conv2d" and not result.numel():
                raise ValueError("the kernel of a convolution is larger than what it is applied to")
            return result

    images = torch.empty(1, 3, *input_size, device="meta")
    with torch.no_grad(), _without_autocast_on_meta(), Watch():
        return shadow(images)


@contextlib.contextmanager
def _without_autocast_on_meta() -> Iterator[None]:
    """Within the block autocast of the meta device does nothing; torch refuses it even with ``enabled=False``.

    Networks ask for it with the device of their input, some of timm below 1.0.30 among them (efficientvit).
    """
    import torch

    autocast = torch.autocast

    def replacement(device_type: str, *arguments: Any, **keywords: Any) -> Any:
        if device_type == "meta":
            return contextlib.nullcontext()
        return autocast(device_type, *arguments, **keywords)

    for module in (torch, torch.amp):
        setattr(module, "autocast", replacement)  # noqa: B010 - no type allows it
    try:
        yield
    finally:
        for module in (torch, torch.amp):
            setattr(module, "autocast", autocast)  # noqa: B010


def _shadow(module: nn.Module) -> nn.Module:
    """A copy of the module whose parameters and buffers are on the meta device, so that it takes no memory.

    A copy, because some networks keep what their first forward pass makes (position encodings, say).
    """
    import torch
    from torch import nn

    stand_ins: dict[int, Any] = {}
    for parameter in module.parameters():
        stand_ins[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in module.buffers():
        stand_ins[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, stand_ins)


def known_input_size(module: nn.Module, input_size: tuple[int, int] | None) -> tuple[int, int]:
    """`input_size` (H, W) where it is given; else what timm says of the model, else 224 by 224."""
    if input_size is not None:
        return input_size
    size = getattr(module, "pretrained_cfg", {}).get("input_size", (3, 224, 224))
    return (size[1], size[2])
