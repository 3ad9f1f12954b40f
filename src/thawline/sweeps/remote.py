"""A job of a multirun that runs in another process, on this machine or on another that shares the folder.

It travels as its overrides: the process that runs it composes the configuration and calls the same task function as a
run in this process. What became of it is in its run's folder; the outcome that comes back is for the terminal.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thawline.invocation import Invocation

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from thawline.planning.session import Session


log = logging.getLogger("thawline")

STAGE = "sweep.stage="
"""Begins the override that tells a job which stage of a protocol asks for it: of its record, and of no other run."""


class _Kept:
    """What a process that takes one remote job after the other keeps between them."""

    runs = 0
    session: Session | None = None
    collecting = contextlib.ExitStack()


def process_session() -> Session:
    """What a run may share with others: with all before it in a process of remote jobs, else with none."""
    from thawline.planning.session import Session

    if not _Kept.runs:
        return Session()
    if _Kept.session is None:
        _Kept.session = Session(runs=_Kept.runs)
    return _Kept.session


class RemoteJobFailed(RuntimeError):
    """A job failed in the process that ran it."""


@dataclass(frozen=True)
class JobOutcome:
    """What a job returned, or the error that it ended with."""

    value: Any = None
    error: str = ""


@dataclass(frozen=True)
class RemoteJob:
    """The task function of a multirun with all that it takes to run it elsewhere."""

    config_loader: ConfigLoader
    config: DictConfig
    task_function: TaskFunction
    directory: str
    runs: int
    invocation: Invocation

    @classmethod
    def of(cls, context: HydraContext, config: DictConfig, task_function: TaskFunction, runs: int) -> RemoteJob:
        """The job of this process's multirun of so many runs."""
        return cls(context.config_loader, config, task_function, str(Path.cwd()), runs, Invocation.current())

    def __call__(self, overrides: Sequence[str], number: int) -> JobOutcome:
        """Compose the configuration of `overrides` and run it, here."""
        try:
            done = self._run(overrides, number)
        except Exception as error:
            log.exception("the job could not be started")
            return JobOutcome(error=f"{type(error).__name__}: {error}")
        value: Any = done._return_value
        if isinstance(value, Exception):
            return JobOutcome(error=str(value) or type(value).__name__)
        return self._checked(value)

    def _checked(self, identity: str) -> JobOutcome:
        """The run's record says whether it is done, whatever the task function says."""
        from thawline.ledger.runs import status_of
        from thawline.records import read_record, run_folder

        folder = run_folder(Path(self.config.output_dir), identity)
        if read_record(folder) is not None:
            return JobOutcome(identity)
        status = status_of(folder)
        return JobOutcome(identity, error=status.error or f"{status.state}: no record in {folder}")

    def _run(self, overrides: Sequence[str], number: int) -> JobReturn:
        from hydra._internal.callbacks import Callbacks
        from hydra.core.plugins import Plugins
        from hydra.core.utils import run_job, setup_globals
        from hydra.types import HydraContext
        from omegaconf import open_dict

        from thawline.runtime.memory import collecting_in_runs_only

        if not _Kept.runs:
            _Kept.collecting.enter_context(collecting_in_runs_only())
        os.chdir(self.directory)
        _Kept.runs = self.runs
        # The command that a record names is the sweep's, and its own options and classes are found here, too.
        self.invocation.adopt()
        setup_globals()
        Plugins.instance()
        config = self.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        context = HydraContext(config_loader=self.config_loader, callbacks=Callbacks())
        return run_job(
            hydra_context=context,
            task_function=self.task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )


def job_returns(jobs: Sequence[Sequence[str]], outcomes: Sequence[JobOutcome]) -> list[JobReturn]:
    """The outcomes of `jobs` in the form in which Hydra's launchers return them."""
    from hydra.core.utils import JobReturn, JobStatus

    returns = []
    for overrides, outcome in zip(jobs, outcomes, strict=True):
        value: Any = RemoteJobFailed(outcome.error) if outcome.error else outcome.value
        status = JobStatus.FAILED if outcome.error else JobStatus.COMPLETED
        returns.append(JobReturn(overrides=list(overrides), status=status, _return_value=value))
    return returns


def labels(jobs: Sequence[Sequence[str]]) -> list[str]:
    """A short name for each job: its overrides that not all of them have."""
    jobs = [[item for item in overrides if not item.startswith(STAGE)] for overrides in jobs]
    shared = set.intersection(*(set(overrides) for overrides in jobs)) if len(jobs) > 1 else set()
    return [" ".join(_own(overrides, shared)) or " ".join(overrides) for overrides in jobs]


def _own(overrides: Sequence[str], shared: set[str]) -> Iterator[str]:
    return (override for override in overrides if override not in shared)
