"""What looks at many images found, in a few arrays, and as the bytes that are kept of it."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thawline.datasets import image_files
from thawline.datasets.columns import Column, Digests
from thawline.datasets.looks import STAMP_BYTES, Content, Found, Looking, changed
from thawline.datasets.splits import Inspection

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FIXED = struct.Struct("<32s16s2L")
"""Digest of the content, digest of the pixels, height, width; then a problem and remarks as JSON, if there are any."""

_SEEN = np.dtype([("digest", "V16"), ("stamp", f"V{STAMP_BYTES}")])
"""What is kept of an image that was seen; half a digest tells it from others, and there may be a million."""


@dataclass(frozen=True)
class Inspections(Column[Inspection]):
    """One inspection for each of n images.

    Attributes:
        digests: Of their content.
        pixels: Of their pixels.
        sizes: (n, 2) height and width.
        unusual: By place, the inspections that found a problem or have remarks; with a problem, the rest counts here
            alone.
        stamps: n stamps of what was read (`thawline.datasets.looks.stamp`), one after the other; empty: not known.
    """

    digests: Sequence[str]
    pixels: Sequence[str]
    sizes: NDArray[np.int64]
    unusual: Mapping[int, Inspection]
    stamps: bytes = b""

    @classmethod
    def of(cls, found: Sequence[Inspection]) -> Inspections:
        """These inspections."""
        if isinstance(found, Inspections):
            return found
        return cls(
            [each.digest for each in found],
            [each.pixels for each in found],
            np.array([each.size for each in found], dtype=np.int64).reshape(-1, 2),
            {place: each for place, each in enumerate(found) if each.problem is not None or each.remarks},
        )

    @classmethod
    def found(cls, found: Found) -> Inspections:
        """What `inspected` found."""
        starts = np.concatenate([[0], found.values.ends])
        lengths = np.diff(starts)
        unusual = {place: _decoded(found.values[place]) for place in np.flatnonzero(lengths > _FIXED.size).tolist()}
        unusual |= {place: Inspection("", problem) for place, problem in found.unread.items()}
        content = np.frombuffer(found.values.content, np.uint8)
        if (lengths == _FIXED.size).all():
            rows = content.reshape(-1, _FIXED.size)
        else:
            rows = np.zeros((len(lengths), _FIXED.size), np.uint8)
            read = np.flatnonzero(lengths)
            rows[read] = content[starts[read][:, None] + np.arange(_FIXED.size)]
        sizes = np.ascontiguousarray(rows[:, 48:]).view("<u4").astype(np.int64)
        digests, pixels = Digests(rows[:, :32].copy()), Digests(rows[:, 32:48].copy())
        return cls(digests, pixels, sizes, unusual, found.stamps)

    @property
    def problems(self) -> dict[int, str]:
        """By place, why an image cannot be used."""
        return {place: each.problem for place, each in self.unusual.items() if each.problem is not None}

    def __len__(self) -> int:
        return len(self.digests)

    def at(self, place: int) -> Inspection:
        """The inspection at a place."""
        if place in self.unusual:
            return self.unusual[place]
        height, width = self.sizes[place].tolist()
        return Inspection(self.digests[place], pixels=self.pixels[place], size=(height, width))


class Seen:
    """What the last look at images found of their content, so that others in their place are not taken for them."""

    def __init__(self) -> None:
        self._images = np.empty(0, _SEEN)

    def note(self, indices: Sequence[int], found: Inspections) -> Inspections:
        """Keep what was found in the images at these indices, which is given back."""
        self._images = np.zeros(max(indices, default=-1) + 1, _SEEN)
        places = np.asarray(indices, np.int64)
        digests = b"".join(bytes.fromhex(digest)[:16] for digest in found.digests)
        self._images["digest"][places] = np.frombuffer(digests, _SEEN["digest"])
        self._images["stamp"][places] = np.frombuffer(found.stamps, _SEEN["stamp"])
        return found

    def held(self, index: int, content: bytes, stamp: bytes, where: str | Path) -> bytes:
        """The content of an image, if it is the one that was seen; of one that was not looked at, any.

        It is hashed only where the stamp is another one: files are touched and copied, too.

        Args:
            index: Of the image.
            content: Its bytes.
            stamp: Of them when they had been read.
            where: Its place, for the message.

        Raises:
            UsageError: it is another image now.
        """
        digest, seen_stamp = self._images[index].item() if index < len(self._images) else (b"", b"")
        was_looked_at = any(digest)
        if was_looked_at and stamp != seen_stamp and hashlib.sha256(content).digest()[:16] != digest:
            raise changed("image", where)
        return content


def inspected(
    place: Path, keys: Sequence[str], opened: Callable[[int], Content], cache_dir: Path | None
) -> Inspections:
    """Hash and decode n images; those that did not change since an earlier look are not decoded again.

    Args:
        place: Where they lie.
        keys: n names, unique there.
        opened: The bytes of an image file, at an index.
        cache_dir: A folder that keeps what is found.
    """
    looking = Looking("reading the data set", "images", place, keys, opened, _examined)
    return Inspections.found(looking.all(cache_dir))


def _examined(content: bytes) -> bytes:
    """An inspection of an image file's bytes, as it is kept."""
    found = image_files.examine(content)
    fixed = _FIXED.pack(hashlib.sha256(content).digest(), bytes.fromhex(found.pixels), *found.size)
    if found.problem is None and not found.remarks:
        return fixed
    return fixed + json.dumps([found.problem, found.remarks]).encode()


def _decoded(value: bytes) -> Inspection:
    """The inspection that is kept with more than its fixed part."""
    digest, pixels, height, width = _FIXED.unpack(value[: _FIXED.size])
    problem, remarks = json.loads(value[_FIXED.size :])
    shown = pixels.hex() if problem is None else ""
    return Inspection(digest.hex(), problem, shown, tuple(remarks), (height, width))
