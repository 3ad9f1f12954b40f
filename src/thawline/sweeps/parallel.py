"""``hydra/launcher=parallel``: the runs of a sweep side by side on this machine, in warm worker processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
from rich.console import Console

from thawline.runtime.cores import available_cores
from thawline.sweeps.executor import run_remote_jobs
from thawline.sweeps.lines import Lines, sweep_folder
from thawline.sweeps.remote import JobOutcome, RemoteJob
from thawline.sweeps.workers import Workers, make_slots

_WORKER_BYTES = 3 * 2**29
"""What one worker on the CPU takes of the memory before it has read any data."""


@dataclass(frozen=True)
class Places:
    """How many runs at a time: `per_gpu` on each GPU; on a CPU `workers` (None: one a core, as memory allows)."""

    workers: int | None = None
    per_gpu: int = 1


def run_side_by_side(
    job: RemoteJob, jobs: Sequence[Sequence[str]], places: Places, console: Console
) -> list[JobOutcome]:
    """Run `jobs`, each a list of overrides; a line on the terminal for each that ends."""
    trainer = job.config.trainer
    gpus = visible_gpus(trainer.accelerator)
    slots = make_slots(
        len(jobs),
        workers=places.workers,
        per_gpu=places.per_gpu,
        gpus=gpus,
        gpus_per_job=trainer.devices,
        cores=available_cores() if places.workers or gpus else min(available_cores(), _fitting()),
    )
    with Lines(console, job.config, jobs, f"{len(slots)} at a time") as lines:
        return run_remote_jobs(Workers(job, jobs, slots, sweep_folder(job.config, jobs)), job, jobs, lines)


def visible_gpus(accelerator: str) -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none for the CPU."""
    if accelerator not in ("auto", "gpu"):
        return []
    import torch

    number = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in named.split(",")][:number] if named else [str(index) for index in range(number)]


def _fitting() -> int:
    """How many workers the free memory holds."""
    return max(1, int(psutil.virtual_memory().available // _WORKER_BYTES))
