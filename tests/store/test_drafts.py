"""An entry that is written row after row beside another one: whole and visible, or not there."""

from __future__ import annotations

import logging
import os
import signal

import numpy as np
import pytest
import torch

from tests.store.small_entries import FORK, Counting, names, small
from thawline.store.file_locks import try_lock
from thawline.store.store import Store


def append(draft, produce, first, stop):
    rows = np.arange(first, stop)
    draft.append(rows, produce(rows))


def test_a_draft_is_seen_when_it_is_published(store):
    spec, produce = small("a")
    draft = store.draft(spec)
    append(draft, produce, 0, 6)
    assert (draft.is_whole, store.open(spec)) == (False, None)
    append(draft, produce, 6, 10)
    assert (draft.is_whole, store.open(spec)) == (True, None)
    with draft.publish() as entry:
        assert torch.equal(entry.read(np.arange(10))[0], torch.from_numpy(produce(np.arange(10))[0]))
    draft.discard()
    assert [status.state for status in store.verify()] == ["whole"]
    assert not (store.folder / f".{spec.identity}.lock").exists()


def test_what_is_discarded_leaves_nothing_and_can_be_made_again(store):
    spec, produce = small("a")
    draft = store.draft(spec)
    append(draft, produce, 0, 6)
    draft.discard()
    assert names(store.folder) == []
    store.build(spec, produce, 4).close()
    assert names(store.folder) == [spec.identity]


def test_rows_come_in_their_order(store):
    spec, produce = small("a")
    draft = store.draft(spec)
    append(draft, produce, 0, 4)
    for first in (0, 5):
        with pytest.raises(ValueError, match=f"rows {first} to {first + 3} were given where row 4 is next"):
            append(draft, produce, first, first + 4)
    draft.discard()


def test_there_is_one_draft_of_an_entry_and_none_of_one_that_is_there(store):
    spec, produce = small("a")
    draft = store.draft(spec)
    assert store.draft(spec) is None
    append(draft, produce, 0, 10)
    draft.publish().close()
    assert store.draft(spec) is None


def test_who_builds_an_entry_is_not_waited_for(store):
    spec, _ = small("a")
    store.folder.mkdir()
    with try_lock(store.folder / f".{spec.identity}.lock", create=True):
        assert store.draft(spec) is None
    store.draft(spec).discard()


def test_a_draft_counts_as_what_it_will_be_and_is_refused_without_an_error(tmp_path):
    (a, produce_a), (b, _) = small("a"), small("b")
    store = Store(tmp_path / "cache", a.array_bytes + b.total_bytes - 1)
    assert store.room() == store.max_bytes
    draft = store.draft(a)
    assert store.draft(b) is None
    assert store.room() < b.total_bytes
    append(draft, produce_a, 0, 10)
    entry = draft.publish()
    assert store.room() < b.total_bytes
    entry.close()
    assert store.room() == store.max_bytes


def test_a_folder_that_cannot_be_written_to_gives_no_draft(tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert Store(tmp_path / "cache").draft(small("a")[0]) is None


@pytest.fixture
def writer(store):
    """A process that has written the draft of an entry but for its last rows, and waits for `writer.go`."""
    reached, go = FORK.Event(), FORK.Event()
    spec, produce = small("a")

    def write():
        draft = store.draft(spec)
        append(draft, produce, 0, 6)
        reached.set()
        go.wait()
        append(draft, produce, 6, 10)
        draft.publish().close()

    process = FORK.Process(target=write)
    process.go = go
    process.start()
    assert reached.wait(60)
    yield process
    process.kill()
    process.join()


def test_who_needs_an_entry_waits_for_its_draft(store, writer, caplog):
    class Release(logging.Handler):
        def emit(self, record):
            assert record.getMessage().startswith("waiting for another process that builds ")
            writer.go.set()

    caplog.set_level(logging.INFO, logger="thawline.store.store")
    handler = Release()
    logging.getLogger("thawline.store.store").addHandler(handler)
    spec, produce = small("a")
    counting = Counting(produce)
    try:
        entry = store.build(spec, counting, 4)
    finally:
        logging.getLogger("thawline.store.store").removeHandler(handler)
    assert counting.rows == []
    assert torch.equal(entry.read(np.arange(10))[0], torch.from_numpy(produce(np.arange(10))[0]))


def test_a_draft_of_a_killed_process_is_never_taken_for_the_entry(store, writer):
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert [status.state for status in store.entries()] == ["unfinished"]
    spec, produce = small("a")
    assert store.open(spec) is None
    counting = Counting(produce)
    store.build(spec, counting, 4).close()
    assert counting.rows == list(range(10))
    assert names(store.folder) == [spec.identity]
