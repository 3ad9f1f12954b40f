"""The statistics of a report: few runs, paired by seed, exact where possible, and honest about what n allows.

Pure functions of arrays. Scores of a strategy are one number per replicate (a seed, or a seed and a data seed); two
strategies are compared on the replicates that both have. A score that is not finite belongs to a diverged run: no
function here drops one silently, `summary` counts them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from thawline.randomness import generator

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 10_000
_IMAGE_RESAMPLES = 2000
# 2^20 sign patterns are summed in some milliseconds; beyond that the patterns are drawn at random.
_EXACT_MOST = 20
_DRAWN_PATTERNS = 100_000

Interval = tuple[float, float]
Bounds = tuple[float | None, float | None]
Mode = Literal["min", "max"]
Rank = tuple[float, float]
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Summary:
    """One cell of a table: `n` finite values out of `count`, and what they say.

    `sd` has ddof 1; `interval` is the t interval of the mean. Both are None below two values, the mean below one.
    """

    count: int
    n: int
    mean: float | None
    sd: float | None
    interval: Interval | None

    @property
    def diverged(self) -> int:
        """How many values are not finite: the mean is over the others, and has to be labelled so."""
        return self.count - self.n


def summary(values: ArrayLike, confidence: float = CONFIDENCE, bounds: Bounds = (None, None)) -> Summary:
    """Mean, standard deviation (ddof 1), number and t interval of `values`, shape (N,), over the finite ones.

    `bounds` are those of the values: the interval does not leave them (`within`).
    """
    every = np.asarray(values, dtype=np.float64)
    finite = every[np.isfinite(every)]
    mean = float(finite.mean()) if finite.size else None
    sd = float(finite.std(ddof=1)) if finite.size > 1 else None
    return Summary(every.size, finite.size, mean, sd, within(t_interval(finite, confidence), bounds))


def t_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> Interval | None:
    """The t interval of the mean of `values`, shape (N,); None below two values."""
    from scipy.special import stdtrit

    sample = _finite(values)
    if sample.size < 2:
        return None
    half = float(stdtrit(sample.size - 1, 0.5 + confidence / 2)) * float(sample.std(ddof=1)) / math.sqrt(sample.size)
    mean = float(sample.mean())
    return mean - half, mean + half


def within(interval: Interval | None, bounds: Bounds) -> Interval | None:
    """The part of an interval that lies between the bounds of what it is an interval of.

    A mean of accuracies is never outside 0 and 1, so what is cut off can hold no true value: the coverage stays.
    """
    if interval is None:
        return None
    lower, upper = bounds
    low, high = interval
    return low if lower is None else max(low, lower), high if upper is None else min(high, upper)


def interquartile_mean(values: ArrayLike) -> float:
    """The mean of the middle half of `values`, of any shape: floor(N/4) are cut at each end (Agarwal et al. 2021).

    Below four values nothing is cut and it is the mean.
    """
    ordered = np.sort(_finite(values), axis=None)
    if not ordered.size:
        raise ValueError("the interquartile mean of no values")
    cut = ordered.size // 4
    return float(ordered[cut : ordered.size - cut].mean())


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """P(a run of X > a run of Y) over all pairs of runs, ties counting half (Agarwal et al. 2021).

    Shapes (N,) and (M,). Over several data sets the value is the mean of this one over the data sets.
    """
    a, b = _finite(x), _finite(y)
    if not (a.size and b.size):
        raise ValueError("the probability of improvement needs a run on each side")
    difference = a[:, None] - b[None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


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


def paired_bootstrap(
    x: ArrayLike,
    y: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
    n_resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Percentile interval of statistic(X) - statistic(Y), resampling the replicates of both *jointly*.

    `x` and `y` have shape (n,) and are paired; `statistic` maps (R, n) to (R,), the mean by default. The replicates
    drawn depend on n and n_resamples alone, so all comparisons of a table see the same ones. None below two pairs.
    With few seeds this interval is too short (over 3 seeds it covers 73 % where it says 95): prefer `t_interval`.
    """
    a, b = _finite(x), _finite(y)
    if a.shape != b.shape:
        raise ValueError(f"paired scores need the same shape, not {a.shape} and {b.shape}")
    if a.size < 2:
        return None
    drawn = _resampled(a.size, n_resamples)
    values = (a - b)[drawn].mean(axis=1) if statistic is None else statistic(a[drawn]) - statistic(b[drawn])
    low, high = np.quantile(values, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


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
    d = _finite(differences)
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
    d = np.round(_finite(differences), 12)
    d = d[d != 0]
    return sign_flip(np.sign(d) * _ranks(np.abs(d)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order of `p_values`."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for position, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - position) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def smallest_p(n: int) -> float:
    """The smallest two-sided p that an exact paired test of `n` replicates can give: 2/2^n."""
    return min(1.0, 2.0 ** (1 - n))


def smallest_p_in_words(n: int, comparisons: int = 1) -> str:
    """What `n` pairs can show at all, to be said instead of printing stars."""
    floor = smallest_p(n)
    pairs = f"{n} pair" if n == 1 else f"{n} pairs"
    text = f"with {pairs} of seeds no difference can reach p < {floor:.3g} (2/2^{n})"
    if floor >= 0.05:
        return f"{text}, so none can be called significant at 0.05, however large it is"
    if comparisons > 1:
        corrected = min(1.0, floor * comparisons)
        text += f", and after Holm's correction over {comparisons} comparisons none can reach p < {corrected:.3g}"
        if corrected >= 0.05:
            text += ", so none can be called significant at 0.05, however large it is"
    return text


@dataclass(frozen=True)
class Friedman:
    """Friedman's test over data sets: chi-square statistic, its p, and the mean rank (1 = best) of each strategy."""

    statistic: float
    p: float
    mean_ranks: tuple[float, ...]
    data_sets: int


def friedman(scores: ArrayLike, mode: Mode = "max") -> Friedman:
    """Friedman's rank test, corrected for ties, of `scores` of shape (data sets, strategies).

    Raises:
        ValueError: fewer than two data sets or three strategies.
    """
    from scipy.special import chdtrc

    table = np.asarray(scores, dtype=np.float64)
    data_sets, strategies = table.shape
    if data_sets < 2 or strategies < 3:
        raise ValueError("Friedman's test needs at least two data sets and three strategies")
    ranks = np.stack([_ranks(-row if mode == "max" else row) for row in table])
    ties = sum(float((counts**3 - counts).sum()) for counts in (np.unique(row, return_counts=True)[1] for row in ranks))
    correction = 1 - ties / (data_sets * strategies * (strategies**2 - 1))
    means = tuple(float(mean) for mean in ranks.mean(axis=0))
    if correction <= 0:
        return Friedman(0.0, 1.0, means, data_sets)
    raw = 12 / (data_sets * strategies * (strategies + 1)) * float((ranks.sum(axis=0) ** 2).sum())
    statistic = (raw - 3 * data_sets * (strategies + 1)) / correction
    return Friedman(statistic, float(chdtrc(strategies - 1, statistic)), means, data_sets)


def wilcoxon_holm(scores: ArrayLike) -> NDArray[np.float64]:
    """Holm-corrected p values of Wilcoxon's test between all pairs of strategies over the data sets.

    `scores` has shape (data sets, strategies); the answer is symmetric, shape (strategies, strategies), 1 on the
    diagonal.
    """
    table = np.asarray(scores, dtype=np.float64)
    first, second = np.triu_indices(table.shape[1], k=1)
    adjusted = holm([wilcoxon(table[:, a] - table[:, b]).p for a, b in zip(first, second, strict=True)])
    matrix = np.ones((table.shape[1], table.shape[1]))
    matrix[first, second] = adjusted
    matrix[second, first] = adjusted
    return matrix


def cliques(mean_ranks: Sequence[float], p_values: ArrayLike, alpha: float = 0.05) -> list[tuple[int, ...]]:
    """The bars of a critical-difference diagram: maximal stretches of the ranking with no pair told apart.

    Returns the indices of the strategies of each stretch, best rank first. A strategy that differs from all its
    neighbours is a stretch of its own.
    """
    matrix = np.asarray(p_values, dtype=np.float64)
    order = sorted(range(len(mean_ranks)), key=lambda index: mean_ranks[index])
    found: list[tuple[int, ...]] = []
    reached = 0
    for start in range(len(order)):
        stop = start + 1
        while stop < len(order) and bool((matrix[order[stop], order[start:stop]] >= alpha).all()):
            stop += 1
        if stop > reached:
            found.append(tuple(order[start:stop]))
            reached = stop
    return found


@dataclass(frozen=True)
class Choice:
    """A choice among candidates made on validation, apart for each replicate.

    `chosen` and `oracle` are candidate indices, `test_of_chosen` and `regret` values, one per replicate of `keys`.
    The oracle looks at the test set: it is a bound to compare with, never a result.
    """

    keys: tuple[Hashable, ...]
    chosen: tuple[int, ...]
    test_of_chosen: tuple[float, ...]
    oracle: tuple[int, ...]
    regret: tuple[float, ...]
    left_out: tuple[Hashable, ...]

    def counts(self) -> dict[int, int]:
        """How many replicates chose each candidate, by candidate index."""
        return {index: self.chosen.count(index) for index in sorted(set(self.chosen))}


def choose_per_replicate(
    validation: Sequence[Mapping[K, Rank]], test: Sequence[Mapping[K, float]], mode: Mode = "max"
) -> Choice:
    """For each replicate, the candidate that is best on validation, its test score, and its regret on the oracle's.

    `validation` holds ranks: the larger one is better. The candidates come in order of preference: of those whose ranks
    are equal the first is taken. A replicate counts where every candidate has a run; a candidate whose rank or test
    score is not finite is not chosen there. The others are `left_out`, for a choice among fewer candidates is another
    choice.
    """
    sign = 1.0 if mode == "max" else -1.0
    keys = list(dict.fromkeys(key for candidate in validation for key in candidate))
    rows: list[tuple[K, int, float, int, float]] = []
    left_out = []
    for key in keys:
        if not all(key in candidate for candidate in (*validation, *test)):
            left_out.append(key)
            continue
        seen = [candidate[key] for candidate in validation]
        held = [sign * candidate[key] for candidate in test]
        usable = [i for i in range(len(seen)) if math.isfinite(held[i]) and all(map(math.isfinite, seen[i]))]
        if not usable:
            left_out.append(key)
            continue
        chosen, oracle = max(usable, key=lambda i: seen[i]), max(usable, key=lambda i: held[i])
        rows.append((key, chosen, sign * held[chosen], oracle, held[oracle] - held[chosen]))
    return Choice(
        tuple(row[0] for row in rows),
        tuple(row[1] for row in rows),
        tuple(row[2] for row in rows),
        tuple(row[3] for row in rows),
        tuple(row[4] for row in rows),
        tuple(left_out),
    )


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


@functools.lru_cache(maxsize=8)
@dataclass(frozen=True)
class ImageDifference:
    """The mean difference of two models' scores over `images` images, its interval, and a two-sided p value."""

    mean: float
    interval: Interval
    p: float
    images: int


def over_images(differences: ArrayLike, confidence: float = CONFIDENCE) -> ImageDifference | None:
    """How far the mean of per-image differences (N,) depends on which images they are; None below two.

    The interval is a percentile bootstrap that resamples images; p is Wilcoxon's signed-rank test, by its normal
    approximation (scipy). Both speak about the models as they are trained, not about other seeds.
    """
    from scipy import stats

    d = _finite(differences)
    if d.size < 2:
        return None
    draws = generator("over images", d.size)
    means = [float(d[draws.integers(0, d.size, d.size)].mean()) for _ in range(_IMAGE_RESAMPLES)]
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    rounded = np.round(d, 12)
    p = float(stats.wilcoxon(rounded, method="approx").pvalue) if rounded.any() else 1.0
    return ImageDifference(float(d.mean()), (float(low), float(high)), p, d.size)


def _resampled(n: int, n_resamples: int) -> NDArray[np.int64]:
    return generator("paired_bootstrap", n, n_resamples).integers(0, n, size=(n_resamples, n))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    # Ties share their mean rank: the last rank of a value less half of those that share it.
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2
    return mean_ranks[inverse].astype(np.float64)


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("a score that is not finite: count the diverged runs apart first")
    return array
