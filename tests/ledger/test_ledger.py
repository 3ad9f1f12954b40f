"""The ledger: the state of each cell, that one process at a time has it, and what a failure or a full disk costs."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import make_records
from tests.conftest import TINY, records
from tests.side_by_side import GRID
from tests.zygote import wait_for
from thawline.cli import status
from thawline.errors import WriteError
from thawline.execution import run as experiment
from thawline.ledger import leases
from thawline.ledger.leases import OWNER_FILE, read_owner, try_lease
from thawline.ledger.runs import status_of
from thawline.records import load_record, read_record, write_record
from thawline.runtime import signals
from thawline.sweeps import local


class Stub:
    """In the place of a run's work: leaves a valid record at once, or does what `behave` does."""

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.behave: Callable[[int], None] = lambda seed: None

    def __call__(self, run, *, group, on_epoch, packs=None):
        plan = run.plan
        self.ran.append(plan.settings.seed)
        self.behave(plan.settings.seed)
        record = make_records.record(
            plan.overrides, identity=plan.identity, config=dict(plan.config), classes=list(plan.splits.classes)
        )
        write_record(plan.folder, record)
        return record


@pytest.fixture
def stub(monkeypatch) -> Stub:
    stub = Stub()
    monkeypatch.setattr(experiment, "execute", stub)
    return stub


SWEEP = ("-m", *TINY, "seed=0,1,2,3", "sweep.name=grid", "sweep.report=false")


def failing(*seeds: int, times: int = 1000) -> Callable[[int], None]:
    left = dict.fromkeys(seeds, times)

    def behave(seed: int) -> None:
        if left.get(seed, 0) > 0:
            left[seed] -= 1
            raise ValueError(f"seed {seed} is [bold]unlucky[/]\nand says so at length")

    return behave


def states(thawline) -> dict[int, dict]:
    """The status of each cell of the sweep, by its seed."""
    cells = json.loads(thawline("status", "grid", "--json").out)["cells"]
    return {int(cell["label"].removeprefix("seed=")): cell for cell in cells}


def test_fault_1_the_others_finish_and_every_failure_is_listed(thawline, stub):
    stub.behave = failing(1, 2)
    result = thawline("train", *SWEEP)
    assert result.status == 1
    assert stub.ran == [0, 1, 2, 3]
    said = " ".join(result.err.split())
    for seed in (1, 2):
        cell = states(thawline)[seed]
        file = Path(cell["traceback_file"])
        assert f"failed: seed={seed}: ValueError: seed {seed} is [bold]unlucky[/]" in said
        assert str(file) in said
        assert file.read_text().startswith("Traceback (most recent call last):")
        assert file.read_text().endswith(f"ValueError: seed {seed} is [bold]unlucky[/]\nand says so at length\n")
    shown = thawline("status", "grid")
    assert shown.status == 1
    assert "grid: 4 runs: 2 done, 2 failed" in shown.out
    failed = thawline("status", "grid", "--failed")
    assert failed.status == 1
    for seed in (1, 2):
        assert "dataset=digits dataset.n_per_class=4 transform.size=32" in failed.out
        assert f"  ValueError: seed {seed} is [bold]unlucky[/]\n  and says so at length\n" in failed.out
        assert f"  traceback: {states(thawline)[seed]['traceback_file']}\n" in failed.out
    assert failed.out.endswith("2 of 4 runs failed\n")


def test_failed_cells_are_run_again_by_the_same_command_and_done_ones_are_not(thawline, stub):
    stub.behave = failing(1, 2)
    assert thawline("train", *SWEEP).status == 1
    before = {seed: cell for seed, cell in states(thawline).items() if cell["state"] == "done"}
    stub.ran.clear()
    stub.behave = failing(2)
    assert thawline("train", *SWEEP).status == 1
    assert stub.ran == [1, 2]
    after = states(thawline)
    assert {seed: (cell["state"], cell["attempt"]) for seed, cell in after.items()} == {
        0: ("done", 1), 1: ("done", 2), 2: ("failed", 2), 3: ("done", 1),
    }  # fmt: skip
    assert {seed: after[seed] for seed in before} == before
    # The traceback of each attempt is kept.
    assert sorted(path.name for path in Path(after[2]["folder"]).glob("traceback*")) == [
        "traceback-1.txt", "traceback-2.txt",
    ]  # fmt: skip
    stub.behave = failing()
    assert thawline("train", *SWEEP).status == 0
    assert thawline("status", "grid").status == 0


def test_the_same_cells_in_another_order_are_the_same_sweep(thawline, stub):
    for seeds in ("0,1", "1,0", "0,2"):
        assert thawline("train", "-m", *TINY, "sweep.report=false", f"seed={seeds}").status == 0
    assert stub.ran == [0, 1, 2]
    assert len(list(Path("outputs/sweeps").iterdir())) == 2


@pytest.mark.parametrize(("times", "ends", "attempts"), [(2, 0, 3), (3, 1, 3)])
def test_retries(thawline, stub, times, ends, attempts):
    stub.behave = failing(1, times=times)
    assert thawline("train", *SWEEP, "sweep.retries=2").status == ends
    assert stub.ran == [0, 1, 1, 1, 2, 3]
    assert states(thawline)[1]["attempt"] == attempts
    assert states(thawline)[1]["state"] == ("failed" if ends else "done")


def test_fail_fast_stops_at_the_first_failure(thawline, stub):
    stub.behave = failing(1, 2)
    result = thawline("train", *SWEEP, "sweep.fail_fast=true")
    assert result.status == 1
    assert stub.ran == [0, 1]
    assert {seed: cell["state"] for seed, cell in states(thawline).items()} == {
        0: "done", 1: "failed", 2: "pending", 3: "pending",
    }  # fmt: skip


def test_a_damaged_record_is_told_and_made_again(thawline, stub):
    assert thawline("train", *SWEEP).status == 0
    folder = Path(states(thawline)[2]["folder"])
    (folder / "record.json").write_text('{"identity": ')
    cell = states(thawline)[2]
    assert (cell["state"], cell["error"]) == (
        "failed",
        f"{folder / 'record.json'} is damaged; the same command makes it again",
    )
    stub.ran.clear()
    assert thawline("train", *SWEEP).status == 0
    assert stub.ran == [2]


def test_fault_7_an_option_edited_in_place_is_another_run(thawline, stub):
    option = Path("mine/optimizer/mine.yaml")
    option.parent.mkdir(parents=True)
    for lr in (0.1, 0.2, 0.1):
        option.write_text(f"_target_: torch.optim.SGD\nlr: {lr}\n")
        assert thawline("train", "--config-dir", "mine", *TINY, "optimizer=mine").status == 0
    assert sorted(load_record(folder).config["optimizer"]["lr"] for folder in records()) == [0.1, 0.2]
    assert stub.ran == [0, 0]


def test_fault_6_two_commands_on_one_sweep_share_its_work(zygote, tmp_path):
    both = [zygote.start("train", *GRID, "seed=0", folder=tmp_path) for _ in range(2)]
    assert [program.wait() for program in both] == [0, 0], [program.err for program in both]
    found = [status_of(folder) for folder in records(str(tmp_path / "outputs"))]
    assert [(one.state, one.attempt) for one in found] == [("done", 1)] * 2
    assert {one.pid for one in found} <= {program.pid for program in both}


def test_a_run_under_way_is_shown_with_its_place_and_as_interrupted_once_its_process_is_gone(
    zygote, tmp_path, thawline
):
    program = zygote.start("train", *GRID, "freeze_policy.k=2", "trainer.max_epochs=5000", folder=tmp_path)
    wait_for(lambda: list(tmp_path.glob("outputs/runs/*/last.ckpt")), "a run under way")
    shown = json.loads(thawline("status", "grid", "--json").out)
    assert shown["counts"] == {"running": 1, "pending": 1}
    cell = shown["cells"][0]
    assert (cell["state"], cell["attempt"], cell["pid"]) == ("running", 1, program.pid)
    table = thawline("status", "grid").out
    assert "grid: 2 runs: 1 running, 1 pending" in table
    assert f"{cell['host']}:{program.pid}" in table
    assert read_owner(Path(cell["folder"])).pid == program.pid
    program.signal(signal.SIGKILL)
    assert program.wait() == -signal.SIGKILL
    cell = json.loads(thawline("status", "grid", "--json").out)["cells"][0]
    assert (cell["state"], cell["error"]) == ("interrupted", "its process is gone")


def test_status_watches_until_all_is_done(tmp_path, thawline, monkeypatch):
    kept = []

    def make(overrides, place):
        kept.append(make_records.record(overrides))
        return kept[-1] if place["seed"] == "0" else None

    def finish(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            write_record(tmp_path / "outputs" / "runs" / kept[1].identity, kept[1])

    waits: list[float] = []
    make_records.sweep(tmp_path / "outputs", {"seed": ["0", "1"]}, make, "grid")
    monkeypatch.setattr(status.time, "sleep", finish)
    watched = thawline("status", "grid", "--watch", "0.5")
    assert watched.status == 0
    assert waits == [0.5, 0.5]
    assert "grid: 2 runs: 2 done" in watched.out
    assert thawline("status", "grid", "--watch", "0").err == "error: --watch: needs a number of seconds above 0\n"


def test_status_of_every_sweep_takes_the_options_of_one(thawline, stub):
    assert thawline("status").err == "error: --outputs: no sweep under outputs\n"
    stub.behave = failing(1)
    for seeds, name in (("0,1", "one"), ("1,2", "two")):
        assert thawline("train", "-m", *TINY, f"seed={seeds}", f"sweep.name={name}").status == 1
    shown = thawline("status")
    assert (shown.status, shown.out) == (1, "one: 2 runs: 1 done, 1 failed\ntwo: 2 runs: 1 done, 1 failed\n")
    counts = [(sweep["name"], sweep["counts"]) for sweep in json.loads(thawline("status", "--json").out)]
    assert counts == [(name, {"done": 1, "failed": 1}) for name in ("one", "two")]
    assert thawline("status", "--failed").out.endswith("1 of 3 runs failed\n")


@pytest.fixture
def run_folder(tmp_path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def silent_owner(folder: Path, seconds: float, machine: str = "another") -> None:
    """An owner on another machine that has not renewed its lease for so long."""
    owner = {"machine": machine, "host": "far", "pid": 1, "token": "theirs"}
    written = folder / "owner.written"
    written.write_text(json.dumps(owner))
    then = written.stat().st_mtime - seconds
    os.utime(written, (then, then))
    # In one step: an owner that sees itself replaced may stop this very thread at once.
    written.replace(folder / OWNER_FILE)


def test_the_owner_on_another_machine_keeps_its_cell_while_its_heart_beats(run_folder):
    silent_owner(run_folder, leases.STALE_SECONDS - 10)
    assert leases.is_leased(run_folder)
    assert try_lease(run_folder) is None
    silent_owner(run_folder, leases.STALE_SECONDS + 10)
    assert not leases.is_leased(run_folder)
    with try_lease(run_folder) as lease:
        assert lease.is_mine()
        assert leases.is_leased(run_folder)
        assert try_lease(run_folder) is None
    assert not (run_folder / OWNER_FILE).exists()


def test_a_cell_whose_owner_died_on_this_machine_is_free_at_once(run_folder):
    silent_owner(run_folder, 0, leases._machine())
    assert not leases.is_leased(run_folder)
    with try_lease(run_folder) as lease:
        assert lease.is_mine()


def test_of_many_that_find_a_dead_owner_one_takes_over_also_without_locks(run_folder, monkeypatch):
    def no_locks(path: Path, *, create: bool = False):
        raise OSError(leases.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(leases, "try_lock", no_locks)
    for _ in range(20):
        silent_owner(run_folder, leases.STALE_SECONDS + 10)
        barrier, taken = threading.Barrier(8), []

        def take(barrier=barrier, taken=taken) -> None:
            barrier.wait()
            taken.append(try_lease(run_folder))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (lease,) = [lease for lease in taken if lease is not None]
        assert lease.is_mine()
        lease.release()
        assert not list(run_folder.glob(f"*{OWNER_FILE}*"))


def test_the_owner_renews_its_lease_and_stops_when_it_was_replaced(run_folder, monkeypatch):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.01)
    with signals.listening(), try_lease(run_folder) as lease:
        old = (run_folder / OWNER_FILE).stat().st_mtime - 1000
        os.utime(run_folder / OWNER_FILE, (old, old))
        wait_for(lambda: (run_folder / OWNER_FILE).stat().st_mtime > old, "a beat")
        with pytest.raises(signals.Interrupted, match="SIGTERM"):
            silent_owner(run_folder, 0)
            wait_for(lambda: False, "the signal to itself")
        assert not lease.is_mine()
    # The new owner's file is not the old one's to remove.
    assert read_owner(run_folder).host == "far"


def test_an_owner_that_cannot_be_written_is_not_waited_for(run_folder):
    with limited(resource.RLIMIT_FSIZE), pytest.raises(WriteError, match=OWNER_FILE.replace(".", r"\.")):
        try_lease(run_folder)
    assert not (run_folder / OWNER_FILE).exists()
    with try_lease(run_folder) as lease:
        assert lease.is_mine()


def test_an_owner_file_that_cannot_be_read_for_a_while_stops_nothing(run_folder):
    with try_lease(run_folder) as lease:
        with limited(resource.RLIMIT_NOFILE):
            found = lease.is_mine(), lease.lost()
        assert found == (True, "")
        silent_owner(run_folder, 0)
        assert (lease.is_mine(), lease.lost()) == (False, "far:1 has taken the run over")


@contextlib.contextmanager
def limited(kind: int) -> Iterator[None]:
    """Within the block no file can be opened, or none written."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def test_what_a_replaced_owner_would_write_is_not_written(thawline, stub):
    def lose(seed: int) -> None:
        (folder,) = Path("outputs/runs").iterdir()
        silent_owner(folder, 0)
        raise ValueError("too late")

    stub.behave = lose
    assert thawline("train", *TINY).status == 1
    (folder,) = Path("outputs/runs").iterdir()
    assert json.loads((folder / "state.json").read_text())["state"] == "running"


def test_a_folder_that_is_deleted_under_its_run_has_its_own_message_and_leaves_nothing(thawline, stub, monkeypatch):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.01)

    def delete(seed: int) -> None:
        # What a run writes would make its folder anew. Put there at once: the signal may come at any moment after.
        written = write_record(Path("anew/runs", folder.name), make_records.record(identity=folder.name))
        written.rename(written.with_name("best.safetensors"))
        Path("outputs").rename("deleted")
        Path("anew").rename("outputs")
        wait_for(lambda: False, "the signal to itself")

    def begin(seed: int) -> None:
        nonlocal folder
        (folder,) = Path("outputs/runs").iterdir()
        delete(seed)

    folder = Path()
    stub.behave = begin
    result = thawline("train", *TINY)
    assert result.status == 1
    assert result.err == (
        f"error: cannot write {folder}: the folder was deleted while its run was going on; "
        "what is finished is safe, and the same command goes on from here\n"
    )
    assert not Path("outputs").exists()
    stub.behave = failing()
    assert thawline("train", *TINY).status == 0


def test_a_run_that_another_host_has_taken_over_is_said(thawline, stub):
    def lose(seed: int) -> None:
        (folder,) = Path("outputs/runs").iterdir()
        silent_owner(folder, 0)
        raise ValueError("too late")

    stub.behave = lose
    assert "far:1 has taken the run over" in thawline("train", *TINY).err


def test_an_owner_from_the_future_is_named_and_replaced_once_it_has_been_silent(thawline, stub, monkeypatch):
    stub.behave = failing(0)
    assert thawline("train", *TINY).status == 1
    (folder,) = Path("outputs/runs").iterdir()
    silent_owner(folder, -1e8)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        # While its time changes, it lives.
        silent_owner(folder, -1e8 - len(waits)) if len(waits) < 3 else None
        clock[0] += leases.STALE_SECONDS + 1

    clock = [0.0]
    monkeypatch.setattr(leases.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(local.time, "sleep", wait)
    stub.behave = failing()
    result = thawline("train", *TINY)
    assert result.status == 0, result.err
    assert "waiting for 1 run of far:1, until done or silent for 90 s" in result.out
    assert len(waits) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: (file.unlink(), file.mkdir()),
        pytest.param(lambda file: file.write_text("[" * 100_000 + "]" * 100_000), marks=pytest.mark.slow),
        pytest.param(lambda file: file.write_text('{"a":' * 500 + "1" + "}" * 500), marks=pytest.mark.slow),
        lambda file: file.write_text(json.dumps({**json.loads(file.read_text()), "splits": None})),
    ],
    ids=["folder", "nested", "nested less", "lacks a node"],
)
def test_a_record_that_is_none_is_one_message_and_made_again(thawline, stub, damage):
    assert thawline("train", *SWEEP).status == 0
    folder = Path(states(thawline)[2]["folder"])
    damage(folder / "record.json")
    cell = states(thawline)[2]
    assert (cell["state"], cell["error"]) == (
        "failed", f"{folder / 'record.json'} is damaged; the same command makes it again",
    )  # fmt: skip
    for verb in (["verify", "grid"], ["report", "grid"]):
        result = thawline(*verb)
        assert "Traceback" not in result.err
    stub.ran.clear()
    assert thawline("train", *SWEEP).status == 0
    assert stub.ran == [2]
    assert {cell["state"] for cell in states(thawline).values()} == {"done"}


def test_under_nohup_a_closed_terminal_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.listening():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[..., Path]]:
    """A file system of a few kilobytes that can be made larger, or read-only."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", str(place)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
        return place

    yield mount
    subprocess.run(["umount", str(place)], capture_output=True, check=False)


@pytest.mark.parametrize(
    "kilobytes", [pytest.param(4, marks=pytest.mark.slow), 16, pytest.param(700, marks=pytest.mark.slow)]
)
def test_fault_19_a_full_disk_is_one_message_and_no_half_record(zygote, tmp_path, small_disk, kilobytes):
    disk = small_disk(f"size={kilobytes}k")
    one = (*TINY, "trainer.checkpoint_seconds=0", "freeze_policy.k=2", f"output_dir={disk}", "cache.mode=off")
    full = zygote.run("train", *one, folder=tmp_path)
    assert full.wait() == 1, full.err
    (message,) = full.err.splitlines()
    assert message.startswith(f"error: cannot write {disk}/")
    assert "No space left on device; what is finished is safe, and the same command goes on from here" in message
    assert not list(disk.glob("**/record.json"))
    assert not list(disk.glob("**/*.partial"))
    subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
    again = zygote.run("train", *one, folder=tmp_path)
    assert again.wait() == 0, again.err
    (folder,) = records(str(disk))
    assert read_record(folder) is not None


def test_fault_19_a_read_only_folder_is_one_message(zygote, tmp_path, small_disk, thawline):
    disk = small_disk("size=1m,ro")
    for grid in (("train",), ("train", "-m", "seed=0,1")):
        result = thawline(*grid, *TINY, f"output_dir={disk}")
        assert result.status == 1
        (message,) = result.err.splitlines()
        assert message.startswith(f"error: cannot write {disk}/")
        assert "Read-only file system" in message
    assert list(disk.iterdir()) == []
