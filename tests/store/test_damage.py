"""Nothing damaged is ever used: it is built again, also under a reader."""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.store.small_entries import WIDE, Counting, flip, names, wide
from thawline.store import entries, stored_arrays
from thawline.store.store import ArraySpec, DamagedEntryError, EntrySpec, StoreRefusedError


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


def failing(call, file, number):
    """The call of `os`, but with an error of the machine where it opens or reads this file."""

    def fails(first, *arguments, **named):
        path = first if isinstance(first, (str, os.PathLike)) else Path(f"/proc/self/fd/{first}").readlink()
        if str(path) == str(file):
            raise OSError(number, os.strerror(number), str(file))
        return call(first, *arguments, **named)

    return fails


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ESTALE, errno.ETIMEDOUT])
def test_an_entry_that_the_machine_cannot_open_now_stays(store, number, monkeypatch, caplog):
    store.build(WIDE, wide, 4).close()
    folder = store.folder / WIDE.identity
    before = (folder / "0.bin").stat()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(os.open, folder / "0.bin", number))
        assert store.open(WIDE) is None
        assert f"{folder} is not used: not read: [Errno {number}] {os.strerror(number)}" in caplog.text
        assert store.draft(WIDE) is None
        with pytest.raises(StoreRefusedError, match=f"not read: .*{os.strerror(number)}"):
            store.build(WIDE, wide, 4)
        (found,) = store.verify()
        assert (found.state, os.strerror(number) in found.problem) == ("not readable now", True)
    assert (folder / "0.bin").stat() == before
    counting = Counting(wide)
    assert torch.equal(store.build(WIDE, counting, 4).read([7])[0], wide(np.array([7]))[0])
    assert counting.rows == []


def test_an_entry_that_cannot_be_read_now_is_computed_on_the_fly_and_stays(store, monkeypatch):
    monkeypatch.setattr(stored_arrays, "MAPPED_BYTES", 0)
    store.build(WIDE, wide, 4).close()
    file = store.folder / WIDE.identity / "0.bin"
    before = file.stat()
    entry, alone = store.build(WIDE, wide, 4), store.open(WIDE)
    monkeypatch.setattr(os, "preadv", failing(os.preadv, file, errno.ESTALE))
    assert torch.equal(entry.read([5, 0])[0], wide(np.array([5, 0]))[0])
    assert entry.note.startswith(f"computed on the fly: not read: [Errno {errno.ESTALE}]")
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        alone.read([5])
    assert file.stat() == before
