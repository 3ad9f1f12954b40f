"""The state of every run on disk: pending, running, interrupted, failed, done; and that each is run by one process."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from thawline.errors import WriteError
from thawline.files import atomic_write, make_folder, read_json, remove_or_set_aside, remove_partial, write_json
from thawline.ledger.leases import Lease, is_leased, read_owner, try_lease
from thawline.records import RECORD_FILE, Record, read_record
from thawline.records.names import CONFIG_FILE, LAST_FILE, STATE_FILE
from thawline.runtime import signals
from thawline.runtime.clock import now
from thawline.runtime.memory import free_what_earlier_runs_made

if TYPE_CHECKING:
    from thawline.planning.plan import Plan

Stamp = tuple[int, int]
RunState = Literal["pending", "running", "interrupted", "failed", "done"]
POLL_SECONDS = 0.5
"""How often a run that another process has is looked at."""


class RunFailed(Exception):
    """A run ended with an error; its traceback is in a file."""

    def __init__(self, identity: str, error: str, traceback_file: Path) -> None:
        self.identity, self.error, self.traceback_file = identity, error, traceback_file
        super().__init__(f"run {identity} failed: {error} (traceback: {traceback_file})")

    def __reduce__(self) -> tuple[type[RunFailed], tuple[str, str, Path]]:
        return type(self), (self.identity, self.error, self.traceback_file)


class RunBusy(Exception):
    """Another process has the run now: its text is where."""


@dataclass(frozen=True)
class Status:
    """What is known of a run: its state, who runs it since when, which attempt, and the error of a failure.

    `since` is the time of the last change of state (UTC, ISO 8601); `record_stamp` is the size and the time of the
    record when it was found valid, `diverged` and `version` (of thawline, that made it) what that record says.
    """

    state: RunState
    attempt: int = 0
    since: str = ""
    host: str = ""
    pid: int = 0
    error: str = ""
    traceback_file: str = ""
    record_stamp: Stamp | None = None
    diverged: bool = False
    version: str = ""


def status_of(folder: Path) -> Status:
    """The state of the run in `folder`. Done means a validated record."""
    status = _read(folder)
    stamp = _stamp(folder / RECORD_FILE)
    if stamp is not None and stamp == status.record_stamp and status.version:
        return _in_state(status, "done")
    if stamp is not None and (record := read_record(folder)) is not None:
        return replace(_in_state(status, "done"), diverged=record.diverged, version=record.provenance.made_by)
    if stamp is not None and status.state in ("done", "pending"):
        return _in_state(status, "failed", f"{folder / RECORD_FILE} is damaged; the same command makes it again")
    if status.state == "done":
        return _in_state(status, "pending")
    if status.state == "running" and not is_leased(folder):
        return _in_state(status, "interrupted", "its process is gone")
    return status


def finished_record(folder: Path) -> Record | None:
    """The valid record of the run in `folder`, or None; what only an unfinished run needs is removed beside it.

    Raises:
        UsageError: the machine cannot read it now.
    """
    record = read_record(folder)
    if record is not None:
        # A process that was killed after it had written the record leaves the state that it would have gone on from.
        with contextlib.suppress(OSError):
            (folder / LAST_FILE).unlink(missing_ok=True)
    return record


def run_once(
    plan: Plan,
    run: Callable[[Plan], Record],
    *,
    began: str = "",
    retries: int = 0,
    wait: bool = True,
) -> Record:
    """The record of `plan`: the one that is there, or that of running it now, in this process alone.

    Args:
        plan: the run.
        run: makes the record and leaves it in the plan's folder.
        began: when this command began; a failure since then is not tried again, whoever had it.
        retries: how often a run that fails is tried again at once.
        wait: wait for a process that has the run.

    Raises:
        RunFailed: it ended with an error; its state and its traceback are on disk.
        RunBusy: another process has it, and `wait` is off.
        WriteError: the folder cannot be written, or the disk is full.
    """
    record = finished_record(plan.folder)
    if record is not None:
        return record
    make_folder(plan.folder)
    with _leased(plan.folder, wait=wait) as lease:
        record = finished_record(plan.folder)
        if record is not None:
            return record
        _raise_failure(plan, began)
        remove_or_set_aside(plan.folder / RECORD_FILE)
        remove_partial(plan.folder)
        for _retry in range(retries):
            with contextlib.suppress(RunFailed):
                return _attempt(plan, run, lease)
        return _attempt(plan, run, lease)


@contextlib.contextmanager
def _leased(folder: Path, *, wait: bool) -> Iterator[Lease]:
    lease = try_lease(folder)
    while lease is None:
        if not wait:
            owner = read_owner(folder)
            raise RunBusy(owner.place if owner is not None else "another process")
        signals.check()
        time.sleep(POLL_SECONDS)
        lease = try_lease(folder)
    with lease:
        yield lease


def _raise_failure(plan: Plan, began: str) -> None:
    status = _read(plan.folder)
    if began and status.state == "failed" and status.since >= began:
        raise RunFailed(plan.identity, status.error, Path(status.traceback_file))


def _attempt(plan: Plan, run: Callable[[Plan], Record], lease: Lease) -> Record:
    journal = _Journal(plan.folder, _read(plan.folder).attempt + 1, lease)
    write_json(plan.folder / CONFIG_FILE, dict(plan.config))
    journal.write("running")
    try:
        record = run(plan)
    except BaseException as error:
        ended = _lost(plan.folder, lease) if lease.lost() else _ended(journal, plan.identity, error)
        if ended is error:
            raise
        _forget_frames(error)
        raise ended from error
    if lease.lost() and read_record(plan.folder) is None:
        raise _lost(plan.folder, lease)
    journal.write("done", stamp=_stamp(plan.folder / RECORD_FILE), record=record)
    return record


def _forget_frames(error: BaseException) -> None:
    """Free what the frames of a failed run hold: its network must not stay as long as the failure is remembered."""
    each: BaseException | None = error
    while each is not None:
        traceback.clear_frames(each.__traceback__)
        each = each.__cause__ or each.__context__
    free_what_earlier_runs_made()


def _ended(journal: _Journal, identity: str, error: BaseException) -> BaseException:
    """What the command gets to know of an attempt that ended with `error`, which is on disk then."""
    stopped = signals.requested()
    if isinstance(error, WriteError):
        with contextlib.suppress(WriteError):
            journal.failure(identity)
        return error
    if isinstance(error, Exception) and stopped is None:
        return journal.failure(identity)
    # What fails when the process is asked to stop (a loader's worker got the same signal) is no failure of the run.
    interruption = signals.Interrupted(stopped) if isinstance(error, Exception) and stopped is not None else error
    with contextlib.suppress(WriteError):
        journal.write("interrupted", error=str(interruption) or type(interruption).__name__)
    return interruption


def _lost(folder: Path, lease: Lease) -> WriteError:
    """The run's folder is another's or was deleted: nothing of this attempt stays."""
    why = lease.lost()
    lease.remove_left_over()
    return WriteError(errno.ESTALE, why, str(folder))


@dataclass(frozen=True)
class _Journal:
    """Writes what becomes of one attempt, as long as the run is this process's."""

    folder: Path
    attempt: int
    lease: Lease

    def write(
        self,
        state: RunState,
        *,
        error: str = "",
        file: str = "",
        stamp: Stamp | None = None,
        record: Record | None = None,
    ) -> None:
        if self.lease.is_mine():
            place = (socket.gethostname(), os.getpid())
            status = Status(state, self.attempt, now("milliseconds"), *place, error, file, stamp)
            if record is not None:
                status = replace(status, diverged=record.diverged, version=record.provenance.made_by)
            write_json(self.folder / STATE_FILE, asdict(status))

    def failure(self, identity: str) -> RunFailed:
        """The exception that is being handled, on disk."""
        error = sys.exception()
        file = self.folder / f"traceback-{self.attempt}.txt"
        with atomic_write(file) as stream:
            stream.write(traceback.format_exc().encode("utf-8", errors="backslashreplace"))
        message = f"{type(error).__name__}: {error}"
        self.write("failed", error=message, file=str(file))
        return RunFailed(identity, message, file)


def _read(folder: Path) -> Status:
    try:
        values = read_json(folder / STATE_FILE)
        stamp = values.pop("record_stamp", None)
        return Status(**values, record_stamp=(stamp[0], stamp[1]) if stamp else None)
    except (OSError, ValueError, TypeError, AttributeError, LookupError):
        return Status("pending")


def _in_state(status: Status, state: RunState, error: str = "") -> Status:
    return replace(status, state=state, error=error, traceback_file="")


def _stamp(record: Path) -> Stamp | None:
    """Size and time of a record: while they stay, it need not be validated again."""
    try:
        found = record.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
