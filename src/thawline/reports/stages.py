"""The stages of a protocol that came before the sweep of a report: what was tried, and what each trial reached."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from thawline.records.manifest import load_manifest
from thawline.records.protocol import CandidateEntry, ProtocolManifest, load_protocol
from thawline.reports.loaded_run import LoadedRun, read_run
from thawline.reports.split_names import VALIDATION


@dataclass(frozen=True)
class Stages:
    """The manifest of a protocol, and the runs of its stages by identity, as far as their records can be read."""

    manifest: ProtocolManifest
    runs: Mapping[str, LoadedRun]

    @property
    def dropped(self) -> list[dict[str, str]]:
        """The places on the axes of what a race has dropped."""
        dropped = (candidate for candidate in self.manifest.candidates if candidate.drop is not None)
        return [{key.lstrip("+"): value for key, value in candidate.values.items()} for candidate in dropped]


@dataclass(frozen=True)
class Trials:
    """The trials of one candidate in their order: what each reached on validation (NaN: it diverged), and what it took.

    A trial of several runs has the mean of them. `asked` is how many trials were to be made.
    """

    candidate: CandidateEntry
    scores: tuple[float, ...]
    seconds: tuple[float, ...]
    asked: int


def load_stages(sweep_folder: Path) -> Stages | None:
    """The stages of the protocol whose last stage is this sweep; None where it is a sweep by itself.

    A damaged manifest counts as none: the sweep's own records are not touched by it.
    """
    try:
        manifest = load_protocol(sweep_folder)
        if manifest is None:
            return None
        runs_folder = Path(os.path.normpath(sweep_folder.absolute() / load_manifest(sweep_folder).runs_folder))
    except (OSError, ValueError):
        return None
    identities = dict.fromkeys(point.identity for stage in manifest.stages for point in stage.points)
    read = {identity: read_run(runs_folder, identity)[0] for identity in identities}
    return Stages(manifest, {identity: run for identity, run in read.items() if run is not None})


def trials_of(stages: Stages, metric: str) -> list[Trials]:
    """The trials of each candidate in the stage that tunes; those without any are left out."""
    tuning = next((stage for stage in stages.manifest.stages if stage.purpose == "tune"), None)
    if tuning is None:
        return []
    grouped: dict[int, dict[int, list[LoadedRun | None]]] = {}
    for point in tuning.points:
        if point.trial is not None:
            trials = grouped.setdefault(point.candidate, {})
            trials.setdefault(point.trial, []).append(stages.runs.get(point.identity))
    found = []
    for place, candidate in enumerate(stages.manifest.candidates):
        every = grouped.get(place, {})
        whole = [runs for _, of in sorted(every.items()) if (runs := _whole(of, metric))]
        if whole:
            scores = tuple(_mean([run.score(VALIDATION, metric) for run in runs]) for runs in whole)
            seconds = tuple(sum(run.total_seconds for run in runs) for runs in whole)
            found.append(Trials(candidate, scores, seconds, len(every)))
    return found


def _whole(runs: Sequence[LoadedRun | None], metric: str) -> list[LoadedRun]:
    """The runs of a trial; none where a record is missing or has no such metric."""
    found = [run for run in runs if run is not None and metric in run.metrics.get(VALIDATION, {})]
    return found if len(found) == len(runs) else []


def _mean(scores: Sequence[float]) -> float:
    return fmean(scores) if all(math.isfinite(score) for score in scores) else math.nan
