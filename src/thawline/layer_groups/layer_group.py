"""One step of depth, and how fine the steps are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Granularity = Literal["block", "stage"]


@dataclass(frozen=True)
class LayerGroup:
    """One step of depth.

    Attributes:
        index: position from the input, 0 is the stem.
        name: ``stem``, or the module path that the group is known by (``layer1.0``, ``blocks.3``); unique.
        parameters: parameter names, in the order of their first use.
    """

    index: int
    name: str
    parameters: tuple[str, ...]
