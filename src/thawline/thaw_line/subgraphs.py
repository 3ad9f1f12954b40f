"""Parts of a traced graph as modules that share the parameters, buffers and submodules of the traced model."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from thawline.thaw_line.cutting import closure, final_nodes
from thawline.thaw_line.traced_graph import PerSample, TracedGraph, UntraceableError


@dataclass(frozen=True)
class Given:
    """The tensors that a part of a graph is given.

    Attributes:
        layout: how each tensor is kept.
        nodes: the nodes whose values they are, by their places; several nodes may have the same value.
    """

    layout: tuple[PerSample, ...]
    nodes: Mapping[fx.Node, int]

    @staticmethod
    def of(trace: TracedGraph, nodes: Sequence[fx.Node], layout: tuple[PerSample, ...] | None = None) -> Given:
        """One tensor for each node, kept as the node's value is unless `layout` tells otherwise."""
        layout = layout or tuple(layout_of(trace, node) for node in nodes)
        return Given(layout, {node: place for place, node in enumerate(nodes)})


class FrozenPart(nn.Module):
    """Runs a part of a graph without gradients and with its modules in evaluation mode, whatever mode they are in."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Compute the line's tensors."""
        training = [module for module in self.part.modules() if module.training]
        for module in training:
            module.training = False
        try:
            with torch.no_grad():
                result: tuple[Tensor, ...] = self.part(*values)
        finally:
            for module in training:
                module.training = True
        return result


def between(trace: TracedGraph, given: Given, wanted: Sequence[fx.Node]) -> FrozenPart:
    """A module from the values of some nodes to those of others, both as they are kept per sample."""
    part = _Part(trace, given, wanted)
    part.copy()
    part.graph.output(tuple(part.kept(node) for node in wanted))
    return FrozenPart(part.module())


def remainder(trace: TracedGraph, given: Given) -> fx.GraphModule:
    """A module from the values of some nodes, as they are kept per sample, to the output of the model."""
    part = _Part(trace, given, final_nodes(trace))
    part.copy()
    part.graph.output(part.argument(trace.output.args[0]))
    return part.module()


def nodes_between(trace: TracedGraph, given: Given, wanted: Collection[fx.Node]) -> set[fx.Node]:
    """The nodes that are run to get from `given` to `wanted`."""
    return _Part(trace, given, wanted).needed


def can_run(trace: TracedGraph, given: Given, wanted: Collection[fx.Node]) -> bool:
    """Whether `wanted` can be computed from the given values, without the model's inputs."""
    try:
        nodes_between(trace, given, wanted)
    except UntraceableError:
        return False
    return True


class _Part:
    """The nodes from `given` to `roots`, copied into a new graph."""

    def __init__(self, trace: TracedGraph, given: Given, wanted: Collection[fx.Node]) -> None:
        self._trace = trace
        self._given = given
        self._behind = closure(trace, given.nodes) - set(given.nodes)
        self._arguments: list[fx.Node] = []
        self._copies: dict[fx.Node, Any] = {}
        self._samples: fx.Node | None = None
        self.graph = fx.Graph()
        self.needed = self._find_needed(wanted)
        facts = trace.facts
        self._writers = [(facts[n].index, facts[n].writes) for n in self.needed if n in facts and facts[n].writes]

    def _find_needed(self, wanted: Collection[fx.Node]) -> set[fx.Node]:
        needed: set[fx.Node] = set()
        waiting = list(wanted)
        while waiting:
            node = waiting.pop()
            if node in needed or node in self._given.nodes:
                continue
            if node.op == "placeholder":
                raise UntraceableError("the input of the model is used past the thaw line")
            needed.add(node)
            if not self._is_told(node):
                waiting.extend(self._trace.upstream(node))
        return needed

    def _is_told(self, node: fx.Node) -> bool:
        """Whether the node's value follows from the number of samples and the kind of the given tensors."""
        facts = self._trace.facts.get(node)
        if facts is None:
            return False
        return facts.multiple is not None or (facts.describes and node.args[0] in self._behind)

    def copy(self) -> None:
        """Copy the nodes, in their order."""
        self._arguments = [self.graph.placeholder(f"line_{place}") for place, _ in enumerate(self._given.layout)]
        for node, place in self._given.nodes.items():
            self._copies[node] = self._as_traced(node, self._arguments[place], self._given.layout[place])
        for node in self._trace.graph.nodes:
            if node in self.needed and node.op != "output":
                self._copies[node] = self._told(node) if self._is_told(node) else self._copied(node)

    def _as_traced(self, node: fx.Node, argument: fx.Node, layout: PerSample) -> fx.Node:
        value = argument
        if layout.is_reordered:
            inverse = sorted(range(len(layout.order)), key=layout.order.__getitem__)
            value = self.graph.call_method("permute", (value, inverse))
        if self._is_written_after(node):
            # Whoever gave the tensor may use it again.
            value = self.graph.call_method("clone", (value,))
        return value

    def _copied(self, node: fx.Node) -> fx.Node:
        return self.graph.node_copy(node, self._copy_of)

    def _copy_of(self, node: fx.Node) -> Any:
        return self._copies[node]

    def _told(self, node: fx.Node) -> Any:
        facts = self._trace.facts[node]
        if facts.multiple is not None:
            return self._times_samples(facts.multiple)
        if node.op == "call_method":
            return self._new_tensor(node)
        if node.args[1] == "device":
            return self.graph.call_function(getattr, (self._arguments[0], "device"))
        if facts.dtype is not None:
            return facts.dtype
        raise UntraceableError(f"{node.name} is not known past the thaw line")

    def _times_samples(self, multiple: int) -> fx.Node:
        if self._samples is None:
            self._samples = self.graph.call_method("size", (self._arguments[0], 0))
        return self._samples if multiple == 1 else self.graph.call_function(operator.mul, (self._samples, multiple))

    def _new_tensor(self, node: fx.Node) -> fx.Node:
        """A call of ``new_zeros`` and the like, on another tensor."""
        arguments = (self._arguments[0], *self.argument(node.args[1:]))
        settings = {**self.argument(node.kwargs), "dtype": self._trace.facts[node].dtype}
        return self.graph.call_method(str(node.target), arguments, settings)

    def argument(self, value: Any) -> Any:
        """An argument of the traced graph, in this one."""
        return fx.node.map_arg(value, self._copy_of)

    def kept(self, node: fx.Node) -> fx.Node:
        """The node's value as it is kept: batch first, dimensions in the order of memory, without gaps."""
        value: fx.Node = self._copies[node]
        if node in self._given.nodes:
            return self._arguments[self._given.nodes[node]]
        layout = layout_of(self._trace, node)
        with self.graph.inserting_after(value):
            if self._is_written_after(node):
                value = self.graph.call_method("clone", (value,))
        if layout.is_reordered:
            value = self.graph.call_method("permute", (value, list(layout.order)))
        return self.graph.call_method("contiguous", (value,))

    def _is_written_after(self, node: fx.Node) -> bool:
        facts = self._trace.facts[node]
        return any(index > facts.index and facts.memory in writes for index, writes in self._writers)

    def module(self) -> fx.GraphModule:
        """The graph as a module."""
        module = fx.GraphModule(nn.Module(), fx.Graph())
        for node in self.graph.nodes:
            if node.op in ("call_module", "get_attr"):
                _link(module, self._trace, str(node.target))
        module.graph = self.graph
        return module


def layout_of(trace: TracedGraph, node: fx.Node) -> PerSample:
    """How the node's value is kept per sample."""
    layout = trace.facts[node].per_sample
    if layout is None:
        raise ValueError(f"the value of {node.name} has no dimension of samples")
    return layout


def _link(module: nn.Module, trace: TracedGraph, target: str) -> None:
    """Make `module.<target>` the model's.

    What owns a parameter or buffer is stood in for by a module with the owner's own dictionaries of parameters and
    buffers: so the tensors stay the model's also after ``model.to(device)``, which replaces buffers.
    """
    if target in trace.constants:
        module.__dict__[target] = trace.constants[target]
        return
    owner: nn.Module = trace.model
    _share_tensors(owner, module)
    *path, last = target.split(".")
    for name in path:
        owner = owner.get_submodule(name)
        if name not in module._modules:
            stand_in = nn.Module()
            stand_in.training = owner.training
            _share_tensors(owner, stand_in)
            module._modules[name] = stand_in
        module = module.get_submodule(name)
    if last in owner._modules:
        module._modules[last] = owner._modules[last]


def _share_tensors(owner: nn.Module, stand_in: nn.Module) -> None:
    stand_in._parameters = owner._parameters
    stand_in._buffers = owner._buffers
