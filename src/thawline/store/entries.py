"""One opened entry of the store.

torch is imported only where tensors are made, so that listing a store stays quick.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thawline.store.contents import MARKER_FILE, Metadata, array_file
from thawline.store.file_locks import FileLock, wait_for_lock
from thawline.store.production import computed
from thawline.store.refusals import DamagedEntryError, StoreRefusedError
from thawline.store.stored_arrays import StoredArray

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from thawline.store.production import Produce


# Entries up to this size are compared whole when they are opened; larger ones chunk by chunk at first touch.
CHECK_ON_OPEN_BYTES = 64 * 2**20

_MOST_REBUILDS = 2
_log = logging.getLogger(__name__)


class Entry:
    """An opened entry; it is not evicted before it is closed (or dropped).

    Usable from several threads and in forked workers. An entry that came from `Store.build` and turns out to be
    damaged while it is read is built again. Where the store refuses that, and where the machine cannot read the entry
    now, it is computed on the fly.
    """

    def __init__(self, path: Path, metadata: Metadata, marker: FileLock) -> None:
        self.spec = metadata.spec()
        self.path = path
        self.metadata = metadata
        self._marker = marker
        self._arrays: tuple[StoredArray, ...] | None = tuple(
            StoredArray(array_file(path, number), array, metadata.samples, stored.checksums, metadata.generation)
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
            OSError: they cannot be read now, and the entry came from `Store.open`.
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
            except OSError as error:
                # It says nothing of the entry, which stays for others.
                self._give_up(error)
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

    def _opened(self) -> tuple[StoredArray, ...]:
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
                self._compute_on_the_fly(refusal.reason)
                return
            self._marker.release()
            self.metadata, self._marker, self._arrays = fresh.metadata, fresh._marker, fresh._arrays

    def _give_up(self, error: OSError) -> None:
        """Compute on the fly from now on, where that is possible."""
        if self._produce is None:
            raise error
        with self._guard:
            if not self.note:
                self._compute_on_the_fly(f"not read: {error}")

    def _compute_on_the_fly(self, reason: str) -> None:
        self.note = f"computed on the fly: {reason}"
        _log.warning("%s", self.note)
        self.close()
