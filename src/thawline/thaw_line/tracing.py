"""Tracing a model into a graph, with the facts about every node that the partition needs.

`torch.fx` follows a model's Python code with proxies. Here every proxy also holds what it stands for, computed on two
small batches of different sizes. So Python code that looks at image sizes takes the branch that the model takes, what
depends on the number of samples is known from what does not, and shapes, memory sharing, writes in place, random
numbers, batch statistics and floating-point operations are observed instead of guessed from names.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from thawline.thaw_line.kept_whole import holds_proxy, kept_whole, leaf_classes
from thawline.thaw_line.known_nodes import KnownNodes
from thawline.thaw_line.memories import Memories, storage_of
from thawline.thaw_line.proxies import ValueProxy, ValueTracer
from thawline.thaw_line.random_state import random_state, same_random_state
from thawline.thaw_line.traced_graph import PerSample, TracedGraph, UntraceableError
from thawline.thaw_line.watching import DRAWS, Watch


def trace(model: nn.Module, examples: tuple[tuple[Tensor, ...], ...], trainable: Collection[int]) -> TracedGraph:
    """Trace a model in its present training modes.

    The model is run: call it inside `untouched`.

    Args:
        model: its forward takes the tensors of one example, the batch first in each.
        examples: the inputs, once for each size in `BATCHES`.
        trainable: ``id()`` of the parameters that train.

    Raises:
        UntraceableError: the model's code cannot be followed.
    """
    tracer = _Tracer(model, examples, trainable)
    try:
        with torch.enable_grad(), _no_fused_encoders(), kept_whole(tracer.modules, tracer.record_whole):
            graph = tracer.trace(model)
            tracer.check_randomness()
    except (UntraceableError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        where = f" in {tracer.where}" if tracer.where else ""
        raise UntraceableError(f"{type(error).__name__}{where}: {first_line}") from error
    return TracedGraph(model, graph, tracer.facts, tracer.constants)


@contextlib.contextmanager
def _no_fused_encoders() -> Iterator[None]:
    """Without torch's fused transformer layers, which would hide their operations from the counting."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _Tracer(ValueTracer):
    """Follows a model's code, running every operation on both batches as it is recorded."""

    def __init__(self, model: nn.Module, examples: tuple[tuple[Tensor, ...], ...], trainable: Collection[int]) -> None:
        super().__init__()
        self._examples = examples
        self._leaves = leaf_classes()
        self._modules_by_path = dict(model.named_modules(remove_duplicate=False))
        states = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        self._names: dict[int, str] = {id(tensor): name for name, tensor in reversed(states)}
        self._kept_alive = [tensor for _, tensor in states]
        self._memories = Memories(tensor for _, tensor in states)
        self._known = KnownNodes(self._modules_by_path, self._memories, trainable)
        self.facts = self._known.facts
        self._tensors: dict[str, ValueProxy] = {}
        self._watch = Watch()
        self._random_state = random_state()
        self._running = False
        self._autocast = _autocast(examples[0][0].device)
        self.constants: dict[str, Tensor] = {}
        self.where = ""

    @property
    def modules(self) -> Collection[nn.Module]:
        """The parts of the model."""
        return self._modules_by_path.values()

    # What torch.fx asks of a tracer.

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Torch's own modules and those that their library says not to trace through are one node."""
        return isinstance(m, self._leaves) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Record a leaf as one node, follow the code of any other module, run what is being run."""
        if self._running:
            return forward(*args, **kwargs)
        outer = self.where
        self.where = self.path_of_module(m)
        if self.is_leaf_module(m, self.where):
            result = self.create_proxy("call_module", self.where, args, kwargs)
        else:
            result = forward(*args, **kwargs)
        self.where = outer  # not restored after an error: the message tells where it happened
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        """Parameters and buffers become proxies."""
        if self._running or not isinstance(attr_val, Tensor) or id(attr_val) not in self._names:
            return attr_val
        return self._tensor(attr_val)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """One placeholder for each tensor of the example; arguments beyond these keep their defaults."""
        args: list[Any] = [self.root]
        for place, held in enumerate(zip(*self._examples, strict=True)):
            node = self.graph.placeholder(f"input_{place}")
            facts = self._known.add(node, self.where)
            facts.data = True
            self._known.look_at(node, held, {})
            if facts.per_sample is None:
                raise UntraceableError(f"input {place} of the model has no batch dimension")
            facts.per_sample = PerSample(tuple(held[0].shape[1:]), held[0].dtype, tuple(range(held[0].dim())))
            args.append(ValueProxy(node, self, held))
        return root_fn, args

    def create_arg(self, a: Any) -> Any:
        """The node of a proxy or tensor, as it is after writes in place; containers of them; anything else itself."""
        if isinstance(a, ValueProxy):
            return self._known.current(a.node)
        if isinstance(a, Tensor):
            return self._known.current(self._tensor(a).node)
        return super().create_arg(a)

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> fx.Node:
        """A node with the facts that follow from its arguments alone."""
        node = self.graph.create_node(kind, target, args, kwargs, name, None)
        if kind != "output":
            self._known.add(node, self.where)
        return node

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: Any,
        kwargs: Any,
        name: str | None = None,
        type_expr: Any = None,
        proxy_factory_fn: Any = None,
    ) -> Any:
        """Record an operation and run it.

        Returns:
            A proxy for each tensor and for each value that depends on the number of samples; what is the same for
            every batch, such as the width of an image, itself.
        """
        node = self.create_node(kind, target, self.create_arg(args), self.create_arg(kwargs))
        held, arguments = self._run(node, args, kwargs)
        self._check_ambient(node)
        return self._wrap(node, held, arguments)

    def record_whole(self, function: Callable[..., Any], always: bool = False) -> Callable[..., Any]:
        """The function as one node where it is given a proxy, or `always`."""

        @functools.wraps(function)
        def one_node(*args: Any, **kwargs: Any) -> Any:
            if not self._running and (always or holds_proxy((args, kwargs))):
                return self.create_proxy("call_function", function, args, kwargs)
            return function(*args, **kwargs)

        return one_node

    def check_randomness(self) -> None:
        """Raise if random numbers were drawn other than in recorded operations."""
        if not same_random_state(self._random_state, random_state()):
            raise UntraceableError(f"{self.where or 'the model'} draws random numbers out of the tracer's sight")

    # Running.

    def _run(self, node: fx.Node, args: Any, kwargs: Any) -> tuple[tuple[Any, Any], dict[int, Tensor]]:
        """The results for both batches, and the first batch's tensor arguments by their storage."""
        arguments: dict[int, Tensor] = {}
        first = _substitute((args, kwargs), 0, arguments)
        second = _substitute((args, kwargs), 1, {})
        versions = [(tensor, tensor._version) for tensor in self._written(node, arguments)]
        self._running = True
        try:
            with torch.no_grad():
                with self._watch.over(self.facts[node]):
                    held_first = self._execute(node, *first)
                held_second = self._execute(node, *second)
        finally:
            self._running = False
        written = {self._memories.of(tensor) for tensor, version in versions if tensor._version != version}
        if written:
            self._known.note_writes(node, frozenset(written))
        if self.facts[node].cause == DRAWS:
            self._random_state = random_state()
        return (held_first, held_second), arguments

    def _execute(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "call_module":
            return self._modules_by_path[str(node.target)](*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        function: Any = node.target
        return function(*args, **kwargs)

    def _written(self, node: fx.Node, arguments: dict[int, Tensor]) -> Iterator[Tensor]:
        """The tensors that this node could write to."""
        yield from arguments.values()
        if node.op == "call_module":
            yield from self._modules_by_path[str(node.target)].buffers()

    def _check_ambient(self, node: fx.Node) -> None:
        # A graph keeps operations only, not the blocks of code that they stood in.
        facts = self.facts[node]
        if _autocast(self._examples[0][0].device) != self._autocast:
            raise UntraceableError(f"{facts.path or 'the model'} switches automatic mixed precision")
        if facts.warm and not torch.is_grad_enabled():
            raise UntraceableError(f"{facts.path or 'the model'} switches gradients off past what trains")

    # What the model's code gets.

    def _tensor(self, tensor: Tensor) -> ValueProxy:
        """The proxy of a parameter, a buffer, or a tensor that the model's code made of nothing traced."""
        name = self._names.get(id(tensor))
        if name is None:
            if tensor.grad_fn is not None:
                raise UntraceableError(
                    f"{self.where or 'the model'} computes with parameters out of the tracer's sight"
                )
            self.check_randomness()
            name = f"_constant_{len(self.constants)}"
            self.constants[name] = tensor
            self._names[id(tensor)] = name
            self._memories.add(tensor)
        if name not in self._tensors:
            node = self.create_node("get_attr", name, (), {})
            self._known.is_of(node, tensor)
            self._tensors[name] = ValueProxy(node, self, (tensor, tensor))
        return self._tensors[name]

    def _wrap(self, node: fx.Node, held: tuple[Any, Any], arguments: dict[int, Tensor]) -> Any:
        """What the model's code gets for the values of a node."""
        first, second = held
        facts = self.facts[node]
        if isinstance(first, (tuple, list)):
            return self._wrap_items(node, held, range(len(first)), arguments, functools.partial(_rebuild, first))
        if isinstance(first, dict):
            keys = list(first)
            return self._wrap_items(node, held, keys, arguments, lambda items: dict(zip(keys, items, strict=True)))
        if first is None or isinstance(first, (bool, int, float, str)):
            if not facts.data and not facts.warm and type(first) is type(second) and first == second:
                return first
            if first is None:
                return None
        if isinstance(first, Tensor) and first.dim() != second.dim():
            raise UntraceableError(f"the dimensions of {node.name} depend on the number of samples")
        self._known.look_at(node, held, arguments)
        self._known.note_same(node, first, arguments)
        return ValueProxy(node, self, held)

    def _wrap_items(
        self,
        node: fx.Node,
        held: tuple[Any, Any],
        keys: Any,
        arguments: dict[int, Tensor],
        rebuild: Callable[[list[Any]], Any],
    ) -> Any:
        first, second = held
        if len(first) != len(second):
            raise UntraceableError(f"the number of values of {node.name} depends on the number of samples")
        items = []
        for key in keys:
            values = (first[key], second[key])
            facts = self.facts[node]
            if not isinstance(values[0], (Tensor, tuple, list, dict)) and values[0] == values[1] and not facts.data:
                items.append(values[0])
                continue
            item = self.create_node("call_function", operator.getitem, (node, key), {})
            items.append(self._wrap(item, values, arguments))
        return rebuild(items)

    def concrete(self, proxy: ValueProxy, kind: Callable[[Any], Any]) -> Any:
        """What Python code sees that asks for the truth, size or number of a value.

        Raises:
            UntraceableError: that is not the same for every input, every state of training and every batch size.
        """
        facts = self.facts[self._known.current(proxy.node)]
        where = self.where or "the model"
        if isinstance(proxy.held[0], Tensor) and kind is len:
            first, second = len(proxy.held[0]), len(proxy.held[1])
        elif facts.data or facts.warm:
            what = "the values of the input" if facts.data else "what trains or is random"
            raise UntraceableError(f"the code of {where} depends on {what}")
        else:
            first, second = kind(proxy.held[0]), kind(proxy.held[1])
        if first != second:
            raise UntraceableError(f"the code of {where} depends on the number of samples")
        return first


def _substitute(arguments: Any, batch: int, tensors: dict[int, Tensor]) -> Any:
    """The arguments with values for proxies, whose tensors are added to `tensors` by their storage."""

    def value(argument: Any) -> Any:
        if isinstance(argument, ValueProxy):
            argument = argument.held[batch]
        if isinstance(argument, Tensor):
            tensors.setdefault(storage_of(argument), argument)
        return argument

    return fx.node.map_aggregate(arguments, value)


def _rebuild(like: Any, items: list[Any]) -> Any:
    """A container of the same kind as `like`, if its kind can hold proxies."""
    if isinstance(like, torch.Size):
        return torch.Size(items) if all(isinstance(item, int) for item in items) else tuple(items)
    if isinstance(like, tuple) and hasattr(like, "_fields"):
        return type(like)(*items)
    return type(like)(items)


def _autocast(device: torch.device) -> torch.dtype | None:
    """The type of automatic mixed precision, None where it is off."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
