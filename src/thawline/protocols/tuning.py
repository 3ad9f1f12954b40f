"""What protocols that tune have in common: equally many trials of each candidate, compared on validation."""

from __future__ import annotations

import itertools
from abc import ABC
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field, field_validator, model_validator

from thawline.errors import usage_error
from thawline.protocols.choosing import Tried, best_first, edge_warnings, tried
from thawline.protocols.engines import asked, drawn, has_optuna
from thawline.protocols.protocol import Candidate, Finished, Point, Protocol, Stage
from thawline.records.metrics import NEVER
from thawline.records.protocol import ChoiceEntry


class TuningProtocol(Protocol, ABC):
    """Base of the protocols whose first stages tune every candidate of the grid with the same number of trials.

    Trial i of a strategy is a function of (`seed`, strategy, i): the same in any order and on any number of workers,
    and more `trials` keep those that there are.

    Attributes:
        trials: settings that are tried for each candidate, on one seed.
        engine: where they come from: random draws, or Optuna (an extra), whose study is made anew of the records.
        rounds: for optuna: in how many rounds the trials come; the first is random, each waits for the one before.
        shallow: tune runs of last_k train at most so many layer groups, which the deeper candidates then share; the
            best settings are promoted to each one's own k. null: each candidate is tuned at its own.
    """

    trials: int = Field(default=12, ge=1)
    engine: Literal["random", "optuna"] = "random"
    rounds: int = Field(default=4, ge=2)
    shallow: int | None = Field(default=None, ge=0)

    @field_validator("engine")
    @classmethod
    def _installed(cls, engine: str) -> str:
        if engine == "optuna" and not has_optuna():
            raise ValueError("needs Optuna: pip install 'thawline[optuna]'")
        return engine

    @model_validator(mode="after")
    def _trials_in_each_round(self) -> TuningProtocol:
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

    @property
    def tune_stages(self) -> int:
        """How many stages tune: one, or one for each round."""
        return len(self._rounds())

    def tune_stage(self, candidates: Sequence[Candidate], done: Sequence[Finished]) -> Stage | None:
        """The next stage that tunes; None where all of them are done.

        Raises:
            UsageError: `shallow` changes nothing, or k is tuned itself.
        """
        self._require_deeper(candidates)
        rounds, place = self._rounds(), len(done)
        if place >= len(rounds):
            return None
        name = f"tune-{place + 1}" if len(rounds) > 1 else "tune"
        points = [point for one in candidates for point in self._trials(one, rounds[place], done)]
        return Stage(name, "tune", tuple(points))

    def best_trials(self, candidate: Candidate, done: Sequence[Finished]) -> list[Tried]:
        """All trials of a candidate, over all rounds, the best first."""
        return best_first(self._tried(candidate, done))

    def choice(self, candidate: Candidate, chosen: Tried, done: Sequence[Finished]) -> ChoiceEntry:
        """What is kept of a choice: `chosen` of the candidate's trials, decided by the last stage of `done`."""
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
