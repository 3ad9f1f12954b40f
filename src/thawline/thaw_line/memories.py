"""Which tensors share memory, by the number of the memory that they live in."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def storage_of(tensor: Tensor) -> int:
    """The address of the storage behind a tensor. After the storage is freed, another may have it."""
    return int(tensor.untyped_storage()._cdata)


class Memories:
    """Numbers the memories that tensors live in; a memory that is taken for another value gets a new number.

    Attributes:
        of_state: the memories of the model's parameters and buffers.
    """

    def __init__(self, states: Iterable[Tensor]) -> None:
        states = list(states)
        self._numbers = {storage_of(tensor): number for number, tensor in enumerate(states)}
        self._count = len(states)
        self.of_state = frozenset(self._numbers.values())

    def of(self, tensor: Tensor) -> int:
        """The number of the memory that a tensor lives in."""
        return self._numbers[storage_of(tensor)]

    def holds_state(self, tensor: Tensor) -> bool:
        """Whether a tensor lives in the memory of a parameter or buffer."""
        return self._numbers.get(storage_of(tensor)) in self.of_state

    def add(self, tensor: Tensor) -> None:
        """Number the memory of a new tensor."""
        self._numbers[storage_of(tensor)] = self._count
        self._count += 1
