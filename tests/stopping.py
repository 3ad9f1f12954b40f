"""A schedule that stops its own process at a chosen step: ``tests.stopping.StopAt``."""

from __future__ import annotations

import os
import signal
from typing import ClassVar

from thawline.specs import Spec

STOP_AT = "THAWLINE_TEST_STOP_AT"
"""``KILL:7`` sends SIGKILL after the seventh optimizer step of the process, ``RAISE:7`` raises an error."""


class StopAt(Spec):
    """A learning rate that falls with the step, so that a step done twice or left out changes the weights."""

    done: ClassVar[int] = 0
    asked: ClassVar[int] = 0

    def factor(self, step: int, steps: int) -> float:
        """See `thawline.schedulers.Scheduler`."""
        how, _, number = os.environ.get(STOP_AT, "").partition(":")
        # Every parameter group asks; and all ask for step 0, before the first step.
        new = step not in (0, StopAt.asked)
        StopAt.done, StopAt.asked = StopAt.done + new, step
        if new and number and StopAt.done == int(number):
            if how == "RAISE":
                raise RuntimeError("told to fail")
            os.kill(os.getpid(), signal.Signals[f"SIG{how}"])
        return 1.0 - 0.9 * step / steps
