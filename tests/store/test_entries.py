"""Entries of the store: exact values back, built once, and what is said of them."""

from __future__ import annotations

import json
import os
import shutil
import stat
import zlib

import numpy as np
import pytest
import torch

from tests.store.small_entries import WIDE, Counting, flip, names, small, used_at, wide
from thawline.store.store import ArraySpec, EntrySpec, Store, StoreRefusedError, readable_bytes


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


# What is said of entries


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
