"""Runs side by side in worker processes: one that dies costs its job alone, and the numbers are a local sweep's."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.conftest import records
from tests.side_by_side import GRID, assert_same_sweep, local_sweep
from tests.stopping import STOP_AT, STOP_ONCE
from tests.worker_jobs import Job
from tests.zygote import wait_for
from thawline.sweeps import workers
from thawline.sweeps.executor import run_jobs
from thawline.sweeps.parallel import visible_gpus
from thawline.sweeps.remote import JobOutcome
from thawline.sweeps.workers import Slot, Workers, WorkersFailed, make_slots

PARALLEL = ("hydra/launcher=parallel", "hydra.launcher.workers=2")


def run(tmp_path, jobs, slots=1, environment=None, finished=lambda number, outcome: True):
    places = [Slot(number, environment or {}) for number in range(slots)]
    outcomes = [JobOutcome(error="not started")] * len(jobs)

    def note(number, outcome):
        outcomes[number] = outcome
        return finished(number, outcome)

    executor = Workers(Job(), [[job] for job in jobs], places, tmp_path / "sweep")
    run_jobs(executor, range(len(jobs)), note, fail_fast=True)
    return outcomes


def test_a_killed_worker_costs_its_job_alone(tmp_path):
    ended = []
    outcomes = run(tmp_path, ["return", "kill", "return", "exit", "fail", "return"],
                   finished=lambda number, outcome: ended.append(number) or True)  # fmt: skip
    log = tmp_path / "sweep" / "worker-0.log"
    assert outcomes == [
        JobOutcome(0),
        JobOutcome(error=f"its worker was killed by SIGKILL (log: {log})"),
        JobOutcome(2),
        JobOutcome(error=f"its worker ended with status 7 (log: {log})"),
        JobOutcome(error="job 4 failed"),
        JobOutcome(5),
    ]
    assert ended == [0, 1, 2, 3, 4, 5]
    # Its successors write on in the same log.
    assert log.read_text().splitlines() == [
        "job 0: return", "job 1: kill", "job 2: return", "job 3: exit", "job 4: fail", "job 5: return",
    ]  # fmt: skip


def test_workers_stay_for_the_next_job(tmp_path):
    first, second, third = (outcome.value for outcome in run(tmp_path, ["pid", "pid", "pid"]))
    assert first == second == third != os.getpid()


def test_workers_that_can_do_nothing_end_the_sweep(tmp_path):
    with pytest.raises(
        WorkersFailed, match=r"workers die before they have done anything \(the last was killed by SIGKILL\): job 3"
    ):
        run(tmp_path, ["kill"] * 10)


def test_after_the_job_that_ends_it_none_is_started(tmp_path):
    outcomes = run(tmp_path, ["return", "fail", "return"], finished=lambda number, outcome: not outcome.error)
    assert outcomes == [JobOutcome(0), JobOutcome(error="job 1 failed"), JobOutcome(error="not started")]


def test_each_worker_has_an_environment_of_its_own(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (outcome,) = run(tmp_path, ["CUDA_VISIBLE_DEVICES"], environment={"CUDA_VISIBLE_DEVICES": "3"})
    assert outcome == JobOutcome("3")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize(
    ("wanted", "places"),
    [
        ({"jobs": 9}, [{}, {}, {}, {}]),
        ({"jobs": 3}, [{}, {}, {}]),
        ({"jobs": 9, "workers": 2}, [{}, {}]),
        ({"jobs": 9, "gpus": ["0", "3"]}, ["0", "3"]),
        ({"jobs": 9, "gpus": ["0", "3"], "workers": 1}, ["0"]),
        ({"jobs": 9, "gpus": ["0", "3"], "workers": 7}, ["0", "3"]),
        ({"jobs": 9, "gpus": ["0", "3"], "per_gpu": 2}, ["0", "3", "0", "3"]),
        # A run on two devices takes two; the fifth is left over.
        ({"jobs": 9, "gpus": list("01234"), "gpus_per_job": 2}, ["0,1", "2,3"]),
    ],
)
def test_places_for_workers(wanted, places):
    given = {"workers": None, "per_gpu": 1, "gpus": [], "gpus_per_job": 1, "cores": 4, **wanted}
    slots = make_slots(given.pop("jobs"), **given)
    assert [slot.number for slot in slots] == list(range(len(places)))
    visible = [slot.environment.get("CUDA_VISIBLE_DEVICES", {}) for slot in slots]
    assert visible == places


def test_workers_share_the_cores_as_threads(monkeypatch):
    for name in workers._THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    slots = make_slots(2, workers=None, per_gpu=1, gpus=[], gpus_per_job=1, cores=8)
    # What the user set stays.
    assert [slot.environment for slot in slots] == 2 * [{"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4"}]


def test_the_visible_gpus_are_the_users_choice(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus("auto") == ["0", "1"]
    assert visible_gpus("cpu") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-abc, 5")
    assert visible_gpus("gpu") == ["GPU-abc", "5"]


@pytest.fixture(scope="module")
def local(zygote, tmp_path_factory) -> Path:
    return local_sweep(zygote, tmp_path_factory.mktemp("local"))


@pytest.mark.slow
def test_side_by_side_is_the_local_sweep(zygote, tmp_path, local):
    done = zygote.run("train", *GRID, *PARALLEL, folder=tmp_path)
    assert done.wait() == 0, done.err
    assert_same_sweep(tmp_path, local)
    again = zygote.run("train", *GRID, *PARALLEL, folder=tmp_path)
    assert again.wait() == 0
    assert "[1/" not in again.out


@pytest.mark.slow
def test_faults_1_3_a_run_whose_worker_is_killed_goes_on_with_the_same_command(zygote, tmp_path, local, thawline):
    once = {STOP_AT: "KILL:4", STOP_ONCE: str(tmp_path / "killed")}
    killed = zygote.run("train", *GRID, *PARALLEL, folder=tmp_path, environment=once)
    assert killed.wait() == 1
    assert "its worker was killed by SIGKILL (log: outputs/sweeps/grid/worker-" in " ".join(killed.out.split())
    assert "interrupted: freeze_policy.k=" in killed.err
    shown = thawline("status", "grid", "--json")
    assert json.loads(shown.out)["counts"] == {"done": 3, "interrupted": 1}
    files = {folder: (folder / "record.json").stat().st_ino for folder in records()}
    again = zygote.run("train", *GRID, *PARALLEL, folder=tmp_path, environment=once)
    assert again.wait() == 0, again.err
    assert {folder: (folder / "record.json").stat().st_ino for folder in files} == files
    assert_same_sweep(tmp_path, local)


@pytest.mark.slow
def test_a_failing_run_is_named_and_tried_again_as_often_as_wanted(zygote, tmp_path, local, thawline):
    failing = {STOP_AT: "RAISE:2", STOP_ONCE: str(tmp_path / "raised")}
    failed = zygote.run("train", *GRID, *PARALLEL, folder=tmp_path, environment=failing)
    assert failed.wait() == 1
    assert "RuntimeError: told to fail (traceback: " in failed.err
    shown = thawline("status", "grid", "--failed")
    assert (shown.status, shown.out.count("RuntimeError: told to fail")) == (1, 1)
    (tmp_path / "raised").unlink()
    again = zygote.run("train", *GRID, *PARALLEL, "sweep.retries=1", folder=tmp_path, environment=failing)
    assert again.wait() == 0, again.err
    assert (tmp_path / "raised").exists()
    assert_same_sweep(tmp_path, local)


@pytest.mark.slow
def test_a_signal_to_the_sweep_lets_the_workers_save(zygote, tmp_path):
    sweep = zygote.start("train", *GRID, *PARALLEL, "trainer.max_epochs=2000", folder=tmp_path)
    wait_for(lambda: len(list(tmp_path.glob("outputs/runs/*/last.ckpt"))) == 2, "two runs under way")
    children = psutil.Process(sweep.pid).children(recursive=True)
    sweep.signal(signal.SIGTERM)
    assert sweep.wait() == 143
    assert "the same command goes on from here" in sweep.err
    wait_for(lambda: not any(child.is_running() for child in children), "the workers' end")
    states = [json.loads(file.read_text())["state"] for file in tmp_path.glob("outputs/runs/*/state.json")]
    assert states == ["interrupted", "interrupted"]


@pytest.mark.slow
def test_workers_end_with_a_sweep_that_is_killed(zygote, tmp_path):
    sweep = zygote.start("train", *GRID, *PARALLEL, "trainer.max_epochs=2000", folder=tmp_path)
    wait_for(lambda: len(list(tmp_path.glob("outputs/runs/*/last.ckpt"))) == 2, "two runs under way")
    children = psutil.Process(sweep.pid).children(recursive=True)
    sweep.signal(signal.SIGKILL)
    assert sweep.wait() == -signal.SIGKILL
    wait_for(lambda: not any(child.is_running() for child in children), "the workers' end")
    states = [json.loads(file.read_text())["state"] for file in tmp_path.glob("outputs/runs/*/state.json")]
    assert states == ["interrupted", "interrupted"]
