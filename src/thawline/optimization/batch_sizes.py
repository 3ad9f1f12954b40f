"""How an epoch's images are divided into batches."""

from __future__ import annotations


def batch_sizes(images: int, batch_size: int) -> list[int]:
    """The sizes of an epoch's batches, in order: every image is in one, and none is much smaller than the others.

    A last batch of less than half of `batch_size` shares with the one before it: each gets half of their images. So no
    batch has one image alone, which batch norm cannot normalise by, and several devices all have their share of every
    batch; the sizes depend neither on the network nor on the number of devices. Three images that are left for two
    batches of two are one batch. Batches of one image come of ``batch_size = 1`` or one image only.
    """
    full, rest = divmod(images, batch_size)
    sizes = [batch_size] * full + ([rest] if rest else [])
    if full and rest and (2 * rest < batch_size or rest == 1):
        both = batch_size + rest
        sizes[-2:] = [both - both // 2, both // 2] if both > 3 else [both]
    return sizes
