"""What the terminal shows of jobs that run elsewhere: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from thawline.errors import first_line
from thawline.records import read_record, run_folder
from thawline.runtime.signals import Interrupted
from thawline.sweeps.progress import duration, result_in_words
from thawline.sweeps.remote import JobOutcome, labels

if TYPE_CHECKING:
    from omegaconf import DictConfig


class Lines:
    """Which jobs have ended and how, and about how long the rest takes.

    Args:
        console: the terminal.
        config: the multirun's configuration.
        jobs: the overrides of each job.
        note: what to say of the place where they run.
    """

    def __init__(self, console: Console, config: DictConfig, jobs: Sequence[Sequence[str]], note: str) -> None:
        self._console, self._config, self._labels, self._where = console, config, labels(jobs), note
        self._done = self._failed = 0
        self._began = time.monotonic()
        columns = (
            SpinnerColumn(), TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        self._live = bool(config.trainer.progress) and console.is_terminal
        self._progress = Progress(*columns, console=console, disable=not self._live, transient=True)
        self._task = self._progress.add_task("runs", total=len(jobs), note=note)

    def __enter__(self) -> Lines:
        self._progress.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._progress.stop()
        if isinstance(error, Interrupted):
            error.saved = f"{self._done} of {len(self._labels)} runs done, those under way saved at their last epoch"

    def finish(self, number: int, outcome: JobOutcome) -> None:
        """Show that a job is over."""
        failed = bool(outcome.error)
        self._failed += failed
        self._done += not failed
        ended, total = self._done + self._failed, len(self._labels)
        if failed or not self._live:
            style = "[red]failed[/]" if failed else "done"
            line = f"[{ended}/{total}] {style} {escape(self._labels[number])}  {escape(self._note(outcome))}"
            self._console.print(line, highlight=False, soft_wrap=True)
        left = total - ended
        seconds = (time.monotonic() - self._began) / ended * left
        parts = [self._where]
        parts += [f"{self._failed} failed"] if self._failed else []
        parts += [f"about {duration(seconds)} left"] if left else []
        self._progress.update(self._task, advance=1, note=", ".join(parts))

    def say(self, text: str) -> None:
        """Show a line."""
        self._console.print(escape(text), highlight=False, soft_wrap=True)

    def _note(self, outcome: JobOutcome) -> str:
        if outcome.error:
            return first_line(outcome.error)
        record = read_record(run_folder(Path(self._config.output_dir), str(outcome.value)))
        return result_in_words(record) if record is not None else ""


def sweep_folder(config: DictConfig, jobs: Sequence[Sequence[str]]) -> Path:
    """The sweep's folder, which the sweeper's overrides name; for another sweeper, one beside the sweeps."""
    names = [override.removeprefix("sweep.name=") for override in jobs[0] if override.startswith("sweep.name=")]
    return Path(config.output_dir, "sweeps", names[-1]) if names else Path(config.output_dir, "launched")
