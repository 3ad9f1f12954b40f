"""How much memory this process has taken, and what happens to what it frees."""

from __future__ import annotations

import ctypes
import gc
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt(3)
_NEVER = 2**31 - 1
_TOP_PAD_BYTES = 64 << 20
_COLLECTING = gc.get_threshold()
_MOST_IMPORTED = 5_000_000


def begin_peak() -> None:
    """Let the peak of the GPU's allocations count from now on; that of resident memory is the process's."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_bytes(device: torch.device) -> int:
    """The peak of the allocations on `device` if it is a GPU, else that of this process's resident memory."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next step; False where the C library is another one.

    It gives every large block back to the system when it is freed, and a training step on a CPU takes the same blocks
    again: the page faults can cost as much as the arithmetic. Kept memory counts in the process's peak, which grows
    by a few per cent of what the steps take, for blocks of many sizes share it.

    Source: mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _TOP_PAD_BYTES))
    return all(ctypes.CDLL(None).mallopt(name, value) for name, value in settings)


@contextmanager
def collecting_in_runs_only() -> Iterator[None]:
    """Within the block Python looks for garbage in `freeing` alone, or where five million objects are made outside it.

    Importing torch, timm and Lightning makes a million objects that stay. To look through them all again and again
    takes a fifth of the CPU seconds in which a command starts.
    """
    before = gc.get_threshold()
    gc.set_threshold(_MOST_IMPORTED, *_COLLECTING[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def freeing() -> Iterator[None]:
    """Free what a run leaves behind as it ends: its model, gradients and trainer hold one another.

    Only what was made within is looked at, so this costs next to nothing; `malloc_trim(3)` gives the memory back.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*_COLLECTING)
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()
        gc.set_threshold(*before)
        if platform.libc_ver()[0] == "glibc":
            ctypes.CDLL(None).malloc_trim(0)


def free_what_earlier_runs_made() -> None:
    """Free a network of earlier runs that has just been let go: it and its graphs hold one another.

    This looks through everything, imported libraries too, which takes some tenths of a second. A GPU's memory goes back
    to the GPU, where other processes may want it.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
