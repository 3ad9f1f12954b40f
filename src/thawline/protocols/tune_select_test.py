"""Tune on one seed, choose among the best on further ones, and test what was chosen once, on fresh seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

from pydantic import Field

from thawline.protocols.choosing import Tried, best_first, tried
from thawline.protocols.protocol import Candidate, Finished, Point, Stage
from thawline.protocols.tuning import TuningProtocol
from thawline.records.protocol import ChoiceEntry


@final
class TuneSelectTest(TuningProtocol):
    """Every candidate of the grid is tuned with the same number of trials; test is opened for what was chosen alone.

    Attributes:
        finalists: the best of the trials, which run again on `select_seeds` fresh seeds.
        select_seeds: seeds of these runs; the best mean of validation over them is chosen. 0: the best trial is.
        seeds: further fresh seeds, on which the chosen setting is trained and tested.
    """

    finalists: int = Field(default=3, ge=1)
    select_seeds: int = Field(default=2, ge=0)
    seeds: int = Field(default=5, ge=1)

    def next_stage(self, candidates: Sequence[Candidate], done: Sequence[Finished]) -> Stage | None:
        """Tune, in one stage or in rounds; then select, if that is wanted; then test."""
        tune = self.tune_stage(candidates, done)
        if tune is not None:
            return tune
        if len(done) == self.tune_stages and self.select_seeds:
            seeds = self.numbered_seeds(1, self.select_seeds)
            finalists = ((one, trial) for one in candidates for trial in self._finalists(one, done))
            points = [Point(one.index, seed, trial.changes, trial.number) for one, trial in finalists for seed in seeds]
            return Stage("select", "select", tuple(points))
        if done[-1].stage.purpose == "test":
            return None
        seeds = self.numbered_seeds(1 + self.select_seeds, self.seeds)
        chosen = ((one.index, self._chosen(one, done)) for one in candidates)
        points = [Point(index, seed, trial.changes, trial.number) for index, trial in chosen for seed in seeds]
        return Stage("test", "test", tuple(points))

    def choices(self, candidates: Sequence[Candidate], done: Sequence[Finished]) -> Mapping[int, ChoiceEntry]:
        """What was chosen before test, with what decided."""
        before = [finished for finished in done if finished.stage.purpose != "test"]
        if len(before) < self.tune_stages + bool(self.select_seeds):
            return {}
        return {one.index: self.choice(one, self._chosen(one, before), before) for one in candidates}

    def _finalists(self, candidate: Candidate, done: Sequence[Finished]) -> list[Tried]:
        return self.best_trials(candidate, done)[: self.finalists]

    def _chosen(self, candidate: Candidate, done: Sequence[Finished]) -> Tried:
        if not self.select_seeds:
            return self._finalists(candidate, done)[0]
        (select,) = (finished for finished in done if finished.stage.purpose == "select")
        return best_first(tried(select, candidate.index))[0]
