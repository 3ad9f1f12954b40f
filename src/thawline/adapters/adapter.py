"""What an adapter is, and how it is put into a backbone so that every parameter keeps its layer group."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from thawline.errors import usage_error
from thawline.layer_groups import LayerGroup, used_parameters
from thawline.randomness import seeded

if TYPE_CHECKING:
    from torch import nn


@runtime_checkable
class Adapter(Protocol):
    """Puts trainable parts into a network; its own weights stay what they are."""

    def insert(self, module: nn.Module, groups: Sequence[LayerGroup], input_size: tuple[int, int]) -> None:
        """Change `module` in place. Its layer groups and the (H, W) of its images help to find the places.

        Raises:
            UsageError: the network has no such places.
        """
        ...

    def merge(self, module: nn.Module) -> bool:
        """Fold the adapter into the network's own weights and take it out; False where the method cannot."""
        ...


@dataclass(frozen=True)
class Attached:
    """A network with an adapter: its layer groups under the names that they have now, and the adapter's parameters."""

    groups: tuple[LayerGroup, ...]
    parameters: tuple[str, ...]


def attach(
    adapter: Adapter, module: nn.Module, groups: Sequence[LayerGroup], input_size: tuple[int, int], seed: int
) -> Attached:
    """Put `adapter` into `module`, initialised as a function of `seed` alone.

    Args:
        adapter: the adapter.
        module: the backbone; changed in place.
        groups: its layer groups.
        input_size: (H, W) of its images.
        seed: the run's seed.
    """
    before = {id(parameter): name for name, parameter in module.named_parameters()}
    with seeded("adapter", seed):
        adapter.insert(module, groups, input_size)
    after = {before.get(id(parameter)): name for name, parameter in module.named_parameters()}
    own = tuple(name for name, parameter in module.named_parameters() if id(parameter) not in before)
    renamed = tuple(replace(group, parameters=tuple(after[name] for name in group.parameters)) for group in groups)
    return Attached(renamed, own)


def refuse_unused(module: nn.Module, attached: Attached, input_size: tuple[int, int]) -> None:
    """Raise a `UsageError` where the network computes past a part of the adapter.

    Some networks hand a layer's weight to a function instead of calling the layer; an adapter there would train
    nothing, silently.
    """
    unused = sorted(set(attached.parameters) - set(used_parameters(module, input_size)))
    if unused:
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        raise usage_error(
            "adapter", f"this backbone computes past {unused[0]}{more}; choose other layers by adapter.target_modules"
        )


def matching(pattern: str | None, paths: Sequence[str], kind: str) -> list[str]:
    """The paths that `pattern` finds (``re.search``), or all of them without one.

    Raises:
        UsageError: there is none; `kind` says of what.
    """
    found = [path for path in paths if pattern is None or re.search(pattern, path)]
    if not found and pattern is not None:
        raise usage_error("adapter.target_modules", f"{pattern!r} matches no {kind}")
    if not found:
        raise usage_error("adapter", f"this backbone has no {kind}")
    return found


def expression(pattern: str | None) -> str | None:
    """The pattern, if it is a regular expression.

    Raises:
        ValueError: it is not.
    """
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
    return pattern
