"""The device, told to compute the same bits each time, and runs on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from PIL import Image

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


@pytest.fixture
def whole_batches(tmp_path):
    """Images whose splits are whole batches of 16: a GPU chooses its kernels, and so last bits, by the batch's size."""
    noise = np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 8), ("test", 8)):
        for label in range(2):
            folder = tmp_path / "images" / part / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = noise.integers(0, 200, (32, 32, 3)) + 50 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    fit = tuple(item for item in SETTING if not item.startswith("dataset"))
    return (*fit, "dataset=image_folder", "dataset.root=images", "trainer.eval_batch_size=16")
