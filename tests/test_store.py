"""The store: exact values back, nothing damaged ever used, never above its budget, one builder among many processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from thawline.store import entries, stored_arrays, writing
from thawline.store.file_locks import try_lock, wait_for_lock
from thawline.store.store import (
    ArraySpec,
    DamagedEntryError,
    EntrySpec,
    Store,
    StoreRefusedError,
    readable_bytes,
)

LINUX = Path("/proc/self/maps").exists()
FORK = multiprocessing.get_context("fork")
# Rows of 300 KB: three share a checksum, so that 10 samples have chunks of 3, 3, 3 and 1 rows.
WIDE = EntrySpec({"line": "wide"}, (ArraySpec("x", (75_000,), "float32"),), 10, title="wide rows")


def wide(rows):
    return (torch.from_numpy(rows).float()[:, None] * 1000 + torch.arange(75_000) % 997,)


class Counting:
    """A `produce` that remembers which rows it was asked for."""

    def __init__(self, produce):
        self.produce = produce
        self.rows = []

    def __call__(self, rows):
        self.rows += rows.tolist()
        return self.produce(rows)


def small(name, samples=10, bytes_per_sample=100):
    """A spec of `samples` rows, and the function that makes them."""
    spec = EntrySpec({"name": name}, (ArraySpec("x", (bytes_per_sample,), "uint8"),), samples)
    return spec, lambda rows: (np.repeat(rows[:, None] % 251, bytes_per_sample, 1).astype(np.uint8),)


def names(folder):
    """What a folder holds besides locks."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache", 10**9)


@pytest.fixture(params=["mapped", "by position"])
def way(request, monkeypatch):
    """Both ways of reading."""
    if request.param == "by position":
        monkeypatch.setattr(stored_arrays, "MAPPED_BYTES", 0)
    return request.param


def test_every_array_comes_back_bit_for_bit(store, way):
    generator = np.random.default_rng(0)
    values = {
        "features": torch.from_numpy(generator.normal(size=(37, 5, 7)).astype(np.float32)),
        "pixels": torch.from_numpy(generator.integers(0, 256, (37, 3, 4, 4), dtype=np.uint8)),
        "label": torch.from_numpy(generator.integers(-9, 9, 37)),
        "mask": torch.from_numpy(generator.random((37, 6)) < 0.5),
        "nothing": torch.empty(37, 0),
        "half": torch.from_numpy(generator.normal(size=(37, 3)).astype(np.float32)).bfloat16(),
    }
    arrays = tuple(
        ArraySpec(name, tuple(value.shape[1:]), str(value.dtype).removeprefix("torch."))
        for name, value in values.items()
    )
    spec = EntrySpec({"of": "many"}, arrays, 37)
    store.build(spec, lambda rows: [value[rows] for value in values.values()], batch_size=8).close()

    entry = store.open(spec)
    rows = np.array([36, 0, 1, 2, 3, 3, 17, 16, 36])
    for found, value in zip(entry.read(rows), values.values(), strict=True):
        assert found.dtype == value.dtype
        assert torch.equal(found, value[rows])
    assert [tuple(found.shape) for found in entry.read([])] == [(0, *array.shape) for array in arrays]
    assert len(entry) == 37


def test_what_is_read_is_the_callers_own(store, way):
    spec, produce = small("a")
    entry = store.build(spec, produce, 4)
    entry.read([3])[0].fill_(9)
    assert torch.equal(entry.read([3])[0], torch.full((1, 100), 3, dtype=torch.uint8))


def test_a_closed_entry_is_not_read(store):
    entry = store.build(*small("a"), 4)
    entry.close()
    with pytest.raises(ValueError, match="the entry is closed"):
        entry.read(np.arange(2))


def test_an_entry_under_the_name_of_another_is_not_opened(store, caplog):
    first, second = store.build(*small("a"), 4), store.build(*small("b"), 4)
    first.close()
    second.close()
    shutil.rmtree(second.path)
    shutil.copytree(first.path, second.path)
    assert store.open(small("b")[0]) is None
    assert f"describes another entry, {first.path.name}" in caplog.text


def test_rows_outside_the_entry_are_an_error(store):
    spec, produce = small("a")
    entry = store.build(spec, produce, 4)
    with pytest.raises(IndexError, match="rows -1 to 3 of an entry with 10 samples"):
        entry.read([3, -1])
    with pytest.raises(IndexError, match="rows 10 to 10"):
        entry.read([10])
    entry.close()
    with pytest.raises(ValueError, match="closed"):
        entry.read([0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_floats_take_half_the_room_and_round_once(store, dtype):
    x = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    spec = EntrySpec({}, (ArraySpec("x", (64,), "float32", stored_as=dtype),), 20)
    exact = EntrySpec({}, (ArraySpec("x", (64,), "float32"),), 20)
    assert spec.array_bytes * 2 == exact.array_bytes == 20 * 64 * 4
    assert spec.identity != exact.identity

    (found,) = store.build(spec, lambda rows: (x[rows],), 7).read(np.arange(20))
    assert found.dtype == torch.float32
    assert torch.equal(found, x.to(getattr(torch, dtype)).float())
    assert (store.folder / spec.identity / "0.bin").stat().st_size == spec.array_bytes


def test_values_beyond_the_range_of_float16_are_refused(store):
    spec = EntrySpec({}, (ArraySpec("x", (2,), "float32", stored_as="float16"),), 3)
    x = torch.tensor([[0.0, float("inf")], [1.0, 65504.0], [2.0, 70000.0]])
    with pytest.raises(StoreRefusedError, match="x has values beyond the range of float16"):
        store.build(spec, lambda rows: (x[rows],), 1)
    assert names(store.folder) == []


def test_a_spec_that_cannot_be_stored_is_an_error():
    with pytest.raises(ValueError, match="dtype 'complex64' is none of"):
        ArraySpec("x", (1,), "complex64")
    with pytest.raises(ValueError, match="x: int64 cannot be stored as bfloat16"):
        ArraySpec("x", (1,), "int64", stored_as="bfloat16")


def test_the_identity_is_what_decides_the_values():
    spec = EntrySpec({"a": 1}, (ArraySpec("x", (2,), "float32"),), 3, title="one")
    assert spec.identity == EntrySpec({"a": 1}, spec.arrays, 3, title="two").identity
    others = [
        EntrySpec({"a": 2}, spec.arrays, 3),
        EntrySpec({"a": 1}, spec.arrays, 4),
        EntrySpec({"a": 1}, (ArraySpec("y", (2,), "float32"),), 3),
        EntrySpec({"a": 1}, (ArraySpec("x", (1, 2), "float32"),), 3),
        EntrySpec({"a": 1}, (ArraySpec("x", (2,), "float64"),), 3),
    ]
    assert len({spec.identity, *(other.identity for other in others)}) == 6


def test_an_entry_is_built_once_and_opened_afterwards(store):
    spec, produce = small("a")
    assert store.open(spec) is None
    assert not store.folder.exists()
    counting = Counting(produce)
    store.build(spec, counting, 4).close()
    store.build(spec, counting, 4).close()
    assert counting.rows == list(range(10))
    assert names(store.folder) == [spec.identity]


def test_an_entry_is_on_the_disk_before_it_is_used(tmp_path, monkeypatch):
    spec, produce = small("durable")
    synced, fsync = set(), os.fsync

    def noting(descriptor):
        fsync(descriptor)
        found = os.fstat(descriptor)
        held = frozenset(names(tmp_path)) if found.st_ino == tmp_path.stat().st_ino else found.st_size
        synced.add((found.st_ino, held if stat.S_ISREG(found.st_mode) or isinstance(held, frozenset) else "folder"))

    monkeypatch.setattr(os, "fsync", noting)
    with Store(tmp_path).build(spec, produce, 4) as entry:
        for file in entry.path.iterdir():
            assert (file.stat().st_ino, file.stat().st_size) in synced, file.name
        assert (entry.path.stat().st_ino, "folder") in synced
    # The name of the entry too: the folder was synced after the rename.
    assert any(isinstance(held, frozenset) and spec.identity in held for _, held in synced)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_checksums_do_not_depend_on_the_batch_size(store, batch_size):
    entry = store.build(WIDE, wide, batch_size)
    entry.verify()
    data = wide(np.arange(10))[0].numpy().tobytes()
    expected = [zlib.crc32(data[start : start + 900_000]) for start in range(0, 3_000_000, 900_000)]
    assert json.loads((entry.path / "entry.json").read_text())["arrays"][0]["checksums"] == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda rows: (), "0 arrays were produced for the 1 of the entry"),
        (lambda rows: (torch.zeros(len(rows), 99, dtype=torch.uint8),), r"x: uint8 \(4, 99\) was produced instead of"),
        (lambda rows: (torch.zeros(len(rows), 100),), r"x: float32 \(4, 100\) was produced instead of uint8"),
    ],
)
def test_produced_values_that_are_not_the_specs_are_an_error(store, values, message):
    with pytest.raises(ValueError, match=message):
        store.build(small("a")[0], values, 4)
    assert names(store.folder) == []


def test_an_error_of_the_producer_passes_through_and_leaves_no_entry(store):
    spec, produce = small("a")

    def failing(rows):
        if 8 in rows:
            raise FileNotFoundError("the eighth image")
        return produce(rows)

    with pytest.raises(FileNotFoundError, match="the eighth image"):
        store.build(spec, failing, 4)
    assert names(store.folder) == []
    assert torch.equal(store.build(spec, produce, 4).read([8])[0], torch.from_numpy(produce(np.array([8]))[0]))


# --- damage ---------------------------------------------------------------------------------------------------------


def flip(path, offset):
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 1]))


def edit(folder, **changes):
    metadata = json.loads((folder / "entry.json").read_text())
    (folder / "entry.json").write_text(json.dumps({**metadata, **changes}))


DAMAGES = {
    "a flipped bit": (lambda e: flip(e / "0.bin", 4_000_000 - 1_200_000), "chunk 3 has a wrong checksum"),
    "cut short": (lambda e: os.truncate(e / "0.bin", 2_999_999), "0.bin has 2,999,999 bytes instead of 3,000,000"),
    "too long": (lambda e: os.truncate(e / "0.bin", 3_000_001), "0.bin has 3,000,001 bytes instead of 3,000,000"),
    "no array": (lambda e: (e / "0.bin").unlink(), "0.bin: No such file or directory"),
    "no metadata": (lambda e: (e / "entry.json").unlink(), "entry.json is missing"),
    "no marker": (lambda e: (e / "used").unlink(), "used is missing"),
    "empty metadata": (lambda e: (e / "entry.json").write_text(""), "entry.json: Expecting value"),
    "half metadata": (lambda e: os.truncate(e / "entry.json", 40), "entry.json: "),
    "not text": (lambda e: (e / "entry.json").write_bytes(b"\xff\xfe\x00"), "entry.json: "),
    "another version": (lambda e: edit(e, schema_version=2), "entry.json: schema_version: "),
    "an unknown field": (lambda e: edit(e, extra=1), "entry.json: extra: "),
    "another entry": (lambda e: edit(e, key={"line": "other"}), "entry.json describes another entry"),
    "other checksums": (
        lambda e: edit(e, arrays=[{**json.loads((e / "entry.json").read_text())["arrays"][0], "checksums": [1]}]),
        "0.bin has 1 checksums instead of 4",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_not_opened_and_is_built_again(store, damage, caplog):
    inflict, message = DAMAGES[damage]
    store.build(WIDE, wide, 4).close()
    inflict(store.folder / WIDE.identity)

    assert store.open(WIDE) is None
    assert message in caplog.text
    counting = Counting(wide)
    entry = store.build(WIDE, counting, 4)
    assert counting.rows == list(range(10))
    assert torch.equal(entry.read(np.arange(10))[0], wide(np.arange(10))[0])
    assert names(store.folder) == [WIDE.identity]


def test_large_entries_are_compared_chunk_by_chunk_at_first_touch(store, way, monkeypatch):
    monkeypatch.setattr(entries, "CHECK_ON_OPEN_BYTES", 0)
    store.build(WIDE, wide, 4).close()
    flip(store.folder / WIDE.identity / "0.bin", 4 * 300_000)

    entry = store.open(WIDE)
    untouched = np.array([9, 2, 7])
    assert torch.equal(entry.read(untouched)[0], wide(untouched)[0])
    # Row 5 itself is whole; it shares the checksum of row 4.
    for _ in range(2):
        with pytest.raises(DamagedEntryError, match=r"0.bin: chunk 1 has a wrong checksum"):
            entry.read([5])
    assert torch.equal(entry.read(untouched)[0], wide(untouched)[0])
    with pytest.raises(DamagedEntryError, match="chunk 1"):
        entry.verify()


def test_a_damage_that_shows_while_reading_is_built_again_under_the_reader(store, way, monkeypatch, caplog):
    monkeypatch.setattr(entries, "CHECK_ON_OPEN_BYTES", 0)
    store.build(WIDE, wide, 4).close()
    flip(store.folder / WIDE.identity / "0.bin", 4 * 300_000)

    counting = Counting(wide)
    entry, other = store.build(WIDE, counting, 4), store.build(WIDE, counting, 4)
    assert counting.rows == []
    assert torch.equal(entry.read([5, 0])[0], wide(np.array([5, 0]))[0])
    assert counting.rows == list(range(10))
    assert "chunk 1 has a wrong checksum; it is built again" in caplog.text
    assert entry.note == ""
    # The other one meets the same damage and finds the new build.
    assert torch.equal(other.read([5])[0], wide(np.array([5]))[0])
    assert counting.rows == list(range(10))
    store.prune(0)
    assert names(store.folder) == [WIDE.identity]
    other.close()
    entry.close()
    store.prune(0)
    assert names(store.folder) == []


def test_a_file_cut_short_under_the_reader_is_a_damage_and_not_a_crash(store, way):
    store.build(WIDE, wide, 4).close()
    entry = store.open(WIDE)
    entry.read([9])
    os.truncate(store.folder / WIDE.identity / "0.bin", 100)
    with pytest.raises(DamagedEntryError, match=r"0.bin has 100 bytes instead of 3,000,000"):
        entry.read([9])


def test_where_the_store_refuses_a_damaged_entry_is_computed_on_the_fly(store, monkeypatch):
    spec = EntrySpec({"x": 1}, (ArraySpec("x", (4,), "float32", stored_as="bfloat16"),), 6)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    entry = store.build(spec, lambda rows: (x[rows],), 2)
    os.truncate(store.folder / spec.identity / "0.bin", 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))

    rows = np.array([5, 1])
    assert torch.equal(entry.read(rows)[0], x[rows].bfloat16().float())
    assert entry.note.startswith("computed on the fly: not stored: ")
    assert torch.equal(entry.read(rows)[0], x[rows].bfloat16().float())
    assert names(store.folder) == []


def test_what_one_job_has_compared_the_next_need_not(store, monkeypatch):
    store.build(WIDE, wide, 4).close()
    compared = []
    crc32 = zlib.crc32
    monkeypatch.setattr(zlib, "crc32", lambda data: compared.append(len(data)) or crc32(data))
    store.open(WIDE).close()
    assert compared == [900_000, 900_000, 900_000, 300_000]
    with store.open(WIDE) as entry:
        entry.read(np.arange(10))
    assert len(compared) == 4
    entry = store.open(WIDE)
    entry.verify()
    assert len(compared) == 8


# --- budget and refusals --------------------------------------------------------------------------------------------


def used_at(store, spec, when):
    os.utime(store.folder / spec.identity / "used", (when, when))


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


# --- processes ------------------------------------------------------------------------------------------------------


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


# --- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not LINUX, reason="reads /proc/self/maps")
def test_files_are_mapped_up_to_a_bound(store, monkeypatch):
    monkeypatch.setattr(stored_arrays, "MAPPED_BYTES", stored_arrays._mapped_bytes._taken + 2500)

    def mapped():
        return sum(str(store.folder) in line for line in Path("/proc/self/maps").read_text().splitlines())

    opened = []
    for name, expected in (("a", 1), ("b", 2), ("c", 2)):
        spec, produce = small(name)
        opened.append(store.build(spec, produce, 10))
        assert mapped() == expected
        assert torch.equal(opened[-1].read([4, 2])[0], torch.from_numpy(produce(np.array([4, 2]))[0]))
    opened[0].close()
    assert mapped() == 1
    spec, produce = small("d")
    opened.append(store.build(spec, produce, 10))
    assert mapped() == 2


MEMORY = """
    import sys
    from pathlib import Path
    import numpy as np, torch
    from thawline.store.store import ArraySpec, EntrySpec, Store

    def status(field):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(field))

    store = Store(Path(sys.argv[1]))
    def entry(samples):
        spec = EntrySpec({}, (ArraySpec("x", (12_800,), "float32"),), samples)
        return store.build(spec, lambda rows: (torch.ones(len(rows), 12_800) * torch.from_numpy(rows)[:, None],), 64)
    entry(64).read(np.arange(64))
    files, peak = status("RssFile"), status("VmHWM")
    large = entry(3_200)
    assert large.spec.array_bytes == 163_840_000
    order = np.random.default_rng(0).permutation(3_200)
    for start in range(0, 3_200, 64):
        rows = order[start : start + 64]
        assert (large.read(rows)[0][:, -1].numpy() == rows).all()
    print(status("RssFile") - files, status("VmHWM") - peak)
"""


@pytest.mark.skipif(not LINUX, reason="reads /proc/self/status")
def test_memory_does_not_grow_with_the_entry(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY), tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    file_megabytes, peak_megabytes = map(int, done.stdout.split())
    assert file_megabytes < 20
    assert peak_megabytes < 60


# --- the rest -------------------------------------------------------------------------------------------------------


def test_files_can_be_read_by_others_as_the_umask_says(store):
    spec, produce = small("a")
    before = os.umask(0o022)
    try:
        store.build(spec, produce, 4).close()
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in (store.folder / spec.identity).iterdir()} == {0o644}


def test_status_of_entries(store):
    store.build(WIDE, wide, 4).close()
    spec, produce = small("a")
    entry = store.build(spec, produce, 4)
    used_at(store, WIDE, 5000)
    used_at(store, spec, 4000)
    first, second = store.entries()
    assert (first.identity, first.title, first.samples, first.last_used, first.state, first.key) == (
        WIDE.identity, "wide rows", 10, 5000.0, "whole", {"line": "wide"},
    )  # fmt: skip
    assert 3_000_000 < first.bytes <= WIDE.total_bytes
    assert (second.identity, second.state) == (spec.identity, "in use")
    flip(store.folder / WIDE.identity / "0.bin", 0)
    assert [status.state for status in store.entries()] == ["whole", "in use"]
    assert {status.identity: status.problem for status in store.verify()} == {
        WIDE.identity: "0.bin: chunk 0 has a wrong checksum",
        spec.identity: "",
    }
    entry.close()


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"),
     (2_100_000, "2.1 MB"), (10 * 2**30, "10.7 GB"), (3.2e12, "3.2 TB")],
)  # fmt: skip
def test_bytes_in_words(count, words):
    assert readable_bytes(count) == words
