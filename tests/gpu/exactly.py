"""`tests.stopping.StopAt` for a process whose GPU computes the same bits each time, which torch must be told."""

from __future__ import annotations

import torch

from tests.stopping import STOPPING as ANYHOW
from tests.stopping import StopAt

__all__ = ["STOPPING", "StopAt"]

STOPPING = tuple(item.replace("tests.stopping", "tests.gpu.exactly") for item in ANYHOW)


def compute_exactly() -> None:
    """The same bits each time, and float32 products in float32."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.allow_tf32 = False


compute_exactly()
