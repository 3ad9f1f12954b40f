"""Checks and ranks of a sample, as every statistic wants them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Mode = Literal["min", "max"]
"""Whether less or more of a metric is better."""


def finite(values: ArrayLike) -> NDArray[np.float64]:
    """The values as numbers.

    Raises:
        ValueError: one is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("a score that is not finite: count the diverged runs apart first")
    return array


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ranks from 1 on of `values`, shape (N,); ties share their mean rank."""
    # The last rank of a value less half of those that share it.
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2
    return mean_ranks[inverse].astype(np.float64)
