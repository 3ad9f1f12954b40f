"""A sweep as tasks of a Ray on this machine: a worker that is killed, and the same table at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import records
from tests.side_by_side import GRID, assert_same_sweep, local_sweep
from tests.stopping import STOP_AT, STOP_ONCE

pytestmark = pytest.mark.slow
RAY = (
    "hydra/launcher=ray", "hydra.launcher.init.num_cpus=2", "+hydra.launcher.init.include_dashboard=false",
    "+hydra.launcher.init.object_store_memory=80000000",
)  # fmt: skip
# Nothing is sent to Ray's makers.
ALONE = {"RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module")
def local(zygote, tmp_path_factory) -> Path:
    pytest.importorskip("ray")
    return local_sweep(zygote, tmp_path_factory.mktemp("local"))


def test_fault_15_a_task_that_ray_runs_again_goes_on_in_the_same_folder(zygote, tmp_path, local):
    once = {**ALONE, STOP_AT: "KILL:4", STOP_ONCE: str(tmp_path / "killed")}
    done = zygote.run("train", *GRID, *RAY, folder=tmp_path, environment=once)
    assert done.wait() == 0, done.out + done.err
    assert (tmp_path / "killed").exists()
    assert_same_sweep(tmp_path, local)
    attempts = [json.loads(file.read_text())["attempt"] for file in tmp_path.glob("outputs/runs/*/state.json")]
    assert sorted(attempts) == [1, 1, 1, 2]


def test_a_task_that_is_not_run_again_costs_its_run_alone(zygote, tmp_path, local):
    once = {**ALONE, STOP_AT: "KILL:4", STOP_ONCE: str(tmp_path / "killed")}
    failed = zygote.run("train", *GRID, *RAY, "hydra.launcher.remote.max_retries=0", folder=tmp_path, environment=once)
    assert failed.wait() == 1
    assert "WorkerCrashedError" in failed.out
    assert "interrupted: freeze_policy.k=" in failed.err
    assert len(records(str(tmp_path / "outputs"))) == 3
    assert zygote.run("train", *GRID, folder=tmp_path).wait() == 0
    assert_same_sweep(tmp_path, local)
