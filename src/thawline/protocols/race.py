"""Race the candidates over seeds: what a paired test tells apart is dropped, and the rest is tested on fresh seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self, final

import numpy as np
from pydantic import Field, model_validator

from thawline import statistics
from thawline.protocols.choosing import rule_of
from thawline.protocols.protocol import Candidate, Finished, Point, Protocol, Stage
from thawline.records import Record
from thawline.records.protocol import DropEntry
from thawline.statistics import Look

if TYPE_CHECKING:
    from numpy.typing import NDArray


@final
class Race(Protocol):
    """Every candidate runs on the same seeds; after each look those that another one beats on validation run no more.

    Candidates on different data sets are different races. The test at a look is `thawline.statistics.race`'s: joint
    sign flips over all pairs, at levels that add up to `alpha` at most. What is left is trained and tested on fresh
    seeds; the seeds of the race, which decided what is left, give no interval.

    Attributes:
        looks: numbers of seeds after which candidates can be dropped.
        alpha: upper bound on the probability, over all looks, that a candidate as good as the best is dropped.
        audit: the share of dropped candidates that run in the test stage anyway. Which ones they are is a function of
            the identity of the candidate's first run.
        seeds: fresh seeds of the test stage.
    """

    looks: tuple[int, ...] = Field(default=(7, 9, 11), min_length=1)
    alpha: float = Field(default=0.05, gt=0, lt=1)
    audit: float = Field(default=0.1, ge=0, le=1)
    seeds: int = Field(default=5, ge=1)

    @model_validator(mode="after")
    def _can_drop(self) -> Self:
        if self.looks[0] < 1 or any(after <= before for before, after in itertools.pairwise(self.looks)):
            raise ValueError(f"looks: the numbers of seeds must ascend, from 1 on (got {list(self.looks)})")
        if not any(look.can_decide for look in self._looks):
            least = math.ceil(1 - math.log2(self.alpha))
            raise ValueError(
                f"looks: no candidate could ever be dropped: sign flips of {self.looks[-1]} seeds give no p below "
                f"{statistics.smallest_p(self.looks[-1]):.3g}, and alpha is {self.alpha:g}; the last look has to be "
                f"after {least} seeds or more"
            )
        return self

    @property
    def _looks(self) -> tuple[Look, ...]:
        return statistics.looks_of(self.looks, self.alpha)

    def next_stage(self, candidates: Sequence[Candidate], done: Sequence[Finished]) -> Stage | None:
        """The seeds up to the next look, for what is left, while there is something to compare; then test."""
        if done and done[-1].stage.purpose == "test":
            return None
        drops = self.drops(candidates, done)
        left = [candidate for candidate in candidates if candidate.index not in drops]
        racing = [candidate for race in _races(left) if len(race) > 1 for candidate in race]
        if racing and len(done) < len(self.looks):
            before = self.looks[len(done) - 1] if done else 0
            seeds = self.numbered_seeds(before, self.looks[len(done)] - before)
            points = [Point(candidate.index, seed) for candidate in racing for seed in seeds]
            return Stage(f"look-{self.looks[len(done)]}", "select", tuple(points))
        tested = [each for each in candidates if each.index not in drops or drops[each.index].audited]
        fresh = self.numbered_seeds(self.looks[-1], self.seeds)
        return Stage("test", "test", tuple(Point(candidate.index, seed) for candidate in tested for seed in fresh))

    def drops(self, candidates: Sequence[Candidate], done: Sequence[Finished]) -> Mapping[int, DropEntry]:
        """What was dropped at the looks so far, over all races."""
        looked = [finished for finished in done if finished.stage.purpose != "test"]
        found: dict[int, DropEntry] = {}
        for race in _races(candidates):
            scores = _scores(race, looked)
            for drop in statistics.race(scores, self._looks[: len(looked)]):
                loser = race[drop.candidate]
                identity = next(record.identity for _, record in looked[0].of(loser.index))
                found[loser.index] = DropEntry(
                    stage=f"look-{drop.look.seeds}",
                    seeds=drop.look.seeds,
                    winner=race[drop.winner].index,
                    p=drop.p,
                    level=drop.look.level,
                    audited=statistics.is_audited(self.audit, "race", identity),
                )
        return found


def _races(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """The candidates that are compared with one another: those on the same data."""
    races: dict[tuple[tuple[str, str], ...], list[Candidate]] = {}
    for candidate in candidates:
        data = tuple((key, value) for key, value in candidate.values.items() if key.partition(".")[0] == "dataset")
        races.setdefault(data, []).append(candidate)
    return list(races.values())


def _scores(race: Sequence[Candidate], done: Sequence[Finished]) -> NDArray[np.float64]:
    """Validation scores of shape (seeds, candidates), larger is better; NaN after a candidate's last seed.

    A run that diverged is as bad as its metric can be, or as the worst run of the race where the metric has no bound.
    """
    columns = [[_score(record) for finished in done for _, record in finished.of(each.index)] for each in race]
    table = np.full((max(map(len, columns), default=0), len(race)), np.nan)
    for place, column in enumerate(columns):
        table[: len(column), place] = column
    finite = table[np.isfinite(table)]
    return np.where(np.isneginf(table), finite.min() if finite.size else 0.0, table)


def _score(record: Record) -> float:
    rule = rule_of(record)
    definition = record.metric_definitions[rule.metric]
    value = record.scores("val").get(rule.metric)
    sign, worst = (1.0, definition.lower) if rule.direction == "max" else (-1.0, definition.upper)
    if record.diverged or value is None or not math.isfinite(value):
        return -math.inf if worst is None else sign * worst
    return sign * value
