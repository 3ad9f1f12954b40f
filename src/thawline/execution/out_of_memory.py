"""A run that needs more memory than its device has: one message that names what decides how much."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
from pytorch_lightning.utilities.memory import is_oom_error

from thawline.freeze_policies import LastK
from thawline.planning.context import RunContext
from thawline.planning.settings import RunSettings
from thawline.planning.statements import in_words


class OutOfMemory(RuntimeError):
    """A run needs more memory than its device has."""


@contextmanager
def naming_what_does_not_fit(run: RunContext) -> Iterator[None]:
    """Within the block, whatever a library says of memory that is not there becomes an `OutOfMemory`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_of_memory(error):
            raise
        raise OutOfMemory(_message(run)) from error


def is_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, of the device or of the machine."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return all(isinstance(argument, str) for argument in error.args) and is_oom_error(error)


def _message(run: RunContext) -> str:
    trainer, (height, width) = run.settings.trainer, run.plan.transform.output_size
    batches = f"trainer.batch_size={trainer.batch_size} (trainer.eval_batch_size={trainer.eval_batch_size})"
    need = f"{batches} at {height} x {width} px with {_depth(run.settings)}"
    return f"{_device(run.device)} is too small for {need}; smaller batches, or less that trains, need less"


def _depth(settings: RunSettings) -> str:
    policy = settings.freeze_policy
    if isinstance(policy, LastK) and policy.k is not None:
        return f"freeze_policy.k={policy.k}"
    return f"freeze_policy {in_words(policy)}"


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return f"the memory of {device} ({found.name}, {found.total_memory / 2**30:.0f} GiB)"
    return f"the memory of this machine ({psutil.virtual_memory().total / 2**30:.0f} GiB)"
