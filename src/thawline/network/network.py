"""The names of a model's parameters by layer group and by kind: all that freezing and rates by depth need to know."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thawline.errors import nearest, usage_error
from thawline.layer_groups import LayerGroup

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Network:
    """The parameters of a model by layer group and by kind; names as in ``model.named_parameters()``.

    Attributes:
        groups: the backbone's layer groups, from the stem (0) to the output; names carry the prefix ``backbone.``.
        head: the head's parameters.
        norms: parameters of normalisation layers, and an adapter's scales and shifts.
        biases: bias parameters, of norms too.
        convolutions: weights and biases of convolutions (not of those that stand for fully connected layers).
        adapter: parameters that an adapter adds to the backbone; they are in no layer group.
        has_linear_head: whether the head is one linear layer in evaluation, so that its parameters say all of it.
    """

    groups: tuple[LayerGroup, ...]
    head: tuple[str, ...]
    norms: frozenset[str]
    biases: frozenset[str]
    convolutions: frozenset[str]
    adapter: tuple[str, ...] = ()
    has_linear_head: bool = False

    @property
    def backbone(self) -> tuple[str, ...]:
        """The names of all parameters of the source network, from input to output."""
        return tuple(name for group in self.groups for name in group.parameters)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of all parameters: backbone, adapter, head."""
        return (*self.backbone, *self.adapter, *self.head)

    def top(self, k: int) -> frozenset[str]:
        """The parameters of the `k` layer groups nearest to the output."""
        return names_of(self.groups[len(self.groups) - k :])

    def group(self, key: int | str, field: str) -> LayerGroup:
        """The layer group with this index (negative: from the output) or name.

        Raises:
            UsageError: there is none.
        """
        if isinstance(key, int):
            if not -len(self.groups) <= key < len(self.groups):
                raise usage_error(field, f"there is no layer group {key}: the backbone has {len(self.groups)}")
            return self.groups[key]
        for group in self.groups:
            if group.name == key:
                return group
        names = [group.name for group in self.groups]
        raise usage_error(
            field, f"there is no layer group {key!r}{nearest(key, names) or '; groups: ' + ', '.join(names)}"
        )


def names_of(groups: Iterable[LayerGroup]) -> frozenset[str]:
    """The names of all parameters of these groups."""
    return frozenset(name for group in groups for name in group.parameters)


@dataclass(frozen=True)
class SourceClassifier:
    """The linear classifier that the source model was trained with: weight (C, D), bias (C,) and class names."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    classes: tuple[str, ...] = ()
