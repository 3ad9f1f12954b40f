"""What is learnt of the nodes of a graph while it is traced."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from thawline.thaw_line.memories import Memories, storage_of
from thawline.thaw_line.traced_graph import BATCHES, Facts, PerSample

_SIZES = frozenset({"shape", "size", "ndim", "dim", "numel", "nelement", "stride"})
_KINDS = frozenset({"dtype", "device", "layout", "is_cuda", "is_floating_point", "is_complex", "is_contiguous"})
_NEW_TENSORS = frozenset({"new_zeros", "new_ones", "new_full", "new_empty"})


class KnownNodes:
    """The facts about each node, from its arguments when it is recorded and from its values when it has run.

    Args:
        modules: the model's, by path.
        memories: those that the model's tensors live in.
        trainable: ``id()`` of the parameters that train.

    Attributes:
        facts: of each node.
    """

    def __init__(self, modules: Mapping[str, nn.Module], memories: Memories, trainable: Collection[int]) -> None:
        self._modules, self._trainable = modules, trainable
        self.memories = memories
        self.facts: dict[fx.Node, Facts] = {}
        self._writers: dict[int, fx.Node] = {}
        self._newest: dict[fx.Node, fx.Node] = {}

    def add(self, node: fx.Node, path: str) -> Facts:
        """What follows from the arguments of a new node: what they pass on, and which writes come before.

        `path` is the module whose code records it.
        """
        facts = Facts(len(self.facts), path)
        inputs = node.all_input_nodes
        facts.after = tuple(self._stale_writers(inputs))
        facts.describes = _describes(node)
        upstream = [self.facts[before] for before in (*inputs, *facts.after)]
        if not facts.describes:
            facts.data = any(before.data for before in upstream)
            facts.warm = any(before.warm for before in upstream)
        if node.op == "call_module":
            parameters = list(self._modules[str(node.target)].parameters())
            facts.weighs = any(parameter.dim() > 1 for parameter in parameters)
            if any(id(parameter) in self._trainable for parameter in parameters):
                facts.cause, facts.warm = "trains", True
        self.facts[node] = facts
        return facts

    def _stale_writers(self, inputs: list[fx.Node]) -> Iterator[fx.Node]:
        """Writers to memory that these nodes' values live in, later than the nodes themselves."""
        for node in inputs:
            memory = self.facts[node].memory
            if memory in self._writers and self.facts[self._writers[memory]].index > self.facts[node].index:
                yield self._writers[memory]

    def current(self, node: fx.Node) -> fx.Node:
        """The node whose value this node's tensor has now: the last that wrote to it in place and returned it."""
        while node in self._newest:
            node = self._newest[node]
        return node

    def look_at(self, node: fx.Node, held: tuple[Any, Any], arguments: dict[int, Tensor]) -> None:
        """Learn shape, memory and dependence on the batch from the values of a node."""
        facts = self.facts[node]
        first, second = held
        if isinstance(first, int) and not isinstance(first, bool) and not facts.data:
            facts.multiple = _multiple(first, second)
        if isinstance(first, torch.dtype):
            facts.dtype = first
        if not isinstance(first, Tensor):
            return
        facts.dtype = first.dtype
        if storage_of(first) not in arguments and not self.memories.holds_state(first):
            self.memories.add(first)
        facts.memory = self.memories.of(first)
        varying = [d for d, (a, b) in enumerate(zip(first.shape, second.shape, strict=True)) if a != b]
        if facts.data and len(varying) != 1:
            facts.cause = facts.cause or "mixes the samples of a batch"
        elif facts.data and (first.shape[varying[0]], second.shape[varying[0]]) == BATCHES:
            facts.per_sample = _per_sample(first, varying[0])
        facts.warm = facts.warm or bool(facts.cause)

    def note_writes(self, node: fx.Node, written: frozenset[int]) -> None:
        """Note that a node has changed these memories."""
        facts = self.facts[node]
        facts.writes = written
        if written & self.memories.of_state:
            facts.state = True
            facts.cause = facts.cause or "changes the model's buffers"
        for memory in written:
            self._writers[memory] = node

    def note_same(self, node: fx.Node, value: Any, arguments: dict[int, Tensor]) -> None:
        """Where a node returns its argument, written in place, all later uses of the argument are uses of the node."""
        if not isinstance(value, Tensor) or arguments.get(storage_of(value)) is not value:
            return
        facts = self.facts[node]
        same = next((n for n in node.all_input_nodes if self.facts[n].memory == facts.memory), None)
        facts.same = same
        if facts.memory in facts.writes:
            while same is not None:
                self._newest[same] = node
                same = self.facts[same].same

    def is_of(self, node: fx.Node, tensor: Tensor) -> None:
        """Note that the value of a node is a parameter, a buffer or a constant."""
        facts = self.facts[node]
        facts.memory = self.memories.of(tensor)
        if id(tensor) in self._trainable:
            facts.cause, facts.warm = "trains", True


def _per_sample(value: Tensor, batch: int) -> PerSample:
    natural = (batch, *(d for d in range(value.dim()) if d != batch))
    by_memory = tuple(sorted(range(value.dim()), key=value.stride, reverse=True))
    dense = not value.permute(natural).is_contiguous() and value.permute(by_memory).is_contiguous()
    order = by_memory if dense and by_memory[0] == batch else natural
    return PerSample(tuple(value.shape[d] for d in order[1:]), value.dtype, order)


def _multiple(first: int, second: int) -> int | None:
    """How many times the batch size an integer is, from its values for both; None where it is not."""
    times = second // BATCHES[1]
    return times if times and (first, second) == (times * BATCHES[0], times * BATCHES[1]) else None


def _describes(node: fx.Node) -> bool:
    if node.op == "call_function":
        return node.target is getattr and node.args[1] in _SIZES | _KINDS
    return node.op == "call_method" and node.target in _SIZES | _KINDS | _NEW_TENSORS
