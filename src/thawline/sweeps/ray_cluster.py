"""``hydra/launcher=ray``: the runs of a sweep as tasks of a Ray cluster, or of a Ray that is started on this machine.

Ray runs a task again whose worker died. That is welcome: the run's ledger counts the attempt, and it goes on from its
last checkpoint in the same folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from thawline.errors import usage_error
from thawline.sweeps.lines import Lines
from thawline.sweeps.remote import Outcome, RemoteJob


@dataclass(frozen=True)
class RayCluster:
    """How Ray is reached (arguments of ``ray.init``) and what a task takes (arguments of ``ray.remote``)."""

    init: dict[str, Any] = field(default_factory=dict)
    remote: dict[str, Any] = field(default_factory=dict)


def run_on_ray(job: RemoteJob, jobs: Sequence[Sequence[str]], cluster: RayCluster, console: Console) -> list[Outcome]:
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
            return _run(ray, job, jobs, cluster, lines)
    finally:
        if started:
            ray.shutdown()


def _run(ray: Any, job: RemoteJob, jobs: Sequence[Sequence[str]], cluster: RayCluster, lines: Lines) -> list[Outcome]:
    task = ray.remote(**cluster.remote)(_task) if cluster.remote else ray.remote(_task)
    shared = ray.put(job)
    outcomes = [Outcome(error="not started")] * len(jobs)
    left = {task.remote(shared, list(overrides), number): number for number, overrides in enumerate(jobs)}
    try:
        while left:
            (ready,), _ = ray.wait(list(left), num_returns=1)
            number = left.pop(ready)
            outcomes[number] = _outcome(ray, ready)
            lines.finish(number, outcomes[number])
            if outcomes[number].error and job.config.sweep.fail_fast:
                break
    finally:
        # Of what is left, a task in progress is interrupted and saves its run, as by Ctrl-C.
        for reference in left:
            ray.cancel(reference)
    return outcomes


def _outcome(ray: Any, reference: Any) -> Outcome:
    try:
        found: Outcome = ray.get(reference)
    except ray.exceptions.RayError as error:
        return Outcome(error=f"{type(error).__name__}: {error}")
    return found


def _task(job: RemoteJob, overrides: list[str], number: int) -> Outcome:
    return job(overrides, number)
