"""Stopping a run from outside: SIGTERM, SIGHUP (a closed terminal), SIGUSR1 (a scheduler's warning) and SIGINT.

Each interrupts the run, and the sweep too.

Left alone, Lightning turns a SIGTERM into a quiet exit with status 0, and the rest of a multirun is silently missing.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

ASKED = "{}: saving at the end of this epoch, then stopping; a second one stops at once"
GRACE_SECONDS = 5.0
"""How long a stopped fit may go on to the end of its epoch, where its state can be written."""

STOPPING = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT)


class Interrupted(BaseException):
    """A signal asked this process to stop. Not an `Exception`: nothing may take it for a failure of the run.

    `saved` says how much of the command's work is done and saved, where that is known.
    """

    def __init__(self, number: int, saved: str = "") -> None:
        self.number, self.saved = number, saved
        super().__init__(signal.Signals(number).name)

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int, str]]:
        return type(self), (self.number, self.saved)

    @property
    def exit_status(self) -> int:
        """What the process ends with, as a shell counts it: 143 for SIGTERM."""
        return 128 + self.number


class _Stop:
    """The signal that asked to stop, and whether a fit is on that may first finish its epoch."""

    requested: int | None = None
    deferred = False
    silent = False
    say: Callable[[str], None] | None = None
    taken: tuple[signal.Signals, ...] = ()


def requested() -> int | None:
    """The signal that asked to stop, if one did."""
    return _Stop.requested


def check() -> None:
    """Raise `Interrupted` if a stop was asked for: what a handler raises can get lost in code that swallows errors."""
    if _Stop.requested is not None:
        raise Interrupted(_Stop.requested)


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Within the block a stopping signal raises `Interrupted` in the main thread (in other threads: no effect)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (*STOPPING, signal.SIGALRM)}
    _Stop.requested, _Stop.silent = None, False
    # Under nohup SIGHUP is ignored, and stays so.
    _Stop.taken = tuple(number for number in STOPPING if before[number] is not signal.SIG_IGN)
    install()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def on_request(say: Callable[[str], None] | None) -> None:
    """Let a display of progress say that the command is about to stop, in the place of a line; None: a line again."""
    _Stop.say = say


def stop_main_thread() -> None:
    """Stop as by SIGTERM, from another thread that has found a reason; whoever is stopped says which."""
    _Stop.silent = True
    _thread.interrupt_main(signal.SIGTERM)


def install() -> None:
    """Take the signals (back, from a library that took them): the kernel knows one handler for each."""
    if threading.current_thread() is threading.main_thread():
        for number in _Stop.taken:
            signal.signal(number, _on_signal)
        signal.signal(signal.SIGALRM, _on_alarm)


@contextlib.contextmanager
def deferring() -> Iterator[None]:
    """Within the block the first signal only asks, for `GRACE_SECONDS`; whoever can stop well looks at `requested`."""
    _Stop.deferred = True
    try:
        yield
    finally:
        _Stop.deferred = False
        if threading.current_thread() is threading.main_thread():
            signal.setitimer(signal.ITIMER_REAL, 0.0)


def _on_signal(number: int, frame: FrameType | None) -> None:
    first = _Stop.requested is None
    _Stop.requested = number
    if not (first and _Stop.deferred):
        raise Interrupted(number)
    # print() is not safe in a handler: it may have interrupted another print. A closed terminal takes nothing.
    asked = ASKED.format(signal.Signals(number).name)
    with contextlib.suppress(OSError):
        if _Stop.say is not None:
            _Stop.say(asked)
        elif not _Stop.silent:
            os.write(2, f"{asked}\n".encode())
    signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)


def _on_alarm(number: int, frame: FrameType | None) -> None:
    check()
