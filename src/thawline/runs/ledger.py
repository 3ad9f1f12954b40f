"""The state of every run on disk: pending, running, interrupted, failed, done; and that each is run by one process."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock

from thawline.files import atomic_write, read_json, write_json
from thawline.records import RECORD_FILE, Record, read_record
from thawline.runs import provenance
from thawline.runs.plan import Plan

State = Literal["pending", "running", "interrupted", "failed", "done"]
STATE_FILE = "state.json"


class RunFailed(Exception):
    """A run ended with an error; its traceback is in a file."""

    def __init__(self, identity: str, error: str, traceback_file: Path) -> None:
        self.identity, self.error, self.traceback_file = identity, error, traceback_file
        super().__init__(f"run {identity} failed: {error} (traceback: {traceback_file})")


@dataclass(frozen=True)
class Status:
    """What is known of a run: its state, who runs it since when, which attempt, and the error of a failure."""

    state: State
    attempt: int = 0
    since: str = ""
    host: str = ""
    pid: int = 0
    error: str = ""
    traceback_file: str = ""


def status_of(folder: Path) -> Status:
    """The state of the run in `folder`. Done means a record is there; `read_record` tells whether it is valid."""
    try:
        status = Status(**read_json(folder / STATE_FILE))
    except (OSError, ValueError, TypeError):
        status = Status("pending")
    if (folder / RECORD_FILE).exists():
        return Status("done", status.attempt, status.since, status.host, status.pid)
    if status.state == "running" and not _is_locked(folder):
        return Status("interrupted", status.attempt, status.since, status.host, status.pid, "its process is gone")
    return status


def run_once(plan: Plan, run: Callable[[Plan], Record]) -> Record:
    """The record of `plan`: the one that is there, or that of running it now, in this process alone.

    Raises:
        RunFailed: it ended with an error; its state and its traceback are on disk.
    """
    record = read_record(plan.folder)
    if record is not None:
        return record
    plan.folder.mkdir(parents=True, exist_ok=True)
    with _lock(plan.folder):
        record = read_record(plan.folder)
        if record is not None:
            return record
        (plan.folder / RECORD_FILE).unlink(missing_ok=True)
        return _attempt(plan, run)


def _attempt(plan: Plan, run: Callable[[Plan], Record]) -> Record:
    attempt = status_of(plan.folder).attempt + 1
    write_json(plan.folder / "config.json", dict(plan.config))
    _write(plan.folder, "running", attempt)
    try:
        record = run(plan)
    except Exception as error:
        file = plan.folder / f"traceback-{attempt}.txt"
        with atomic_write(file) as stream:
            stream.write(traceback.format_exc().encode("utf-8", errors="backslashreplace"))
        message = f"{type(error).__name__}: {error}"
        _write(plan.folder, "failed", attempt, message, file)
        raise RunFailed(plan.identity, message, file) from error
    except BaseException as error:
        _write(plan.folder, "interrupted", attempt, type(error).__name__)
        raise
    _write(plan.folder, "done", attempt)
    return record


def _write(folder: Path, state: State, attempt: int, error: str = "", file: Path | None = None) -> None:
    status = Status(state, attempt, provenance.now(), socket.gethostname(), os.getpid(), error, str(file or ""))
    write_json(folder / STATE_FILE, asdict(status))


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / "run.lock")


def _is_locked(folder: Path) -> bool:
    lock = _lock(folder)
    try:
        lock.acquire(timeout=0)
    except TimeoutError:
        return True
    except OSError:
        return False
    lock.release()
    return False
