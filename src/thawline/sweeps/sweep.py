"""A sweep: a set of runs made by one command, named by what it consists of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from thawline.invocation import Invocation
from thawline.planning.devices import require_devices
from thawline.planning.plan import Plan, plan_run
from thawline.planning.reach import require_weights
from thawline.planning.session import Session
from thawline.records import run_folder
from thawline.records.manifest import CellEntry, Manifest
from thawline.sweeps.cells import CellConfig, for_each
from thawline.sweeps.known import KnownPlan, remember_plans
from thawline.sweeps.manifest import write_manifest

_Planned = TypeVar("_Planned", Plan, KnownPlan)


@dataclass(frozen=True)
class PlannedSweep(Generic[_Planned]):
    """The plans of a sweep in the order of the grid; equal runs occur once. `cells` has the identity of each cell."""

    name: str
    folder: Path
    output_dir: Path
    plans: tuple[_Planned, ...]
    cells: tuple[str, ...]

    def run_folders(self) -> list[Path]:
        """The folder of each cell's run."""
        return [run_folder(self.output_dir, plan.identity) for plan in self.plans]


def plan_sweep(
    cells: Sequence[CellConfig],
    axes: Mapping[str, Sequence[str]],
    label: str,
    invocation: Invocation,
    session: Session,
    *,
    here: bool = True,
) -> PlannedSweep[Plan]:
    """Plan every cell before the first one starts, and write the sweep's manifest.

    Args:
        cells: the grid.
        axes: the swept keys and their values.
        label: a readable start for the sweep's name where the configuration gives none.
        invocation: the command that makes the sweep again.
        session: what the plans share.
        here: whether the runs will use this machine: its devices must then be there, and their weights within reach.

    Raises:
        UsageError: with the problems of all cells; nothing is written.
    """

    def plan(cell: CellConfig) -> Plan:
        planned = plan_run(cell.config, cell.overrides, session, cell.label)
        if here:
            require_devices(planned.settings)
            require_weights(planned, session)
        return planned

    plans = for_each(((cell.label, cell) for cell in cells), len(cells), plan)
    sweep = sweep_of(plans, axes, label, invocation)
    remember_plans(cells, plans, session)
    return sweep


def sweep_of(
    planned_cells: Sequence[_Planned], axes: Mapping[str, Sequence[str]], label: str, invocation: Invocation
) -> PlannedSweep[_Planned]:
    """The sweep of these cells, whose manifest is written; see `plan_sweep`."""
    plans: dict[str, _Planned] = {}
    for planned in planned_cells:
        plans.setdefault(planned.identity, planned)
    first = next(iter(plans.values()))
    digest = hashlib.sha256("".join(sorted(plans)).encode()).hexdigest()[:8]
    name = first.settings.sweep.name or f"{label}-{digest}"
    folder = first.settings.output_dir / "sweeps" / name
    sweep = PlannedSweep(
        name,
        folder,
        first.settings.output_dir,
        tuple(plans.values()),
        tuple(planned.identity for planned in planned_cells),
    )
    manifest = Manifest(
        name=name,
        command=invocation.command,
        options=invocation.choosing,
        axes={key: list(values) for key, values in axes.items()},
        cells=[CellEntry(identity=plan.identity, overrides=list(plan.overrides)) for plan in sweep.plans],
    )
    write_manifest(folder, manifest)
    return sweep
