"""All runs of a sweep in this one warm process: imports, data and stores are made once and shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from thawline.records import Record, read_record
from thawline.runs.ledger import RunFailed, run_once
from thawline.runs.plan import Plan
from thawline.runs.workbench import Workbench
from thawline.sweeps.progress import SweepProgress


@dataclass(frozen=True)
class Failure:
    """A run that failed."""

    plan: Plan
    error: RunFailed


def run_all(
    plans: Sequence[Plan], bench: Workbench, *, group: str | None, console: Console, fail_fast: bool = False
) -> list[Failure]:
    """Run what has no valid record yet, one after the other; a failure does not stop the others.

    Returns:
        The failures, in order.
    """
    failures: list[Failure] = []
    shown = all(plan.settings.trainer.progress for plan in plans)
    with SweepProgress(console, len(plans), shown=shown) as progress:
        for plan in plans:
            if read_record(plan.folder) is not None:
                progress.finish(plan, "skipped")
                continue
            failure = _run(plan, bench, group, progress)
            if failure is not None:
                failures.append(failure)
                if fail_fast:
                    break
    return failures


def _run(plan: Plan, bench: Workbench, group: str | None, progress: SweepProgress) -> Failure | None:
    from thawline.runs.experiment import execute

    def run(plan: Plan) -> Record:
        return execute(plan, bench, group=group, on_epoch=progress.epoch)

    attempts = 1 + plan.settings.sweep.retries
    progress.start(plan)
    for attempt in range(attempts):
        try:
            record = run_once(plan, run)
        except RunFailed as error:
            if attempt == attempts - 1:
                progress.finish(plan, "failed", error.error)
                return Failure(plan, error)
        else:
            value = record.metrics["test"].get("top1")
            progress.finish(plan, "done", f"test top1 {value:.3f}" if value is not None else "diverged")
            break
    return None
