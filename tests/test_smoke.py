"""One sweep through all that other libraries give: three kinds of networks, adapters, trackers, launchers, report.

`make smoke-lowest` runs this with the lowest versions that pyproject.toml allows.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY, records
from thawline.records import load_record

pytestmark = pytest.mark.slow
SWEEP = (
    "-m",
    *(override for override in TINY if not override.startswith(("backbone=", "logger="))),
    "sweep.name=smoke",
)
NETWORKS = ("test_vit", "test_convnext", "test_resnet")


def networks(wanted: str) -> list[str]:
    return sorted(load_record(folder).config["backbone"]["name"] for folder in records() if folder.match(wanted))


def test_a_sweep_over_three_kinds_of_networks_fills_wandb_and_the_report(thawline):
    done = thawline("train", *SWEEP, f"backbone={','.join(NETWORKS)}", "freeze_policy.k=0,1", "logger=wandb")
    assert (done.status, "logger" in done.err) == (0, False), done.err
    assert networks("*") == sorted(2 * NETWORKS)
    for folder in records():
        (log,) = folder.glob("wandb/offline-run-*/*.wandb")
        assert folder.name.encode() in log.read_bytes()
    report = Path("outputs/sweeps/smoke/report")
    with (report / "runs.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 6
    assert (report / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert (report / "figure.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("backbone", ["test_vit", "torchvision backbone.name=resnet18 backbone.weights=null"])
def test_a_command_of_its_own_where_nothing_has_been_imported(backbone, adapter):
    """Libraries are imported in the order in which the program comes to them."""
    arguments = [*SWEEP[1:], f"backbone={backbone.partition(' ')[0]}", *backbone.split()[1:]]
    done = subprocess.run(
        [sys.executable, "-m", "thawline", "train", *arguments, "logger=none", f"adapter={adapter}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(records()) == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_lora_and_tensorboard_curves(train, name):
    pytest.importorskip("peft")
    pytest.importorskip("tensorboard")
    record = train(f"backbone={name}", "adapter=lora", "freeze_policy=linear_probe", "logger=tensorboard")
    assert record.parameters.trainable > 0
    (folder,) = records()
    (events,) = folder.rglob("events.out.tfevents.*")
    assert b"val" in events.read_bytes()


def test_a_sweep_on_ray(thawline, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray = ("hydra/launcher=ray", "hydra.launcher.init.num_cpus=1", "+hydra.launcher.init.include_dashboard=false")
    done = thawline("train", *SWEEP, "logger=none", "backbone=test_vit,test_resnet", *ray)
    assert done.status == 0, done.err
    assert networks("*") == ["test_resnet", "test_vit"]


# A cluster that starts the two tasks of its only array one after the other.
SLURM = {
    "sbatch": """
        export SLURM_ARRAY_JOB_ID=7 SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
        for task in 0 1; do SLURM_ARRAY_TASK_ID=$task SLURM_JOB_ID=7_$task bash "$1"; done > sbatch.log 2>&1 &
        echo Submitted batch job 7
    """,
    "srun": """
        while [[ $1 == --* ]]; do if [[ $1 == --unbuffered ]]; then shift; else shift 2; fi; done
        exec "$@"
    """,
    "squeue": "echo 7_0 RUNNING; echo 7_1 RUNNING",
}


def test_a_sweep_as_an_array_of_submitit(thawline, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    for name, script in SLURM.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/bash\n{script}")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    slurm = ("hydra/launcher=slurm", "hydra.launcher.poll_seconds=0.1")
    done = thawline("train", *SWEEP, "logger=none", "backbone=test_vit,test_resnet", *slurm)
    assert done.status == 0, done.err
    assert networks("*") == ["test_resnet", "test_vit"]
