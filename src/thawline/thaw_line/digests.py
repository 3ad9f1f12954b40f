"""Digests of the nodes of a graph: equal where the same value is computed from the same input."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from thawline.thaw_line.traced_graph import TracedGraph


def digests_by_name(trace: TracedGraph, nodes: Collection[fx.Node]) -> dict[fx.Node, str]:
    """Digests of nodes, and of all that is upstream of them, by which one graph of a model is found in another."""

    def describe(node: fx.Node) -> str:
        if node.target in trace.constants:
            return _digest_of_tensor(trace.constants[str(node.target)])
        return str(node.target)

    return _digests(trace, nodes, describe)


def digests_by_content(trace: TracedGraph, nodes: Collection[fx.Node]) -> dict[fx.Node, str]:
    """Digests of nodes, and of all that is upstream of them, with the bytes of all parameters, whatever their names."""

    def describe(node: fx.Node) -> str:
        target = str(node.target)
        if target in trace.constants:
            return _digest_of_tensor(trace.constants[target])
        if node.op == "call_module":
            return _digest_of_module(trace.model.get_submodule(target))
        owner, _, name = target.rpartition(".")
        return _digest_of_tensor(getattr(trace.model.get_submodule(owner), name))

    return _digests(trace, nodes, describe)


def _digests(trace: TracedGraph, nodes: Collection[fx.Node], describe: Callable[[fx.Node], str]) -> dict[fx.Node, str]:
    """Digest each node from its operation, its description and the digests of its arguments (a Merkle tree)."""
    found: dict[fx.Node, str] = {}
    for node in trace.graph.nodes:
        if node not in nodes:
            continue
        if node.op == "placeholder":
            kept = trace.facts[node].per_sample
            what = f"{trace.inputs.index(node)} {kept}"
        elif node.op in ("call_module", "get_attr"):
            what = describe(node)
        else:
            what = _text(node.target, found)
        arguments = _text((node.args, node.kwargs, trace.facts[node].after), found)
        found[node] = hashlib.sha256(f"{node.op}\n{what}\n{arguments}".encode()).hexdigest()
    return found


def _text(argument: Any, digests: Mapping[fx.Node, str]) -> str:
    """An argument in words that are the same in every process."""
    if isinstance(argument, fx.Node):
        return digests[argument]
    if isinstance(argument, Mapping):
        return "{" + ",".join(f"{key}:{_text(value, digests)}" for key, value in sorted(argument.items())) + "}"
    if isinstance(argument, slice):
        return "slice" + _text((argument.start, argument.stop, argument.step), digests)
    if isinstance(argument, (tuple, list)):
        return "(" + ",".join(_text(value, digests) for value in argument) + ")"
    if callable(argument) and not isinstance(argument, torch.dtype):
        return f"{getattr(argument, '__module__', '')}.{getattr(argument, '__qualname__', type(argument).__qualname__)}"
    return repr(argument)


def _digest_of_module(module: nn.Module) -> str:
    """A digest of a module's class, settings, parameters and buffers, and those of its submodules."""
    lines = []
    for name, part in module.named_modules():
        lines.append(f"{name} {type(part).__module__}.{type(part).__qualname__}")
        settings = {key: value for key, value in vars(part).items() if key != "training" and _is_setting(value)}
        lines += [f"{key}={_text(settings[key], {})}" for key in sorted(settings)]
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        lines.append(f"{name} {_digest_of_tensor(tensor)}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _is_setting(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_setting(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str, torch.dtype))


def _digest_of_tensor(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{values.dtype} {tuple(values.shape)} ".encode())
    digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
