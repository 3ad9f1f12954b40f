"""What a training command leaves: one run, or a sweep with its report and with what of it is not done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from thawline.errors import UsageError, WriteError
from thawline.ledger.runs import RunFailed, Status

if TYPE_CHECKING:
    from thawline.planning.plan import Plan
    from thawline.records.protocol import ProtocolManifest
    from thawline.reports import ReportFiles
    from thawline.sweeps.known import KnownPlan
    from thawline.sweeps.sweep import PlannedSweep


@dataclass(frozen=True)
class FinishedRun:
    """A run that is done."""

    plan: Plan | KnownPlan


@dataclass(frozen=True)
class Unfinished:
    """A run of a sweep that is not done: how it is called, and its state."""

    identity: str
    label: str
    status: Status

    def __str__(self) -> str:
        where = f" (traceback: {self.status.traceback_file})" if self.status.traceback_file else ""
        return f"{self.label}: {self.status.state}: {self.status.error}{where}"


@dataclass(frozen=True)
class FinishedSweep:
    """A sweep that has been run to its end; `report` is None where there is nothing to report, or none is wanted.

    Of a protocol it is the test stage, and `protocol` lists the others and what they chose.
    """

    sweep: PlannedSweep[Plan] | PlannedSweep[KnownPlan]
    unfinished: tuple[Unfinished, ...]
    report: ReportFiles | None
    protocol: ProtocolManifest | None = None


class SweepIncomplete(Exception):
    """Runs of a sweep are not done.

    Attributes:
        finished: the sweep, its report, and what is not done.
        folder: the sweep's folder.
        unfinished: the runs that are not done, with state, error and traceback file of each.
    """

    def __init__(self, finished: FinishedSweep) -> None:
        self.finished = finished
        self.folder: Path = finished.sweep.folder
        self.unfinished = finished.unfinished
        counted = f"{len(self.unfinished)} of {len(finished.sweep.plans)} runs are not done"
        super().__init__("\n".join([counted, *map(str, self.unfinished)]))


ended: list[FinishedRun | FinishedSweep | UsageError | WriteError | RunFailed] = []
"""What the command in progress has come to. Hydra passes on neither what a job returns nor the error it ends with."""
