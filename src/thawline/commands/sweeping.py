"""A multirun: the grid's cells are composed and planned, run where the launcher says, and reported."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from thawline.commands.composing import Grid, Point
from thawline.commands.diagnosis import checked
from thawline.commands.outcome import FinishedSweep, SweepIncomplete, Unfinished, ended
from thawline.invocation import Invocation
from thawline.sweeps.cells import CellConfig, for_each

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from thawline.sweeps.sweep import PlannedSweep

log = logging.getLogger("thawline")


def sweep(context: HydraContext, task: TaskFunction, config: DictConfig, arguments: Sequence[str]) -> None:
    """Run a grid: what has a valid record is skipped, the rest goes to the launcher; then report.

    Raises:
        UsageError: a cell cannot be used; nothing has been written.
        SweepIncomplete: a cell is not done at the end.
    """
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher
    from hydra.utils import get_class

    from thawline.commands.console import console
    from thawline.commands.data_notes import print_data

    grid = Grid(context, config, arguments)
    cells = _checked(grid)
    from thawline.runtime.steps import Bars, step

    with Bars(console, shown=config.trainer.progress), step("loading libraries"):
        from thawline.planning.devices import require_workers
        from thawline.planning.session import Session
        from thawline.sweeps.sweep import plan_sweep
    choices = config.hydra.runtime.choices
    session = Session(runs=len(cells))
    label = f"{choices['dataset']}-{choices['backbone']}".replace("/", "-")
    launcher = get_class(config.hydra.launcher._target_)
    in_this_process = launcher is BasicLauncher
    # A launcher from outside does not say it: its jobs are taken to run elsewhere.
    here = in_this_process or bool(getattr(launcher, "runs_here", False))
    workers = config.hydra.launcher.get("workers") if here else None
    if workers is not None:
        require_workers(int(workers))
    with Bars(console, shown=config.trainer.progress), step("planning"):
        planned = plan_sweep(cells, grid.axes, label, Invocation.current(), session, here=here)
    console.print(f"sweep [bold]{planned.name}[/]: {len(planned.plans)} runs", highlight=False)
    print_data(planned.plans)
    if in_this_process:
        from thawline.sweeps.local import run_all

        run_all(planned.plans, session, group=planned.name, console=console, fail_fast=bool(config.sweep.fail_fast))
    else:
        _launch(context, task, config, planned)
    finished = _finished(planned)
    if finished.unfinished:
        raise SweepIncomplete(finished)
    ended.append(finished)


def _checked(grid: Grid) -> list[CellConfig]:
    """The cells, none with a wrong field: found before torch is imported."""

    def check(point: Point) -> CellConfig:
        return CellConfig(point.overrides, point.label, checked(point.config, point.overrides))

    return for_each(((point.label, point) for point in grid), len(grid), check)


def _finished(planned: PlannedSweep) -> FinishedSweep:
    """What of the sweep is not done, and its report, which trackers get too."""
    from thawline.ledger.runs import status_of

    found = (Unfinished(plan.identity, plan.label, status_of(plan.folder)) for plan in planned.plans)
    unfinished = tuple(one for one in found if one.status.state != "done")
    settings = planned.plans[0].settings
    if not settings.sweep.report or len(unfinished) == len(planned.plans):
        return FinishedSweep(planned, unfinished, None)
    from thawline.reports import make_report
    from thawline.trackers import mirror_sweep

    files = make_report(planned.folder)
    mirror_sweep(settings.logger, planned.name, planned.folder, files.folder)
    return FinishedSweep(planned, unfinished, files)


def _launch(context: HydraContext, task: TaskFunction, config: DictConfig, planned: PlannedSweep) -> None:
    """Hand the cells that are not done to a Hydra launcher; what became of them is read from their records."""
    from hydra.core.plugins import Plugins

    from thawline.records import read_record

    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
    name = f"sweep.name={planned.name}"
    pending = [
        [*(item for item in plan.overrides if item != name), name]
        for plan in planned.plans
        if read_record(plan.folder) is None
    ]
    if pending:
        launcher.launch(pending, initial_job_idx=0)
