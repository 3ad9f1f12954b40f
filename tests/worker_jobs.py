"""Jobs for worker processes that need nothing of what a run imports."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from thawline.sweeps.remote import JobOutcome


@dataclass(frozen=True)
class Job:
    """Does what its first override says: ``return``, ``fail``, ``kill`` the worker, ``exit`` it, or tell ``pid``."""

    def __call__(self, overrides: Sequence[str], number: int) -> JobOutcome:
        print(f"job {number}: {overrides[0]}")
        match overrides[0]:
            case "fail":
                return JobOutcome(error=f"job {number} failed")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(7)
            case "pid":
                return JobOutcome(os.getpid())
            case name if name.isupper():
                return JobOutcome(os.environ.get(name))
        return JobOutcome(number)
