"""A model's graph, and what is known about every node of it."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

BATCHES = (2, 3)
"""The batch sizes that a model is run on; neither is 1, where batch norms in training refuse features of one pixel."""


class UntraceableError(Exception):
    """The model has no graph that can be parted, for the `reason`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True)
class PerSample:
    """How the value of a node is kept for one sample.

    Attributes:
        shape: of one sample, its dimensions in the order in which they lie in memory.
        dtype: of the elements.
        order: the dimensions of the value, as `Tensor.permute` takes them, that put it batch first and in that order.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    order: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Bytes of one sample."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_reordered(self) -> bool:
        """Whether the dimensions lie in memory in another order than the value has them."""
        return self.order != tuple(range(len(self.order)))


@dataclass
class Facts:
    """What is known about a node.

    Attributes:
        index: its place in the order of execution.
        path: the module whose code it belongs to.
        data: its value depends on the values (not only on the sizes) of the model's inputs.
        cause: why it cannot be computed once for all, in words, whatever is upstream of it; empty where it can.
        warm: it, or something upstream, has a cause.
        describes: it tells sizes, types or devices of its first argument, not its values.
        weighs: it is a module with weights of more than one dimension, which multiplies even where that is not counted.
        flops: floating-point operations per sample (a multiply-add is two), forward.
        per_sample: how it is stored, if it is a tensor with one dimension that is the batch.
        multiple: it is an integer: this many times the number of samples.
        dtype: of its tensor, or that it is.
        memory: a number for the memory that its tensor lives in; views of one another share it.
        writes: the memories that it changes.
        after: nodes that write what it reads, without being its arguments.
        same: the argument that it returns itself.
        state: it changes a parameter or a buffer of the model.
    """

    index: int
    path: str
    data: bool = False
    cause: str = ""
    warm: bool = False
    describes: bool = False
    weighs: bool = False
    flops: int = 0
    per_sample: PerSample | None = None
    multiple: int | None = None
    dtype: torch.dtype | None = None
    memory: int | None = None
    writes: frozenset[int] = frozenset()
    after: tuple[fx.Node, ...] = ()
    same: fx.Node | None = None
    state: bool = False


@dataclass
class TracedGraph:
    """A model's graph, in one set of training modes.

    Attributes:
        model: the model that was traced; node targets are paths in it.
        graph: the nodes in order of execution.
        facts: for every node but the output.
        constants: tensors that the model's code made while it was traced, by the target of the nodes that get them.
    """

    model: nn.Module
    graph: fx.Graph
    facts: dict[fx.Node, Facts]
    constants: dict[str, Tensor] = field(default_factory=dict)

    @functools.cached_property
    def output(self) -> fx.Node:
        """The node that returns the model's output."""
        return self.graph.output_node()

    @functools.cached_property
    def inputs(self) -> tuple[fx.Node, ...]:
        """The model's inputs."""
        return tuple(node for node in self.graph.nodes if node.op == "placeholder")

    def upstream(self, node: fx.Node) -> list[fx.Node]:
        """What must have run before this node: its arguments, and what writes to their memory before it."""
        after = self.facts[node].after if node in self.facts else ()
        return [*node.all_input_nodes, *after]

    def mark_warm(self, causes: Mapping[fx.Node, str]) -> None:
        """Note further causes, and pass them on to everything downstream."""
        for node, cause in causes.items():
            self.facts[node].cause = cause
        for node, facts in self.facts.items():
            facts.warm = bool(facts.cause) or (
                not facts.describes and any(self.facts[before].warm for before in self.upstream(node))
            )
