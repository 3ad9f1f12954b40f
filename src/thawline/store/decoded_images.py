"""Decoded images: uint8 pixels at the transform's deterministic size, so that no run decodes a JPEG twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
    from thawline.store.production import Produce

    Decode = Callable[[Image], Tensor]

# Without the store, sets up to this size are decoded once and kept in memory.
IN_MEMORY_BYTES = 64 * 2**20
_BATCH_SIZE = 64
_MOST_AHEAD = 4
"""Batches of images that are decoded before they are read."""


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
    """The pixels of `images` (of those at `indices` only, where given); nothing is decoded before the first read.

    Args:
        store: Where they are kept; None (or a refusal of the store) keeps small sets in memory, and decodes large ones
            again at each read.
        images: The data set's images.
        transform_key: The deterministic part of the transform (JSON-able): it decides the pixels.
        decode: Image -> uint8 (3, H, W). It runs in threads, because Pillow decodes without Python's lock.
        size: (H, W).
        fingerprint: The SHA-256 of the data set's content.
        indices: The samples that will be read; default all.
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
    return DecodedImages(spec, _Decoder(images, decode, chosen), chosen, store)


class DecodedImages:
    """Images that are decoded at their first read: all of them where they can be kept, else at each read anew.

    In a store that has not room for both they give way to values at a thaw line, which save their reading, too: values
    are given their room before the images are read that they are computed from, and images that are kept already go
    where the store would refuse values.
    """

    def __init__(self, spec: EntrySpec, produce: _Decoder, indices: NDArray[np.int64], store: Store | None) -> None:
        self.spec = spec
        self._produce = produce
        self._indices = indices
        self._store = store
        self._kept: Entry | Tensor | None = None
        self._note = ""
        self._ahead: dict[bytes, list[Future[Tensor]]] = {}

    @property
    def note(self) -> str:
        """How they are kept, and why not in the store where they are not; empty before the first read."""
        return (self._kept.note or self._note) if isinstance(self._kept, Entry) else self._note

    @property
    def indices(self) -> NDArray[np.int64]:
        """The samples that can be read, ascending."""
        return self._indices

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def is_kept(self) -> bool:
        """Whether they are, so that a read only copies; false before the first read."""
        return self._kept is not None

    def keep(self) -> None:
        """Decode all of them now, if they can be kept; a no-op after the first call.

        Raises:
            UsageError: an image cannot be read (from `Images.read`, unchanged).
        """
        if self._note:
            return
        note = "kept in memory: the store is off"
        if self._store is not None:
            try:
                self._kept = self._store.build(
                    self.spec, self._produce, _BATCH_SIZE, spare=self._is_computed_from_these
                )
                self._store.lend(self.spec.identity, self._give_way)
                self._note = "from the store"
                return
            except StoreRefusedError as refusal:
                note = f"kept in memory: {refusal.reason}"
        self._keep_elsewhere(note, self._produce)

    def read(self, indices: NDArray[np.int64] | Sequence[int], *, pinned: bool = False) -> Tensor:
        """The images at these indices of the data set, uint8 (n, 3, H, W), page-locked if `pinned`.

        Raises:
            IndexError: an index is not among those that were asked for.
            UsageError: an image cannot be read.
        """
        self.keep()
        rows = self._rows(np.asarray(indices, np.int64))
        kept = self._kept
        if isinstance(kept, Entry):
            return kept.read(rows, pinned=pinned)[0]
        pixels = self._decoded_now(rows) if kept is None else kept[rows]
        return pixels.pin_memory() if pinned else pixels

    def read_ahead(self, indices: NDArray[np.int64]) -> None:
        """Begin to decode a batch that is read soon, if it is decoded at its read: meanwhile the device computes."""
        self.keep()
        if self._kept is None:
            rows = self._rows(indices)
            self._ahead[rows.tobytes()] = self._produce.begun(rows)
            while len(self._ahead) > _MOST_AHEAD:  # of an epoch that was broken off
                self._ahead.pop(next(iter(self._ahead)))

    def close(self) -> None:
        """Let the store evict them."""
        if isinstance(self._kept, Entry):
            self._kept.close()

    def _decoded_now(self, rows: NDArray[np.int64]) -> Tensor:
        import torch

        begun = self._ahead.pop(rows.tobytes(), None)
        return (
            computed(self.spec, self._produce, rows)[0] if begun is None else torch.stack([x.result() for x in begun])
        )

    def _keep_elsewhere(self, note: str, produce: Produce) -> None:
        """Keep a small set in memory; a large one is decoded again at each read."""
        if self.spec.array_bytes <= IN_MEMORY_BYTES:
            self._kept, self._note = _in_memory(self.spec, produce), note
        else:
            again = f"{readable_bytes(self.spec.array_bytes)} decoded again at each read"
            self._kept, self._note = None, note.replace("kept in memory", again)

    def _give_way(self) -> None:
        """Let the store have the room."""
        entry = self._kept
        if isinstance(entry, Entry):
            self._keep_elsewhere("kept in memory: they gave way to values at the thaw line", entry.read)
            entry.close()

    def _is_computed_from_these(self, key: Mapping[str, Any]) -> bool:
        return key.get("images") == self.spec.identity

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
        pool = ThreadPoolExecutor(max_workers=_threads())
        try:
            images = list(pool.map(self._one, self._indices[rows].tolist()))
        finally:
            pool.shutdown(cancel_futures=True)
        return (torch.stack(images),)

    def begun(self, rows: NDArray[np.int64]) -> list[Future[Tensor]]:
        """The pixels of each of these rows, (3, H, W), on their way."""
        pool = ThreadPoolExecutor(max_workers=_threads())
        try:
            return [pool.submit(self._one, index) for index in self._indices[rows].tolist()]
        finally:
            pool.shutdown(wait=False)

    def _one(self, index: int) -> Tensor:
        return self._decode(self._images.read(index))


def _threads() -> int:
    """As many as there are cores for this process, of those that read ahead together."""
    from torch.utils.data import get_worker_info

    worker = get_worker_info()
    return max(1, min(available_cores(), 16) // (1 if worker is None else worker.num_workers))


def _in_memory(spec: EntrySpec, produce: Produce) -> Tensor:
    import torch

    pixels = torch.empty((spec.samples, *spec.arrays[0].shape), dtype=torch.uint8)
    with step("decoding images", spec.samples) as advance:
        for start in range(0, spec.samples, _BATCH_SIZE):
            rows = np.arange(start, min(start + _BATCH_SIZE, spec.samples))
            pixels[start : start + _BATCH_SIZE] = computed(spec, produce, rows)[0]
            advance(len(rows))
    return pixels
