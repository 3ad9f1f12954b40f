"""The store: arrays per sample on disk, computed once and shared by every run, under a byte budget.

One folder per entry, named by the hash of everything that decides its values. It appears by one atomic rename, so an
entry is whole or absent. A lock on ``.<identity>.lock`` is held while an entry is built, a shared one on the entry's
``used`` file while it is in use; that file's modification time is the last use.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thawline.files import flush_folder, is_temporary
from thawline.runtime.steps import step
from thawline.store.contents import MARKER_FILE, ArraySpec, EntrySpec, Metadata, array_file
from thawline.store.entries import Entry
from thawline.store.file_locks import FileLock, try_lock, wait_for_lock
from thawline.store.folder import (
    ENTRY,
    LOCK,
    PARTIAL,
    REMOVED,
    EntryStatus,
    bytes_in,
    last_used,
    lock_file,
    lock_of_dead_builder,
    named,
    statuses,
    verified,
)
from thawline.store.refusals import DamagedEntryError, StoreRefusedError, refusing
from thawline.store.writing import Draft, write_metadata

if TYPE_CHECKING:
    from thawline.store.production import Produce

__all__ = [
    "DEFAULT_MAX_BYTES",
    "ArraySpec",
    "DamagedEntryError",
    "Entry",
    "EntrySpec",
    "EntryStatus",
    "Store",
    "StoreRefusedError",
    "readable_bytes",
]

DEFAULT_MAX_BYTES = 10 * 2**30
# Free space that a new entry leaves on the disk for checkpoints and records.
FREE_MARGIN_BYTES = 256 * 2**20

_BUDGET_LOCK = ".budget.lock"
_log = logging.getLogger(__name__)

Spare = Callable[[Mapping[str, Any]], bool]
"""Whether an entry of this key stays."""


class Store:
    """Entries in `folder`, together at most `max_bytes`; safe under many processes.

    Nothing is written before the first `build`, and what is there can be read in a read-only folder.
    """

    def __init__(self, folder: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._lent: dict[str, weakref.WeakMethod[Callable[[], None]]] = {}

    def open(self, spec: EntrySpec) -> Entry | None:
        """The entry of `spec`, or None where there is none (a damaged one counts as none, and one not readable now)."""
        try:
            return self._open(spec)
        except StoreRefusedError as refusal:
            _log.warning("%s is not used: %s", self.folder / spec.identity, refusal.reason)
            return None

    def _open(self, spec: EntrySpec) -> Entry | None:
        """As `open`, but raises StoreRefusedError where the entry cannot be read now: it may be whole, and stays."""
        path = self.folder / spec.identity
        try:
            return Entry.open(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (DamagedEntryError, OSError) as damage:
            if is_temporary(damage):
                raise StoreRefusedError(f"not read: {damage}") from damage
            _log.warning("%s is not used: %s", path, damage)
            return None

    def build(self, spec: EntrySpec, produce: Produce, batch_size: int, spare: Spare | None = None) -> Entry:
        """The entry of `spec`: opened where it is there, otherwise made by `produce` in batches of consecutive rows.

        `produce` maps indices (B,) to one array (B, *shape) per `ArraySpec`, of the spec's dtype. Where several
        processes ask for the same entry, one builds it and the others wait. Errors of `produce` pass through
        unchanged and leave no entry. Entries whose keys are to be `spare`d are not evicted for it, and neither is what
        was lent: that is called back for entries that spare nothing.

        Raises:
            StoreRefusedError: it does not fit the budget or the disk, or the folder cannot be written to, or read now.
        """
        entry = self._open(spec)
        if entry is None:
            with self._building(spec.identity):
                entry = self._open(spec) or self._build(spec, produce, batch_size, spare)
        return self.renewing(entry, produce, batch_size, spare)

    def renewing(self, entry: Entry, produce: Produce, batch_size: int, spare: Spare | None = None) -> Entry:
        """An opened entry, which from now on is built again by `produce` where it turns out to be damaged."""
        spec = entry.spec

        def rebuild(generation: str) -> Entry:
            self.discard(spec.identity, generation)
            return self.build(spec, produce, batch_size, spare)

        return entry.renew_by(produce, rebuild)

    def draft(self, spec: EntrySpec) -> Draft | None:
        """The entry of `spec`, to be written by the caller; without waiting, and never an error.

        None where the entry is there, where another process writes it now, and where the store refuses it.
        """
        lock = None
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = try_lock(lock_file(self.folder, spec.identity), create=True)
        if lock is None:
            return None
        with contextlib.ExitStack() as held:
            held.enter_context(self._held(lock, spec.identity))
            with contextlib.suppress(StoreRefusedError):
                entry = self._open(spec)
                if entry is not None:
                    entry.close()
                    return None
                return self._draft(spec, held)
        return None

    def room(self) -> int:
        """The bytes that new entries can take, what nobody uses or is lent included; others may take them meanwhile."""
        if not self.folder.is_dir():
            return self.max_bytes
        with self._evictable(sys.maxsize) as idle:
            lent = [self.folder / identity for identity, method in self._lent.items() if method() is not None]
            unused = sum(map(bytes_in, {*idle, *lent}))
            return max(0, min(self.max_bytes - self._occupied_bytes(), self._free_bytes()) + unused)

    def lend(self, identity: str, give_back: Callable[[], None]) -> None:
        """Count an entry in use as room: where a new one needs it, `give_back`, a method that closes it, is called."""
        self._lent[identity] = weakref.WeakMethod(give_back)

    def discard(self, identity: str, generation: str | None = None) -> None:
        """Remove an entry, in use or not (who has it mapped keeps it); only that `generation` of it where given.

        Raises:
            StoreRefusedError: the folder cannot be written to.
        """
        path = self.folder / identity
        with self._building(identity), refusing("cannot remove an entry"):
            with contextlib.suppress(DamagedEntryError, FileNotFoundError):
                if generation is not None and Metadata.read(path).generation != generation:
                    return
            self._remove(path)

    def entries(self) -> list[EntryStatus]:
        """Everything in the folder, last used first, without comparing checksums."""
        return statuses(self.folder)

    def verify(self) -> list[EntryStatus]:
        """Every finished entry, after comparing each of its checksums."""
        return verified(self.folder)

    def prune(self, max_bytes: int) -> list[EntryStatus]:
        """Remove leftovers, then entries not in use, least recently used first, down to `max_bytes`; what was removed.

        Raises:
            StoreRefusedError: the folder cannot be written to.
        """
        if not self.folder.is_dir():
            return []
        before = self.entries()
        with refusing("cannot prune the store"), self._changing():
            self._clear_leftovers()
            with self._evictable(self._occupied_bytes() - max_bytes) as victims:
                self._evict(victims)
        after = {status.identity for status in self.entries()}
        return [status for status in before if status.identity not in after]

    def _build(self, spec: EntrySpec, produce: Produce, batch_size: int, spare: Spare | None) -> Entry:
        """Build while the entry's lock is held."""
        draft = self._draft(spec, contextlib.ExitStack(), spare)
        try:
            with step(f"storing {spec.title}", spec.samples) as advance:
                draft.fill(produce, batch_size, advance)
            return draft.publish()
        except BaseException:
            draft.discard()
            raise

    def _draft(self, spec: EntrySpec, held: contextlib.ExitStack, spare: Spare | None = None) -> Draft:
        """Room for an entry whose lock is held, by the caller or by what the draft takes over."""
        with refusing("not stored"):
            partial = self._reserve(spec, spare)
        try:
            draft = Draft(partial, spec, self._publish, held)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return draft

    def _reserve(self, spec: EntrySpec, spare: Spare | None) -> Path:
        """Make room, and a folder with files of their final size, so that other builders count it."""
        with self._changing():
            self._clear_leftovers(building=spec.identity)
            # Not opened, so damaged where it exists.
            self._remove(self.folder / spec.identity)
            try:
                self._make_room(spec.total_bytes, spare)
            except StoreRefusedError:
                if spare is not None or spec.total_bytes > self.max_bytes or not self._called_back():
                    raise
                self._make_room(spec.total_bytes, spare)
            partial = self.folder / f".{spec.identity}.{uuid.uuid4().hex}.partial"
            partial.mkdir()
            try:
                for number, array in enumerate(spec.arrays):
                    with array_file(partial, number).open("wb") as stream:
                        stream.truncate(spec.samples * array.row_bytes)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
        return partial

    def _called_back(self) -> bool:
        """Have all that is lent given back; whether anything was."""
        lent, self._lent = [method() for method in self._lent.values()], {}
        for give_back in lent:
            if give_back is not None:
                give_back()
        return any(lent)

    def _make_room(self, needed: int, spare: Spare | None) -> None:
        """Evict what must go for `needed` bytes, or refuse and evict nothing."""
        budget = f"the budget of {readable_bytes(self.max_bytes)} (cache.max_bytes)"
        if needed > self.max_bytes:
            raise StoreRefusedError(f"not stored: {readable_bytes(needed)} are more than {budget}")
        occupied = self._occupied_bytes()
        free = self._free_bytes()
        with self._evictable(max(occupied + needed - self.max_bytes, needed - free), spare) as victims:
            freed = sum(bytes_in(path) for path in victims)
            if occupied - freed + needed > self.max_bytes:
                raise StoreRefusedError(
                    f"not stored: {readable_bytes(needed)} do not fit {budget} "
                    f"beside {readable_bytes(occupied - freed)} in use"
                )
            if needed > free + freed:
                raise StoreRefusedError(
                    f"not stored: {readable_bytes(needed)} do not fit the disk of {self.folder}, "
                    f"which has {readable_bytes(max(0, free + freed))} to spare"
                )
            self._evict(victims)

    def _publish(self, partial: Path, metadata: Metadata) -> Entry:
        write_metadata(partial, metadata)
        # Locked before it can be seen: nobody evicts it between the rename and its first use.
        marker = wait_for_lock(partial / MARKER_FILE, shared=True)
        path = self.folder / partial.name.split(".")[1]
        try:
            partial.rename(path)
            flush_folder(self.folder)
            return Entry(path, metadata, marker)
        except BaseException:
            marker.release()
            raise

    @contextlib.contextmanager
    def _building(self, identity: str) -> Iterator[None]:
        """Hold the lock of the one process that may build or discard this entry."""
        path = lock_file(self.folder, identity)
        with refusing("not stored"):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = try_lock(path, create=True)
            if lock is None:
                _log.info("waiting for another process that builds %s", self.folder / identity)
                lock = wait_for_lock(path)
        with self._held(lock, identity):
            yield

    @contextlib.contextmanager
    def _held(self, lock: FileLock, identity: str) -> Iterator[None]:
        """Let a builder's lock go at the end of the block."""
        with lock:
            try:
                yield
            finally:
                # Who waits for this lock sees that its file is gone, and takes a new one.
                with contextlib.suppress(OSError):
                    lock_file(self.folder, identity).unlink()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock of the one process that may change how much the folder holds. Never wait inside."""
        with wait_for_lock(self.folder / _BUDGET_LOCK):
            yield

    @contextlib.contextmanager
    def _evictable(self, excess: int, spare: Spare | None = None) -> Iterator[list[Path]]:
        """Entries that nobody uses, locked, least recently used first, until they make up `excess` bytes or run out."""
        with contextlib.ExitStack() as locks:
            victims: list[Path] = []
            freed = 0
            for path in sorted(named(self.folder, ENTRY), key=last_used):
                if freed >= excess:
                    break
                if spare is not None and _is_spared(path, spare):
                    continue
                # Without its marker it is damaged, and nobody can have opened it.
                if (path / MARKER_FILE).exists():
                    lock = try_lock(path / MARKER_FILE)
                    if lock is None:
                        continue
                    locks.enter_context(lock)
                victims.append(path)
                freed += bytes_in(path)
            yield victims

    def _evict(self, victims: Sequence[Path]) -> None:
        for path in victims:
            _log.info("evicted %s", path)
            self._remove(path)

    def _remove(self, path: Path) -> None:
        """Take an entry out of sight in one step, then delete it."""
        hidden = self.folder / f".{path.name}.{uuid.uuid4().hex}.removed"
        with contextlib.suppress(FileNotFoundError):
            path.rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)

    def _clear_leftovers(self, building: str = "") -> None:
        """Delete what killed processes left: removed folders, and unfinished ones whose builder's lock is free.

        `building` is the entry whose lock the caller holds: every unfinished folder of it is left over.
        """
        for path in named(self.folder, REMOVED):
            shutil.rmtree(path, ignore_errors=True)
        for path in named(self.folder, PARTIAL):
            if building and path.name.startswith(f".{building}."):
                shutil.rmtree(path, ignore_errors=True)
                continue
            with lock_of_dead_builder(path) as dead:
                if dead:
                    shutil.rmtree(path, ignore_errors=True)
        for path in named(self.folder, LOCK):
            lock = try_lock(path, create=True)
            if lock is not None:
                with lock:
                    path.unlink(missing_ok=True)

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free - FREE_MARGIN_BYTES

    def _occupied_bytes(self) -> int:
        return sum(bytes_in(path) for path in [*named(self.folder, ENTRY), *named(self.folder, PARTIAL)])


def readable_bytes(count: float) -> str:
    """A number of bytes in words, such as ``2.1 MB`` (decimal units)."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def _is_spared(path: Path, spare: Spare) -> bool:
    try:
        return spare(Metadata.read(path).key)
    except (DamagedEntryError, OSError):
        return False
