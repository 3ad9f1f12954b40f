"""Which modules of a tree are one step of depth each, for networks of which timm knows no pattern."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from thawline.layer_groups.layer_group import Granularity
from thawline.layer_groups.module_paths import prefixes

if TYPE_CHECKING:
    from torch import nn


LARGE = 1 / 3
"""The share of a network's parameters above which a module is too large to be one step of depth, if it can be split."""


class ModuleTree:
    """Decides which modules are steps of depth and which are only boxes around several steps."""

    def __init__(self, root: nn.Module, sizes: Mapping[str, int], weights: set[str]) -> None:
        from torch import nn

        self._containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
        self._root = root
        self._total = sum(sizes.values())
        self._counts: Counter[str] = Counter()
        self.weighted: set[str] = set()
        for name, size in sizes.items():
            for prefix in prefixes(name):
                self._counts[prefix] += size
                if name in weights:
                    self.weighted.add(prefix)

    def units(self, granularity: Granularity) -> Iterator[str]:
        """The paths of the modules that are one step each, in the order of definition."""
        return self._units(self._root, "", granularity)

    def _units(self, module: nn.Module, path: str, granularity: Granularity) -> Iterator[str]:
        children = self._children(module, path)
        for child_path, child in children:
            if self._opens(child, child_path, children, granularity):
                yield from self._units(child, child_path, granularity)
            elif child_path in self._counts:
                yield child_path

    def _opens(
        self, module: nn.Module, path: str, siblings: list[tuple[str, nn.Module]], granularity: Granularity
    ) -> bool:
        if not self._is_box(module, path):
            return False
        # One large stage opens its smaller siblings too: all stages of a network are cut alike.
        large = any(type(other) is type(module) and self._counts[p] > LARGE * self._total for p, other in siblings)
        if not isinstance(module, self._containers) and not large:
            return False
        if granularity == "block":
            return True
        # A box of blocks is a stage; only a box of such boxes is more than one.
        children = self._children(module, path)
        boxes = [(p, child) for p, child in children if self._opens(child, p, children, "block")]
        return len(boxes) > 1 or any(self._opens(child, p, children, "stage") for p, child in boxes)

    def _is_box(self, module: nn.Module, path: str) -> bool:
        """Whether the module is made of several steps: a container of them, or a module around such a container."""
        weighted = [(p, child) for p, child in self._children(module, path) if p in self.weighted]
        if isinstance(module, self._containers):
            return len(weighted) > 1 or any(self._is_box(child, p) for p, child in weighted)
        return any(self._holds_blocks(child, p) for p, child in weighted)

    def _holds_blocks(self, module: nn.Module, path: str) -> bool:
        """A container of blocks, not of single layers like a two-layer perceptron; or a module around one."""
        if not isinstance(module, self._containers):
            return self._is_box(module, path)
        blocks = [child for p, child in self._children(module, path) if p in self.weighted and list(child.children())]
        return len(blocks) > 1 or any(self._is_box(child, p) for p, child in self._children(module, path))

    def _children(self, module: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
        return [(f"{path}.{name}" if path else name, child) for name, child in module.named_children()]
