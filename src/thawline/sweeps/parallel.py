"""``hydra/launcher=parallel``: the runs of a sweep side by side on this machine, in warm worker processes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from thawline.records import read_record
from thawline.runs.plan import run_folder
from thawline.sweeps.progress import duration, first_line
from thawline.sweeps.remote import Outcome, RemoteJob, labels
from thawline.sweeps.workers import Finished, Workers, make_slots

if TYPE_CHECKING:
    from omegaconf import DictConfig

_WORKER_BYTES = 3 * 2**29
"""What one worker on the CPU takes of the memory before it has read any data."""


@dataclass(frozen=True)
class Places:
    """How many runs at a time: `per_gpu` on each GPU; on a CPU `workers` (None: one a core, as memory allows)."""

    workers: int | None = None
    per_gpu: int = 1


def run_side_by_side(job: RemoteJob, jobs: Sequence[Sequence[str]], places: Places, console: Console) -> list[Outcome]:
    """Run `jobs`, each a list of overrides; a line on the terminal for each that ends."""
    trainer, sweep = job.config.trainer, job.config.sweep
    gpus = visible_gpus(trainer.accelerator)
    slots = make_slots(
        len(jobs),
        workers=places.workers,
        per_gpu=places.per_gpu,
        gpus=gpus,
        gpus_per_job=trainer.devices,
        cores=_cores() if places.workers or gpus else min(_cores(), _fitting()),
    )
    names = labels(jobs)
    with _Lines(console, len(jobs), len(slots), shown=bool(trainer.progress)) as lines:

        def finished(done: Finished) -> bool:
            lines.finish(names[done.number], done, _note(job.config, done.outcome))
            return not (done.outcome.error and sweep.fail_fast)

        return Workers(job, slots, _log_folder(job.config, jobs)).run(jobs, finished)


def visible_gpus(accelerator: str) -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none for the CPU."""
    if accelerator not in ("auto", "gpu"):
        return []
    import torch

    number = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in named.split(",")][:number] if named else [str(index) for index in range(number)]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _fitting() -> int:
    """How many workers the free memory holds."""
    return max(1, int(psutil.virtual_memory().available // _WORKER_BYTES))


def _log_folder(config: DictConfig, jobs: Sequence[Sequence[str]]) -> Path:
    """The sweep's folder, which the sweeper's overrides name; for another sweeper, the folder of all outputs."""
    names = [override.removeprefix("sweep.name=") for override in jobs[0] if override.startswith("sweep.name=")]
    return Path(config.output_dir, "sweeps", names[-1]) if names else Path(config.output_dir, "workers")


def _note(config: DictConfig, outcome: Outcome) -> str:
    if outcome.error:
        return first_line(outcome.error)
    record = read_record(run_folder(Path(config.output_dir), str(outcome.value)))
    top1 = record.metrics["test"].get("top1") if record is not None else None
    return f"test top1 {top1:.3f}" if top1 is not None else ""


class _Lines:
    """What has ended, how many run, and about how long the rest takes: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, total: int, workers: int, *, shown: bool) -> None:
        self._console, self._total, self._workers = console, total, workers
        self._done = self._failed = 0
        self._began = time.monotonic()
        columns = (
            SpinnerColumn(), TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        self._live = shown and console.is_terminal
        self._progress = Progress(*columns, console=console, disable=not self._live, transient=True)
        self._task = self._progress.add_task("runs", total=total, note=f"{workers} at a time")

    def __enter__(self) -> _Lines:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def finish(self, label: str, done: Finished, note: str) -> None:
        """Show that a job is over."""
        failed = bool(done.outcome.error)
        self._failed += failed
        self._done += not failed
        ended = self._done + self._failed
        if failed or not self._live:
            style = "[red]failed[/]" if failed else "done"
            self._console.print(
                f"[{ended}/{self._total}] {style} {escape(label)}  {escape(note)}", highlight=False, soft_wrap=True
            )
        left = self._total - ended
        seconds = (time.monotonic() - self._began) / ended * left
        parts = [f"{self._workers} at a time"]
        parts += [f"{self._failed} failed"] if self._failed else []
        parts += [f"about {duration(seconds)} left"] if left else []
        self._progress.update(self._task, advance=1, note=", ".join(parts))
