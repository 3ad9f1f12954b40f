"""Whether the devices and processes that a run asks for are on this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from thawline.errors import usage_error
from thawline.runtime.cores import available_cores

if TYPE_CHECKING:
    import torch

    from thawline.planning.settings import RunSettings, TrainerSettings

_PER_CORE = 4
_FEWEST = 16


def device_of(settings: RunSettings) -> torch.device:
    """Where the run computes; of several devices, this process's."""
    import torch

    if settings.trainer.accelerator == "mps":
        return torch.device("mps")
    if settings.trainer.accelerator != "cpu" and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def require_devices(settings: RunSettings) -> None:
    """Raise `UsageError` where a run, or its source run, asks for more devices or processes than this machine has.

    On a CPU a device is a process, and there may be as many as cores. A run that a launcher sends to another machine
    is checked there.
    """
    _require(settings.trainer, "trainer")
    if settings.source is not None:
        _require(settings.source.trainer, "source.trainer")


def require_workers(workers: int) -> None:
    """Raise `UsageError` where a sweep asks for more runs side by side than this machine can do."""
    if not 1 <= workers <= _most_side_by_side():
        there = f"on this machine with {_cores()} between 1 and {_most_side_by_side()}"
        raise usage_error("hydra.launcher.workers", f"{workers}: {there}")


def _most_side_by_side() -> int:
    """How many processes that share the cores may be asked for: a few may wait for a disk while others compute."""
    return max(_FEWEST, _PER_CORE * available_cores())


def _require(trainer: TrainerSettings, field: str) -> None:
    if trainer.workers > _most_side_by_side():
        there = f"on this machine with {_cores()} at most {_most_side_by_side()}"
        raise usage_error(f"{field}.workers", f"{trainer.workers}: {there}")
    if trainer.devices == 1 and trainer.accelerator in ("auto", "cpu") and trainer.precision != "16-mixed":
        return  # which every machine has
    import torch

    if trainer.accelerator == "mps":
        if not torch.backends.mps.is_available():
            raise usage_error(f"{field}.accelerator", "mps: this machine has no Apple GPU that torch can use")
        if trainer.devices > 1:
            raise usage_error(f"{field}.devices", f"{trainer.devices}: an Apple machine has one GPU")
        return
    gpus = torch.cuda.device_count() if trainer.accelerator in ("auto", "gpu") else 0
    if trainer.accelerator == "gpu" and not gpus:
        raise usage_error(f"{field}.accelerator", "gpu: this machine has no GPU that torch can use")
    if not gpus and trainer.precision == "16-mixed":
        raise usage_error(f"{field}.precision", "16-mixed needs a GPU; on a CPU take bf16-mixed or 32-true")
    if gpus and trainer.devices > gpus:
        there = f"this machine has {gpus} GPU{'s' if gpus > 1 else ''} that torch can use"
        raise usage_error(f"{field}.devices", f"{trainer.devices}: {there}; trainer.accelerator=cpu takes processes")
    if not gpus and trainer.devices > available_cores():
        said = f"on a CPU each device is a process, and this one may use {_cores()}"
        raise usage_error(f"{field}.devices", f"{trainer.devices}: {said}")


def _cores() -> str:
    cores = available_cores()
    return f"{cores} core{'s' if cores > 1 else ''}"
