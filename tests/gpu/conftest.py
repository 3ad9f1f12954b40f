"""The device, told to compute the same bits each time, and runs on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
import torch

from tests.conftest import records
from tests.gpu.device import ACCELERATOR, HAS_GPU, SETTING
from thawline.records import Record, load_record

# cuBLAS reads it when a process first multiplies.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture
def device() -> str:
    """`trainer.accelerator`."""
    return ACCELERATOR


@pytest.fixture(autouse=True)
def _exactly() -> Iterator[None]:
    deterministic, tf32 = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32
    if HAS_GPU:
        from tests.gpu.exactly import compute_exactly

        compute_exactly()
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.allow_tf32 = tf32


@pytest.fixture
def run(thawline, device) -> Callable[..., Record]:
    """Train one configuration in a folder of its own, on the device unless `on` says where; returns its record."""

    def one(*overrides: str, place: str = "outputs", on: str = device, setting: tuple[str, ...] = SETTING) -> Record:
        before = set(records(place))
        where = (f"trainer.accelerator={on}", f"output_dir={place}", f"cache.dir={place}/cache")
        result = thawline("train", *setting, *where, *overrides)
        assert result.status == 0, result.err
        new = set(records(place)) - before
        # A source run has left its model.
        (found,) = [folder for folder in new if not (folder / "model.safetensors").exists()]
        return load_record(found)

    return one
