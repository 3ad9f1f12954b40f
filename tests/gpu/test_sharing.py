"""Several runs on one device give what one after the other gives, and more devices than there are, are refused."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import records
from tests.gpu.device import HAS_GPU, MARK, SETTING
from thawline.records import load_record
from thawline.runtime.cores import available_cores

pytestmark = MARK


def test_two_processes_share_a_device(zygote, tmp_path, device):
    grid = (
        "-m",
        *SETTING,
        f"trainer.accelerator={device}",
        "freeze_policy.k=1,2",
        "seed=0",
        "trainer.threads=1",
        "sweep.report=false",
    )
    places = [tmp_path / name for name in ("local", "parallel")]
    for place in places:
        place.mkdir()
    assert zygote.run("train", *grid, folder=places[0]).wait() == 0
    share = "hydra.launcher.per_gpu=2" if HAS_GPU else "hydra.launcher.workers=2"
    done = zygote.run("train", *grid, "hydra/launcher=parallel", share, folder=places[1])
    assert done.wait() == 0, done.err
    local, parallel = ({folder.name: load_record(folder) for folder in records(str(p / "outputs"))} for p in places)
    assert local.keys() == parallel.keys()
    for identity, record in local.items():
        for row, other in zip(record.history, parallel[identity].history, strict=True):
            for name in ("train/loss", "val/loss"):
                assert other[name] == pytest.approx(row[name], rel=1e-3 if HAS_GPU else 0.0), name


def test_more_devices_than_there_are_are_refused(thawline, device):
    there = torch.cuda.device_count() if HAS_GPU else available_cores()
    done = thawline("train", *SETTING, f"trainer.accelerator={device}", f"trainer.devices={there + 1}")
    assert done.status == 2
    assert f"trainer.devices: {there + 1}: " in done.err
    assert not records()
