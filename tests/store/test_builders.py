"""One builder among many processes, and what a killed one leaves."""

from __future__ import annotations

import fcntl
import logging
import os
import signal

import numpy as np
import pytest
import torch

from tests.store.small_entries import FORK, Counting, names, small
from thawline.store.file_locks import try_lock, wait_for_lock
from thawline.store.store import Store, StoreRefusedError


def test_of_three_processes_that_want_an_entry_at_once_one_builds_it(store, tmp_path):
    spec, produce = small("shared", samples=64)
    barrier, log = FORK.Barrier(3), tmp_path / "log"

    def logged(rows):
        with log.open("a") as stream:
            stream.write("".join(f"{row}\n" for row in rows))
        return produce(rows)

    def build():
        barrier.wait()
        entry = store.build(spec, logged, 4)
        assert torch.equal(entry.read(np.arange(64))[0], torch.from_numpy(produce(np.arange(64))[0]))

    processes = [FORK.Process(target=build) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [int(row) for row in log.read_text().split()] == list(range(64))
    assert names(store.folder) == [spec.identity]


HALF = small("half", samples=100, bytes_per_sample=1000)


@pytest.fixture
def builder(store):
    """A process that has written half of the entry `HALF`, and waits for `builder.go`."""
    reached, go = FORK.Event(), FORK.Event()
    spec, produce = HALF

    def waiting(rows):
        if rows[0]:
            reached.set()
            go.wait()
        return produce(rows)

    process = FORK.Process(target=lambda: store.build(spec, waiting, 50))
    process.go = go
    process.start()
    assert reached.wait(60)
    yield process
    process.kill()
    process.join()


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_what_is_being_built_counts_and_stays(builder, store):
    assert [(status.state, status.bytes) for status in store.entries()] == [("being built", 100_000)]
    assert store.verify() == store.prune(0) == []
    spec, produce = small("a")
    with pytest.raises(StoreRefusedError, match=r"beside 100.0 kB in use"):
        Store(store.folder, 100_000 + spec.total_bytes - 1).build(spec, produce, 4)
    Store(store.folder, 100_000 + spec.total_bytes).build(spec, produce, 4).close()
    builder.go.set()
    builder.join()
    assert builder.exitcode == 0
    assert sorted(status.state for status in store.verify()) == ["whole", "whole"]


def test_what_a_killed_builder_left_is_pruned(builder, store):
    kill(builder)
    (status,) = store.entries()
    assert (status.state, status.problem) == ("unfinished", "the process that built it is gone")
    assert [removed.state for removed in store.prune(10**9)] == ["unfinished"]
    assert [path.name for path in store.folder.iterdir()] == [".budget.lock"]


@pytest.mark.parametrize("spec_and_produce", [HALF, small("another")], ids=["same", "another"])
def test_what_a_killed_builder_left_goes_with_the_next_build(builder, store, spec_and_produce):
    kill(builder)
    assert [name.endswith(".partial") for name in names(store.folder)] == [True]
    spec, produce = spec_and_produce
    counting = Counting(produce)
    entry = store.build(spec, counting, 50)
    entry.verify()
    assert counting.rows == list(range(spec.samples))
    assert names(store.folder) == [spec.identity]


def test_who_waits_for_another_builder_says_so_and_opens_its_entry(builder, store, caplog):
    class Release(logging.Handler):
        def emit(self, record):
            assert record.getMessage() == f"waiting for another process that builds {store.folder / HALF[0].identity}"
            builder.go.set()

    caplog.set_level(logging.INFO, logger="thawline.store.store")
    handler = Release()
    logging.getLogger("thawline.store.store").addHandler(handler)
    try:
        counting = Counting(HALF[1])
        entry = store.build(HALF[0], counting, 50)
    finally:
        logging.getLogger("thawline.store.store").removeHandler(handler)
    assert counting.rows == []
    assert torch.equal(entry.read([99])[0], torch.from_numpy(HALF[1](np.array([99]))[0]))


def test_what_was_removed_halfway_goes_with_the_next_prune(store):
    spec, produce = small("a")
    store.build(spec, produce, 4).close()
    (store.folder / spec.identity).rename(store.folder / f".{spec.identity}.{'0' * 32}.removed")
    assert store.open(spec) is None
    store.prune(10**9)
    assert names(store.folder) == []


def test_nothing_that_is_not_the_stores_own_is_ever_removed(store, tmp_path):
    spec, produce = small("a")
    store.build(spec, produce, 4).close()
    (store.folder / "notes").mkdir()
    (store.folder / "thesis.tex").write_text("x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("x")
    (store.folder / ("0" * 20)).symlink_to(tmp_path / "elsewhere")
    assert [status.identity for status in store.prune(0)] == [spec.identity]
    assert names(store.folder) == ["0" * 20, "notes", "thesis.tex"]
    assert (tmp_path / "elsewhere" / "kept").exists()


def test_a_worker_that_ends_does_not_take_its_parents_hold(store):
    spec, produce = small("a")
    entry = store.build(spec, produce, 4)
    worker = FORK.Process(target=entry.close)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert store.prune(0) == []
    assert [status.state for status in store.entries()] == ["in use"]
    entry.close()
    assert [status.identity for status in store.prune(0)] == [spec.identity]


def test_a_worker_that_lives_on_does_not_hold_what_its_parent_closed(store):
    spec, produce = small("a")
    entry = store.build(spec, produce, 4)
    go = FORK.Event()
    worker = FORK.Process(target=go.wait)
    worker.start()
    entry.close()
    assert [status.identity for status in store.prune(0)] == [spec.identity]
    go.set()
    worker.join()


def after_the_next_lock(monkeypatch, happens):
    """Let something happen to a file between the moment when its lock is waited for and the moment when it is held."""
    flock = fcntl.flock

    def late(descriptor, kind):
        monkeypatch.setattr(fcntl, "flock", flock)
        happens()
        flock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", late)


def test_the_lock_of_a_file_that_was_removed_meanwhile_is_taken_again(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    path.touch()
    after_the_next_lock(monkeypatch, path.unlink)
    with wait_for_lock(path):
        assert try_lock(path) is None
    assert try_lock(path) is not None


def test_an_entry_that_is_evicted_while_it_is_opened_is_not_there(store, monkeypatch):
    spec, produce = small("a")
    store.build(spec, produce, 4).close()
    after_the_next_lock(monkeypatch, lambda: store.prune(0))
    assert store.open(spec) is None
