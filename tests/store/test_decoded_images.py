"""Decoded images: the same pixels from the store, from memory and on the fly, each image decoded once where kept."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from PIL import Image

from thawline.errors import UsageError, usage_error
from thawline.store import decoded_images
from thawline.store.decoded_images import decoded
from thawline.store.store import ArraySpec, EntrySpec, Store, StoreRefusedError

N = 150
SIZE = (6, 5)


def pixels(index):
    return np.random.default_rng(index).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def expected(*indices):
    return torch.stack([torch.from_numpy(pixels(index)).permute(2, 0, 1) for index in indices])


@dataclass
class NumberedImages:
    """Images that remember which of them were read."""

    labels: np.ndarray = field(default_factory=lambda: np.zeros(N, np.int64))
    reads: list[int] = field(default_factory=list)
    unreadable: int = -1

    def __len__(self):
        return N

    def key(self, index):
        return str(index)

    def read(self, index):
        if index == self.unreadable:
            raise usage_error("dataset", f"image {index}.jpg cannot be read")
        self.reads.append(index)
        return Image.fromarray(pixels(index))


def decode(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def open_decoded(store, images, **changes):
    arguments = {"fingerprint": "f" * 64, "indices": None, **changes}
    transform_key = arguments.pop("transform_key", {"resize": "squash"})
    return decoded(store, images, transform_key, decode, SIZE, **arguments)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache", 10**8)


def test_every_image_is_decoded_once_for_all_runs(store):
    images = NumberedImages()
    for _ in range(2):
        source = open_decoded(store, images)
        found = source.read([149, 3, 3, 0])
        assert (found.dtype, source.note, len(source)) == (torch.uint8, "from the store", N)
        assert torch.equal(found, expected(149, 3, 3, 0))
        source.close()
    assert sorted(images.reads) == list(range(N))
    (status,) = store.entries()
    assert (status.title, status.samples) == ("decoded images, 6 x 5", N)


def test_only_the_wanted_images_are_decoded(store):
    images = NumberedImages()
    source = open_decoded(store, images, indices=np.array([70, 9, 140, 9]))
    assert torch.equal(source.read([140, 9]), expected(140, 9))
    assert sorted(images.reads) == [9, 70, 140]
    for index in (10, 149):
        with pytest.raises(IndexError, match=f"image {index} is not among the 3 decoded ones"):
            source.read([9, index])


@pytest.mark.parametrize(
    "changes",
    [{"fingerprint": "e" * 64}, {"transform_key": {"resize": "crop"}}, {"indices": np.arange(N - 1)}],
    ids=lambda changes: next(iter(changes)),
)
def test_other_data_transforms_and_subsets_are_other_entries(store, changes):
    open_decoded(store, NumberedImages()).keep()
    images = NumberedImages()
    open_decoded(store, images, **changes).keep()
    assert len(images.reads) >= N - 1
    assert len(store.entries()) == 2


def test_without_a_store_small_sets_are_decoded_once_into_memory(tmp_path):
    images = NumberedImages()
    source = open_decoded(None, images)
    assert (source.note, images.reads) == ("", [])
    source.keep()
    assert source.note == "kept in memory: the store is off"
    for _ in range(2):
        assert torch.equal(source.read([5, 149]), expected(5, 149))
    assert sorted(images.reads) == list(range(N))


def test_without_room_large_sets_are_decoded_at_each_read(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded_images, "IN_MEMORY_BYTES", 100)
    images = NumberedImages()
    source = open_decoded(Store(tmp_path, 5000), images)
    source.keep()
    assert source.note.startswith("13.5 kB decoded again at each read: not stored: 14.0 kB are more than")
    assert images.reads == []
    for _ in range(2):
        assert torch.equal(source.read([5, 149, 5]), expected(5, 149, 5))
    assert sorted(images.reads) == [5, 5, 5, 5, 149, 149]


@pytest.mark.parametrize("with_store", [True, False])
def test_an_unreadable_image_is_the_images_own_error_and_leaves_no_entry(store, with_store):
    with pytest.raises(UsageError, match=r"^dataset: image 77\.jpg cannot be read$"):
        open_decoded(store if with_store else None, NumberedImages(unreadable=77)).keep()
    assert store.entries() == []


def test_a_damage_is_decoded_again(store):
    images = NumberedImages()
    source = open_decoded(store, images)
    source.keep()
    (status,) = store.entries()
    (store.folder / status.identity / "0.bin").write_bytes(b"")
    assert torch.equal(source.read([1, 2]), expected(1, 2))
    assert sorted(images.reads) == sorted([*range(N), *range(N)])
    assert source.note == "from the store"


def values(source, bytes_per_sample):
    """An entry of values that are computed from these images."""
    key = {"kind": "thaw line", "images": source.spec.identity}
    spec = EntrySpec(key, (ArraySpec("x", (bytes_per_sample,), "uint8"),), N)

    def produce(rows):
        return (source.read(rows).flatten(1)[:, :bytes_per_sample],)

    return spec, produce


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("before", [True, False], ids=["images first", "values first"])
def test_images_give_way_to_values_that_are_computed_from_them(tmp_path, monkeypatch, before, in_memory):
    if not in_memory:
        monkeypatch.setattr(decoded_images, "IN_MEMORY_BYTES", 100)
    store = Store(tmp_path, 20_000)  # 13.5 kB of images and 9 kB of values
    images = NumberedImages()
    source = open_decoded(store, images)
    if before:
        source.keep()
        assert source.note == "from the store"
    spec, produce = values(source, 60)
    entry = store.build(spec, produce, 50)
    assert [status.identity for status in store.entries()] == [spec.identity]
    assert "not stored" in source.note or "gave way" in source.note
    assert torch.equal(entry.read([7, 149])[0], expected(7, 149).flatten(1)[:, :60])
    assert torch.equal(source.read([7, 149]), expected(7, 149))
    assert len(images.reads) == N + (0 if in_memory else 2 + N * before)
    entry.close()

    later = open_decoded(store, NumberedImages())
    later.keep()
    assert later.note.startswith("kept in memory" if in_memory else "13.5 kB decoded again at each read")
    assert [status.identity for status in store.entries()] == [spec.identity]
    other = open_decoded(store, NumberedImages(), fingerprint="e" * 64)
    other.keep()
    assert [status.identity for status in store.entries()] == [other.spec.identity]


def test_what_is_too_large_for_the_store_calls_nothing_back(store):
    source = open_decoded(store, NumberedImages())
    source.keep()
    spec, produce = values(source, 10**6)
    with pytest.raises(StoreRefusedError):
        store.build(spec, produce, 50)
    assert source.note == "from the store"


def test_a_batch_that_is_read_ahead_is_decoded_once(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded_images, "IN_MEMORY_BYTES", 100)
    images = NumberedImages()
    source = open_decoded(None, images)
    for first in range(0, 60, 10):
        source.read_ahead(np.arange(first, first + 10))
    for first in range(0, 60, 10):
        assert torch.equal(source.read(np.arange(first, first + 10)), expected(*range(first, first + 10)))
    # Four batches are kept: the first two were dropped as if they would never be read.
    assert sorted(images.reads) == sorted([*range(60), *range(20)])
    broken = open_decoded(None, NumberedImages(unreadable=3))
    broken.read_ahead(np.array([2, 3]))
    with pytest.raises(UsageError, match=r"image 3\.jpg cannot be read"):
        broken.read(np.array([2, 3]))
