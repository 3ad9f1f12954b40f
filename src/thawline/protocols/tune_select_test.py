"""Tune on one seed, choose among the best on further ones, and test what was chosen once, on fresh seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

from pydantic import Field

from thawline.protocols.choosing import Tried, best_first, edge_warnings, tried
from thawline.protocols.protocol import Candidate, Finished, Point, Protocol, Stage
from thawline.randomness import generator
from thawline.records.protocol import ChoiceEntry


@final
class TuneSelectTest(Protocol):
    """Every candidate of the grid is tuned with the same number of trials; test is opened for what was chosen alone.

    Trial i of a strategy is a function of (`seed`, strategy, i): the same in any order and on any number of workers,
    and more `trials` keep those that there are.

    Attributes:
        trials: settings that are tried for each candidate, on one seed.
        finalists: the best of them, which run again on `select_seeds` fresh seeds.
        select_seeds: seeds of these runs; the best mean of validation over them is chosen. 0: the best trial is.
        seeds: further fresh seeds, on which the chosen setting is trained and tested.
    """

    trials: int = Field(default=12, ge=1)
    finalists: int = Field(default=3, ge=1)
    select_seeds: int = Field(default=2, ge=0)
    seeds: int = Field(default=5, ge=1)

    @property
    def budget(self) -> int:
        """How many settings are tried for each candidate."""
        return self.trials

    def next_stage(self, candidates: Sequence[Candidate], done: Sequence[Finished]) -> Stage | None:
        """Tune, then select, if that is wanted, then test."""
        order = ["tune", *(["select"] if self.select_seeds else []), "test"]
        if len(done) == len(order):
            return None
        name = order[len(done)]
        if name == "tune":
            return Stage("tune", "tune", tuple(point for candidate in candidates for point in self._trials(candidate)))
        if name == "select":
            points = [
                Point(candidate.index, seed, trial.changes, trial.number)
                for candidate in candidates
                for trial in best_first(tried(done[0], candidate.index))[: self.finalists]
                for seed in self.numbered_seeds(1, self.select_seeds)
            ]
            return Stage("select", "select", tuple(points))
        chosen = {candidate.index: self._chosen(candidate, done) for candidate in candidates}
        points = [
            Point(index, seed, trial.changes, trial.number)
            for index, trial in chosen.items()
            for seed in self.numbered_seeds(1 + self.select_seeds, self.seeds)
        ]
        return Stage("test", "test", tuple(points))

    def choices(self, candidates: Sequence[Candidate], done: Sequence[Finished]) -> Mapping[int, ChoiceEntry]:
        """What was chosen before test, with what decided."""
        before = [finished for finished in done if finished.stage.purpose != "test"]
        if len(before) < 1 + bool(self.select_seeds):
            return {}
        return {candidate.index: self._choice(candidate, before) for candidate in candidates}

    def _trials(self, candidate: Candidate) -> list[Point]:
        (seed,) = self.numbered_seeds(0, 1)
        return [Point(candidate.index, seed, self._setting(candidate, number), number) for number in range(self.trials)]

    def _setting(self, candidate: Candidate, number: int) -> tuple[str, ...]:
        """The setting of a trial: each field has a stream of its own, so that one more changes no other."""
        return tuple(
            f"{field}={dimension.at(generator('protocol', self.seed, candidate.strategy, number, field).random())}"
            for field, dimension in candidate.space.items()
        )

    def _chosen(self, candidate: Candidate, done: Sequence[Finished]) -> Tried:
        return best_first(tried(done[int(bool(self.select_seeds))], candidate.index))[0]

    def _choice(self, candidate: Candidate, done: Sequence[Finished]) -> ChoiceEntry:
        chosen = self._chosen(candidate, done)
        return ChoiceEntry(
            changes=list(chosen.changes),
            trial=chosen.number,
            metric=chosen.metric,
            value=chosen.value,
            seeds=list(chosen.seeds),
            stage=done[-1].stage.name,
            warnings=edge_warnings(chosen.changes, [trial.changes for trial in tried(done[0], candidate.index)]),
        )
