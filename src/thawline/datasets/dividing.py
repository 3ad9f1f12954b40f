"""Train, val and test of a data set: by its own division, and cut where it has none."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from thawline.datasets.cuts import rounded
from thawline.datasets.pools import Division, Pool
from thawline.datasets.splits import PARTS, Part
from thawline.datasets.stratified import cut_part, first_of
from thawline.errors import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    _Cut = tuple[NDArray[np.int64], NDArray[np.int64]]
    _Parts = dict[Part, NDArray[np.int64]]

_TEST_SEED = 0
"""The test part is cut by this seed whatever the data seed, so that all runs are evaluated on the same images."""


class Amounts(NamedTuple):
    """How much goes where: the shares of train that are cut, and how many images train and val may have together."""

    val_fraction: float
    test_fraction: float
    n_train_val: int | None = None


def divided(pool: Pool, division: Division, amounts: Amounts, data_seed: int) -> tuple[_Parts, list[str]]:
    """The images of each part (n,), ascending, before a subset of train is drawn; and what a record has to note.

    Test is cut first, then train and val are limited together, then val is cut.

    Raises:
        UsageError: there are too few images for a part.
    """
    part_of = np.asarray(pool.parts)
    parts = {part: np.flatnonzero(part_of == part).astype(np.int64) for part in PARTS}
    notes = []
    if not len(parts["test"]):
        cut = functools.partial(division.cut, share=amounts.test_fraction, seed=_TEST_SEED)
        notes.append(_cut_from_train(pool, parts, "test", cut, "the same for every data seed"))
    if amounts.n_train_val is not None:
        notes += _limit(pool, parts, amounts.n_train_val, amounts.val_fraction, data_seed)
    if not len(parts["val"]):
        # Of few images the number of validation images is to be exact, and not rounded class by class.
        by = division.cut if amounts.n_train_val is None else cut_part
        cut = functools.partial(by, share=amounts.val_fraction, seed=data_seed)
        notes.append(_cut_from_train(pool, parts, "val", cut, f"by data seed {data_seed}"))
    return parts, notes


def _cut_from_train(pool: Pool, parts: _Parts, part: Part, cut: Callable[..., _Cut], how: str) -> str:
    """Cut a part from train, in place; returns a note of it."""
    train = parts["train"]
    parts["train"], parts[part] = cut(pool, train, part=part)
    alike = len(train) - len(np.unique(pool.pixels_number[train]))
    together = f"; {alike} are copies of others, and copies stay in one part" if alike else ""
    return f"the set has no {part} part: {counted(len(parts[part]), 'image')} cut from train, {how}{together}"


def _limit(pool: Pool, parts: _Parts, count: int, val_fraction: float, data_seed: int) -> list[str]:
    """Keep `count` images of train and val together, in place; returns a note where there are fewer."""
    # A validation part of the set's own stays one: its share comes from there.
    of_val = min(max(rounded(count * val_fraction), 1), count - 1) if len(parts["val"]) else 0
    most: dict[Part, int] = {"train": count - of_val, "val": of_val}
    for part in most:
        if len(parts[part]) > most[part]:
            parts[part] = first_of(pool, parts[part], most[part], data_seed)
    kept = sum(len(parts[part]) for part in most)
    if kept == count:
        return []
    short = " and ".join(f"{len(parts[part])} for {part}" for part in most if most[part])
    return [f"dataset.n_train_val asks for {counted(count, 'image')}, and there are fewer: {short} are all"]
