"""The steps of a command that can take seconds: whoever watches learns what is done, how far it is, and for how long.

Code far below the terminal says ``with step("decoding", total=len(images)) as advance``; a progress display watches.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

Advance = Callable[[int], None]
TOLD_SECONDS = 2.0
"""Where there is no terminal for a bar, a step that took as long gets a line."""


class Watcher(Protocol):
    """What shows the steps."""

    def begin(self, what: str, total: int | None) -> TaskID:
        """A step begins, of so many parts where that is known."""
        ...

    def advance(self, step: TaskID, parts: int) -> None:
        """So many parts more are done."""
        ...

    def end(self, step: TaskID, what: str, seconds: float) -> None:
        """The step is over."""
        ...


_watchers: list[Watcher] = []


@contextlib.contextmanager
def step(what: str, total: int | None = None) -> Iterator[Advance]:
    """The block is a step of the command; call what it yields with the number of parts that are done since."""
    if not _watchers:
        yield lambda parts: None
        return
    watcher, began = _watchers[-1], time.monotonic()
    begun = watcher.begin(what, total)
    try:
        yield lambda parts: watcher.advance(begun, parts)
    finally:
        watcher.end(begun, what, time.monotonic() - began)


class Bars:
    """Bars on a terminal; elsewhere a line for each step that took long. Watches the steps within its block.

    Args:
        console: the terminal.
        shown: off: nothing is shown.
    """

    def __init__(self, console: Console, *, shown: bool = True) -> None:
        self._console, self._shown = console, shown
        self.live = shown and console.is_terminal
        columns = (
            SpinnerColumn(), TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        self.progress = Progress(*columns, console=console, disable=not self.live, transient=True)

    def __enter__(self) -> Bars:
        self.progress.start()
        _watchers.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _watchers.remove(self)
        self.progress.stop()

    def begin(self, what: str, total: int | None) -> TaskID:
        """See `Watcher`."""
        return self.progress.add_task(escape(what), total=total, note="")

    def advance(self, step: TaskID, parts: int) -> None:
        """See `Watcher`."""
        self.progress.update(step, advance=parts)

    def end(self, step: TaskID, what: str, seconds: float) -> None:
        """See `Watcher`."""
        self.progress.remove_task(step)
        if self._shown and not self.live and seconds >= TOLD_SECONDS:
            self._console.print(f"{escape(what)}: {seconds:.0f} s", highlight=False, soft_wrap=True)
