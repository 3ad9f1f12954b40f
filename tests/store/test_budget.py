"""The store is never above its budget, and what it cannot keep it refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.store.small_entries import FORK, names, small, used_at
from thawline.store import writing
from thawline.store.store import Store, StoreRefusedError


def test_the_least_recently_used_go_first_and_only_as_many_as_needed(tmp_path):
    specs = [small(name, samples=100) for name in "abc"]
    new, produce_new = small("new", samples=150)
    room = sum(spec.total_bytes for spec, _ in specs)
    store = Store(tmp_path, room)
    for spec, produce in specs:
        store.build(spec, produce, 50).close()
    (a, _), (b, _), (c, _) = specs
    for spec, when in ((a, 3000), (b, 1000), (c, 2000)):
        used_at(store, spec, when)

    store.build(new, produce_new, 50).close()
    assert names(tmp_path) == sorted([a.identity, new.identity])


def test_opening_is_a_use(tmp_path):
    (a, produce_a), (b, produce_b), (c, produce_c) = (small(name, samples=100) for name in "abc")
    store = Store(tmp_path, a.total_bytes + b.total_bytes)
    store.build(a, produce_a, 50).close()
    store.build(b, produce_b, 50).close()
    used_at(store, a, 1000)
    used_at(store, b, 2000)
    with store.open(a):
        assert [status.identity for status in store.entries()] == [a.identity, b.identity]
    store.build(c, produce_c, 50).close()
    assert names(tmp_path) == sorted([a.identity, c.identity])


def test_entries_in_use_stay_and_a_refusal_evicts_nothing(tmp_path):
    (a, produce_a), (b, produce_b), (c, produce_c) = (small(name, samples=100) for name in "abc")
    store = Store(tmp_path, int(2.5 * a.total_bytes))
    in_use = store.build(a, produce_a, 50)
    store.build(b, produce_b, 50).close()
    used_at(store, a, 1000)

    double, produce = small("double", samples=200)
    with pytest.raises(StoreRefusedError, match=r"do not fit the budget of .* in use"):
        store.build(double, produce, 50)
    assert names(tmp_path) == sorted([a.identity, b.identity])

    store.build(c, produce_c, 50).close()
    assert names(tmp_path) == sorted([a.identity, c.identity])
    assert torch.equal(in_use.read([7])[0], torch.full((1, 100), 7, dtype=torch.uint8))


def test_the_budget_is_kept_to_the_byte(tmp_path):
    spec, produce = small("a", samples=100)
    with pytest.raises(StoreRefusedError, match=r"not stored: 10.\d kB are more than the budget of 10.\d kB"):
        Store(tmp_path, spec.total_bytes - 1).build(spec, produce, 50)
    assert names(tmp_path) == []
    Store(tmp_path, spec.total_bytes).build(spec, produce, 50).close()
    assert sum(file.stat().st_size for file in (tmp_path / spec.identity).iterdir()) <= spec.total_bytes


def test_a_refusal_that_is_kept_holds_no_lock(tmp_path):
    (a, produce_a), (b, produce_b) = small("a", samples=100), small("b", samples=100)
    store = Store(tmp_path, int(1.5 * a.total_bytes))
    first = store.build(a, produce_a, 50)
    small_one, produce = small("small", samples=1)
    store.build(small_one, produce, 1).close()
    with pytest.raises(StoreRefusedError) as kept:
        store.build(b, produce_b, 50)
    # Were the candidates for eviction still locked by the traceback's frames, this would wait for ever.
    assert store.prune(0)[0].identity == small_one.identity
    assert "cache.max_bytes" in kept.value.reason
    first.close()


def test_a_disk_that_would_be_filled_is_a_refusal(store, monkeypatch):
    spec, produce = small("a", samples=100)
    free = 256 * 2**20 + spec.total_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free - 1))
    with pytest.raises(StoreRefusedError, match=r"do not fit the disk of .*cache, which has 10.. kB to spare"):
        store.build(spec, produce, 50)
    assert names(store.folder) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    store.build(spec, produce, 50).close()


def test_old_entries_make_room_on_the_disk(store, monkeypatch):
    (a, produce_a), (b, produce_b) = small("a", samples=100), small("b", samples=100)
    store.build(a, produce_a, 50).close()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=256 * 2**20 + 1000))
    store.build(b, produce_b, 50).close()
    assert names(store.folder) == [b.identity]


@pytest.mark.parametrize("at", [1, 2, 3, "flush"])
def test_a_disk_that_fills_up_while_writing_is_a_refusal_without_half_an_entry(store, monkeypatch, at):
    calls = []

    def full(stream, data=None):
        calls.append(data)
        if len(calls) == at or at == "flush":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        stream.write(data)

    spec, produce = small("a", samples=100)
    monkeypatch.setattr(writing, "_flush" if at == "flush" else "_append", full)
    with pytest.raises(StoreRefusedError, match="not stored: No space left on device"):
        store.build(spec, produce, 50)
    assert names(store.folder) == []
    monkeypatch.undo()
    store.build(spec, produce, 50).close()


def test_a_limit_of_the_system_on_file_sizes_is_a_refusal(store):
    spec, produce = small("a", samples=101, bytes_per_sample=1000)

    def limited(reason):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            store.build(spec, produce, 10)
        except StoreRefusedError as refusal:
            reason.send(refusal.reason)

    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=limited, args=(sender,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert receiver.recv().startswith("not stored: File too large")
    assert names(store.folder) == []


@contextlib.contextmanager
def without_privileges():
    """Run the block as a user whom file modes stop; root is not one."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_read_only_folder_is_read_and_not_written():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (spec, produce), (other, produce_other) = small("a"), small("b")
        store = Store(folder)
        store.build(spec, produce, 4).close()
        folder.chmod(0o555)
        with without_privileges():
            entry = store.build(spec, produce, 4)
            assert torch.equal(entry.read([3])[0], torch.full((1, 100), 3, dtype=torch.uint8))
            assert [status.state for status in store.entries()] == ["whole"]
            with pytest.raises(StoreRefusedError, match=r"not stored: Permission denied \(.*\.lock\)"):
                store.build(other, produce_other, 4)
            with pytest.raises(StoreRefusedError, match="cannot prune the store: Permission denied"):
                store.prune(0)
        folder.chmod(0o755)
        assert names(folder) == [spec.identity]


def test_a_folder_that_cannot_be_is_a_refusal(tmp_path):
    (tmp_path / "file").write_text("")
    spec, produce = small("a")
    store = Store(tmp_path / "file" / "cache")
    assert store.open(spec) is None
    assert store.entries() == store.verify() == store.prune(0) == []
    with pytest.raises(StoreRefusedError, match="not stored: Not a directory"):
        store.build(spec, produce, 4)
