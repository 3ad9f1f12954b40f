"""What computes the values of an entry, checked against what the entry says that it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from thawline.store.contents import EntrySpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    # Indices (B,) -> one array (B, *shape) per `ArraySpec` of the entry.
    Produce = Callable[[NDArray[np.int64]], Sequence[NDArray[Any] | Tensor]]


def computed(spec: EntrySpec, produce: Produce, rows: NDArray[np.int64]) -> tuple[Tensor, ...]:
    """The values of `rows` computed now, rounded as the store would have rounded them."""
    import torch

    values = produce(rows)
    check_produced(spec, rows, values)
    return tuple(
        torch.as_tensor(value).detach().cpu().to(getattr(torch, array.stored_as)).to(getattr(torch, array.dtype))
        for array, value in zip(spec.arrays, values, strict=True)
    )


def check_produced(spec: EntrySpec, rows: NDArray[np.int64], values: Sequence[NDArray[Any] | Tensor]) -> None:
    """Raise a `ValueError` where the number, shapes or dtypes of the `values` of `rows` are not what `spec` says."""
    if len(values) != len(spec.arrays):
        raise ValueError(f"{len(values)} arrays were produced for the {len(spec.arrays)} of the entry")
    for array, value in zip(spec.arrays, values, strict=True):
        shape, dtype = (len(rows), *array.shape), str(value.dtype).removeprefix("torch.")
        if tuple(value.shape) != shape or dtype != array.dtype:
            found = f"{dtype} {tuple(value.shape)}"
            raise ValueError(f"{array.name}: {found} was produced instead of {array.dtype} {shape}")
