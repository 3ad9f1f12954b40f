"""``hydra/launcher=ray``: the runs of a sweep as tasks of a Ray cluster, or of a Ray that is started on this machine.

Ray runs a task again whose worker died. That is welcome: the run's ledger counts the attempt, and it goes on from its
last checkpoint in the same folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from thawline.errors import usage_error
from thawline.sweeps.executor import Executor, run_remote_jobs
from thawline.sweeps.lines import Lines
from thawline.sweeps.remote import JobOutcome, RemoteJob


@dataclass(frozen=True)
class RayCluster:
    """How Ray is reached (arguments of ``ray.init``) and what a task takes (arguments of ``ray.remote``)."""

    init: dict[str, Any] = field(default_factory=dict)
    remote: dict[str, Any] = field(default_factory=dict)


def run_on_ray(
    job: RemoteJob, jobs: Sequence[Sequence[str]], cluster: RayCluster, console: Console
) -> list[JobOutcome]:
    """Run `jobs`, each a list of overrides, as tasks of Ray, and wait for them.

    Raises:
        UsageError: Ray is not installed, or cannot be reached.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise usage_error("hydra/launcher", "ray is not installed; pip install 'thawline[ray]'") from None
    started = not ray.is_initialized()
    try:
        ray.init(**{"log_to_driver": False, "ignore_reinit_error": True, **cluster.init})
    except (ConnectionError, RuntimeError, TypeError, ValueError) as error:
        raise usage_error("hydra.launcher.init", f"Ray: {error}") from error
    try:
        with Lines(console, job.config, jobs, "on Ray") as lines:
            return run_remote_jobs(_Tasks(ray, job, jobs, cluster), job, jobs, lines)
    finally:
        if started:
            ray.shutdown()


class _Tasks(Executor[JobOutcome]):
    """The tasks of one sweep in a Ray that is connected."""

    def __init__(self, ray: Any, job: RemoteJob, jobs: Sequence[Sequence[str]], cluster: RayCluster) -> None:
        self._ray, self._jobs = ray, jobs
        self._task = ray.remote(**cluster.remote)(_task) if cluster.remote else ray.remote(_task)
        self._shared = ray.put(job)
        self._left: dict[Any, int] = {}

    @property
    def is_busy(self) -> bool:
        """Whether there are tasks that have not ended."""
        return bool(self._left)

    def submit(self, numbers: Sequence[int]) -> None:
        """Give Ray a task for each job."""
        for number in numbers:
            self._left[self._task.remote(self._shared, list(self._jobs[number]), number)] = number

    def poll(self) -> Iterator[tuple[int, JobOutcome]]:
        """The next task that has ended."""
        (ready,), _ = self._ray.wait(list(self._left), num_returns=1)
        yield self._left.pop(ready), _outcome(self._ray, ready)

    def cancel(self) -> None:
        """Wait for no task any more; one under way is interrupted and saves its run, as by Ctrl-C."""
        while self._left:
            self._ray.cancel(self._left.popitem()[0])


def _outcome(ray: Any, reference: Any) -> JobOutcome:
    try:
        found: JobOutcome = ray.get(reference)
    except ray.exceptions.RayError as error:
        return JobOutcome(error=f"{type(error).__name__}: {error}")
    return found


def _task(job: RemoteJob, overrides: list[str], number: int) -> JobOutcome:
    return job(overrides, number)
