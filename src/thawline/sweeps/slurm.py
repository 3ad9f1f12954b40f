"""``hydra/launcher=slurm``: the runs of a sweep as one SLURM job array, submitted by submitit.

What submitit leaves open is done here. The end of a task is seen in the queue itself: ``sacct``, which submitit asks,
needs an accounting database, and without one a killed task would be waited for for ever. A task that is preempted, or
that reaches its time limit, saves its run and is put back in the queue. A task that is lost is submitted again. A
command that was ended finds the tasks that it left in the queue.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from thawline.errors import usage_error
from thawline.files import read_json, write_json
from thawline.runtime import signals
from thawline.sweeps.executor import Executor, run_remote_jobs
from thawline.sweeps.lines import Lines, sweep_folder
from thawline.sweeps.remote import JobOutcome, RemoteJob

_TASKS_FILE = "tasks.json"
_GONE_POLLS = 2
"""How often a task must be missing from the queue before it is lost: its last file may still be on its way."""
_LARGEST_ARRAY = 1000
"""Tasks in one array; SLURM's own limit (MaxArraySize) is 1001 unless the cluster says otherwise."""
_ALIVE = frozenset(
    {
        "PENDING", "RUNNING", "SUSPENDED", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
        "SPECIAL_EXIT", "RESIZING", "STOPPED", "SIGNALING", "STAGE_OUT", "RESV_DEL_HOLD",
    }
)  # fmt: skip
_GENERAL = ("nodes", "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "stderr_to_stdout")


@dataclass(frozen=True)
class Cluster:
    """How tasks are submitted: `sbatch` holds submitit's parameters, without the prefix ``slurm_``.

    `resubmit` is how often a lost task is submitted again, `max_num_timeout` how often a task may reach its time limit
    and go on in a new one, `poll_seconds` how often the queue is looked at.
    """

    sbatch: dict[str, Any] = field(default_factory=dict)
    max_num_timeout: int = 10
    resubmit: int = 1
    poll_seconds: float = 10.0


@dataclass(frozen=True)
class SlurmTask:
    """One job of the array, as submitit pickles it."""

    job: RemoteJob
    folder: Path

    def __call__(self, overrides: Sequence[str], number: int, token: str) -> None:
        """Run the job and leave its outcome in a file named by `token`: all that the submitting command reads."""
        import submitit

        environment = submitit.JobEnvironment()
        with signals.listening(), _told_by_slurm() as requeue:
            try:
                outcome = self.job(overrides, number)
            except signals.Interrupted as interruption:
                if interruption.number == signal.SIGUSR1 or _state_of(environment.job_id) == "RUNNING":
                    requeue()
                raise
        write_json(_outcome_file(self.folder, token), asdict(outcome))

    def checkpoint(self, *arguments: Any) -> Any:
        """What runs when the task starts again: the same; the run goes on from its own checkpoint."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, *arguments)


def run_on_slurm(job: RemoteJob, jobs: Sequence[Sequence[str]], cluster: Cluster, console: Console) -> list[JobOutcome]:
    """Run `jobs`, each a list of overrides, as tasks of SLURM, and wait for them.

    Raises:
        UsageError: submitit or SLURM is not there, or sbatch does not know a parameter.
    """
    folder = Path.cwd() / sweep_folder(job.config, jobs) / "slurm"
    with Lines(console, job.config, jobs, "on SLURM") as lines:
        return run_remote_jobs(_Array(job, jobs, cluster, folder, lines), job, jobs, lines)


@dataclass
class _Task:
    """A task in the queue: which job it runs, the name of its outcome's file, and how often it was not to be seen."""

    number: int
    token: str
    missed: int = 0


class _Array(Executor[JobOutcome]):
    """The tasks of one sweep, and what is known of each."""

    def __init__(
        self, job: RemoteJob, jobs: Sequence[Sequence[str]], cluster: Cluster, folder: Path, lines: Lines
    ) -> None:
        self._job, self._jobs, self._cluster, self._folder, self._lines = job, jobs, cluster, folder, lines
        self._tasks: dict[str, _Task] = {}
        self._submissions = [0] * len(jobs)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._say_goodbye()
        else:
            (self._folder / _TASKS_FILE).unlink(missing_ok=True)

    @property
    def is_busy(self) -> bool:
        """Whether there are tasks in the queue."""
        return bool(self._tasks)

    def submit(self, numbers: Sequence[int]) -> None:
        """Submit what is not in the queue already."""
        self._adopt()
        there = {task.number for task in self._tasks.values()}
        self._submit([number for number in numbers if number not in there])

    def poll(self) -> Iterator[tuple[int, JobOutcome]]:
        """What has ended since the last time; then it waits until the queue may be asked again."""
        yield from self._look()
        if self._tasks:
            time.sleep(self._cluster.poll_seconds)

    def cancel(self) -> None:
        """End all tasks that are in the queue, and submit none again."""
        _cancel(self._tasks)
        self._cluster = replace(self._cluster, resubmit=-1)

    def _adopt(self) -> None:
        """Take over the tasks that an earlier command has left in the queue."""
        try:
            known: dict[str, Any] = read_json(self._folder / _TASKS_FILE)
        except (OSError, ValueError):
            return
        states = _states(known)
        by_overrides = {tuple(overrides): number for number, overrides in enumerate(self._jobs)}
        for task, (token, overrides) in known.items():
            number = by_overrides.get(tuple(overrides))
            if number is not None and (states is None or states.get(task) in _ALIVE):
                self._tasks[task] = _Task(number, token)
        if self._tasks:
            self._lines.say(f"{len(self._tasks)} tasks of an earlier command are in the queue")

    def _submit(self, numbers: Sequence[int]) -> None:
        for start in range(0, len(numbers), _LARGEST_ARRAY):
            chosen = numbers[start : start + _LARGEST_ARRAY]
            executor = _executor(self._folder, self._cluster)
            overrides = [list(self._jobs[number]) for number in chosen]
            tokens = [uuid.uuid4().hex for _ in chosen]
            submitted = executor.map_array(SlurmTask(self._job, self._folder), overrides, chosen, tokens)
            for task, number, token in zip(submitted, chosen, tokens, strict=True):
                self._tasks[task.job_id] = _Task(number, token)
                self._submissions[number] += 1
        left = {name: [task.token, list(self._jobs[task.number])] for name, task in self._tasks.items()}
        write_json(self._folder / _TASKS_FILE, left)

    def _look(self) -> Iterator[tuple[int, JobOutcome]]:
        states = _states(self._tasks)
        lost = []
        for name, task in list(self._tasks.items()):
            outcome = _outcome(self._folder, task.token)
            if outcome is None:
                # A task that nobody can be asked about is neither lost nor there.
                gone = states is not None and states.get(name) not in _ALIVE
                task.missed = task.missed + 1 if gone else 0
                if task.missed < _GONE_POLLS:
                    continue
            del self._tasks[name]
            if outcome is None and self._submissions[task.number] <= self._cluster.resubmit:
                lost.append(task.number)
            else:
                yield task.number, outcome or self._lost(name)
        if lost:
            self._lines.say(f"{len(lost)} lost tasks are submitted again")
            self._submit(lost)

    def _lost(self, name: str) -> JobOutcome:
        logs = sorted(self._folder.glob(f"{name}/*.err"))
        return JobOutcome(error=f"task {name} ended without an outcome" + (f" (log: {logs[0]})" if logs else ""))

    def _say_goodbye(self) -> None:
        if self._tasks:
            self._lines.say(
                f"{len(self._tasks)} tasks stay in the queue; the same command waits for them again, "
                f"and scancel {' '.join(_arrays(self._tasks))} ends them"
            )


def _executor(folder: Path, cluster: Cluster) -> Any:
    try:
        import submitit
    except ModuleNotFoundError:
        raise usage_error("hydra/launcher", "slurm needs submitit: pip install 'thawline[slurm]'") from None
    parameters = {
        key if key in _GENERAL else f"slurm_{key}": value for key, value in cluster.sbatch.items() if value is not None
    }
    try:
        executor = submitit.AutoExecutor(
            folder=folder / "%j", cluster="slurm", slurm_max_num_timeout=cluster.max_num_timeout
        )
        executor.update_parameters(**parameters)
    except (RuntimeError, ValueError, NameError, TypeError) as error:
        raise usage_error("hydra.launcher", f"SLURM: {error}") from error
    return executor


@contextlib.contextmanager
def _told_by_slurm() -> Iterator[Any]:
    """Within the block submitit's signal stops the run as SIGUSR1 does; gives what then puts the task back."""
    from submitit.core.job_environment import JobEnvironment

    number = JobEnvironment._usr_sig()
    handler = signal.getsignal(number)

    def pass_on(_number: int, _frame: FrameType | None) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)

    def requeue() -> None:
        if callable(handler):
            handler(number, None)

    signal.signal(number, pass_on)
    try:
        yield requeue
    finally:
        signal.signal(number, handler)


def _outcome_file(folder: Path, token: str) -> Path:
    return folder / "outcomes" / f"{token}.json"


def _outcome(folder: Path, token: str) -> JobOutcome | None:
    try:
        return JobOutcome(**read_json(_outcome_file(folder, token)))
    except (OSError, ValueError):
        return None


def _arrays(tasks: Iterable[str]) -> list[str]:
    return sorted({task.partition("_")[0] for task in tasks})


def _state_of(task: str) -> str:
    return (_states([task]) or {}).get(task, "")


def _states(tasks: Iterable[str]) -> dict[str, str] | None:
    """The states of the tasks that are in the queue; None where the queue cannot be asked now."""
    command = ["squeue", "--noheader", "--array", "--format=%i %T", f"--jobs={','.join(_arrays(tasks))}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    return {task: state for task, _, state in (line.strip().partition(" ") for line in done.stdout.splitlines())}


def _cancel(tasks: Collection[str]) -> None:
    if tasks:
        subprocess.run(["scancel", *tasks], capture_output=True, timeout=120, check=False)
