"""A sweep on a real SLURM of one machine: tasks that are killed or preempted, and the same table at the end."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import records
from tests.one_node_slurm import NoSlurm, one_node_slurm
from tests.side_by_side import GRID, assert_same_sweep, local_sweep
from tests.stopping import STOP_AT, STOP_ONCE
from tests.zygote import ENVIRONMENT, wait_for
from thawline.records import load_record

pytestmark = pytest.mark.slow
SLURM = (
    "hydra/launcher=slurm", "hydra.launcher.poll_seconds=0.5", "hydra.launcher.sbatch.cpus_per_task=1",
    "hydra.launcher.sbatch.timeout_min=10",
)  # fmt: skip


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[dict[str, str]]:
    pytest.importorskip("submitit")
    try:
        with one_node_slurm(tmp_path_factory.mktemp("slurm")) as environment:
            yield {**environment, **ENVIRONMENT}
    except NoSlurm as why:
        pytest.skip(f"SLURM cannot start here: {why}")


@pytest.fixture(scope="module")
def local(zygote, tmp_path_factory) -> Path:
    return local_sweep(zygote, tmp_path_factory.mktemp("local"))


def queue(environment: Mapping[str, str]) -> str:
    return subprocess.run(["squeue", "--noheader"], env=environment, capture_output=True, text=True, check=True).stdout


def test_fault_14_a_task_that_is_killed_is_submitted_again(zygote, tmp_path, local, slurm):
    once = {**slurm, STOP_AT: "KILL:4", STOP_ONCE: str(tmp_path / "killed")}
    done = zygote.run("train", *GRID, *SLURM, folder=tmp_path, environment=once)
    assert done.wait() == 0, done.out + done.err
    assert (tmp_path / "killed").exists()
    assert "1 lost tasks are submitted again" in done.out
    assert_same_sweep(tmp_path, local)
    attempts = [json.loads(file.read_text())["attempt"] for file in tmp_path.glob("outputs/runs/*/state.json")]
    assert sorted(attempts) == [1, 1, 1, 2]
    wait_for(lambda: not queue(slurm), "the end of the last task, whose record was there before it")


def test_a_task_that_is_lost_too_often_ends_the_sweep_with_its_name(zygote, tmp_path, slurm):
    killing = {**slurm, STOP_AT: "KILL:4", STOP_ONCE: str(tmp_path / "killed")}
    done = zygote.run("train", *GRID, *SLURM, "hydra.launcher.resubmit=0", folder=tmp_path, environment=killing)
    assert done.wait() == 1
    assert "ended without an outcome (log: " in " ".join(done.out.split())
    assert len(records(str(tmp_path / "outputs"))) == 3
    again = zygote.run("train", *GRID, *SLURM, folder=tmp_path, environment=killing)
    assert again.wait() == 0, again.out + again.err


def test_fault_14_a_task_that_is_preempted_saves_its_run_and_goes_on_when_there_is_room(zygote, tmp_path, slurm):
    # As long as needed: each epoch of three steps takes a few hundredths of a second.
    long = ("trainer.max_epochs=300", "seed=0", "freeze_policy.k=2", "sweep.report=false")
    sweep = zygote.start("train", *GRID, *SLURM, *long, folder=tmp_path, environment=slurm)
    checkpoint = wait_for(lambda: list(tmp_path.glob("outputs/runs/*/last.ckpt")), "the run's first checkpoint")[0]
    urgent = ["sbatch", "--partition=urgent", "--exclusive", f"--output={tmp_path}/urgent", "--wait", "--wrap=true"]
    subprocess.run(urgent, env=slurm, cwd=tmp_path, check=True, capture_output=True)
    assert sweep.wait() == 0, sweep.out + sweep.err
    record = load_record(checkpoint.parent)
    assert len(record.provenance.resumed) == 1
    assert record.phases[0].epochs == 300
    alone = zygote.run("train", *GRID, *long, "output_dir=alone", folder=tmp_path)
    assert alone.wait() == 0
    assert load_record(tmp_path / "alone" / "runs" / record.identity).files == record.files


def test_a_command_that_is_ended_finds_its_tasks_again(zygote, tmp_path, slurm):
    long = ("trainer.max_epochs=200", "seed=0", "sweep.report=false")
    first = zygote.start("train", *GRID, *SLURM, *long, folder=tmp_path, environment=slurm)
    wait_for(lambda: list(tmp_path.glob("outputs/runs/*/last.ckpt")), "a run under way")
    first.signal(signal.SIGTERM)
    assert first.wait() == 143
    assert "tasks stay in the queue; the same command waits for them again" in " ".join(first.out.split())
    again = zygote.run("train", *GRID, *SLURM, *long, folder=tmp_path, environment=slurm)
    assert again.wait() == 0, again.out + again.err
    assert "tasks of an earlier command are in the queue" in again.out
    attempts = [json.loads(file.read_text())["attempt"] for file in tmp_path.glob("outputs/runs/*/state.json")]
    assert attempts == [1, 1]


def test_fault_14_a_task_at_its_time_limit_saves_its_run_and_goes_on(zygote, tmp_path, slurm):
    # Warned some seconds after its start, again and again; each time it has done more epochs.
    limits = ("hydra.launcher.sbatch.timeout_min=1", "hydra.launcher.sbatch.signal_delay_s=45")
    long = ("trainer.max_epochs=1000", "seed=0", "freeze_policy.k=2", "sweep.report=false")
    done = zygote.start("train", *GRID, *SLURM, *limits, *long, folder=tmp_path, environment=slurm)
    wait_for(lambda: list(tmp_path.glob("outputs/runs/*/last.ckpt")), "the run's first checkpoint")
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    wait_for(lambda: _attempts(folder) > 1, "the second attempt")
    assert done.wait() == 0, done.out + done.err
    record = load_record(folder)
    assert record.phases[0].epochs == 1000
    assert len(record.provenance.resumed) == _attempts(folder) - 1
    assert "lost" not in done.out


def _attempts(folder: Path) -> int:
    return int(json.loads((folder / "state.json").read_text())["attempt"])
