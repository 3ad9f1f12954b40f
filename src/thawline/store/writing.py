"""How the files of an entry are written: row after row, one file for each array, with checksums."""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from thawline.store.contents import MARKER_FILE, METADATA_FILE, ArraySpec, EntrySpec, Metadata, array_file
from thawline.store.production import check_produced
from thawline.store.refusals import StoreRefusedError, refusing

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from thawline.store.production import Produce


def write_arrays(folder: Path, spec: EntrySpec, produce: Produce, batch_size: int) -> list[list[int]]:
    """Produce all rows into the files of `folder`, in batches of consecutive rows; the checksums, a list per array.

    Raises:
        StoreRefusedError: a file cannot be written.
        ValueError: `produce` gave something else than the spec says.
    """
    writers = [_ArrayWriter(array_file(folder, number), array) for number, array in enumerate(spec.arrays)]
    try:
        for start in range(0, spec.samples, batch_size):
            rows = np.arange(start, min(start + batch_size, spec.samples), dtype=np.int64)
            values = produce(rows)
            check_produced(spec, rows, values)
            for writer, value in zip(writers, values, strict=True):
                writer.append(value)
        return [writer.finish() for writer in writers]
    finally:
        for writer in writers:
            writer.close()


def write_metadata(folder: Path, metadata: Metadata) -> None:
    """Finish the files of an entry: its marker and its metadata."""
    for name, data in ((MARKER_FILE, b""), (METADATA_FILE, metadata.to_bytes())):
        with (folder / name).open("wb") as stream:
            _append(stream, data)
            _flush(stream)
    flush_folder(folder)


def flush_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _ArrayWriter:
    """Appends rows to a file and keeps the checksum of every chunk of rows."""

    def __init__(self, path: Path, spec: ArraySpec) -> None:
        self._spec = spec
        self._checksums: list[int] = []
        self._rows = 0
        with refusing("not stored"):
            self._stream = path.open("r+b")

    def append(self, value: NDArray[Any] | Tensor) -> None:
        rows = _stored_bytes(self._spec, value)
        start = 0
        while start < len(rows):
            inside = self._rows % self._spec.rows_per_chunk
            piece = rows[start : start + self._spec.rows_per_chunk - inside]
            if inside == 0:
                self._checksums.append(0)
            self._checksums[-1] = zlib.crc32(piece.data, self._checksums[-1])
            with refusing("not stored"):
                _append(self._stream, piece)
            self._rows += len(piece)
            start += len(piece)

    def finish(self) -> list[int]:
        with refusing("not stored"):
            _flush(self._stream)
        return self._checksums

    def close(self) -> None:
        # After a failed write the buffer is flushed once more, in vain; the failure itself is on its way already.
        with contextlib.suppress(OSError):
            self._stream.close()


def _append(stream: IO[bytes], data: Any) -> None:
    stream.write(data)


def _flush(stream: IO[bytes]) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _stored_bytes(spec: ArraySpec, value: NDArray[Any] | Tensor) -> NDArray[np.uint8]:
    """The bytes of a batch as they lie on disk, shape (B, row_bytes).

    Raises:
        StoreRefusedError: finite values would become infinite.
    """
    import torch

    tensor = torch.as_tensor(value).detach().cpu()
    stored = tensor.to(getattr(torch, spec.stored_as)).contiguous()
    if spec.stored_as != spec.dtype and not torch.equal(torch.isinf(stored), torch.isinf(tensor)):
        raise StoreRefusedError(f"not stored: {spec.name} has values beyond the range of {spec.stored_as}")
    found: NDArray[np.uint8] = stored.reshape(-1).view(torch.uint8).numpy().reshape(len(stored), spec.row_bytes)
    return found
