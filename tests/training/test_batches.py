"""Every image of an epoch is in one batch, and no batch has one image alone."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from tests.conftest import TINY
from thawline.optimization.batch_sizes import batch_sizes
from thawline.training.batches import Batch, Batches, Shard, ShuffledBatches, SplitData
from thawline.transforms import Placement


@pytest.mark.parametrize(
    ("images", "batch_size", "expected"),
    [
        (64, 16, [16, 16, 16, 16]),
        (65, 64, [33, 32]),
        (129, 64, [64, 33, 32]),
        (96, 64, [64, 32]),
        (95, 64, [48, 47]),
        (5, 2, [2, 3]),
        (3, 2, [3]),
        (4, 3, [2, 2]),
        (3, 1, [1, 1, 1]),
        (1, 64, [1]),
        (7, 64, [7]),
        (0, 64, []),
    ],
)
def test_a_small_last_batch_shares_with_the_one_before(images, batch_size, expected):
    assert batch_sizes(images, batch_size) == expected


class Readers:
    """Inputs and targets that say which process has read them."""

    def __init__(self, at_hand: bool) -> None:
        self.at_hand = at_hand

    def read(self, epoch, rows):
        return (torch.full((len(rows),), os.getpid()),)

    def open(self):
        pass

    def read_ahead(self, rows):
        pass


@pytest.mark.parametrize("at_hand", [True, False])
def test_what_is_at_hand_is_read_in_this_process(at_hand):
    parts = {"val": SplitData(np.arange(4), Readers(at_hand), Readers(at_hand))}
    batches = Batches(parts, batch_size=2, eval_batch_size=2, data_seed=0, workers=1)
    readers = {int(reader) for batch in batches.loader("val") for reader in batch.inputs[0]}
    assert (readers == {os.getpid()}) == at_hand


def test_a_batch_moves_to_a_device_with_all_tensors_of_its_targets():
    place = Placement((4, 6), (2, 3), 0, 0, 2, 3)
    targets = [{"mask": torch.zeros(4, 6), "placement": place}, {"mask": torch.zeros(2, 2), "placement": place}]
    batch = Batch((torch.zeros(2, 3),), targets, torch.arange(2), 0.5)
    moved = batch.to(torch.device("meta"))
    tensors = [*moved.inputs, moved.rows, *(target["mask"] for target in moved.targets)]
    assert [(tensor.device.type, tuple(tensor.shape)) for tensor in tensors] == [
        ("meta", (2, 3)), ("meta", (2,)), ("meta", (4, 6)), ("meta", (2, 2)),
    ]  # fmt: skip
    assert [target["placement"] for target in moved.targets] == [place, place]
    assert moved.share == 0.5


def test_every_image_is_in_an_epoch_once_and_in_the_same_batch_on_any_number_of_devices():
    for images in range(8, 70):
        rows = np.arange(100, 100 + images)
        sizes = batch_sizes(images, 8)
        assert sum(sizes) == images
        assert min(sizes) >= 4
        whole = [set(own) for _, own, _ in ShuffledBatches(rows, 8, 3, Shard(), 0)]
        ranks = [list(ShuffledBatches(rows, 8, 3, Shard(rank, 2), 0)) for rank in range(2)]
        assert set().union(*whole) == set(rows)
        assert len(whole) == len(sizes) == len(ranks[0]) == len(ranks[1])
        for batch, (_, one, share), (_, other, rest) in zip(whole, *ranks, strict=True):
            assert set(one) | set(other) == batch
            assert min(len(one), len(other)) >= 2
            assert share + rest == pytest.approx(2.0)


# 21 training images in batches of 20 or 2: the last one would be one image alone, whose last maps have one pixel.
ONE_LEFT = ("freeze_policy=full", "dataset.n_per_class=3", "dataset.classes=[0,1,2,3,4,5,6]")


@pytest.mark.parametrize("batch_size", [20, 2])
def test_batch_norm_trains_where_one_image_would_be_left_over(train, batch_size):
    stored, whole = (
        train(
            *ONE_LEFT,
            "trainer.max_epochs=1",
            f"trainer.batch_size={batch_size}",
            f"cache.mode={mode}",
            f"output_dir={mode}",
        )
        for mode in ("on", "off")
    )
    assert stored.splits["train"].samples % batch_size == 1
    assert stored.history[0]["train/loss"] == pytest.approx(whole.history[0]["train/loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("trainer.batch_size=1",),
            "trainer.batch_size: 1 leaves batches of one image, and phase 'train' trains a batch",
        ),
        (("trainer.batch_size=2", "trainer.devices=2"), "batches of one image on each of 2 devices"),
        (("trainer.batch_size=1", "trainer.devices=2"), "a training batch of 1 image cannot be shared by 2 devices"),
    ],
)
def test_what_batch_norm_cannot_train_on_is_refused_before_training(thawline, overrides, message):
    result = thawline("train", *TINY, "freeze_policy=full", *overrides)
    assert (result.status, "Traceback" in result.err) == (2, False)
    assert message in result.err


def test_batches_of_one_image_are_fine_where_no_batch_norm_trains(train):
    assert train("freeze_policy=linear_probe", "trainer.batch_size=1", "trainer.max_epochs=1").status == "done"
