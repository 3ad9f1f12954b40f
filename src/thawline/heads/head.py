"""What every head is: a spec that builds a module on a backbone's features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from thawline.network import Features, SourceClassifier

if TYPE_CHECKING:
    from torch import nn


@runtime_checkable
class Head(Protocol):
    """Builds the module that maps a backbone's features to the outputs of a task.

    A head that reads feature maps has a field ``strides``, the strides of those that it reads, ascending; its module
    gets them in this order, as a tuple. A head without that field reads one vector (B, width). Heads of maps run as
    they are written: the thaw line ends at the maps, so nothing in them needs to be traceable.
    """

    def build(
        self, features: Features, classes: Sequence[str], source: SourceClassifier | None, seed: int
    ) -> nn.Module:
        """The head, initialised as a function of `seed` alone; `classes` names its outputs."""
        ...


def strides_of(head: Head) -> tuple[int, ...]:
    """The strides of the maps that a head reads, ascending; none: it reads one vector."""
    return tuple(sorted(getattr(head, "strides", ())))
