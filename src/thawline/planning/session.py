"""A session: what the runs of one process share, in parts."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

from thawline.planning.lines import SharedLines
from thawline.planning.needs import LineNeeds
from thawline.planning.sharing import FileHashes, Memo, SharedData, SharedNetworks
from thawline.runtime.clock import now
from thawline.runtime.cores import CoreUse

_Made = TypeVar("_Made")


class Session:
    """What the runs of a process share, each made once and handed out read-only (networks: as copies).

    Args:
        runs: how many runs are expected to share it; it only weighs whether storing pays.

    Attributes:
        data: data sets and the store.
        networks: source networks.
        lines: the thaw lines of the last model.
        needs: what the runs that are still to come will need at thaw lines.
        hashes: the hashes of files.
        began: when the command began.
        core_use: counts from then on what other processes use.
    """

    def __init__(self, runs: int = 1) -> None:
        self.runs = runs
        self.began = now("milliseconds")
        self.core_use = CoreUse()
        self._memo = Memo()
        self.data = SharedData(self._memo)
        self.networks = SharedNetworks(self._memo)
        self.lines = SharedLines()
        self.needs = LineNeeds()
        self.hashes = FileHashes(self._memo)

    def once(self, kind: str, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """What `make` gives, made at the first call with this kind and key, and kept among the last of its kind."""
        return self._memo.once(kind, key, make)
