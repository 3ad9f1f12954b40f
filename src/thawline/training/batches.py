"""Batches for a fit: which samples, in which order, from which source; the same whatever the workers and devices."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from thawline.optimization.batch_sizes import batch_sizes
from thawline.randomness import permutation
from thawline.tasks import Targets

Rows = NDArray[np.int64]
_AHEAD = 2
"""Batches that are announced before they are read."""


class Inputs(Protocol):
    """Where the model's inputs come from: decoded images, or the stored values of a thaw line."""

    @property
    def at_hand(self) -> bool:
        """Whether a batch only needs to be copied, once they are open: faster here than from another process."""
        ...

    def read(self, epoch: int, rows: Rows) -> tuple[torch.Tensor, ...]:
        """The inputs of these samples in this epoch, each tensor (len(rows), ...)."""
        ...

    def open(self) -> None:
        """Called before the first read, in the process that starts those that read."""
        ...

    def read_ahead(self, rows: Rows) -> None:
        """These samples are read soon, in this process."""
        ...


class Batch(NamedTuple):
    """A batch on one device.

    Attributes:
        inputs: tensors (B, ...), the model's or the suffix's inputs.
        targets: what the task wants of each image: a tensor (B, ...), or one entry an image.
        rows: (B,) int64, the samples' indices in their data set.
        share: this device's share in the mean over the whole batch, times the number of devices.
    """

    inputs: tuple[torch.Tensor, ...]
    targets: Any
    rows: torch.Tensor
    share: float

    def to(self, device: torch.device) -> Batch:
        """The same with every tensor on `device`."""
        return Batch(*(_moved(part, device) for part in self))


def _moved(part: Any, device: torch.device) -> Any:
    """What is no tensor stays as it is, such as the place of an image in its input; Lightning's own way refuses it."""
    if isinstance(part, torch.Tensor):
        if device.type != "cuda":
            return part.to(device)
        # A GPU copies from page-locked memory while it computes. This thread locks it: while a pass is recorded as a
        # CUDA graph, no other one may ask anything of the GPU.
        return (part if part.is_pinned() else part.pin_memory()).to(device, non_blocking=True)
    if isinstance(part, Mapping):
        return {name: _moved(value, device) for name, value in part.items()}
    if isinstance(part, (list, tuple)):
        return type(part)(_moved(value, device) for value in part)
    return part


@dataclass(frozen=True)
class SplitData:
    """One split as a fit reads it: rows of a data set, their targets and their inputs."""

    rows: Rows
    targets: Targets
    inputs: Inputs


@dataclass(frozen=True)
class Shard:
    """This process among those that share every batch."""

    rank: int = 0
    world_size: int = 1


class ShuffledBatches(Sampler[tuple[int, Rows, float]]):
    """The training batches of an epoch: a permutation keyed by (data seed, epoch), cut in batches, shared by the ranks.

    `batch_size` is that of all devices together, so the numbers do not depend on how many there are. Every sample is in
    one batch: see `batch_sizes`.
    """

    def __init__(self, rows: Rows, batch_size: int, data_seed: int, shard: Shard, first_epoch: int) -> None:
        self._rows, self._data_seed, self._shard = rows, data_seed, shard
        self._sizes = batch_sizes(len(rows), batch_size)
        self._first_epoch = first_epoch
        self._epoch = first_epoch

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch of a fit, with its number in the fit."""
        self._epoch = self._first_epoch + epoch

    def __iter__(self) -> Iterator[tuple[int, Rows, float]]:
        order = self._rows[permutation(len(self._rows), "order", self._data_seed, self._epoch)]
        rank, world_size = self._shard.rank, self._shard.world_size
        for batch in np.split(order, np.cumsum(self._sizes)[:-1]):
            own = batch[rank::world_size]
            yield self._epoch, own, world_size * len(own) / len(batch)

    def __len__(self) -> int:
        return len(self._sizes)


class OrderedBatches(Sampler[tuple[int, Rows, float]]):
    """Every sample exactly once: no padding, so that metrics over several devices are those of one.

    All devices have as many batches, since devices that shard the weights compute each one together.
    """

    def __init__(self, rows: Rows, batch_size: int, shard: Shard) -> None:
        own = rows[shard.rank :: shard.world_size]
        most = -(-len(rows) // shard.world_size)
        count = -(-most // batch_size)
        self._batches = [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
        if len(self._batches) < count and len(own):
            self._batches = np.array_split(own, count)

    def __iter__(self) -> Iterator[tuple[int, Rows, float]]:
        for batch in self._batches:
            yield 0, batch, 1.0

    def __len__(self) -> int:
        return len(self._batches)


class _Announced(Sampler[tuple[int, Rows, float]]):
    """The batches of a sampler, each announced to the inputs some batches before it is read."""

    def __init__(self, batches: ShuffledBatches | OrderedBatches, inputs: Inputs) -> None:
        self._batches, self._inputs = batches, inputs

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch of a fit, with its number in the fit."""
        if isinstance(self._batches, ShuffledBatches):
            self._batches.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[int, Rows, float]]:
        waiting: deque[tuple[int, Rows, float]] = deque()
        for batch in self._batches:
            self._inputs.read_ahead(batch[1])
            waiting.append(batch)
            if len(waiting) > _AHEAD:
                yield waiting.popleft()
        yield from waiting

    def __len__(self) -> int:
        return len(self._batches)


class _Reader(Dataset[Batch]):
    def __init__(self, part: SplitData) -> None:
        self._part = part

    def __getitem__(self, item: tuple[int, Rows, float]) -> Batch:
        epoch, rows, share = item
        targets = self._part.targets.read(epoch, rows)
        return Batch(self._part.inputs.read(epoch, rows), targets, torch.from_numpy(rows), share)


class Batches(LightningDataModule):
    """The loaders of a fit and of an evaluation over `parts` (train, val, test).

    Args:
        parts: the splits by name.
        batch_size: training batch over all devices; evaluation uses at least `eval_batch_size`.
        eval_batch_size: batch of an evaluation, per device.
        data_seed: decides the order of the epochs.
        workers: processes that read ahead what is not at hand; 0 reads in the training process.
        first_epoch: the epoch of the run at which this fit starts, so that phases go on with the stream.
    """

    def __init__(
        self,
        parts: dict[str, SplitData],
        *,
        batch_size: int,
        eval_batch_size: int,
        data_seed: int,
        workers: int = 0,
        shard: Shard = Shard(),
        first_epoch: int = 0,
    ) -> None:
        super().__init__()
        self._parts, self._batch_size, self._eval_batch_size = parts, batch_size, eval_batch_size
        self._data_seed, self._workers, self._shard, self._first_epoch = data_seed, workers, shard, first_epoch

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches of the training split."""
        part = self._parts["train"]
        order = ShuffledBatches(part.rows, self._batch_size, self._data_seed, self._shard, self._first_epoch)
        return self._loader(part, order)

    def first_of(self, epoch: int, batches: int) -> Iterator[list[Batch]]:
        """The first training batches of an epoch of the fit, whole in every process.

        Each comes in as many pieces as there are processes, which a device has memory for; their shares add up to 1.
        """
        part = self._parts["train"]
        order = ShuffledBatches(part.rows, self._batch_size, self._data_seed, Shard(), self._first_epoch)
        order.set_epoch(epoch)
        reader = _Reader(part)
        for number, rows, _ in itertools.islice(order, batches):
            pieces = np.array_split(rows, min(self._shard.world_size, len(rows)))
            yield [reader[number, piece, len(piece) / len(rows)] for piece in pieces]

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation split in order."""
        return self.loader("val")

    def loader(self, name: str) -> DataLoader[Batch]:
        """A split in order, every sample once."""
        part = self._parts[name]
        return self._loader(part, OrderedBatches(part.rows, self._eval_batch_size, self._shard))

    def _loader(self, part: SplitData, order: ShuffledBatches | OrderedBatches) -> DataLoader[Batch]:
        part.inputs.open()
        workers = 0 if part.inputs.at_hand else self._workers
        return DataLoader(
            _Reader(part),
            batch_size=None,
            sampler=order if workers else _Announced(order, part.inputs),
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_as_it_is,
            generator=torch.Generator(),
        )


def _as_it_is(batch: Any) -> Any:
    return batch
