"""Tune on one seed, choose among the best on further ones, and test what was chosen once, on fresh seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, final

from pydantic import Field, field_validator, model_validator

from thawline.errors import usage_error
from thawline.protocols.choosing import Tried, best_first, edge_warnings, tried
from thawline.protocols.engines import asked, drawn, has_optuna
from thawline.protocols.protocol import Candidate, Finished, Point, Protocol, Stage
from thawline.records.metrics import NEVER
from thawline.records.protocol import ChoiceEntry


@final
class TuneSelectTest(Protocol):
    """Every candidate of the grid is tuned with the same number of trials; test is opened for what was chosen alone.

    Trial i of a strategy is a function of (`seed`, strategy, i): the same in any order and on any number of workers,
    and more `trials` keep those that there are.

    Attributes:
        trials: settings that are tried for each candidate, on one seed.
        engine: where they come from: random draws, or Optuna (an extra), whose study is made anew of the records.
        rounds: of optuna: the trials come in so many rounds, the first at random; each waits for the one before.
        shallow: tune runs of last_k train at most so many layer groups, which the deeper candidates then share; the
            best settings are promoted to each one's own k. null: each candidate is tuned at its own.
        finalists: the best of them, which run again on `select_seeds` fresh seeds.
        select_seeds: seeds of these runs; the best mean of validation over them is chosen. 0: the best trial is.
        seeds: further fresh seeds, on which the chosen setting is trained and tested.
    """

    trials: int = Field(default=12, ge=1)
    engine: Literal["random", "optuna"] = "random"
    rounds: int = Field(default=4, ge=2)
    shallow: int | None = Field(default=None, ge=0)
    finalists: int = Field(default=3, ge=1)
    select_seeds: int = Field(default=2, ge=0)
    seeds: int = Field(default=5, ge=1)

    @field_validator("engine")
    @classmethod
    def _installed(cls, engine: str) -> str:
        if engine == "optuna" and not has_optuna():
            raise ValueError("needs Optuna: pip install 'thawline[optuna]'")
        return engine

    @model_validator(mode="after")
    def _trials_in_each_round(self) -> TuneSelectTest:
        if self.engine == "optuna" and self.trials < self.rounds:
            raise ValueError("there are fewer trials than rounds")
        return self

    @property
    def budget(self) -> int:
        """How many settings are tried for each candidate."""
        return self.trials

    @property
    def independent_trials(self) -> bool:
        """Whether what is tried is drawn independently: Optuna's trials follow from those before."""
        return self.engine == "random"

    def next_stage(self, candidates: Sequence[Candidate], done: Sequence[Finished]) -> Stage | None:
        """Tune, in one stage or in rounds; then select, if that is wanted; then test."""
        self._require_deeper(candidates)
        tune = self._rounds()
        place = len(done)
        if place < len(tune):
            name = f"tune-{place + 1}" if len(tune) > 1 else "tune"
            points = [point for one in candidates for point in self._trials(one, tune[place], done)]
            return Stage(name, "tune", tuple(points))
        if place == len(tune) and self.select_seeds:
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
        if len(before) < len(self._rounds()) + bool(self.select_seeds):
            return {}
        return {candidate.index: self._choice(candidate, before) for candidate in candidates}

    def _rounds(self) -> list[range]:
        """The numbers of the trials of each round of tuning."""
        rounds = self.rounds if self.engine == "optuna" else 1
        ends = [self.trials * number // rounds for number in range(rounds + 1)]
        return [range(first, end) for first, end in itertools.pairwise(ends)]

    def _trials(self, candidate: Candidate, numbers: range, done: Sequence[Finished]) -> Iterator[Point]:
        (seed,) = self.numbered_seeds(0, 1)
        if done:
            settings = asked(self.seed, candidate, numbers.start, len(numbers), self._tried(candidate, done))
        else:
            settings = [drawn(self.seed, candidate, number) for number in numbers]
        for number, setting in zip(numbers, settings, strict=True):
            yield Point(candidate.index, seed, setting, number, self._stand_in(candidate))

    def _require_deeper(self, candidates: Sequence[Candidate]) -> None:
        """Refuse `shallow` where it changes nothing, or where k is tuned itself."""
        if self.shallow is None:
            return
        tuned = [candidate.label for candidate in candidates if "freeze_policy.k" in candidate.space]
        if tuned:
            raise usage_error("protocol.shallow", f"{tuned[0]}: freeze_policy.k is tuned itself; sweep it instead")
        if not any(map(self._stand_in, candidates)):
            message = f"no candidate is a last_k of more than {self.shallow} layer groups"
            raise usage_error("protocol.shallow", message)

    def _stand_in(self, candidate: Candidate) -> tuple[str, ...]:
        if self.shallow is None or candidate.depth is None or candidate.depth <= self.shallow:
            return ()
        return (f"freeze_policy.k={self.shallow}", "freeze_policy.depth=null")

    def _tried(self, candidate: Candidate, done: Sequence[Finished]) -> list[Tried]:
        """All trials of the candidate, over all rounds."""
        tune = (finished for finished in done if finished.stage.purpose == "tune")
        return [trial for finished in tune for trial in tried(finished, candidate.index)]

    def _finalists(self, candidate: Candidate, done: Sequence[Finished]) -> list[Tried]:
        return best_first(self._tried(candidate, done))[: self.finalists]

    def _chosen(self, candidate: Candidate, done: Sequence[Finished]) -> Tried:
        if not self.select_seeds:
            return self._finalists(candidate, done)[0]
        (select,) = (finished for finished in done if finished.stage.purpose == "select")
        return best_first(tried(select, candidate.index))[0]

    def _choice(self, candidate: Candidate, done: Sequence[Finished]) -> ChoiceEntry:
        chosen = self._chosen(candidate, done)
        trials = self._tried(candidate, done)
        diverged = chosen.rank == NEVER
        return ChoiceEntry(
            changes=list(chosen.changes),
            trial=chosen.number,
            metric=chosen.metric,
            value=chosen.value,
            seeds=list(chosen.seeds),
            stage=done[-1].stage.name,
            warnings=[
                *(["every setting diverged that came so far"] if diverged else []),
                *edge_warnings(chosen.changes, [trial.changes for trial in trials]),
            ],
        )
