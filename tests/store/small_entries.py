"""Small entries of the store, and what counts how often each is produced."""

from __future__ import annotations

import multiprocessing
import os

import numpy as np
import torch

from thawline.store.store import ArraySpec, EntrySpec

FORK = multiprocessing.get_context("fork")
# Rows of 300 KB: three share a checksum, so that 10 samples have chunks of 3, 3, 3 and 1 rows.
WIDE = EntrySpec({"line": "wide"}, (ArraySpec("x", (75_000,), "float32"),), 10, title="wide rows")


def wide(rows):
    return (torch.from_numpy(rows).float()[:, None] * 1000 + torch.arange(75_000) % 997,)


class Counting:
    """A `produce` that remembers which rows it was asked for."""

    def __init__(self, produce):
        self.produce = produce
        self.rows = []

    def __call__(self, rows):
        self.rows += rows.tolist()
        return self.produce(rows)


def small(name, samples=10, bytes_per_sample=100):
    """A spec of `samples` rows, and the function that makes them."""
    spec = EntrySpec({"name": name}, (ArraySpec("x", (bytes_per_sample,), "uint8"),), samples)
    return spec, lambda rows: (np.repeat(rows[:, None] % 251, bytes_per_sample, 1).astype(np.uint8),)


def names(folder):
    """What a folder holds besides locks."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def flip(path, offset):
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 1]))


def used_at(store, spec, when):
    os.utime(store.folder / spec.identity / "used", (when, when))
