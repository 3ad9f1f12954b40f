"""Worker processes of this machine: each stays warm and takes the next job; one that dies costs only its job."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Self

from thawline.runtime.processes import end_with_parent
from thawline.runtime.streams import show_everything
from thawline.sweeps.executor import Executor
from thawline.sweeps.remote import JobOutcome, RemoteJob

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

STOP_SECONDS = 30.0
"""How long a worker that is told to stop may take to save its run."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkersFailed(RuntimeError):
    """Workers die before they have done anything."""


@dataclass(frozen=True)
class Slot:
    """A place for one worker: what its environment has beside this process's."""

    number: int
    environment: Mapping[str, str]


def make_slots(
    jobs: int, *, workers: int | None, per_gpu: int, gpus: Sequence[str], gpus_per_job: int, cores: int
) -> list[Slot]:
    """The places for workers: on GPUs, `per_gpu` for each (a job on several GPUs takes as many), else on CPU cores.

    Args:
        jobs: how many jobs there are; more places than that are of no use.
        workers: at most so many; None: every GPU, or every core.
        per_gpu: workers that share a GPU.
        gpus: the visible devices, as CUDA_VISIBLE_DEVICES names them; empty for the CPU.
        gpus_per_job: devices that one job takes.
        cores: cores of the CPU, shared evenly by the workers as their threads.
    """
    visible = [",".join(gpus[start : start + gpus_per_job]) for start in range(0, len(gpus), gpus_per_job)]
    visible = [devices for devices in visible if devices.count(",") == gpus_per_job - 1] * per_gpu
    number = min(jobs, workers or len(visible) or cores, len(visible) or jobs)
    threads = str(max(1, cores // number))
    environments: list[dict[str, str]] = [
        {name: threads for name in _THREADS if name not in os.environ} for _ in range(number)
    ]
    for environment, devices in zip(environments, visible, strict=False):
        environment["CUDA_VISIBLE_DEVICES"] = devices
    return [Slot(index, environment) for index, environment in enumerate(environments)]


@dataclass
class _Worker:
    slot: Slot
    process: SpawnProcess
    connection: Connection
    log: Path
    job: int = -1
    finished: int = 0

    @property
    def is_busy(self) -> bool:
        return self.job >= 0


@dataclass
class Workers(Executor[JobOutcome]):
    """Runs `jobs`, each a list of overrides, in worker processes, one in each of `slots`; their output is in `folder`.

    Polling raises `WorkersFailed` where workers die one after the other and no job gets done.
    """

    job: RemoteJob
    jobs: Sequence[Sequence[str]]
    slots: Sequence[Slot]
    folder: Path
    _pending: deque[int] = field(default_factory=deque)
    _running: list[_Worker] = field(default_factory=list)
    _fruitless: int = 0

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for slot in self.slots:
                self._running.append(self._start(slot))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @property
    def is_busy(self) -> bool:
        """Whether there are jobs that have not ended."""
        return bool(self._pending) or any(worker.is_busy for worker in self._running)

    def submit(self, numbers: Sequence[int]) -> None:
        """Hand jobs to the workers as these become free."""
        self._pending.extend(numbers)
        self._hand_out()

    def poll(self) -> Iterator[tuple[int, JobOutcome]]:
        """The jobs that have ended, when at least one has."""
        yield from self._wait()
        self._hand_out()

    def cancel(self) -> None:
        """Start none of the jobs that are left; those under way run to their end."""
        self._pending.clear()

    def _hand_out(self) -> None:
        for place, worker in enumerate(self._running):
            if self._pending and not worker.is_busy:
                if not worker.process.is_alive():
                    worker = self._running[place] = self._start(worker.slot)
                worker.job = self._pending.popleft()
                with contextlib.suppress(OSError):  # it has just died; `_wait` finds out
                    worker.connection.send((list(self.jobs[worker.job]), worker.job))

    def _wait(self) -> Iterator[tuple[int, JobOutcome]]:
        busy = {worker.connection: worker for worker in self._running if worker.is_busy}
        for ready in wait(list(busy)):
            worker = busy[ready]  # type: ignore[index]  # only connections were asked for
            outcome = self._received(worker)
            number, worker.job = worker.job, -1
            yield number, outcome

    def _received(self, worker: _Worker) -> JobOutcome:
        try:
            outcome: JobOutcome = worker.connection.recv()
        except (EOFError, OSError):
            return self._died(worker)
        worker.finished += 1
        self._fruitless = 0
        return outcome

    def _died(self, worker: _Worker) -> JobOutcome:
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        self._fruitless += not worker.finished
        if self._fruitless > len(self.slots) + 2:
            last = f"the last {how}): {_last_line(worker.log)}"
            raise WorkersFailed(f"workers die before they have done anything ({last}")
        return JobOutcome(error=f"its worker {how} (log: {worker.log})")

    def _start(self, slot: Slot) -> _Worker:
        # A fresh interpreter: torch and CUDA do not survive a fork.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        log = self.folder / f"worker-{slot.number}.log"
        arguments = (theirs, self.job, log, os.getpid())
        process = context.Process(target=_work, args=arguments, name=f"thawline worker {slot.number}")
        with _environment(slot.environment):
            process.start()
        theirs.close()
        return _Worker(slot, process, ours, log)

    def _stop(self) -> None:
        """Let idle workers go, interrupt busy ones, and end those that do not stop."""
        for worker in self._running:
            worker.connection.close()
            if worker.is_busy:
                worker.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for worker in self._running:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._running = []


def _work(connection: Connection, job: RemoteJob, log: Path, parent: int) -> None:
    """The life of a worker: a job, an outcome, the next job, until the connection ends."""
    end_with_parent(parent, ask=STOP_SECONDS)
    # A Ctrl-C at the terminal reaches the sweep alone, which then tells its workers to stop: once, not twice.
    os.setsid()
    with log.open("ab", buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # the interpreter's own
    show_everything()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            overrides, number = connection.recv()
            connection.send(job(overrides, number))


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Within the block this process's environment has `values`: a library reads them when it is first imported."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="backslashreplace").strip().splitlines() if log.exists() else []
    return f"{lines[-1] if lines else 'no output'} (log: {log})"
