"""Which parameters belong together: timm's patterns say it where a model has them, the module tree elsewhere."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from thawline.layer_groups.layer_group import Granularity
from thawline.layer_groups.module_tree import ModuleTree

if TYPE_CHECKING:
    from torch import nn

Label = tuple[Any, ...]

_FEWEST_STAGES = 3
"""A module tree with fewer stages than this has no stages to speak of; its blocks are taken."""


def parameter_labels(
    backbone: nn.Module, granularity: Granularity, sizes: Mapping[str, int], weights: set[str]
) -> dict[str, Label | None]:
    """Parameter name -> the group that it is said to belong to, or None where nothing is said of it."""
    matcher = _matcher(backbone, granularity)
    if matcher is None:
        return _tree_labels(backbone, granularity, sizes, weights)
    from timm.models import group_parameters

    numbers = group_parameters(backbone, matcher, reverse=True)
    return {name: (numbers[name],) if _is_matched(matcher, name) else None for name in sizes}


def _matcher(backbone: nn.Module, granularity: Granularity) -> Any:
    """Timm's patterns for this model, or None; the fine ones where the model has no coarse ones (RDNet)."""
    make = getattr(backbone, "group_matcher", None)
    if make is None:
        return None
    if granularity == "stage":
        with contextlib.suppress(AssertionError, NotImplementedError):
            return make(coarse=True)
    return make(coarse=False)


def _is_matched(matcher: Any, name: str) -> bool:
    """Whether a pattern of the matcher speaks of this parameter; timm puts the others silently into the last group."""
    if not isinstance(matcher, Mapping):
        return True
    specifications = (spec for spec in matcher.values() if spec is not None)
    pairs = (((spec, None),) if isinstance(spec, str) else spec for spec in specifications)
    return any(re.match(pattern, name) for pattern, *_ in itertools.chain.from_iterable(pairs))


def _tree_labels(
    backbone: nn.Module, granularity: Granularity, sizes: Mapping[str, int], weights: set[str]
) -> dict[str, Label | None]:
    """Labels from the module tree, for networks without a matcher."""
    tree = ModuleTree(backbone, sizes, weights)
    units = tuple(tree.units(granularity))
    if granularity == "stage" and len(tree.weighted.intersection(units)) < _FEWEST_STAGES:
        units = tuple(tree.units("block"))
    labels: dict[str, Label | None] = dict.fromkeys(sizes)
    for unit in units:
        labels.update({name: (unit,) for name in sizes if name.startswith(f"{unit}.")})
    return labels
