"""A report that is made again whenever a record has come, until no run of its sweeps is left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from thawline.records import RECORD_FILE
from thawline.records.names import SWEEP_FILE
from thawline.runtime.signals import Interrupted
from thawline.sweeps.manifest import read_manifest, statuses

if TYPE_CHECKING:
    from thawline.reports import ReportFiles

_Stamps = dict[Path, tuple[int, int]]
# A run in one of these states gives no record without another command.
_ENDED = ("done", "failed")


@dataclass(frozen=True)
class Look:
    """What a look at the sweeps has found: the report where it was made again, and how many runs are done of how many.

    `over` says that no run is to come: each is done or has failed. A plain folder of runs is never over.
    """

    files: ReportFiles | None
    done: int
    total: int
    over: bool


@dataclass
class Renewal:
    """Makes the report of the sweeps in `folders` by `make` where their files are not those of the last look.

    `make` is told whether more runs are to come: the page of such a report reloads itself.
    """

    folders: Sequence[Path]
    make: Callable[[bool], ReportFiles]
    _seen: _Stamps = field(default_factory=dict)
    _reloads: bool = False

    def look(self) -> Look:
        """Look once.

        Raises:
            UsageError: runs are done and the report cannot be made of them.
        """
        done = total = 0
        over = True
        stamps: _Stamps = {}
        for folder in self.folders:
            if (folder / SWEEP_FILE).is_file():
                cells = statuses(folder, read_manifest(folder))
                records = [cell.folder / RECORD_FILE for cell in cells]
                done += sum(cell.status.state == "done" for cell in cells)
                over &= all(cell.status.state in _ENDED for cell in cells)
            else:
                records = list(folder.glob(f"*/{RECORD_FILE}"))
                done, over = done + len(records), False
            total += len(records)
            stamps |= _stamps([folder / SWEEP_FILE, *records])
        # What comes while the report is made is seen at the next look.
        files = self._made(more=not over) if done and (stamps != self._seen or (over and self._reloads)) else None
        self._seen = stamps
        return Look(files, done, total, over)

    def end(self) -> ReportFiles | None:
        """The report once more where its page would go on to reload itself, though nobody renews it now."""
        return self._made(more=False) if self._reloads else None

    def _made(self, *, more: bool) -> ReportFiles:
        files = self.make(more)
        self._reloads = more
        return files


def renew(renewal: Renewal, tell: Callable[[Look], None], pause: Callable[[], None]) -> ReportFiles | None:
    """Look, tell of each report that was made, and pause, until no run is to come or the user has seen enough.

    Gives the last report; None where no run was done.
    """
    latest: ReportFiles | None = None
    with contextlib.suppress(Interrupted):
        while True:
            look = renewal.look()
            if look.files is not None:
                latest = look.files
                tell(look)
            if look.over:
                break
            pause()
    return renewal.end() or latest


def _stamps(files: Sequence[Path]) -> _Stamps:
    """Size and time of each of the files that is there."""
    found = {}
    for file in files:
        with contextlib.suppress(OSError):
            status = file.stat()
            found[file] = status.st_size, status.st_mtime_ns
    return found
