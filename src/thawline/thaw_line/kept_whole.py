"""What is recorded as one node each: functions and modules that cannot be followed, or are not meant to be."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from inspect import isroutine
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import fx, nn

from thawline.thaw_line.proxies import ValueProxy

# Torch refuses proxies in these; recorded as one node each where they are given one.
_FACTORIES = ("arange", "empty", "eye", "full", "linspace", "logspace", "ones", "zeros", "tensor", "as_tensor")
# Recorded whatever they are given: their values are not constants of the model.
_RANDOM_FACTORIES = ("rand", "randn", "randint", "randperm", "normal")
# What is traced through would be different graphs in training and in evaluation, and many small nodes.
_LEAVES = {
    "timm.layers": ("DropPath", "DropBlock2d"),
    "torchvision.ops": ("DropBlock2d", "DropBlock3d", "StochasticDepth", "FrozenBatchNorm2d", "DeformConv2d"),
}


class Recorder(Protocol):
    """Makes of a function one that is a node of the graph where it is given a proxy, or `always`."""

    def __call__(self, function: Callable[..., Any], always: bool = False) -> Callable[..., Any]:
        """The function that takes its place."""
        ...


@contextlib.contextmanager
def kept_whole(modules: Iterable[nn.Module], record: Recorder) -> Iterator[None]:
    """Within the block, functions that cannot be followed are one node each where they are given a proxy.

    fx has the same under the name of autowrapping; that one fails on functions that return several values.

    Args:
        modules: the parts of the model; a function is replaced where their code finds it.
        record: makes the replacement of a function.
    """
    namespaces = [vars(library) for library in (torch, math, *_loaded("torchvision.ops"))]
    classes = {base for kind in map(type, modules) for base in kind.__mro__}
    spaces = [getattr(vars(each).get("forward"), "__globals__", {}) for each in classes]
    namespaces += {id(space): space for space in spaces}.values()
    wrapped = {id(function): record(function) for function in _functions_kept_whole()}
    random_ones = [getattr(torch, name) for name in _RANDOM_FACTORIES]
    wrapped |= {id(function): record(function, always=True) for function in random_ones}
    replaced = [
        (space, name, value) for space in namespaces for name, value in list(space.items()) if id(value) in wrapped
    ]
    try:
        for space, name, value in replaced:
            space[name] = wrapped[id(value)]
        yield
    finally:
        for space, name, value in replaced:
            space[name] = value


def leaf_classes() -> tuple[type[nn.Module], ...]:
    """The modules that their library says not to trace through."""
    classes = [getattr(m, name) for lib, names in _LEAVES.items() for m in _loaded(lib) for name in names]
    for timm_layers in _loaded("timm.layers"):
        classes += timm_layers.get_notrace_modules()
    return tuple(classes)


def _functions_kept_whole() -> list[Callable[..., Any]]:
    functions = [getattr(torch, name) for name in _FACTORIES]
    for library in (math, *_loaded("torchvision.ops")):
        functions += [value for name, value in vars(library).items() if isroutine(value) and not name.startswith("_")]
    for timm_layers in _loaded("timm.layers"):
        functions += timm_layers.get_notrace_functions()
    return functions


def holds_proxy(arguments: Any) -> bool:
    """Whether a proxy is among the arguments, in containers too."""
    found: list[Any] = []
    fx.node.map_aggregate(
        arguments, lambda argument: found.append(argument) if isinstance(argument, ValueProxy) else None
    )
    return bool(found)


def _loaded(*names: str) -> tuple[ModuleType, ...]:
    # A library that nobody has imported has no modules in the model either.
    return tuple(sys.modules[name] for name in names if name in sys.modules)
