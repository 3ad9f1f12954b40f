"""Counter-based randomness: every random number is a function of named counters, never of what ran before.

The augmentation of sample *i* in epoch *e* depends on (data seed, e, i) alone, the order of an epoch on (data seed,
e), the dropout of a step on (seed, step). So nothing depends on the number of workers, on the batch size, on a resume,
or on which other runs came before in the same process.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


def counter_seed(*key: int | str) -> int:
    """A 63-bit seed for the counters in `key`, the same on every machine and in every process."""
    text = "\x1f".join(f"{type(part).__name__}={part}" for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def counter_seeds(key: Sequence[int | str], names: Iterable[str]) -> NDArray[np.int64]:
    """The `counter_seed` of the counters in `key` and each of the n names in turn, shape (n,)."""
    beginning = hashlib.blake2b("".join(f"{type(part).__name__}={part}\x1f" for part in key).encode(), digest_size=8)

    def seed(name: str) -> int:
        digest = beginning.copy()
        digest.update(f"str={name}".encode())
        return int.from_bytes(digest.digest(), "big") >> 1

    return np.fromiter(map(seed, names), np.int64)


def generator(*key: int | str) -> np.random.Generator:
    """A NumPy generator for the counters in `key`."""
    return np.random.Generator(np.random.Philox(counter_seed(*key)))


def permutation(n: int, *key: int | str) -> NDArray[np.int64]:
    """A permutation of ``range(n)``, shape (n,), for the counters in `key`."""
    return generator(*key).permutation(n).astype(np.int64)


@contextlib.contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Within the block, torch's CPU randomness starts from the counters in `key`; afterwards it is as it was before.

    torchvision's v2 transforms draw from torch's generator alone, so this makes any of them counter-based.
    """
    import torch

    before = torch.get_rng_state()
    torch.default_generator.manual_seed(counter_seed(*key))
    try:
        yield
    finally:
        torch.set_rng_state(before)


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's CPU generator and that of `device`.

    ``torch.manual_seed`` also notes a call and its stack for every kind of device that is not in use: of a small
    model's training step that is a tenth, and the notes pile up.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
