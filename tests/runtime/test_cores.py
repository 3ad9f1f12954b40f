"""A run takes the cores that it may use and that others leave free, and refuses to start more processes than that."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from tests.conftest import TINY, records
from tests.zygote import wait_for
from thawline.execution import threads
from thawline.runtime import cores


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """Gives this process cgroups whose files are as told."""
    mount, groups = tmp_path / "cgroup", tmp_path / "groups"
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(cores, "_CGROUPS", mount)
    monkeypatch.setattr(cores, "_PROCESS_GROUPS", groups)

    def make(lines: str, files: dict[str, str]) -> None:
        groups.write_text(lines)
        for name, text in files.items():
            (mount / name).parent.mkdir(parents=True, exist_ok=True)
            (mount / name).write_text(text)

    return make


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        # Every group above counts too.
        ("0::/pod/box\n", {"pod/box/cpu.max": "max 100000\n", "pod/cpu.max": "300000 100000\n"}, 3),
        # Version 1; in a container the host's path is not there.
        ("4:cpu,cpuacct:/docker/ab\n0::/\n", {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ("4:cpuset:/\n1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
    ],
)
def test_a_quota_bounds_the_cores(cgroup, lines, files, expected):
    cgroup(lines, files)
    assert cores.available_cores() == expected


@pytest.mark.parametrize(
    ("busy", "given", "environment", "expected"),
    [
        (0.0, (), {}, 4),
        (1.2, (), {}, 3),
        (4.0, (), {}, 1),
        (4.0, ("trainer.threads=2",), {}, 2),
        (4.0, (), {"OMP_NUM_THREADS": "4"}, 4),
    ],
)
def test_a_run_leaves_the_cores_that_others_use(train, monkeypatch, busy, given, environment, expected):
    """Of four cores `busy` are used by others all the time: idle time grows by the rest."""
    clock = iter(range(0, 10**6, 10))

    def now() -> float:
        return float(next(clock))

    def times(*, percpu: bool) -> list[Any]:
        return [SimpleNamespace(_asdict=lambda: {"user": busy / 4 * seconds[0], "idle": 1e9}) for _ in range(4)]

    seconds = [0.0]
    monkeypatch.setattr(cores.psutil, "cpu_times", times)
    monkeypatch.setattr(cores, "time", SimpleNamespace(monotonic=lambda: seconds.__setitem__(0, now()) or seconds[0]))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    monkeypatch.setattr(os, "times", lambda: SimpleNamespace(user=0, system=0, children_user=0, children_system=0))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(threads, "FLOPS_PER_THREAD", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert train("trainer.max_epochs=1", *given).provenance.threads == expected
    finally:
        torch.set_num_threads(before)


BOMBS = [
    ("trainer.devices=1000", "trainer.devices: 1000: on a CPU each device is a process, and this one may use 2 cores"),
    ("trainer.workers=1000", "trainer.workers: 1000: on this machine with 2 cores at most 16"),
    ("source=digits_low +source.trainer.devices=3", "source.trainer.devices: 3: on a CPU each device is a process"),
]


@pytest.mark.parametrize(("override", "said"), BOMBS)
@pytest.mark.parametrize("grid", [(), ("-m", "seed=0,1")], ids=["run", "sweep"])
def test_more_processes_than_the_machine_has_are_refused(thawline, monkeypatch, override, said, grid):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    result = thawline("train", *grid, *TINY, *override.split())
    assert result.status == 2
    assert said in result.err
    assert not Path("outputs/runs").exists() and not Path("outputs/sweeps").exists()


def test_more_runs_side_by_side_than_the_machine_can_do_are_refused(thawline, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    bomb = ("hydra/launcher=parallel", "hydra.launcher.workers=1000")
    result = thawline("train", "-m", *TINY, *bomb, "seed=0,1")
    assert result.status == 2
    assert "hydra.launcher.workers: 1000: on this machine with 2 cores between 1 and 16" in result.err
    assert not Path("outputs/sweeps").exists()


def test_a_record_that_asks_for_too_many_processes_is_refused_before_it_is_run(train, thawline):
    record = train("trainer.max_epochs=1")
    file = records()[0] / "record.json"
    content = json.loads(file.read_text())
    content["config"]["trainer"]["devices"] = 10_000
    file.write_text(json.dumps(content))
    result = thawline("reproduce", record.identity)
    assert result.status == 2
    assert "trainer.devices: 10000: on a CPU each device is a process" in result.err


@pytest.mark.slow
@pytest.mark.parametrize("when", ["while they start", "while they train"])
def test_the_processes_of_a_run_end_with_a_killed_parent(zygote, tmp_path, when):
    two = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=100000")
    program = zygote.start("train", *TINY, *two, folder=tmp_path)
    ranks = wait_for(lambda: len(found := psutil.Process(program.pid).children()) == 2 and found, "two ranks")
    if when == "while they train":
        wait_for(lambda: list(tmp_path.glob("outputs/runs/*/epochs.jsonl")), "an epoch")
    program.signal(signal.SIGKILL)
    program.wait()
    assert psutil.wait_procs(ranks, timeout=60)[1] == []


@pytest.mark.parametrize(
    ("load", "given", "expected"),
    [
        ("2.10 1.00 0.50 5/300 4711", None, "PASSIVE"),
        ("0.30 1.00 0.50 5/300 4711", None, None),
        # A run of one's own that has just ended.
        ("2.10 1.00 0.50 1/300 4711", None, None),
        ("2.10 1.00 0.50 5/300 4711", "ACTIVE", "ACTIVE"),
        ("not a load", None, None),
    ],
)
def test_waiting_threads_sleep_where_others_keep_the_cores(monkeypatch, tmp_path, load, given, expected):
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    (tmp_path / "loadavg").write_text(load)
    monkeypatch.setattr(cores, "_LOAD", tmp_path / "loadavg")
    monkeypatch.setattr(cores, "available_cores", lambda: 2)
    cores.sleep_between_operations()
    assert os.environ.get("OMP_WAIT_POLICY") == expected
