"""Files that are either whole or absent: written beside their target, flushed, then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any, Literal

from thawline.errors import WriteError

_PARTIAL = ".partial"
_DEEPEST = 64
_OF_A_SERVER = {errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENOTCONN}
_OF_A_FULL_TABLE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOLCK, errno.ENOMEM}
_TEMPORARY = frozenset(
    {errno.EAGAIN, errno.EBUSY, errno.ECONNRESET, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT}
    | _OF_A_SERVER
    | _OF_A_FULL_TABLE
)
_OF_A_DISK = frozenset({errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EROFS})


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` for writing; on success it becomes `path` in one step.

    The temporary file lives in the target's own folder because a rename is atomic only within one file system.

    Raises:
        WriteError: the disk is full, or the folder cannot be written.
    """
    make_folder(path.parent)
    with _naming(path):
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:64]}.", suffix=_PARTIAL)
    try:
        with _naming(path, _OF_A_DISK), os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        with _naming(path):
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        # The file is there and whole; not every file system lets a folder be opened and flushed.
        with contextlib.suppress(OSError):
            flush_folder(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def flush_folder(path: Path) -> None:
    """Make the names in a folder durable; raises OSError where the system cannot."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_to_write(path: Path, mode: Literal["ab", "wb"]) -> IO[bytes]:
    """Open a file that grows while others read it, unlike those of `atomic_write`.

    Raises:
        WriteError: the disk is full, or the folder cannot be written.
    """
    with _naming(path):
        return path.open(mode)


def make_folder(path: Path) -> None:
    """Make the folder `path` and those above it.

    Raises:
        WriteError: it cannot be made.
    """
    with _naming(path):
        path.mkdir(parents=True, exist_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove what a killed process left half written in `folder`; only where no other process writes there."""
    for file in folder.glob(f".*{_PARTIAL}"):
        file.unlink(missing_ok=True)


def remove_or_set_aside(path: Path) -> None:
    """Remove a file that cannot be used. A folder in its place is kept, under another name.

    Raises:
        WriteError: that is not possible.
    """
    with _naming(path):
        if path.is_dir() and not path.is_symlink():
            path.rename(path.with_name(f"{path.name}.set-aside-{os.urandom(4).hex()}"))
        else:
            path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically. NaN and infinity become null: JSON has no word for them."""
    text = json.dumps(finite(value), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as stream:
        stream.write(text.encode("utf-8", errors="surrogateescape") + b"\n")


def read_json(path: Path) -> Any:
    """The value stored in `path`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or nested more deeply than anything that thawline writes.
    """
    try:
        value = json.loads(path.read_bytes().decode("utf-8", errors="surrogateescape"))
    except RecursionError:
        value = None
    else:
        if not _is_deeper_than(_DEEPEST, value):
            return value
    raise ValueError(f"nested more than {_DEEPEST} levels deep")


def is_temporary(error: BaseException) -> bool:
    """Whether an error of reading says nothing of the file: too many are open, or its server does not answer now."""
    return isinstance(error, OSError) and error.errno in _TEMPORARY


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_deeper_than(levels: int, value: Any) -> bool:
    """Whether lists and mappings are nested more deeply: what walks them recurses and would run out of stack."""
    layer = [value]
    for _ in range(levels + 1):
        layer = [
            item
            for holder in layer
            if isinstance(holder, (dict, list))
            for item in (holder.values() if isinstance(holder, dict) else holder)
        ]
        if not layer:
            return False
    return True


@contextlib.contextmanager
def _naming(path: Path, numbers: Collection[int] | None = None) -> Iterator[None]:
    """Turn an error of the system (with one of these numbers) into one that names the file; others pass."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        if numbers is not None and error.errno not in numbers:
            raise
        raise WriteError(error.errno, error.strerror, str(path)) from error


def finite(value: Any) -> Any:
    """`value` as it comes back from JSON: NaN and infinity are None, keys are texts, tuples are lists."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
