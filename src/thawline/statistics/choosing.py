"""A choice among candidates, made on validation by each replicate."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from thawline.statistics.samples import Mode

Rank = tuple[float, float]
K = TypeVar("K", bound=Hashable)


def end_of(value: float, tried: Collection[float]) -> Literal["smallest", "largest"] | None:
    """Which end of the values that were tried `value` is; None where it lies between others or is the only one."""
    if min(tried) == max(tried) or value not in (min(tried), max(tried)):
        return None
    return "smallest" if value == min(tried) else "largest"


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
