"""A protocol is an ordered list of stages; each is a sweep that is made from the records of those before it.

A protocol has no state. It is asked for the next stage with the records so far, and gives the same stage for the same
records. So to resume is to ask again: runs that have a valid record are not run again.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from thawline.protocols.space import Dimension
from thawline.records import Purpose, Record
from thawline.records.protocol import ChoiceEntry, DropEntry
from thawline.specs import Spec


@dataclass(frozen=True)
class Candidate:
    """One of what is compared: a cell of the command's grid, which has no seeds.

    Attributes:
        index: its number in the grid.
        label: its swept overrides.
        strategy: the option of ``strategy``, or else of ``freeze_policy``; trials are drawn for it.
        overrides: all overrides of the command that make it, without those of the protocol.
        values: its place on the axes of the grid.
        space: what may be tuned, by field.
        depth: the layer groups that train, counted from the output, where its freeze policy is ``last_k``; else None.
    """

    index: int
    label: str
    strategy: str
    overrides: tuple[str, ...]
    values: Mapping[str, str]
    space: Mapping[str, Dimension]
    depth: int | None = None


@dataclass(frozen=True)
class Point:
    """One run of a stage: the candidate, and the overrides that the stage lays on those of the candidate.

    Attributes:
        candidate: its index.
        seed: of the run.
        changes: the setting that is tried, or what was chosen.
        trial: the number of the trial whose setting it has, where something is tuned.
        stand_in: overrides that make a cheaper run stand in for the candidate, such as a shallower one.
    """

    candidate: int
    seed: int
    changes: tuple[str, ...] = ()
    trial: int | None = None
    stand_in: tuple[str, ...] = ()

    @property
    def overrides(self) -> tuple[str, ...]:
        """All that the stage changes, and the seed."""
        return (*self.changes, *self.stand_in, f"seed={self.seed}")


@dataclass(frozen=True)
class Stage:
    """A sweep with a purpose. Only the runs of a ``test`` stage open the test split, and it is the last one.

    Attributes:
        name: part of the name of its sweep.
        purpose: what it is for.
        points: its runs.
    """

    name: str
    purpose: Purpose
    points: tuple[Point, ...]

    @property
    def axes(self) -> tuple[str, ...]:
        """The keys that tell runs of a candidate apart: in a test stage the seed alone, the rest is frozen."""
        if self.purpose == "test":
            return ("seed",)
        return tuple(dict.fromkeys(item.partition("=")[0] for point in self.points for item in point.overrides))


@dataclass(frozen=True)
class Finished:
    """A stage whose runs are all done: `records` has one for each of its points, in order."""

    stage: Stage
    records: tuple[Record, ...]

    def of(self, candidate: int) -> Iterator[tuple[Point, Record]]:
        """The runs of a candidate."""
        pairs = zip(self.stage.points, self.records, strict=True)
        return ((point, record) for point, record in pairs if point.candidate == candidate)


class Protocol(Spec):
    """Base of the protocols.

    Attributes:
        seed: of the protocol: it draws the trials and gives the runs of all stages their seeds.
        space: what stages that tune may change, by field; a strategy's yaml adds to it. Each field has a kind and its
            bounds or choices: [log, 1e-4, 1], [linear, 0, 0.5], [int, 0, groups], [choice, 16, 32], or
            [factor, 0.1, 10] times the value that the field has otherwise; null takes a field out.
    """

    seed: int = Field(default=0, ge=0)
    space: dict[str, Any] = Field(default_factory=dict)

    @property
    def budget(self) -> int:
        """How many settings are tried for each candidate; 0 where nothing is tuned."""
        return 0

    @property
    def independent_trials(self) -> bool:
        """Whether what is tried is drawn independently, not proposed from what was tried before."""
        return True

    @property
    def given(self) -> Mapping[str, Any]:
        """Fields that have the same value in all runs, by their names; the last part of each is the protocol's own."""
        return {}

    @property
    def retrains(self) -> bool:
        """Whether the runs of the test stage train on the validation images, too, and keep their last epoch."""
        return False

    @abstractmethod
    def next_stage(self, candidates: Sequence[Candidate], done: Sequence[Finished]) -> Stage | None:
        """The stage that follows on those that are done; None where it was the last one.

        The same arguments give the same stage, in every process and at every time.
        """

    def choices(self, candidates: Sequence[Candidate], done: Sequence[Finished]) -> Mapping[int, ChoiceEntry]:
        """What the stages so far have chosen, by the index of the candidate; empty where nothing is chosen yet."""
        return {}

    def drops(self, candidates: Sequence[Candidate], done: Sequence[Finished]) -> Mapping[int, DropEntry]:
        """Which candidates the stages so far have dropped, and why, by the index of the candidate."""
        return {}

    def numbered_seeds(self, first: int, count: int) -> tuple[int, ...]:
        """`count` seeds of this protocol from its `first` one on; protocols of other seeds have others."""
        start = 1000 * self.seed + first
        return tuple(range(start, start + count))
