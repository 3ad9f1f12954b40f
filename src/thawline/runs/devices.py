"""Whether the devices that a run asks for are on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thawline.errors import usage_error

if TYPE_CHECKING:
    from thawline.runs.settings import TrainerSettings


def require_devices(trainer: TrainerSettings) -> None:
    """Raise `UsageError` where a run would ask for a device that this machine does not have.

    On a CPU a device is a process, and there may be any number. A run that a launcher sends to another machine is
    checked there.
    """
    import torch

    if trainer.accelerator == "mps":
        if not torch.backends.mps.is_available():
            raise usage_error("trainer.accelerator", "mps: this machine has no Apple GPU that torch can use")
        if trainer.devices > 1:
            raise usage_error("trainer.devices", f"{trainer.devices}: an Apple machine has one GPU")
        return
    gpus = torch.cuda.device_count() if trainer.accelerator in ("auto", "gpu") else 0
    if trainer.accelerator == "gpu" and not gpus:
        raise usage_error("trainer.accelerator", "gpu: this machine has no GPU that torch can use")
    if gpus and trainer.devices > gpus:
        there = f"this machine has {gpus} GPU{'s' if gpus > 1 else ''} that torch can use"
        raise usage_error("trainer.devices", f"{trainer.devices}: {there}; trainer.accelerator=cpu takes processes")
