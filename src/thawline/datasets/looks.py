"""What earlier looks at files found: a file is read and checked again only after it has changed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import struct
import zlib
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np

from thawline.datasets.columns import Packed, Texts, encoded
from thawline.errors import UsageError, usage_error
from thawline.files import atomic_write, is_temporary
from thawline.runtime.cores import available_cores
from thawline.runtime.steps import step

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")
_WHOLE_BYTES, _SAMPLE_BYTES = 4096, 1024
_STAMP = struct.Struct("<QqqQL")
STAMP_BYTES = _STAMP.size
_MAGIC = b"thawline looks 2\n"
_HEADER = struct.Struct("<5QL")
_MOST_AT_ONCE = 64


class Content(Protocol):
    """Bytes that seldom change, opened."""

    @property
    def stamp(self) -> bytes:
        """(`STAMP_BYTES`) the same as at an earlier look where the bytes did not change since."""
        ...

    def read(self) -> bytes:
        """All bytes."""
        ...

    def close(self) -> None:
        """Let it go."""
        ...


def stamp(descriptor: int) -> bytes:
    """The stamp of an open file: its size, the times of its content's and its entry's change, inode, CRC of a sample.

    Programs set the times back; not every file system keeps the entry's time and the inode; so a sample of the content
    is read as well: small files whole, of others the beginning, the middle and the end. Raises OSError.
    """
    status = os.fstat(descriptor)
    size = status.st_size
    if size <= _WHOLE_BYTES:
        sample = zlib.crc32(os.pread(descriptor, _WHOLE_BYTES, 0))
    else:
        sample = 0
        for start in (0, size // 2, size - _SAMPLE_BYTES):
            sample = zlib.crc32(os.pread(descriptor, _SAMPLE_BYTES, start), sample)
    return _STAMP.pack(size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, sample)


def stamped(path: Path) -> tuple[bytes, bytes]:
    """The bytes of a file, and the stamp that it had when they were read; raises OSError."""
    with path.open("rb", buffering=0) as stream:
        content = stream.readall()
        return content, stamp(stream.fileno())


def changed(what: str, where: str | Path) -> UsageError:
    """The error where an ``image`` or a ``mask`` is not the one that was looked at."""
    message = f"{where}: the {what} has changed since the data set was checked; run the command again"
    return usage_error("dataset", message)


class OpenFile:
    """A whole file (`Content`); raises OSError where it cannot be opened or read, ValueError where its name is none."""

    def __init__(self, path: str | Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        try:
            self.stamp = stamp(self._descriptor)
        except BaseException:
            self.close()
            raise

    def read(self) -> bytes:
        """Its bytes."""
        with io.FileIO(self._descriptor, closefd=False) as stream:
            return stream.readall()

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)


@dataclass(frozen=True)
class Found:
    """What was found in n contents.

    Attributes:
        values: What `Looking.examine` made of each; empty where it could not be read.
        unread: By index, why it could not be read.
        stamps: n stamps, one after the other.
    """

    values: Packed
    unread: Mapping[int, str]
    stamps: bytes


@dataclass(frozen=True)
class Looking:
    """How many contents are looked at.

    Attributes:
        what: The step, as the terminal calls it.
        kind: ``images`` or ``masks``.
        place: Where they lie; what is found is kept by it.
        keys: n names, unique there.
        opened: The content at an index; raises OSError or ValueError.
        examine: What is to be known of a content's bytes.
        usable: Whether what an earlier look found is of use for this one.
    """

    what: str
    kind: str
    place: Path
    keys: Sequence[str]
    opened: Callable[[int], Content]
    examine: Callable[[bytes], bytes]
    usable: Callable[[bytes], bool] = lambda value: True

    def all(self, cache_dir: Path | None) -> Found:
        """Look at all of them; those that have the stamp of an earlier look, kept in `cache_dir`, are not read.

        Raises:
            UsageError: the machine could not read one now, which says nothing of what is in it.
        """
        known = Looks.load(self.kind, self.place, cache_dir)
        looks = in_threads(self.what, lambda index: self._look(index, known), range(len(self.keys)))
        stamps, values, ends = bytearray(), bytearray(), array("q")
        unread: dict[int, str] = {}
        is_fresh = False
        for index, look in enumerate(looks):
            if look.problem:
                unread[index] = look.problem
            is_fresh |= look.is_fresh
            stamps += look.stamp
            values += look.value
            ends.append(len(values))
        found = Packed(bytes(values), np.array(ends, dtype=np.int64))
        if is_fresh:
            known.save(Texts(self.keys).packed, bytes(stamps), found)
        return Found(found, unread, bytes(stamps))

    def _look(self, index: int, known: Looks) -> _Look:
        try:
            content = self.opened(index)
            try:
                value = known.of(index, self.keys[index], content.stamp)
                if value is not None and self.usable(value):
                    return _Look(content.stamp, value)
                return _Look(content.stamp, self.examine(content.read()), is_fresh=True)
            finally:
                content.close()
        except (OSError, ValueError) as error:
            problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
            # A file server that does not answer gives EIO, too. No image is to be left out for that.
            if is_temporary(error) or getattr(error, "errno", None) == errno.EIO:
                raise usage_error("dataset", f"{self.place / self.keys[index]}: {problem}") from error
            return _Look(problem=problem)


class _Look(NamedTuple):
    """What was found under a stamp; without a problem, whether it was not known before."""

    stamp: bytes = bytes(STAMP_BYTES)
    value: bytes = b""
    problem: str = ""
    is_fresh: bool = False


@dataclass(frozen=True)
class Looks:
    """What earlier looks at the contents of one place found; a damaged or missing file of looks is an empty one.

    Attributes:
        file: Where they are kept; None: nowhere.
        keys: n names, as UTF-8.
        stamps: n stamps, one after the other; zeros where there was nothing to read.
        values: n times what was found.
    """

    file: Path | None
    keys: Packed
    stamps: bytes
    values: Packed

    @classmethod
    def load(cls, kind: str, place: Path, cache_dir: Path | None) -> Looks:
        """The looks of a kind (``images``, ``masks``) at what lies in a place."""
        file = None
        if cache_dir is not None:
            import PIL

            # Another version may decode the same file to other pixels, or not at all.
            name = hashlib.sha256(os.fsencode(place.resolve()) + b"\0" + PIL.__version__.encode()).hexdigest()[:20]
            file = cache_dir / f"{kind}-{name}.looks"
            with contextlib.suppress(OSError, ValueError):
                return cls(file, *_read(file))
        return cls(file, Packed.of(()), b"", Packed.of(()))

    def of(self, index: int, key: str, now: bytes) -> bytes | None:
        """What was found in the content of this name while it had the stamp that it has now.

        Args:
            index: Where it is among the names, if they are those of the last look.
            key: Its name.
            now: Its stamp.
        """
        name = encoded(key)
        row = index if index < len(self.keys) and self.keys.at(index) == name else self._rows.get(name)
        if row is None or self.stamps[row * STAMP_BYTES : (row + 1) * STAMP_BYTES] != now:
            return None
        return self.values.at(row)

    @cached_property
    def _rows(self) -> dict[bytes, int]:
        return {key: row for row, key in enumerate(self.keys)}

    def save(self, keys: Packed, stamps: bytes, values: Packed) -> None:
        """Keep what was found now, and what is known of others."""
        if self.file is None:
            return
        now = set(keys) if self.keys.content != keys.content else set(self.keys)
        others = [row for row, key in enumerate(self.keys) if key not in now]
        if others:
            keys = Packed.of([*keys, *(self.keys[row] for row in others)])
            stamps += b"".join(self.stamps[row * STAMP_BYTES : (row + 1) * STAMP_BYTES] for row in others)
            values = Packed.of([*values, *(self.values[row] for row in others)])
        # A full or read-only disk costs the next run a second look and nothing else.
        with contextlib.suppress(OSError), atomic_write(self.file) as stream:
            _write(stream, keys, stamps, values)


def _write(stream: IO[bytes], keys: Packed, stamps: bytes, values: Packed) -> None:
    parts = (_bytes(keys.ends), keys.content, stamps, _bytes(values.ends), values.content)
    stream.write(_MAGIC + _HEADER.pack(*map(len, parts), _checksum(parts)))
    for part in parts:
        stream.write(part)


def _read(file: Path) -> tuple[Packed, bytes, Packed]:
    """Names, stamps and values; raises OSError, and ValueError where the file is damaged."""
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size - len(_MAGIC) - _HEADER.size
        if size < 0 or stream.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("not a file of looks")
        *sizes, checksum = _HEADER.unpack(stream.read(_HEADER.size))
        if sum(sizes) != size:
            raise ValueError("cut off")
        parts = [stream.read(count) for count in sizes]
    if _checksum(parts) != checksum:
        raise ValueError("damaged")
    key_ends, keys, stamps, value_ends, values = parts
    return Packed(keys, np.frombuffer(key_ends, "<i8")), stamps, Packed(values, np.frombuffer(value_ends, "<i8"))


def _bytes(ends: NDArray[np.int64]) -> bytes:
    return ends.astype("<i8").tobytes()


def _checksum(parts: Sequence[bytes]) -> int:
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return checksum


def in_threads(what: str, look: Callable[[_Item], _Found], items: Sequence[_Item]) -> Iterator[_Found]:
    """Look at every item, in order, as a step of the command that is called `what`."""
    # Reading, hashing and decoding release Python's lock, so threads use all cores without a copy of the process. They
    # are handed many small files at a time, since handing one over takes as long as looking at it; and few of these
    # wait, since a million that wait take gigabytes.
    workers = min(available_cores(), 16)
    size = max(1, min(len(items) // (4 * workers), _MOST_AT_ONCE))
    with step(what, len(items)) as advance, ThreadPoolExecutor(max_workers=workers) as pool:
        waiting: deque[Future[list[_Found]]] = deque()
        try:
            for start in range(0, len(items), size):
                waiting.append(pool.submit(_each, look, items[start : start + size]))
                if len(waiting) > 4 * workers:
                    yield from _advancing(waiting.popleft().result(), advance)
            while waiting:
                yield from _advancing(waiting.popleft().result(), advance)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _each(look: Callable[[_Item], _Found], items: Sequence[_Item]) -> list[_Found]:
    return [look(item) for item in items]


def _advancing(found: list[_Found], advance: Callable[[int], None]) -> list[_Found]:
    advance(len(found))
    return found
