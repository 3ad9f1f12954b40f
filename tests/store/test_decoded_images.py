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
from thawline.store.store import Store

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
    open_decoded(store, NumberedImages())
    images = NumberedImages()
    open_decoded(store, images, **changes)
    assert len(images.reads) >= N - 1
    assert len(store.entries()) == 2


def test_without_a_store_small_sets_are_decoded_once_into_memory(tmp_path):
    images = NumberedImages()
    source = open_decoded(None, images)
    assert source.note == "kept in memory: the store is off"
    for _ in range(2):
        assert torch.equal(source.read([5, 149]), expected(5, 149))
    assert sorted(images.reads) == list(range(N))


def test_without_room_large_sets_are_decoded_at_each_read(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded_images, "IN_MEMORY_BYTES", 100)
    images = NumberedImages()
    source = open_decoded(Store(tmp_path, 5000), images)
    assert source.note.startswith("13.5 kB decoded again at each read: not stored: 14.0 kB are more than")
    assert images.reads == []
    for _ in range(2):
        assert torch.equal(source.read([5, 149, 5]), expected(5, 149, 5))
    assert sorted(images.reads) == [5, 5, 5, 5, 149, 149]


@pytest.mark.parametrize("with_store", [True, False])
def test_an_unreadable_image_is_the_images_own_error_and_leaves_no_entry(store, with_store):
    with pytest.raises(UsageError, match=r"^dataset: image 77\.jpg cannot be read$"):
        open_decoded(store if with_store else None, NumberedImages(unreadable=77))
    assert store.entries() == []


def test_a_damage_is_decoded_again(store):
    images = NumberedImages()
    source = open_decoded(store, images)
    (status,) = store.entries()
    (store.folder / status.identity / "0.bin").write_bytes(b"")
    assert torch.equal(source.read([1, 2]), expected(1, 2))
    assert sorted(images.reads) == sorted([*range(N), *range(N)])
    assert source.note == "from the store"
