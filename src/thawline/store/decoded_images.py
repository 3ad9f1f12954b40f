"""Decoded images: uint8 pixels at the transform's deterministic size, so that no run decodes a JPEG twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.runtime.cores import available_cores
from thawline.runtime.steps import step
from thawline.store.production import computed
from thawline.store.store import ArraySpec, Entry, EntrySpec, Store, StoreRefusedError, readable_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

    from thawline.datasets.splits import Images

    Decode = Callable[[Image], Tensor]

# Without the store, sets up to this size are decoded once and kept in memory.
IN_MEMORY_BYTES = 64 * 2**20
_BATCH_SIZE = 64


def decoded(
    store: Store | None,
    images: Images,
    transform_key: dict[str, Any],
    decode: Decode,
    size: tuple[int, int],
    *,
    fingerprint: str,
    indices: NDArray[np.int64] | None = None,
) -> DecodedImages:
    """The pixels of `images` (of those at `indices` only, where given), decoded once where the store takes them.

    Args:
        store: Where they are kept; None (or a refusal of the store) keeps small sets in memory, and decodes large ones
            again at each read.
        images: The data set's images.
        transform_key: The deterministic part of the transform (JSON-able): it decides the pixels.
        decode: Image -> uint8 (3, H, W). It runs in threads, because Pillow decodes without Python's lock.
        size: (H, W).
        fingerprint: The SHA-256 of the data set's content.
        indices: The samples that will be read; default all.

    Raises:
        UsageError: an image cannot be read (from `Images.read`, unchanged).
    """
    import PIL

    chosen = np.arange(len(images)) if indices is None else np.unique(indices)
    pixels = ArraySpec("pixels", (3, *size), "uint8")
    key = {
        "kind": "decoded images",
        "data": fingerprint,
        "indices": hashlib.sha256(chosen.astype("<i8").tobytes()).hexdigest(),
        "transform": transform_key,
        # Another version may decode the same file to other pixels.
        "pillow": PIL.__version__,
    }
    spec = EntrySpec(key, (pixels,), len(chosen), title=f"decoded images, {size[0]} x {size[1]}")
    produce = _Decoder(images, decode, chosen)
    note = "kept in memory: the store is off"
    if store is not None:
        try:
            return DecodedImages(spec, produce, chosen, store.build(spec, produce, _BATCH_SIZE), "from the store")
        except StoreRefusedError as refusal:
            note = f"kept in memory: {refusal.reason}"
    if spec.array_bytes <= IN_MEMORY_BYTES:
        return DecodedImages(spec, produce, chosen, _in_memory(spec, produce), note)
    note = note.replace("kept in memory", f"{readable_bytes(spec.array_bytes)} decoded again at each read")
    return DecodedImages(spec, produce, chosen, None, note)


class DecodedImages:
    """Where decoded images come from; `note` says in a few words how they are kept."""

    def __init__(
        self,
        spec: EntrySpec,
        produce: _Decoder,
        indices: NDArray[np.int64],
        kept: Entry | Tensor | None,
        note: str,
    ) -> None:
        self.spec = spec
        self._produce = produce
        self._indices = indices
        self._kept = kept
        self._note = note

    @property
    def note(self) -> str:
        """How they are kept, and why not in the store where they are not."""
        return (self._kept.note or self._note) if isinstance(self._kept, Entry) else self._note

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, indices: NDArray[np.int64] | Sequence[int], *, pinned: bool = False) -> Tensor:
        """The images at these indices of the data set, uint8 (n, 3, H, W), page-locked if `pinned`.

        Raises:
            IndexError: an index is not among those that were asked for.
        """
        rows = self._rows(np.asarray(indices, np.int64))
        if isinstance(self._kept, Entry):
            return self._kept.read(rows, pinned=pinned)[0]
        pixels = computed(self.spec, self._produce, rows)[0] if self._kept is None else self._kept[rows]
        return pixels.pin_memory() if pinned else pixels

    @property
    def indices(self) -> NDArray[np.int64]:
        """The samples that can be read, ascending."""
        return self._indices

    def close(self) -> None:
        """Let the store evict them."""
        if isinstance(self._kept, Entry):
            self._kept.close()

    def _rows(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        rows = np.searchsorted(self._indices, indices)
        found = rows < len(self._indices)
        found[found] = self._indices[rows[found]] == indices[found]
        if not found.all():
            raise IndexError(f"image {indices[~found][0]} is not among the {len(self._indices)} decoded ones")
        return rows.astype(np.int64)


class _Decoder:
    """Rows of the entry -> pixels, decoded in threads."""

    def __init__(self, images: Images, decode: Decode, indices: NDArray[np.int64]) -> None:
        self._images, self._decode, self._indices = images, decode, indices

    def __call__(self, rows: NDArray[np.int64]) -> tuple[Tensor]:
        """The pixels of these rows, uint8 (B, 3, H, W)."""
        import torch

        # Made anew for each batch (0.1 ms), so that nothing of it is left in a process that forks.
        pool = ThreadPoolExecutor(max_workers=min(available_cores(), 16))
        try:
            images = list(pool.map(self._one, self._indices[rows].tolist()))
        finally:
            pool.shutdown(cancel_futures=True)
        return (torch.stack(images),)

    def _one(self, index: int) -> Tensor:
        return self._decode(self._images.read(index))


def _in_memory(spec: EntrySpec, produce: _Decoder) -> Tensor:
    import torch

    pixels = torch.empty((spec.samples, *spec.arrays[0].shape), dtype=torch.uint8)
    with step("decoding images", spec.samples) as advance:
        for start in range(0, spec.samples, _BATCH_SIZE):
            rows = np.arange(start, min(start + _BATCH_SIZE, spec.samples))
            pixels[start : start + _BATCH_SIZE] = computed(spec, produce, rows)[0]
            advance(len(rows))
    return pixels
