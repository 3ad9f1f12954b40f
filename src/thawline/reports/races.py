"""The races of a study: what each candidate reached on the seeds that it ran, and which of them were dropped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thawline.records.protocol import CandidateEntry, DropEntry
from thawline.reports.axes import Axes, setting_labels
from thawline.reports.loaded_run import LoadedRun
from thawline.reports.split_names import VALIDATION
from thawline.reports.stages import Stages
from thawline.reports.study import Study

KIND = "Race"


@dataclass(frozen=True)
class Racer:
    """A candidate of a race: its validation scores by seed, in the race and on fresh seeds, and why it was dropped.

    A score is NaN where the run diverged. `seconds` is what each of its runs took; `winner` the place in the race of
    the one that beat it.
    """

    candidate: CandidateEntry
    label: str
    raced: Mapping[int, float]
    fresh: Mapping[int, float]
    seconds: Sequence[float]
    drop: DropEntry | None
    winner: int | None


@dataclass(frozen=True)
class RaceOf:
    """The race on one data set: its racers, its looks in numbers of seeds, and how many fresh seeds followed.

    `decided_by` is the metric of validation by which epochs were chosen and settings dropped; empty where no run can be
    read.
    """

    label: str
    racers: tuple[Racer, ...]
    looks: tuple[int, ...]
    alpha: float
    audit: float
    fresh_seeds: int
    decided_by: str

    @property
    def left(self) -> list[Racer]:
        """Those that were not dropped."""
        return [racer for racer in self.racers if racer.drop is None]

    @property
    def dropped(self) -> list[Racer]:
        """Those that were."""
        return [racer for racer in self.racers if racer.drop is not None]


def races_of(study: Study) -> list[RaceOf]:
    """The races of the protocol that the sweep is the last stage of; none where it is of another kind."""
    stages = study.stages
    if stages is None or stages.manifest.kind != KIND:
        return []
    grouped: dict[tuple[str, ...], list[int]] = {}
    for index, candidate in enumerate(stages.manifest.candidates):
        values = {key.lstrip("+"): value for key, value in candidate.values.items()}
        grouped.setdefault(tuple(values.get(axis, "") for axis in study.axes.conditions), []).append(index)
    settings = stages.manifest.settings
    return [
        RaceOf(
            label=", ".join(setting_labels(study.axes.conditions, condition)),
            racers=tuple(_racer(study, stages, index, members) for index in members),
            looks=tuple(int(seeds) for seeds in settings.get("looks", ())),
            alpha=float(settings.get("alpha", math.nan)),
            audit=float(settings.get("audit", 0.0)),
            fresh_seeds=int(settings.get("seeds", 0)),
            decided_by=_monitor(stages),
        )
        for condition, members in grouped.items()
    ]


def _racer(study: Study, stages: Stages, index: int, members: Sequence[int]) -> Racer:
    raced: dict[int, LoadedRun] = {}
    fresh: dict[int, LoadedRun] = {}
    for stage in stages.manifest.stages:
        for point in stage.points:
            run = stages.runs.get(point.identity)
            if point.candidate == index and point.seed is not None and run is not None:
                (fresh if stage.purpose == "test" else raced)[point.seed] = run
    candidate = stages.manifest.candidates[index]
    drop = candidate.drop
    return Racer(
        candidate=candidate,
        label=racer_label(study.axes, candidate),
        raced=_scores(raced, study.metric),
        fresh=_scores(fresh, study.metric),
        seconds=tuple(run.total_seconds for run in raced.values()),
        drop=drop,
        winner=members.index(drop.winner) if drop is not None and drop.winner in members else None,
    )


def _monitor(stages: Stages) -> str:
    first = next(iter(stages.runs.values()), None)
    return first.monitor.removeprefix(f"{VALIDATION}/") if first is not None else ""


def _scores(runs: Mapping[int, LoadedRun], metric: str) -> dict[int, float]:
    return {seed: run.score(VALIDATION, metric) for seed, run in sorted(runs.items())}


def racer_label(axes: Axes, candidate: CandidateEntry) -> str:
    """A candidate by what is compared: without its data set and what is the same for all."""
    values = {key.lstrip("+"): value for key, value in candidate.values.items()}
    compared = {key: value for key, value in values.items() if key not in axes.conditions}
    return ", ".join(setting_labels(list(compared), list(compared.values()))) or candidate.label
