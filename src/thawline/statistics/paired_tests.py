"""Exact tests of two strategies on common replicates, and of two models on the same samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thawline.randomness import generator
from thawline.statistics.samples import finite, ranks

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# 2^20 sign patterns are summed in some milliseconds; beyond that the patterns are drawn at random.
_EXACT_MOST = 20
_DRAWN_PATTERNS = 100_000


@dataclass(frozen=True)
class PairedTest:
    """A two-sided p value, the number of pairs it rests on, and whether every sign pattern was counted."""

    p: float
    n: int
    exact: bool


def sign_flip(differences: ArrayLike) -> PairedTest:
    """The paired sign-flip test of mean difference zero, two-sided, for `differences` of shape (n,).

    Under the null each difference may as well have had the other sign: p is the share of the 2^n sign patterns whose
    absolute sum is at least the observed one. All patterns are counted up to n = 20, beyond that 100,000 are drawn.
    """
    d = finite(differences)
    if not d.size:
        return PairedTest(1.0, 0, True)
    # Sums of the same numbers in another order differ by rounding; what is equal up to that counts as equal.
    observed = abs(float(d.sum())) - 1e-9 * float(np.abs(d).sum())
    if d.size <= _EXACT_MOST:
        # The pattern and its mirror have the same absolute sum, so the first sign can stay.
        sums = d[:1].copy()
        for value in d[1:]:
            sums = np.concatenate([sums + value, sums - value])
        return PairedTest(float((np.abs(sums) >= observed).mean()), d.size, True)
    signs = generator("sign_flip", d.size).integers(0, 2, size=(_DRAWN_PATTERNS, d.size), dtype=np.int8) * 2 - 1
    hits = int((np.abs(signs @ d) >= observed).sum())
    return PairedTest((hits + 1) / (_DRAWN_PATTERNS + 1), d.size, False)


def wilcoxon(differences: ArrayLike) -> PairedTest:
    """Wilcoxon's signed-rank test, two-sided, exact also under ties: the sign-flip test of the signed ranks.

    Zero differences are left out, as Wilcoxon does; ties share their mean rank. Without either this is the tabled
    exact distribution.
    """
    # Accuracies are ratios: differences that are equal in truth may differ in the last bits.
    d = np.round(finite(differences), 12)
    d = d[d != 0]
    return sign_flip(np.sign(d) * ranks(np.abs(d)))


def smallest_p(n: int) -> float:
    """The smallest two-sided p that an exact paired test of `n` replicates can give: 2/2^n."""
    return min(1.0, 2.0 ** (1 - n))


@dataclass(frozen=True)
class McNemar:
    """Samples that only the first model gets right, only the second, and the exact two-sided p of an even split."""

    only_first: int
    only_second: int
    samples: int
    p: float


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """McNemar's exact test of two models on the same samples: `first`, `second` tell who is right, shape (N,) bool.

    It speaks about these two trained models, not about the strategies that made them.
    """
    from scipy.special import bdtr

    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"McNemar's test needs the same samples, not {a.shape} and {b.shape}")
    only_first, only_second = int((a & ~b).sum()), int((~a & b).sum())
    apart = only_first + only_second
    p = min(1.0, 2 * float(bdtr(min(only_first, only_second), apart, 0.5))) if apart else 1.0
    return McNemar(only_first, only_second, a.size, p)
