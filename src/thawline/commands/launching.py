"""The cells of a command planned and run: in this process or where the launcher says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from thawline.commands.outcome import FinishedSweep, SweepIncomplete, Unfinished
from thawline.errors import counted
from thawline.invocation import Invocation
from thawline.sweeps.cells import CellConfig
from thawline.sweeps.remote import STAGE

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from thawline.planning.plan import Plan
    from thawline.planning.session import Session
    from thawline.sweeps.known import KnownPlan
    from thawline.sweeps.sweep import PlannedSweep


class Launching:
    """Plans and runs cells as one command asks for it: by its launcher, with its progress.

    Args:
        context: Hydra's.
        task: what runs one job elsewhere.
        config: the configuration of the multirun.
    """

    def __init__(self, context: HydraContext, task: TaskFunction, config: DictConfig) -> None:
        from hydra._internal.core_plugins.basic_launcher import BasicLauncher
        from hydra.utils import get_class

        self._context, self._task, self._config = context, task, config
        launcher = get_class(config.hydra.launcher._target_)
        self._in_this_process = launcher is BasicLauncher
        # A launcher from outside does not say it: its jobs are taken to run elsewhere.
        self.here = self._in_this_process or bool(getattr(launcher, "runs_here", False))

    @property
    def label(self) -> str:
        """A readable start for the name of what is run."""
        choices = self._config.hydra.runtime.choices
        return f"{choices['dataset']}-{choices['backbone']}".replace("/", "-")

    def new_session(self, runs: int) -> Session:
        """What so many runs share; the libraries that it takes are loaded."""
        from thawline.commands.console import console
        from thawline.runtime.steps import Bars, step

        with Bars(console, shown=self._config.trainer.progress), step("loading libraries"):
            from thawline.planning.session import Session

            import_module("torch")  # while the bar says so
        self._require_workers()
        return Session(runs=runs)

    def known(self, cells: Sequence[CellConfig], axes: Mapping[str, Sequence[str]]) -> FinishedSweep | None:
        """The sweep and its report, where every run of it is done and planned as it was; None: it is to be planned.

        Nothing of this imports torch.
        """
        from thawline.commands.console import console
        from thawline.commands.data_notes import print_data
        from thawline.runtime.steps import Bars, step
        from thawline.sweeps.known import known_plans
        from thawline.sweeps.sweep import sweep_of

        self._require_workers()
        with Bars(console, shown=self._config.trainer.progress), step("looking for finished runs"):
            plans = known_plans(cells, here=self.here)
        if plans is None:
            return None
        planned = sweep_of(plans, axes, self.label, Invocation.current())
        _print_name(planned)
        print_data(planned.plans)
        return _finished(planned, report=True)

    def plan(
        self, cells: Sequence[CellConfig], axes: Mapping[str, Sequence[str]], session: Session
    ) -> PlannedSweep[Plan]:
        """The plans of all cells, whose manifest is written.

        Raises:
            UsageError: a cell cannot be used; nothing has been written.
        """
        from thawline.commands.console import console
        from thawline.runtime.steps import Bars, step
        from thawline.sweeps.sweep import plan_sweep

        with Bars(console, shown=self._config.trainer.progress), step("planning"):
            return plan_sweep(cells, axes, self.label, Invocation.current(), session, here=self.here)

    def run(
        self, planned: PlannedSweep[Plan], session: Session, *, report: bool = True, data: bool = True
    ) -> FinishedSweep:
        """Run what of a sweep has no record yet.

        Args:
            planned: the sweep.
            session: what the plans share.
            report: whether to make its report, if the command wants one.
            data: whether to say what there is to know of the data, and of the precision on this CPU.

        Raises:
            SweepIncomplete: a cell is not done at the end.
        """
        from thawline.commands.console import console
        from thawline.commands.data_notes import print_data
        from thawline.commands.precision_notes import print_precision

        _print_name(planned)
        if data:
            print_data(planned.plans)
        if data and self.here:
            print_precision(planned.plans, session)
        if self._in_this_process:
            from thawline.sweeps.local import run_all

            fail_fast = bool(self._config.sweep.fail_fast)
            run_all(planned.plans, session, group=planned.name, console=console, fail_fast=fail_fast)
        else:
            self._launch(planned)
        finished = _finished(planned, report=report)
        if finished.unfinished:
            raise SweepIncomplete(finished)
        return finished

    def _require_workers(self) -> None:
        from thawline.planning.devices import require_workers

        workers = self._config.hydra.launcher.get("workers") if self.here else None
        if workers is not None:
            require_workers(int(workers))

    def _launch(self, planned: PlannedSweep[Plan]) -> None:
        """Hand the cells that are not done to a Hydra launcher; what became of them is read from their records."""
        from hydra.core.plugins import Plugins

        from thawline.ledger.runs import finished_record
        from thawline.sweeps.line_needs import write_needs

        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self._context, task_function=self._task, config=self._config
        )
        left = [plan for plan in planned.plans if finished_record(plan.folder) is None]
        jobs = [
            [*(item for item in plan.overrides if not item.startswith("sweep.name=")), *_for_elsewhere(plan, planned)]
            for plan in left
        ]
        if jobs:
            write_needs(planned.folder, left)
            launcher.launch(jobs, initial_job_idx=0)


def _print_name(planned: PlannedSweep[Plan] | PlannedSweep[KnownPlan]) -> None:
    from thawline.commands.console import console

    console.print(f"sweep [bold]{planned.name}[/]: {counted(len(planned.plans), 'run')}", highlight=False)


def _for_elsewhere(plan: Plan, planned: PlannedSweep[Plan]) -> list[str]:
    """What a job needs beside its run's overrides: the sweep, and the stage, that its record and trackers name."""
    from thawline.commands.quoting import quoted

    stage = plan.settings.sweep.stage
    name = f"sweep.name={planned.name}"
    if stage is None:
        return [name]
    values = stage.model_dump()
    items = (f"{key}:{quoted(value) if isinstance(value, str) else value}" for key, value in values.items())
    return [name, f"{STAGE}{{{','.join(items)}}}"]


def _finished(planned: PlannedSweep[Plan] | PlannedSweep[KnownPlan], *, report: bool) -> FinishedSweep:
    """What of the sweep is not done, and its report, which trackers get too."""
    from thawline.ledger.runs import status_of

    found = (Unfinished(plan.identity, plan.label, status_of(plan.folder)) for plan in planned.plans)
    unfinished = tuple(one for one in found if one.status.state != "done")
    settings = planned.plans[0].settings
    if not (report and settings.sweep.report) or len(unfinished) == len(planned.plans):
        return FinishedSweep(planned, unfinished, None)
    from thawline.reports import make_report
    from thawline.trackers.weights_and_biases import mirror_sweep

    files = make_report(planned.folder, margin=settings.report.margin, keep=True)
    if not files.kept:
        mirror_sweep(settings.logger, planned.name, planned.folder, files.folder)
    return FinishedSweep(planned, unfinished, files)
