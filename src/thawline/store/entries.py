"""One entry of the store: what it holds, how its files are written and how they are read.

The arrays lie row after row, one file each. Every mebibyte of them has a checksum, which is compared before this
process uses a value from it for the first time. torch is imported only where tensors are made, so that listing a store
stays quick.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import mmap
import os
import threading
import uuid
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from thawline.records import identity_of
from thawline.store.file_locks import FileLock, wait_for_lock

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    # Indices (B,) -> one array (B, *shape) per `ArraySpec` of the entry.
    Produce = Callable[[NDArray[np.int64]], Sequence[NDArray[Any] | Tensor]]

# Entries up to this size are compared whole when they are opened; larger ones chunk by chunk at first touch.
CHECK_ON_OPEN_BYTES = 64 * 2**20
# Files are memory-mapped until this much is mapped in the process, because mapped pages count as its memory although
# the page cache owns them. What is larger is read by position: 64 rows of 2 KB take 0.12 ms (mapped: 0.04 ms), of 50 KB
# 0.46 ms (mapped: 0.34 ms). Unmapping pages again and again (MADV_DONTNEED) took longer, 0.25 and 0.54 ms, and bounds
# nothing on kernels that map a whole large folio at each fault (Linux 6.18).
MAPPED_BYTES = 32 * 2**20
METADATA_FILE, MARKER_FILE = "entry.json", "used"

_SCHEMA_VERSION: Literal[1] = 1
_CHUNK_BYTES = 2**20
_MOST_REBUILDS = 2
_FLOATS = ("bfloat16", "float16", "float32", "float64")
_ITEM_BYTES = {
    "bool": 1, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8,
    "bfloat16": 2, "float16": 2, "float32": 4, "float64": 8,
}  # fmt: skip
_log = logging.getLogger(__name__)


class StoreRefusedError(Exception):
    """The store cannot take an entry (`reason` says why); the caller computes on the fly."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class DamagedEntryError(Exception):
    """The files of an entry are not what was written."""


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn an error of the file system into a refusal. Never put around the caller's own code."""
    try:
        yield
    except OSError as error:
        raise StoreRefusedError(f"{what}: {error.strerror or error} ({error.filename or 'while writing'})") from error


@dataclass(frozen=True)
class ArraySpec:
    """One array of an entry: `shape` of one sample, `dtype` of what is read, `stored_as` of what lies on disk.

    `stored_as` defaults to `dtype` (exact); a narrower float takes fewer bytes and rounds the values.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored_as: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        object.__setattr__(self, "stored_as", self.stored_as or self.dtype)
        for dtype in (self.dtype, self.stored_as):
            if dtype not in _ITEM_BYTES:
                raise ValueError(f"{self.name}: dtype {dtype!r} is none of {', '.join(_ITEM_BYTES)}")
        if self.stored_as != self.dtype and not {self.dtype, self.stored_as} <= set(_FLOATS):
            raise ValueError(f"{self.name}: {self.dtype} cannot be stored as {self.stored_as}")

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample on disk."""
        return math.prod(self.shape) * _ITEM_BYTES[self.stored_as]

    @property
    def rows_per_chunk(self) -> int:
        """Samples that share one checksum."""
        return max(1, _CHUNK_BYTES // max(1, self.row_bytes))


@dataclass(frozen=True)
class EntrySpec:
    """What an entry holds: `samples` rows of each of the aligned `arrays`.

    `key` is everything else that decides the values (JSON-able). `title` says in a few words what they are; it is not
    part of the identity.
    """

    key: dict[str, Any]
    arrays: tuple[ArraySpec, ...]
    samples: int
    title: str = ""

    @cached_property
    def identity(self) -> str:
        """The name of the entry: a hash of the key, the arrays and the number of samples."""
        arrays = [[array.name, list(array.shape), array.dtype, array.stored_as] for array in self.arrays]
        return identity_of(
            {"schema_version": _SCHEMA_VERSION, "key": self.key, "arrays": arrays, "samples": self.samples}
        )

    @property
    def bytes_per_sample(self) -> int:
        """Bytes of one sample on disk, over all arrays."""
        return sum(array.row_bytes for array in self.arrays)

    @property
    def array_bytes(self) -> int:
        """Bytes of all arrays on disk."""
        return self.samples * self.bytes_per_sample

    @property
    def total_bytes(self) -> int:
        """An upper bound of the bytes of the entry's folder."""
        widest = [[2**32 - 1] * _chunks(self.samples, array) for array in self.arrays]
        return self.array_bytes + len(Metadata.of(self, widest).to_bytes())


class _ArrayMetadata(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    shape: tuple[int, ...]
    dtype: str
    stored_as: str
    checksums: list[int]


class Metadata(BaseModel):
    """What ``entry.json`` holds. `generation` tells two builds of the same entry apart."""

    model_config = ConfigDict(extra="forbid")
    schema_version: Literal[1]
    generation: str
    title: str
    key: dict[str, Any]
    samples: int
    arrays: list[_ArrayMetadata]

    @classmethod
    def of(cls, spec: EntrySpec, checksums: Sequence[list[int]]) -> Metadata:
        """The metadata of a new build of `spec`, with the checksums of each array's chunks."""
        arrays = [
            _ArrayMetadata(name=a.name, shape=a.shape, dtype=a.dtype, stored_as=a.stored_as, checksums=sums)
            for a, sums in zip(spec.arrays, checksums, strict=True)
        ]
        generation = uuid.uuid4().hex
        return cls(
            schema_version=_SCHEMA_VERSION,
            generation=generation,
            title=spec.title,
            key=spec.key,
            samples=spec.samples,
            arrays=arrays,
        )

    @classmethod
    def read(cls, path: Path) -> Metadata:
        """The metadata of the entry in the folder `path`.

        Raises:
            FileNotFoundError: there is no such folder.
            DamagedEntryError: the metadata are missing, of another version, or not of this entry.
        """
        try:
            metadata = cls.model_validate(json.loads((path / METADATA_FILE).read_bytes()))
            identity = metadata.spec().identity
        except FileNotFoundError:
            if not path.is_dir():
                raise
            raise DamagedEntryError(f"{METADATA_FILE} is missing") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise DamagedEntryError(f"{METADATA_FILE}: {where}: {first['msg']}") from error
        except ValueError as error:
            raise DamagedEntryError(f"{METADATA_FILE}: {error}") from error
        if identity != path.name:
            raise DamagedEntryError(f"{METADATA_FILE} describes another entry, {identity}")
        return metadata

    def to_bytes(self) -> bytes:
        """The content of ``entry.json``."""
        return json.dumps(self.model_dump()).encode()

    def spec(self) -> EntrySpec:
        """What the entry holds."""
        arrays = tuple(ArraySpec(a.name, a.shape, a.dtype, a.stored_as) for a in self.arrays)
        return EntrySpec(self.key, arrays, self.samples, self.title)


class Entry:
    """An opened entry; it is not evicted before it is closed (or dropped).

    Usable from several threads and in forked workers. An entry that came from `Store.build` and turns out to be
    damaged while it is read is built again, or computed on the fly where the store refuses.
    """

    def __init__(self, path: Path, metadata: Metadata, marker: FileLock) -> None:
        self.spec = metadata.spec()
        self.path = path
        self.metadata = metadata
        self._marker = marker
        self._arrays: tuple[_StoredArray, ...] | None = tuple(
            _StoredArray(array_file(path, number), array, metadata.samples, stored.checksums, metadata.generation)
            for number, (array, stored) in enumerate(zip(self.spec.arrays, metadata.arrays, strict=True))
        )
        self._produce: Produce | None = None
        self._rebuild: Callable[[str], Entry] | None = None
        self._rebuilds = 0
        self._guard = threading.Lock()
        self.note = ""
        self._stamp()

    @classmethod
    def open(cls, path: Path) -> Entry:
        """The entry in the folder `path`, in use from now on; small ones with every checksum compared.

        Raises:
            FileNotFoundError: there is none.
            DamagedEntryError: it is damaged.
        """
        try:
            marker = wait_for_lock(path / MARKER_FILE, shared=True)
        except FileNotFoundError:
            if not path.is_dir():
                raise
            raise DamagedEntryError(f"{MARKER_FILE} is missing") from None
        try:
            entry = cls(path, Metadata.read(path), marker)
            if entry.spec.array_bytes <= CHECK_ON_OPEN_BYTES:
                entry.verify(again=False)
        except BaseException:
            marker.release()
            raise
        return entry

    def renew_by(self, produce: Produce, rebuild: Callable[[str], Entry]) -> Entry:
        """Where a damage shows, `rebuild` (given the damaged generation) opens a new build; failing that, `produce`."""
        self._produce, self._rebuild = produce, rebuild
        return self

    def __len__(self) -> int:
        return self.spec.samples

    def __enter__(self) -> Entry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, rows: NDArray[np.int64] | Sequence[int], *, pinned: bool = False) -> tuple[Tensor, ...]:
        """The samples `rows` of every array as new tensors, each (len(rows), *shape), page-locked if `pinned`.

        Raises:
            IndexError: a row lies outside the entry.
            DamagedEntryError: the files are damaged, and the entry came from `Store.open`.
        """
        wanted = np.ascontiguousarray(rows, np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self.spec.samples):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of an entry with {self.spec.samples} samples")
        while not self.note:
            generation = self.metadata.generation
            try:
                return tuple(array.read(wanted, pinned) for array in self._opened())
            except DamagedEntryError as damage:
                self._renew(damage, generation)
        if self._produce is None:
            raise DamagedEntryError(self.note)
        return computed(self.spec, self._produce, wanted)

    def verify(self, *, again: bool = True) -> None:
        """Compare every checksum with the files as they are now; with ``again=False``, those not compared before.

        Raises:
            DamagedEntryError: one differs.
        """
        for array in self._opened():
            array.compare(again=again)

    def close(self) -> None:
        """Let the entry be evicted, and give its memory back."""
        if self._arrays is not None:
            self._stamp()
        self._arrays = None
        self._marker.release()

    def _opened(self) -> tuple[_StoredArray, ...]:
        if self._arrays is None:
            raise ValueError(f"{self.path}: the entry is closed")
        return self._arrays

    def _stamp(self) -> None:
        # In a read-only folder nothing is ever evicted, so that the stamp does not matter.
        with contextlib.suppress(OSError):
            os.utime(self.path / MARKER_FILE)

    def _renew(self, damage: DamagedEntryError, generation: str) -> None:
        """Continue with a new build instead of the damaged `generation`; set `note` where there cannot be one."""
        if self._rebuild is None:
            raise damage
        with self._guard:
            if self.note or self.metadata.generation != generation:
                return
            _log.warning("%s: %s; it is built again", self.path, damage)
            self._rebuilds += 1
            try:
                if self._rebuilds > _MOST_REBUILDS:
                    raise StoreRefusedError(f"{damage}, after {_MOST_REBUILDS} new builds")
                fresh = self._rebuild(generation)
            except StoreRefusedError as refusal:
                self.note = f"computed on the fly: {refusal.reason}"
                _log.warning("%s", self.note)
                self.close()
                return
            self._marker.release()
            self.metadata, self._marker, self._arrays = fresh.metadata, fresh._marker, fresh._arrays


class _StoredArray:
    """One array of an opened entry: rows gathered from its file, each chunk compared before its first use."""

    def __init__(self, path: Path, spec: ArraySpec, samples: int, checksums: Sequence[int], generation: str) -> None:
        self._path = path
        self._spec = spec
        self._checksums = checksums
        self._bytes = samples * spec.row_bytes
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DamagedEntryError(f"{path.name}: {error.strerror}") from error
        weakref.finalize(self, os.close, self._descriptor)
        found = self._check_size()
        expected = _chunks(samples, spec)
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
                raise DamagedEntryError(f"{self._path.name}: {error}") from error
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
            raise DamagedEntryError(f"{self._path.name}: {error}") from error
        if found.st_size != self._bytes:
            raise DamagedEntryError(f"{self._path.name} has {found.st_size:,} bytes instead of {self._bytes:,}")
        return found


class _MappedBytes:
    """How much is mapped in this process, over all opened arrays."""

    def __init__(self) -> None:
        self._taken = 0
        # Reentrant, because a finalizer can run in the thread that holds it.
        self._guard = threading.RLock()

    def take(self, array: _StoredArray, count: int) -> bool:
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
            _check_produced(spec, rows, values)
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


def array_file(folder: Path, number: int) -> Path:
    """The file of an entry's array. Its name holds nothing of the array's, which may be anything."""
    return folder / f"{number}.bin"


def check_sizes(folder: Path, spec: EntrySpec) -> None:
    """Compare the sizes of the files of an entry.

    Raises:
        DamagedEntryError: one differs, or is missing.
    """
    for number, array in enumerate(spec.arrays):
        path, expected = array_file(folder, number), spec.samples * array.row_bytes
        size = path.stat().st_size if path.exists() else 0
        if size != expected:
            raise DamagedEntryError(f"{path.name} has {size:,} bytes instead of {expected:,}")


def computed(spec: EntrySpec, produce: Produce, rows: NDArray[np.int64]) -> tuple[Tensor, ...]:
    """The values of `rows` computed now, rounded as the store would have rounded them."""
    import torch

    values = produce(rows)
    _check_produced(spec, rows, values)
    return tuple(
        torch.as_tensor(value).detach().cpu().to(getattr(torch, array.stored_as)).to(getattr(torch, array.dtype))
        for array, value in zip(spec.arrays, values, strict=True)
    )


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


def _chunks(samples: int, spec: ArraySpec) -> int:
    return -(-samples // spec.rows_per_chunk)


def _check_produced(spec: EntrySpec, rows: NDArray[np.int64], values: Sequence[NDArray[Any] | Tensor]) -> None:
    if len(values) != len(spec.arrays):
        raise ValueError(f"{len(values)} arrays were produced for the {len(spec.arrays)} of the entry")
    for array, value in zip(spec.arrays, values, strict=True):
        shape, dtype = (len(rows), *array.shape), str(value.dtype).removeprefix("torch.")
        if tuple(value.shape) != shape or dtype != array.dtype:
            found = f"{dtype} {tuple(value.shape)}"
            raise ValueError(f"{array.name}: {found} was produced instead of {array.dtype} {shape}")


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
