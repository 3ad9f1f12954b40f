"""All runs of a sweep in this one warm process: imports, data and stores are made once and shared."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from thawline.ledger.runs import POLL_SECONDS, RunBusy, RunFailed, run_once
from thawline.planning.context import RunContext
from thawline.planning.plan import Plan
from thawline.planning.session import Session
from thawline.records import Record, read_record
from thawline.runtime import signals
from thawline.runtime.steps import step
from thawline.sweeps.progress import SweepProgress, result_in_words

if TYPE_CHECKING:
    from thawline.execution.packing import Pack


@dataclass(frozen=True)
class Failure:
    """A run that failed."""

    plan: Plan
    error: RunFailed


def run_all(
    plans: Sequence[Plan], session: Session, *, group: str | None, console: Console, fail_fast: bool = False
) -> list[Failure]:
    """Run what has no valid record yet, one after the other; a failure does not stop the others.

    A run that another process has is left, and looked at again when the others are through: two commands on the same
    sweep share its work, and what a dead process left behind is taken over.

    Returns:
        The failures, in order.
    """
    shown = all(plan.settings.trainer.progress for plan in plans)
    failures: list[Failure] = []
    with SweepProgress(console, len(plans), shown=shown) as progress:
        left = [plan for plan in plans if not _is_there(plan, progress)]
        packs = _packs(left, session)
        while left:
            busy, places = [], []
            for plan in left:
                signals.check()
                try:
                    failure = _run(RunContext(plan, session), group, progress, packs)
                except RunBusy as error:
                    busy.append(plan)
                    places.append(str(error))
                    continue
                if failure is not None:
                    failures.append(failure)
                    if fail_fast:
                        return failures
            if len(busy) == len(left):
                progress.wait(places)
                time.sleep(POLL_SECONDS)
            left = busy
    return failures


def _packs(plans: Sequence[Plan], session: Session) -> dict[str, Pack]:
    """The linear probes that are trained together, by identity."""
    if len(plans) < 2:
        return {}
    with step("loading the training libraries"):
        from thawline.execution.packing import packs

    return packs(plans, session)


def _is_there(plan: Plan, progress: SweepProgress) -> bool:
    if read_record(plan.folder) is None:
        return False
    progress.finish(plan, "skipped")
    return True


def _run(run: RunContext, group: str | None, progress: SweepProgress, packs: dict[str, Pack]) -> Failure | None:
    plan, ran = run.plan, False

    def work(plan: Plan) -> Record:
        # Not before a run needs it: the training libraries take seconds to import.
        with step("loading the training libraries"):
            from thawline.execution.run import execute

        nonlocal ran
        ran = True
        progress.start(plan)
        return execute(run, group=group, on_epoch=progress.epoch, packs=packs)

    try:
        record = run_once(plan, work, began=run.session.began, retries=plan.settings.sweep.retries, wait=False)
    except RunFailed as error:
        progress.finish(plan, "failed", error.error)
        return Failure(plan, error)
    progress.finish(plan, "done" if ran else "shared", result_in_words(record))
    return None
