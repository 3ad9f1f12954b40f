"""Many paired comparisons tested together on few seeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from thawline.randomness import generator
from thawline.statistics.samples import finite

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# 2^15 patterns of 45 columns take some 30 ms; beyond that the patterns are drawn at random.
_EXACT_MOST = 16
_DRAWN_PATTERNS = 100_000
_AT_ONCE = 4096


def joint_sign_flips(differences: ArrayLike) -> NDArray[np.float64]:
    """Adjusted two-sided p values, shape (C,), of mean difference zero for each column of `differences`, shape (S, C).

    A replicate's differences are flipped together: where the null holds, all of them are as likely as their negatives.
    The statistic is the largest |t| of the columns, stepped down (Westfall & Young 1993): a column is compared with
    the largest of itself and those with a smaller |t|. The smallest p that S replicates can give is 2^(1-S), whatever
    C is. All sign patterns are counted up to S = 16; beyond that 100,000 are drawn.
    """
    d = finite(differences)
    if not d.size:
        return np.ones(d.shape[1])
    # For one S this grows with |t|: |sum| / root of the sum of squares, which no flip changes. It is 0 where all are.
    norms = np.sqrt((d**2).sum(axis=0))
    scaled = np.divide(d, norms, out=np.zeros_like(d), where=norms > 0)
    observed = np.abs(scaled.sum(axis=0))
    order = np.argsort(observed, kind="stable")
    # Sums of the same numbers in another order differ by rounding; what is equal up to that counts as equal.
    ascending, threshold = scaled[:, order], observed[order] - 1e-9
    hits = np.zeros(d.shape[1])
    patterns = 0
    for signs in _sign_patterns(len(d)):
        largest = np.maximum.accumulate(np.abs(signs @ ascending), axis=1)
        hits += (largest >= threshold).sum(axis=0)
        patterns += len(signs)
    adjusted = np.empty(d.shape[1])
    adjusted[order] = np.maximum.accumulate((hits / patterns)[::-1])[::-1]
    return adjusted


def _sign_patterns(size: int) -> Iterator[NDArray[np.float64]]:
    """Blocks of sign patterns, each of shape (B, size), the pattern of no flip first.

    A pattern and its mirror give the same absolute sums, so the first sign is never flipped where all are counted.
    """
    if size <= _EXACT_MOST:
        for start in range(0, 2 ** (size - 1), _AT_ONCE):
            numbers = np.arange(start, min(start + _AT_ONCE, 2 ** (size - 1)))
            flipped = (numbers[:, None] >> np.arange(size - 1)) & 1
            yield np.where(np.column_stack([np.zeros(len(numbers)), flipped]), -1.0, 1.0)
        return
    yield np.ones((1, size))
    drawn = generator("joint_sign_flips", size)
    for start in range(0, _DRAWN_PATTERNS, _AT_ONCE):
        flipped = drawn.integers(0, 2, size=(min(_AT_ONCE, _DRAWN_PATTERNS - start), size))
        yield np.where(flipped, -1.0, 1.0)
