"""All runs of a sweep in this one warm process: imports, data and stores are made once and shared."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from thawline.ledger.runs import POLL_SECONDS, RunBusy, RunFailed, finished_record, run_once
from thawline.planning.context import RunContext
from thawline.planning.plan import Plan
from thawline.planning.session import Session
from thawline.planning.stored_phases import needs_of
from thawline.records import Record
from thawline.runtime import signals
from thawline.runtime.steps import step
from thawline.sweeps.executor import Executor, run_jobs
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

    def finished(_: int, failure: Failure | None) -> bool:
        if failure is not None:
            failures.append(failure)
        return failure is None

    with SweepProgress(console, len(plans), shown=shown) as progress:
        left = [plan for plan in plans if not _is_there(plan, progress)]
        for plan in left:
            session.needs.expect(plan.identity, needs_of(plan))
        runs = _Runs(left, session, group, progress, _packs(left, session))
        run_jobs(runs, range(len(left)), finished, fail_fast=fail_fast)
        for plan in left:
            session.needs.drop(plan.identity)
    return failures


class _Runs(Executor[Failure | None]):
    """Runs plans in this process, one at a time."""

    def __init__(
        self,
        plans: Sequence[Plan],
        session: Session,
        group: str | None,
        progress: SweepProgress,
        packs: dict[str, Pack],
    ) -> None:
        self._plans, self._session, self._group, self._progress, self._packs = plans, session, group, progress, packs
        self._left: deque[int] = deque()
        self._busy: dict[int, str] = {}

    @property
    def is_busy(self) -> bool:
        """Whether there are runs that have not ended."""
        return bool(self._left or self._busy)

    def submit(self, numbers: Sequence[int]) -> None:
        """Take runs on, in this order."""
        self._left.extend(numbers)

    def poll(self) -> Iterator[tuple[int, Failure | None]]:
        """Go through the runs that are left; it waits where another process has all of them."""
        before = len(self._left)
        while self._left:
            number = self._left.popleft()
            signals.check()
            try:
                context = RunContext(self._plans[number], self._session)
                failure = _run(context, self._group, self._progress, self._packs)
            except RunBusy as error:
                self._busy[number] = str(error)
                continue
            self._session.needs.drop(self._plans[number].identity)  # the rest is for those that are left
            yield number, failure
        if self._busy and len(self._busy) == before:
            self._progress.wait(list(self._busy.values()))
            time.sleep(POLL_SECONDS)
        self._left.extend(self._busy)
        self._busy.clear()

    def cancel(self) -> None:
        """Start none of the runs that are left."""
        self._left.clear()
        self._busy.clear()


def _packs(plans: Sequence[Plan], session: Session) -> dict[str, Pack]:
    """The linear probes that are trained together, by identity."""
    if len(plans) < 2:
        return {}
    with step("loading the training libraries"):
        from thawline.execution.packing import packs

    return packs(plans, session)


def _is_there(plan: Plan, progress: SweepProgress) -> bool:
    if finished_record(plan.folder) is None:
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
