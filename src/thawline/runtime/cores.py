"""How many CPU cores this process may use, and how many of them other processes leave free."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

_PROCESS_GROUPS = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
_LOAD = Path("/proc/loadavg")
_IDLE = ("idle", "iowait", "guest", "guest_nice")  # guest time is part of user time


def available_cores() -> int:
    """The cores that this process may use at once, at least 1: its affinity mask and its cgroup's quota allow them."""
    quota = cpu_quota()
    allowed = len(_affinity())
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def cpu_quota() -> float | None:
    """The CPU quota in cores of this process's cgroup (version 1 or 2) and those above it; None where there is none.

    A container or a pod with a CPU limit sees all cores of its host and is stopped for the rest of each period once
    its threads have used up the quota.
    """
    quotas = []
    for folder in _cgroup_folders():
        quotas += _quota_v2(folder / "cpu.max")
        quotas += _quota_v1(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
    return min(quotas, default=None)


class CoreUse:
    """How many cores other processes use, counted from the making of this object on."""

    def __init__(self) -> None:
        self._began, self._busy, self._own = time.monotonic(), _busy_seconds(), _own_seconds()

    def free_cores(self) -> int:
        """The cores that others have left free since then, at least 1."""
        seconds = time.monotonic() - self._began
        if seconds <= 0.0:
            return available_cores()
        by_others = _busy_seconds() - self._busy - (_own_seconds() - self._own)
        free = len(_affinity()) - max(0.0, by_others / seconds)
        return max(1, min(available_cores(), round(free)))


def sleep_between_operations() -> None:
    """On a busy machine, let the threads of OpenMP sleep while they wait for each other; call it before torch is there.

    By default they spin for milliseconds. Where others use the cores too, that takes the core from the thread that is
    waited for: measured beside uncontrolled load, two spinning threads took 2.5 times as long as two sleeping ones. On
    an idle machine two spinning threads take three quarters of the time. What the user has set stays.
    """
    if _is_busy():
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _is_busy() -> bool:
    """Whether others keep the cores: over the last minute, and now too, since a run that has just ended is no other."""
    try:
        over_a_minute, _, _, now, _ = _LOAD.read_text().split()
    except (OSError, ValueError):  # not on every system
        return False
    cores = available_cores()
    return float(over_a_minute) > cores - 0.5 and int(now.partition("/")[0]) > cores


def _affinity() -> list[int]:
    try:
        return sorted(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return list(range(os.cpu_count() or 1))


def _cgroup_folders() -> Iterator[Path]:
    try:
        lines = _PROCESS_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        roots = [_CGROUPS / controllers, _CGROUPS / "cpu"] if controllers else [_CGROUPS]
        below = Path(path.lstrip("/"))
        # Every group above limits those below it. In a container the path may be the host's: the root is looked at too.
        yield from (root / folder for root in roots for folder in (below, *below.parents))


def _quota_v2(file: Path) -> list[float]:
    try:
        quota, period = file.read_text().split()
        return [] if quota == "max" else [int(quota) / int(period)]
    except (OSError, ValueError, ZeroDivisionError):
        return []


def _quota_v1(quota: Path, period: Path) -> list[float]:
    try:
        microseconds = int(quota.read_text())
        return [microseconds / int(period.read_text())] if microseconds > 0 else []
    except (OSError, ValueError, ZeroDivisionError):
        return []


def _busy_seconds() -> float:
    """What all processes have used of this process's cores since the machine started."""
    cores = psutil.cpu_times(percpu=True)
    used = [cores[index] for index in _affinity() if index < len(cores)]
    return float(sum(seconds for core in used for name, seconds in core._asdict().items() if name not in _IDLE))


def _own_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
