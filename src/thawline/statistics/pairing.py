"""Scores of two strategies, paired by replicate."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Pairs:
    """Scores of two strategies on their common replicates, shape (n,) each, and the replicates that only one has."""

    keys: tuple[Hashable, ...]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    only_x: tuple[Hashable, ...]
    only_y: tuple[Hashable, ...]

    @property
    def differences(self) -> NDArray[np.float64]:
        """The first score less the second, per replicate, shape (n,)."""
        return self.x - self.y


def paired(x: Mapping[K, float], y: Mapping[K, float]) -> Pairs:
    """Pair the scores of two strategies by replicate, in the order of `x`.

    A replicate whose score is not finite on either side makes no pair; it is listed with the side that has it.
    """
    good_x = {key: value for key, value in x.items() if math.isfinite(value)}
    good_y = {key: value for key, value in y.items() if math.isfinite(value)}
    keys = tuple(key for key in good_x if key in good_y)
    return Pairs(
        keys,
        np.array([good_x[key] for key in keys], dtype=np.float64),
        np.array([good_y[key] for key in keys], dtype=np.float64),
        tuple(key for key in good_x if key not in good_y),
        tuple(key for key in good_y if key not in good_x),
    )
