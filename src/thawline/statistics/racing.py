"""Racing over seeds: drop what a paired test already tells apart, with the family-wise error held over looks and pairs.

Candidates (depths) run on the same seeds, a few at a time. At each look every pair of candidates that is still in the
race is tested by joint sign flips (`joint_sign_flips`), and a candidate that some other one beats is dropped. This is
AdaStop (Mathieu et al., TMLR 2024) in paired form: alpha times l / L may have been spent by look l of L.

What holds: with probability at least 1 - alpha none of the candidates that are in truth equally good and the best is
ever dropped. Each look is a stepped-down test of max |T| at its own level, the levels add up to alpha at most, and the
pairs among the best ones are in the family of every look until one of them is dropped. It needs that the differences
of a seed, of all pairs at once, are as likely as their negatives where the candidates are equally good.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thawline.randomness import counter_seed
from thawline.statistics.joint_sign_flips import joint_sign_flips
from thawline.statistics.paired_tests import smallest_p
from thawline.statistics.samples import finite

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Look:
    """A look at the scores of the first `seeds` seeds, and the `level` that its test is made at."""

    seeds: int
    level: float

    @property
    def smallest_p(self) -> float:
        """The smallest p that a paired test of so many seeds can give."""
        return smallest_p(self.seeds)

    @property
    def can_decide(self) -> bool:
        """Whether any difference, however large, could lead to a drop here."""
        return self.level >= self.smallest_p


def looks_of(seeds: Sequence[int], alpha: float) -> tuple[Look, ...]:
    """The looks after so many `seeds` (ascending), and the level of each.

    By look l of L at most alpha l / L is spent. p values of n seeds are multiples of 2^(1 - n), so a level is rounded
    down to one of these, zero where none can be reached; what is not spent stays for the looks that follow. The levels
    depend on the seeds alone, never on scores.

    Raises:
        ValueError: the numbers of seeds do not ascend, or alpha is not between 0 and 1.
    """
    if not seeds or seeds[0] < 1 or any(after <= before for before, after in itertools.pairwise(seeds)):
        raise ValueError(f"looks are after ever more seeds, not {list(seeds)}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is between 0 and 1, not {alpha}")
    found: list[Look] = []
    spent = 0.0
    for place, count in enumerate(seeds, start=1):
        step = smallest_p(count)
        level = math.floor((alpha * place / len(seeds) - spent) / step + 1e-9) * step
        spent += level
        found.append(Look(count, level))
    return tuple(found)


@dataclass(frozen=True)
class Defeat:
    """Candidate `loser` is told apart from the better `winner`, with the stepped-down p of the look."""

    loser: int
    winner: int
    p: float


def defeats(scores: ArrayLike, level: float) -> list[Defeat]:
    """The candidates that a look drops, given `scores` of shape (seeds, candidates), larger is better.

    Each has the winner with the best mean of those that beat it. The candidate with the best mean is never among them.

    Raises:
        ValueError: a score is not finite.
    """
    table = finite(scores)
    first, second = np.triu_indices(table.shape[1], k=1)
    if not first.size:
        return []
    adjusted = joint_sign_flips(table[:, first] - table[:, second])
    means = table.mean(axis=0)
    found: dict[int, Defeat] = {}
    for a, b, p in zip(first.tolist(), second.tolist(), adjusted, strict=True):
        loser, winner = (a, b) if means[a] < means[b] else (b, a)
        if p <= level and (loser not in found or means[winner] > means[found[loser].winner]):
            found[loser] = Defeat(loser, winner, float(p))
    return [found[loser] for loser in sorted(found)]


@dataclass(frozen=True)
class Drop:
    """A candidate that was dropped, at which look, and by which one."""

    candidate: int
    look: Look
    winner: int
    p: float


def race(scores: ArrayLike, looks: Sequence[Look]) -> tuple[Drop, ...]:
    """The drops of a whole race over `scores` of shape (seeds, candidates), larger is better, in their order.

    Of a candidate no score is read after the look that dropped it, so those may be anything, NaN too.
    """
    table = np.asarray(scores, dtype=np.float64)
    racing = list(range(table.shape[1]))
    drops: list[Drop] = []
    for look in looks:
        found = defeats(table[: look.seeds, racing], look.level) if look.can_decide else []
        drops += [Drop(racing[item.loser], look, racing[item.winner], item.p) for item in found]
        lost = {drop.candidate for drop in drops}
        racing = [candidate for candidate in racing if candidate not in lost]
    return tuple(drops)


def is_audited(share: float, *identity: int | str) -> bool:
    """Whether a dropped candidate of this `identity` runs on all the same: of many a `share` does.

    A function of the identity alone, so that any process at any time gives the same answer.
    """
    return counter_seed("audit", *identity) < share * 2**63
