"""What runs the jobs of a sweep, here or elsewhere, and the one loop that waits for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Generic, Self, TypeVar

from thawline.sweeps.lines import Lines
from thawline.sweeps.remote import JobOutcome, RemoteJob

Result = TypeVar("Result")


class Executor(ABC, Generic[Result]):
    """Runs jobs, which are known by their numbers. It is entered before the first job and left after the last."""

    def __enter__(self) -> Self:
        """Make ready to run jobs."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what still runs, or say how it goes on."""
        self.cancel()

    @property
    @abstractmethod
    def is_busy(self) -> bool:
        """Whether there are jobs that have not ended."""

    @abstractmethod
    def submit(self, numbers: Sequence[int]) -> None:
        """Take jobs on."""

    @abstractmethod
    def poll(self) -> Iterable[tuple[int, Result]]:
        """The jobs that have ended, with their results. It waits for one, or for a while where it has to ask."""

    @abstractmethod
    def cancel(self) -> None:
        """Start none of the jobs that have not started; what is under way ends as the executor can end it."""


def run_jobs(
    executor: Executor[Result], numbers: Sequence[int], finished: Callable[[int, Result], bool], *, fail_fast: bool
) -> None:
    """Run jobs to their end.

    Args:
        executor: runs them.
        numbers: of the jobs.
        finished: is given the number and the result of each job as it ends, and says whether the job succeeded.
        fail_fast: whether the first failure cancels the others.
    """
    with executor:
        executor.submit(numbers)
        while executor.is_busy:
            for number, result in executor.poll():
                if not finished(number, result) and fail_fast:
                    executor.cancel()


def run_remote_jobs(
    executor: Executor[JobOutcome], job: RemoteJob, jobs: Sequence[Sequence[str]], lines: Lines
) -> list[JobOutcome]:
    """Run `jobs`, each a list of overrides, and return their outcomes in the same order; a line for each that ends."""
    outcomes = [JobOutcome(error="not started")] * len(jobs)

    def finished(number: int, outcome: JobOutcome) -> bool:
        outcomes[number] = outcome
        lines.finish(number, outcome)
        return not outcome.error

    run_jobs(executor, range(len(jobs)), finished, fail_fast=bool(job.config.sweep.fail_fast))
    return outcomes
