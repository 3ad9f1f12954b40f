"""A run's folder belongs to one process at a time, on any number of machines that share it.

Two guards. The kernel's lock on ``run.lock`` is exact between the processes of one machine and ends with its holder.
On a shared file system it may not reach other machines; so the owner also keeps ``owner.json`` and renews its time
every `BEAT_SECONDS`. Another machine takes the folder over when that time is older than `STALE_SECONDS`, by the file
system's own clock; where it lies in the future, when it has not changed for as long. An owner that finds itself
replaced (it was suspended, or cut off) or its folder deleted stops.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import platform
import shutil
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from thawline.errors import WriteError
from thawline.files import write_json
from thawline.runtime import signals
from thawline.store.file_locks import FileLock, try_lock

LOCK_FILE = "run.lock"
OWNER_FILE = "owner.json"
BEAT_SECONDS = 10.0
STALE_SECONDS = 90.0
_from_the_future: dict[Path, tuple[float, float]] = {}
"""Files with a time in the future: that time, and when this process first saw it."""
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})


@dataclass(frozen=True)
class Owner:
    """Who runs a cell: the process, the machine under which it can be asked for, and a token of the lease."""

    machine: str
    host: str
    pid: int
    token: str

    @property
    def place(self) -> str:
        """The host and the process, for a message."""
        return f"{self.host}:{self.pid}" if self.host else "an unknown process"


class Lease:
    """A run's folder, held. Ends with `release`, with the block, or with the process."""

    def __init__(self, folder: Path, owner: Owner, lock: FileLock | None) -> None:
        self._folder, self._owner, self._lock = folder, owner, lock
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, name=f"lease {folder.name}", daemon=True)
        self._beating.start()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the folder up."""
        self._ended.set()
        self._beating.join()
        if self.is_mine():
            (self._folder / OWNER_FILE).unlink(missing_ok=True)
            if self._lock is not None:
                (self._folder / LOCK_FILE).unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.release()

    def is_mine(self) -> bool:
        """Whether no other process has taken the folder over."""
        owner = self._now()
        return owner is not None and owner.token == self._owner.token

    def lost(self) -> str:
        """Why the folder is no longer held, in words; empty while it is."""
        owner = self._now()
        if owner is None:
            return "the folder was deleted while its run was going on"
        return "" if owner.token == self._owner.token else f"{owner.place} has taken the run over"

    def remove_left_over(self) -> None:
        """Remove what this process has written into the folder since it was deleted, unless another has it now."""
        if not any((self._folder / name).exists() for name in (OWNER_FILE, LOCK_FILE)):
            shutil.rmtree(self._folder, ignore_errors=True)
            for parent in self._folder.parents[:2]:
                with contextlib.suppress(OSError):
                    parent.rmdir()  # only where it is empty

    def _now(self) -> Owner | None:
        """The owner of the folder now. A file that cannot be read for a while does not say that it is another."""
        try:
            return _owner_in(self._folder / OWNER_FILE)
        except OSError:
            return self._owner

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            if self.is_mine():
                # A file server that does not answer for a while is no reason to stop; being replaced is.
                with contextlib.suppress(OSError):
                    os.utime(self._folder / OWNER_FILE)
            elif not self._ended.is_set():
                signals.stop_main_thread()
                return


def try_lease(folder: Path) -> Lease | None:
    """The lease on a run's folder (which exists), or None where another living process holds it.

    Raises:
        WriteError: the folder cannot be written.
    """
    try:
        lock = try_lock(folder / LOCK_FILE, create=True)
        if lock is None:
            return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise WriteError(error.errno, error.strerror, str(folder / LOCK_FILE)) from error
        lock = None
    mine = Owner(_machine(), socket.gethostname(), os.getpid(), uuid.uuid4().hex)
    is_taken = False
    try:
        is_taken = _take(folder, mine, locked=lock is not None)
    finally:
        if lock is not None and not is_taken:
            lock.release()
    return Lease(folder, mine, lock) if is_taken else None


def is_leased(folder: Path) -> bool:
    """Whether a living process holds the folder, as far as it can be seen from here."""
    owner = read_owner(folder)
    if owner is None:
        return False
    if owner.machine != _machine():
        return not _is_stale(folder / OWNER_FILE)
    try:
        lock = try_lock(folder / LOCK_FILE)
    except FileNotFoundError:
        return False
    except OSError:
        return not _is_stale(folder / OWNER_FILE)
    if lock is None:
        return True
    lock.release()
    return False


def read_owner(folder: Path) -> Owner | None:
    """The owner of the folder, alive or dead; None where it has none."""
    try:
        return _owner_in(folder / OWNER_FILE)
    except OSError:
        return Owner("", "", 0, "")


def _take(folder: Path, mine: Owner, *, locked: bool) -> bool:
    """Write `mine` as the owner, unless another is alive. Creating a file is exclusive on every file system."""
    owner = read_owner(folder)
    if owner is None:
        return _create(folder / OWNER_FILE, json.dumps(asdict(mine)))
    # With the lock in hand, an owner of this machine is dead.
    if not (locked and owner.machine == mine.machine) and not _is_stale(folder / OWNER_FILE):
        return False
    return _take_over(folder, owner, mine)


def _create(path: Path, content: str = "") -> bool:
    """Whether the file was not there and is now."""
    try:
        stream = path.open("x")
    except FileExistsError:
        return False
    except OSError as error:
        raise WriteError(error.errno, error.strerror, str(path)) from error
    try:
        with stream:
            stream.write(content)
    except OSError as error:
        # The disk is full: an owner without a name would be waited for.
        with contextlib.suppress(OSError):
            path.unlink()
        raise WriteError(error.errno, error.strerror, str(path)) from error
    return True


def _take_over(folder: Path, dead: Owner, mine: Owner) -> bool:
    """Put `mine` in the place of the dead owner, in one step.

    One at a time may try, and looks again: who had seen the dead owner too, and comes later, finds the successor.
    """
    taking = folder / f".{OWNER_FILE}.taking"
    if _is_stale(taking):
        taking.unlink(missing_ok=True)
    if not _create(taking):
        return False
    try:
        if read_owner(folder) != dead:
            return False
        write_json(folder / OWNER_FILE, asdict(mine))
        return True
    finally:
        taking.unlink(missing_ok=True)


def _owner_in(path: Path) -> Owner | None:
    """The owner that a file names, or None where it is not there; raises OSError where it cannot be read."""
    try:
        return Owner(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        # Created and not yet written, or damaged: its time still tells whether somebody is there.
        return Owner("", "", 0, "")


def _is_stale(path: Path) -> bool:
    """Whether the file's owner has been silent for too long, measured by the clock that dates the files beside it."""
    probe = path.parent / f".now.{uuid.uuid4().hex}"
    try:
        beat = path.stat().st_mtime
        probe.touch()
        now = probe.stat().st_mtime
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    if now >= beat:
        return now - beat > STALE_SECONDS
    # By a clock that goes ahead, of a host that may be gone: a living owner changes the time while one looks at it.
    seen, since = _from_the_future.get(path, (beat, time.monotonic()))
    if seen != beat:
        since = time.monotonic()
    _from_the_future[path] = (beat, since)
    return time.monotonic() - since > STALE_SECONDS


@functools.cache
def _machine() -> str:
    """A name of the running kernel: within it the kernel's locks are exact, also between containers."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{platform.node()} {uuid.getnode():x}"
