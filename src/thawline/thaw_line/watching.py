"""Watching torch's operators at work: what they cost, and whether they are random or use batch statistics."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from thawline.thaw_line.traced_graph import BATCHES, Facts

DRAWS = "draws random numbers"
"""The cause of nodes whose values are random."""


class Watch(TorchDispatchMode):
    """Watches the operations of one node: their cost, and whether they are random or use batch statistics."""

    facts: Facts

    @contextlib.contextmanager
    def over(self, facts: Facts) -> Iterator[None]:
        """Within the block, write what is seen into these facts."""
        self.facts = facts
        with self:
            yield
        facts.warm = facts.warm or bool(facts.cause)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        rule = _rule(func)
        if rule.flops is not None and self.facts.data:
            self.facts.flops += int(rule.flops(*args, **kwargs, out_val=result)) // BATCHES[0]
        if rule.random and rule.is_on(args, kwargs):
            self.facts.cause = DRAWS
        # Batch norm over a first dimension of size 1 is how weights are standardised and instance norms are computed.
        if rule.batch_statistics and rule.is_on(args, kwargs) and args[0].shape[0] > 1:
            self.facts.cause = "normalises by batch statistics"
        return result


@dataclass(frozen=True)
class _Rule:
    """What one of torch's operators does, and the arguments (place and name) that switch it off where one is 0."""

    random: bool
    batch_statistics: bool
    flops: Callable[..., Any] | None
    switches: tuple[tuple[int, str], ...]

    def is_on(self, args: Any, kwargs: Any) -> bool:
        """Whether no switch is off."""
        return all(args[place] if place < len(args) else kwargs.get(name) for place, name in self.switches)


@functools.cache
def _rule(func: torch._ops.OpOverload) -> _Rule:
    switches = ("dropout_p", "dropout", "training", "train")
    name = func._schema.name.removeprefix("aten::")
    return _Rule(
        random=torch.Tag.nondeterministic_seeded in func.tags,
        batch_statistics="batch_norm" in name and not name.endswith(("backward", "elemt", "no_training")),
        flops=flop_registry.get(func._overloadpacket),
        switches=tuple((i, a.name) for i, a in enumerate(func._schema.arguments) if a.name in switches),
    )
