"""The thaw line of a model: the frozen side, to be computed once, and the side past it, which trains.

`partition` works on any model that `torch.fx` can follow and on any set of trainable parameters. Nothing is copied:
both sides run on the model's own parameters, buffers and modules, and the model's state dict stays what it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from thawline.thaw_line.cutting import closure, final_nodes, thaw_line, written_apart
from thawline.thaw_line.digests import digests_by_content, digests_by_name
from thawline.thaw_line.subgraphs import FrozenPart, Given, between, can_run, layout_of, nodes_between, remainder
from thawline.thaw_line.traced_graph import BATCHES, PerSample, TracedGraph, UntraceableError
from thawline.thaw_line.tracing import trace
from thawline.thaw_line.untouched import untouched

__all__ = ["LineValue", "ThawLine", "UntraceableError", "partition"]


@dataclass(frozen=True)
class LineValue:
    """One tensor of the thaw line.

    Attributes:
        name: of the operation that computes it.
        shape: of one sample, in the order in which it lies in memory.
        dtype: of its elements.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes_per_sample(self) -> int:
        """Bytes of one sample."""
        return PerSample(self.shape, self.dtype, ()).bytes


@dataclass(frozen=True)
class ThawLine:
    """A model, parted where its frozen side ends.

    ``suffix(*prefix(*inputs))`` is bit-equal to ``model(*inputs)``, for any number of samples of the example's size.

    Attributes:
        prefix: the model's inputs -> the line, a tuple of tensors (B, ...), contiguous, one for each of `values`;
            always without gradients and in evaluation mode.
        train_suffix: the line -> the model's output, as in the modes of the model when it was parted. It never writes
            to the line's tensors.
        eval_suffix: the same as in evaluation mode. The modules of both suffixes are the model's and follow
            ``model.train()`` and ``model.eval()``; call each in its mode.
        values: what is at the line.
        prefix_flops_per_sample: forward floating-point operations, a multiply-add counted as two.
        suffix_flops_per_sample: the same for `train_suffix`.
        reason: what ends the frozen side, in words.
    """

    prefix: nn.Module
    train_suffix: nn.Module
    eval_suffix: nn.Module
    values: tuple[LineValue, ...]
    prefix_flops_per_sample: int
    suffix_flops_per_sample: int
    reason: str
    _trace: TracedGraph = field(repr=False, compare=False)
    _line: tuple[fx.Node, ...] = field(repr=False, compare=False)

    @property
    def bytes_per_sample(self) -> int:
        """Bytes of one sample of all values."""
        return sum(value.bytes_per_sample for value in self.values)

    @property
    def is_whole(self) -> bool:
        """Whether there is no frozen side: the line is the model's input."""
        return self._line == self._trace.inputs

    @property
    def prefix_key(self) -> str:
        """The same for every model that computes the same line: a digest of the prefix's graph and weights.

        Computed when first asked for; the weights must not have changed since the model was parted.
        """
        lines = (f"{self._digests[node]} {self._trace.facts[node].per_sample}" for node in self._line)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def lies_past(self, names: Collection[str]) -> bool:
        """Whether a module that has one of these parameters or buffers of the model is run before the line.

        Names of what the parted model does not have count for nothing.
        """
        model, before = self._trace.model, set[int]()
        for node in closure(self._trace, self._line) if names else ():
            target = str(node.target)
            if node.op == "call_module":
                before |= _ids(model.get_submodule(target).modules())
            elif node.op == "get_attr" and target not in self._trace.constants:
                before |= _ids([model.get_submodule(target.rpartition(".")[0])])
        modules = dict(model.named_modules(remove_duplicate=False))
        owners = {name.rpartition(".")[0] for name in names}
        return not before.isdisjoint(_ids(modules[owner] for owner in owners if owner in modules))

    @cached_property
    def _digests(self) -> dict[fx.Node, str]:
        return digests_by_content(self._trace, closure(self._trace, self._line))

    def continue_from(self, other: ThawLine) -> nn.Module | None:
        """A module from the values of a shallower line to those of this one; None where `other` is not shallower.

        The lines may be of different models, as long as the weights between the inputs and this line are the same.
        """
        trace = self._trace
        places = {other._digests[node]: place for place, node in enumerate(other._line)}
        nodes = {node: places[digest] for node, digest in self._digests.items() if digest in places}
        layout = tuple(layout_of(other._trace, node) for node in other._line)
        same_layout = all(layout_of(trace, node) == layout[place] for node, place in nodes.items())
        given = Given(layout, nodes)
        return between(trace, given, self._line) if same_layout and can_run(trace, given, self._line) else None


def partition(model: nn.Module, trainable: Collection[str], example: Tensor | tuple[Tensor, ...]) -> ThawLine:
    """Part a model at its thaw line.

    The frozen side is what depends on no trainable parameter, on no randomness, on no batch statistics and on no other
    sample of the batch, whatever the freeze policy. What is random or uses batch statistics follows from the modes that
    the modules are in: put the model in training mode, its frozen modules in evaluation mode, before.

    The model is run on small batches and left as it was: modes, buffers, gradients, torch's random numbers.

    Args:
        model: its forward takes the tensors of `example`; any further arguments keep their defaults.
        trainable: names of the parameters that train, as in ``model.named_parameters()``.
        example: the inputs for a batch of any size, on the model's device; only shapes and types matter, but for
            integers other than uint8, whose values are used.

    Raises:
        UntraceableError: the model's code cannot be followed, or does not give the model's output when parted.
        ValueError: a name in `trainable` is not a parameter of the model.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if unknown := sorted(set(trainable) - parameters.keys()):
        raise ValueError(f"not parameters of the model: {', '.join(unknown)}")
    examples = example if isinstance(example, tuple) else (example,)
    with untouched(model, examples[0].device):
        return _Partition(model, {id(parameters[name]) for name in trainable}, examples).thaw_line()


class _Partition:
    """The search for a line that holds in training and in evaluation."""

    def __init__(self, model: nn.Module, trainable: Collection[int], examples: tuple[Tensor, ...]) -> None:
        self._model = model
        self._generator = torch.Generator().manual_seed(0)
        self._unusable: set[fx.Node] = set()
        self._examples = examples
        batches = tuple(self._batch(size) for size in BATCHES)
        modes = [(module, module.training) for module in model.modules()]
        model.train()  # models drop here what they keep for evaluation, such as attention biases
        for module, training in modes:
            module.training = training
        self._training = trace(model, batches, trainable)
        model.train()
        model.eval()
        self._evaluation = trace(model, batches, trainable)

    def thaw_line(self) -> ThawLine:
        """The cheapest line that passes every test."""
        start = Given.of(self._training, self._training.inputs)
        while True:
            line = thaw_line(self._training, self._unusable)
            given = Given.of(self._training, line)
            in_evaluation = self._in_evaluation(given)
            if in_evaluation is None:
                continue
            apart = written_apart(self._training, given.nodes)
            apart |= {line[in_evaluation.nodes[node]] for node in written_apart(self._evaluation, in_evaluation.nodes)}
            if apart:
                self._refuse(apart)
                continue
            prefix = between(self._training, start, line)
            if mixing := self._mixing(line, prefix):
                self._training.mark_warm(dict.fromkeys(mixing, "mixes the samples of a batch"))
                continue
            return self._parted(line, given, in_evaluation, prefix)

    def _in_evaluation(self, given: Given) -> Given | None:
        """The line in the evaluation graph, or None, for another try, where that graph does not pass through it.

        What only training computes, such as a frozen auxiliary head, has no node there.
        """
        digests = digests_by_name(self._training, closure(self._training, given.nodes))
        twins = {self._evaluation_nodes.get(digests[node]): place for node, place in given.nodes.items()}
        found = Given(given.layout, {twin: place for twin, place in twins.items() if twin is not None})
        if can_run(self._evaluation, found, final_nodes(self._evaluation)):
            return found
        self._refuse({node for node, digest in digests.items() if digest not in self._evaluation_nodes})
        return None

    def _refuse(self, nodes: set[fx.Node]) -> None:
        """Look for another line, without these nodes."""
        if nodes <= self._unusable:
            raise UntraceableError("training and evaluation have no thaw line in common")
        self._unusable |= nodes

    @cached_property
    def _evaluation_nodes(self) -> dict[str, fx.Node]:
        frozen = [node for node, facts in self._evaluation.facts.items() if facts.data and not facts.warm]
        digests = digests_by_name(self._evaluation, closure(self._evaluation, frozen))
        return {digest: node for node, digest in digests.items()}

    def _mixing(self, line: Sequence[fx.Node], prefix: FrozenPart) -> set[fx.Node]:
        """The nodes before the line at which one sample's value changes with another sample."""
        given = Given.of(self._training, self._training.inputs)
        one = self._batch(2)
        other = tuple(torch.cat([new[:1], old[1:]]) for new, old in zip(self._batch(2), one, strict=True))
        if all(_alike(a[1], b[1]) for a, b in zip(prefix(*one), prefix(*other), strict=True)):
            return set()
        facts = self._training.facts
        nodes = [n for n in nodes_between(self._training, given, line) if facts[n].data and facts[n].per_sample]
        probe = between(self._training, given, nodes)
        return {n for n, a, b in zip(nodes, probe(*one), probe(*other), strict=True) if not _alike(a[1], b[1])}

    def _parted(self, line: tuple[fx.Node, ...], given: Given, in_evaluation: Given, prefix: FrozenPart) -> ThawLine:
        facts = self._training.facts
        before = nodes_between(self._training, Given.of(self._training, self._training.inputs), line)
        past = nodes_between(self._training, given, final_nodes(self._training))
        result = ThawLine(
            prefix=prefix,
            train_suffix=remainder(self._training, given),
            eval_suffix=remainder(self._evaluation, in_evaluation),
            values=tuple(
                LineValue(node.name, kept.shape, kept.dtype) for node, kept in zip(line, given.layout, strict=True)
            ),
            prefix_flops_per_sample=sum(facts[node].flops for node in before),
            suffix_flops_per_sample=sum(facts[node].flops for node in past if node in facts),
            reason=_reason(self._training),
            _trace=self._training,
            _line=line,
        )
        self._check(result)
        return result

    def _check(self, result: ThawLine) -> None:
        """Compare with the model itself, on the batch size that code is most likely to treat as special."""
        one = self._batch(1)
        with torch.no_grad():
            torch.manual_seed(0)
            expected = _tensors(self._model(*one))
            torch.manual_seed(0)
            found = _tensors(result.eval_suffix(*result.prefix(*one)))
        if len(expected) != len(found) or not all(map(_alike, expected, found)):
            raise UntraceableError("the traced graph does not compute the model's output")

    def _batch(self, size: int) -> tuple[Tensor, ...]:
        """Inputs for `size` samples, like the examples."""
        return tuple(self._like(example, size) for example in self._examples)

    def _like(self, example: Tensor, size: int) -> Tensor:
        shape = (size, *example.shape[1:])
        if example.dtype == torch.uint8:
            values = torch.randint(256, shape, generator=self._generator, dtype=torch.uint8)
        elif example.is_floating_point():
            values = torch.randn(shape, generator=self._generator).to(example.dtype)
        else:
            values = example[(torch.arange(size) + size) % example.shape[0]]
        if _is_channels_last(example):
            values = values.contiguous(memory_format=torch.channels_last)
        return values.to(example.device)


def _ids(modules: Iterable[nn.Module]) -> set[int]:
    """By which modules, and parameters that they share, are told apart."""
    return {id(each) for module in modules for each in (module, *module.parameters(recurse=False))}


def _reason(trace: TracedGraph) -> str:
    """The first cause on the way from the input to the output."""
    needed = closure(trace, final_nodes(trace))
    for node, facts in trace.facts.items():
        if facts.cause and node in needed:
            name = str(node.target) if node.op in ("call_module", "get_attr") else facts.path or node.name
            return f"{name} {facts.cause}"
    return "nothing trains"


def _tensors(output: Any) -> list[Tensor]:
    """The tensors in a model's output, in order."""
    found: list[Tensor] = []
    fx.node.map_aggregate(output, lambda each: found.append(each) if isinstance(each, Tensor) else None)
    return found


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, up to what a device that is not deterministic may change."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point() or torch.equal(one, other):
        return torch.equal(one, other)
    scale = one.abs().nan_to_num().max().item()
    tolerance = 64 * torch.finfo(one.dtype).eps * scale
    return torch.allclose(one, other, rtol=0.0, atol=tolerance, equal_nan=True)


def _is_channels_last(tensor: Tensor) -> bool:
    if tensor.dim() != 4 or tensor.is_contiguous():
        return False
    return tensor.is_contiguous(memory_format=torch.channels_last)
