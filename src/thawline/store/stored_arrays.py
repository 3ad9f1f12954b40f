"""The arrays of an opened entry: rows gathered from their files.

Every mebibyte of them has a checksum, which is compared before this process uses a value from it for the first time.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thawline.files import is_temporary
from thawline.store.contents import ArraySpec, chunk_count
from thawline.store.refusals import DamagedEntryError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


# Files are memory-mapped until this much is mapped in the process, because mapped pages count as its memory although
# the page cache owns them. What is larger is read by position: 64 rows of 2 KB take 0.12 ms (mapped: 0.04 ms), of 50 KB
# 0.46 ms (mapped: 0.34 ms). Unmapping pages again and again (MADV_DONTNEED) took longer, 0.25 and 0.54 ms, and bounds
# nothing on kernels that map a whole large folio at each fault (Linux 6.18).
MAPPED_BYTES = 32 * 2**20


class StoredArray:
    """One array of an opened entry: rows gathered from its file, each chunk compared before its first use."""

    def __init__(self, path: Path, spec: ArraySpec, samples: int, checksums: Sequence[int], generation: str) -> None:
        self._path = path
        self._spec = spec
        self._checksums = checksums
        self._bytes = samples * spec.row_bytes
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise _damage(path, error) from error
        weakref.finalize(self, os.close, self._descriptor)
        found = self._check_size()
        expected = chunk_count(samples, spec)
        if len(checksums) != expected:
            raise DamagedEntryError(f"{path.name} has {len(checksums):,} checksums instead of {expected:,}")
        self._mapped: NDArray[np.uint8] | None = None
        if self._bytes and _mapped_bytes.take(self, self._bytes):
            mapped = mmap.mmap(self._descriptor, self._bytes, prot=mmap.PROT_READ)
            self._mapped = np.frombuffer(mapped, np.uint8).reshape(samples, spec.row_bytes)
        # Jobs of one process open the same entry one after the other: what one has compared, the next need not.
        mark = (generation, path.name, found.st_ino, found.st_mtime_ns)
        self._compared = _compared.setdefault(mark, np.zeros(len(checksums), np.bool_))

    def read(self, rows: NDArray[np.int64], pinned: bool) -> Tensor:
        """The `rows` as a new tensor of the spec's dtype, shape (len(rows), *shape)."""
        import torch

        # Touching a mapped page beyond the end of a truncated file would kill the process.
        self._check_size()
        chunks = rows // self._spec.rows_per_chunk
        if not self._compared[chunks].all():
            self._compare(np.unique(chunks))
        converted = self._spec.stored_as != self._spec.dtype
        out = torch.empty((len(rows), self._spec.row_bytes), dtype=torch.uint8, pin_memory=pinned and not converted)
        if self._mapped is not None:
            # The caller has checked the bounds; "clip" is the mode in which NumPy writes to `out` without a copy.
            np.take(self._mapped, rows, axis=0, out=out.numpy(), mode="clip")
        else:
            self._read_runs(rows, out.numpy().reshape(-1).data)
        stored = out.reshape(-1).view(getattr(torch, self._spec.stored_as)).view(len(rows), *self._spec.shape)
        if not converted:
            return stored
        return torch.empty(stored.shape, dtype=getattr(torch, self._spec.dtype), pin_memory=pinned).copy_(stored)

    def compare(self, *, again: bool) -> None:
        """Compare all checksums; those compared before only with `again`."""
        if again:
            self._compared[:] = False
        self._compare(np.arange(len(self._checksums)))

    def _read_runs(self, rows: NDArray[np.int64], out: memoryview) -> None:
        """Read the rows into `out`, consecutive ones at once."""
        row_bytes = self._spec.row_bytes
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1).tolist()
        for start, stop, first in zip(starts, [*starts, len(rows)][1:], rows[starts].tolist(), strict=True):
            self._read_at(first * row_bytes, out[start * row_bytes : stop * row_bytes])

    def _read_at(self, offset: int, out: memoryview) -> None:
        while out:
            try:
                count = os.preadv(self._descriptor, [out], offset)
            except OSError as error:
                raise _damage(self._path, error) from error
            if not count:
                raise DamagedEntryError(f"{self._path.name} ends at byte {offset:,}")
            offset += count
            out = out[count:]

    def _compare(self, chunks: NDArray[np.int64]) -> None:
        chunk_bytes = self._spec.rows_per_chunk * self._spec.row_bytes
        for chunk in chunks[~self._compared[chunks]].tolist():
            # Read also where the file is mapped: an error of the disk is then an exception and not a SIGBUS.
            offset = chunk * chunk_bytes
            data = bytearray(min(chunk_bytes, self._bytes - offset))
            self._read_at(offset, memoryview(data))
            if zlib.crc32(data) != self._checksums[chunk]:
                raise DamagedEntryError(f"{self._path.name}: chunk {chunk} has a wrong checksum")
            self._compared[chunk] = True

    def _check_size(self) -> os.stat_result:
        try:
            found = os.fstat(self._descriptor)
        except OSError as error:
            raise _damage(self._path, error) from error
        if found.st_size != self._bytes:
            raise DamagedEntryError(f"{self._path.name} has {found.st_size:,} bytes instead of {self._bytes:,}")
        return found


def _damage(path: Path, error: OSError) -> DamagedEntryError:
    """What an error of reading says of the entry; raises one again that says nothing of it."""
    if is_temporary(error):
        raise error
    return DamagedEntryError(f"{path.name}: {error.strerror}")


class _MappedBytes:
    """How much is mapped in this process, over all opened arrays."""

    def __init__(self) -> None:
        self._taken = 0
        # Reentrant, because a finalizer can run in the thread that holds it.
        self._guard = threading.RLock()

    def take(self, array: StoredArray, count: int) -> bool:
        """Count the bytes of `array` for as long as it lives, unless that is more than `MAPPED_BYTES` in total."""
        with self._guard:
            if self._taken + count > MAPPED_BYTES:
                return False
            self._taken += count
        weakref.finalize(array, self._give_back, count)
        return True

    def _give_back(self, count: int) -> None:
        with self._guard:
            self._taken -= count


_mapped_bytes = _MappedBytes()
_compared: dict[tuple[str, str, int, int], NDArray[np.bool_]] = {}
