"""The device of these tests: the GPU where there is one; elsewhere the CPU, on which the same tests are slow ones."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import TINY

HAS_GPU = torch.cuda.is_available()
ACCELERATOR = "gpu" if HAS_GPU else "cpu"
MARK = pytest.mark.gpu if HAS_GPU else pytest.mark.slow
SETTING = tuple(item for item in TINY if not item.startswith("trainer.accelerator"))
HALF = "16-mixed" if HAS_GPU else "bf16-mixed"
"""The mixed precision that has most to remember: the one with a scaler, which a CPU does not have."""
