"""How much memory this process has taken."""

from __future__ import annotations

import resource
import sys


def peak_memory_bytes() -> int:
    """The peak of the GPU's allocations where one is used, else the peak of this process's resident memory."""
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
