"""Child processes end with the process that started them, also when that is killed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 1.0


def end_with_parent(parent: int, *, ask: float = 0.0) -> None:
    """End this process when the process `parent`, which started it, is gone.

    On Linux the kernel sends the signal, however busy this process is; elsewhere, and to be sure, a thread looks.
    Call it first of all, before slow imports: a parent that has ended by then ends this process at once.

    Args:
        parent: the parent's process id.
        ask: seconds between SIGTERM, at which a run saves itself, and SIGKILL; 0: SIGKILL at once.
    """
    number = signal.SIGTERM if ask else signal.SIGKILL
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    threading.Thread(target=_watch, args=(parent, number, ask), name="parent", daemon=True).start()


def _watch(parent: int, number: signal.Signals, ask: float) -> None:
    _wait_until(lambda: os.getppid() != parent)
    os.kill(os.getpid(), number)
    time.sleep(ask)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(_POLL_SECONDS)
