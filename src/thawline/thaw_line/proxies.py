"""Proxies that know what they stand for."""

from __future__ import annotations

import functools
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from torch import fx

_IN_PLACE = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior", "ixor")


class ValueTracer(fx.Tracer, ABC):
    """A tracer whose proxies know what they stand for."""

    @abstractmethod
    def concrete(self, proxy: ValueProxy, kind: Callable[[Any], Any]) -> Any:
        """The truth, number or length of a value, as `kind` has it, for Python code that asks for it."""


class ValueProxy(fx.Proxy):
    """A value of the model while it is traced, with what it is for each batch size."""

    held: tuple[Any, Any]
    tracer: ValueTracer

    def __init__(self, node: fx.Node, tracer: ValueTracer, held: tuple[Any, Any]) -> None:
        super().__init__(node, tracer)
        self.held = held

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self.held[0], name)
        if callable(value):
            return functools.partial(self._call_method, name)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def _call_method(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self.tracer.create_proxy("call_method", name, (self, *args), kwargs)

    def keys(self) -> Any:
        """The value's own keys; `fx.Proxy` has others."""
        return self._call_method("keys")

    def __bool__(self) -> bool:
        return bool(self.tracer.concrete(self, bool))

    def __int__(self) -> int:
        return int(self.tracer.concrete(self, int))

    def __index__(self) -> int:
        return operator.index(self.tracer.concrete(self, operator.index))

    def __float__(self) -> float:
        return float(self.tracer.concrete(self, float))

    def __len__(self) -> int:
        return int(self.tracer.concrete(self, len))

    def __iter__(self) -> Iterator[Any]:
        items = [self.tracer.create_proxy("call_function", operator.getitem, (self, i), {}) for i in range(len(self))]
        return iter(items)

    def __contains__(self, item: Any) -> bool:
        return any(bool(each == item) for each in self)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


def _define_in_place(name: str) -> None:
    # Without these, Python would turn `x += y` into `x = x + y`, and who else holds x would not see the change.
    target = getattr(operator, name)

    def in_place(self: ValueProxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    setattr(ValueProxy, f"__{name}__", in_place)


for _name in _IN_PLACE:
    _define_in_place(_name)
