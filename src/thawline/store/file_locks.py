"""Advisory locks between processes (POSIX `flock`): the kernel drops a lock with its holder, also after ``kill -9``."""

from __future__ import annotations

import fcntl
import os
import weakref
from pathlib import Path


class FileLock:
    """A held lock. `release` (or dropping the last reference) ends it."""

    def __init__(self, descriptor: int) -> None:
        self.release = weakref.finalize(self, _unlock, descriptor, os.getpid())

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def wait_for_lock(path: Path, *, shared: bool = False) -> FileLock:
    """Lock the file at `path`, however long others hold it. An exclusive lock creates the file, a shared one does not.

    Raises:
        OSError: the file cannot be opened, or the file system has no locks.
    """
    flags, kind = (os.O_RDONLY, fcntl.LOCK_SH) if shared else (os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX)
    while True:
        lock = _locked(path, flags, kind)
        if lock is not None:
            return lock


def try_lock(path: Path, *, create: bool = False) -> FileLock | None:
    """Lock the file at `path` exclusively, or None where somebody else holds it now.

    Raises:
        OSError: the file cannot be opened, or the file system has no locks.
    """
    flags = os.O_RDWR | (os.O_CREAT if create else 0)
    while True:
        try:
            lock = _locked(path, flags, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        if lock is not None:
            return lock


def _locked(path: Path, flags: int, kind: int) -> FileLock | None:
    """The lock, or None where the file was removed or replaced meanwhile: what was locked then guards nothing."""
    descriptor = os.open(path, flags, 0o666)
    try:
        fcntl.flock(descriptor, kind)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return FileLock(descriptor)
    except FileNotFoundError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _unlock(descriptor: int, owner: int) -> None:
    # A forked worker shares its parent's lock: unlocking there would take it from the parent. In the owner it must be
    # unlocked explicitly, or a worker's copy of the descriptor would go on holding it.
    if os.getpid() == owner:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)
