"""How the files of an entry are written: row after row, one file for each array, with checksums."""

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from thawline.files import flush_folder
from thawline.store.contents import MARKER_FILE, METADATA_FILE, ArraySpec, EntrySpec, Metadata, array_file
from thawline.store.production import check_produced
from thawline.store.refusals import StoreRefusedError, refusing

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from thawline.runtime.steps import Advance
    from thawline.store.entries import Entry
    from thawline.store.production import Produce


class Draft:
    """An entry that is being written, row after row; nobody sees it before it is published.

    Args:
        folder: has the files of the entry in their final size.
        spec: what the entry holds.
        publish: makes the folder, whose arrays are written, the entry.
        held: locks that the draft takes over, and releases when it is published or discarded.
    """

    def __init__(
        self,
        folder: Path,
        spec: EntrySpec,
        publish: Callable[[Path, Metadata], Entry],
        held: contextlib.ExitStack,
    ) -> None:
        self._folder, self._spec, self._publish = folder, spec, publish
        self._rows = 0
        self._writers = [_ArrayWriter(array_file(folder, number), array) for number, array in enumerate(spec.arrays)]
        self._held = held.pop_all()

    @property
    def is_whole(self) -> bool:
        """Whether all rows have been appended."""
        return self._rows == self._spec.samples

    def append(self, rows: NDArray[np.int64], values: Sequence[NDArray[Any] | Tensor]) -> None:
        """Write the next rows.

        Raises:
            StoreRefusedError: a file cannot be written.
            ValueError: the values are not what the spec says, or the rows are not the next ones.
        """
        check_produced(self._spec, rows, values)
        if len(rows) and (rows[0] != self._rows or rows[-1] != self._rows + len(rows) - 1):
            raise ValueError(f"rows {rows[0]} to {rows[-1]} were given where row {self._rows} is next")
        for writer, value in zip(self._writers, values, strict=True):
            writer.append(value)
        self._rows += len(rows)

    def fill(self, produce: Produce, batch_size: int, advance: Advance) -> None:
        """Write all rows, produced in batches of consecutive ones; errors are those of `produce` and of `append`."""
        for start in range(0, self._spec.samples, batch_size):
            rows = np.arange(start, min(start + batch_size, self._spec.samples), dtype=np.int64)
            values = produce(rows)
            advance(len(rows))
            self.append(rows, values)

    def publish(self) -> Entry:
        """Make it the entry, of which all rows have been written.

        Raises:
            StoreRefusedError: a file cannot be written.
        """
        with self._held:
            try:
                checksums = [writer.finish() for writer in self._writers]
                self._close()
                with refusing("not stored"):
                    return self._publish(self._folder, Metadata.of(self._spec, checksums))
            except BaseException:
                self.discard()
                raise

    def discard(self) -> None:
        """Remove what has been written; to be called again does nothing."""
        self._close()
        with self._held:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _close(self) -> None:
        for writer in self._writers:
            writer.close()


def write_metadata(folder: Path, metadata: Metadata) -> None:
    """Finish the files of an entry: its marker and its metadata."""
    for name, data in ((MARKER_FILE, b""), (METADATA_FILE, metadata.to_bytes())):
        with (folder / name).open("wb") as stream:
            _append(stream, data)
            _flush(stream)
    flush_folder(folder)


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
